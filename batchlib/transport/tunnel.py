"""TCP services of a machine, made available on this one.

sshtunnel listens and accepts. Its connection would be one without host key check, jump hosts and second factors,
so it gets ours; its forwarding loses answers to half-closed connections and knows 1024 open files, so it gets ours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import socketserver
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
import sshtunnel

from ..errors import ConnectionFailed, InvalidValue
from .ssh_socket import OpenSockets, refuse_public

if TYPE_CHECKING:
    from typing_extensions import Self

    from .paramiko_safe import SafeChannel
    from .ssh import SshCarrier
    from .ssh_connection import Connection

_BLOCK = 1 << 18
#: Connections that may wait to be accepted.
_BACKLOG = 128

log = logging.getLogger("batchlib.transport.ssh.tunnel")
# sshtunnel reports whatever happens as an error; a library that is not asked to says nothing
log.setLevel(logging.CRITICAL if log.level == logging.NOTSET else log.level)


class Tunnel:
    """Listens on this machine, for this user only, and passes each connection on to a service of another machine.

    Use as a context manager. The SSH connection is made again when it broke; the tunnel's address stays.

    Parameters
    ----------
    carrier : SshCarrier
        The way to the machine.
    remote_host, remote_port : str, int
        The service as seen from there.
    local : tuple of (str, int) or str
        Loopback address and port (0 chooses one), or path of a Unix socket in a directory of mode 0700.

    Raises
    ------
    InvalidValue
        `local` could be reached by other users, or is in use.
    """

    def __init__(
        self, carrier: SshCarrier, remote_host: str, remote_port: int, local: tuple[str, int] | str = ("127.0.0.1", 0)
    ) -> None:
        refuse_public(local)
        self._pid = os.getpid()
        self._forwarder = _Forwarder(carrier, (remote_host, remote_port), local)
        try:
            self._forwarder.start()
        except (sshtunnel.BaseSSHTunnelForwarderError, ValueError) as error:
            raise InvalidValue(f"cannot listen on {local!r}: {error}") from error
        #: Where to connect to: address and port, or the path of the socket.
        self.local_address: tuple[str, int] | str = self._forwarder.local_bind_addresses[0]

    def close(self) -> None:
        """Stop listening and end what goes through; closing twice is harmless."""
        if os.getpid() == self._pid and self._forwarder.is_alive:
            self._forwarder.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Gateway:
    """What the forwarder takes for its SSH connection: always there, as it is made again when needed."""

    def __init__(self, carrier: SshCarrier) -> None:
        self.carrier = carrier

    def is_active(self) -> bool:
        """Say that connections can be accepted."""
        return True


class _Forwarder(sshtunnel.SSHTunnelForwarder):  # type: ignore[misc]
    """sshtunnel's listeners without its connection."""

    def __init__(self, carrier: SshCarrier, remote: tuple[str, int], local: tuple[str, int] | str) -> None:
        super().__init__(
            # never used: all that it would connect with is replaced
            ("unused.invalid", 22),
            ssh_username="unused",
            ssh_password="unused",  # noqa: S106
            ssh_config_file=None,
            allow_agent=False,
            host_pkey_directories=[],
            remote_bind_address=remote,
            local_bind_address=local,
            logger=log,
        )
        self.skip_tunnel_checkup = True
        self._transport = _Gateway(carrier)
        self.streams = OpenSockets()

    def _make_ssh_forward_handler_class(self, remote_address: tuple[str, int]) -> type[_Handler]:
        return type("Handler", (_Handler,), {"remote_address": remote_address, "forwarder": self})

    def _make_ssh_forward_server_class(self, remote_address: tuple[str, int]) -> type:
        return _TcpServer

    def _make_stream_ssh_forward_server_class(self, remote_address: tuple[str, int]) -> type:
        return _UnixServer

    def _connect_to_gateway(self) -> None:
        """Nothing to do: the carrier connects when somebody comes."""

    def _stop_transport(self, force: bool = False) -> None:
        for server in self._server_list:
            server.shutdown()
            server.server_close()
            if isinstance(server.local_address, str):
                Path(server.local_address).unlink(missing_ok=True)
        self.streams.close()
        self.is_alive = False

    def __del__(self) -> None:
        """Leave the end to `Tunnel.close`."""


class _TcpServer(sshtunnel._ThreadingForwardServer):  # type: ignore[misc]
    request_queue_size = _BACKLOG


class _UnixServer(sshtunnel._ThreadingStreamForwardServer):  # type: ignore[misc]
    request_queue_size = _BACKLOG


class _Handler(socketserver.BaseRequestHandler):
    """Passes one connection on, in a thread of its own."""

    request: socket.socket
    remote_address: tuple[str, int]
    forwarder: _Forwarder

    def handle(self) -> None:
        """Connect to the service and copy in both directions until both have ended."""
        self.forwarder.streams.add(self.request)
        try:
            connection, channel = self.forwarder._transport.carrier.open_tcp(*self.remote_address)
        except ConnectionFailed as error:
            log.error("%s", error)
            self.forwarder.streams.remove(self.request)
            return
        # frozen peers are noticed by looking after the connection in between
        channel.settimeout(connection.settings.keepalive / 4)
        back = threading.Thread(target=self._receive, args=(connection, channel), daemon=True)
        back.start()
        try:
            self._send(connection, channel)
            back.join()
        finally:
            channel.close()
            back.join()
            self.forwarder.streams.remove(self.request)

    def _send(self, connection: Connection, channel: SafeChannel) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := self.request.recv(_BLOCK):
                while data:
                    try:
                        sent = channel.send(data)
                    except TimeoutError:
                        connection.watch()
                        continue
                    if not sent:
                        return
                    data = data[sent:]
            channel.shutdown_write()

    def _receive(self, connection: Connection, channel: SafeChannel) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while True:
                try:
                    data = channel.recv(_BLOCK)
                except TimeoutError:
                    connection.watch()
                    continue
                if not data:
                    break
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)
        if channel.closed:
            # the service is gone: nothing that the client sends is of use any more
            with contextlib.suppress(OSError):
                self.request.shutdown(socket.SHUT_RD)
