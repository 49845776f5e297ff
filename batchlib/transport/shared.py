"""One connection for all who use it: one login, one second factor, however many resources are on a machine."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from ..errors import ConnectionFailed
from .base import Carrier, Pipe

_T = TypeVar("_T")

#: Asks a person: the question and whether the answer may be shown while it is typed.
Prompt = Callable[[str, bool], str]

#: Longest pause before another attempt to connect, in seconds.
_LONGEST_PAUSE = 30.0

log = logging.getLogger("batchlib.transport.ssh")


class AnyConnection(Protocol):
    """What a link needs of a connection."""

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as is known."""

    @property
    def round_trip(self) -> float:
        """Seconds to the machine and back; 0 where that is not known."""

    @property
    def room(self) -> int:
        """How many programs can be started now without waiting for others to end."""

    def open(self, command: str, window: int | None = None) -> Pipe:
        """Start a program, as `Carrier.open` does."""

    def close(self) -> None:
        """End the connection and all programs' pipes; closing twice is harmless."""


_C = TypeVar("_C", bound=AnyConnection)


class Link(Generic[_C]):
    """One connection and those who use it.

    The connection is made when it is needed first, and again when it is found dead; nothing is ever sent twice.
    After a ``fork`` the child makes a connection of its own.

    Parameters
    ----------
    target : str
        Where it leads, for messages.
    connect : callable
        Makes the connection, given the prompt; raises ConnectionFailed.
    prompt : callable or None
        Asks a person.
    """

    def __init__(self, target: str, connect: Callable[[Prompt | None], _C], prompt: Prompt | None) -> None:
        self.target = target
        self.prompt = prompt
        self._make = connect
        self.forget()
        _registry.links.add(self)

    def forget(self) -> None:
        """Start anew; in a forked child, what is there belongs to the parent."""
        self._lock = threading.Lock()
        self._users: set[object] = set()
        self._connection: _C | None = None
        self._all_failures = 0
        self._failures = 0
        self._not_before = 0.0
        self._error: ConnectionFailed | None = None

    def use(self, user: object, action: Callable[[_C], _T]) -> _T:
        """Do something with a live connection; once more when it is found dead before anything was asked."""
        connection = self._connected(user)
        try:
            return action(connection)
        except ConnectionFailed:
            if connection.alive:
                raise
            log.debug("the connection to %s was dead, connecting again", self.target)
        return action(self._connected(user))

    def ask(self, question: Callable[[_C], _T], otherwise: _T) -> _T:
        """Ask the connection for what it knows, without making one."""
        connection = self._connection
        return otherwise if connection is None else question(connection)

    def leave(self, user: object) -> None:
        """Note that one user is done; the last one closes the connection."""
        with self._lock:
            self._users.discard(user)
            if not self._users and self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self, user: object) -> _C:
        failures = self._all_failures
        with self._lock:
            self._users.add(user)
            if self._connection is not None:
                if self._connection.alive:
                    return self._connection
                self._connection.close()
                self._connection = None
            if self._error is not None and self._all_failures != failures:
                # somebody else tried in vain while this thread waited: twenty threads need not try twenty times
                raise type(self._error)(self._error.message)
            self._connection = self._connect()
            return self._connection

    def _connect(self) -> _C:
        time.sleep(max(0.0, self._not_before - time.monotonic()))
        try:
            connection = self._make(self.prompt)
        except ConnectionFailed as error:
            self._error = error
            self._all_failures += 1
            self._failures += 1
            pause = min(_LONGEST_PAUSE, 0.25 * 2**self._failures)
            self._not_before = time.monotonic() + random.uniform(pause / 2, pause)  # noqa: S311 - no secret
            raise
        self._error = None
        self._failures = 0
        return connection


class SharedCarrier(Carrier, Generic[_C]):
    """A carrier over a link.

    Parameters
    ----------
    name : str
        Where the programs run, for messages.
    link : Link
        The connection that it uses, perhaps with others.
    """

    def __init__(self, name: str, link: Link[_C]) -> None:
        self.name = name
        self._link = link

    @property
    def round_trip(self) -> float:
        """Seconds to the machine and back, as far as is known; 0 is not known."""
        return self._link.ask(lambda connection: connection.round_trip, 0.0)

    @property
    def room(self) -> int:
        """How many programs can be started now without waiting for others to end."""
        return self._link.ask(lambda connection: connection.room, 1)

    def open(self, command: str, window: int | None = None) -> Pipe:
        """Start `command` in the user's login shell on the machine, connecting first where needed.

        Parameters
        ----------
        command : str
            The command.
        window : int, optional
            Bytes of output that may be under way to us, where the connection can choose that.

        Raises
        ------
        ConnectionFailed
            No connection could be made, or it has no room for one more program; nothing was started.
        ConnectionLost
            The connection broke while the program was started; it may be running.
        """
        return self._link.use(self, lambda connection: connection.open(command, window))

    def close(self) -> None:
        """Stop using the connection; the last carrier that uses it closes it. Closing twice is harmless."""
        self._link.leave(self)


def shared_link(key: Hashable, make: Callable[[], Link[_C]]) -> Link[_C]:
    """Give the link of this process for a way to a machine.

    Parameters
    ----------
    key : hashable
        The kind of carrier and its settings.
    make : callable
        Makes the link where there is none yet.
    """
    with _registry.lock:
        if key not in _registry.shared:
            _registry.shared[key] = make()
        link: Link[_C] = _registry.shared[key]
    return link


class _Registry:
    """All links of this process, and among them the shared ones by what they lead to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.shared: dict[Hashable, Link[Any]] = {}
        self.links: weakref.WeakSet[Link[Any]] = weakref.WeakSet()

    def forget(self) -> None:
        """Start anew in a forked child; the locks may have been held by threads that only the parent has."""
        self.lock = threading.Lock()
        for link in self.links:
            link.forget()


_registry = _Registry()
os.register_at_fork(after_in_child=_registry.forget)
