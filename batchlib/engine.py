"""Drive many tasks to their end: submit what may start, watch what runs, retry, fetch outputs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from .application import Application
from .backends.base import Backend, Collected
from .config import Configuration, load
from .dependencies import Standing, by_id, native, parents, standing
from .errors import BatchlibError, CapacityReached, ConfigurationError, DataStagingError, Kind, SessionLocked
from .run import Reason, Run, State
from .session import Session

if TYPE_CHECKING:
    from .store import Row

#: States in which a task has to be watched or may be submitted.
ACTIVE = frozenset(state for state in State if not state.final)
#: Submissions of one task whose outcome stayed open, or that were found never to have arrived, before it is given up.
_MAX_ATTEMPTS = 10
#: Seconds between looks at a resource when nothing changes: the first, what each is multiplied by, and the most.
_FIRST_PAUSE, _GROWTH, _LONGEST_PAUSE = 0.25, 1.5, 30.0


@attrs.define
class _Site:
    """A resource as the engine sees it.

    Parameters
    ----------
    backend : Backend
        How to reach it.
    pause : float
        Seconds until the next look, counted from the last one.
    looked_at : float
        When that was, by the monotonic clock.
    problem : BatchlibError, optional
        Why it did not answer the last time.
    """

    backend: Backend
    pause: float = 0.0
    looked_at: float = float("-inf")
    problem: BatchlibError | None = None

    @property
    def due(self) -> float:
        return self.looked_at + self.pause


class Engine:
    """Drives the tasks of a session.

    Parameters
    ----------
    session : Session
        The tasks.
    configuration : Configuration, optional
        The resources; default is what the configuration files say.
    on : str, optional
        Resource for tasks that name none; default is the first that is enabled.
    max_in_flight : int, optional
        Tasks that the batch systems may have at a time: all in a live state (`State.live`), queued ones included.
    fetch : bool
        Fetch the outputs of tasks that have ended.
    submit : bool
        Submit new tasks.

    Attributes
    ----------
    unfetched : dict of str to str
        What this engine could not fetch and does not try again, by the tasks' ids.
    """

    def __init__(
        self,
        session: Session,
        configuration: Configuration | None = None,
        *,
        on: str | None = None,
        max_in_flight: int | None = None,
        fetch: bool = False,
        submit: bool = True,
        backends: Mapping[str, Backend] | None = None,
    ) -> None:
        self.session = session
        self.configuration = configuration if configuration is not None else load()
        self.default = on
        self.max_in_flight = max_in_flight
        self.fetch = fetch
        self.submit = submit
        self.unfetched: dict[str, str] = {}
        self._backends = backends or {}
        self._sites: dict[str, _Site] = {}
        self._unknown: dict[str, BatchlibError] = {}

    @property
    def problems(self) -> dict[str, BatchlibError]:
        """Resources that did not answer the last time, or are not configured, and why."""
        down = {name: site.problem for name, site in self._sites.items() if site.problem is not None}
        return self._unknown | down

    def backend(self, name: str) -> Backend:
        """Give the backend of a resource."""
        return self._site(name).backend

    def close(self) -> None:
        """Release all connections."""
        for site in self._sites.values():
            site.backend.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def progress(self, ids: Iterable[str] | None = None, *, patience: float = 0.0) -> dict[State, int]:
        """Run one cycle: recover and update states, retry, submit, fetch.

        Parameters
        ----------
        ids : iterable of str, optional
            Only these tasks; default is all of the session.
        patience : float
            Seconds to wait for another process that drives the session.

        Returns
        -------
        dict of State to int
            How many tasks of the session are in each state now.

        Raises
        ------
        SessionLocked
            Another process is driving the session.
        """
        chosen = None if ids is None else list(ids)
        with self.session.driving(patience):
            # rows are cheap, documents are not: only those of tasks that something is to be done about are read
            rows = self.session.rows(chosen, None if self.fetch else ACTIVE)
            apps = self.session.load([row.id for row in rows if self._unfinished(row.id, row)])
            groups: dict[str, list[Application]] = {}
            for app in apps:
                groups.setdefault(self.resource_of(app), []).append(app)
            in_flight = sum(app.execution.state.live for app in apps)
            for name, group in groups.items():
                in_flight += self._progress_on(name, group, in_flight)
        return self.session.counts()

    def run(
        self,
        on: str | None = None,
        *,
        ids: Iterable[str] | None = None,
        progress: bool = False,
        timeout: float | None = None,
        tell: Callable[[Mapping[State, int]], None] | None = None,
    ) -> dict[State, int]:
        """Run cycles until all tasks have ended.

        Parameters
        ----------
        on : str, optional
            Resource for tasks that name none.
        ids : iterable of str, optional
            Only these tasks; default is all of the session.
        progress : bool
            Show counts on standard error.
        timeout : float, optional
            Seconds after which to stop, whatever the state: 0 looks once, None waits for ever.
        tell : callable, optional
            Called after each cycle with the number of tasks in each state.

        Returns
        -------
        dict of State to int
            How many of these tasks are in each state now.
        """
        self.default = on or self.default
        chosen = None if ids is None else list(ids)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.suppress(SessionLocked):
                # while somebody else does the work, what they write is what we see
                self.progress(chosen, patience=_FIRST_PAUSE)
            rows = self.session.rows(chosen)
            counts: dict[State, int] = {}
            for row in rows:
                counts[row.state] = counts.get(row.state, 0) + 1
            if tell is not None:
                tell(counts)
            if progress:
                _show(counts)
            if not any(self._unfinished(row.id, row) for row in rows) or (
                deadline is not None and time.monotonic() >= deadline
            ):
                break
            self._sleep(deadline)
        if progress:
            sys.stderr.write("\n")
        return counts

    # --- one resource --------------------------------------------------------------------------------------

    def _progress_on(self, name: str, apps: Sequence[Application], in_flight: int) -> int:
        """Run one cycle on one resource; give by how much the number of tasks in flight changed."""
        before = [(app, app.execution.state) for app in apps]
        try:
            site = self._site(name)
        except ConfigurationError as error:
            self._unknown[name] = error
            for app in apps:
                if app.execution.state is State.NEW:
                    self._give_up(app, error)
            self.session.save(apps)
            return 0
        if time.monotonic() < site.due:
            return 0
        site.problem = None
        backend = site.backend
        self._recover(site, [app for app in apps if app.execution.state is State.SUBMITTING])
        live = [app for app in apps if app.execution.state.live and app.execution.jobid]
        if live and site.problem is None:
            self._note(site, backend.update_job_states(live))
        self._retry([app for app in apps if app.execution.state is State.FAILED])
        self.session.save(
            [app for app, state in before if app.execution.state is not state or app.execution.state.live]
        )
        if self.submit and site.problem is None:
            room = None if self.max_in_flight is None else max(0, self.max_in_flight - in_flight)
            self._submit(site, self._startable(site, [app for app in apps if app.execution.state is State.NEW])[:room])
        if self.fetch and site.problem is None:
            ended = [app for app in apps if app.execution.state.final]
            self._fetch(site, [app for app in ended if self._unfinished(app.task_id, app.execution)])
        changed = any(app.execution.state is not state for app, state in before)
        site.looked_at = time.monotonic()
        site.pause = _FIRST_PAUSE if changed else min(_LONGEST_PAUSE, max(_FIRST_PAUSE, site.pause * _GROWTH))
        return sum(app.execution.state.live for app in apps) - sum(state.live for _, state in before)

    def _recover(self, site: _Site, apps: Sequence[Application]) -> None:
        if not apps:
            return
        self._note(site, site.backend.recover_jobs(apps))
        for app in apps:
            if app.execution.state is State.NEW and app.execution.attempts >= _MAX_ATTEMPTS:
                self._give_up(app, BatchlibError(f"submitted {_MAX_ATTEMPTS} times without success"))
        self.session.save(apps)

    def _startable(self, site: _Site, apps: Sequence[Application]) -> list[Application]:
        """Choose the new tasks that depend on nothing, or on what the batch system can wait for by itself."""
        waited_for = parents(apps)
        if not waited_for:
            return list(apps)
        tasks = by_id(self.session.store.rows(waited_for, set(State)))
        chosen = []
        for app in apps:
            now = standing(app, tasks)
            app.execution.waits_for = ()
            if now is Standing.NEVER:
                app.execution.reason = Reason.DEPENDENCY
                app.set_state(State.OMITTED, "what it depends on did not end as asked")
                self.session.save([app])
            elif now is Standing.WAITS and site.backend.supports("dependency"):
                waits_for = native(app, tasks, site.backend.name)
                if waits_for is not None and site.backend.takes_dependency(waits_for):
                    app.execution.waits_for = waits_for
                    chosen.append(app)
            elif now is Standing.READY:
                chosen.append(app)
        return chosen

    def _submit(self, site: _Site, apps: Sequence[Application]) -> None:
        if not apps:
            return
        answers = site.backend.submit_jobs(apps, journal=self.session.save)
        for app, error in answers.items():
            if error is None:
                continue
            if error.kind is Kind.PERMANENT and app.execution.state is State.NEW:
                self._give_up(app, error)
        self._note(site, answers)
        self.session.save(apps)

    def _give_up(self, app: Application, error: BatchlibError) -> None:
        staging = isinstance(error, DataStagingError)
        app.execution.reason = Reason.STAGING_FAILED if staging else Reason.SUBMISSION_FAILED
        app.set_state(State.FAILED, str(error))

    def _retry(self, apps: Sequence[Application]) -> None:
        """Make failed tasks new again that have retries left."""
        for app in apps:
            run = app.execution
            if run.retried < app.retries and run.reason is not Reason.SUBMISSION_FAILED:
                self.backend(run.resource or "").free_jobs([app])
                app.execution = Run(resource=run.resource, retried=run.retried + 1, history=run.history)
                app.execution.note(f"trying again ({run.retried + 1} of {app.retries})")

    def _fetch(self, site: _Site, apps: Sequence[Application]) -> None:
        if not apps:
            return
        answers = site.backend.collect_jobs({app: app.output_dir or "." for app in apps})
        for app, answer in answers.items():
            if isinstance(answer, BatchlibError):
                said = f"outputs not fetched: {answer}"
                if app.execution.info != said:
                    app.execution.note(said)
                if answer.kind is Kind.PERMANENT:
                    self.unfetched[app.task_id or ""] = app.execution.info
            else:
                note_collected(app, answer)
                if answer.missing:
                    self.unfetched[app.task_id or ""] = f"missing outputs: {', '.join(answer.missing)}"
        self.session.save(apps)

    # --- helpers -------------------------------------------------------------------------------------------

    def _site(self, name: str) -> _Site:
        if name not in self._sites:
            self._sites[name] = _Site(self._backends.get(name) or self.configuration.resource(name))
        return self._sites[name]

    def resource_of(self, app: Application) -> str:
        """Give the name of a task's resource, choosing one when it has none."""
        if app.execution.resource is None:
            app.execution.resource = self.default or self._first_enabled()
        return app.execution.resource

    def _first_enabled(self) -> str:
        for name, settings in self.configuration.resources.items():
            if settings.enabled:
                return name
        raise ConfigurationError("no resource is enabled in the configuration")

    def _unfinished(self, task_id: str | None, run: Run | Row) -> bool:
        """Tell whether a task has not ended, or still has outputs to fetch."""
        if not run.state.final:
            return True
        waits = self.fetch and run.jobid is not None and not run.collected and not run.freed
        return waits and task_id not in self.unfetched

    def _note(self, site: _Site, answers: Mapping[Application, BatchlibError | None]) -> None:
        """Keep what a resource as a whole suffers from."""
        for error in answers.values():
            if error is not None and error.kind is not Kind.PERMANENT and not isinstance(error, CapacityReached):
                site.problem = error
                return

    def _sleep(self, deadline: float | None) -> None:
        """Wait until a resource is due."""
        now = time.monotonic()
        due = min((site.due for site in self._sites.values()), default=now + _FIRST_PAUSE)
        wait = max(0.02, due - now)
        if deadline is not None:
            wait = min(wait, max(0.0, deadline - now))
        time.sleep(wait)


def note_collected(app: Application, answer: Collected) -> None:
    """Write into a task's history what was fetched."""
    missing = f"; missing: {', '.join(answer.missing)}" if answer.missing else ""
    app.execution.note(f"{len(answer.files)} files fetched to {answer.directory}{missing}")


def _show(counts: Mapping[State, int]) -> None:
    listed = ", ".join(f"{count} {state.value}" for state, count in counts.items())
    sys.stderr.write(f"\r\x1b[K{listed}" if sys.stderr.isatty() else f"{listed}\n")
    sys.stderr.flush()
