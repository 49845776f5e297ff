"""The user's own OpenSSH client: connections that are open already, one login for all, and nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchlib.errors import AuthenticationFailed, ConnectionFailed, ConnectionLost, InvalidValue
from batchlib.transport.openssh import OpensshCarrier, shared_openssh
from batchlib.transport.openssh_only import openssh_only
from batchlib.transport.ssh import SshSettings
from batchlib.transport.transport import Transport
from tests.fakes.frontend import Frontend
from tests.servers.processes import wait_until
from tests.servers.sshd import Sshd
from tests.transport.conftest import make_key, settings_for
from tests.transport.streams import finish, run, wait_for_output

MakeSshd = Callable[..., Sshd]


@pytest.fixture(autouse=True)
def sockets(server_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where our control sockets are; the test ends with none, and with no process that uses one."""
    directory = server_directory / "run"  # the path of a socket has to be short
    directory.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    yield directory
    wait_until("sockets to be removed", lambda: not list(directory.iterdir()), 10)
    wait_until("processes to end", lambda: not processes_that_name(str(directory)), 10)


def processes_that_name(text: str) -> list[int]:
    """Find the processes that have a text in their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


@pytest.fixture
def carriers() -> Iterator[Callable[..., OpensshCarrier]]:
    """Make carriers that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(settings: SshSettings) -> OpensshCarrier:
            return stack.enter_context(contextlib.closing(OpensshCarrier(settings)))

        yield make


@pytest.fixture
def user_config(server_directory: Path, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Write configurations of a user who has a control path; the connections there end with the test."""
    path = server_directory / "control"
    made: list[tuple[Path, str]] = []

    def make(text: str, host: str, **options: str) -> Path:
        file = tmp_path / f"config{len(made)}"
        lines = "".join(f"    {name} {value}\n" for name, value in {"ControlPath": str(path), **options}.items())
        file.write_text(f"Host {host}\n{lines}{text}")
        made.append((file, host))
        return file

    yield make
    for file, host in made:
        control(file, host, "exit")
    wait_until("the user's connection to end", lambda: not path.exists(), 10)


def control(config: Path, host: str, request: str) -> bool:
    """Ask something of the user's open connection."""
    words = ["ssh", "-F", str(config), "-O", request, host]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def open_connection(config: Path, host: str, **environment: str) -> None:
    """Open a connection as a user does in another window."""
    words = ["ssh", "-F", str(config), "-M", "-N", "-f", host]
    nobody = subprocess.DEVNULL
    subprocess.run(words, check=True, stdin=nobody, stdout=nobody, stderr=nobody, env={**os.environ, **environment})


# connections that are open


def test_a_connection_that_the_user_has_open_is_used_and_left_open(
    make_sshd: MakeSshd, user_config: Callable[..., Path], carriers: Callable[..., OpensshCarrier]
) -> None:
    server = make_sshd()
    config = user_config(server.config.read_text(), server.name)
    open_connection(config, server.name)
    carrier = carriers(SshSettings(server.name, ssh_config=str(config)))
    (server.directory / "authorized_keys").write_text("")  # nobody can log in any more
    for number in range(3):
        assert run(carrier, f"echo {number}").out == b"%d\n" % number
    carrier.close()
    assert control(config, server.name, "check")
    assert len(server.connections()) == 1


def test_a_second_factor_was_given_when_the_connection_was_opened(
    make_frontend: Callable[..., Frontend],
    user_config: Callable[..., Path],
    carriers: Callable[..., OpensshCarrier],
    rsa_key: Path,
    tmp_path: Path,
) -> None:
    frontend = make_frontend(code="123456")
    (frontend.home / "known_hosts").write_text(frontend.known_hosts_line)
    text = (
        f"HostName {frontend.host}\nPort {frontend.port}\nUser {frontend.user}\nIdentityFile {rsa_key}\n"
        f"UserKnownHostsFile {frontend.home}/known_hosts\n"
    )
    config = user_config(text, "cluster")
    settings = SshSettings("cluster", ssh_config=str(config))
    with pytest.raises(AuthenticationFailed, match=r"nobody to ask here: run `ssh -M -N -f -F .* in a terminal first"):
        carriers(settings).open("true")
    answer = tmp_path / "answer"
    answer.write_text("#!/bin/sh\necho 123456\n")
    answer.chmod(0o700)
    open_connection(config, "cluster", SSH_ASKPASS=str(answer), SSH_ASKPASS_REQUIRE="force")
    logins = list(frontend.logins)
    assert run(carriers(settings), "echo in").out == b"in\n"
    assert frontend.logins == logins


def test_a_login_leaves_a_connection_open_where_the_user_wants_that(
    make_sshd: MakeSshd, user_config: Callable[..., Path], carriers: Callable[..., OpensshCarrier]
) -> None:
    server = make_sshd()
    config = user_config(server.config.read_text(), server.name, ControlMaster="auto", ControlPersist="1h")
    settings = SshSettings(server.name, ssh_config=str(config))
    assert run(carriers(settings), "echo one").out == b"one\n"
    assert control(config, server.name, "check")
    (server.directory / "authorized_keys").write_text("")
    assert run(carriers(settings), "echo two").out == b"two\n"
    assert len(server.connections()) == 1


def test_a_control_path_that_cannot_be_made_is_no_hindrance(
    make_sshd: MakeSshd, tmp_path: Path, carriers: Callable[..., OpensshCarrier]
) -> None:
    server = make_sshd()
    config = tmp_path / "config"
    options = "ControlMaster auto\nControlPersist 1h\nControlPath /nowhere/%C\n"
    config.write_text(options + server.config.read_text())
    carrier = carriers(SshSettings(server.name, ssh_config=str(config)))
    assert run(carrier, "echo one").out == b"one\n"
    carrier.close()
    wait_until("the connection to end", lambda: not server.connections(), 10)


# one login


def test_many_programs_cost_one_login(make_sshd: MakeSshd) -> None:
    server = make_sshd()
    settings = settings_for(server)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        carriers = [stack.enter_context(contextlib.closing(shared_openssh(settings))) for _ in range(4)]
        answers = threads.map(lambda n: run(carriers[n % 4], f"echo {n}").out, range(60))
        assert list(answers) == [b"%d\n" % number for number in range(60)]
        assert len(server.connections()) == 1
    assert server.log.count("Accepted publickey") == 1
    wait_until("the connection to end", lambda: not server.connections(), 10)


def test_programs_never_log_in_by_themselves(make_sshd: MakeSshd, carriers: Callable[..., OpensshCarrier]) -> None:
    """Whatever becomes of the shared connection while programs are started."""
    server = make_sshd()
    carrier = carriers(settings_for(server))
    run(carrier, "true")
    for _ in range(5):
        server.drop()
        assert run(carrier, "echo again").out == b"again\n"
    assert server.log.count("Accepted publickey") == 6


# ends


def test_the_death_of_the_shared_process_is_a_loss_and_no_answer(
    make_sshd: MakeSshd, sockets: Path, carriers: Callable[..., OpensshCarrier]
) -> None:
    server = make_sshd()
    with Transport(carriers(settings_for(server))) as transport:
        assert transport.run("echo one").out == "one\n"
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(transport.run, "sleep 61.234")
            wait_until("the program to run", lambda: bool(processes_that_name("sleep\x0061.234")), 10)
            (server_process,) = server.connections()
            for pid in processes_that_name(str(sockets / "batchlib-")):
                # the process that has the connection, and those that use it for programs
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with pytest.raises(ConnectionLost):
                asked.result(20)
        assert transport.run("echo two").out == "two\n"
        assert server_process not in server.connections()


def test_a_connection_of_the_users_that_ends_is_followed_by_one_of_ours(
    make_sshd: MakeSshd, user_config: Callable[..., Path], carriers: Callable[..., OpensshCarrier]
) -> None:
    server = make_sshd()
    config = user_config(server.config.read_text(), server.name)
    open_connection(config, server.name)
    carrier = carriers(SshSettings(server.name, ssh_config=str(config)))
    pipe = carrier.open("echo ready; sleep 60")
    wait_for_output(pipe, b"ready\n")
    assert control(config, server.name, "exit")
    assert finish(pipe).code is None
    pipe.close()
    assert run(carrier, "echo again").out == b"again\n"


def test_why_the_connection_ended_is_told(make_sshd: MakeSshd, carriers: Callable[..., OpensshCarrier]) -> None:
    server = make_sshd()
    with Transport(carriers(settings_for(server))) as transport, transport.receive("echo ready; sleep 60") as incoming:
        assert next(iter(incoming)) == b"ready\n"
        server.drop()
        with pytest.raises(ConnectionLost, match=r"in a transfer: the connection is gone: "):
            assert [*incoming, incoming.result]


BY_ITSELF = """
import sys
from batchlib.transport.openssh import shared_openssh
from batchlib.transport.ssh import SshSettings
from tests.transport.streams import wait_for_output
carrier = shared_openssh(SshSettings(sys.argv[1], ssh_config=sys.argv[2]), {prompt})
pipe = carrier.open("echo ready; exec sleep 77")
wait_for_output(pipe, b"ready\\n", seconds=60)
print("open", flush=True)
{then}
"""


#: Ends while a thread of its waits for the server to open one more session.
IN_THE_MIDDLE = (
    "import threading; threading.Thread(target=carrier.open, args=['true'], daemon=True).start(); "
    "import time; time.sleep(0.3)"
)


@pytest.mark.parametrize("then", ["sys.stdin.read()", "sys.exit()", IN_THE_MIDDLE], ids=["killed", "careless", "busy"])
def test_nothing_is_left_of_a_process_that_did_not_close(then: str, make_sshd: MakeSshd, sockets: Path) -> None:
    server = make_sshd(options={"MaxSessions": "1"})
    program = BY_ITSELF.format(prompt=None, then=then)
    words = [sys.executable, "-c", program, server.name, str(server.config)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        if then == "sys.stdin.read()":
            assert list(sockets.iterdir())
            process.kill()
    # the rest is what the fixture `sockets` waits for
    wait_until("the connection to end", lambda: not server.connections(), 10)


# people


def test_ssh_asks_at_the_terminal_where_there_is_somebody(
    make_frontend: Callable[..., Frontend], rsa_key: Path, tmp_path: Path
) -> None:
    """The code is typed there; Ctrl-C later on is for the program, not for the connection."""
    frontend = make_frontend(code="123456")
    (frontend.home / "known_hosts").write_text(frontend.known_hosts_line)
    config = tmp_path / "config"
    config.write_text(
        f"Host cluster\nHostName {frontend.host}\nPort {frontend.port}\nUser {frontend.user}\nIdentityFile {rsa_key}\n"
        f"UserKnownHostsFile {frontend.home}/known_hosts\n"
    )
    then = (
        "try: pipe.read(30)\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        "pipe.close(); pipe = carrier.open('echo still there; sleep 77')\n"
        "wait_for_output(pipe, b'still there'); print('still there', flush=True); pipe.close(); carrier.close()"
    )
    program = BY_ITSELF.format(prompt="lambda question, show: 'not asked'", then=then)
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program, "cluster", str(config)])
    try:
        expect(terminal, b"Verification code: ")
        os.write(terminal, b"123456\n")
        expect(terminal, b"open")
        os.write(terminal, b"\x03")
        expect(terminal, b"interrupted")
        expect(terminal, b"still there")
    finally:
        _, status = os.waitpid(child, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert frontend.logins.count("keyboard-interactive") == 1


def expect(terminal: int, text: bytes) -> None:
    """Read from a terminal until a text appears."""
    said = b""
    while text not in said:
        said += os.read(terminal, 1000)


# passwords


def test_a_password_is_not_shown_to_a_jump_host_of_the_configuration(
    make_frontend: Callable[..., Frontend], tmp_path: Path, carriers: Callable[..., OpensshCarrier]
) -> None:
    jump, inner = (make_frontend(password="hunter2", keyfile=None) for _ in range(2))
    known = tmp_path / "known"
    known.write_text(jump.known_hosts_line + inner.known_hosts_line)
    config = tmp_path / "config"
    config.write_text(
        f"Host *\nUser hpc\nUserKnownHostsFile {known}\n"
        f"Host jump\nHostName 127.0.0.1\nPort {jump.port}\n"
        f"Host inner\nHostName 127.0.0.1\nPort {inner.port}\nProxyJump jump\n"
    )
    settings = SshSettings("inner", ssh_config=str(config), password_command="echo hunter2")
    with pytest.raises(AuthenticationFailed):
        carriers(settings).open("true")
    assert inner.logins == []
    jump.logins.clear()
    # somebody who names the gateway means it
    named = SshSettings("inner", ssh_config=str(config), password_command="echo hunter2", gateway="jump")
    assert run(carriers(named), "echo in").out == b"in\n"
    assert jump.logins == inner.logins == ["password"]


# what can't be


@pytest.mark.parametrize("name", ["-oProxyCommand=true", "a b", "$(true)"])
def test_names_that_could_be_options_are_refused(name: str) -> None:
    with pytest.raises(InvalidValue):
        SshSettings(name)
    with pytest.raises(InvalidValue):
        SshSettings("cluster", username=name)


def test_a_machine_without_ssh(monkeypatch: pytest.MonkeyPatch, carriers: Callable[..., OpensshCarrier]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConnectionFailed, match="needs the program ssh"):
        carriers(SshSettings("cluster", ssh_config="none")).open("true")


def test_somebody_elses_socket_is_not_used(
    make_sshd: MakeSshd, tmp_path: Path, carriers: Callable[..., OpensshCarrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who listens there sees all that is sent."""
    server = make_sshd()
    (tmp_path / "socket").touch()
    config = tmp_path / "config"
    config.write_text(f"ControlPath {tmp_path}/socket\n" + server.config.read_text())
    assert run(carriers(SshSettings(server.name, ssh_config=str(config))), "echo in").out == b"in\n"


def test_a_host_key_that_an_authority_has_certified(
    make_sshd: MakeSshd, tmp_path: Path, carriers: Callable[..., OpensshCarrier]
) -> None:
    make_key(tmp_path / "authority")
    make_key(tmp_path / "host")
    sign = ["ssh-keygen", "-q", "-s", str(tmp_path / "authority"), "-I", "host", "-h", "-n", "127.0.0.1"]
    subprocess.run([*sign, str(tmp_path / "host.pub")], check=True, capture_output=True)
    server = make_sshd(options={"HostKey": str(tmp_path / "host"), "HostCertificate": str(tmp_path / "host-cert.pub")})
    server.known_hosts.write_text("@cert-authority * " + (tmp_path / "authority.pub").read_text())
    assert run(carriers(settings_for(server)), "echo in").out == b"in\n"
    assert openssh_only(settings_for(server)) == ["its host key is certified by an authority"]


def test_a_carrier_that_nobody_closed_leaves_no_process(plain_sshd: Sshd) -> None:
    before = children()
    carrier = OpensshCarrier(settings_for(plain_sshd))
    assert run(carrier, "echo here").out == b"here\n"
    assert children() > before
    del carrier
    gc.collect()
    assert children() <= before


def children() -> set[int]:
    """The processes that this one has started and not waited for."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(file.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(file.parent.name))
    return found
