"""Inputs that travel once, to a real Slurm over a real SSH server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from batchlib import Application, State, events
from batchlib.backends.slurm import SlurmBackend
from batchlib.errors import Kind
from tests.life import ended, settle
from tests.live.conftest import over_ssh
from tests.servers.sshd import Sshd
from tests.unit.test_cache import CLIENT, Traffic

MIB = 1 << 20


def common_input(directory: Path, size: int) -> Path:
    path = directory / "common"
    path.write_bytes(os.urandom(size))
    return path


def test_jobs_share_an_input_and_can_not_change_it(
    cluster: SlurmBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = common_input(tmp_path, 6 * MIB)
    command = "cksum common; echo mine >> common; stat -c '%h %a' common"
    apps = [Application(["sh", "-c", command], inputs=[path]) for _ in range(20)]
    _ = cluster.spool
    traffic = Traffic(cluster.transport.carrier, monkeypatch)
    before = cluster.transport.round_trips
    assert not any(cluster.submit_jobs(apps).values())
    assert cluster.transport.round_trips == before + 2
    assert 6 * MIB < traffic.bytes < 6.5 * MIB
    settle(cluster, apps, ended)
    expected = subprocess.run(["cksum", path.name], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for number, app in enumerate(apps):
        assert app.execution.state is State.DONE
        cluster.get_results(app, tmp_path / str(number))
        assert (tmp_path / f"{number}/stdout.txt").read_text() == f"{expected}21 444\n"
        assert "ermission denied" in (tmp_path / f"{number}/stderr.txt").read_text()
    sent = traffic.bytes
    again = Application(["cksum", "common"], inputs=[path])
    cluster.submit_job(again)
    assert traffic.bytes < sent + MIB
    settle(cluster, [again], ended)
    cluster.get_results(again, tmp_path / "again")
    assert (tmp_path / "again/stdout.txt").read_text() == expected


@pytest.mark.parametrize("how", ["rm -rf cache", "eviction"])
def test_a_queued_job_keeps_its_input_when_the_cache_is_emptied(
    cluster: SlurmBackend, tmp_path: Path, how: str
) -> None:
    path = common_input(tmp_path, 2 * MIB)
    held = [Application(["cksum", "common"], inputs=[path], hold=True) for _ in range(2)]
    assert not any(cluster.submit_jobs(held).values())
    if how == "eviction":
        # a cache of no size at all keeps what has to be kept, and nothing else
        cluster.settings = attrs.evolve(cluster.settings, cache_quota="1 B")
        other = tmp_path / "other"
        other.write_bytes(os.urandom(MIB))
        cluster.submit_job(last := Application(["true"], inputs=[other]))
        settle(cluster, [last], ended)
        assert len(kept(cluster)) == 1
        cluster.cancel_jobs(held[1:])
        settle(cluster, held[1:], ended)
        cluster.free_jobs(held[1:])
        assert len(kept(cluster)) == 1
    else:
        cluster.ask(f"rm -rf {cluster.spool}/cache")
    cluster.release_jobs(held[:1])
    settle(cluster, held[:1], ended)
    cluster.get_results(held[0], tmp_path / "out")
    expected = subprocess.run(["cksum", "common"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "out/stdout.txt").read_text() == expected
    if how == "eviction":
        cluster.free_jobs(held[:1])
        third = tmp_path / "third"
        third.write_bytes(os.urandom(MIB))
        cluster.submit_job(last := Application(["true"], inputs=[third]))
        settle(cluster, [last], ended)
        assert kept(cluster) == []
    else:
        cluster.cancel_jobs(held[1:])


def kept(cluster: SlurmBackend) -> list[str]:
    return cluster.ask(f"find {cluster.spool}/cache -type f").out.split()


def test_a_client_that_is_killed_in_the_middle_of_the_upload_spoils_nothing(
    cluster: SlurmBackend, sshd: Sshd, tmp_path: Path
) -> None:
    path = common_input(tmp_path, 8 * MIB)
    keys = over_ssh(sshd, spooldir=cluster.settings.spooldir, cache_links=True)
    program = CLIENT.replace("spooldir=sys.argv[1], sbatch=sys.argv[2], cache_links=True", f"**{keys!r}")
    assert program != CLIENT
    command = [sys.executable, "-c", program, "", "", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "in the middle\n"
        client.kill()
    assert kept(cluster) == []
    app = Application(["cksum", "common"], inputs=[path])
    cluster.submit_job(app)
    settle(cluster, [app], ended)
    cluster.get_results(app, tmp_path / "out")
    expected = subprocess.run(["cksum", "common"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "out/stdout.txt").read_text() == expected
    assert len(kept(cluster)) == 1


def test_a_big_input_goes_on_where_it_was_interrupted(
    cluster: SlurmBackend, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 64 * MIB
    app = Application(["cksum", "common"], inputs=[common_input(tmp_path, size)])
    _ = cluster.spool
    traffic = Traffic(cluster.transport.carrier, monkeypatch)
    before = set(cluster.transport.listdir(cluster.spool))

    def cut(sender: object, *, done: int, **_more: object) -> None:
        if done > size * 0.75:
            events.transfer_advanced.disconnect(cut)
            sshd.drop()

    events.transfer_advanced.connect(cut)
    answer = cluster.submit_jobs([app])[app]
    assert answer is not None
    assert answer.kind is not Kind.PERMANENT
    assert app.execution.state is State.NEW
    sent = traffic.bytes
    cluster.submit_job(app)
    assert traffic.bytes - sent < size * 0.9, "what had arrived is not sent again"
    settle(cluster, [app], ended)
    cluster.get_results(app, tmp_path / "out")
    expected = subprocess.run(["cksum", "common"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "out/stdout.txt").read_text() == expected
    cluster.free(app)
    assert set(cluster.transport.listdir(cluster.spool)) - before <= {"cache", ".incoming"}
    assert cluster.transport.run(f"ls -A {cluster.spool}/.incoming").out == ""
