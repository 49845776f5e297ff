"""What every carrier does, whichever way it reaches the machine."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchlib.errors import ConnectionLost
from batchlib.transport.base import STDERR, STDOUT, Carrier
from batchlib.transport.transport import Transport
from tests.transport.streams import finish, run, wait_for_output

MIB = 1 << 20


@pytest.mark.parametrize("code", [0, 1, 3, 126, 255])
def test_exit_codes(carrier: Carrier, code: int) -> None:
    assert run(carrier, f"(exit {code})").code == code


def test_outputs_are_kept_apart(carrier: Carrier) -> None:
    answer = run(carrier, "echo to out; echo to err >&2")
    assert (answer.out, answer.err) == (b"to out\n", b"to err\n")


def test_bytes_arrive_as_they_are(carrier: Carrier) -> None:
    data = bytes(range(256)) * 4096 + b"\r\n\x04\x03\xff"
    assert run(carrier, "cat", data).out == data


def test_commands_may_hold_any_text(carrier: Carrier) -> None:
    assert run(carrier, 'printf %s "é $((1+1)) \\\\ \t"').out == "é 2 \\ \t".encode()


def test_the_end_of_the_input_arrives(carrier: Carrier) -> None:
    assert run(carrier, "wc -c").out.strip() == b"0"
    assert run(carrier, "wc -c", b"x" * 100_000).out.strip() == b"100000"


def test_closing_the_input_twice_is_harmless(carrier: Carrier) -> None:
    pipe = carrier.open("cat")
    pipe.close_stdin()
    pipe.close_stdin()
    assert finish(pipe).out == b""
    pipe.close()
    pipe.close()


def test_both_outputs_flow_at_once(carrier: Carrier) -> None:
    """More on standard error than any window holds, while standard output is waited for."""
    answer = run(carrier, "head -c 4194304 /dev/zero >&2; head -c 4194304 /dev/zero; echo; echo >&2")
    assert len(answer.out) == 4 * MIB + 1
    assert len(answer.err) == 4 * MIB + 1
    assert answer.code == 0


def test_writing_and_reading_at_the_same_time(carrier: Carrier) -> None:
    """Neither direction waits for the other: a program that echoes more than all buffers hold."""
    data = b"0123456789abcdef" * (MIB // 2)
    assert run(carrier, "cat", data).out == data


def test_writing_waits_for_a_slow_program(carrier: Carrier) -> None:
    data = b"x" * (6 * MIB)
    assert run(carrier, "read -r line; sleep 0.5; wc -c", b"go\n" + data).out.strip() == str(len(data)).encode()


def test_nothing_to_read_is_none(carrier: Carrier) -> None:
    pipe = carrier.open("echo ready; sleep 60")
    wait_for_output(pipe, b"ready\n")
    started = time.monotonic()
    assert pipe.read(0.2) is None
    assert time.monotonic() - started >= 0.2
    assert pipe.read(0) is None
    pipe.close()


def test_a_program_that_does_not_read_lets_the_writer_go(carrier: Carrier) -> None:
    """The writer hears of it, or what it wrote is dropped; in any case it does not hang and the code is right."""
    assert run(carrier, "head -c 5 >/dev/null; exit 7", b"x" * (8 * MIB)).code is None
    answer = run(carrier, "head -c 5 >/dev/null", b"x" * (8 * MIB))
    assert answer.code == 0


def test_writing_to_a_closed_pipe_is_a_loss(carrier: Carrier) -> None:
    pipe = carrier.open("cat")
    pipe.close()
    with pytest.raises(ConnectionLost):
        pipe.write(b"x" * MIB)


def test_ends_are_told_in_any_order(carrier: Carrier) -> None:
    pipe = carrier.open("echo ready; exec >&-; read -r line; echo late >&2")
    wait_for_output(pipe, b"ready\n")
    answer = finish(pipe, b"go\n")
    assert answer.err == b"late\n"
    pipe.close()


def test_several_programs_at_a_time(carrier: Carrier) -> None:
    pipes = [carrier.open("cat") for _ in range(4)]
    for number, pipe in enumerate(pipes):
        pipe.write(b"%d" % number)
        pipe.close_stdin()
    assert [finish(pipe).out for pipe in pipes] == [b"0", b"1", b"2", b"3"]
    for pipe in pipes:
        pipe.close()


def test_200_commands_from_four_threads(carrier: Carrier) -> None:
    def work(number: int) -> bool:
        answer = run(carrier, f"echo {number}; exit {number % 200}" if number % 2 else f"echo {number}")
        return answer.out == b"%d\n" % number

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(200)))


def test_a_carrier_can_be_used_again_after_close(carrier: Carrier) -> None:
    assert run(carrier, "echo one").out == b"one\n"
    carrier.close()
    carrier.close()
    assert run(carrier, "echo two").out == b"two\n"


def test_a_long_command_line(carrier: Carrier) -> None:
    """Close to what a remote command line holds at most."""
    text = "x" * 120_000
    assert run(carrier, f"echo {text}").out == text.encode() + b"\n"


def test_the_first_word_is_the_stream(carrier: Carrier) -> None:
    # the program goes on, so that the end of the other stream can't come first
    pipe = carrier.open("echo out; exec cat")
    assert pipe.read(30) == (STDOUT, b"out\n")
    pipe.close()
    pipe = carrier.open("echo err >&2; exec cat")
    assert pipe.read(30) == (STDERR, b"err\n")
    pipe.close()


# the transport on top of each of them


def test_programs_through_a_transport(carrier: Carrier) -> None:
    with Transport(carrier) as transport:
        assert [transport.run(f"echo {n}; exit {n}").exitcode for n in range(20)] == list(range(20))
        assert transport.run("cat; echo bad >&2", data=b"x" * MIB).stdout == b"x" * MIB


def test_trees_through_a_transport(carrier: Carrier, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "large").write_bytes(bytes(range(256)) * (12 * MIB // 256))
    (source / "below" / "a name with\nnewline").write_bytes(b"content")
    with Transport(carrier) as transport:
        place = transport.run("mktemp -d").out.strip()
        transport.put(source, f"{place}/there")
        assert transport.stat(f"{place}/there/large").size == 12 * MIB
        assert transport.read(f"{place}/there/large", offset=-3) == b"\xfd\xfe\xff"
        transport.get(f"{place}/there", tmp_path / "back")
        transport.remove_tree(place)
    assert (tmp_path / "back" / "large").read_bytes() == (source / "large").read_bytes()
    assert (tmp_path / "back" / "below" / "a name with\nnewline").read_bytes() == b"content"
