"""The life of jobs on a pretended OpenPBS."""

from __future__ import annotations

from batchlib import Application
from batchlib.array import expand_array, parse_array
from batchlib.backends.base import Outcome
from batchlib.backends.pbs import PbsBackend
from batchlib.run import NativeDependency, Reason, State
from tests.fakes.pbs_life import Life, Site
from tests.life import ended, outcome, outcomes, running, settle


class TestOpenPbs(Life):
    kind = PbsBackend

    def test_a_job_that_waits_for_nobody_knows_whom_is_omitted(self, site: Site) -> None:
        backend = site.backend()
        app = Application(["true"])
        app.execution.waits_for = (NativeDependency("999999.frontend", "ok"),)
        # accepted all the same, and gone at once
        backend.submit_job(app)
        settle(backend, [app], ended)
        assert outcome(app) == (State.OMITTED, Reason.DEPENDENCY, None, None)

    def test_history_that_is_over_leaves_the_status_file(self, site: Site) -> None:
        backend = site.backend({"FAKE_HISTORY": "0"})
        apps = [Application(["true"]), Application(["sh", "-c", "exit 3"])]
        backend.submit_jobs(apps)
        settle(backend, apps, ended)
        assert [outcome(app) for app in apps] == [
            (State.DONE, Reason.EXITED, 0, None),
            (State.FAILED, Reason.EXITED, 3, None),
        ]

    def test_an_array_that_is_no_range_becomes_single_jobs(self, site: Site) -> None:
        backend = site.backend()
        apps = expand_array(Application(["sh", "-c", "exit {index}"]), parse_array("1,3,4"), "task")
        assert not any(backend.submit_jobs(apps).values())
        assert not any("[" in str(app.execution.jobid) for app in apps)
        settle(backend, apps, ended)
        assert [app.execution.exitcode for app in apps] == [1, 3, 4]

    def test_an_element_is_not_released_without_the_others(self, site: Site) -> None:
        backend = site.backend()
        apps = expand_array(Application(["true"], hold=True), parse_array("1-3"), "task")
        single = Application(["true"], hold=True)
        backend.submit_jobs([*apps, single])
        answers = backend.release_jobs([apps[0], single])
        assert outcomes(answers) == [Outcome.REFUSED, Outcome.DONE]
        settle(backend, [single], ended)
        settle(backend, apps, lambda app: app.execution.state is State.HELD)
        # one that has ended does not matter
        backend.cancel_jobs(apps[:1])
        settle(backend, apps[:1], ended)
        assert outcomes(backend.release_jobs(apps[1:])) == [Outcome.DONE] * 2
        settle(backend, apps, ended)
        assert [app.execution.state for app in apps] == [State.CANCELLED, State.DONE, State.DONE]

    def test_an_operator_puts_a_running_job_back(self, site: Site) -> None:
        backend = site.backend({"FAKE_MANAGER": "yes"})
        app = Application(["sleep", "600"], rerunnable=True)
        backend.submit_job(app)
        settle(backend, [app], running)
        backend.requeue_jobs([app])
        settle(backend, [app], running)
        backend.cancel_job(app)
        settle(backend, [app], ended)
        assert app.execution.state is State.CANCELLED
