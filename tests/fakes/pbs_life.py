"""The life of jobs on pretended OpenPBS and Torque: what is the same on both."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from batchlib import Application, Engine, Session
from batchlib.application import Dependency
from batchlib.array import expand_array, parse_array
from batchlib.backends.base import Action, Outcome
from batchlib.backends.pbs_family import PbsFamily
from batchlib.config import load
from batchlib.errors import (
    CapacityReached,
    CommandNotFound,
    InvalidOperation,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
    TransportError,
)
from batchlib.run import NativeDependency, Reason, State
from tests.fakes.engine import stop_everything
from tests.fakes.frontend import Frontend
from tests.life import (
    PATIENCE,
    End,
    RoundTrips,
    check_that_everything_arrives,
    ended,
    outcome,
    outcomes,
    round_trips,
    running,
    settle,
)

ODD = ["a b", "q'\"$HOME`id`", "new\nline", "ünï ☃", "-x", "", "\\n", "*", "!!", " lead", "#c", "a,b"]


class Site:
    """A pretended server, and how to reach it."""

    def __init__(self, kind: type[PbsFamily], directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.binaries = Path(__file__).parent / kind.type / "bin"
        self.spool = directory / "server"
        self.home = directory / "home"
        self.home.mkdir()
        self.environment = {
            "FAKE_SPOOL": str(self.spool),
            "FAKE_KILL_DELAY": "0.3",
            "FAKE_USER": "hpc",
            "HOME": str(self.home),
        }
        self.opened: list[PbsFamily] = []

    def setup(self, **more: str) -> str:
        lines = [f"export {name}='{value}'" for name, value in {**self.environment, **more}.items()]
        # jobs belong to whom the server takes us for
        lines.append('id() { case $1 in -un) echo "$FAKE_USER" ;; *) command id "$@" ;; esac; }')
        return "\n".join([f"export PATH='{self.binaries}':$PATH", *lines])

    def backend(self, variables: dict[str, str] | None = None, **keys: object) -> PbsFamily:
        keys = {"spooldir": str(self.directory / "sandboxes"), "setup": self.setup(**(variables or {})), **keys}
        self.opened.append(self.kind("lab", **keys))
        return self.opened[-1]

    def switch(self, name: str, on: bool = True) -> None:
        if on:
            (self.spool / name).touch()
        else:
            (self.spool / name).unlink()

    def close(self) -> None:
        for backend in self.opened:
            backend.close()
        if (self.spool / "state.db").exists():
            stop_everything(str(self.spool))


class Life:
    """Tests for both; a subclass names the backend."""

    kind: ClassVar[type[PbsFamily]]

    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        made = Site(self.kind, tmp_path)
        yield made
        made.close()

    @pytest.fixture
    def backend(self, site: Site) -> PbsFamily:
        return site.backend()

    # --- one job -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("transport", ["local", "ssh"])
    def test_arguments_environment_and_inputs_arrive_byte_for_byte(
        self, site: Site, tmp_path: Path, transport: str, request: pytest.FixtureRequest
    ) -> None:
        keys = request.getfixturevalue("over_ssh") if transport == "ssh" else {}
        check_that_everything_arrives(site.backend(**keys), tmp_path, ODD)

    @pytest.fixture
    def over_ssh(self, site: Site, tmp_path: Path) -> Iterator[dict[str, object]]:
        """Keys of a resource behind a pretended frontend."""
        key = tmp_path / "id_rsa"
        command = ["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(key)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        with Frontend(site.home, keyfile=key, path=[site.binaries], environment=site.environment) as frontend:
            known_hosts = tmp_path / "known_hosts"
            known_hosts.write_text(frontend.known_hosts_line)
            yield {
                "transport": "ssh",
                "frontend": frontend.host,
                "port": frontend.port,
                "username": frontend.user,
                "keyfile": str(key),
                "known_hosts": str(known_hosts),
                "ssh_config": "none",
            }

    def test_ends_are_told_apart(self, backend: PbsFamily) -> None:
        ends: dict[str, tuple[Application, End]] = {
            "ok": (Application(["true"]), (State.DONE, Reason.EXITED, 0, None)),
            "three": (Application(["sh", "-c", "exit 3"]), (State.FAILED, Reason.EXITED, 3, None)),
            "high code": (Application(["sh", "-c", "exit 137"]), (State.FAILED, Reason.EXITED, 137, None)),
            "killed": (Application(["sh", "-c", "kill -9 $$"]), (State.FAILED, Reason.SIGNALLED, None, 9)),
            "crash": (Application(["sh", "-c", "kill -11 $$"]), (State.FAILED, Reason.SIGNALLED, None, 11)),
            "missing": (Application(["no-such-program"]), (State.FAILED, Reason.EXITED, 127, None)),
        }
        apps = [app for app, _ in ends.values()]
        assert not any(backend.submit_jobs(apps).values())
        settle(backend, apps, ended)
        assert {name: outcome(app) for name, (app, _) in ends.items()} == {name: end for name, (_, end) in ends.items()}
        used = apps[1].execution.accounting
        assert used.cores == 1
        assert used.hosts
        assert used.submitted is not None
        assert used.started is not None
        assert used.ended is not None
        assert used.submitted <= used.started <= used.ended

    def test_walltime_is_a_reason_of_its_own(self, backend: PbsFamily) -> None:
        app = Application(["sleep", "600"], requested_walltime="1 s")
        backend.submit_job(app)
        settle(backend, [app], ended)
        assert outcome(app)[:2] == (State.FAILED, Reason.WALLTIME)

    def test_cancel_while_queued_and_while_running(self, backend: PbsFamily) -> None:
        busy, held = Application(["sleep", "600"]), Application(["sleep", "600"], hold=True)
        backend.submit_jobs([busy, held])
        settle(backend, [busy, held], lambda app: app.execution.state in (State.RUNNING, State.HELD))
        assert held.execution.state is State.HELD
        assert outcomes(backend.cancel_jobs([busy, held])) == [Outcome.DONE] * 2
        settle(backend, [busy, held], ended)
        for app in (busy, held):
            assert outcome(app)[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)
        assert outcomes(backend.cancel_jobs([busy])) == [Outcome.ALREADY_ENDED]

    def test_cancelling_what_ended_unnoticed_is_no_error(self, backend: PbsFamily) -> None:
        apps = [Application(["true"]), Application(["sleep", "600"])]
        backend.submit_jobs(apps)
        settle(backend, apps[1:], running)
        deadline = time.monotonic() + PATIENCE
        while len(backend.list_jobs()) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first, second = outcomes(backend.cancel_jobs(apps))
        assert (first, second) == (Outcome.ALREADY_ENDED, Outcome.DONE)
        settle(backend, apps, ended)
        assert [app.execution.state for app in apps] == [State.DONE, State.CANCELLED]

    def test_hold_and_release(self, site: Site, tmp_path: Path) -> None:
        backend = site.backend({"FAKE_SLOTS": "1"})
        first, second = (Application(["sh", "-c", "while [ ! -f stop ]; do sleep 0.1; done"]) for _ in range(2))
        backend.submit_jobs([first, second])
        settle(backend, [first], running)
        assert outcomes(backend.hold_jobs([second])) == [Outcome.DONE]
        settle(backend, [second], lambda app: app.execution.state is State.HELD)
        # a hold of a running job is only for the case that it has to run again
        assert outcomes(backend.hold_jobs([first])) == [Outcome.DONE]
        backend.update_job_states([first])
        assert first.execution.state is State.RUNNING
        assert outcomes(backend.release_jobs([second])) == [Outcome.DONE]
        settle(backend, [second], lambda app: app.execution.state is State.QUEUED)
        for app in (first, second):
            backend.transport.write(f"{backend.spool}/{app.execution.token}/stop", b"")
        settle(backend, [first, second], ended)
        assert {outcome(app) for app in (first, second)} == {(State.DONE, Reason.EXITED, 0, None)}

    def test_signal(self, backend: PbsFamily) -> None:
        app = Application(["sh", "-c", "trap 'echo caught > caught' CONT; touch ready; while :; do sleep 0.1; done"])
        backend.submit_job(app)
        sandbox = f"{backend.spool}/{app.execution.token}"
        await_file(backend, f"{sandbox}/ready")
        settle(backend, [app], running)
        # one that does not end the login shell that PBS runs the script with
        assert outcomes(backend.control_jobs([app], Action.SIGNAL, "CONT")) == [Outcome.DONE]
        await_file(backend, f"{sandbox}/caught")

    def test_what_only_operators_may_do_is_refused(self, backend: PbsFamily) -> None:
        app = Application(["sleep", "600"])
        backend.submit_job(app)
        settle(backend, [app], running)
        for answers in (backend.suspend_jobs([app]), backend.resume_jobs([app]), backend.requeue_jobs([app])):
            assert outcomes(answers) == [Outcome.REFUSED]
        backend.update_job_states([app])
        assert app.execution.state is State.RUNNING

    def test_an_operator_suspends_and_resumes(self, site: Site) -> None:
        backend = site.backend({"FAKE_MANAGER": "yes"})
        app = Application(["sleep", "600"])
        backend.submit_job(app)
        settle(backend, [app], running)
        assert outcomes(backend.suspend_jobs([app])) == [Outcome.DONE]
        settle(backend, [app], lambda app: app.execution.state is State.SUSPENDED)
        assert outcomes(backend.resume_jobs([app])) == [Outcome.DONE]
        settle(backend, [app], running)

    def test_somebody_elses_job_can_not_be_cancelled(self, site: Site) -> None:
        backend, stranger = site.backend(), site.backend({"FAKE_USER": "other"})
        app = Application(["sleep", "600"])
        backend.submit_job(app)
        settle(backend, [app], running)
        assert outcomes(stranger.cancel_jobs([app])) == [Outcome.REFUSED]
        backend.update_job_states([app])
        assert app.execution.state is State.RUNNING
        # nor does it show among one's own
        assert stranger.parse_queue(stranger.ask(stranger.queue_command([]))) == {}
        assert [job.owner for job in stranger.list_jobs()] == ["hpc"]

    def test_output_can_be_read_while_the_job_runs_and_freed_after_it(self, backend: PbsFamily) -> None:
        app = Application(["sh", "-c", "echo first; echo more; while [ ! -f stop ]; do sleep 0.1; done"])
        backend.submit_job(app)
        settle(backend, [app], running)
        deadline = time.monotonic() + PATIENCE
        while backend.read_output(app, "stdout.txt") != b"first\nmore\n":
            assert time.monotonic() < deadline
        assert backend.read_output(app, "stdout.txt", -5) == b"more\n"
        with pytest.raises(InvalidOperation):
            backend.free(app)
        backend.transport.write(f"{backend.spool}/{app.execution.token}/stop", b"")
        settle(backend, [app], ended)
        assert app.execution.token in backend.transport.listdir(backend.spool)
        backend.free(app)
        backend.free(app)
        assert app.execution.token not in backend.transport.listdir(backend.spool)

    def test_a_job_begins_when_it_is_told_to(self, backend: PbsFamily) -> None:
        app = Application(["sleep", "600"], begin=time.time() + 3600)
        soon = Application(["true"], begin=time.time() + 2)
        backend.submit_jobs([app, soon])
        settle(backend, [soon], ended)
        assert soon.execution.accounting.started is not None
        assert soon.begin is not None
        assert soon.execution.accounting.started >= int(soon.begin)
        backend.update_job_states([app])
        assert app.execution.state is State.HELD

    @pytest.mark.parametrize("count", [1, 30])
    def test_thirty_jobs_cost_no_more_round_trips_than_one(
        self, backend: PbsFamily, tmp_path: Path, count: int
    ) -> None:
        assert round_trips(backend, tmp_path, count) == RoundTrips(submit=1, look=2, fetch=1, free=1)

    # --- several jobs ------------------------------------------------------------------------------------------

    def array(self, text: str, script: str, **keys: object) -> list[Application]:
        app = Application(["sh", "-c", script, "sh", "{index}"], **keys)  # type: ignore[arg-type]
        return expand_array(app, parse_array(text), "task")

    def test_elements_of_an_array_have_ends_and_outputs_of_their_own(self, backend: PbsFamily, tmp_path: Path) -> None:
        apps = self.array("1-6", "echo $1 $TASK_ID; [ $1 != 5 ] || sleep 600; exit $1")
        assert not any(backend.submit_jobs(apps).values())
        ids = [app.execution.jobid or "" for app in apps]
        array = backend.array_jobid(ids[0])
        assert "[]" in array
        assert ids == [array.replace("[]", f"[{index}]") for index in range(1, 7)]
        settle(backend, [apps[4]], running)
        assert outcomes(backend.cancel_jobs([apps[4]])) == [Outcome.DONE]
        settle(backend, apps, ended)
        expected: list[End] = [(State.FAILED, Reason.EXITED, code, None) for code in range(1, 7)]
        assert [outcome(app) for app in apps if app is not apps[4]] == [*expected[:4], expected[5]]
        assert outcome(apps[4])[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)
        backend.collect_jobs({app: tmp_path / str(n) for n, app in enumerate(apps, 1)})
        assert (tmp_path / "3/stdout.txt").read_text() == "3 3\n"
        backend.free_jobs(apps)
        assert not [name for name in backend.transport.listdir(backend.spool) if name.startswith("b")]

    def test_an_element_that_never_ran_did_not_end_well(self, backend: PbsFamily) -> None:
        apps = self.array("1-3%1", "[ $1 != 1 ] || while [ ! -f ../stop ]; do sleep 0.1; done")
        backend.submit_jobs(apps)
        settle(backend, apps[:1], running)
        assert {app.execution.state for app in apps[1:]} == {State.QUEUED}
        assert outcomes(backend.cancel_jobs([apps[2]])) == [Outcome.DONE]
        token = (apps[0].execution.token or "").partition("/")[0]
        backend.transport.write(f"{backend.spool}/{token}/stop", b"")
        settle(backend, apps, ended)
        assert [app.execution.state for app in apps] == [State.DONE, State.DONE, State.CANCELLED]

    def test_a_held_array(self, backend: PbsFamily) -> None:
        apps = self.array("1-2", "exit 0", hold=True)
        backend.submit_jobs(apps)
        settle(backend, apps, lambda app: app.execution.state is State.HELD)
        assert outcomes(backend.release_jobs(apps)) == [Outcome.DONE] * 2
        settle(backend, apps, ended)
        assert {app.execution.state for app in apps} == {State.DONE}

    def test_an_array_of_one_element_is_a_plain_job(self, backend: PbsFamily) -> None:
        apps = self.array("7", "exit $1")
        backend.submit_jobs(apps)
        assert "[" not in (apps[0].execution.jobid or "[")
        settle(backend, apps, ended)
        assert outcome(apps[0]) == (State.FAILED, Reason.EXITED, 7, None)

    @pytest.mark.parametrize(
        ("code", "met"),
        [(0, {"ok": True, "any": True, "notok": False}), (3, {"ok": False, "any": True, "notok": True})],
    )
    def test_dependencies_that_the_server_keeps(self, backend: PbsFamily, code: int, met: dict[str, bool]) -> None:
        assert backend.supports("dependency")
        parent = Application(["sh", "-c", f"while [ ! -f stop ]; do sleep 0.1; done; exit {code}"])
        backend.submit_job(parent)
        children = {on: Application(["true"]) for on in met}
        for on, child in children.items():
            child.execution.waits_for = (NativeDependency(parent.execution.jobid or "", on),)
        apps = list(children.values())
        assert not any(backend.submit_jobs(apps).values())
        backend.update_job_states(apps)
        assert {app.execution.state for app in apps} == {State.QUEUED}
        backend.transport.write(f"{backend.spool}/{parent.execution.token}/stop", b"")
        settle(backend, [parent, *apps], ended)
        found = {on: app.execution.state for on, app in children.items()}
        assert found == {on: State.DONE if good else State.OMITTED for on, good in met.items()}

    def test_a_session_whose_tasks_depend_on_jobs_and_on_elements(self, site: Site, tmp_path: Path) -> None:
        file = tmp_path / "batchlib.conf"
        keys = f"type = {self.kind.type}\nspooldir = {tmp_path}/sandboxes\nsetup = " + "; ".join(
            line for line in site.setup().splitlines()
        )
        file.write_text(f"[resource/lab]\n{keys}\n")
        file.chmod(0o600)
        single = Application(["sh", "-c", "exit 4"], output_dir=str(tmp_path / "single"))
        array = Application(["true"], output_dir=str(tmp_path / "{index}"))
        with Session(tmp_path / "session") as session:
            [failing], elements = session.add(single), session.add_array(array, "1-2")
            after = {
                "elements": Dependency(elements),
                "failed": Dependency([failing], "notok"),
                "never": Dependency([failing], "ok"),
            }
            ids = {
                name: session.add(Application(["true"], after=[one], output_dir=str(tmp_path / name)))
                for name, one in after.items()
            }
            with Engine(session, load(file)) as engine:
                engine.run(on="lab")
            found = {name: session.rows(one)[0].state for name, one in ids.items()}
        assert found == {"elements": State.DONE, "failed": State.DONE, "never": State.OMITTED}

    # --- faults ------------------------------------------------------------------------------------------------

    def test_a_refused_job_leaves_nothing(self, backend: PbsFamily) -> None:
        good, bad = Application(["true"]), Application(["true"], queue="nosuch")
        answers = backend.submit_jobs([bad, good])
        assert isinstance(answers[bad], SubmissionRefused)
        assert "Unknown queue" in str(answers[bad])
        assert answers[good] is None
        assert bad.execution.state is State.NEW
        settle(backend, [good], ended)
        backend.free(good)
        assert not [name for name in backend.transport.listdir(backend.spool) if name.startswith("b")]

    def test_a_full_queue_is_no_refusal(self, site: Site) -> None:
        backend = site.backend({"FAKE_MAX_QUEUED": "1"})
        first, second = Application(["sleep", "600"]), Application(["true"])
        answers = backend.submit_jobs([first, second])
        assert answers[first] is None
        assert isinstance(answers[second], CapacityReached)
        assert second.execution.state is State.NEW
        backend.cancel_job(first)
        settle(backend, [first], ended)
        backend.submit_job(second)
        settle(backend, [second], ended)
        assert second.execution.state is State.DONE

    def test_a_server_that_is_down_changes_nothing(self, site: Site, backend: PbsFamily) -> None:
        app, late = Application(["sleep", "600"]), Application(["true"])
        backend.submit_job(app)
        settle(backend, [app], running)
        site.switch("down")
        assert isinstance(backend.update_job_states([app])[app], SystemUnavailable)
        assert outcomes(backend.cancel_jobs([app])) == [Outcome.UNKNOWN]
        app.execution.cancel_requested = False
        assert outcomes(backend.hold_jobs([app])) == [Outcome.UNKNOWN]
        assert isinstance(backend.submit_jobs([late])[late], SystemUnavailable)
        for ask in (backend.ping, backend.list_jobs, backend.list_queues, backend.list_machines):
            with pytest.raises(SystemUnavailable):
                ask()
        assert (app.execution.state, late.execution.state) == (State.RUNNING, State.NEW)
        site.switch("down", on=False)
        backend.ping()
        backend.submit_job(late)
        settle(backend, [late], ended)
        backend.update_job_states([app])
        assert app.execution.state is State.RUNNING

    def test_a_server_that_hangs_is_no_answer(self, site: Site) -> None:
        backend = site.backend(timeout="3 s")
        app = Application(["sleep", "600"])
        backend.submit_job(app)
        settle(backend, [app], running)
        site.switch("hang")
        error = backend.update_job_states([app])[app]
        assert isinstance(error, SystemUnavailable | TransportError)
        assert app.execution.state is State.RUNNING
        site.switch("hang", on=False)
        settle(backend, [app], running)

    def test_an_accepted_job_whose_answer_was_lost_is_found_again(self, site: Site, backend: PbsFamily) -> None:
        app = Application(["sleep", "600"], hold=True)
        backend.spool  # noqa: B018 - connect before the clock runs
        site.spool.mkdir(exist_ok=True)
        site.switch("unclear")
        assert isinstance(backend.submit_jobs([app])[app], SubmissionUnclear)
        assert app.execution.state is State.SUBMITTING
        site.switch("unclear", on=False)
        assert backend.recover_jobs([app])[app] is None
        settle(backend, [app], lambda app: app.execution.state is State.HELD)
        assert len(backend.list_jobs()) == 1

    def killer(self, site: Site, when: str) -> str:
        """Make a qsub that kills itself before or after it asked."""
        program = site.directory / "qsub"
        ask = f'{site.binaries}/qsub "$@" >/dev/null\n' if when == "after" else ""
        program.write_text(f"#!/bin/sh\n{ask}kill -9 $$\n")
        program.chmod(0o755)
        return str(program)

    def test_a_qsub_that_was_killed_after_it_asked(self, site: Site) -> None:
        backend = site.backend(qsub=self.killer(site, "after"))
        apps = self.array("1-3", "exit 0", hold=True)
        assert {type(error) for error in backend.submit_jobs(apps).values()} == {SubmissionUnclear}
        assert not any(backend.recover_jobs(apps).values())
        assert [app.execution.jobid for app in apps] == [f"1[{index}].frontend" for index in (1, 2, 3)]
        settle(backend, apps, lambda app: app.execution.state is State.HELD)

    def test_a_qsub_that_was_killed_before_it_asked(self, site: Site) -> None:
        backend = site.backend(qsub=self.killer(site, "before"))
        app = Application(["true"])
        assert isinstance(backend.submit_jobs([app])[app], SubmissionUnclear)
        # it may still be on its way
        assert isinstance(backend.recover_jobs([app])[app], SubmissionUnclear)
        asked = Path(backend.spool) / str(app.execution.token) / ".batchlib/asked"
        os.utime(asked, (time.time() - 1000,) * 2)
        site.switch("down")
        # nobody who could know was asked
        assert isinstance(backend.recover_jobs([app])[app], SystemUnavailable)
        assert app.execution.state is State.SUBMITTING
        site.switch("down", on=False)
        assert backend.recover_jobs([app])[app] is None
        assert app.execution.state is State.NEW
        good = site.backend()
        good.submit_job(app)
        settle(good, [app], ended)
        assert app.execution.state is State.DONE

    def test_a_missing_qsub(self, site: Site) -> None:
        backend = site.backend(qsub="/opt/nowhere/qsub")
        app = Application(["true"])
        with pytest.raises(CommandNotFound, match=r"/opt/nowhere/qsub.*is not found.*give its path"):
            backend.submit_job(app)
        assert app.execution.state is State.NEW

    # --- monitoring --------------------------------------------------------------------------------------------

    def test_jobs_queues_and_machines(self, backend: PbsFamily) -> None:
        app, held = Application(["sleep", "600"], requested_cores=3), Application(["true"], hold=True)
        elements = self.array("1-2", "sleep 600")
        backend.submit_jobs([app, held, *elements])
        settle(backend, [app, *elements], running)
        jobs = {job.jobid: job for job in backend.list_jobs()}
        assert set(jobs) == {one.execution.jobid for one in (app, held, *elements)}
        mine = jobs[str(app.execution.jobid)]
        assert (mine.owner, mine.queue, mine.state, mine.cores) == ("hpc", "workq", State.RUNNING, 3)
        assert mine.started_at is not None
        assert jobs[str(held.execution.jobid)].state is State.HELD
        [node] = backend.list_machines()
        assert (node.available, node.cores, node.free_cores) == (True, 16, 11)
        assert {"workq", "short"} <= {queue.name for queue in backend.list_queues()}
        assert [queue.name for queue in backend.list_queues() if queue.default] == ["workq"]
        status = backend.get_resource_status()
        assert (status.cores, status.free_cores, status.own_running, status.own_queued) == (16, 11, 3, 1)
        assert backend.version().startswith(f"{backend.product} ")


def await_file(backend: PbsFamily, path: str) -> None:
    """Wait until a job has made a file."""
    deadline = time.monotonic() + PATIENCE
    while not backend.transport.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
