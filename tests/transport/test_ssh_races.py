"""What kills the connections of stock paramiko in minutes, on a real server: no connection may die of it.

Each test ends with the connection that it began with. The numbers make stock paramiko 5.1 fail: with four threads
it loses 12 connections in 1000 commands, 6 in 400 programs that end before they have read all, and five of six
downloads of exactly 512 MiB, when it asks for new keys.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchlib.errors import ConnectionLost
from batchlib.transport.base import STDOUT
from batchlib.transport.paramiko_packets import BufferedPacketizer
from batchlib.transport.ssh import SshCarrier
from tests.servers.sshd import Sshd
from tests.transport.conftest import settings_for
from tests.transport.streams import finish, run

MIB = 1 << 20


@pytest.fixture
def one_connection(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check at the end that one connection served for all."""
    caplog.set_level(logging.DEBUG, "batchlib.transport.ssh")
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    assert sum(text.startswith("connected to") for text in said) == 1, said


@pytest.mark.usefixtures("one_connection")
def test_thousands_of_commands_from_four_threads(real: SshCarrier) -> None:
    def work(number: int) -> bool:
        pipe = real.open(f"cat; echo {number}")
        try:
            if number % 2:
                return finish(pipe, b"x").out == b"x%d\n" % number
            # the end of the input and the end of the program cross each other on the way
            pipe.write(b"x")
            pipe.close_stdin()
            while (got := pipe.read(30)) and got[1]:
                pass
            return got is not None
        finally:
            pipe.close()

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(2000)))


@pytest.mark.usefixtures("one_connection")
def test_hundreds_of_programs_that_end_before_they_have_read_all(real: SshCarrier) -> None:
    """As a full disk does to an upload."""

    def work(number: int) -> int:
        pipe = real.open("head -c 1000 >/dev/null")
        try:
            for _ in range(1000):
                pipe.write(b"x" * 40_000)
        except ConnectionLost:
            return 1
        finally:
            pipe.close()
        return 0

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, range(400))) == 400


@pytest.mark.usefixtures("one_connection")
def test_hundreds_of_pipes_closed_in_the_middle(real: SshCarrier) -> None:
    def work(number: int) -> None:
        pipe = real.open("cat; head -c 100000 /dev/zero")
        writer = threading.Thread(target=_write_until_lost, args=(pipe.write,))
        writer.start()
        pipe.read(30)
        pipe.close()
        writer.join(30)
        assert not writer.is_alive()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(200)))


def _write_until_lost(write: Callable[[bytes], None]) -> None:
    try:
        while True:
            write(b"x" * 50_000)
    except ConnectionLost:
        return


@pytest.mark.usefixtures("one_connection")
def test_exactly_512_mib_down(real: SshCarrier) -> None:
    """Where paramiko asks for new keys while the server closes the channel; twice in a row."""
    for _ in range(2):
        pipe = real.open("head -c 536870912 /dev/zero")
        received = 0
        while (got := pipe.read(30)) and (got[1] or got[0] != STDOUT):
            received += len(got[1])
        pipe.close()
        assert received == 512 * MIB
    assert run(real, "echo alive").out == b"alive\n"


@pytest.mark.usefixtures("one_connection")
@pytest.mark.parametrize("who", ["server", "client"])
def test_new_keys_all_the_time(who: str, make_sshd: Callable[..., Sshd], monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"RekeyLimit": "1M none"} if who == "server" else {}
    if who == "client":
        # we never ask; this makes the server's end of a session meet a key exchange of ours often
        monkeypatch.setattr(BufferedPacketizer, "REKEY_BYTES", MIB)
    carrier = SshCarrier(settings_for(make_sshd(options=options)))
    stop = threading.Event()

    def bulk() -> int:
        total = 0
        while not stop.is_set():
            total += len(run(carrier, "head -c 8388608 /dev/zero").out)
        return total

    with ThreadPoolExecutor(4) as threads:
        transfer = threads.submit(bulk)
        data = b"x" * 2_000_000
        upload = threads.submit(lambda: [run(carrier, "wc -c", data).out.strip() for _ in range(20)])
        try:
            answers = list(threads.map(lambda number: run(carrier, f"echo {number}").out, range(400)))
            assert upload.result() == [b"2000000"] * 20
        finally:
            stop.set()
        assert transfer.result() % 8_388_608 == 0
    assert answers == [b"%d\n" % number for number in range(400)]
    carrier.close()
