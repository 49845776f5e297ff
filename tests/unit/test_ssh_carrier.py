"""Parts of the SSH carrier that need no server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import paramiko
import pytest

from batchlib.errors import AuthenticationFailed, ConfigurationError, ConnectionFailed, InvalidValue
from batchlib.transport import shared, ssh_connection
from batchlib.transport.gate import Gate
from batchlib.transport.paramiko_safe import SafeTransport
from batchlib.transport.ssh import SshCarrier, SshSettings, shared_carrier
from batchlib.transport.ssh_auth import run_password_command
from batchlib.transport.ssh_keys import UnusableKey, read_key
from batchlib.transport.ssh_socket import ProxyCommand, connect_tcp
from batchlib.transport.tunnel import Tunnel


def loads(module: str) -> set[str]:
    """List the modules that importing one brings along."""
    program = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.decode().split())


def test_settings_and_carriers_do_not_load_paramiko() -> None:
    loaded = loads("batchlib.transport.ssh")
    assert "batchlib.transport.ssh_config" in loaded
    assert not {"paramiko", "sshtunnel", "cryptography"} & loaded


def test_carriers_are_named_after_where_they_lead() -> None:
    assert SshCarrier(SshSettings("login.example.org", username="me")).name == "me@login.example.org"
    assert SshCarrier(SshSettings("cluster")).name == "cluster"


def test_carriers_of_the_same_settings_share_what_others_do_not() -> None:
    first = shared_carrier(SshSettings("cluster"))
    assert shared_carrier(SshSettings("cluster"))._link is first._link
    assert shared_carrier(SshSettings("cluster", username="me"))._link is not first._link
    assert SshCarrier(SshSettings("cluster"))._link is not first._link


def test_closing_what_was_never_opened_is_harmless() -> None:
    carrier = shared_carrier(SshSettings("cluster"))
    carrier.close()
    carrier.close()


def test_a_pause_grows_with_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise ConnectionFailed("nobody listens there")

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(ssh_connection, "Connection", refuse)
    carrier = SshCarrier(SshSettings("nobody.invalid"))
    for _ in range(9):
        with pytest.raises(ConnectionFailed):
            carrier.open("true")
    assert slept[0] == 0
    assert 0.2 < slept[1] <= 0.5
    assert 4 < slept[5] <= 8
    assert max(slept) <= 30


def test_a_configuration_that_is_wrong_is_told_as_it_is(tmp_path: Path) -> None:
    carrier = SshCarrier(SshSettings("cluster", ssh_config=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigurationError, match="nowhere"):
        carrier.open("true")


# room for sessions


def always() -> bool:
    return True


def test_a_gate_lets_in_as_many_as_it_has_room_for() -> None:
    gate = Gate(2)
    assert gate.enter(0, always) == 0
    assert gate.enter(0, always) == 1
    assert gate.enter(time.monotonic() + 0.05, always) is None
    gate.leave()
    assert gate.enter(0, always) == 1


def test_a_gate_wakes_who_waits() -> None:
    gate = Gate(1)
    gate.enter(0, always)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(gate.enter, time.monotonic() + 30, always)
        gate.leave()
        assert waiting.result(20) == 0


def test_a_narrowed_gate_widens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gate = Gate(4)
    gate.narrow(0)
    assert gate.enter(0, always) == 0
    assert gate.enter(0, always) is None
    now += 31
    assert gate.enter(0, always) == 1
    assert gate.enter(0, always) is None
    now += 1000
    assert [gate.enter(0, always) for _ in range(3)] == [2, 3, None]


def test_nobody_waits_at_a_gate_that_leads_nowhere() -> None:
    gate = Gate(1)
    gate.enter(0, always)
    assert gate.enter(time.monotonic() + 60, lambda: False) is None


def test_a_gate_never_has_more_inside_than_allowed() -> None:
    gate = Gate(3)
    inside: set[int] = set()
    most = 0

    def work(number: int) -> None:
        nonlocal most
        assert gate.enter(time.monotonic() + 30, always) is not None
        inside.add(number)
        most = max(most, len(inside))
        time.sleep(0)
        inside.discard(number)
        gate.leave()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(500)))
    assert 1 <= most <= 3


# passwords, keys, sockets


def test_the_output_of_a_password_command_is_the_password() -> None:
    assert run_password_command("printf 'two words\\n'") == "two words"
    assert run_password_command("cat; echo none >&2; printf ' é '") == " é "


def test_a_password_command_that_fails_tells_no_secret() -> None:
    with pytest.raises(AuthenticationFailed, match="exit code 5") as caught:
        run_password_command("echo hunter2; echo hunter3 >&2; exit 5")
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ssh-ed25519 AAAA",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n%%%\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
    ],
)
def test_what_is_no_key_is_not_used(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(UnusableKey):
        read_key(str(file)).load(None)


def test_all_addresses_of_a_host_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # nobody listens there
            addresses = [("127.0.0.1", closed.getsockname()[1]), ("127.0.0.1", port)]
            found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
            with connect_tcp("many.example.org", 22, 5) as connection:
                assert connection.getpeername() == ("127.0.0.1", port)
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_channel_of_a_dead_connection_is_an_error_of_its_own() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = SafeTransport(ours, 1.0, 1.0)
        with pytest.raises(paramiko.SSHException, match="not active"):
            transport.open_safely("session", None, None, 1.0)


def test_a_proxy_command_talks_through_its_socket() -> None:
    proxy = ProxyCommand("read -r line; echo got $line; echo bye >&2")
    proxy.socket.sendall(b"word\n")
    assert proxy.socket.recv(100) == b"got word\n"
    assert proxy.socket.recv(100) == b""
    assert proxy.complaint() == "bye"
    proxy.close()


@pytest.mark.parametrize("local", [("0.0.0.0", 0), ("::", 0), ("::1", 0), ("10.0.0.1", 80), ("login", 0)])
def test_tunnels_listen_for_their_user_only(local: tuple[str, int]) -> None:
    with pytest.raises(InvalidValue, match="other users and machines"):
        Tunnel(SshCarrier(SshSettings("cluster")), "node", 80, local)


def test_settings_can_be_told_apart_and_hashed() -> None:
    settings = SshSettings("cluster", known_hosts=("/a",))
    assert hash(settings) == hash(attrs.evolve(settings))
    assert settings != attrs.evolve(settings, port=2222)


def test_links_are_free_in_a_forked_child() -> None:
    carrier = shared_carrier(SshSettings("elsewhere"))
    lock = carrier._link._lock
    holder = threading.Thread(target=lock.acquire)
    holder.start()
    holder.join()
    shared._registry.forget()  # what the interpreter calls after a fork
    carrier.close()
    lock.release()
