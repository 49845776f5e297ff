"""The streams of programs in the sessions of an SSH connection."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import paramiko

from ..errors import ConnectionLost
from .base import STDERR, STDOUT, Pipe
from .paramiko_safe import SafeChannel

if TYPE_CHECKING:
    from .ssh_connection import Connection

#: Bytes that are sent, or taken out of a buffer, at a time: much more only falls out of the processor's cache.
_BLOCK = 3 * 32704


class ChannelPipe(Pipe):
    """The streams of a program in a session of a connection.

    Parameters
    ----------
    connection : Connection
        The connection.
    channel : SafeChannel
        The session, with the program started.
    """

    def __init__(self, connection: Connection, channel: SafeChannel) -> None:
        self._connection = connection
        self._channel = channel
        self._pid = os.getpid()
        self._news = threading.Event()
        self._open = {STDOUT: channel.in_buffer, STDERR: channel.in_stderr_buffer}
        self._closing = threading.Lock()
        # how often a waiting thread looks after the connection
        self._interval = connection.settings.keepalive / 4
        channel.settimeout(self._interval)
        channel.notify(self._news)

    def write(self, data: bytes) -> None:
        """Send all of `data` to the program."""
        view = memoryview(data)
        while view:
            view = view[self._send(view[:_BLOCK]) :]

    def _send(self, block: memoryview) -> int:
        while os.getpid() == self._pid:
            try:
                sent = self._channel.send_much(block)
            except TimeoutError:
                self._connection.watch()
                continue
            except (OSError, EOFError, paramiko.SSHException):
                break
            if not sent:
                break
            return sent
        raise ConnectionLost(f"the program on {self._connection.target} no longer reads its input")

    def close_stdin(self) -> None:
        """Let the program see the end of its standard input."""
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                self._channel.shutdown_write()

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for output."""
        deadline = time.monotonic() + timeout
        while self._open:
            self._news.clear()
            got = self._take()
            left = deadline - time.monotonic()
            if got or left <= 0:
                return got
            if not self._news.wait(min(left, self._interval)):
                self._connection.watch()
        return None

    def _take(self) -> tuple[int, bytes] | None:
        forked = os.getpid() != self._pid
        ended = forked or self._channel.eof_received or self._channel.closed
        for stream, buffer in self._open.items():
            if not forked and buffer.read_ready():
                receive = self._channel.recv if stream == STDOUT else self._channel.recv_stderr
                return stream, receive(_BLOCK)
        if ended:
            stream, _ = self._open.popitem()
            return stream, b""
        return None

    def close(self) -> None:
        """Give up the pipe at once."""
        if os.getpid() == self._pid and self._closing.acquire(blocking=False):
            self._connection.end_session(self._channel)
