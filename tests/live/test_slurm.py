"""The Slurm backend against a real Slurm, over a real SSH server."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs
import pytest

from batchlib import Application, Reason, State
from batchlib.backends.base import Outcome
from batchlib.backends.slurm import SlurmBackend
from batchlib.errors import (
    CommandNotFound,
    ConnectionLost,
    DataStagingError,
    InvalidOperation,
    OperationRefused,
    SpoolDirectoryError,
    SubmissionRefused,
    SystemUnavailable,
)
from tests.life import RoundTrips, check_that_everything_arrives, ended, outcome, round_trips, settle
from tests.live.conftest import over_ssh
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd

ODD = ["a b", "q'\"$HOME`id`", "new\nline", "ünï ☃", "-x", "", "\\n", "*", "!!", " lead", "#c"]


def test_arguments_environment_and_inputs_arrive_byte_for_byte(cluster: SlurmBackend, tmp_path: Path) -> None:
    check_that_everything_arrives(cluster, tmp_path, ODD)


def test_ends_are_told_apart(cluster: SlurmBackend, slurm: SlurmCluster) -> None:
    ends = {
        "ok": (Application(["true"]), (State.DONE, Reason.EXITED, 0, None)),
        "three": (Application(["sh", "-c", "exit 3"]), (State.FAILED, Reason.EXITED, 3, None)),
        "high code": (Application(["sh", "-c", "exit 137"]), (State.FAILED, Reason.EXITED, 137, None)),
        "killed": (Application(["sh", "-c", "kill -9 $$"]), (State.FAILED, Reason.SIGNALLED, None, 9)),
        "crash": (Application(["sh", "-c", "kill -11 $$"]), (State.FAILED, Reason.SIGNALLED, None, 11)),
        "missing": (Application(["no-such-program"]), (State.FAILED, Reason.EXITED, 127, None)),
    }
    if slurm.memory_limits:
        greedy = Application(
            ["python3", "-c", "x = bytearray(400_000_000); import time; time.sleep(60)"], requested_memory="50 MB"
        )
        ends["memory"] = (greedy, (State.FAILED, Reason.MEMORY, None, 9))
    apps = [app for app, _ in ends.values()]
    assert not any(cluster.submit_jobs(apps).values())
    settle(cluster, apps, ended)
    assert {name: outcome(app) for name, (app, _) in ends.items()} == {name: end for name, (_, end) in ends.items()}


def test_walltime_is_a_reason_of_its_own(cluster: SlurmBackend) -> None:
    app = Application(["sleep", "600"], requested_walltime="1 s")
    cluster.submit_job(app)
    settle(cluster, [app], ended, patience=150)
    assert app.execution.state is State.FAILED
    assert app.execution.reason is Reason.WALLTIME
    assert app.execution.signal == 15


def test_cancel_while_pending_and_while_running(cluster: SlurmBackend, slurm: SlurmCluster) -> None:
    running, pending = Application(["sleep", "600"]), Application(["sleep", "600"], hold=True)
    cluster.submit_jobs([running, pending])
    settle(cluster, [running, pending], lambda app: app.execution.state in (State.RUNNING, State.HELD))
    assert pending.execution.state is State.HELD
    assert {answer.outcome for answer in cluster.cancel_jobs([running, pending]).values()} == {Outcome.DONE}
    settle(cluster, [running, pending], ended)
    for app in (running, pending):
        assert app.execution.state is State.CANCELLED
        assert app.execution.reason is Reason.CANCELLED_BY_USER
    assert cluster.cancel_jobs([running])[running].outcome is Outcome.ALREADY_ENDED


def test_somebody_elses_job_can_not_be_cancelled(cluster: SlurmBackend, slurm: SlurmCluster) -> None:
    # root owns this one
    own = SlurmBackend("root", spooldir=str(slurm.directory / "root-spool"), setup=_exports(slurm))
    app = Application(["sleep", "600"])
    own.submit_job(app)
    try:
        stranger = Application(["sleep", "600"])
        stranger.execution = app.execution.__class__(
            state=State.RUNNING, jobid=app.execution.jobid, token=app.execution.token
        )
        with pytest.raises(OperationRefused, match="denied"):
            cluster.cancel_job(stranger)
        assert stranger.execution.state is State.RUNNING
    finally:
        own.cancel_job(app)
        settle(own, [app], ended)
        own.free(app)
        own.close()


def _exports(slurm: SlurmCluster) -> str:
    return "\n".join(f"export {name}='{value}'" for name, value in slurm.env.items())


@pytest.mark.parametrize("count", [1, 100])
def test_hundred_jobs_cost_no_more_round_trips_than_one(cluster: SlurmBackend, tmp_path: Path, count: int) -> None:
    trips = round_trips(cluster, tmp_path, count)
    # a second look is only for what had ended and left no status behind that the first one saw
    assert trips.look in (1, 2)
    assert attrs.evolve(trips, look=1) == RoundTrips(submit=1, look=1, fetch=1, free=1)


def test_output_can_be_read_while_the_job_runs(cluster: SlurmBackend, tmp_path: Path) -> None:
    app = Application(["sh", "-c", "echo first; echo more; while [ ! -f stop ]; do sleep 0.1; done"])
    cluster.submit_job(app)
    settle(cluster, [app], lambda app: app.execution.state is State.RUNNING)
    deadline = time.monotonic() + 20
    while cluster.read_output(app, "stdout.txt") != b"first\nmore\n":
        assert time.monotonic() < deadline
    assert cluster.read_output(app, "stdout.txt", -5) == b"more\n"
    assert cluster.read_output(app, "stdout.txt", 2, 3) == b"rst"
    cluster.peek(app, "stdout.txt", tmp_path / "part", offset=6)
    assert (tmp_path / "part").read_bytes() == b"more\n"
    with pytest.raises(InvalidOperation):
        cluster.free(app)
    cluster.transport.write(f"{cluster.spool}/{app.execution.token}/stop", b"")
    settle(cluster, [app], ended)
    assert app.execution.state is State.DONE


def test_free_leaves_nothing(cluster: SlurmBackend) -> None:
    app = Application(["true"])
    cluster.submit_job(app)
    settle(cluster, [app], ended)
    assert app.execution.token in cluster.transport.listdir(cluster.spool)
    cluster.free(app)
    cluster.free(app)
    assert app.execution.token not in cluster.transport.listdir(cluster.spool)


def test_accounting_in_common_units(cluster: SlurmBackend) -> None:
    app = Application(["python3", "-c", "x = bytearray(50_000_000); import time; time.sleep(2)"], requested_cores=2)
    cluster.submit_job(app)
    settle(cluster, [app], ended)
    used = app.execution.accounting
    assert used.cores == 2
    assert used.hosts in (("node01",), ("node02",))
    assert used.wall_time is not None
    assert 2 <= used.wall_time.seconds < 30
    assert used.max_memory is not None
    assert 50_000_000 < used.max_memory.bytes < 200_000_000
    assert used.submitted is not None
    assert used.started is not None
    assert used.ended is not None
    assert used.submitted <= used.started < used.ended


def test_prologue_and_epilogue(sshd: Sshd, slurm: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "before.sh").write_text("export FROM_FILE=yes\n")
    backend = SlurmBackend(
        "cluster",
        **over_ssh(
            sshd,
            prologue=str(tmp_path / "before.sh"),
            prologue_content="export FROM_TEXT=yes; cd /",
            blast_prologue_content="export FROM_APPLICATION=yes",
            epilogue_content="echo after > after.txt; exit 77",
        ),
    )
    app = Application(
        ["sh", "-c", "echo $FROM_FILE $FROM_TEXT $FROM_APPLICATION; exit 5"],
        application_name="blast",
        outputs=["after.txt"],
    )
    with_exit = SlurmBackend("cluster", **over_ssh(sshd, prologue_content="exit 4"))
    stopped = Application(["true"])
    backend.submit_job(app)
    with_exit.submit_job(stopped)
    settle(backend, [app], ended)
    settle(with_exit, [stopped], ended)
    backend.get_results(app, tmp_path / "out")
    assert (tmp_path / "out/stdout.txt").read_text() == "yes yes yes\n"
    assert (tmp_path / "out/after.txt").read_text() == "after\n"
    assert outcome(app) == (State.FAILED, Reason.EXITED, 5, None)
    assert outcome(stopped) == (State.FAILED, Reason.START_FAILURE, 4, None)
    backend.close()
    with_exit.close()


def test_without_accounting(slurm_without_accounting: SlurmCluster) -> None:
    slurm = slurm_without_accounting
    backend = SlurmBackend("bare", spooldir=str(slurm.directory / "root-spool"), setup=_exports(slurm))
    apps = [
        Application(["true"]),
        Application(["sh", "-c", "exit 3"]),
        Application(["sh", "-c", "kill -9 $$"]),
        Application(["sleep", "600"]),
    ]
    assert not any(backend.submit_jobs(apps).values())
    settle(backend, apps[3:], lambda app: app.execution.state is State.RUNNING)
    backend.cancel_job(apps[3])
    settle(backend, apps, ended)
    assert [outcome(app)[:2] for app in apps] == [
        (State.DONE, Reason.EXITED),
        (State.FAILED, Reason.EXITED),
        (State.FAILED, Reason.SIGNALLED),
        (State.CANCELLED, Reason.CANCELLED_BY_USER),
    ]
    assert apps[1].execution.exitcode == 3
    backend.free_jobs(apps)
    backend.close()


class TestBadInput:
    def test_refused_partition_leaves_nothing(self, cluster: SlurmBackend) -> None:
        good, bad = Application(["true"]), Application(["true"], queue="no-such-partition")
        before = set(cluster.transport.listdir(cluster.spool))
        answers = cluster.submit_jobs([bad, good])
        assert isinstance(answers[bad], SubmissionRefused)
        assert "Invalid partition name specified" in str(answers[bad])
        assert answers[good] is None
        assert bad.execution.state is State.NEW
        settle(cluster, [good], ended)
        cluster.free(good)
        assert set(cluster.transport.listdir(cluster.spool)) == before

    def test_missing_input_spoils_only_its_own_job(self, cluster: SlurmBackend, tmp_path: Path) -> None:
        good, bad = Application(["true"]), Application(["true"], inputs=[str(tmp_path / "nothing")])
        answers = cluster.submit_jobs([bad, good])
        assert isinstance(answers[bad], DataStagingError)
        assert "nothing does not exist" in str(answers[bad])
        assert answers[good] is None
        cluster.cancel_job(good)

    def test_directory_with_a_link_out_spoils_only_its_own_job(self, cluster: SlurmBackend, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        os.symlink("/etc/passwd", tmp_path / "tree/link")
        good, bad = Application(["true"]), Application(["true"], inputs=[str(tmp_path / "tree")])
        answers = cluster.submit_jobs([good, bad])
        assert isinstance(answers[bad], DataStagingError)
        assert "points outside" in str(answers[bad])
        assert answers[good] is None
        cluster.cancel_job(good)

    @pytest.mark.parametrize("spooldir", ["/proc/spool", "/etc/hostname/spool", "/root/spool"])
    def test_spool_directory_that_can_not_be_used(self, sshd: Sshd, slurm: SlurmCluster, spooldir: str) -> None:
        backend = SlurmBackend("cluster", **over_ssh(sshd, spooldir=spooldir))
        with pytest.raises(SpoolDirectoryError, match="can't be used"):
            backend.submit_job(Application(["true"]))
        backend.close()

    def test_missing_sbatch(self, sshd: Sshd, slurm: SlurmCluster) -> None:
        backend = SlurmBackend("cluster", **over_ssh(sshd, sbatch="/opt/nowhere/sbatch"))
        app = Application(["true"])
        with pytest.raises(CommandNotFound, match=r"/opt/nowhere/sbatch.*is not found.*give its path"):
            backend.submit_job(app)
        assert app.execution.state is State.NEW
        backend.close()

    def test_full_spool_directory(self, sshd: Sshd, slurm: SlurmCluster, full_disk: Path, tmp_path: Path) -> None:
        backend = SlurmBackend("cluster", **over_ssh(sshd, spooldir=str(full_disk / "spool")))
        (tmp_path / "big").write_bytes(os.urandom(3_000_000))
        app = Application(["true"], inputs=[str(tmp_path / "big")])
        with pytest.raises(DataStagingError, match="its file system is full"):
            backend.submit_job(app)
        assert backend.transport.run(f"find {backend.spool} -type f").out == ""
        backend.close()


@pytest.fixture
def full_disk(tmp_path_factory: pytest.TempPathFactory, slurm: SlurmCluster) -> object:
    """A file system of 1 MiB."""
    import subprocess

    path = slurm.directory / "full-disk"
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


class TestFaults:
    def test_controller_that_hangs_is_unclear_and_found_again(self, cluster: SlurmBackend, slurm: SlurmCluster) -> None:
        app = Application(["true"])
        cluster.spool  # noqa: B018 - connect before the clock runs
        with slurm.daemon("slurmctld").paused():
            answer = cluster.submit_jobs([app])[app]
            assert answer is not None
            assert answer.kind.value == "unclear"
            assert app.execution.state is State.SUBMITTING
        deadline = time.monotonic() + 30
        while app.execution.state is State.SUBMITTING:
            cluster.recover_jobs([app])
            assert time.monotonic() < deadline
        settle(cluster, [app], ended)
        assert app.execution.state is State.DONE
        names = slurm.as_user(f"squeue -h -t all -o %j | grep -c {app.execution.token}").stdout
        assert names.strip() == "1"

    def test_controller_that_is_down_changes_nothing(self, cluster: SlurmBackend, slurm: SlurmCluster) -> None:
        app = Application(["sleep", "600"])
        cluster.submit_job(app)
        settle(cluster, [app], lambda app: app.execution.state is State.RUNNING)
        late = Application(["true"])
        with slurm.daemon("slurmctld").stopped():
            assert isinstance(cluster.update_job_states([app])[app], SystemUnavailable)
            assert app.execution.state is State.RUNNING
            assert cluster.cancel_jobs([app])[app].outcome is Outcome.UNKNOWN
            answer = cluster.submit_jobs([late])[late]
            assert isinstance(answer, SystemUnavailable)
            assert late.execution.state is State.NEW
        settle(cluster, [app], lambda app: app.execution.state is State.RUNNING)
        cluster.cancel_job(app)
        settle(cluster, [app], ended)
        cluster.submit_job(late)
        settle(cluster, [late], ended)
        assert late.execution.state is State.DONE

    def test_connection_cut_between_polls_is_made_again(self, cluster: SlurmBackend, sshd: Sshd) -> None:
        app = Application(["sleep", "3"])
        cluster.submit_job(app)
        cluster.update_job_states([app])
        sshd.drop()
        # on a busy machine it is noticed only in the middle of the next look, which then tells nothing
        noticed = cluster.update_job_states([app])[app]
        assert noticed is None or isinstance(noticed, ConnectionLost)
        settle(cluster, [app], ended)
        assert app.execution.state is State.DONE
