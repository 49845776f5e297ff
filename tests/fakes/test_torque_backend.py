"""The life of jobs on a pretended Torque."""

from __future__ import annotations

import pytest

from batchlib import Application
from batchlib.array import expand_array, parse_array
from batchlib.backends.torque import TorqueBackend
from batchlib.errors import SystemUnavailable
from batchlib.run import NativeDependency, Reason, State
from tests.fakes.pbs_life import Life, Site
from tests.life import ended, outcome, settle


class TestTorque(Life):
    kind = TorqueBackend

    def test_a_job_that_waits_for_nobody_knows_whom_is_not_taken_now(self, site: Site) -> None:
        backend = site.backend()
        app = Application(["true"])
        app.execution.waits_for = (NativeDependency("999999.frontend", "ok"),)
        with pytest.raises(SystemUnavailable, match="Invalid Job Dependency"):
            backend.submit_job(app)
        assert app.execution.state is State.NEW

    def test_jobs_that_the_queue_has_forgotten_leave_the_status_file(self, site: Site) -> None:
        backend = site.backend({"FAKE_HISTORY": "0"})
        apps = [Application(["true"]), Application(["sh", "-c", "exit 3"])]
        backend.submit_jobs(apps)
        settle(backend, apps, ended)
        assert [outcome(app) for app in apps] == [
            (State.DONE, Reason.EXITED, 0, None),
            (State.FAILED, Reason.EXITED, 3, None),
        ]

    def test_an_array_of_scattered_indices_is_one(self, site: Site) -> None:
        backend = site.backend()
        apps = expand_array(Application(["sh", "-c", "exit {index}"]), parse_array("1,3-4,10-30:10"), "task")
        assert not any(backend.submit_jobs(apps).values())
        assert {backend.array_jobid(str(app.execution.jobid)) for app in apps} == {"1[].frontend"}
        settle(backend, apps, ended)
        assert [app.execution.exitcode for app in apps] == [1, 3, 4, 10, 20, 30]
