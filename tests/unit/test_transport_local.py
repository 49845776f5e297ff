"""Programs and files on this machine, through the same shells and streams as on any other."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchlib import events
from batchlib.errors import (
    ConnectionFailed,
    ConnectionLost,
    DataStagingError,
    RemoteFileError,
    TransportTimeout,
)
from batchlib.transport import shell
from batchlib.transport.base import STDERR, STDOUT, Pipe
from batchlib.transport.local import LocalCarrier, LocalTransport

ODD_NAMES = [
    "a b",
    "-rf",
    "new\nline",
    "ünï",
    "'quo\"te",
    "$HOME",
    "*",
    "back\\slash",
    ".hidden",
    "#c",
    "~",
    "\x01",
    "/n"[1:],
]


@pytest.fixture
def transport() -> Iterator[LocalTransport]:
    """This machine."""
    with LocalTransport(timeout=60) as made:
        yield made


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # a zombie is gone too, when nobody but init can collect it
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


# --- programs -----------------------------------------------------------------------------------------------------


def test_programs_answer_with_code_and_both_outputs(transport: LocalTransport) -> None:
    answer = transport.run("echo out; echo err >&2; exit 3")
    assert (answer.exitcode, answer.out, answer.err) == (3, "out\n", "err\n")
    assert transport.run("printf 'no newline'").stdout == b"no newline"
    assert transport.run("").exitcode == 0
    assert transport.run("exit 7").exitcode == 7
    assert transport.run("kill -9 $(sh -c 'echo $PPID')").exitcode == 137
    assert transport.run("no-such-command").exitcode == 127
    assert transport.run("if").exitcode != 0
    assert transport.run("'").exitcode != 0
    assert transport.run("echo still here").out == "still here\n"


def test_what_a_program_changes_does_not_reach_the_next_one(transport: LocalTransport) -> None:
    transport.run("cd /tmp; x=1; t=2; trap 'echo bye' EXIT; set -e; umask 0; exec >/dev/null")
    assert transport.run('echo "$PWD ${x:-unset}"').out == "/ unset\n"


def test_the_setup_runs_before_every_program() -> None:
    with LocalTransport(setup="SITE=here\necho noise >&2") as transport:
        assert transport.run("echo $SITE").out == "here\n"
        assert transport.send("cat; echo $SITE", [b"1"]).out == "1here\n"


@settings(max_examples=30)
@given(data=st.binary(max_size=3000))
def test_bytes_go_in_and_come_out_as_they_are(transport: LocalTransport, data: bytes) -> None:
    assert transport.run("cat", data=data).stdout == data
    assert transport.send("cat", [data]).stdout == data


@pytest.mark.parametrize("size", [0, 1, 16_000, 70_000, 5_000_000])
def test_input_of_any_length(transport: LocalTransport, size: int) -> None:
    data = os.urandom(size)
    assert transport.run("cat", data=data).stdout == data
    assert transport.send("cat", [data[at : at + 7777] for at in range(0, size, 7777)]).stdout == data
    with transport.receive("cat", data=data) as incoming:
        assert b"".join(incoming) == data
        assert incoming.result.exitcode == 0


def test_small_input_needs_no_stream_of_its_own_where_a_shell_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalTransport() as transport:
        opened: list[str] = []
        start = transport.carrier.open

        def note(command: str, window: int | None = None) -> Pipe:
            opened.append(command)
            return start(command, window)

        monkeypatch.setattr(transport.carrier, "open", note)
        assert transport.send("cat", [b"before any shell"]).stdout == b"before any shell"
        assert transport.run("echo").out == "\n"
        assert len(opened) == 2
        for data in (b"", b"small", b"x" * 200_000):
            trips = transport.round_trips
            assert transport.send("cat; exit 3", [data]) == shell.Completed(3, data, b"")
            assert transport.round_trips == trips + 1
        assert len(opened) == 2
        assert transport.send("cat", [b"x" * 1_100_000]).stdout == b"x" * 1_100_000
        assert len(opened) == 3


def test_input_that_fails_while_it_is_made_is_not_sent(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise DataStagingError("no more")

    with LocalTransport() as transport:
        transport.run("true")
        with pytest.raises(DataStagingError):
            transport.send(f"touch {tmp_path}/acted", chunks())
        assert not (tmp_path / "acted").exists()
        assert transport.run("echo fine").out == "fine\n"


def test_a_program_that_goes_on_talking_may_take_longer_than_the_idle_time() -> None:
    with LocalTransport() as transport:
        transport.run("true")
        answer = transport.send("cat; for n in 1 2 3 4 5 6; do sleep 0.2; echo $n; done", [b"x"], idle_timeout=0.9)
        assert answer.out.splitlines()[-1] == "6"
        with pytest.raises(TransportTimeout):
            transport.send("sleep 60", [b"x"], idle_timeout=0.3)
        assert transport.run("echo fine").out == "fine\n"


def test_programs_of_any_length(transport: LocalTransport) -> None:
    lines = "".join(f"echo {number}\n" for number in range(40_000))
    assert len(lines) > 131_071
    assert transport.run(lines).out.splitlines() == [str(number) for number in range(40_000)]


def test_input_that_is_not_read_does_no_harm(transport: LocalTransport) -> None:
    data = os.urandom(3_000_000)
    assert transport.run("exit 4", data=data).exitcode == 4
    assert transport.run("head -c 1 >/dev/null", data=data).exitcode == 0
    assert transport.send("exit 4", [data]).exitcode == 4
    assert transport.run("echo fine").out == "fine\n"


def test_much_output_on_both_streams_blocks_nothing(transport: LocalTransport) -> None:
    answer = transport.run("head -c 2000000 /dev/zero >&2; head -c 2000000 /dev/zero; head -c 2000000 /dev/zero >&2")
    assert (len(answer.stdout), len(answer.stderr)) == (2_000_000, 4_000_000)
    end = transport.send("head -c 3000000 /dev/zero >&2; cat; echo last words >&2; exit 3", [b"x" * 3_000_000])
    assert (end.exitcode, len(end.stdout)) == (3, 3_000_000)
    assert end.err.endswith("last words\n")


def test_output_that_imitates_our_marks_is_output(transport: LocalTransport) -> None:
    text = "".join(f"\\n{'0123456789abcdef' * 2} {number} 0\\n" for number in range(3))
    answer = transport.run(f"printf '{text}'; printf '{text}' >&2; exit 5")
    assert answer.exitcode == 5
    assert answer.out == answer.err == text.replace("\\n", "\n")
    with transport.receive(f"printf '{text}'; printf '{text}' >&2; exit 5") as incoming:
        assert b"".join(incoming).decode() == text.replace("\\n", "\n")
        assert incoming.result.exitcode == 5


def test_a_program_has_no_input_unless_it_is_given_one(transport: LocalTransport) -> None:
    assert transport.run("cat; echo end").out == "end\n"
    assert transport.run("read -r line || echo none").out == "none\n"


def test_a_background_process_does_not_delay_the_answer(transport: LocalTransport, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    answer = transport.run(f"setsid cat {fifo} >/dev/null 2>&1 & echo $!")
    assert not gone(int(answer.out))
    fifo.write_text("end")
    until(lambda: gone(int(answer.out)), "the process in the background never ended")


def test_programs_of_many_threads_do_not_mix(transport: LocalTransport) -> None:
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        found[number] = [transport.run(f"echo {number} {turn}; echo {number} >&2").out for turn in range(15)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"{number} {turn}\n" for turn in range(15)] for number in range(8)}
    assert transport.round_trips == 120


# --- when something breaks ----------------------------------------------------------------------------------------


def test_a_program_that_takes_too_long_is_ended(transport: LocalTransport, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(TransportTimeout):
        transport.run(f"trap '' TERM; sleep 600 & echo $! > {pids}; sh -c 'echo $PPID' >> {pids}; wait", timeout=0.5)
    left = [int(line) for line in pids.read_text().split()]
    assert len(left) == 2
    until(lambda: all(map(gone, left)), "what took too long still runs")
    assert transport.run("echo fine").out == "fine\n"


def test_a_transfer_without_progress_is_given_up(transport: LocalTransport) -> None:
    with pytest.raises(TransportTimeout, match="no progress"):
        transport.send("sleep 60", [b"x"], idle_timeout=0.3)
    with pytest.raises(TransportTimeout), transport.receive("echo x; sleep 60", idle_timeout=0.3) as incoming:
        list(incoming)


def test_a_slow_source_is_progress(transport: LocalTransport) -> None:
    def source() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.05)
            yield bytes(shell._PIECE)

    assert transport.send("wc -c", source(), idle_timeout=2).out.strip() == str(4 * shell._PIECE)


def test_a_shell_that_died_meanwhile_is_replaced(transport: LocalTransport) -> None:
    pid = int(transport.run("echo $$").out)
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), "the shell did not die")
    assert int(transport.run("echo $$").out) != pid


def test_a_shell_that_dies_under_a_program_is_a_lost_connection(transport: LocalTransport) -> None:
    with pytest.raises(ConnectionLost):
        transport.run("echo half an answer; kill -9 $$")
    with pytest.raises(ConnectionLost):
        transport.send("kill -9 $$", [b""])
    with transport.receive("echo half; kill -9 $$") as incoming:
        assert b"".join(incoming) == b"half\n"
        with pytest.raises(ConnectionLost):
            _ = incoming.result
    assert transport.run("echo fine").out == "fine\n"


def test_after_closing_it_connects_again(transport: LocalTransport) -> None:
    first = transport.run("echo $$").out
    transport.close()
    until(lambda: gone(int(first)), "the shell survived")
    assert transport.run("echo $$").out != first


def test_no_process_and_no_open_file_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with LocalTransport() as transport:
        transport.run("true")
        transport.send("cat >/dev/null", [b"x"])
        with contextlib.suppress(TransportTimeout):
            transport.run("sleep 60", timeout=0.2)
        with transport.receive("yes") as incoming:
            next(iter(incoming))
    assert len(os.listdir("/proc/self/fd")) == before


def test_nobody_is_asked_where_no_shell_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with LocalTransport() as transport, pytest.raises(ConnectionFailed):
        transport.run("true")


def test_keyboard_signals_do_not_reach_programs(transport: LocalTransport) -> None:
    group = int(transport.run("ps -o pgid= -p $$").out)
    assert group != os.getpgrp()


# --- cut at any byte ----------------------------------------------------------------------------------------------


def cut(command: str, data: bytes) -> None:
    """Send the first bytes of what would have been said to a shell, and no more."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process.communicate(data, timeout=30)


class Recorder:
    """A pipe that only remembers what is said to it, and answers like a program that has ended."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.said = b""
        token = command.partition("t=")[2].partition(";")[0].encode()
        self.answers = [
            (STDOUT, token + b" 1\n"),
            (STDERR, token + b"\n"),
            (STDOUT, b"\n" + token + b" 1 0\n"),
            (STDERR, b"\n" + token + b" 1\n\n" + token + b" 0\n"),
            (STDOUT, b""),
            (STDERR, b""),
        ]

    def write(self, data: bytes) -> None:
        self.said += data

    def close_stdin(self) -> None:
        pass

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        return self.answers.pop(0)

    def close(self) -> None:
        pass


class RecordingCarrier(LocalCarrier):
    """Makes pipes that only remember."""

    def open(self, command: str, window: int | None = None) -> Recorder:  # type: ignore[override]
        self.pipe = Recorder(command)
        return self.pipe


def test_a_program_that_is_cut_is_not_run(tmp_path: Path) -> None:
    carrier = RecordingCarrier()
    marker = tmp_path / "ran"
    shell.Shell(carrier, 5).run(f"touch {marker}.a\ntouch {marker}.b", b"", 5)
    said = carrier.pipe.said
    for length in range(0, len(said), 3):
        cut(carrier.pipe.command, said[:length])
        assert list(tmp_path.iterdir()) == [], said[:length]
    cut(carrier.pipe.command, said)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["shell", "stream"])
def test_a_program_whose_input_is_cut_does_not_take_it_for_whole(tmp_path: Path, kind: str) -> None:
    carrier = RecordingCarrier()
    program = f"cat > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/whole"
    data = b"0\n1\n2\n" * 30
    if kind == "shell":
        shell.Shell(carrier, 5).run(program, data, 5)
    else:
        assert list(shell.Stream(carrier, program, 5).exchange([data])) == []
    said = carrier.pipe.said
    for length in [*range(0, len(said), 7), *range(len(said) - 9, len(said))]:
        cut(carrier.pipe.command, said[:length])
        assert not (tmp_path / "whole").exists(), said[:length]
    cut(carrier.pipe.command, said)
    assert (tmp_path / "whole").read_bytes() == data


def test_a_source_that_fails_ends_the_program_before_it_acts(transport: LocalTransport, tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield b"x" * (2 * shell._PIECE)
        raise DataStagingError("the input is gone")

    for _ in range(5):
        with pytest.raises(DataStagingError):
            transport.send(f"cat >/dev/null; touch {tmp_path}/acted", source())
    assert list(tmp_path.iterdir()) == []


# --- files --------------------------------------------------------------------------------------------------------


def test_what_there_is(transport: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(0o751)
    os.utime(tmp_path / "file", (1_000_000_000, 1_000_000_000))
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("dir")
    assert [transport.exists(f"{tmp_path}/{name}") for name in ("dir", "file", "dangling", "none")] == [True] * 3 + [
        False
    ]
    assert [transport.isdir(f"{tmp_path}/{name}") for name in ("dir", "link", "file", "none")] == [True] * 2 + [
        False
    ] * 2
    info = transport.stat(f"{tmp_path}/file")
    assert (info.size, info.mtime, stat.S_IMODE(info.mode), info.is_directory) == (5, 1_000_000_000, 0o751, False)
    assert transport.stat(f"{tmp_path}/dir").is_directory
    assert transport.stat(f"{tmp_path}/link").is_link
    assert transport.listdir(str(tmp_path)) == ["dangling", "dir", "file", "link"]


def test_odd_names(transport: LocalTransport, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        path = f"{tmp_path}/{name}"
        transport.write(path, name.encode())
        assert transport.read(path) == name.encode()
        assert transport.stat(path).size == len(name.encode())
        transport.chmod(path, 0o600)
        transport.rename(path, path + "2")
        transport.rename(path + "2", path)
    assert set(transport.scandir(str(tmp_path))) == set(ODD_NAMES)
    for name in ODD_NAMES:
        transport.remove(f"{tmp_path}/{name}")
    assert transport.listdir(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 2, b"34"),
        (-3, None, b"789"),
        (-3, 2, b"78"),
        (-30, None, b"0123456789"),
        (-30, 4, b"0123"),
        (10, None, b""),
        (30, 5, b""),
        (0, 0, b""),
        (0, 100, b"0123456789"),
    ],
)
def test_parts_of_a_file(
    transport: LocalTransport, tmp_path: Path, offset: int, size: int | None, expected: bytes
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert transport.read(f"{tmp_path}/file", offset, size) == expected


def test_errors_carry_their_number(transport: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir/sub").mkdir(parents=True)
    cases: list[tuple[Callable[[], object], int]] = [
        (lambda: transport.read(f"{tmp_path}/none"), errno.ENOENT),
        (lambda: transport.read(f"{tmp_path}/dir"), errno.EISDIR),
        (lambda: transport.stat(f"{tmp_path}/none"), errno.ENOENT),
        (lambda: transport.listdir(f"{tmp_path}/none"), errno.ENOENT),
        (lambda: transport.listdir(f"{tmp_path}/file"), errno.ENOTDIR),
        (lambda: transport.get(f"{tmp_path}/none/none", tmp_path / "x"), errno.ENOENT),
        (lambda: transport.remove(f"{tmp_path}/none"), errno.ENOENT),
        (lambda: transport.remove(f"{tmp_path}/dir"), errno.EISDIR),
        (lambda: transport.write(f"{tmp_path}/none/x", b""), errno.ENOENT),
        (lambda: transport.makedirs(f"{tmp_path}/file/x"), errno.ENOTDIR),
        (lambda: transport.get(f"{tmp_path}/none", tmp_path / "x"), errno.ENOENT),
        (lambda: transport.rename(f"{tmp_path}/none", f"{tmp_path}/y"), errno.ENOENT),
    ]
    for act, number in cases:
        with pytest.raises(RemoteFileError) as caught:
            act()
        assert caught.value.errno == number, caught.value
        assert str(tmp_path) in str(caught.value)


def test_a_file_is_written_as_a_whole_or_not_at_all(transport: LocalTransport, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise DataStagingError("no more")

    path = f"{tmp_path}/file"
    transport.write(path, b"before", 0o640)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    with pytest.raises(DataStagingError):
        transport.write(path, broken())
    assert Path(path).read_bytes() == b"before"
    with transport.open(path, "wb") as file:
        file.write(b"after")
    with transport.open(path) as file:
        assert file.read() == b"after"
    with pytest.raises(ValueError, match="neither"), transport.open(path, "a"):
        pass


def test_directories(transport: LocalTransport, tmp_path: Path) -> None:
    transport.makedirs(f"{tmp_path}/a b/c", 0o700)
    transport.makedirs(f"{tmp_path}/a b/c", 0o755)
    assert stat.S_IMODE((tmp_path / "a b/c").stat().st_mode) == 0o700
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (tmp_path / "a b/c/link").symlink_to(tmp_path / "precious")
    transport.remove_tree(f"{tmp_path}/a b")
    transport.remove_tree(f"{tmp_path}/a b")
    assert transport.listdir(str(tmp_path)) == ["precious"]
    assert (tmp_path / "precious/file").exists()
    for path in ("/", "", "//", "/.", "name"):
        with pytest.raises(RemoteFileError, match="refusing"):
            transport.remove_tree(path)


# --- trees --------------------------------------------------------------------------------------------------------


def plant(directory: Path) -> dict[str, bytes]:
    (directory / "sub/empty").mkdir(parents=True)
    files = {"one": b"1" * 100_000, "sub/two": b"", **{f"sub/{name}": name.encode() for name in ODD_NAMES}}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / "sub/link").symlink_to("../one")
    (directory / "one").chmod(0o755)
    return files


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_trees_there_and_back(transport: LocalTransport, tmp_path: Path) -> None:
    files = plant(tmp_path / "source")
    transport.put(tmp_path / "source", f"{tmp_path}/there/deep/tree")
    assert contents(tmp_path / "there/deep/tree") == files
    transport.get(f"{tmp_path}/there/deep/tree", tmp_path / "back/again")
    assert contents(tmp_path / "back/again") == files
    assert os.readlink(tmp_path / "back/again/sub/link") == "../one"
    assert (tmp_path / "back/again/sub/empty").is_dir()
    assert stat.S_IMODE((tmp_path / "back/again/one").stat().st_mode) == 0o755


def test_single_files_there_and_back(transport: LocalTransport, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        (tmp_path / name).write_bytes(name.encode())
        transport.put(tmp_path / name, f"{tmp_path}/there/x{name}")
        transport.get(f"{tmp_path}/there/x{name}", tmp_path / "back" / name)
        assert (tmp_path / "back" / name).read_bytes() == name.encode()


def test_a_link_that_is_fetched_by_its_name_is_followed(transport: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("dir/file")
    (tmp_path / "dirlink").symlink_to("dir")
    transport.get(f"{tmp_path}/link", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"content"
    assert not (tmp_path / "got").is_symlink()
    transport.get(f"{tmp_path}/dirlink", tmp_path / "gotdir")
    assert contents(tmp_path / "gotdir") == {"file": b"content"}


def moved(transport: LocalTransport, act: Callable[[], None]) -> int:
    """Count the bytes that a transfer moves."""
    seen: list[int] = []

    def listen(_sender: object, *, done: int, **_more: object) -> None:
        seen.append(done)

    with events.transfer_advanced.connected_to(listen, transport):
        act()
    return max(seen, default=0)


def test_what_is_there_already_is_not_sent_again(transport: LocalTransport, tmp_path: Path) -> None:
    files = plant(tmp_path / "source")
    target = f"{tmp_path}/target"
    assert moved(transport, lambda: transport.put(tmp_path / "source", target)) > 100_000
    assert moved(transport, lambda: transport.put(tmp_path / "source", target)) < 30_000
    assert moved(transport, lambda: transport.put(tmp_path / "source", target, overwrite=True)) > 100_000
    (tmp_path / "source/one").write_bytes(b"2" * 100_001)
    assert moved(transport, lambda: transport.put(tmp_path / "source", target)) > 100_000
    assert contents(tmp_path / "target") == {**files, "one": b"2" * 100_001}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"same": b"there", "older": b"here", "size": b"here and more", "new": b"1"}),
        ({"overwrite": True}, {"same": b"here!", "older": b"here", "size": b"here and more", "new": b"1"}),
        ({"changed_only": False}, {"same": b"there", "older": b"then", "size": b"there", "new": b"1"}),
    ],
)
@pytest.mark.parametrize("direction", ["put", "get"])
def test_which_files_are_replaced(
    transport: LocalTransport, tmp_path: Path, direction: str, options: dict[str, bool], expected: dict[str, bytes]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for directory, files in (
        (source, {"same": b"here!", "older": b"here", "size": b"here and more", "new": b"1"}),
        (target, {"same": b"there", "older": b"then", "size": b"there"}),
    ):
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_bytes(content)
            moment = 1_000_000_000 + (name == "older" and directory == source)
            os.utime(directory / name, (moment, moment))
    if direction == "put":
        transport.put(source, str(target), **options)
    else:
        transport.get(str(source), target, **options)
    assert contents(target) == expected


def test_a_local_file_that_can_not_be_read_sends_nothing(transport: LocalTransport, tmp_path: Path) -> None:
    with pytest.raises(DataStagingError, match="No such file"):
        transport.put(tmp_path / "missing", f"{tmp_path}/target")
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/pipe")
    with pytest.raises(DataStagingError, match="neither a file nor a directory"):
        transport.put(tmp_path / "tree", f"{tmp_path}/target")
    assert not (tmp_path / "target").exists()
