"""The commands against a real Slurm over a real SSH server, as a user with a five-line configuration types them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import User, poll
from tests.live.conftest import over_ssh
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd


def configure(user: User, sshd: Sshd, **keys: object) -> None:
    lines = "".join(f"{key} = {value}\n" for key, value in over_ssh(sshd, **keys).items())
    user.config.write_text(f"[resource/cluster]\ntype = slurm\n{lines}")


@pytest.fixture
def hpc(tmp_path: Path, sshd: Sshd, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """Somebody whose cluster is behind an SSH server."""
    user = User(tmp_path)
    configure(user, sshd, spooldir=f"$HOME/spool-{os.getpid()}")
    user.take_over(monkeypatch)
    yield user
    user.end()
    slurm.cancel_all()


def spool_files(slurm: SlurmCluster) -> list[str]:
    listed = slurm.as_user(f"cd ~/spool-{os.getpid()} && find . -mindepth 1").stdout
    return listed.split()


def test_how_jobs_end_is_told_apart(hpc: User, slurm: SlurmCluster) -> None:
    commands: dict[str, list[str]] = {
        "three": ["--", "sh", "-c", "exit 3"],
        "killed": ["--", "sh", "-c", "kill -9 $$"],
        "too long": ["-w", "1 s", "--", "sleep", "600"],
        "pending": ["--hold", "--", "true"],
        "running": ["--", "sleep", "600"],
    }
    expected = {
        "three": ("FAILED", "exited", 3, None),
        "killed": ("FAILED", "signalled", None, 9),
        "too long": ("FAILED", "walltime", None, 15),
        "pending": ("CANCELLED", "cancelled-by-user", None, None),
        "running": ("CANCELLED", "cancelled-by-user", None, 15),
    }
    if slurm.memory_limits:
        greedy = "x = bytearray(400_000_000); import time; time.sleep(60)"
        commands["greedy"] = ["--memory", "50 MB", "--", "python3", "-c", greedy]
        expected["greedy"] = ("FAILED", "memory", None, 9)
    ids = {name: hpc.submit(*arguments) for name, arguments in commands.items()}
    hpc.wait_for(ids["running"], "RUNNING")
    hpc.wait_for(ids["pending"], "HELD")
    killed = hpc.run("gkill", ids["pending"], ids["running"])
    assert killed.status == 0, killed.err
    deadline = time.monotonic() + 180
    while True:
        tasks = hpc.run("gstat", "--json").tasks
        if all(task["state"] in ("DONE", "FAILED", "CANCELLED") for task in tasks.values()):
            break
        assert time.monotonic() < deadline, tasks
        time.sleep(1)
    found = {name: tasks[task] for name, task in ids.items()}
    assert {
        name: (task["state"], task["reason"], task["exitcode"], task["signal"]) for name, task in found.items()
    } == expected
    assert hpc.run("gclean", "-f", "--all").status == 0
    assert spool_files(slurm) == []


def test_life_of_a_job(hpc: User, slurm: SlurmCluster) -> None:
    (hpc.work / "data.txt").write_text("given\n")
    script = "cat data.txt; for i in 1 2 3; do echo line $i; sleep 1; done; cp data.txt result.txt"
    said = hpc.run("gsub", "--json", "-N", "life", "-i", "data.txt", "-o", "result.txt", "--", "sh", "-c", script)
    assert said.status == 0, said.err
    [task] = said.document["tasks"]
    assert task["name"] == "life"
    assert task["resource"] == "cluster"
    followed = hpc.run("gtail", "-f", task["id"])
    assert followed.out == "given\nline 1\nline 2\nline 3\n"
    assert hpc.run("gwait", task["id"]).status == 0
    assert (hpc.work / task["id"] / "result.txt").read_text() == "given\n"
    assert hpc.run("gclean", task["id"]).status == 0
    assert spool_files(slurm) == []
    assert hpc.run("gstat", "--json").tasks == {}


def test_doctor_finds_nothing_wrong(hpc: User) -> None:
    said = hpc.run("batchlib", "doctor", "cluster")
    assert said.status == 0, said.out + said.err
    assert "wrong" not in said.out


def test_servers(hpc: User) -> None:
    [server] = hpc.run("gservers", "--json").document["resources"]
    assert server["name"] == "cluster"
    assert server["cores"] == 20


class TestBadInput:
    """One clear sentence each, exit status not 0, nothing left behind."""

    def fails(self, hpc: User, *sentences: str, arguments: tuple[str, ...] = ("--", "true")) -> None:
        said = hpc.run("gsub", *arguments)
        assert said.status != 0
        assert "Traceback" not in said.err
        for sentence in sentences:
            assert sentence in said.err
        assert hpc.run("gstat", "-n", "--json").tasks == {}

    def test_refused_partition(self, hpc: User, slurm: SlurmCluster) -> None:
        self.fails(hpc, "Invalid partition name specified", arguments=("-q", "nowhere", "--", "true"))
        assert spool_files(slurm) == []

    def test_wrong_key(self, hpc: User, sshd: Sshd, tmp_path: Path) -> None:
        key = tmp_path / "other_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        configure(hpc, sshd, keyfile=key)
        self.fails(hpc, "publickey")

    def test_unknown_host_key(self, hpc: User, sshd: Sshd, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text("")
        configure(hpc, sshd, known_hosts=tmp_path / "empty")
        self.fails(hpc, "SHA256:", "accept-new")

    def test_changed_host_key(self, hpc: User, sshd: Sshd, tmp_path: Path) -> None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
        public = " ".join((tmp_path / "key.pub").read_text().split()[:2])
        (tmp_path / "wrong").write_text(f"[{sshd.host}]:{sshd.port} {public}\n")
        configure(hpc, sshd, known_hosts=tmp_path / "wrong")
        self.fails(hpc, str(tmp_path / "wrong"), "SHA256:")

    def test_port_where_nobody_listens(self, hpc: User, sshd: Sshd) -> None:
        configure(hpc, sshd, port=1)
        said = hpc.run("gsub", "--", "true")
        assert "127.0.0.1" in said.err
        assert "Traceback" not in said.err

    def test_spool_directory_that_can_not_be_made(self, hpc: User, sshd: Sshd) -> None:
        configure(hpc, sshd, spooldir="/proc/nowhere")
        self.fails(hpc, "/proc/nowhere")


def test_quick_start_on_a_fresh_clone(tmp_path: Path) -> None:
    top = Path(__file__).parents[2]
    clone = tmp_path / "clone"
    files = subprocess.run(["git", "-C", top, "ls-files", "-z"], check=True, capture_output=True).stdout
    clone.mkdir()
    with subprocess.Popen(["tar", "-C", top, "--null", "-T", "-", "-cf", "-"], stdin=-1, stdout=-1) as tar:
        tar.stdin.write(files)  # type: ignore[union-attr]
        tar.stdin.close()  # type: ignore[union-attr]
        subprocess.run(["tar", "-C", clone, "-xf", "-"], stdin=tar.stdout, check=True)
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HOME"] = str(tmp_path)
    for _ in range(2):
        done = subprocess.run(
            [clone / "etc/quickstart"], cwd="/", env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "8 tasks: 8 DONE" in done.stdout
        assert "pi is about 3.14" in done.stdout
    assert poll(lambda: (clone / "quickstart/pi-8/estimate.csv").exists())
