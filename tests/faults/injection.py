"""Points at which a client can be stopped: each byte stream, each read, and each change of the session.

The points are counted as they are passed. At the one that was chosen, the process is killed as ``kill -9`` does it, or
the link to the front end is cut, which it hears of like of any other broken connection.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

from batchlib.backends import connection
from batchlib.database import SqliteFile, Writer
from batchlib.errors import ConnectionLost
from batchlib.settings import ResourceSettings
from batchlib.transport.base import Carrier, Pipe
from batchlib.transport.transport import Transport

KINDS = ("kill", "cut")


class Points:
    """Counts points, and strikes at one of them.

    Parameters
    ----------
    kind : str
        ``kill`` or ``cut``.
    target : int
        The number of the point; 0 for none.
    """

    def __init__(self, kind: str, target: int) -> None:
        self.kind = kind
        self.target = target
        self.passed = 0
        self.names: list[str] = []
        self.carriers: list[FaultyCarrier] = []
        # where in a piece of data to cut is as random as it is the same each time
        self.random = random.Random(target)

    def reach(self, name: str) -> bool:
        """Pass a point; tell whether it is the one to strike at."""
        self.passed += 1
        self.names.append(name)
        return self.passed == self.target

    def strike(self) -> NoReturn:
        """Do it."""
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        for carrier in self.carriers:
            carrier.cut()
        raise ConnectionLost("the link was cut")

    def check(self, name: str) -> None:
        """Pass a point, and strike if it is the one."""
        if self.reach(name):
            self.strike()


class FaultyPipe(Pipe):
    """A pipe that breaks at a point."""

    def __init__(self, inner: Pipe, points: Points) -> None:
        self._inner = inner
        self._points = points
        self.broken = False

    def write(self, data: bytes) -> None:
        """Write all, nothing, or a part and strike."""
        self._check_link()
        self._points.check("write")
        if self._points.reach("in the middle of a write"):
            self._inner.write(data[: self._points.random.randrange(len(data) + 1)])
            self._points.strike()
        self._inner.write(data)

    def close_stdin(self) -> None:
        """Let the program see the end."""
        self._points.check("end of input")
        self._inner.close_stdin()

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Read, and perhaps let nobody have it."""
        self._check_link()
        got = self._inner.read(timeout)
        if got is not None:
            self._points.check("read")
        return got

    def close(self) -> None:
        """Close it."""
        self._inner.close()

    def _check_link(self) -> None:
        if self.broken:
            raise ConnectionLost("the link was cut")


class FaultyCarrier(Carrier):
    """A carrier whose pipes break together."""

    def __init__(self, inner: Carrier, points: Points) -> None:
        self.name = inner.name
        self._inner = inner
        self._points = points
        self._pipes: list[FaultyPipe] = []
        points.carriers.append(self)

    def open(self, command: str, **wishes: Any) -> Pipe:
        """Open a pipe."""
        self._points.check("open")
        self._pipes.append(FaultyPipe(self._inner.open(command, **wishes), self._points))
        return self._pipes[-1]

    def cut(self) -> None:
        """Break all pipes that there are."""
        for pipe in self._pipes:
            pipe.broken = True
            pipe.close()

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def instrument(points: Points) -> None:
    """Put points into everything that this process does from now on."""
    connect = connection.connect

    @functools.wraps(connect)
    def faulty(settings: ResourceSettings) -> Transport:
        transport = connect(settings)
        transport.carrier = FaultyCarrier(transport.carrier, points)
        return transport

    connection.connect = faulty
    from batchlib.backends import native

    if getattr(native, "connect", None) is connect:
        native.connect = faulty  # type: ignore[attr-defined]
    writing = SqliteFile.writing

    @contextlib.contextmanager
    def with_points(database: SqliteFile) -> Iterator[Writer]:
        # only a kill makes sense here: the link has nothing to do with the database
        if points.reach("before a change of the session") and points.kind == "kill":
            points.strike()
        with writing(database) as writer:
            yield writer
            if points.reach("before a commit") and points.kind == "kill":
                points.strike()
        if points.reach("after a commit") and points.kind == "kill":
            points.strike()

    SqliteFile.writing = with_points  # type: ignore[assignment, method-assign]
