"""One SSH connection: made, watched over, and shared by several programs at a time."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import paramiko

from ..errors import ConnectionFailed, ConnectionLost, UnknownHostKey
from . import slices
from .base import Pipe
from .gate import Gate, NoRoom
from .known_hosts import KnownHosts, fingerprint, lookup_names, own_file, remember
from .paramiko_safe import SafeChannel, SafeTransport
from .ssh_auth import Authentication
from .ssh_config import jump_settings, resolve
from .ssh_pipe import ChannelPipe
from .ssh_socket import ProxyCommand, connect_tcp

if TYPE_CHECKING:
    from .shared import Prompt
    from .ssh import SshSettings

#: Attempts to reach a server that closes connections before it greets, as one does that has too many logins.
_GREETING_ATTEMPTS = 5

log = logging.getLogger("batchlib.transport.ssh")


class Connection:
    """A connection to one host, after login.

    Parameters
    ----------
    settings : SshSettings
        Where and how to connect.
    prompt : callable or None
        Asks a person.

    Raises
    ------
    ConnectionFailed
        It could not be made; the subclasses tell more.
    """

    def __init__(self, settings: SshSettings, prompt: Prompt | None) -> None:
        self.settings = settings
        self.resolved = resolve(settings)
        self.target = self.resolved.target
        self._prompt = prompt
        self._gate = Gate(settings.sessions)
        #: Seconds that the fastest opening of a session took; 0 before the first one.
        self.round_trip = 0.0
        self._probed_at = self._watched_at = 0.0
        self._probe_lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            self._transport = self._connect(stack)
            self._resources = stack.pop_all()

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return self._transport.is_active()

    @property
    def room(self) -> int:
        """How many programs can be started now without waiting for others to end."""
        return self._gate.room

    def open(self, command: str, window: int | None = None) -> Pipe:
        """Start a program.

        Parameters
        ----------
        command : str
            The command.
        window : int, optional
            Bytes that may be under way to us; default depends on the round-trip time.

        Raises
        ------
        ConnectionFailed
            No session could be opened; nothing was started.
        ConnectionLost
            The connection broke while it was started.
        """
        channel = self._open_session(window or slices.window(self.round_trip))
        with contextlib.ExitStack() as undo:
            undo.callback(self.end_session, channel)
            try:
                channel.start(command.encode("utf-8", "surrogateescape"), self.settings.timeout)
            except TimeoutError:
                self._give_up("did not answer")
                raise ConnectionLost(f"{self.target} did not answer when a program was started") from None
            except (paramiko.SSHException, EOFError, OSError) as error:
                if self.alive:
                    raise ConnectionFailed(f"{self.target} refused to start a program") from error
                raise ConnectionLost(f"the connection to {self.target} broke when a program was started") from error
            undo.pop_all()
        return ChannelPipe(self, channel)

    def open_tcp(self, host: str, port: int) -> SafeChannel:
        """Connect to a TCP service from the machine.

        Raises
        ------
        ConnectionFailed
            The service, or the machine itself, can't be reached.
        """
        window = slices.window(self.round_trip)
        try:
            return self._transport.open_safely("direct-tcpip", (host, port), window, self.settings.timeout)
        except paramiko.ChannelException as error:
            why = "it does not forward TCP connections" if error.code == 1 else error.text
            raise ConnectionFailed(f"{self.target} can't connect to {host}, port {port}: {why}") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._failed("a TCP connection", error) from error

    def end_session(self, channel: SafeChannel) -> None:
        """Close a program's session and make room for another."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.close()
        self._gate.leave()

    def watch(self) -> None:
        """Look after the connection while somebody waits for it: ask for a sign of life, give up a dead one."""
        interval = self.settings.keepalive
        heard = self._transport.packetizer.last_received
        with self._probe_lock:
            now = time.monotonic()
            if now - self._watched_at > interval:
                # nobody looked for a while, perhaps because this process was stopped: an answer may lie unread
                self._probed_at = 0.0
            self._watched_at = now
            waiting = self._probed_at > heard
            if not waiting and now - heard >= interval:
                self._probed_at = now
                # sending may block for as long as the peer takes nothing: not in this thread
                threading.Thread(target=self._probe, name="batchlib-ssh-probe", daemon=True).start()
        if waiting and now - self._probed_at > 1.5 * interval:
            self._give_up(f"has been silent for {now - heard:.0f} s")

    def close(self) -> None:
        """End the connection and all programs' pipes; closing twice is harmless."""
        self._resources.close()

    # sessions

    def _open_session(self, window: int) -> SafeChannel:
        return self._gate.open(
            lambda: self._try_session(window),
            lambda: self.alive,
            target=self.target,
            wait=self.settings.session_wait,
            patience=self.settings.timeout,
        )

    def _try_session(self, window: int) -> SafeChannel:
        started = time.monotonic()
        try:
            channel = self._transport.open_safely("session", None, window, self.settings.timeout)
        except paramiko.ChannelException as error:
            raise NoRoom(error.text, final=error.code == 1) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._failed("a session", error) from error
        took = time.monotonic() - started
        self.round_trip = min(self.round_trip or took, took)
        return channel

    def _failed(self, what: str, error: Exception) -> ConnectionFailed:
        """Say that nothing could be opened, giving up a connection that says nothing at all any more."""
        if self.alive:
            silent = time.monotonic() - self._transport.packetizer.last_received
            if silent < self.settings.timeout:
                return ConnectionFailed(f"{self.target} did not open {what}: {error}")
            self._give_up(f"has been silent for {silent:.0f} s")
        return ConnectionFailed(f"the connection to {self.target} is gone")

    # life and death

    def _probe(self) -> None:
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._transport.send_probe()

    def _give_up(self, why: str) -> None:
        log.debug("giving up the connection to %s: it %s", self.target, why)
        self._transport.close()

    # making it

    def _connect(self, stack: contextlib.ExitStack) -> SafeTransport:
        names = lookup_names(self.resolved.hostname, self.resolved.port, self.resolved.host_key_alias)
        known = KnownHosts.read([*self.resolved.known_hosts, own_file()])
        transport = self._greet(known.algorithms(names), stack)
        if self.settings.host_keys != "ignore":
            self._check_host_key(transport, known, names)
        Authentication(transport, self.resolved, self.settings, self._prompt).run()
        log.debug("connected to %s", self.target)
        return transport

    def _greet(self, algorithms: list[str], stack: contextlib.ExitStack) -> SafeTransport:
        """Connect and exchange keys, again where the server has no time for one more login."""
        for attempt in range(_GREETING_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0.5, 1) * 0.2 * 2**attempt)  # noqa: S311 - no secret
            with contextlib.ExitStack() as inner:
                proxy, transport = self._start(algorithms, inner)
                reason = self._exchange_keys(transport)
                if not reason:
                    stack.push(inner.pop_all())
                    return transport
                if not transport.packetizer.peer_closed:
                    break
                complaint = proxy.complaint() if proxy else ""
                if complaint:
                    reason = f"the proxy command said: {complaint}"
                    break
            log.debug("%s: %s", self.target, reason)
        raise ConnectionFailed(f"cannot connect to {self.target}: {reason}")

    def _start(self, algorithms: list[str], stack: contextlib.ExitStack) -> tuple[ProxyCommand | None, SafeTransport]:
        from .ssh import shared_carrier

        proxy = None
        sock: socket.socket | SafeChannel
        jump = jump_settings(self.settings, self.resolved)
        if jump is not None:
            carrier = shared_carrier(jump, self._prompt)
            stack.callback(carrier.close)
            _connection, sock = carrier.open_tcp(self.resolved.hostname, self.resolved.port)
        elif self.resolved.proxy_command:
            proxy = ProxyCommand(self.resolved.proxy_command)
            stack.callback(proxy.close)
            sock = proxy.socket
        else:
            sock = connect_tcp(self.resolved.hostname, self.resolved.port, self.settings.timeout)
        stack.callback(sock.close)
        transport = SafeTransport(sock, self.settings.timeout, 2.5 * self.settings.keepalive)
        stack.callback(_end, transport)
        transport.prefer_host_keys(algorithms)
        return proxy, transport

    def _exchange_keys(self, transport: SafeTransport) -> str:
        """Start the SSH protocol; give the reason why that failed."""
        try:
            transport.start_client(timeout=self.settings.timeout)
        except paramiko.ssh_exception.IncompatiblePeer as error:
            return f"{error}; set transport = openssh to connect with the system's ssh"
        except (paramiko.SSHException, EOFError, OSError) as error:
            greeting = " / ".join(transport.packetizer.greeting[:3])
            if greeting.startswith("SSH-"):
                return f"the connection was closed during the key exchange ({error or transport.farewell})"
            if transport.packetizer.peer_closed:
                said = f", saying {greeting!r}" if greeting else ", perhaps because too many are logging in"
                return f"the server closed the connection before it greeted{said}"
            if greeting:
                return f"it is no SSH server: it says {greeting!r}"
        if transport.initial_kex_done:
            return ""
        return f"there was no SSH server's greeting and key within {self.settings.timeout:g} s"

    def _check_host_key(self, transport: SafeTransport, known: KnownHosts, names: list[str]) -> None:
        key = transport.get_remote_server_key().asbytes()
        try:
            known.check(names, key, self.resolved.login)
        except UnknownHostKey:
            if self.settings.host_keys != "accept-new":
                raise
            remember(own_file(), names[0], key)
            log.debug("accepted the host key %s of %s", fingerprint(key), names[0])


def _end(transport: SafeTransport) -> None:
    transport.close()
    if transport.is_alive():
        transport.join(2)
