"""What is done for the tasks of one resource in one cycle: recover, look, retry, submit, fetch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import attrs

from .application import Application
from .backends.base import Backend, Collected
from .dependencies import Standing, by_id, native, parents, standing
from .errors import BatchlibError, CapacityReached, DataStagingError, Kind
from .polling import Durations, Look, next_pause
from .run import Reason, Run, State
from .session import Session

#: Submissions of one task whose outcome stayed open, or that were found never to have arrived, before it is given up.
_MAX_ATTEMPTS = 10


class Room:
    """How many tasks may be given to batch systems, counted over resources that are driven side by side.

    Parameters
    ----------
    most : int or None
        Tasks that may be in a live state at a time; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._live: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self, live: Mapping[str, int]) -> None:
        """Take in how many tasks of each resource are live."""
        with self._lock:
            self._live.update(live)

    def reserve(self, resource: str, wanted: int) -> int:
        """Give the number of tasks, up to `wanted`, that may be submitted now to one resource."""
        with self._lock:
            used = sum(self._live.values())
            granted = wanted if self.most is None else max(0, min(wanted, self.most - used))
            self._live[resource] = self._live.get(resource, 0) + granted
        return granted

    @property
    def free(self) -> bool:
        """Whether there is any."""
        with self._lock:
            return self.most is None or sum(self._live.values()) < self.most


@attrs.define(eq=False)
class Site:
    """A resource as the engine sees it.

    Parameters
    ----------
    name : str
        Its name.
    backend : Backend
        How to reach it.
    minimum : float
        Seconds between two looks at least.
    problem : BatchlibError, optional
        Why it did not answer the last time.
    full : bool
        Whether it did not take all tasks the last time.
    unfetchable : set of str
        Ids of tasks whose outputs can't be fetched.
    look : Look
        When it was looked at last, and when it is time for the next look.
    durations : Durations
        How long its tasks took.
    """

    name: str
    backend: Backend
    minimum: float
    problem: BatchlibError | None = None
    full: bool = False
    unfetchable: set[str] = attrs.Factory(set)
    look: Look = attrs.Factory(Look)
    durations: Durations = attrs.Factory(Durations)


class Cycle:
    """One cycle for the tasks of one resource, whose lock has to be held.

    Parameters
    ----------
    session : Session
        Where the tasks are written to.
    site : Site
        The resource.
    room : Room
        How many more tasks may be submitted.
    unfetched : dict of str to str
        Takes the ids of tasks whose outputs can't be fetched, and why.
    """

    def __init__(self, session: Session, site: Site, room: Room, unfetched: dict[str, str]) -> None:
        self._session = session
        self._site = site
        self._room = room
        self._unfetched = unfetched
        #: Whether the resource was asked how tasks are doing, and how many seconds it took to answer.
        self.looked = False
        self._cost = 0.0

    def run(self, apps: Sequence[Application], *, look: bool, submit: bool, fetch: bool) -> bool:
        """Do what is to be done for tasks; tell whether anything changed.

        Parameters
        ----------
        apps : sequence of Application
            The tasks.
        look : bool
            Ask how they are doing. Without it, only new tasks are submitted.
        submit, fetch : bool
            Submit new tasks; fetch the outputs of those that have ended.
        """
        before = {app: _seen(app) for app in apps}
        site = self._site
        if look:
            site.problem = None
            site.full = False
            self._recover([app for app in apps if app.execution.state is State.SUBMITTING])
            live = [app for app in apps if app.execution.state.live and app.execution.jobid]
            if live and site.problem is None:
                began = time.monotonic()
                self._note(site.backend.update_job_states(live))
                # what is under way is no load for anybody
                self._cost = max(0.0, time.monotonic() - began - 2 * site.backend.delay)
                self.looked = True
            self._retry([app for app in apps if app.execution.state is State.FAILED])
            self._session.save([app for app in apps if _seen(app) != before[app]])
        if submit and site.problem is None and not site.full:
            self._submit(self._startable([app for app in apps if app.execution.state is State.NEW]))
        if fetch and site.problem is None:
            self._fetch([app for app in apps if app.execution.outputs_wait and app.task_id not in site.unfetchable])
        ended = [app for app in apps if app.execution.state.final and before[app][0] is not app.execution.state]
        for app in ended:
            site.durations.learn(app)
        return any(before[app][0] is not app.execution.state for app in apps)

    def next_look(self, apps: Sequence[Application], *, changed: bool) -> Look:
        """Say when the resource should be looked at again.

        Parameters
        ----------
        apps : sequence of Application
            The tasks of this cycle.
        changed : bool
            Whether anything had changed.
        """
        site = self._site
        running = [app for app in apps if app.execution.state is State.RUNNING]
        expected = site.durations.next_change(running) if site.problem is None else None
        pause = next_pause(site.look.pause, changed=changed, cost=self._cost, minimum=site.minimum, expected=expected)
        return Look(time.time() if self.looked else site.look.at, pause)

    def _recover(self, apps: Sequence[Application]) -> None:
        if not apps:
            return
        self._note(self._site.backend.recover_jobs(apps))
        for app in apps:
            if app.execution.state is State.NEW and app.execution.attempts >= _MAX_ATTEMPTS:
                _give_up(app, BatchlibError(f"submitted {_MAX_ATTEMPTS} times without success"))
        self._session.save(apps)

    def _startable(self, apps: Sequence[Application]) -> list[Application]:
        """Choose the new tasks that depend on nothing, or on what the batch system can wait for by itself."""
        waited_for = parents(apps)
        if not waited_for:
            return list(apps)
        backend = self._site.backend
        tasks = by_id(self._session.store.rows(waited_for, set(State)))
        chosen = []
        for app in apps:
            now = standing(app, tasks)
            app.execution.waits_for = ()
            if now is Standing.NEVER:
                app.execution.reason = Reason.DEPENDENCY
                app.set_state(State.OMITTED, "what it depends on did not end as asked")
                self._session.save([app])
            elif now is Standing.WAITS and backend.supports("dependency"):
                waits_for = native(app, tasks, backend.name)
                if waits_for is not None and backend.takes_dependency(waits_for):
                    app.execution.waits_for = waits_for
                    chosen.append(app)
            elif now is Standing.READY:
                chosen.append(app)
        return chosen

    def _submit(self, apps: Sequence[Application]) -> None:
        if not apps:
            return
        apps = apps[: self._room.reserve(self._site.name, len(apps))]
        answers = self._site.backend.submit_jobs(apps, journal=self._session.save)
        for app, error in answers.items():
            if error is not None and error.kind is Kind.PERMANENT and app.execution.state is State.NEW:
                _give_up(app, error)
        self._note(answers)
        self._site.full = any(app.execution.state is State.NEW for app in apps)
        self._session.save(apps)

    def _retry(self, apps: Sequence[Application]) -> None:
        """Make failed tasks new again that have retries left."""
        for app in apps:
            run = app.execution
            if run.retried < app.retries and run.reason is not Reason.SUBMISSION_FAILED:
                self._site.backend.free_jobs([app])
                app.execution = Run(resource=run.resource, retried=run.retried + 1, history=run.history)
                app.execution.note(f"trying again ({run.retried + 1} of {app.retries})")

    def _fetch(self, apps: Sequence[Application]) -> None:
        if not apps:
            return
        answers = self._site.backend.collect_jobs({app: app.output_dir or "." for app in apps})
        for app, answer in answers.items():
            if isinstance(answer, BatchlibError):
                said = f"outputs not fetched: {answer}"
                if app.execution.info != said:
                    app.execution.note(said)
                if answer.kind is Kind.PERMANENT:
                    self._unfetched[app.task_id or ""] = app.execution.info
                    self._site.unfetchable.add(app.task_id or "")
            else:
                note_collected(app, answer)
                if answer.missing:
                    self._unfetched[app.task_id or ""] = f"missing outputs: {', '.join(answer.missing)}"
        self._session.save(apps)

    def _note(self, answers: Mapping[Application, BatchlibError | None]) -> None:
        """Keep what the resource as a whole suffers from."""
        for error in answers.values():
            if error is not None and error.kind is not Kind.PERMANENT and not isinstance(error, CapacityReached):
                self._site.problem = error
                return


def refuse(session: Session, apps: Sequence[Application], error: BatchlibError) -> None:
    """Give up new tasks that can't be submitted anywhere."""
    for app in apps:
        if app.execution.state is State.NEW:
            _give_up(app, error)
    session.save(apps)


def note_collected(app: Application, answer: Collected) -> None:
    """Write into a task's history what was fetched."""
    missing = f"; missing: {', '.join(answer.missing)}" if answer.missing else ""
    app.execution.note(f"{len(answer.files)} files fetched to {answer.directory}{missing}")


def _give_up(app: Application, error: BatchlibError) -> None:
    staging = isinstance(error, DataStagingError)
    app.execution.reason = Reason.STAGING_FAILED if staging else Reason.SUBMISSION_FAILED
    app.set_state(State.FAILED, str(error))


def _seen(app: Application) -> tuple[object, ...]:
    """Give what a look at a task can change, to tell whether it is to be written again."""
    run = app.execution
    return (run.state, run.native_state, run.reason, run.unseen_since, run.info, len(run.history), run.accounting)
