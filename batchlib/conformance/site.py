"""A resource under test, and what scenarios need again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..application import Application
from ..backends.batch import BatchSystem
from ..errors import BatchlibError, CapacityReached
from ..run import Reason, State

#: How a job ended: state, reason, exit code, signal.
Outcome = tuple[State, Reason | None, int | None, int | None]

#: Seconds that anything may take on a busy machine, but for limits that the system itself is slow to enforce.
PATIENCE = 120.0
#: Seconds for those: Slurm looks every 30 s whether a job is over its limit, and counts in minutes.
LIMIT_PATIENCE = 240.0


class Site:
    """A backend under test; leaving it cancels and removes what is left.

    Parameters
    ----------
    backend : BatchSystem
        The resource.
    down : callable, optional
        Gives a context manager in which the batch system's server is dead; without it such scenarios are left out.
    """

    def __init__(self, backend: Any, down: Callable[[], AbstractContextManager[None]] | None = None) -> None:
        self.backend: BatchSystem = backend
        self.down = down
        self._apps: list[Application] = []
        self._overdue: Application | None = None

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.backend.update_job_states(self._apps)
        live = [app for app in self._apps if app.execution.state.live]
        self.backend.cancel_jobs(live)
        self.backend.free_jobs([app for app in self._apps if app.execution.state.final])
        self.backend.close()

    def submit(self, *apps: Application) -> None:
        """Submit jobs that have to be accepted."""
        if self._overdue is None:
            # limits take their time: this job is looked at by the last scenario
            self._overdue = Application(["sleep", "900"], requested_walltime="2 s", jobname="overdue")
            self._submit(self._overdue)
        self._submit(*apps)

    def _submit(self, *apps: Application) -> None:
        self._apps += apps
        deadline = time.monotonic() + PATIENCE
        left = list(apps)
        while left:
            answers = self.backend.submit_jobs(left)
            for error in answers.values():
                if error is not None and (not isinstance(error, CapacityReached) or time.monotonic() > deadline):
                    raise error
            left = [app for app, error in answers.items() if error is not None]
            if left:
                time.sleep(0.2)

    @property
    def overdue(self) -> Application:
        """A job that was submitted early and runs longer than it may."""
        if self._overdue is None:
            self.submit()
        assert self._overdue is not None  # noqa: S101 - submitted just now
        return self._overdue

    def wait(
        self, apps: Sequence[Application], until: Callable[[Application], bool], patience: float = PATIENCE
    ) -> None:
        """Update states until something holds for all jobs."""
        deadline = time.monotonic() + patience
        while not all(map(until, apps)):
            if time.monotonic() > deadline:
                states = [(app.jobname, app.execution.state.value, app.execution.native_state) for app in apps]
                raise TimeoutError(f"what was waited for did not happen: {states}")
            for error in self.backend.update_job_states(apps).values():
                if error is not None:
                    raise error
            time.sleep(0.2)

    def end(self, *apps: Application, patience: float = PATIENCE) -> list[Outcome]:
        """Wait until jobs have ended, and give how."""
        self.wait(apps, lambda app: app.execution.state.final, patience)
        return [outcome(app) for app in apps]

    def run(self, *apps: Application) -> list[Outcome]:
        """Submit jobs, wait for their ends, and give how they ended."""
        self.submit(*apps)
        return self.end(*apps)

    def reach(self, app: Application, *states: State) -> None:
        """Wait until a job is in one of some states."""
        self.wait([app], lambda app: app.execution.state in states or app.execution.state.final)
        if app.execution.state not in states:
            raise BatchlibError(f"{app} ended instead of reaching {states}: {app.execution.info}")


def outcome(app: Application) -> Outcome:
    """Give how a job ended: state, reason, exit code, signal."""
    run = app.execution
    return run.state, run.reason, run.exitcode, run.signal
