"""Drive many tasks to their end: which resource is looked at when, side by side."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from .application import Application
from .backends.base import Backend
from .config import Configuration, load
from .cycle import Cycle, Room, Site, refuse
from .errors import BatchlibError, ConfigurationError, SessionLocked
from .polling import LONGEST_PAUSE, Look
from .run import State
from .session import Session
from .settings import DEFAULT_POLL_INTERVAL
from .side_by_side import SideBySide, for_each
from .store import Tally, by_state

#: Seconds between looks at what other processes wrote into the session.
_ATTENTION = 1.0
#: Seconds that one of many cycles waits for another process.
_SHORT_WAIT = 0.25
#: The note of the session that tells when a resource was looked at, before its name.
_NOTE = "look "


class Engine:
    """Drives the tasks of a session.

    Resources are driven side by side, each under a lock of its own: one that hangs does not slow the others.

    Parameters
    ----------
    session : Session
        The tasks.
    configuration : Configuration, optional
        The resources; default is what the configuration files say.
    on : str, optional
        Resource for tasks that name none; default is the first that is enabled.
    max_in_flight : int, optional
        Tasks that the batch systems may have at a time: all of the session in a live state (`State.live`), queued
        ones included.
    fetch : bool
        Fetch the outputs of tasks that have ended.
    submit : bool
        Submit new tasks.
    backends : mapping of str to Backend, optional
        Backends to use in the place of those that the configuration describes.

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
        self.fetch = fetch
        self.submit = submit
        self.unfetched: dict[str, str] = {}
        self._room = Room(max_in_flight)
        self._backends = backends or {}
        self._sites: dict[str, Site] = {}
        self._unknown: dict[str, BatchlibError] = {}

    @property
    def problems(self) -> dict[str, BatchlibError]:
        """Resources that did not answer the last time, or are not configured, and why."""
        down = {name: site.problem for name, site in list(self._sites.items()) if site.problem is not None}
        return self._unknown | down

    def backend(self, name: str) -> Backend:
        """Give the backend of a resource."""
        return self._site(name).backend

    def resource_of(self, app: Application) -> str:
        """Give the name of a task's resource, choosing one when it has none."""
        if app.execution.resource is None:
            app.execution.resource = self._default()
        return app.execution.resource

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

        A resource that was looked at just now, by whichever process, is not asked again.

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
            Another process is driving tasks of a resource; those of all others were driven.
        """
        chosen = None if ids is None else list(ids)
        locked: list[SessionLocked] = []

        def cycle(name: str) -> None:
            try:
                self._cycle(name, chosen, patience)
            except SessionLocked as error:
                locked.append(error)

        for_each(self._waiting(chosen), cycle)
        if locked:
            raise locked[0]
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
        due: dict[str, float] = {}

        def cycle(name: str) -> None:
            try:
                pause = self._cycle(name, chosen, _SHORT_WAIT, in_turn=True)
            except SessionLocked:
                # while somebody else does the work, what they write is what we see
                pause = _ATTENTION
            due[name] = time.monotonic() + pause

        counts: dict[State, int] = {}
        revision = -1
        waiting: dict[str, int] = {}
        with SideBySide(cycle) as cycles:
            while True:
                now = time.monotonic()
                changed = revision != (revision := self.session.store.revision())
                if changed:
                    waiting = self._waiting(chosen, cycles.busy)
                for name, new in waiting.items():
                    if due.get(name, now) <= now or (changed and new and self._takes_more(name)):
                        cycles.start(name, alone=len(waiting) == 1)
                idle = not waiting and not cycles.busy
                cycles.wait(0.0 if idle else _until(deadline, (due[name] for name in waiting if name in due)))
                tally = self.session.store.tally(chosen)
                told, counts = counts, by_state(tally)
                if tell is not None:
                    tell(counts)
                if progress and told != counts:
                    _show(counts)
                if not (self._open(tally, chosen) or cycles.busy) or (
                    deadline is not None and time.monotonic() >= deadline
                ):
                    break
        if progress:
            sys.stderr.write("\n")
        return self.session.store.counts(chosen)

    # --- one round -----------------------------------------------------------------------------------------

    def _waiting(self, chosen: Collection[str] | None, busy: Collection[str] = ()) -> dict[str, int]:
        """Find the resources where something is to be done; give how many new tasks each of them has."""
        store = self.session.store
        with contextlib.suppress(SessionLocked):
            self._assign(chosen)
        if self._room.most is not None:
            live: dict[str, int] = {}
            for part in store.tally():
                if part.resource is not None and part.resource not in busy:
                    live[part.resource] = live.get(part.resource, 0) + part.count * part.state.live
            self._room.count(live)
        waiting: dict[str, int] = {}
        for part in self._open(store.tally(chosen), chosen):
            if part.resource is not None:
                waiting[part.resource] = waiting.get(part.resource, 0) + part.count * (part.state is State.NEW)
        return waiting

    def _open(self, tally: Iterable[Tally], chosen: Collection[str] | None) -> list[Tally]:
        """Choose the tasks that have not ended, or have outputs that can still be fetched."""
        found = []
        fetchable: dict[str | None, list[Tally]] = {}
        for part in tally:
            if not part.state.final:
                found.append(part)
            elif self.fetch and part.outputs_wait:
                fetchable.setdefault(part.resource, []).append(part)
        for resource, parts in fetchable.items():
            site = self._sites.get(resource or "")
            hopeless = [task for task in site.unfetchable if _is_among(task, chosen)] if site is not None else []
            if sum(part.count for part in parts) > len(hopeless):
                found += parts
        return found

    def _assign(self, chosen: Collection[str] | None) -> None:
        """Choose the resource of tasks that name none."""
        store = self.session.store
        if not store.unfinished(None, chosen):
            return
        with self.session.driving(_SHORT_WAIT, [None]):
            apps = self.session.load(store.unfinished(None, chosen))
            for app in apps:
                self.resource_of(app)
            self.session.save(apps)

    def _takes_more(self, name: str) -> bool:
        """Tell whether new tasks can be submitted to a resource before it is looked at again."""
        site = self._sites.get(name)
        return self.submit and self._room.free and (site is None or not site.full)

    def _cycle(self, name: str, chosen: Collection[str] | None, patience: float, *, in_turn: bool = False) -> float:
        """Run one cycle on one resource; give the seconds until its next turn.

        Parameters
        ----------
        name : str
            The resource.
        chosen : collection of str or None
            The tasks to drive; None for all.
        patience : float
            Seconds to wait for another process that drives them.
        in_turn : bool
            Look only when it is time to; else also when that would not be too soon after the last look.
        """
        store = self.session.store
        with self.session.driving(patience, [name]):
            try:
                site = self._site(name)
            except ConfigurationError as error:
                self._unknown[name] = error
                refuse(self.session, self.session.load(store.unfinished(name, chosen)), error)
                return LONGEST_PAUSE
            site.look = max(site.look, Look.read(store.note(_NOTE + name)), key=lambda look: look.at)
            look = site.look.wait(site.look.pause if in_turn else site.minimum) <= 0
            ids = (
                store.unfinished(name, chosen, outputs=self.fetch)
                if look
                else store.unfinished(name, chosen, {State.NEW})
            )
            apps = self.session.load(ids)
            cycle = Cycle(self.session, site, self._room, self.unfetched)
            changed = cycle.run(apps, look=look, submit=self.submit, fetch=self.fetch)
            if not (look or changed):
                return site.look.wait(site.look.pause)
            site.look = cycle.next_look(apps, changed=changed)
            if not cycle.looked:
                return site.look.pause
            if chosen is None:
                store.note(_NOTE + name, site.look.write())
            return site.look.wait(site.look.pause)

    # --- helpers -------------------------------------------------------------------------------------------

    def _site(self, name: str) -> Site:
        if name not in self._sites:
            backend = self._backends.get(name) or self.configuration.resource(name)
            settings = self.configuration.resources.get(name)
            self._sites[name] = Site(name, backend, settings.poll_interval if settings else DEFAULT_POLL_INTERVAL)
        return self._sites[name]

    def _default(self) -> str:
        if self.default is not None:
            return self.default
        for name, settings in self.configuration.resources.items():
            if settings.enabled:
                return name
        raise ConfigurationError("no resource is enabled in the configuration")


def _until(deadline: float | None, due: Iterable[float]) -> float:
    """Give the seconds to wait: until one of these times, but not for long."""
    now = time.monotonic()
    times = [*due] if deadline is None else [deadline, *due]
    return max(0.02, min([_ATTENTION, *(moment - now for moment in times)]))


def _is_among(task: str, chosen: Collection[str] | None) -> bool:
    return chosen is None or task in chosen or task.partition(".")[0] in chosen


def _show(counts: Mapping[State, int]) -> None:
    listed = ", ".join(f"{count} {state.value}" for state, count in counts.items())
    sys.stderr.write(f"\r\x1b[K{listed}" if sys.stderr.isatty() else f"{listed}\n")
    sys.stderr.flush()
