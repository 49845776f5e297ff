"""The streams of child processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import IO

from ..errors import ConnectionFailed, ConnectionLost
from .base import STDERR, STDOUT, Pipe

_READ_SIZE = 1 << 20


def start_child(words: Sequence[str | bytes], what: str) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with pipes for all three streams.

    Parameters
    ----------
    words : sequence of str or bytes
        The program and its arguments.
    what : str
        What it is, for messages.

    Raises
    ------
    ConnectionFailed
        It can't be started.
    """
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True, cwd="/")
    except OSError as error:
        raise ConnectionFailed(f"cannot start {what}: {error}") from error


class ChildPipe(Pipe):
    """The streams of a child process, which leads a process group of its own.

    In a forked child of ours the pipe is at its end: the program belongs to the parent.

    Parameters
    ----------
    process : subprocess.Popen
        The child, with pipes for all three streams.
    name : str
        Where its program runs, for messages.
    grace : float
        Seconds that it may take to end by itself when the pipe is closed.
    """

    def __init__(self, process: subprocess.Popen[bytes], name: str, *, grace: float) -> None:
        self._process = process
        self._name = name
        self._grace = grace
        self._pid = os.getpid()
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
            self._refuse_after_fork()
            with self._stdin_lock:
                while view:
                    view = view[self._stdin.write(view) or 0 :]
        except (OSError, ValueError) as error:
            raise ConnectionLost(f"the program on {self._name} no longer reads its input") from error

    def close_stdin(self) -> None:
        """Close the program's standard input."""
        with contextlib.suppress(OSError):
            self._refuse_after_fork()
            with self._stdin_lock:
                self._stdin.close()

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for output of the program."""
        if not self._open:
            return None
        if os.getpid() != self._pid:
            return self._open.popitem()[1], b""
        for descriptor, _event in self._poll.poll(timeout * 1000)[:1]:
            data = os.read(descriptor, _READ_SIZE)
            stream = self._open[descriptor]
            if not data:
                self._poll.unregister(descriptor)
                del self._open[descriptor]
            return stream, data
        return None

    def close(self) -> None:
        """Close the streams and end the child's process group if it does not end by itself."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        # a writer that waits for the program holds the lock: end the program first
        grace = 0.0
        if self._stdin_lock.acquire(blocking=False):
            with contextlib.suppress(OSError):
                self._stdin.close()
            self._stdin_lock.release()
            grace = self._grace
        end(self._process, grace)
        self.close_stdin()
        self._open.clear()
        self._stdout.close()
        self._stderr.close()

    def _refuse_after_fork(self) -> None:
        if os.getpid() != self._pid:
            raise ProcessLookupError("the program belongs to the parent process")


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Wait for a child to end, and kill its process group when it does not.

    Parameters
    ----------
    process : subprocess.Popen
        The child, which leads the group.
    grace : float
        Seconds to wait.
    """
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ConnectionFailed("the child process has no pipes")
    return process.stdin, process.stdout, process.stderr
