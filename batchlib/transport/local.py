"""Programs on this machine, through pipes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from typing import IO

from ..errors import ConnectionFailed, ConnectionLost
from .base import STDERR, STDOUT, Carrier, Pipe
from .programs import DEFAULT_TIMEOUT
from .transport import Transport

_READ_SIZE = 1 << 20
#: Seconds that a program may take to end by itself once its standard input is closed.
_GRACE = 1.0


class LocalCarrier(Carrier):
    """Start programs on this machine, each in a session of its own so that Ctrl-C does not reach them."""

    name = "localhost"

    def open(self, command: str) -> Pipe:
        """Start `command` through ``/bin/sh``."""
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise ConnectionFailed(f"cannot start /bin/sh on this machine: {error}") from error
        return LocalPipe(process)

    def close(self) -> None:
        """Nothing to close: there is no connection."""


class LocalPipe(Pipe):
    """The streams of a child process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._stdin, self._stdout, self._stderr = _streams(process)
        self._poll = select.poll()
        self._open = {self._stdout.fileno(): STDOUT, self._stderr.fileno(): STDERR}
        for descriptor in self._open:
            self._poll.register(descriptor, select.POLLIN)
        self._stdin_lock = threading.Lock()
        self._closed = False

    def write(self, data: bytes) -> None:
        """Send all of `data` to the program."""
        view = memoryview(data)
        try:
            with self._stdin_lock:
                while view:
                    view = view[self._stdin.write(view) or 0 :]
        except (OSError, ValueError) as error:
            raise ConnectionLost("the program on localhost no longer reads its input") from error

    def close_stdin(self) -> None:
        """Close the program's standard input."""
        with self._stdin_lock, contextlib.suppress(OSError):
            self._stdin.close()

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for output of the program."""
        if not self._open:
            return None
        for descriptor, _event in self._poll.poll(timeout * 1000)[:1]:
            data = os.read(descriptor, _READ_SIZE)
            stream = self._open[descriptor]
            if not data:
                self._poll.unregister(descriptor)
                del self._open[descriptor]
            return stream, data
        return None

    def close(self) -> None:
        """Close the streams and end the program's process group if it does not end by itself."""
        if self._closed:
            return
        self._closed = True
        # a writer that waits for the program holds the lock: end the program first
        if self._stdin_lock.acquire(blocking=False):
            with contextlib.suppress(OSError):
                self._stdin.close()
            self._stdin_lock.release()
            grace = _GRACE
        else:
            grace = 0.0
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.close_stdin()
        self._open.clear()
        self._stdout.close()
        self._stderr.close()


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ConnectionFailed("the child process has no pipes")
    return process.stdin, process.stdout, process.stderr


class LocalTransport(Transport):
    """This machine: `Transport` over child processes.

    Parameters
    ----------
    setup, timeout
        As for `Transport`.
    """

    def __init__(self, *, setup: str = "", timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__(LocalCarrier(), setup=setup, timeout=timeout)
