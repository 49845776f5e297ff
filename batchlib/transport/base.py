"""What batchlib asks of a machine, whichever way it is reached: run a program, move bytes, look at files.

A *carrier* opens a `Pipe` to ``/bin/sh`` on the machine; everything else is written once on top of it.
So a frontend needs nothing but a POSIX shell, ``tar`` and the usual file tools: no SFTP, no rsync, no Python.
"""

from __future__ import annotations

import abc

#: Number of the standard output and the standard error stream in `Pipe.read`.
STDOUT = 1
STDERR = 2


class Pipe(abc.ABC):
    """The three standard streams of one program running on the machine.

    One thread may write while another one reads; apart from that a pipe belongs to one caller.
    """

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """Send all of `data` to the program's standard input, waiting as long as it takes.

        Raises
        ------
        ConnectionLost
            The program no longer reads, the pipe was closed, or the connection broke.
        """

    @abc.abstractmethod
    def close_stdin(self) -> None:
        """Let the program see the end of its standard input; closing twice is harmless."""

    @abc.abstractmethod
    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for output.

        Parameters
        ----------
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        tuple of (int, bytes) or None
            `STDOUT` or `STDERR` with what came, ``(stream, b"")`` once for each stream at its end
            (in either order; a broken connection looks the same), or None when nothing came in time.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give up the pipe at once; the program at the other end may go on. Closing twice is harmless."""


class Carrier(abc.ABC):
    """A way to start programs on a machine.

    Carriers are safe to use from several threads.
    """

    #: Where the programs run, for messages: ``localhost`` or ``user@host``.
    name: str

    @property
    def round_trip(self) -> float:
        """Seconds to the machine and back, as far as is known without asking for it; 0 is not known."""
        return 0.0

    @property
    def room(self) -> int:
        """How many programs can be started now without waiting for others to end."""
        return 1

    @abc.abstractmethod
    def open(self, command: str, window: int | None = None) -> Pipe:
        """Start `command` in the user's login shell on the machine, connecting first where needed.

        Parameters
        ----------
        command : str
            A command that means the same to every login shell (csh and fish included).
        window : int, optional
            Bytes of output that may be under way to us; carriers that can't choose that ignore it.

        Raises
        ------
        ConnectionFailed
            No connection could be made.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection, if any; the next `open` makes a new one."""
