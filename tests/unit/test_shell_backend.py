"""Plain processes on this machine: the whole life of a job, and all the ways in which it may end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.application import EVERYTHING, Application
from batchlib.backends import shell
from batchlib.backends.base import Outcome
from batchlib.backends.shell import ShellBackend
from batchlib.errors import (
    BatchlibError,
    CapacityReached,
    InvalidOperation,
    InvalidValue,
    Kind,
    RemoteFileError,
    SubmissionRefused,
    SystemUnavailable,
)
from batchlib.run import Reason, State
from batchlib.transport.shell import Completed


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """The spool directory of the test."""
    return tmp_path / "spool"


@pytest.fixture
def backend(spool: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShellBackend]:
    """This machine; what a test leaves running is ended."""
    monkeypatch.setattr(shell, "_GRACE", 1)
    made = ShellBackend("here", spooldir=str(spool), max_cores=8, accounting_delay=1)
    yield made
    for process in marked(spool):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    made.close()


def marked(spool: Path) -> list[int]:
    """Processes of the jobs of this spool directory."""
    tokens = [f"BATCHLIB_TOKEN={path.name}".encode() for path in spool.glob("b*")]
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = environ.read_bytes()
        except OSError:
            continue
        if any(token in content for token in tokens):
            found.append(int(environ.parent.name))
    return found


def until(condition: Callable[[], object], what: str, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def settle(backend: ShellBackend, *apps: Application, state: State | None = None) -> None:
    """Ask for the state of jobs until they have ended, or are in a state."""

    def reached() -> bool:
        assert not any(backend.update_job_states(apps).values())
        return all(app.execution.state is state if state else app.execution.state.final for app in apps)

    until(reached, f"{[(app, app.execution) for app in apps]} never got there")


def outcome(app: Application) -> tuple[State, Reason | None, int | None, int | None]:
    run = app.execution
    return run.state, run.reason, run.exitcode, run.signal


def wait_for_end(app: Application, spool: Path) -> Path:
    """Wait until nothing of a job runs any more, without asking the backend; give what it wrote at its end."""
    ended = spool / (app.execution.token or "") / ".batchlib/ended"
    leader = int((app.execution.jobid or "").partition(".")[0])
    until(lambda: ended.exists() and not alive([leader]), "the job did not end")
    return ended


def sh(text: str, **keys: object) -> Application:
    return Application(["/bin/sh", "-c", text], **keys)  # type: ignore[arg-type]


def errors(answers: dict[Application, BatchlibError | None]) -> list[type[BatchlibError] | None]:
    return [None if error is None else type(error) for error in answers.values()]


# --- life ---------------------------------------------------------------------------------------------------------


def test_from_submission_to_removal(backend: ShellBackend, spool: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("input")
    app = sh(
        "cat in.txt > out.txt; mkdir d; echo x > d/x; echo said; echo complained >&2; "
        "while [ ! -e go ]; do sleep 0.02; done",
        inputs=[tmp_path / "in.txt"],
        outputs=["out.txt", "./d/", ("missing", "m")],
        stderr="logs/err",
    )
    backend.submit_job(app)
    run = app.execution
    assert run.state is State.QUEUED
    assert run.resource == "here"
    assert run.jobid is not None
    settle(backend, app, state=State.RUNNING)
    assert backend.get_resource_status().own_running == 1
    assert backend.get_resource_status().free_cores == 7
    with pytest.raises(InvalidOperation):
        backend.free(app)
    box = spool / (run.token or "")
    until(lambda: (box / "logs/err").exists() and (box / "logs/err").read_text(), "nothing was printed")
    assert backend.read_output(app, "stdout.txt", -3) == b"id\n"
    (box / "go").touch()
    settle(backend, app)
    assert outcome(app) == (State.DONE, Reason.EXITED, 0, None)
    assert run.accounting.hosts == (os.uname().nodename,)
    assert run.accounting.wall_time is not None
    collected = backend.get_results(app, tmp_path / "results")
    assert collected.missing == ("missing",)
    assert (tmp_path / "results/out.txt").read_text() == "input"
    assert (tmp_path / "results/d/x").read_text() == "x\n"
    assert (tmp_path / "results/stdout.txt").read_text() == "said\n"
    assert (tmp_path / "results/logs/err").read_text() == "complained\n"
    backend.free(app)
    backend.free(app)
    assert not box.exists()
    assert list(spool.glob("b*")) == []
    assert list((spool / ".running").iterdir()) == []
    with pytest.raises(InvalidOperation):
        backend.read_output(app, "stdout.txt")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exit 0", (State.DONE, Reason.EXITED, 0, None)),
        ("exit 3", (State.FAILED, Reason.EXITED, 3, None)),
        ("exit 137", (State.FAILED, Reason.EXITED, 137, None)),
        ("exit 255", (State.FAILED, Reason.EXITED, 255, None)),
        ("kill -9 $$", (State.FAILED, Reason.SIGNALLED, None, 9)),
        ("kill -TERM $$", (State.FAILED, Reason.SIGNALLED, None, 15)),
        ("ulimit -c 0; kill -SEGV $$", (State.FAILED, Reason.SIGNALLED, None, 11)),
    ],
)
def test_how_jobs_end(backend: ShellBackend, text: str, expected: tuple[object, ...]) -> None:
    app = sh(text)
    backend.submit_job(app)
    settle(backend, app)
    assert outcome(app) == expected


def test_jobs_whose_command_can_not_be_started(backend: ShellBackend) -> None:
    apps = [Application("no-such-program"), Application("/etc/passwd")]
    assert errors(backend.submit_jobs(apps)) == [None, None]
    settle(backend, *apps)
    assert [app.execution.exitcode for app in apps] == [127, 126]


def test_many_jobs_are_one_submission_and_one_poll(backend: ShellBackend) -> None:
    apps = [sh(f"exit {number}") for number in range(8)]
    _ = backend.spool
    before = backend.transport.round_trips
    assert errors(backend.submit_jobs(apps)) == [None] * 8
    assert backend.transport.round_trips == before + 1
    settle(backend, *apps)
    assert [app.execution.exitcode for app in apps] == list(range(8))
    before = backend.transport.round_trips
    assert errors(backend.free_jobs(apps)) == [None] * 8
    assert backend.transport.round_trips == before + 1


def test_big_outputs_come_beside_the_archive(backend: ShellBackend, tmp_path: Path) -> None:
    """The others come in one round trip whether or not there are big ones."""
    small = [sh("echo small > out", outputs=["out"]) for _ in range(3)]
    big = sh("head -c 9000001 /dev/zero | tr '\\0' x > out; echo small > other", outputs=["out", "other", "missing"])
    assert errors(backend.submit_jobs([*small, big])) == [None] * 4
    settle(backend, *small, big)
    before = backend.transport.round_trips
    backend.collect_jobs({app: tmp_path / f"out{number}" for number, app in enumerate(small)})
    assert backend.transport.round_trips == before + 1
    found = backend.collect_jobs({big: tmp_path / "big"})[big]
    assert (found.files, found.missing) == (("other", "out", "stderr.txt", "stdout.txt"), ("missing",))
    assert (tmp_path / "big" / "out").read_bytes() == b"x" * 9_000_001
    assert (tmp_path / "big" / "other").read_text() == "small\n"
    everything = sh("mkdir below; head -c 9000001 /dev/zero > below/zeros", outputs=[EVERYTHING])
    assert errors(backend.submit_jobs([everything])) == [None]
    settle(backend, everything)
    backend.collect_jobs({everything: tmp_path / "everything"})
    assert (tmp_path / "everything" / "below" / "zeros").read_bytes() == bytes(9_000_001)


def test_one_bad_job_does_not_spoil_its_neighbours(backend: ShellBackend, tmp_path: Path, spool: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/pipe")
    good, missing, odd, last = sh("exit 4"), sh(":", inputs=["none"]), sh(":", inputs=[tmp_path / "tree"]), sh("exit 5")
    found = backend.submit_jobs([good, missing, odd, last])
    assert [error is None for error in found.values()].count(True) == 2
    assert found[good] is None
    assert found[last] is None
    settle(backend, good, last)
    assert (good.execution.exitcode, last.execution.exitcode) == (4, 5)
    assert {path.name for path in spool.glob("b*")} == {good.execution.token, last.execution.token}
    assert missing.execution.state is odd.execution.state is State.NEW


def test_the_commands_environment_is_not_the_jobs_machinery(
    backend: ShellBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as in a job that submits jobs: theirs are their own
    monkeypatch.setenv("BATCHLIB_TOKEN", "bbbbbbbbbbbbbbbb")
    monkeypatch.setenv("BATCHLIB_JOBID", "1.2@x")
    backend.close()
    app = sh("sleep 600")
    backend.submit_job(app)
    settle(backend, app, state=State.RUNNING)
    leader = int((app.execution.jobid or "").partition(".")[0])
    environment = Path(f"/proc/{leader}/environ").read_bytes()
    assert b"bbbbbbbbbbbbbbbb" not in environment
    assert b"1.2@x" not in environment
    backend.cancel_job(app)
    settle(backend, app)


# --- limits -------------------------------------------------------------------------------------------------------

#: A child that leaves the session, and one that ignores the request to end.
FAMILY = """
setsid sh -c 'echo $$ > away; exec sleep 600' &
sh -c 'trap "" TERM; echo $$ > deaf; while :; do sleep 0.2; done' &
echo $$ > own
while :; do sleep 0.2; done
"""


def family(backend: ShellBackend, app: Application, spool: Path) -> list[int]:
    box = spool / (app.execution.token or "")
    files = [box / name for name in ("away", "deaf", "own")]
    until(lambda: all(file.exists() and file.read_text().strip() for file in files), "the family did not come together")
    return [int(file.read_text()) for file in files]


def alive(pids: Iterable[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def test_cancelling_ends_the_whole_family(backend: ShellBackend, spool: Path) -> None:
    app, other = sh(FAMILY), sh("sleep 600")
    backend.submit_jobs([app, other])
    members = family(backend, app, spool)
    assert alive(members) == members
    assert backend.cancel_jobs([app])[app].outcome is Outcome.DONE
    settle(backend, app)
    assert outcome(app)[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    until(lambda: not alive(members), "a process survived its job")
    assert backend.update_job_state(other) is State.RUNNING
    assert backend.cancel_jobs([app])[app].outcome is Outcome.ALREADY_ENDED
    backend.cancel_job(other)
    settle(backend, other)
    assert outcome(other) == (State.CANCELLED, Reason.CANCELLED_BY_USER, None, 15)


def test_the_walltime_ends_the_whole_family(backend: ShellBackend, spool: Path) -> None:
    app = sh(FAMILY, requested_walltime="2 s")
    backend.submit_job(app)
    members = family(backend, app, spool)
    settle(backend, app)
    assert outcome(app)[:2] == (State.FAILED, Reason.WALLTIME)
    until(lambda: not alive(members), "a process survived its job")
    assert app.execution.accounting.wall_time is not None
    assert app.execution.accounting.wall_time.seconds >= 2


def test_a_command_may_use_its_last_seconds(backend: ShellBackend, spool: Path) -> None:
    app = sh("trap 'echo saved > saved; exit 9' TERM; while :; do sleep 0.1; done", requested_walltime="1 s")
    backend.submit_job(app)
    settle(backend, app)
    assert outcome(app) == (State.FAILED, Reason.WALLTIME, 9, None)
    assert (spool / (app.execution.token or "") / "saved").exists()


def test_too_much_memory_ends_a_job(backend: ShellBackend) -> None:
    greedy = Application(
        [sys.executable, "-c", "x = bytearray(300_000_000); import time; time.sleep(600)"], requested_memory="100 MB"
    )
    modest = sh("sleep 2", requested_memory="100 MB")
    backend.submit_jobs([greedy, modest])
    settle(backend, greedy, modest)
    assert outcome(greedy)[:2] == (State.FAILED, Reason.MEMORY)
    assert outcome(modest) == (State.DONE, Reason.EXITED, 0, None)
    used = greedy.execution.accounting.max_memory
    assert used is not None
    assert used.amount("MB") > 100


def test_a_finished_job_is_not_called_cancelled(backend: ShellBackend) -> None:
    app = sh("exit 6")
    backend.submit_job(app)
    wait_for_end(app, Path(backend.spool))
    assert backend.cancel_jobs([app])[app].outcome is Outcome.ALREADY_ENDED
    settle(backend, app)
    assert outcome(app) == (State.FAILED, Reason.EXITED, 6, None)


# --- capacity -----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_now_can_be_submitted_later(spool: Path) -> None:
    backend = ShellBackend("here", spooldir=str(spool), max_cores=3)
    apps = [sh("while [ ! -e go ]; do sleep 0.02; done", requested_cores=2), sh("exit 3"), sh("exit 4"), sh("exit 5")]
    found = backend.submit_jobs(apps)
    assert errors(found) == [None, None, CapacityReached, CapacityReached]
    assert all(error is None or error.kind is Kind.TRANSIENT for error in found.values())
    assert [app.execution.state for app in apps] == [State.QUEUED] * 2 + [State.NEW] * 2
    refused = apps[2:]
    settle(backend, apps[1])
    # room for one again: the other one still has to wait
    assert errors(backend.submit_jobs(refused)) == [None, CapacityReached]
    (spool / (apps[0].execution.token or "") / "go").touch()
    settle(backend, apps[0], apps[2])
    assert errors(backend.submit_jobs([apps[3]])) == [None]
    settle(backend, apps[3])
    assert [app.execution.exitcode for app in apps] == [0, 3, 4, 5]
    backend.free_jobs(apps)
    assert list(spool.glob("b*")) == []
    backend.close()


def test_room_that_was_given_away_a_moment_ago_is_taken(spool: Path) -> None:
    backend = ShellBackend("here", spooldir=str(spool), max_cores=1)
    for _ in range(10):
        first, second = sh("sleep 600"), sh("sleep 600")
        assert errors(backend.submit_jobs([first])) == [None]
        assert errors(backend.submit_jobs([second])) == [CapacityReached]
        backend.cancel_job(first)
        settle(backend, first)
        backend.free_jobs([first, second])
    assert list(spool.glob("b*")) == []
    backend.close()


def test_jobs_that_do_not_fit_leave_nothing_behind(spool: Path) -> None:
    backend = ShellBackend("here", spooldir=str(spool), max_cores=1)
    running = sh("while [ ! -e go ]; do sleep 0.02; done")
    backend.submit_job(running)
    refused = [sh("exit 1") for _ in range(5)]
    assert errors(backend.submit_jobs(refused)) == [CapacityReached] * 5
    assert {path.name for path in (spool / ".running").iterdir()} == {running.execution.token}
    # at most the sandbox of the one that was asked for, which the next try uses again
    kept = {path.name for path in spool.glob("b*")} - {running.execution.token}
    assert kept <= {refused[0].execution.token}
    assert errors(backend.free_jobs(refused)) == [None] * 5
    (spool / (running.execution.token or "") / "go").touch()
    settle(backend, running)
    backend.free(running)
    assert list(spool.glob("b*")) == []
    backend.close()


def test_what_never_fits_is_refused_for_good(spool: Path) -> None:
    backend = ShellBackend("here", spooldir=str(spool))
    app = sh("true", requested_cores=100_000)
    [error] = backend.submit_jobs([app]).values()
    assert isinstance(error, SubmissionRefused)
    assert "100000 cores asked for" in str(error)
    with pytest.raises(InvalidValue, match="the most here"):
        ShellBackend("here", spooldir=str(spool), max_cores=2).submit_job(sh("true", requested_cores=3))
    backend.close()


# --- when clients and processes die -------------------------------------------------------------------------------


def test_jobs_survive_their_client(spool: Path, backend: ShellBackend) -> None:
    client = textwrap.dedent(f"""
        import os, signal
        from batchlib.application import Application
        from batchlib.backends.shell import ShellBackend
        app = Application(["/bin/sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 8"])
        backend = ShellBackend("here", spooldir={str(spool)!r}, max_cores=8)
        backend.submit_job(app)
        print(app.execution.jobid, app.execution.token, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    app = sh("restored")
    app.execution.jobid, app.execution.token = done.stdout.split()
    app.execution.state = State.SUBMITTING
    assert backend.update_job_state(app) is State.RUNNING
    (spool / (app.execution.token or "") / "go").touch()
    settle(backend, app)
    assert outcome(app) == (State.FAILED, Reason.EXITED, 8, None)


def test_a_client_that_dies_before_it_heard_the_answer_finds_its_job(spool: Path, backend: ShellBackend) -> None:
    app = sh("sleep 600")
    backend.submit_job(app)
    known = app.execution.jobid
    app.execution.jobid = None
    app.set_state(State.SUBMITTING)
    assert backend.recover_jobs([app]) == {app: None}
    assert app.execution.jobid == known
    backend.cancel_job(app)
    settle(backend, app)


def test_another_process_with_the_same_number_is_not_the_job(backend: ShellBackend) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        start = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        app = sh("sleep 600")
        app.execution.token = "bbbbbbbbbbbbbbbb"
        app.execution.state = State.RUNNING
        # the job that had this number was started a moment before
        app.execution.jobid = f"{stranger.pid}.{start - 1}@{os.uname().nodename}"
        assert backend.cancel_jobs([app])[app].outcome is Outcome.ALREADY_ENDED
        assert stranger.poll() is None
        assert backend.update_job_state(app) is State.ENDED_NO_STATUS
        app.execution.jobid = f"{stranger.pid}.{start}@{os.uname().nodename}"
        assert backend.update_job_state(app) is State.RUNNING
    finally:
        stranger.kill()
        stranger.wait()


def test_a_job_that_was_killed_with_all_its_watchers_is_lost(backend: ShellBackend, spool: Path) -> None:
    app = sh("touch ready; exec sleep 600")
    backend.submit_job(app)
    until((spool / (app.execution.token or "") / "ready").exists, "the command did not start")
    family = [int((app.execution.jobid or "").partition(".")[0]), *marked(spool)]
    # all at once, so that none of them can write of the other ones' end
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in family:
            os.kill(pid, number)
    until(lambda: not alive(family), "they could not be killed")
    assert backend.update_job_state(app) is State.ENDED_NO_STATUS
    settle(backend, app)
    assert outcome(app) == (State.LOST, Reason.LOST, None, None)


def test_that_a_job_is_to_be_cancelled_is_written_down_first(backend: ShellBackend) -> None:
    app = sh("sleep 600")
    backend.submit_job(app)
    written = []

    def journal(apps: Iterable[Application]) -> None:
        written.extend((one.execution.cancel_requested, backend.update_job_state(one)) for one in apps)

    assert backend.cancel_jobs([app], journal=journal)[app].outcome is Outcome.DONE
    [(requested, state)] = written
    assert requested
    assert not state.final, "it was still alive then"
    settle(backend, app)
    assert app.execution.state is State.CANCELLED


def test_a_job_on_another_host_is_not_judged_from_here(backend: ShellBackend, spool: Path) -> None:
    app = sh("exit 3")
    backend.submit_job(app)
    ended = wait_for_end(app, spool)
    app.execution.jobid = (app.execution.jobid or "").partition("@")[0] + "@elsewhere"
    kept = ended.read_text()
    ended.unlink()
    assert backend.update_job_state(app) is State.UNDETERMINED
    answer = backend.cancel_jobs([app])[app]
    assert answer.outcome is Outcome.UNKNOWN
    assert "elsewhere" in str(answer.error)
    # what it wrote at its end can be read wherever the spool directory can
    ended.write_text(kept)
    settle(backend, app)
    assert outcome(app) == (State.FAILED, Reason.EXITED, 3, None)


def test_outputs_of_a_removed_sandbox_are_an_error(backend: ShellBackend, spool: Path) -> None:
    app = sh("true")
    backend.submit_job(app)
    settle(backend, app)
    with pytest.raises(RemoteFileError):
        backend.read_output(app, "no-such-file")


# --- answers ------------------------------------------------------------------------------------------------------


def rows(text: str) -> dict[str, State]:
    found = ShellBackend("here").parse_queue(Completed(0, text.encode("utf-8", "surrogateescape"), b""))
    return {jobid: row.state for jobid, row in found.items()}


def test_without_a_code_nothing_is_concluded() -> None:
    assert rows("1.2@h ended\n") == {}
    assert rows("1.2@h ended\n1.2@h code=\n1.2@h killed=walltime\n") == {}
    assert rows("1.2@h\n\nnoise about something\n1.2@h \n") == {}
    assert rows("1.2@h ended\n1.2@h code=²\n1.2@h peak=²\n1.2@h ended=²\n") == {}
    assert rows("1.2@h ended\n1.2@h code=300\n") == {}
    assert rows("1.2@h ended\n1.2@h code=0\n1.2@h peak=²\n1.2@h started=9" + "9" * 5000 + "\n") == {"1.2@h": State.DONE}
    assert rows("1.2@h ended\n1.2@h code=3\n") == {"1.2@h": State.FAILED}


@given(
    st.text() | st.lists(st.sampled_from(["1.2@h", " ", "code=", "ended", "=", "\n", "running", "²", "7"])).map("".join)
)
def test_no_text_breaks_the_parser(text: str) -> None:
    for jobid, state in rows(text).items():
        assert isinstance(jobid, str)
        assert state is not State.DONE or "code=0" in text


def test_a_listing_that_failed_is_no_answer() -> None:
    with pytest.raises(SystemUnavailable):
        ShellBackend("here").parse_queue(Completed(2, b"", b"cd: no such directory"))
