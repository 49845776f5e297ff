"""A backend without any cluster behind it, for tests and benchmarks of what drives backends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence

from batchlib import Application, BatchlibError, State
from batchlib.array import ArraySpec
from batchlib.backends.base import (
    Action,
    Answer,
    Backend,
    Collected,
    JobFilter,
    JobInfo,
    Journal,
    Machine,
    Outcome,
    Queue,
    ResourceStatus,
)
from batchlib.errors import CapacityReached, UnsupportedOperation
from batchlib.run import Reason
from batchlib.sandbox import new_token


class StandIn(Backend):
    """Accepts jobs, and says of them what it is told to say.

    Parameters
    ----------
    name : str
        The resource's name.
    ends : callable, optional
        Tells whether a job that is looked at has ended; default is that each ends at the second look at it.
    room : int, optional
        Jobs that it takes at a time.

    Attributes
    ----------
    asked : list of (str, int)
        What was asked of it, with the number of jobs.
    submitted : list of str
        The names of jobs in the order in which they came.
    trouble : BatchlibError or None
        What it answers instead of an answer.
    hangs : threading.Event
        While it is cleared, nothing is answered at all.
    reached : threading.Event
        Set by the first request.
    """

    type = "stand-in"

    def __init__(
        self, name: str, ends: Callable[[Application, int], bool] | None = None, room: int | None = None
    ) -> None:
        self.name = name
        self.asked: list[tuple[str, int]] = []
        self.submitted: list[str] = []
        self.trouble: BatchlibError | None = None
        self.hangs = threading.Event()
        self.hangs.set()
        self.reached = threading.Event()
        self._ends = ends or (lambda app, looks: looks >= 2)
        self._room = room
        self._looks: dict[str, int] = {}

    def count(self, what: str) -> int:
        """Tell how often something was asked."""
        return sum(name == what for name, _ in self.asked)

    def _hear(self, what: str, apps: Sequence[Application]) -> None:
        self.asked.append((what, len(apps)))
        self.reached.set()
        self.hangs.wait()

    def submit_jobs(
        self, apps: Sequence[Application], journal: Journal | None = None
    ) -> dict[Application, BatchlibError | None]:
        """Take as many jobs as there is room for."""
        self._hear("submit", apps)
        if self.trouble is not None:
            return dict.fromkeys(apps, self.trouble)
        answers: dict[Application, BatchlibError | None] = {}
        for app in apps:
            if self._room is not None and len(self._looks) >= self._room:
                answers[app] = CapacityReached("full", resource=self.name)
                continue
            run = app.execution
            run.token, run.resource = new_token(), self.name
            run.jobid = f"{self.name}.{len(self.submitted)}"
            self._looks[run.jobid] = 0
            self.submitted.append(app.jobname)
            app.set_state(State.QUEUED)
            answers[app] = None
        return answers

    def recover_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Nothing is ever unclear here."""
        return dict.fromkeys(apps)

    def update_job_states(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Run jobs, and end those of which it is time."""
        self._hear("look", apps)
        if self.trouble is not None:
            return dict.fromkeys(apps, self.trouble)
        for app in apps:
            jobid = app.execution.jobid or ""
            self._looks[jobid] = self._looks.get(jobid, 0) + 1
            if self._ends(app, self._looks[jobid]):
                del self._looks[jobid]
                app.execution.exitcode, app.execution.reason = 0, Reason.EXITED
                app.set_state(State.DONE)
            else:
                app.set_state(State.RUNNING)
        return dict.fromkeys(apps)

    def control_jobs(
        self, apps: Sequence[Application], action: Action, signal: str = "", journal: Journal | None = None
    ) -> dict[Application, Answer]:
        """Say that it is done."""
        self._hear(action.value, apps)
        return dict.fromkeys(apps, Answer(Outcome.DONE))

    def collect_jobs(
        self,
        targets: Mapping[Application, str | os.PathLike[str]],
        overwrite: bool = False,
        changed_only: bool = True,
    ) -> dict[Application, Collected | BatchlibError]:
        """Say that all is there."""
        self._hear("collect", list(targets))
        for app in targets:
            app.execution.collected = True
        return {app: Collected(os.fspath(target), ("stdout.txt",), ()) for app, target in targets.items()}

    def read_output(self, app: Application, remote_filename: str, offset: int = 0, size: int | None = None) -> bytes:
        """Give nothing."""
        return b""

    def free_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Say that it is done."""
        for app in apps:
            app.execution.freed = True
        return dict.fromkeys(apps)

    def list_jobs(self, filter: JobFilter | None = None) -> list[JobInfo]:  # noqa: A002 - the contract's name
        """List nothing."""
        return []

    def list_queues(self) -> list[Queue]:
        """List nothing."""
        return []

    def list_machines(self) -> list[Machine]:
        """List nothing."""
        return []

    def get_resource_status(self) -> ResourceStatus:
        """There is nothing to be busy."""
        raise UnsupportedOperation("a stand-in has no status")

    def render(self, app: Application, array: ArraySpec | None = None) -> str:
        """There is no script."""
        return ""

    def validate(self, app: Application) -> None:
        """Everything can be run."""

    def ping(self) -> None:
        """Answer."""

    def version(self) -> str:
        """Give a name."""
        return "stand-in"

    def supports(self, capability: str) -> bool:
        """It can do nothing special."""
        return False

    def close(self) -> None:
        """There is no connection."""
