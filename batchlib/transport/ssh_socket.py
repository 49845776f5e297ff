"""Sockets beside SSH: what is below a connection (TCP, or a command of the user's), and addresses to listen on."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from ..errors import ConnectionFailed, InvalidValue

#: Seconds that a proxy command may take to end once its streams are closed.
_GRACE = 1.0


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """Connect to a host, trying all its addresses.

    Parameters
    ----------
    host, port : str, int
        Where to connect to.
    timeout : float
        Seconds for all addresses together.

    Raises
    ------
    ConnectionFailed
        Nothing answered.
    """
    deadline = time.monotonic() + timeout
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectionFailed(f"the host {host} is not known: {getattr(error, 'strerror', None) or error}") from error
    reasons: dict[str, None] = {}
    for tried, (family, kind, protocol, _name, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        # an address that swallows packets must leave time for the next one
        connection.settimeout(max(0.1, (deadline - time.monotonic()) / (len(addresses) - tried)))
        try:
            connection.connect(address)
            _tune(connection)
        except TimeoutError:
            reasons[f"no answer within {timeout:g} s"] = None
            connection.close()
        except OSError as error:
            reasons[error.strerror or str(error)] = None
            connection.close()
        else:
            return connection
    raise ConnectionFailed(f"cannot connect to {host}, port {port}: {', '.join(reasons)}")


def _tune(connection: socket.socket) -> None:
    """Send small packets at once, and notice within half a minute when the peer is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # milliseconds that what was sent may stay unacknowledged; then the keepalive's seconds, seconds and count
    values = {"TCP_USER_TIMEOUT": 20_000, "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    for name, value in values.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def refuse_public(local: tuple[str, int] | str) -> None:
    """Make sure that nobody else can reach an address to listen on: loopback, or a socket in a private directory.

    Raises
    ------
    InvalidValue
        Others could.
    """
    if isinstance(local, str):
        directory = Path(local).absolute().parent
        try:
            info = directory.stat()
        except OSError as error:
            raise InvalidValue(f"cannot make a socket in {directory}: {error.strerror}") from error
        if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
            raise InvalidValue(f"other users could reach a socket in {directory}: a directory of mode 0700 is needed")
        return
    try:
        if local[0] == "localhost" or ipaddress.IPv4Address(local[0]).is_loopback:
            return
    except ValueError:
        pass
    raise InvalidValue(f"other users and machines could reach {local[0]!r}: 127.0.0.1 or a socket file is needed")


class OpenSockets:
    """The connections that go through a tunnel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def add(self, connection: socket.socket) -> None:
        """Note one that has come."""
        with self._lock:
            self._open.add(connection)

    def remove(self, connection: socket.socket) -> None:
        """Note one that has ended."""
        with self._lock:
            self._open.discard(connection)

    def close(self) -> None:
        """End them: their threads see it."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class ProxyCommand:
    """A command that connects its standard input and output to the host.

    Parameters
    ----------
    command : str
        Text for the shell, with its tokens expanded.

    Attributes
    ----------
    socket : socket.socket
        Our end of its streams.
    """

    # paramiko's own ProxyCommand knows no shell syntax, and its reading thread spins when the command dies

    def __init__(self, command: str) -> None:
        self.socket, theirs = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the command
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self.socket.close()
            self._errors.close()
            raise ConnectionFailed(f"cannot start the proxy command: {error}") from error
        finally:
            theirs.close()

    def complaint(self) -> str:
        """Give the last line that the command wrote to its standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """End the command."""
        self.socket.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._errors.close()
