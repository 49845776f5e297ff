"""Room for programs on a connection that several of them share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import ConnectionFailed

_T = TypeVar("_T")

#: Seconds after which a server that refused a session is thought able to bear one more.
_RECOVERY = 30.0
#: Longest pause before a session that was refused is asked for again, in seconds.
_LONGEST_PAUSE = 1.0

log = logging.getLogger("batchlib.transport.ssh")


class NoRoom(Exception):
    """The server refused a session; the message says why.

    Parameters
    ----------
    reason : str
        The server's words.
    final : bool
        Whether it will refuse all others, too.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


class Gate:
    """Counts the sessions of a connection, and waits for one to end where there are as many as may be.

    Parameters
    ----------
    most : int
        Sessions at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most
        self._narrowed_at = 0.0
        self._inside = 0
        self._changed = threading.Condition()

    def enter(self, deadline: float, usable: Callable[[], bool]) -> int | None:
        """Wait for room.

        Parameters
        ----------
        deadline : float
            Until when, on the monotonic clock.
        usable : callable
            Whether waiting makes sense.

        Returns
        -------
        int or None
            Number of others that are inside; None when there was no room in time or waiting makes no sense.
        """
        with self._changed:
            while self._inside >= self._most_now():
                left = deadline - time.monotonic()
                if left <= 0 or not usable():
                    return None
                self._changed.wait(min(left, 1.0))
            self._inside += 1
            return self._inside - 1

    def open(
        self, attempt: Callable[[], _T], usable: Callable[[], bool], *, target: str, wait: float, patience: float
    ) -> _T:
        """Open a session as soon as there is room for it; who got one has to `leave` later.

        Parameters
        ----------
        attempt : callable
            Opens it, or raises `NoRoom`.
        usable : callable
            Whether the connection can still be used.
        target : str
            Where it leads, for messages.
        wait : float
            Seconds to wait for others of ours to leave.
        patience : float
            Seconds for which a server may refuse a session while there is no other one.

        Raises
        ------
        ConnectionFailed
            There was no room, or the connection is gone.
        """
        deadline = time.monotonic() + wait
        pause = 0.01
        until = 0.0
        while True:
            others = self.enter(deadline, usable)
            if others is None:
                if not usable():
                    raise ConnectionFailed(f"the connection to {target} is gone")
                raise ConnectionFailed(f"all sessions on {target} stayed in use for {wait:g} s")
            try:
                return attempt()
            except NoRoom as refusal:
                self.leave()
                # others may be in the middle of opening; and one session alone may be a shell that never ends
                self.narrow(max(2, others))
                # beside others it is a matter of waiting; alone, too, while the server has not seen the last one's end
                until = until or time.monotonic() + patience
                if refusal.final or (others == 0 and time.monotonic() > until):
                    raise ConnectionFailed(f"{target} refuses to run programs: {refusal.reason}") from refusal
                log.debug("%s refused a session beside %d others", target, others)
            except BaseException:
                self.leave()
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @property
    def room(self) -> int:
        """How many could enter now."""
        with self._changed:
            return max(0, self._most_now() - self._inside)

    def leave(self) -> None:
        """Make room for somebody else."""
        with self._changed:
            self._inside -= 1
            self._changed.notify()

    def narrow(self, limit: int) -> None:
        """Note how many the server bears; it may have been slow to see the end of one, so only for a while."""
        with self._changed:
            self._limit = max(1, limit)
            self._narrowed_at = time.monotonic()

    def _most_now(self) -> int:
        recovered = int((time.monotonic() - self._narrowed_at) / _RECOVERY)
        return min(self._most, self._limit + recovered)
