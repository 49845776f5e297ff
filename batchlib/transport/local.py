"""Programs on this machine, through pipes."""

from __future__ import annotations

from .base import Carrier, Pipe
from .child import ChildPipe, start_child
from .programs import DEFAULT_TIMEOUT
from .transport import Transport

#: Seconds that a program may take to end by itself once its standard input is closed.
_GRACE = 1.0


class LocalCarrier(Carrier):
    """Start programs on this machine, each in a session of its own so that Ctrl-C does not reach them."""

    name = "localhost"

    def open(self, command: str, window: int | None = None) -> Pipe:
        """Start `command` through ``/bin/sh``."""
        process = start_child(["/bin/sh", "-c", command], "/bin/sh on this machine")
        return ChildPipe(process, self.name, grace=_GRACE)

    def close(self) -> None:
        """Nothing to close: there is no connection."""


class LocalTransport(Transport):
    """This machine: `Transport` over child processes.

    Parameters
    ----------
    setup, timeout
        As for `Transport`.
    """

    def __init__(self, *, setup: str = "", timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(LocalCarrier(), setup=setup, timeout=timeout)
