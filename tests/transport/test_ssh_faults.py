"""Servers and networks that fail: each failure is noticed, in time, and told for what it is."""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchlib.errors import ConnectionFailed, ConnectionLost
from batchlib.transport import openssh_master, ssh_connection
from batchlib.transport.base import Pipe
from batchlib.transport.openssh import OpensshCarrier
from batchlib.transport.ssh import SshCarrier, SshSettings
from batchlib.transport.transport import Transport
from tests.fakes.frontend import Frontend
from tests.servers.processes import free_ports
from tests.servers.sshd import Sshd
from tests.transport.conftest import settings_for
from tests.transport.streams import finish, run, wait_for_output

#: Settings under which a dead connection is noticed within a second or two.
IMPATIENT = {"keepalive": 0.4, "timeout": 3.0}


AnyCarrier = SshCarrier | OpensshCarrier
Carriers = Callable[[SshSettings], AnyCarrier]


@pytest.fixture(params=[SshCarrier, OpensshCarrier], ids=["paramiko", "openssh"])
def carriers(request: pytest.FixtureRequest) -> Iterator[Carriers]:
    """Make carriers of either kind that are closed at the end."""
    made: list[AnyCarrier] = []

    def make(settings: SshSettings) -> AnyCarrier:
        made.append(request.param(settings))
        return made[-1]

    yield make
    for carrier in made:
        carrier.close()


class Listener:
    """A server that greets as it is told, and counts who came."""

    def __init__(self, greeting: bytes, *, hang_up: bool = False) -> None:
        self._greeting = greeting
        self._hang_up = hang_up
        self.accepted: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.append(connection)
            connection.sendall(self._greeting)
            if self._hang_up:
                connection.recv(1000)  # what is unread when a connection is closed makes it a reset
                connection.close()

    def settings(self, timeout: float = 1.0) -> SshSettings:
        return SshSettings("127.0.0.1", port=self.port, ssh_config="none", timeout=timeout, keepalive=1.0)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self.accepted:
            connection.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(greeting: bytes = b"", *, hang_up: bool = False) -> Listener:
        made.append(Listener(greeting, hang_up=hang_up))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


@pytest.fixture(params=["pretended", "real"])
def server(request: pytest.FixtureRequest) -> Frontend | Sshd:
    """A server that the test may harm."""
    name = "make_frontend" if request.param == "pretended" else "make_sshd"
    made: Frontend | Sshd = request.getfixturevalue(name)()
    return made


@pytest.fixture
def key(rsa_key: object) -> dict[str, str]:
    return {"keyfile": str(rsa_key)}


# death in the middle


def test_death_of_the_connection_ends_every_pipe_at_once(
    server: Frontend | Sshd, carriers: Carriers, key: dict[str, str]
) -> None:
    # a probe would take ten seconds to notice: it is the end of the connection that has to be seen
    carrier = carriers(settings_for(server, **key, keepalive=10.0))
    pipes = [carrier.open("echo ready; cat") for _ in range(3)]
    for pipe in pipes:
        wait_for_output(pipe, b"ready\n")
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(finish_or_lose, pipe) for pipe in pipes]
        server.drop()
        for answer in answers:
            assert answer.result(5) is None
    with pytest.raises(ConnectionLost):
        pipes[0].write(b"x" * 1_000_000)
    for pipe in pipes:
        pipe.close()
    assert run(carrier, "echo again").out == b"again\n"


def finish_or_lose(pipe: Pipe) -> int | None:
    ended = 0
    while ended < 2:
        got = pipe.read(30)
        assert got is not None, "nothing is told of the loss"
        ended += not got[1]
    return None


def test_what_came_before_the_loss_is_delivered(
    make_frontend: Callable[..., Frontend], key: dict[str, str], carriers: Carriers
) -> None:
    frontend = make_frontend()
    carrier = carriers(settings_for(frontend, **key))
    pipe = carrier.open("head -c 1000000 /dev/zero; echo >&2; sleep 60")
    received = 0
    while received < 1_000_000:
        got = pipe.read(30)
        assert got
        received += len(got[1]) if got[0] == 1 else 0
    frontend.drop()
    assert finish(pipe).code is None
    pipe.close()
    carrier.close()


def test_nothing_is_sent_twice(make_frontend: Callable[..., Frontend], key: dict[str, str], carriers: Carriers) -> None:
    frontend = make_frontend()
    carrier = carriers(settings_for(frontend, **key))
    pipe = carrier.open("echo ready; cat # first")
    wait_for_output(pipe, b"ready\n")
    frontend.drop()
    finish_or_lose(pipe)
    pipe.close()
    run(carrier, "true # second")
    assert len([command for command in frontend.commands if "first" in command]) == 1
    assert len([command for command in frontend.commands if "second" in command]) == 1


def test_a_transport_recovers(server: Frontend | Sshd, carriers: Carriers, key: dict[str, str]) -> None:
    with Transport(carriers(settings_for(server, **key))) as transport:
        assert transport.run("echo one").out == "one\n"
        server.drop()
        # the shell may be found dead before anything is asked of it, or after
        for _ in range(2):
            try:
                assert transport.run("echo two").out == "two\n"
                break
            except ConnectionLost:
                continue
        else:
            pytest.fail("the connection was not made again")


# frozen servers


@pytest.fixture
def frozen(server: Frontend | Sshd) -> Iterator[Callable[[], None]]:
    """Freeze the server until the test ends."""
    yield server.freeze if isinstance(server, Frontend) else server.pause
    (server.thaw if isinstance(server, Frontend) else server.cont)()


def test_a_frozen_server_is_noticed_by_who_reads(
    server: Frontend | Sshd, frozen: Callable[[], None], carriers: Carriers, key: dict[str, str]
) -> None:
    carrier = carriers(settings_for(server, **key, **IMPATIENT))
    pipe = carrier.open("echo ready; sleep 60")
    other = carrier.open("echo ready; sleep 60")
    wait_for_output(pipe, b"ready\n")
    wait_for_output(other, b"ready\n")
    frozen()
    assert finish(pipe, seconds=10).code is None
    assert finish(other, seconds=10).code is None
    pipe.close()
    other.close()


def test_a_frozen_server_is_noticed_by_who_writes(
    server: Frontend | Sshd, frozen: Callable[[], None], carriers: Carriers, key: dict[str, str]
) -> None:
    carrier = carriers(settings_for(server, **key, **IMPATIENT))
    pipe = carrier.open("echo ready; cat >/dev/null")
    wait_for_output(pipe, b"ready\n")
    frozen()
    with pytest.raises(ConnectionLost):
        pipe.write(b"x" * 100_000_000)
    pipe.close()


def test_a_server_that_was_busy_for_a_moment_keeps_its_connection(
    make_sshd: Callable[..., Sshd], carriers: Carriers
) -> None:
    server = make_sshd()
    carrier = carriers(settings_for(server, keepalive=1.0))
    pipe = carrier.open("echo ready; cat")
    wait_for_output(pipe, b"ready\n")
    server.pause()
    assert pipe.read(1.5) is None  # a probe is under way
    server.cont()
    pipe.write(b"still there\n")
    assert wait_for_output(pipe, b"still there\n")
    assert pipe.read(3) is None  # and it was answered
    pipe.close()


def test_a_silent_program_is_not_taken_for_a_dead_server(plain_sshd: Sshd, carriers: Carriers) -> None:
    carrier = carriers(settings_for(plain_sshd, **IMPATIENT))
    pipe = carrier.open("sleep 3; echo done")
    assert wait_for_output(pipe, b"done\n")
    pipe.close()


def test_opening_on_a_frozen_server_is_an_error_and_works_again_later(
    make_sshd: Callable[..., Sshd], carriers: Carriers
) -> None:
    server = make_sshd()
    carrier = carriers(settings_for(server, timeout=1.0))
    assert run(carrier, "echo one").out == b"one\n"
    server.pause()
    with pytest.raises(ConnectionFailed):
        carrier.open("echo never")
    server.cont()
    assert run(carrier, "echo two").out == b"two\n"


# no room


@pytest.mark.parametrize("sessions", [1, 2, 3])
@pytest.mark.parametrize("kind", ["pretended", "real"])
def test_servers_that_allow_few_sessions(
    kind: str, sessions: int, request: pytest.FixtureRequest, carriers: Carriers, key: dict[str, str]
) -> None:
    server: Frontend | Sshd
    if kind == "pretended":
        server = request.getfixturevalue("make_frontend")(max_sessions=sessions)
    else:
        server = request.getfixturevalue("make_sshd")(options={"MaxSessions": str(sessions)})
    carrier = carriers(settings_for(server, **key))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: run(carrier, f"echo {number}; sleep 0.01").out, range(60)))
    assert answers == [b"%d\n" % number for number in range(60)]


def test_waiting_for_a_session_has_an_end(plain_sshd: Sshd, carriers: Carriers) -> None:
    carrier = carriers(settings_for(plain_sshd, sessions=2, session_wait=0.3))
    first, second = carrier.open("cat"), carrier.open("cat")
    with pytest.raises(ConnectionFailed, match=r"all sessions on .*plain stayed in use"):
        carrier.open("cat")
    first.close()
    assert run(carrier, "echo room").out == b"room\n"
    second.close()


def test_where_one_session_is_allowed_files_travel_all_the_same(
    plain_sshd: Sshd, carriers: Carriers, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    with Transport(carriers(settings_for(plain_sshd, sessions=1, session_wait=5.0))) as transport:
        home = transport.run("pwd").out.strip()
        transport.put(tmp_path / "file", f"{home}/one-session")
        assert transport.stat(f"{home}/one-session").size == 3_000_000
        transport.get(f"{home}/one-session", tmp_path / "back")
        transport.remove(f"{home}/one-session")
    assert (tmp_path / "back").read_bytes() == b"x" * 3_000_000


def test_a_session_is_waited_for(plain_sshd: Sshd, carriers: Carriers) -> None:
    carrier = carriers(settings_for(plain_sshd, sessions=1))
    pipe = carrier.open("cat")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(run, carrier, "echo at last")
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        pipe.close()
        assert waiting.result(10).out == b"at last\n"


def test_who_waits_for_a_session_hears_of_the_loss(
    make_frontend: Callable[..., Frontend], key: dict[str, str], carriers: Carriers
) -> None:
    frontend = make_frontend()
    carrier = carriers(settings_for(frontend, **key, sessions=1))
    pipe = carrier.open("cat")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(run, carrier, "echo on another connection")
        frontend.drop()
        assert waiting.result(10).out == b"on another connection\n"
    pipe.close()
    carrier.close()


def test_a_server_that_refuses_all_sessions(
    make_frontend: Callable[..., Frontend], key: dict[str, str], carriers: Carriers
) -> None:
    carrier = carriers(settings_for(make_frontend(max_sessions=0), **key, timeout=1.0))
    with pytest.raises(ConnectionFailed, match="refuses to run programs"):
        carrier.open("true")


def test_a_server_with_too_many_logins_is_asked_again(
    make_sshd: Callable[..., Sshd], carriers: Carriers, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_sshd(options={"MaxStartups": "1"})
    caplog.set_level(logging.DEBUG, "batchlib.transport.ssh")
    with ThreadPoolExecutor(1) as threads:
        with socket.create_connection((server.host, server.port)) as login_of_another:
            assert login_of_another.recv(100).startswith(b"SSH-")
            answer = threads.submit(run, carriers(settings_for(server)), "echo in")
            deadline = time.monotonic() + 10
            while "before it greeted" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            assert "before it greeted" in caplog.text
        assert answer.result(30).out == b"in\n"


# no connection


def test_a_port_on_which_nobody_listens(carriers: Carriers) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConnectionFailed, match=f"cannot connect to 127.0.0.1, port {port}: Connection refused"):
        carriers(SshSettings("127.0.0.1", port=port, ssh_config="none")).open("true")


def test_a_host_that_nobody_knows(carriers: Carriers) -> None:
    with pytest.raises(ConnectionFailed, match=r"the host nobody\.invalid is not known"):
        carriers(SshSettings("nobody.invalid", ssh_config="none")).open("true")


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-Silent\r\n"])
def test_a_silent_server(greeting: bytes, listen: Callable[..., Listener], carriers: Carriers) -> None:
    with pytest.raises(ConnectionFailed, match="within 1 s"):
        carriers(listen(greeting).settings()).open("true")


def test_another_kind_of_server(listen: Callable[..., Listener], carriers: Carriers) -> None:
    with pytest.raises(ConnectionFailed, match="no SSH server: it says '220 ftp"):
        carriers(listen(b"220 ftp.example.org ready\r\n" * 200).settings()).open("true")


def test_a_server_that_hangs_up(
    listen: Callable[..., Listener], carriers: Carriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ssh_connection, openssh_master):
        monkeypatch.setattr(module, "_GREETING_ATTEMPTS", 2)
    listener = listen(b"Exceeded MaxStartups\r\n", hang_up=True)
    with pytest.raises(ConnectionFailed, match="before it greeted, saying 'Exceeded MaxStartups'"):
        carriers(listener.settings()).open("true")
    assert len(listener.accepted) == 2


def test_a_server_that_hangs_up_after_its_greeting_is_not_pressed(
    listen: Callable[..., Listener], carriers: Carriers
) -> None:
    listener = listen(b"SSH-2.0-Unfriendly\r\n", hang_up=True)
    with pytest.raises(ConnectionFailed, match="closed during the key exchange"):
        carriers(listener.settings()).open("true")
    assert len(listener.accepted) == 1


def test_twenty_threads_do_not_connect_twenty_times(listen: Callable[..., Listener], carriers: Carriers) -> None:
    listener = listen()
    carrier = carriers(listener.settings(timeout=2.0))
    barrier = threading.Barrier(20)

    def work(number: int) -> str:
        barrier.wait()
        with pytest.raises(ConnectionFailed) as caught:
            carrier.open("true")
        return str(caught.value)

    with ThreadPoolExecutor(20) as threads:
        messages = set(threads.map(work, range(20)))
    assert len(messages) == 1
    assert len(listener.accepted) == 1


# noise


def test_what_start_files_print_is_no_answer(
    make_frontend: Callable[..., Frontend], key: dict[str, str], carriers: Carriers
) -> None:
    frontend = make_frontend(noise="Welcome to the cluster!\n")
    with Transport(carriers(settings_for(frontend, **key))) as transport:
        assert transport.run("echo answer; echo error >&2; exit 3").out == "answer\n"
        assert transport.run("echo answer; echo error >&2; exit 3").exitcode == 3
        transport.write("file", b"content")
        assert transport.read("file") == b"content"
    assert (frontend.home / "file").read_bytes() == b"content"


# processes


def in_child(work: Callable[[], bytes]) -> bytes:
    """Do something in a forked process, and give what it returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.write(writing, work())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        if not select.select([reading], [], [], 30)[0]:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child hangs")
        answer = os.read(reading, 1000)
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return answer


# forking beside threads is what is tested here
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_connection_of_its_own(make_sshd: Callable[..., Sshd], carriers: Carriers) -> None:
    server = make_sshd()
    carrier = carriers(settings_for(server))
    pipe = carrier.open("echo ready; cat")
    wait_for_output(pipe, b"ready\n")

    def work() -> bytes:
        nonlocal pipe
        ends = [pipe.read(5), pipe.read(5)]
        with pytest.raises(ConnectionLost):
            pipe.write(b"from the child\n")
        pipe.close_stdin()
        pipe.close()
        del pipe
        gc.collect()
        answer = run(carrier, "echo child").out
        carrier.close()
        return answer if sorted(end or (0, b"") for end in ends) == [(1, b""), (2, b"")] else repr(ends).encode()

    assert in_child(work) == b"child\n"
    pipe.write(b"from the parent\n")
    assert wait_for_output(pipe, b"from the parent\n") == b"from the parent\n"
    pipe.close()
    assert run(carrier, "echo parent").out == b"parent\n"
    carrier.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_connects(
    listen: Callable[..., Listener], plain_sshd: Sshd, carriers: Carriers
) -> None:
    """Whatever locks were held at that moment, the child is free."""
    silent = carriers(listen().settings(timeout=3.0))
    other = carriers(settings_for(plain_sshd))
    with ThreadPoolExecutor(1) as threads:
        connecting = threads.submit(silent.open, "true")
        deadline = time.monotonic() + 10
        while not silent._link._lock.locked() and time.monotonic() < deadline:
            time.sleep(0.01)

        def work() -> bytes:
            silent.close()
            with pytest.raises(ConnectionFailed):
                silent.open("true")
            return run(other, "echo child").out

        assert in_child(work) == b"child\n"
        assert isinstance(connecting.exception(30), ConnectionFailed)
    other.close()
