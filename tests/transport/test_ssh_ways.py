"""Ways to a machine: jump hosts, proxy commands; and ways through it: tunnels."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from batchlib.errors import ConfigurationError, ConnectionFailed, InvalidValue, UnknownHostKey
from batchlib.transport.openssh import OpensshCarrier
from batchlib.transport.ssh import SshCarrier, SshSettings
from tests.conftest import require
from tests.fakes.frontend import Frontend
from tests.servers import prerequisites
from tests.servers.processes import free_ports
from tests.servers.sshd import Sshd
from tests.transport.conftest import settings_for
from tests.transport.streams import finish, run, wait_for_output


@pytest.fixture(scope="module")
def jump(server_directory: Path) -> Iterator[Sshd]:
    """A host to jump through."""
    require(prerequisites.SSHD)
    with Sshd(server_directory / "jump", name="jump") as server:
        yield server


@pytest.fixture
def config(plain_sshd: Sshd, jump: Sshd, tmp_path: Path) -> Path:
    """A client configuration that knows both, and a way from one to the other."""
    file = tmp_path / "config"
    both = plain_sshd.config.read_text() + jump.config.read_text()
    # the first word about a host wins: an address stands for both servers in their own files
    both = both.replace(" 127.0.0.1\n    HostName", "\n    HostName")
    file.write_text(f"Host {plain_sshd.name}\n    ProxyJump jump\n" + both)
    return file


def carrier_to(settings: SshSettings) -> AbstractContextManager[SshCarrier]:
    return contextlib.closing(SshCarrier(settings))


EitherWay = Callable[[SshSettings], AbstractContextManager[SshCarrier | OpensshCarrier]]


@pytest.fixture(name="carrier_to", params=[SshCarrier, OpensshCarrier], ids=["paramiko", "openssh"])
def either_carrier_to(request: pytest.FixtureRequest) -> EitherWay:
    """Take the place of `carrier_to` in tests of what holds for both carriers."""
    return lambda settings: contextlib.closing(request.param(settings))


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait for a condition to come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# jump hosts


def test_a_jump_host_of_the_configuration(plain_sshd: Sshd, jump: Sshd, config: Path, carrier_to: EitherWay) -> None:
    with carrier_to(SshSettings(plain_sshd.name, ssh_config=str(config))) as carrier:
        data = bytes(range(256)) * 40_000
        assert run(carrier, "cat", data).out == data
        assert len(jump.connections()) == 1
    with carrier_to(SshSettings(plain_sshd.name, ssh_config=str(config), gateway="none")) as carrier:
        run(carrier, "true")
        assert eventually(lambda: not jump.connections())


def test_a_gateway_serves_all_that_lies_behind_it(plain_sshd: Sshd, jump: Sshd, make_sshd: Callable[..., Sshd]) -> None:
    other = make_sshd(name="other")
    # one known hosts file for the way, as a person has
    known = (str(jump.known_hosts), str(plain_sshd.known_hosts), str(other.known_hosts))
    public = (plain_sshd.directory / "authorized_keys").read_text()
    for server in (jump, other):
        with (server.directory / "authorized_keys").open("a") as file:
            file.write(public)

    def settings(server: Sshd) -> SshSettings:
        return SshSettings(
            server.host,
            username=server.user,
            port=server.port,
            keyfile=str(plain_sshd.keyfile),
            ssh_config="none",
            known_hosts=known,
            gateway=f"127.0.0.1:{jump.port}",
        )

    with carrier_to(settings(plain_sshd)) as first, carrier_to(settings(other)) as second:
        assert run(first, "echo here").out == b"here\n"
        assert run(second, "echo there").out == b"there\n"
        assert len(jump.connections()) == 1
        first.close()
        assert run(second, "echo still").out == b"still\n"
    assert eventually(lambda: not jump.connections())


def test_several_jump_hosts(
    plain_sshd: Sshd, jump: Sshd, config: Path, make_frontend: Callable[..., Frontend], carrier_to: EitherWay
) -> None:
    outer = make_frontend(password="hunter2", keyfile=None)
    known = outer.home / "known_hosts"
    known.write_text(outer.known_hosts_line)
    settings = SshSettings(
        plain_sshd.name,
        ssh_config=str(config),
        known_hosts=(str(known),),
        gateway=f"hpc@127.0.0.1:{outer.port},jump",
        password_command="echo hunter2",
    )
    with carrier_to(settings) as carrier:
        assert run(carrier, "echo through both").out == b"through both\n"
        assert outer.connections == 1
        assert len(jump.connections()) == 1


def test_the_host_key_behind_a_jump_host_is_checked_under_its_own_name(
    plain_sshd: Sshd, config: Path, tmp_path: Path, carrier_to: EitherWay
) -> None:
    text = config.read_text().replace(str(plain_sshd.known_hosts), str(tmp_path / "empty"))
    config.write_text(text)
    settings = SshSettings(plain_sshd.name, ssh_config=str(config))
    with carrier_to(settings) as carrier, pytest.raises(UnknownHostKey) as caught:
        carrier.open("true")
    assert plain_sshd.fingerprint in str(caught.value)
    assert f"[127.0.0.1]:{plain_sshd.port}" in str(caught.value)


def test_jump_hosts_that_fail(make_sshd: Callable[..., Sshd], plain_sshd: Sshd) -> None:
    closed = make_sshd(options={"AllowTcpForwarding": "no"})
    refusal = pytest.raises(ConnectionFailed, match="does not forward TCP connections")
    with carrier_to(settings_for(closed, host="127.0.0.1")) as carrier, refusal:
        carrier.open_tcp("127.0.0.1", plain_sshd.port)
    (port,) = free_ports(1)
    with carrier_to(settings_for(plain_sshd)) as carrier:
        with pytest.raises(ConnectionFailed, match=f"can't connect to 127.0.0.1, port {port}"):
            carrier.open_tcp("127.0.0.1", port)
        assert run(carrier, "echo fine").out == b"fine\n"


def test_the_death_of_a_jump_host_is_noticed_at_once(
    plain_sshd: Sshd, jump: Sshd, config: Path, carrier_to: EitherWay
) -> None:
    with carrier_to(SshSettings(plain_sshd.name, ssh_config=str(config))) as carrier:
        pipe = carrier.open("echo ready; sleep 60")
        wait_for_output(pipe, b"ready\n")
        jump.drop()
        assert finish(pipe, seconds=5).code is None
        pipe.close()
        assert run(carrier, "echo again").out == b"again\n"


def test_a_silent_jump_host_is_noticed(plain_sshd: Sshd, jump: Sshd, config: Path, carrier_to: EitherWay) -> None:
    settings = SshSettings(plain_sshd.name, ssh_config=str(config), keepalive=0.4, timeout=2)
    with carrier_to(settings) as carrier:
        pipe = carrier.open("echo ready; sleep 60")
        wait_for_output(pipe, b"ready\n")
        jump.pause()
        try:
            assert finish(pipe, seconds=5).code is None
        finally:
            jump.cont()
        pipe.close()


# proxy commands


@pytest.fixture
def proxied(plain_sshd: Sshd, tmp_path: Path) -> Callable[[str], SshSettings]:
    """Settings with a proxy command."""

    def make(command: str) -> SshSettings:
        config = tmp_path / "config"
        config.write_text(f"Host {plain_sshd.name}\n    ProxyCommand {command}\n" + plain_sshd.config.read_text())
        return SshSettings(plain_sshd.name, ssh_config=str(config), timeout=5)

    return make


def test_a_proxy_command(proxied: Callable[[str], SshSettings], jump: Sshd, carrier_to: EitherWay) -> None:
    with carrier_to(proxied(f"ssh -F {jump.config} -W %h:%p jump 2>/dev/null")) as carrier:
        data = bytes(range(256)) * 40_000
        assert run(carrier, "cat", data).out == data
        assert len(jump.connections()) == 1
    assert eventually(lambda: not jump.connections())


def test_a_proxy_command_that_fails_is_quoted(proxied: Callable[[str], SshSettings], carrier_to: EitherWay) -> None:
    quoted = pytest.raises(ConnectionFailed, match="said: the proxy is closed")
    with carrier_to(proxied("sh -c 'echo the proxy is closed >&2; exit 1'")) as carrier, quoted:
        carrier.open("true")


def test_a_proxy_command_that_dies_is_noticed_at_once(
    proxied: Callable[[str], SshSettings], jump: Sshd, tmp_path: Path, carrier_to: EitherWay
) -> None:
    command = f"sh -c 'echo $$ >{tmp_path}/pid; exec ssh -F {jump.config} -W %h:%p jump'"
    with carrier_to(proxied(command)) as carrier:
        pipe = carrier.open("echo ready; sleep 60")
        wait_for_output(pipe, b"ready\n")
        before = os.times()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert finish(pipe, seconds=5).code is None
        pipe.close()
        time.sleep(0.5)
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.4, "something spins"
        assert run(carrier, "echo again").out == b"again\n"


def test_a_silent_proxy_command_has_its_time(proxied: Callable[[str], SshSettings], tmp_path: Path) -> None:
    settings = proxied(f"echo $$ >{tmp_path}/pid; exec sleep 60")
    settings = SshSettings(settings.host, ssh_config=settings.ssh_config, timeout=1)
    with carrier_to(settings) as carrier, pytest.raises(ConnectionFailed, match="within 1 s"):
        carrier.open("true")
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# tunnels


class Shouting(socketserver.ThreadingTCPServer):
    """Answers, when its client has said all, in capitals."""

    daemon_threads = True
    request_queue_size = 100

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            said = b""
            while data := self.request.recv(65536):
                said += data
            self.request.sendall(said.upper())

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Shouting.Handler)


@pytest.fixture
def service() -> Iterator[int]:
    """The port of a TCP service that the machine can reach."""
    server = Shouting()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def shout(address: tuple[str, int] | str, text: bytes) -> bytes:
    """Talk to the service."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(20)
        connection.connect(address)
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


@pytest.fixture(params=["real", "openssh"])
def far(request: pytest.FixtureRequest) -> SshCarrier | OpensshCarrier:
    """A carrier of either kind to a real server."""
    carrier: SshCarrier | OpensshCarrier = request.getfixturevalue(request.param)
    return carrier


def test_a_tunnel_to_a_tcp_service(far: SshCarrier | OpensshCarrier, service: int) -> None:
    with far.forward("127.0.0.1", service) as tunnel:
        assert tunnel.local_address[0] == "127.0.0.1"
        assert shout(tunnel.local_address, b"hello") == b"HELLO"
        text = b"abcdefgh" * 500_000
        assert shout(tunnel.local_address, text) == text.upper()
        # programs go on beside it
        assert run(far, "echo beside").out == b"beside\n"
        address = tunnel.local_address
    with pytest.raises(ConnectionRefusedError):
        shout(address, b"hello")
    assert run(far, "echo after").out == b"after\n"


def test_a_tunnel_from_a_socket_file(far: SshCarrier | OpensshCarrier, service: int, server_directory: Path) -> None:
    directory = server_directory / "tunnel"  # the path of a socket has to be short
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / "s"
    with far.forward("127.0.0.1", service, local=str(path)) as tunnel:
        assert tunnel.local_address == str(path)
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert shout(str(path), b"hello") == b"HELLO"
    assert not path.exists()


def test_many_connections_through_a_tunnel(far: SshCarrier | OpensshCarrier, service: int) -> None:
    with far.forward("127.0.0.1", service) as tunnel, ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda n: shout(tunnel.local_address, b"hello %d" % n), range(200)))
    assert answers == [b"HELLO %d" % number for number in range(200)]


def test_tunnels_that_others_could_use_are_refused(
    far: SshCarrier | OpensshCarrier, service: int, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    for local in (("0.0.0.0", 0), ("", 0), ("192.0.2.1", 0), ("example.org", 0), str(tmp_path / "s"), "/nowhere/s"):
        with pytest.raises(InvalidValue):
            far.forward("127.0.0.1", service, local=local)


def test_a_local_port_that_is_in_use(far: SshCarrier | OpensshCarrier, service: int) -> None:
    with pytest.raises(InvalidValue, match="cannot listen on"):
        far.forward("127.0.0.1", service, local=("127.0.0.1", service))


def test_a_tunnel_to_nothing_hangs_up(far: SshCarrier | OpensshCarrier) -> None:
    (port,) = free_ports(1)
    with far.forward("127.0.0.1", port) as tunnel, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert shout(tunnel.local_address, b"hello") == b""


def test_a_tunnel_survives_its_connection(make_sshd: Callable[..., Sshd], service: int, carrier_to: EitherWay) -> None:
    server = make_sshd()
    with carrier_to(settings_for(server)) as carrier, carrier.forward("127.0.0.1", service) as tunnel:
        assert shout(tunnel.local_address, b"hello") == b"HELLO"
        server.drop()
        assert shout(tunnel.local_address, b"again") == b"AGAIN"


def test_closing_a_tunnel_ends_what_goes_through_it(far: SshCarrier | OpensshCarrier, service: int) -> None:
    with far.forward("127.0.0.1", service) as tunnel:
        address = tunnel.local_address
        assert isinstance(address, tuple)
        connection = socket.create_connection(address, timeout=20)
        connection.sendall(b"hello")
        assert shout(address, b"hello") == b"HELLO"
    with connection:
        assert connection.recv(100) == b""


def test_a_frozen_server_ends_what_goes_through_a_tunnel(
    make_sshd: Callable[..., Sshd], service: int, carrier_to: EitherWay
) -> None:
    server = make_sshd()
    settings = settings_for(server, keepalive=0.4, timeout=2.0)
    with carrier_to(settings) as carrier, carrier.forward("127.0.0.1", service) as tunnel:
        address = tunnel.local_address
        assert isinstance(address, tuple)
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(b"hello")
            assert shout(address, b"hello") == b"HELLO"
            server.pause()
            try:
                assert connection.recv(100) == b""
            finally:
                server.cont()


def test_jump_hosts_in_a_circle(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n    ProxyJump b\nHost b\n    ProxyJump a\n")
    with carrier_to(SshSettings("a", ssh_config=str(config))) as carrier, pytest.raises(ConfigurationError):
        carrier.open("true")
