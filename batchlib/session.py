"""A named, durable set of tasks.

A session is a directory with a database, which any number of processes may read and add tasks to, and locks: whoever
drives the tasks on a resource holds that resource's lock during a cycle, so that one that hangs stops no other.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from .application import Application, twin
from .array import ArraySpec, distinct_elements, parse_array
from .dependencies import parents
from .errors import InvalidValue, SessionError, SessionLocked
from .run import Run, State

if TYPE_CHECKING:
    from .store import Row, Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DATABASE = "session.db"
_LOCK = "lock"
#: How often a lock that is taken is tried again, in seconds.
_LOCK_INTERVAL = 0.1
#: Seconds to wait for it before a database of an earlier version is converted.
_UPGRADE_PATIENCE = 30.0


def sessions_directory() -> Path:
    """Give the directory of the sessions that are named without a path."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(home, "batchlib", "sessions")


def session_directory(name: str | os.PathLike[str]) -> Path:
    """Give the directory of a session.

    Parameters
    ----------
    name : str or path
        A name, or a path that holds a ``/``.

    Raises
    ------
    InvalidValue
        It is neither.
    """
    text = os.fspath(name)
    if "/" in text:
        return Path(text).expanduser().absolute()
    if not _NAME.fullmatch(text):
        raise InvalidValue(f"{text!r} is no name for a session: use letters, digits, and ._- , or a path with a /")
    return sessions_directory() / text


def session_names() -> list[str]:
    """List the sessions that are named without a path."""
    directory = sessions_directory()
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in directory.iterdir() if (entry / _DATABASE).exists())


class Session:
    """A durable set of tasks; opening it again finds the same ones.

    Use as a context manager, or `close` it.

    Parameters
    ----------
    name : str or path
        Its name, or its directory (with a ``/``); default is ``$BATCHLIB_SESSION`` or ``default``.
    create : bool
        Make it when there is none.

    Raises
    ------
    SessionError
        It can't be opened, or does not exist and `create` is false.
    """

    def __init__(self, name: str | os.PathLike[str] | None = None, *, create: bool = True) -> None:
        chosen = os.fspath(name) if name is not None else os.environ.get("BATCHLIB_SESSION") or "default"
        self.directory = session_directory(chosen)
        self.name = chosen if "/" not in chosen else str(self.directory)
        database = self.directory / _DATABASE
        if not create and not database.exists():
            names = session_names()
            there = f"; there are: {', '.join(names)}" if names else ""
            raise SessionError(f"there is no session {self.name!r}{there}")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(self.directory, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise SessionError(f"the session directory {self.directory} can't be used: {error.strerror}") from error
        self._store: Store | None = None
        self._apps: dict[str, Application] = {}
        self._revisions: dict[str, int] = {}
        #: all tasks that are known here are as they were then, or newer
        self._seen = 0
        self._one_at_a_time = threading.RLock()

    @property
    def store(self) -> Store:
        """The database."""
        if self._store is None:
            # imported late: who mistypes a name need not wait for it
            from .store import Store

            self._store = Store(f"sqlite:///{self.directory / _DATABASE}", lambda: self._locked(_UPGRADE_PATIENCE))
        return self._store

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def add(self, *apps: Application, directory: str | os.PathLike[str] = ".") -> list[str]:
        """Add tasks.

        Local paths in them are made absolute, as tasks may be driven from anywhere later.

        Parameters
        ----------
        *apps : Application
            Tasks that are in no session yet.
        directory : path
            Where a task without an `output_dir` gets one, named after its id; default is the working directory.

        Returns
        -------
        list of str
            Their ids.
        """
        for app in apps:
            if app.task_id is not None:
                raise InvalidValue(f"{app!r} is in a session already, as {app.task_id}")
            _make_absolute(app)
        self._check_parents(parents(apps))
        with self._one_at_a_time:
            self._wrote(apps, self.store.add(apps, _absolute(os.fspath(directory))))
        return [app.task_id or "" for app in apps]

    def add_array(self, app: Application, spec: ArraySpec | str, directory: str | os.PathLike[str] = ".") -> list[str]:
        """Add an array: a task for each of its elements, with ids such as ``7.1``, ``7.2``, ...

        Parameters
        ----------
        app : Application
            The description of all of them; ``{index}`` in it stands for an element's index.
        spec : ArraySpec or str
            The indices, such as ``1-100%10``.
        directory : path
            As for `add`.

        Returns
        -------
        list of str
            The elements' ids; the array's own, which stands for all of them, is what comes before the dot.
        """
        spec = parse_array(spec) if isinstance(spec, str) else spec
        app = twin(app, Run(resource=app.execution.resource))
        _make_absolute(app)
        self._check_parents(parents(distinct_elements(app, spec)))
        return self.store.add_array(app, spec.indices, spec.max_running, _absolute(os.fspath(directory)))

    def _check_parents(self, ids: Collection[str]) -> None:
        """Refuse to wait for tasks that are not there, so that nobody waits in a circle."""
        if ids:
            self.rows(ids)

    def load(self, ids: Collection[str] | None = None, states: Collection[State] | None = None) -> list[Application]:
        """Read tasks, with whatever other processes wrote of them.

        The same task is the same object every time. Only what has changed is read again.

        Parameters
        ----------
        ids : collection of str, optional
            Which; default is all.
        states : collection of State, optional
            Only those in one of these.

        Raises
        ------
        TaskNotFound
            One of `ids` is not there.
        """
        with self._one_at_a_time, _without_collector():
            self._catch_up()
            if ids is not None and states is None and self._apps.keys() >= (chosen := dict.fromkeys(ids)).keys():
                return [self._apps[task_id] for task_id in chosen]
            apps = []
            for task_id, revision, loaded in self.store.load(ids, states, known=self._revisions):
                if loaded is not None:
                    self._take_in(task_id, revision, loaded)
                apps.append(self._apps[task_id])
            return apps

    def _catch_up(self) -> None:
        """Take in what other processes wrote of the tasks that are known here."""
        revision, removed = self.store.revisions()
        if self._apps and revision > self._seen:
            if removed > self._seen:
                for task_id in self._apps.keys() - self.store.ids():
                    del self._apps[task_id], self._revisions[task_id]
            changed = self.store.changed(self._seen)
            stale = [task_id for task_id, at in changed if self._revisions.get(task_id, at) != at]
            for task_id, at, loaded in self.store.load(stale):
                if loaded is not None:
                    self._take_in(task_id, at, loaded)
        self._seen = revision

    def _take_in(self, task_id: str, revision: int, loaded: Application) -> None:
        app = self._apps.setdefault(task_id, loaded)
        if app is not loaded:
            app.execution, app.output_dir = loaded.execution, loaded.output_dir
        self._revisions[task_id] = revision

    def _wrote(self, apps: Iterable[Application], revision: int) -> None:
        """Note that we know what is in the database of some tasks, as it is from here."""
        for app in apps:
            task_id = app.task_id or ""
            self._apps[task_id], self._revisions[task_id] = app, revision
        if revision == self._seen + 1:
            # nobody else wrote in between
            self._seen = revision

    def save(self, apps: Iterable[Application]) -> None:
        """Write what became of tasks, all or none; it is on disk when this returns."""
        apps = list(apps)
        if apps:
            # no other thread may take what is being written for news from another process
            with self._one_at_a_time:
                self._wrote(apps, self.store.save(apps))

    def rows(self, ids: Collection[str] | None = None, states: Collection[State] | None = None) -> list[Row]:
        """List tasks as they were written last."""
        return list(self.store.rows(ids, states))

    def ids(self) -> list[str]:
        """List the ids of all tasks."""
        return self.store.ids()

    def counts(self, ids: Collection[str] | None = None) -> dict[State, int]:
        """Count tasks by state: all, or some."""
        return self.store.counts(ids)

    def resources(self, ids: Collection[str] | None = None) -> set[str | None]:
        """List the resources of tasks; None stands for tasks that have none yet.

        Parameters
        ----------
        ids : collection of str, optional
            Which tasks; default is all.
        """
        return {part.resource for part in self.store.tally(ids)}

    def remove(self, apps: Iterable[Application]) -> None:
        """Forget tasks. What they left on a cluster stays there: free it first."""
        ids = [app.task_id for app in apps if app.task_id is not None]
        with self._one_at_a_time:
            self.store.remove(ids)
            for task_id in ids:
                self._apps.pop(task_id, None)
                self._revisions.pop(task_id, None)

    def destroy(self) -> None:
        """Remove the session with all its tasks."""
        self.close()
        try:
            shutil.rmtree(self.directory)
        except OSError as error:
            raise SessionError(f"the session directory {self.directory} can't be removed: {error}") from error

    @contextlib.contextmanager
    def driving(self, timeout: float = 0.0, resources: Iterable[str | None] | None = None) -> Iterator[None]:
        """Hold the locks under which tasks are driven: only one process at a time drives those of a resource.

        Parameters
        ----------
        timeout : float
            Seconds to wait for them.
        resources : iterable of (str or None), optional
            Names of the resources whose tasks are to be driven, None for tasks that have no resource yet; default is
            the whole session.

        Raises
        ------
        SessionLocked
            Another process has one of them; the message says which.
        """
        # first, as it may have to be converted by whoever holds the lock
        _ = self.store
        with self._locked(timeout, resources):
            yield

    @contextlib.contextmanager
    def _locked(self, timeout: float, resources: Iterable[str | None] | None = None) -> Iterator[None]:
        whole = self.directory / _LOCK
        wanted = [(whole, fcntl.LOCK_EX if resources is None else fcntl.LOCK_SH)]
        # always in the same order, so that nobody waits in a circle
        names = sorted({name or "" for name in resources or ()})
        wanted += [(self.directory / f"{_LOCK}-{quote(name, safe='')}", fcntl.LOCK_EX) for name in names]
        deadline = time.monotonic() + timeout
        with contextlib.ExitStack() as stack:
            for path, kind in wanted:
                self._lock(path, kind, deadline, stack)
            yield

    def _lock(self, path: Path, kind: int, deadline: float, stack: contextlib.ExitStack) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SessionError(f"the session's lock {path} can't be opened: {error.strerror}") from error
        # closing releases it; so does the end of the process, however it comes
        stack.callback(os.close, descriptor)
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise SessionLocked(f"the session {self.name} is being driven by {_holder(path)}") from None
                time.sleep(_LOCK_INTERVAL)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200]}
        text = json.dumps({**holder, "since": time.time()}).encode()
        # several may hold the lock of the whole together: the latest of them is named
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the search for garbage away while many objects are made that are none: it would take half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _make_absolute(app: Application) -> None:
    """Make local paths absolute, as tasks may be driven from anywhere later."""
    if app.inputs:
        app.inputs = {_absolute(local): remote for local, remote in app.inputs.items()}
    if app.stdin is not None:
        app.stdin = _absolute(app.stdin)
    if app.output_dir is not None:
        app.output_dir = _absolute(app.output_dir)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


@attrs.frozen
class _Holder:
    pid: int
    host: str
    command: str
    since: float


def _holder(path: Path) -> str:
    """Say who holds a lock."""
    try:
        holder = _Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return "another process"
    since = time.strftime("%H:%M:%S", time.localtime(holder.since))
    return f"process {holder.pid} on {holder.host} ({holder.command}) since {since}"
