"""A pretended frontend: mock-ssh-server, made to behave as sshd does.

mock-ssh-server runs commands for real, but never tells them that their input has ended, spins while they run, and
knows neither passwords nor forwarding. What a frontend may do to its users is set per server here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import IO, TYPE_CHECKING

import mockssh
import paramiko
from mockssh.server import SERVER_KEY_PATH
from mockssh.server import Handler as MockHandler
from paramiko.common import (
    AUTH_FAILED,
    AUTH_PARTIALLY_SUCCESSFUL,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_FAILED_CONNECT_FAILED,
    OPEN_SUCCEEDED,
    cMSG_CHANNEL_REQUEST,
)
from paramiko.server import InteractiveQuery

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK = 1 << 16


class Frontend(mockssh.Server):  # type: ignore[misc]
    """A server on 127.0.0.1 for one user, whose commands run in a directory of the test.

    Parameters
    ----------
    home : Path
        Home directory and working directory of the commands.
    user : str
        Name of the account.
    keyfile : Path, optional
        Private key (RSA) that opens the account; without one no key does.
    path : sequence of Path
        Directories that come first in the commands' PATH, for pretended batch commands.
    environment : mapping of str to str
        More variables for the commands.
    password : str, optional
        Password that opens the account.
    code : str, optional
        Second factor, asked for after the key or instead of the password.
    max_sessions : int
        Sessions on one connection at a time.
    noise : str
        What start files print on standard output before each command.
    forwarding : bool
        Whether TCP connections are forwarded.
    """

    def __init__(
        self,
        home: Path,
        *,
        user: str = "hpc",
        keyfile: Path | None = None,
        path: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        password: str | None = None,
        code: str | None = None,
        max_sessions: int = 10,
        noise: str = "",
        forwarding: bool = True,
    ) -> None:
        super().__init__({user: str(keyfile)} if keyfile else {})
        self.handler_cls = Handler
        self.home = home
        self.user = user
        self.password = password
        self.code = code
        self.max_sessions = max_sessions
        self.noise = noise
        self.forwarding = forwarding
        self.environment = {
            "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]),
            "HOME": str(home),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            **(environment or {}),
        }
        #: All command lines that were sent, as they arrived.
        self.commands: list[str] = []
        #: Names of the methods of all login attempts.
        self.logins: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.thawed = threading.Event()
        self.thawed.set()
        self._handlers: list[Handler] = []

    @property
    def known_hosts_line(self) -> str:
        """The line of a known hosts file for this server."""
        key = paramiko.RSAKey.from_private_key_file(SERVER_KEY_PATH)
        return f"[{self.host}]:{self.port} ssh-rsa {key.get_base64()}\n"

    @property
    def connections(self) -> int:
        """Number of live connections."""
        return sum(handler.transport.is_active() for handler in self._handlers)

    def attach(self, handler: Handler) -> None:
        """Note a new connection."""
        self._handlers.append(handler)

    def drop(self) -> None:
        """Cut all connections, as a frontend does that goes down."""
        for handler in self._handlers:
            handler.transport.sock.close()
            handler.transport.close()
        self._handlers.clear()

    def freeze(self) -> None:
        """Say nothing more on any connection, as a frontend does whose processes hang."""
        self.thawed.clear()

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self.thawed.set()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal all commands that are still running, and what they started."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self.thaw()
        self.drop()
        self.kill()
        for process in self.processes:
            process.wait()


class Handler(MockHandler):  # type: ignore[misc]
    """One connection."""

    server: Frontend
    transport: paramiko.Transport

    def __init__(self, server: Frontend, client_conn: tuple[socket.socket, object]) -> None:
        client_conn[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(server, client_conn)
        self._sessions = 0
        self._has_key = False
        self._forwards: dict[int, socket.socket] = {}
        packetizer = self.transport.packetizer
        send = packetizer.write_all

        def send_unless_frozen(data: bytes) -> None:
            server.thawed.wait()
            send(data)

        packetizer.write_all = send_unless_frozen  # type: ignore[method-assign,assignment]
        server.attach(self)

    # logging in

    def get_allowed_auths(self, username: str) -> str:
        if self._has_key:
            return "keyboard-interactive"
        methods = ["publickey"] if username in self.server.users else []
        methods += ["password"] if self.server.password is not None else []
        return ",".join(methods + (["keyboard-interactive"] if self.server.code is not None else []))

    def check_auth_none(self, username: str) -> int:
        return AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        self.server.logins.append("password")
        right = username == self.server.user and self.server.password is not None and password == self.server.password
        return AUTH_SUCCESSFUL if right else AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.server.logins.append("publickey")
        answer = int(super().check_auth_publickey(username, key))
        if answer == AUTH_SUCCESSFUL and self.server.code is not None:
            self._has_key = True
            return AUTH_PARTIALLY_SUCCESSFUL
        return answer

    def check_auth_interactive(self, username: str, submethods: str) -> int | InteractiveQuery:
        self.server.logins.append("keyboard-interactive")
        if self.server.code is None:
            return AUTH_FAILED
        query = InteractiveQuery("Second factor", "Look at your token.")
        query.add_prompt("Verification code: ", False)
        return query

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return AUTH_SUCCESSFUL if responses == [self.server.code] else AUTH_FAILED

    # channels

    def check_channel_env_request(self, channel: paramiko.Channel, name: str, value: str) -> bool:
        return False

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind != "session":
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        if self._sessions >= self.server.max_sessions:
            return OPEN_FAILED_CONNECT_FAILED
        self._sessions += 1
        return OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        # many frontends have no SFTP; nothing may depend on it
        return False

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        if not self.server.forwarding:
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        try:
            self._forwards[chanid] = socket.create_connection(destination, timeout=5)
        except OSError:
            return OPEN_FAILED_CONNECT_FAILED
        self._forwards[chanid].settimeout(None)
        return OPEN_SUCCEEDED

    def run(self) -> None:
        try:
            self.transport.start_server(server=self)
        except (paramiko.SSHException, EOFError, OSError):
            return
        while self.transport.is_active():
            channel = self.transport.accept(1)
            if channel is None:
                continue
            forward = self._forwards.pop(channel.chanid, None)
            if forward:
                threading.Thread(target=self._forward, args=(channel, forward), daemon=True).start()
            else:
                threading.Thread(target=self.handle_client, args=(channel,), daemon=True).start()

    def handle_client(self, channel: paramiko.Channel) -> None:
        """Run the command of one session."""
        commands: Queue[bytes] = self.command_queues.setdefault(channel.chanid, Queue())
        try:
            with contextlib.suppress(Empty, EOFError, OSError, paramiko.SSHException):
                command = commands.get(timeout=30).decode("utf-8", "surrogateescape")
                # now, while the channel is open: its number is used again as soon as it is not
                self.command_queues.pop(channel.chanid, None)
                self._run_command(channel, command)
        finally:
            self._sessions -= 1
            with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
                channel.close()

    def _run_command(self, channel: paramiko.Channel, command: str) -> None:
        server = self.server
        server.commands.append(command)
        if server.noise:
            channel.sendall(server.noise.encode())
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=server.home,
            env=server.environment,
            start_new_session=True,
        )
        server.processes.append(process)
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise OSError("no pipes")
        pumps = [
            threading.Thread(target=_copy_output, args=(process.stdout, channel.sendall), daemon=True),
            threading.Thread(target=_copy_output, args=(process.stderr, channel.sendall_stderr), daemon=True),
        ]
        threading.Thread(target=_copy_input, args=(channel, process.stdin), daemon=True).start()
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        code = process.wait()
        channel.shutdown_write()
        if code >= 0:
            channel.send_exit_status(code)
        else:
            self._send_exit_signal(channel, signal.Signals(-code))

    def _send_exit_signal(self, channel: paramiko.Channel, number: signal.Signals) -> None:
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exit-signal")
        message.add_boolean(False)
        message.add_string(number.name.removeprefix("SIG"))
        message.add_boolean(False)
        message.add_string("")
        message.add_string("")
        self.transport._send_user_message(message)  # type: ignore[attr-defined]

    def _forward(self, channel: paramiko.Channel, service: socket.socket) -> None:
        def back() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                while data := service.recv(_BLOCK):
                    channel.sendall(data)
                channel.shutdown_write()

        returning = threading.Thread(target=back, daemon=True)
        returning.start()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := channel.recv(_BLOCK):
                service.sendall(data)
            service.shutdown(socket.SHUT_WR)
        returning.join()
        service.close()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.close()


def _copy_input(channel: paramiko.Channel, stdin: IO[bytes]) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException), stdin:
        while data := channel.recv(_BLOCK):
            view = memoryview(data)
            while view:
                view = view[stdin.write(view) or 0 :]


def _copy_output(output: IO[bytes], send: Callable[[bytes], None]) -> None:
    with output:
        while data := output.read(_BLOCK):
            try:
                send(data)
            except (OSError, EOFError, paramiko.SSHException):
                return
