"""TCP services of a machine, made available on this one through the user's own OpenSSH client."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import socketserver
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConnectionFailed, ConnectionLost, InvalidValue
from .base import STDOUT, Pipe
from .ssh_socket import OpenSockets, refuse_public

if TYPE_CHECKING:
    from typing_extensions import Self

    from .openssh import OpensshCarrier

_BLOCK = 1 << 18
#: Seconds between two looks of a thread that waits.
_INTERVAL = 1.0

log = logging.getLogger("batchlib.transport.ssh.tunnel")


class OpensshTunnel:
    """Listens on this machine, for this user only, and passes each connection on to a service of another machine.

    Use as a context manager. The shared connection is made again when it broke; the tunnel's address stays, which
    that of a forwarding by ``ssh`` itself would not.

    Parameters
    ----------
    carrier : OpensshCarrier
        The way to the machine.
    remote : tuple of (str, int)
        The service as seen from there.
    local : tuple of (str, int) or str
        Loopback address and port (0 chooses one), or path of a Unix socket in a directory of mode 0700.

    Raises
    ------
    InvalidValue
        `local` could be reached by other users, or is in use.
    """

    def __init__(self, carrier: OpensshCarrier, remote: tuple[str, int], local: tuple[str, int] | str) -> None:
        refuse_public(local)
        self._pid = os.getpid()
        self._server: _TcpServer | _UnixServer
        try:
            self._server = _UnixServer(local, _Handler) if isinstance(local, str) else _TcpServer(local, _Handler)
        except OSError as error:
            raise InvalidValue(f"cannot listen on {local!r}: {error.strerror or error}") from error
        self._server.carrier = carrier
        self._server.remote = remote
        self._server.streams = OpenSockets()
        #: Where to connect to: address and port, or the path of the socket.
        self.local_address: tuple[str, int] | str = (
            local if isinstance(local, str) else (local[0], self._server.socket.getsockname()[1])
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end what goes through; closing twice is harmless."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if isinstance(self.local_address, str):
            Path(self.local_address).unlink(missing_ok=True)
        self._server.streams.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Handler(socketserver.BaseRequestHandler):
    """Passes one connection on, in a thread of its own."""

    request: socket.socket
    server: _TcpServer | _UnixServer

    def handle(self) -> None:
        """Connect to the service and copy in both directions until both have ended."""
        streams = self.server.streams
        streams.add(self.request)
        try:
            pipe = self.server.carrier.open_tcp(*self.server.remote)
        except ConnectionFailed as error:
            log.error("%s", error)
            streams.remove(self.request)
            return
        back = threading.Thread(target=self._receive, args=(pipe,), daemon=True)
        back.start()
        try:
            with contextlib.suppress(OSError, ConnectionLost):
                while data := self.request.recv(_BLOCK):
                    pipe.write(data)
                pipe.close_stdin()
            back.join()
        finally:
            pipe.close()
            back.join()
            streams.remove(self.request)

    def _receive(self, pipe: Pipe) -> None:
        ended = 0
        with contextlib.suppress(OSError):
            while ended < 2:
                got = pipe.read(_INTERVAL)
                if got is None:
                    continue
                stream, data = got
                ended += not data
                if stream == STDOUT and data:
                    self.request.sendall(data)
                elif stream == STDOUT:
                    self.request.shutdown(socket.SHUT_WR)
        # the service is gone, or the client: nothing that is still to be sent is of use
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_RD)


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128
    carrier: OpensshCarrier
    remote: tuple[str, int]
    streams: OpenSockets


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    carrier: OpensshCarrier
    remote: tuple[str, int]
    streams: OpenSockets
