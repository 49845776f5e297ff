"""The Grid Engine backend against a real Grid Engine: over a real SSH server, and on the machine itself."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlib import Application, Reason, State
from batchlib.application import Dependency
from batchlib.array import expand_array, parse_array
from batchlib.backends.base import JobFilter, Outcome
from batchlib.backends.sge import SgeBackend
from batchlib.config import Configuration
from batchlib.engine import Engine
from batchlib.errors import (
    CommandNotFound,
    InvalidOperation,
    Kind,
    OperationRefused,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
)
from batchlib.run import Run
from batchlib.session import Session
from batchlib.transport.base import Pipe
from batchlib.transport.local import LocalCarrier
from batchlib.transport.transport import Transport
from tests.life import DONE, End, RoundTrips, check_that_everything_arrives, ended, outcome, round_trips, settle
from tests.live.conftest import over_ssh
from tests.servers.sge import GridEngine
from tests.servers.sshd import Sshd

# the second line of the fourth one would be a directive if those were looked for under their usual name
ODD = ["a b", "q'\"$HOME`id`", "ünï ☃", "new\n#$ -q nosuch.q\nline", "-x", "", "\\n", "*", "!!", " lead", "#c", "a,b=c"]
WAIT = ["sh", "-c", "while [ ! -f go ]; do sleep 0.1; done"]


@pytest.fixture(scope="module")
def spool(server_directory: Path, grid_engine: GridEngine) -> Path:
    """Where the user keeps sandboxes."""
    directory = server_directory / "sge-home"
    directory.mkdir()
    os.chown(directory, grid_engine.account.pw_uid, grid_engine.account.pw_gid)
    return directory


@pytest.fixture(scope="module")
def frontend(server_directory: Path, grid_engine: GridEngine) -> Iterator[Sshd]:
    """The front end of the cell."""
    directory = server_directory / "sge-frontend"
    with Sshd(directory, user=grid_engine.account.pw_name, set_env=grid_engine.env) as server:
        yield server


@pytest.fixture(scope="module")
def cell(frontend: Sshd, spool: Path) -> Iterator[SgeBackend]:
    """The cell over SSH."""
    # nothing is ever recorded of jobs that were cancelled before they started
    keys = {"spooldir": str(spool / "cell"), "parallel_environment": "smp", "accounting_delay": "3 s"}
    backend = SgeBackend("cell", **over_ssh(frontend, **keys))
    yield backend
    backend.close()


class Login(LocalCarrier):
    """This machine, for the user of the cell: root's jobs are refused."""

    def __init__(self, grid_engine: GridEngine) -> None:
        account = grid_engine.account
        environment = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, **grid_engine.env}
        words = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "env", "-i"]
        self._login = shlex.join(["setpriv", *words, *(f"{name}={value}" for name, value in environment.items())])

    def open(self, command: str, window: int | None = None) -> Pipe:
        return super().open(f"exec {self._login} /bin/sh -c {shlex.quote(command)}")


@pytest.fixture(scope="module")
def local(grid_engine: GridEngine, spool: Path) -> Iterator[SgeBackend]:
    """The cell from this very machine."""
    backend = SgeBackend("local", transport=Transport(Login(grid_engine)), spooldir=str(spool / "local"))
    yield backend
    backend.close()


def reach(backend: SgeBackend, state: State, *apps: Application) -> None:
    settle(backend, apps, lambda app: app.execution.state is state or app.execution.state.final)
    assert {app.execution.state for app in apps} == {state}


def go(backend: SgeBackend, *apps: Application) -> None:
    """Let jobs end that wait for it."""
    for app in apps:
        backend.transport.write(f"{backend.spool}/{app.execution.token}/go", b"")


def run(backend: SgeBackend, *apps: Application) -> list[End]:
    answers = backend.submit_jobs(apps)
    assert not any(answers.values()), answers
    settle(backend, apps, ended)
    return [outcome(app) for app in apps]


def test_arguments_environment_and_inputs_arrive_byte_for_byte(cell: SgeBackend, tmp_path: Path) -> None:
    check_that_everything_arrives(cell, tmp_path, ODD, "7 odd; $(name) 'x'")


def test_ends_are_told_apart(cell: SgeBackend) -> None:
    ends = {
        "ok": (Application(["true"]), DONE),
        "three": (Application(["sh", "-c", "exit 3"]), (State.FAILED, Reason.EXITED, 3, None)),
        # to Grid Engine these are orders: to run the job again, and to put it into an error state
        "again": (Application(["sh", "-c", "exit 99"]), (State.FAILED, Reason.EXITED, 99, None)),
        "error": (Application(["sh", "-c", "exit 100"]), (State.FAILED, Reason.EXITED, 100, None)),
        "high code": (Application(["sh", "-c", "exit 137"]), (State.FAILED, Reason.EXITED, 137, None)),
        "killed": (Application(["sh", "-c", "kill -9 $$"]), (State.FAILED, Reason.SIGNALLED, None, 9)),
        "crash": (
            Application(["sh", "-c", "ulimit -c 0; kill -11 $$"]),
            (State.FAILED, Reason.SIGNALLED, None, 11),
        ),
        "missing": (Application(["no-such-program"]), (State.FAILED, Reason.EXITED, 127, None)),
        "later": (Application(["true"], begin=time.time() + 3), DONE),
        "walltime": (
            Application(["sleep", "600"], requested_walltime="2 s"),
            (State.FAILED, Reason.WALLTIME, None, 9),
        ),
        # two processes, each within the limit
        "memory": (
            Application(["sh", "-c", f"{GREEDY} & {GREEDY}"], requested_memory="300 MB", requested_walltime="10 min"),
            (State.FAILED, Reason.MEMORY, None, 9),
        ),
    }
    apps = [app for app, _ in ends.values()]
    run(cell, *apps)
    assert {name: outcome(app) for name, (app, _) in ends.items()} == {name: end for name, (_, end) in ends.items()}
    later = ends["later"][0]
    assert later.begin is not None
    assert later.execution.started_at is not None
    assert later.execution.started_at > later.begin - 2, "clocks are read in whole seconds"


GREEDY = "python3 -c 'x = bytearray(200_000_000); import time; time.sleep(600)'"


def test_cancel_while_pending_and_while_running(cell: SgeBackend) -> None:
    running, pending = Application(["sleep", "600"]), Application(["sleep", "600"], hold=True)
    later = Application(["sleep", "600"], begin=time.time() + 3600)
    cell.submit_jobs([running, pending, later])
    reach(cell, State.RUNNING, running)
    reach(cell, State.HELD, pending)
    reach(cell, State.QUEUED, later)
    for _ in range(2):
        # the second time qmaster does not know the pending one any more
        answers = {answer.outcome for answer in cell.cancel_jobs([running, pending, later]).values()}
        assert answers <= {Outcome.DONE, Outcome.ALREADY_ENDED}
    settle(cell, [running, pending, later], ended)
    assert {outcome(app)[:2] for app in (running, pending, later)} == {(State.CANCELLED, Reason.CANCELLED_BY_USER)}
    assert cell.cancel_jobs([running])[running].outcome is Outcome.ALREADY_ENDED


def test_what_ended_meanwhile_or_never_was(cell: SgeBackend) -> None:
    over, strange = Application(["true"]), Application(["true"])
    cell.submit_job(over)
    deadline = time.monotonic() + 60
    while cell.list_jobs(JobFilter(jobids=[over.execution.jobid or ""])):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    strange.execution = Run(state=State.RUNNING, jobid="999999", token="b" * 16)
    for answers in (
        cell.hold_jobs([over, strange]),
        cell.suspend_jobs([over, strange]),
        cell.cancel_jobs([over, strange]),
    ):
        assert answers[over].outcome is Outcome.ALREADY_ENDED
        assert answers[strange].outcome is Outcome.NOT_FOUND
    settle(cell, [over], ended)
    assert outcome(over) == DONE


def test_hold_release_suspend_resume(cell: SgeBackend) -> None:
    app = Application(WAIT, hold=True)
    cell.submit_job(app)
    reach(cell, State.HELD, app)
    assert cell.suspend_jobs([app])[app].outcome is Outcome.REFUSED
    assert cell.release_jobs([app])[app].outcome is Outcome.DONE
    assert cell.release_jobs([app])[app].outcome is Outcome.DONE
    reach(cell, State.RUNNING, app)
    assert cell.suspend_jobs([app])[app].outcome is Outcome.DONE
    assert cell.suspend_jobs([app])[app].outcome is Outcome.DONE
    reach(cell, State.SUSPENDED, app)
    assert cell.resume_jobs([app])[app].outcome is Outcome.DONE
    reach(cell, State.RUNNING, app)
    assert cell.requeue_jobs([app])[app].outcome is Outcome.REFUSED, "it did not say that it may run again"
    go(cell, app)
    settle(cell, [app], ended)
    assert outcome(app) == DONE


def test_jobs_that_start_again(cell: SgeBackend, tmp_path: Path) -> None:
    again = Application(["sh", "-c", f"echo $$ >> runs; {WAIT[2]}"], rerunnable=True, outputs=["runs"])
    broken, given_up = Application(["true"], hold=True), Application(["true"], hold=True)
    cell.submit_jobs([again, broken, given_up])
    for app in (broken, given_up):
        # where Grid Engine is to write the output
        directory = f"{cell.spool}/{app.execution.token}/.batchlib"
        cell.transport.rename(directory, f"{directory}.away")
    cell.release_jobs([broken, given_up])
    runs = f"{cell.spool}/{again.execution.token}/runs"
    settle(cell, [again], lambda app: cell.transport.exists(runs))
    # it must not start before all of its first run is gone: Grid Engine may then take the one for the other
    assert cell.hold_jobs([again])[again].outcome is Outcome.DONE
    assert cell.requeue_jobs([again])[again].outcome is Outcome.DONE
    reach(cell, State.REQUEUED_HELD, again)
    settle(cell, [again], lambda app: cell.transport.run(f"kill -0 $(cat {runs})").exitcode != 0)
    assert cell.release_jobs([again])[again].outcome is Outcome.DONE

    settle(cell, [broken, given_up], lambda app: app.execution.native_state.startswith("Eqw"))
    assert broken.execution.state in (State.HELD, State.REQUEUED_HELD), "it may have been seen as running before"
    assert "can't open output file" in broken.execution.native_state
    directory = f"{cell.spool}/{broken.execution.token}/.batchlib"
    cell.transport.rename(f"{directory}.away", directory)
    assert cell.release_jobs([broken])[broken].outcome is Outcome.DONE
    assert cell.cancel_jobs([given_up])[given_up].outcome is Outcome.DONE

    reach(cell, State.RUNNING, again)
    go(cell, again)
    settle(cell, [again, broken, given_up], ended)
    assert [outcome(app) for app in (again, broken)] == [DONE, DONE]
    assert outcome(given_up)[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    cell.get_results(again, tmp_path)
    assert len((tmp_path / "runs").read_text().splitlines()) == 2
    if again.execution.accounting.native:
        assert again.execution.accounting.runs == 2


def test_array(cell: SgeBackend, tmp_path: Path) -> None:
    script = "cat data; echo {index} $TASK_ID > result; [ {index} != 5 ] || sleep 600; exit {index}"
    for index in (1, 3, 5, 7):
        (tmp_path / f"in.{index}").write_text(f"input {index}\n")
    app = Application(
        ["sh", "-c", script], inputs={str(tmp_path / "in.{index}"): "data"}, outputs=["result"], jobname="2 by 2"
    )
    elements = expand_array(app, parse_array("1-7:2%2"), "array")
    before = cell.transport.round_trips
    assert not any(cell.submit_jobs(elements).values())
    assert cell.transport.round_trips - before == 1
    number = (elements[0].execution.jobid or "").partition(".")[0]
    assert [app.execution.jobid for app in elements] == [f"{number}.{index}" for index in (1, 3, 5, 7)]
    cell.update_job_states(elements)
    assert elements[3].execution.state is State.QUEUED, "two run at a time"
    reach(cell, State.RUNNING, elements[2])
    cell.cancel_job(elements[2])
    settle(cell, elements, ended)
    assert [outcome(element) for element in (elements[0], elements[1], elements[3])] == [
        (State.FAILED, Reason.EXITED, index, None) for index in (1, 3, 7)
    ]
    assert outcome(elements[2])[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    cell.collect_jobs({element: tmp_path / str(n) for n, element in enumerate(elements)})
    assert [(tmp_path / str(n) / "result").read_text() for n in range(4)] == [f"{n} {n}\n" for n in (1, 3, 5, 7)]
    assert (tmp_path / "3/stdout.txt").read_text() == "input 7\n"
    cell.free_jobs(elements)
    assert not cell.transport.exists(f"{cell.spool}/{(elements[0].execution.token or '').partition('/')[0]}")


def test_array_that_is_refused_becomes_nothing(cell: SgeBackend) -> None:
    elements = expand_array(Application(["true"], queue="nosuch.q"), parse_array("1-3"), "array")
    before = cell.transport.listdir(cell.spool)
    answers = cell.submit_jobs(elements)
    assert all(isinstance(answer, SubmissionRefused) for answer in answers.values())
    assert {element.execution.state for element in elements} == {State.NEW}
    assert cell.transport.listdir(cell.spool) == before


def test_dependencies(cell: SgeBackend, frontend: Sshd, tmp_path: Path) -> None:
    configuration = Configuration({"cell": cell.settings})
    with Session(tmp_path / "session") as session, Engine(session, configuration) as engine:
        good, bad = session.add(Application(["true"]), Application(["false"]))
        children = {
            (good, "ok"): State.DONE,
            (bad, "ok"): State.OMITTED,
            (bad, "notok"): State.DONE,
            (good, "notok"): State.OMITTED,
            (bad, "any"): State.DONE,
        }
        ids = session.add(*[Application(["true"], after=[Dependency((parent,), on)]) for parent, on in children])
        engine.run(on="cell", timeout=60)
        found = {row.id: row.state for row in session.rows()}
        assert [found[task] for task in ids] == list(children.values())


@pytest.mark.parametrize("count", [1, 30])
def test_many_jobs_cost_no_more_round_trips_than_one(cell: SgeBackend, tmp_path: Path, count: int) -> None:
    assert round_trips(cell, tmp_path, count) == RoundTrips(submit=1, look=2, fetch=1, free=1)


def test_output_can_be_read_while_the_job_runs(cell: SgeBackend, tmp_path: Path) -> None:
    app = Application(["sh", "-c", f"echo first; echo more; touch ready; {WAIT[2]}"])
    cell.submit_job(app)
    settle(cell, [app], lambda app: cell.transport.exists(f"{cell.spool}/{app.execution.token}/ready"))
    assert cell.read_output(app, "stdout.txt") == b"first\nmore\n"
    assert cell.read_output(app, "stdout.txt", -5) == b"more\n"
    cell.peek(app, "stdout.txt", tmp_path / "part", offset=2, size=3)
    assert (tmp_path / "part").read_bytes() == b"rst"
    with pytest.raises(InvalidOperation):
        cell.free(app)
    go(cell, app)
    settle(cell, [app], ended)
    cell.free(app)
    cell.free(app)
    assert app.execution.token not in cell.transport.listdir(cell.spool)


def test_several_slots_and_what_they_used(cell: SgeBackend) -> None:
    work = "x = bytearray(50_000_000); import time; time.sleep(2)"
    app = Application(["python3", "-c", work], requested_cores=2, requested_memory="2 GB", requested_walltime="10 min")
    submitted = time.time()
    assert run(cell, app) == [DONE]
    used = app.execution.accounting
    assert used.cores == 2
    assert used.hosts == ("localhost",)
    assert used.wall_time is not None
    assert 2 <= used.wall_time.seconds < 30
    assert used.cpu_time
    assert used.submitted is not None
    assert used.started is not None
    assert used.ended is not None
    assert submitted - 2 <= used.submitted <= used.started < used.ended < time.time() + 2
    assert used.native["failed"] == "0"


def test_monitoring(cell: SgeBackend, grid_engine: GridEngine) -> None:
    app = Application(WAIT, jobname="seen")
    array = expand_array(Application(["true"], hold=True), parse_array("1-3"), "a")
    cell.submit_jobs([app, *array])
    reach(cell, State.RUNNING, app)
    [job] = cell.list_jobs(JobFilter(name="seen.*"))
    assert (job.jobid, job.owner, job.state) == (app.execution.jobid, grid_engine.account.pw_name, State.RUNNING)
    assert (job.queue, job.cores, job.hosts) == ("all.q", 1, ("localhost",))
    assert len(cell.list_jobs(JobFilter(states=[State.HELD]))) == 3
    status = cell.get_resource_status()
    assert (status.cores, status.own_running, status.own_queued) == (16, 1, 3)
    assert status.free_cores == 15
    [queue] = cell.list_queues()
    assert (queue.name, queue.open) == ("all.q", True)
    [machine] = cell.list_machines()
    assert (machine.name, machine.available) == ("localhost", True)
    assert cell.version() == "SGE 8.1.9"
    cell.ping()
    go(cell, app)
    cell.cancel_jobs(array)
    settle(cell, [app], ended)


class TestLocal:
    def test_life(self, local: SgeBackend, tmp_path: Path) -> None:
        app = Application(["sh", "-c", 'echo "$0" > made; exit 3', "a  b"], outputs=["made"])
        array = expand_array(Application(["sh", "-c", "exit {index}"]), parse_array("1-2"), "array")
        held = Application(["true"], hold=True)
        local.submit_job(held)
        assert run(local, app, *array) == [(State.FAILED, Reason.EXITED, code, None) for code in (3, 1, 2)]
        local.get_results(app, tmp_path)
        assert (tmp_path / "made").read_text() == "a  b\n"
        local.release_jobs([held])
        settle(local, [held], ended)
        assert outcome(held) == DONE
        local.free_jobs([app, held, *array])
        assert local.transport.listdir(local.spool) == []

    def test_somebody_elses_job(self, local: SgeBackend, grid_engine: GridEngine) -> None:
        nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        jobid = grid_engine.command(*nobody, "qsub", "-terse", "-h", "-b", "y", "true").strip()
        stranger = Application(["true"])
        stranger.execution = Run(state=State.HELD, jobid=jobid, token="b" * 16)
        with pytest.raises(OperationRefused, match="necessary privileges"):
            local.cancel_job(stranger)
        assert local.release_jobs([stranger])[stranger].outcome is Outcome.REFUSED
        assert [job.owner for job in local.list_jobs(JobFilter(jobids=[jobid]))] == ["nobody"]
        grid_engine.command("qdel", jobid)


class TestFaults:
    def test_refused_queue_leaves_nothing(self, cell: SgeBackend) -> None:
        good, bad = Application(["true"]), Application(["true"], queue="nosuch.q")
        before = set(cell.transport.listdir(cell.spool))
        answers = cell.submit_jobs([bad, good])
        assert isinstance(answers[bad], SubmissionRefused)
        assert 'unknown queue "nosuch.q"' in str(answers[bad])
        assert answers[good] is None
        settle(cell, [good], ended)
        cell.free(good)
        assert set(cell.transport.listdir(cell.spool)) == before

    def test_missing_qsub(self, frontend: Sshd, cell: SgeBackend) -> None:
        backend = SgeBackend("cell", **over_ssh(frontend, spooldir=cell.spool, qsub="/opt/nowhere/qsub"))
        with pytest.raises(CommandNotFound, match=r"/opt/nowhere/qsub.*is not found.*give its path"):
            backend.submit_job(Application(["true"]))
        backend.close()

    def test_without_accounting(self, frontend: Sshd, cell: SgeBackend) -> None:
        backend = SgeBackend(
            "cell", **over_ssh(frontend, spooldir=cell.spool, qacct="/opt/nowhere/qacct", accounting_delay="2 s")
        )
        ends = run(
            backend, Application(["true"]), Application(["sh", "-c", "exit 3"]), Application(["sh", "-c", "kill -9 $$"])
        )
        assert ends == [DONE, (State.FAILED, Reason.EXITED, 3, None), (State.FAILED, Reason.SIGNALLED, None, 9)]
        backend.close()

    @pytest.mark.parametrize("answer", ["kill -9 $$", "echo no luck >&2; exit 137", "exit 0"])
    def test_accepted_without_a_word(self, frontend: Sshd, cell: SgeBackend, answer: str) -> None:
        # as with a link that breaks, or a command that is killed, after the job was accepted
        wrapper = f"{cell.spool}-qsub"
        cell.transport.write(wrapper, f'#!/bin/sh\nqsub "$@" >/dev/null\n{answer}\n'.encode(), 0o755)
        backend = SgeBackend("cell", **over_ssh(frontend, spooldir=cell.spool, qsub=wrapper))
        held, array = (
            Application(["true"], hold=True),
            expand_array(Application(["true"], hold=True), parse_array("1-2"), "a"),
        )
        apps = [held, *array]
        for some in ([held], array):
            assert all(isinstance(error, SubmissionUnclear) for error in backend.submit_jobs(some).values())
        assert {app.execution.state for app in apps} == {State.SUBMITTING}
        assert not any(backend.recover_jobs(apps).values())
        assert {app.execution.state for app in apps} == {State.QUEUED}
        assert array[1].execution.jobid == f"{(array[0].execution.jobid or '').partition('.')[0]}.2"
        backend.release_jobs(apps)
        settle(backend, apps, ended)
        assert {outcome(app) for app in apps} == {DONE}
        backend.close()

    def test_qmaster_that_hangs(self, frontend: Sshd, cell: SgeBackend, grid_engine: GridEngine) -> None:
        backend = SgeBackend("cell", **over_ssh(frontend, spooldir=cell.spool, timeout="6 s"))
        app, late, later = Application(WAIT), Application(["true"]), Application(["true"])
        backend.submit_job(app)
        reach(backend, State.RUNNING, app)
        with grid_engine.daemon("sge_qmaster").paused():
            error = backend.update_job_states([app])[app]
            assert isinstance(error, SystemUnavailable)
            assert app.execution.state is State.RUNNING
            answers = backend.submit_jobs([late, later])
            assert isinstance(answers[late], SubmissionUnclear)
            assert answers[later] is not None
            assert answers[later].kind is Kind.TRANSIENT
            assert [one.execution.state for one in (late, later)] == [State.SUBMITTING, State.NEW]
        # it may still be accepted, so nothing is done before that would have happened
        assert isinstance(backend.recover_jobs([late])[late], SubmissionUnclear)
        asked = f"{backend.spool}/{late.execution.token}/.batchlib/asked"
        backend.transport.run(f"touch -d '10 minutes ago' {asked}")
        assert backend.recover_jobs([late]) == {late: None}
        go(backend, app)
        if late.execution.state is State.NEW:
            backend.submit_job(late)
        settle(backend, [app, late], ended)
        assert [outcome(app), outcome(late)] == [DONE, DONE]
        records = grid_engine.as_user(f"qacct -j '*{late.execution.token}' | grep -c ^jobnumber").stdout
        assert records == "1\n"
        backend.close()

    def test_qmaster_that_is_down_changes_nothing(self, cell: SgeBackend, grid_engine: GridEngine) -> None:
        # none that runs: for half a minute after its start qmaster does not hear how jobs end
        app, late = Application(["true"], hold=True), Application(["true"], hold=True)
        cell.submit_job(app)
        reach(cell, State.HELD, app)
        qmaster = grid_engine.daemon("sge_qmaster")
        qmaster.kill()  # when asked to end it takes its time
        try:
            assert isinstance(cell.update_job_states([app])[app], SystemUnavailable)
            assert app.execution.state is State.HELD
            for answers in (cell.release_jobs([app]), cell.suspend_jobs([app]), cell.cancel_jobs([app])):
                assert answers[app].outcome is Outcome.UNKNOWN
            assert isinstance(cell.submit_jobs([late])[late], SystemUnavailable)
            assert late.execution.state is State.NEW
            with pytest.raises(SystemUnavailable):
                cell.ping()
            assert cell.version() == "SGE 8.1.9"
        finally:
            qmaster.start()
        assert not any(cell.submit_jobs([late]).values())
        assert not any(cell.update_job_states([app, late]).values())
        assert [one.execution.state for one in (app, late)] == [State.HELD, State.HELD]
        assert {answer.outcome for answer in cell.cancel_jobs([app, late]).values()} == {Outcome.DONE}
