"""The same work for several names, such as those of resources, in threads side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection


class SideBySide:
    """Does the same for several names side by side, for each of them once at a time.

    Use as a context manager: leaving it waits for all, but not after an error or Ctrl-C. What is cut short then is in
    the same case as after a crash, and found out about in the same way.

    Parameters
    ----------
    work : callable
        What to do, given a name.
    """

    def __init__(self, work: Callable[[str], None]) -> None:
        self._work = work
        self.busy: set[str] = set()
        self._news = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            with self._changed:
                self._changed.wait_for(lambda: not self.busy)
            self.wait(0)

    def start(self, name: str, *, alone: bool = False) -> None:
        """Begin for one name, unless that is under way.

        Parameters
        ----------
        name : str
            The name.
        alone : bool
            There is nothing else to do: do it at once, in this thread.
        """
        if alone and not self.busy:
            self._work(name)
            self._news = True
        elif name not in self.busy:
            self.busy.add(name)
            threading.Thread(target=self._run, args=(name,), name=f"batchlib-{name}", daemon=True).start()

    def wait(self, timeout: float) -> None:
        """Wait until one is done, and raise what it raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._news, timeout)
            self._news = False
            if self._error is not None:
                raise self._error

    def _run(self, name: str) -> None:
        error = None
        try:
            self._work(name)
        except BaseException as raised:  # noqa: BLE001 - it is raised where it can be caught
            error = raised
        with self._changed:
            self.busy.discard(name)
            self._error = self._error or error
            self._news = True
            self._changed.notify_all()


def for_each(names: Collection[str], work: Callable[[str], None]) -> None:
    """Do the same for each of several names side by side, and wait for all; for a single one in this thread.

    Parameters
    ----------
    names : collection of str
        The names.
    work : callable
        What to do, given a name. What it raises for one of them is raised when all are done.
    """
    with SideBySide(work) as threads:
        for name in names:
            threads.start(name, alone=len(names) == 1)
