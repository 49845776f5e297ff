"""Big files in slices: every byte arrives, interruptions cost little, and nothing half done takes a file's name."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchlib import events
from batchlib.errors import DataStagingError, RemoteFileError, TransportError
from batchlib.transport import ssh_pipe
from batchlib.transport.gate import Gate
from batchlib.transport.local import LocalTransport
from batchlib.transport.slices import BIG, BLOCK, MIB
from batchlib.transport.ssh import SshCarrier
from batchlib.transport.transport import Transport
from batchlib.transport.trees import parse_listing
from tests.servers.sshd import Sshd
from tests.transport.conftest import settings_for

#: Long enough for all channels that there may be.
FAR = 0.1
SIZES = [0, 1, BIG - 1, BIG, BIG + 1, 3 * BLOCK, 20 * MIB + 12_345]


@pytest.fixture
def place(server_directory: Path, plain_sshd: Sshd, tmp_path: Path) -> Iterator[Path]:
    """A directory on the machine, in which its user may write."""
    made = server_directory / f"place-{tmp_path.name}"
    made.mkdir()
    shutil.chown(made, plain_sshd.user)
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=["one channel", "several channels"])
def machine(request: pytest.FixtureRequest, real: SshCarrier, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    """A real machine, near by or so far away that transfers take several channels."""
    monkeypatch.setattr(SshCarrier, "round_trip", FAR if request.param == "several channels" else 0.0)
    with Transport(real) as made:
        yield made


@pytest.fixture
def far(real: SshCarrier, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    """A real machine that transfers to and from take several channels."""
    monkeypatch.setattr(SshCarrier, "round_trip", FAR)
    with Transport(real) as made:
        yield made


class Meter:
    """Counts the bytes that go through the pipes of SSH connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = self.received = 0
        self._lock = threading.Lock()
        write, read = ssh_pipe.ChannelPipe.write, ssh_pipe.ChannelPipe.read

        def counted_write(pipe: ssh_pipe.ChannelPipe, data: bytes) -> None:
            write(pipe, data)
            with self._lock:
                self.sent += len(data)

        def counted_read(pipe: ssh_pipe.ChannelPipe, timeout: float) -> tuple[int, bytes] | None:
            got = read(pipe, timeout)
            with self._lock:
                self.received += len(got[1]) if got else 0
            return got

        monkeypatch.setattr(ssh_pipe.ChannelPipe, "write", counted_write)
        monkeypatch.setattr(ssh_pipe.ChannelPipe, "read", counted_read)

    def reset(self) -> None:
        """Count anew."""
        self.sent = self.received = 0


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    """Count bytes."""
    return Meter(monkeypatch)


def make(path: Path, size: int, seed: int = 0, *, mode: int = 0o640, mtime: int = 1_500_000_000) -> bytes:
    """Make a file, and give what it holds."""
    content = random.Random(f"{seed} {size}").randbytes(size)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, (mtime, mtime))
    return content


def once_done(size: int, action: Callable[[], object]) -> Callable[..., None]:
    """Make a listener that does something once when so many bytes have gone by."""
    pending = [action]

    def listen(sender: object, *, done: int, **_rest: object) -> None:
        if done >= size and pending:
            pending.pop()()

    return listen


def parts_in(directory: Path) -> list[str]:
    """List what is left of transfers."""
    return [name for name in os.listdir(directory) if name.endswith(".part")]


# there and back


@pytest.mark.parametrize("size", SIZES)
def test_files_of_all_sizes_there_and_back(machine: Transport, place: Path, tmp_path: Path, size: int) -> None:
    content = make(tmp_path / "source", size)
    machine.put(tmp_path / "source", f"{place}/new/directory/-file")
    there = place / "new" / "directory" / "-file"
    assert there.read_bytes() == content
    assert (there.stat().st_mode & 0o7777, there.stat().st_mtime) == (0o640, 1_500_000_000)
    there.chmod(0o754)
    os.utime(there, (1_400_000_000, 1_400_000_000))
    machine.get(str(there), tmp_path / "back")
    back = tmp_path / "back"
    assert back.read_bytes() == content
    assert (back.stat().st_mode & 0o7777, back.stat().st_mtime) == (0o754, 1_400_000_000)
    assert not parts_in(there.parent)
    assert not parts_in(tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_one_file_by_itself(machine: Transport, place: Path, tmp_path: Path, size: int) -> None:
    content = make(tmp_path / "source", size)
    counted: list[int] = []
    machine.put_file(tmp_path / "source", f"{place}/there", mode=0o600, verify=True, advanced=counted.append)
    assert (place / "there").read_bytes() == content
    assert (place / "there").stat().st_mode & 0o7777 == 0o600
    assert sum(counted) == size


def test_a_tree_of_small_and_big_files(machine: Transport, place: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    names = ["small", "big one", "below/small", "below/deep/-big", "new\nline big", "dir\n/b ig", "'quo\"te $HOME *"]
    for number, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        make(source / name, BIG + 1 + number if "b" in name and "small" not in name else 10, number)
    (source / "link").symlink_to("big one")
    done: list[int] = []
    with events.transfer_advanced.connected_to(lambda sender, **news: done.append(news["done"]), machine):
        machine.put(source, f"{place}/tree")
        machine.get(f"{place}/tree", tmp_path / "back")
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    assert os.readlink(tmp_path / "back" / "link") == "big one"
    assert max(done) >= 4 * BIG
    # and again: what is there already is not sent, what changed is
    (tmp_path / "back" / "big one").write_bytes(b"changed")
    machine.get(f"{place}/tree", tmp_path / "back")
    assert (tmp_path / "back" / "big one").read_bytes() == (source / "big one").read_bytes()


def test_the_goal_of_a_link_that_is_named_is_fetched(machine: Transport, place: Path, tmp_path: Path) -> None:
    content = make(place / "file", BIG + 5, mode=0o644)
    (place / "link").symlink_to("file")
    machine.get(f"{place}/link", tmp_path / "back")
    assert not (tmp_path / "back").is_symlink()
    assert (tmp_path / "back").read_bytes() == content


def test_what_is_there_is_not_sent_again(machine: Transport, place: Path, tmp_path: Path, meter: Meter) -> None:
    make(tmp_path / "source", 2 * BIG)
    machine.put(tmp_path / "source", f"{place}/there")
    machine.get(f"{place}/there", tmp_path / "back")
    meter.reset()
    machine.put(tmp_path / "source", f"{place}/there")
    machine.get(f"{place}/there", tmp_path / "back")
    assert meter.sent + meter.received < 100_000


def test_small_transfers_take_no_more_round_trips(machine: Transport, place: Path, tmp_path: Path) -> None:
    make(tmp_path / "source", 1000)
    taken = []
    for action in (
        lambda: machine.put(tmp_path / "source", f"{place}/there"),
        lambda: machine.put(tmp_path / "source", f"{place}/there", overwrite=True),
        lambda: machine.get(f"{place}/there", tmp_path / "back"),
    ):
        before = machine.round_trips
        action()
        taken.append(machine.round_trips - before)
    assert taken == [2, 1, 1]


# tools that know less


TOOLS = {
    "dd": 'case "$*" in *flag=*) echo "dd: unknown operand" >&2; exit 1 ;; esac; exec /bin/dd "$@"',
    "tar": 'case "$*" in *--null*) echo "tar: unknown option" >&2; exit 64 ;; esac; exec /bin/tar "$@"',
    "sha256sum": "exit 127",
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("size", [BIG + 1, 20 * MIB + 12_345])
def test_tools_that_know_less(real: SshCarrier, place: Path, tmp_path: Path, tool: str, size: int) -> None:
    tools = place / "tools"
    tools.mkdir()
    for name in os.listdir("/usr/bin"):
        if name != tool:
            (tools / name).symlink_to(f"/usr/bin/{name}")
    if tool != "sha256sum":
        (tools / tool).write_text(f"#!/bin/sh\n{TOOLS[tool]}\n")
        (tools / tool).chmod(0o755)
    content = make(tmp_path / "source", size)
    with Transport(real, setup=f"PATH={tools}") as machine:
        interrupt(lambda: machine.put(tmp_path / "source", f"{place}/there"))
        machine.put_file(tmp_path / "source", f"{place}/there")
        machine.get(f"{place}/there", tmp_path / "back")
        if tool == "sha256sum":
            with pytest.raises(DataStagingError, match="has no sha256sum"):
                machine.put_file(tmp_path / "source", f"{place}/again", verify=True)
    assert (tmp_path / "back").read_bytes() == content


def interrupt(transfer: Callable[[], object], after: int = BIG // 2) -> None:
    """Interrupt a transfer as somebody does who presses Ctrl-C."""

    def stop() -> None:
        raise KeyboardInterrupt

    with events.transfer_advanced.connected_to(once_done(after, stop)), pytest.raises(KeyboardInterrupt):
        transfer()


# interruptions


def test_an_upload_that_was_cut_sends_the_rest(
    make_sshd: Callable[..., Sshd],
    server_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meter: Meter,
) -> None:
    monkeypatch.setattr(SshCarrier, "round_trip", FAR)
    sshd = make_sshd()
    size = 64 * MIB + 77
    content = make(tmp_path / "source", size)
    there = server_directory / f"cut-{tmp_path.name}"
    there.mkdir()
    shutil.chown(there, sshd.user)
    with Transport(SshCarrier(settings_for(sshd))) as machine:
        listener = once_done(size * 7 // 8, sshd.drop)
        with events.transfer_advanced.connected_to(listener), pytest.raises(TransportError):
            machine.put(tmp_path / "source", f"{there}/file")
        assert not (there / "file").exists()
        assert len(parts_in(there)) == 1
        blocks = (there / parts_in(there)[0]).read_bytes()
        kept = sum(blocks[start : start + BLOCK] == content[start : start + BLOCK] for start in range(0, size, BLOCK))
        assert kept > 0
        meter.reset()
        machine.put(tmp_path / "source", f"{there}/file")
        assert (there / "file").read_bytes() == content
        assert meter.sent < size - kept * BLOCK + BLOCK + 100_000
        assert not parts_in(there)
    shutil.rmtree(there)


def test_a_download_that_was_cut_fetches_the_rest(
    make_sshd: Callable[..., Sshd],
    server_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meter: Meter,
) -> None:
    monkeypatch.setattr(SshCarrier, "round_trip", FAR)
    sshd = make_sshd()
    size = 64 * MIB + 77
    there = server_directory / f"cut-{tmp_path.name}"
    there.mkdir()
    content = make(there / "file", size, mode=0o644)
    with Transport(SshCarrier(settings_for(sshd))) as machine:
        listener = once_done(size * 7 // 8, sshd.drop)
        with events.transfer_advanced.connected_to(listener), pytest.raises(TransportError):
            machine.get(f"{there}/file", tmp_path / "file")
        assert not (tmp_path / "file").exists()
        assert len(parts_in(tmp_path)) == 1
        blocks = (tmp_path / parts_in(tmp_path)[0]).read_bytes()
        kept = sum(blocks[start : start + BLOCK] == content[start : start + BLOCK] for start in range(0, size, BLOCK))
        assert kept > 0
        meter.reset()
        machine.get(f"{there}/file", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == content
        assert meter.received < size - kept * BLOCK + BLOCK + 100_000
        assert not parts_in(tmp_path)
    shutil.rmtree(there)


@pytest.mark.parametrize("told", ["by its time", "by nothing but its content"])
def test_a_source_that_changed_is_not_mixed_with_what_it_was(
    far: Transport, place: Path, tmp_path: Path, told: str
) -> None:
    size = 32 * MIB
    source = tmp_path / "source"
    make(source, size)
    interrupt(lambda: far.put(source, f"{place}/there"), size // 2)
    assert len(parts_in(place)) == 1
    content = make(source, size, seed=1, mtime=1_500_000_000 if told == "by nothing but its content" else 1_600_000_000)
    far.put(source, f"{place}/there")
    assert (place / "there").read_bytes() == content
    assert not parts_in(place)
    interrupt(lambda: far.get(f"{place}/there", tmp_path / "back"), size // 2)
    assert len(parts_in(tmp_path)) == 1
    content = make(place / "there", size, seed=2, mtime=1_500_000_000 if "nothing" in told else 1_700_000_000)
    far.get(f"{place}/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert not parts_in(tmp_path)


def test_a_part_that_somebody_else_put_there_is_not_written_through(
    far: Transport, place: Path, tmp_path: Path
) -> None:
    content = make(tmp_path / "source", 2 * BIG)
    interrupt(lambda: far.put(tmp_path / "source", f"{place}/there"))
    victim = make(place / "victim", 2 * BIG, seed=1, mode=0o666)
    (part,) = parts_in(place)
    (place / part).unlink()
    (place / part).symlink_to("victim")
    far.put(tmp_path / "source", f"{place}/there")
    assert (place / "there").read_bytes() == content
    assert (place / "victim").read_bytes() == victim
    assert not (place / "there").is_symlink()


# what goes wrong


def test_a_file_that_does_not_fit_leaves_nothing(machine: Transport, place: Path, tmp_path: Path) -> None:
    make(tmp_path / "source", 32 * MIB)
    machine.put(tmp_path / "source", f"{place}/there")
    before = (place / "there").read_bytes()
    make(tmp_path / "source", 33 * MIB, seed=1)
    with Transport(machine.carrier, setup="trap '' XFSZ; ulimit -f 20000") as full:
        with pytest.raises(RemoteFileError, match=r"cannot send .*there to .*: File too large") as caught:
            full.put(tmp_path / "source", f"{place}/there")
        assert caught.value.errno == errno.EFBIG
    assert (place / "there").read_bytes() == before
    assert not parts_in(place)


def test_a_file_that_does_not_fit_here_leaves_nothing(machine: Transport, place: Path, tmp_path: Path) -> None:
    make(place / "there", 32 * MIB, mode=0o644)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MIB, limits[1]))
    try:
        with pytest.raises(DataStagingError, match=r"cannot write .*back: File too large"):
            machine.get(f"{place}/there", tmp_path / "back")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["data"] or os.listdir(tmp_path) == []
    machine.get(f"{place}/there", tmp_path / "back")
    assert (tmp_path / "back").stat().st_size == 32 * MIB


def test_a_directory_in_the_way_is_an_error(machine: Transport, place: Path, tmp_path: Path) -> None:
    make(tmp_path / "source", BIG + 1)
    (place / "there").mkdir()
    with pytest.raises(RemoteFileError, match="Is a directory"):
        machine.put_file(tmp_path / "source", f"{place}/there")
    assert os.listdir(place) == ["there"]
    make(place / "file", BIG + 1, mode=0o644)
    (tmp_path / "back").mkdir()
    with pytest.raises(DataStagingError, match="Is a directory"):
        machine.get(f"{place}/file", tmp_path / "back", overwrite=True)


def test_files_that_can_not_be_read(machine: Transport, place: Path, tmp_path: Path) -> None:
    make(place / "secret", BIG + 1, mode=0o600)
    with pytest.raises(RemoteFileError, match="Permission denied"):
        machine.get(f"{place}/secret", tmp_path / "back")
    with pytest.raises(RemoteFileError, match="No such file"):
        machine.get(f"{place}/nothing", tmp_path / "back")
    with pytest.raises(DataStagingError, match="cannot read the input"):
        machine.put_file(tmp_path / "nothing", f"{place}/there")
    assert not (tmp_path / "back").exists()
    assert not parts_in(place)


def test_a_source_that_changes_while_it_is_sent_is_an_error(machine: Transport, place: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make(source, 32 * MIB)
    for what, change in {
        "changed while it was sent": lambda: os.utime(source),
        "became shorter while it was read": lambda: os.truncate(source, BIG),
    }.items():
        listener = once_done(MIB, change)
        with events.transfer_advanced.connected_to(listener), pytest.raises(DataStagingError, match=what):
            machine.put(source, f"{place}/there")
    assert os.listdir(place) == []


def test_a_file_that_grows_is_fetched_as_it_was(machine: Transport, place: Path, tmp_path: Path) -> None:
    content = make(place / "log", 32 * MIB, mode=0o644)

    def grow() -> None:
        with (place / "log").open("ab") as file:
            file.write(b"more")

    with events.transfer_advanced.connected_to(once_done(MIB, grow)):
        machine.get(f"{place}/log", tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == content


def test_a_file_that_shrinks_while_it_is_fetched_is_an_error(machine: Transport, place: Path, tmp_path: Path) -> None:
    make(place / "log", 96 * MIB, mode=0o644)
    listener = once_done(MIB, lambda: os.truncate(place / "log", 12 * MIB))
    with events.transfer_advanced.connected_to(listener), pytest.raises(RemoteFileError, match="became shorter"):
        machine.get(f"{place}/log", tmp_path / "log")
    assert not (tmp_path / "log").exists()
    assert not parts_in(tmp_path)


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"/81a4 9000000 0 name\n",
        b"/81a4 9000000 0 name\n/0",
        b"/81a4 -1 0 name\n/0\n",
        b"/81a4 9223372036854775808 0 name\n/0\n",
        b"/81a4 1e9 0 name\n/0\n",
        b"/41ed 9000000 0 directory\n/0\n",
        b"/a1ff 9000000 0 link\n/0\n",
        b"/81a4 9000000 name\n/0\n",
        b"garbage\n/0\n",
        b"/81a4 9000000 0 name\n/x\n",
    ],
)
def test_lists_that_are_damaged_or_lie_are_refused(listing: bytes) -> None:
    with pytest.raises(DataStagingError):
        parse_listing(listing)


def test_what_follows_the_archive() -> None:
    found = parse_listing(bytes(10240) + b"/81a4 9000000 -5 ./a b\xff\n/81ed 9223372036854775807 12 c\n/1\n")
    assert [(one.name, one.mode, one.size, one.mtime) for one in found] == [
        ("./a b\udcff", 0o644, 9_000_000, -5),
        ("c", 0o755, (1 << 63) - 1, 12),
    ]
    assert parse_listing(b"\0/0\n") == []


# channels


@pytest.mark.parametrize("sessions", [2, 3, 8])
def test_channels_never_exceed_the_gate(
    plain_sshd: Sshd, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    monkeypatch.setattr(SshCarrier, "round_trip", FAR)
    inside: list[int] = []
    enter = Gate.enter

    def counted(gate: Gate, *rest: object) -> int | None:
        others = enter(gate, *rest)  # type: ignore[arg-type]
        inside.append(-1 if others is None else others + 1)
        return others

    monkeypatch.setattr(Gate, "enter", counted)
    content = make(tmp_path / "source", 64 * MIB)
    carrier = SshCarrier(settings_for(plain_sshd, sessions=sessions))
    with Transport(carrier) as machine:
        machine.run("true")
        machine.put_file(tmp_path / "source", f"{place}/there")
        machine.get(f"{place}/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert 1 < max(inside) <= max(2, sessions - 1)
    assert min(inside) > 0


def test_a_server_that_allows_fewer_sessions_than_are_wanted(
    make_sshd: Callable[..., Sshd], server_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SshCarrier, "round_trip", FAR)
    sshd = make_sshd(options={"MaxSessions": "2"})
    there = server_directory / f"few-{tmp_path.name}"
    there.mkdir()
    shutil.chown(there, sshd.user)
    content = make(tmp_path / "source", 64 * MIB)
    with Transport(SshCarrier(settings_for(sshd))) as machine:
        machine.put(tmp_path / "source", f"{there}/file")
        machine.get(f"{there}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    shutil.rmtree(there)


def test_this_machine(tmp_path: Path) -> None:
    content = make(tmp_path / "source", 3 * BIG + 1)
    with LocalTransport() as machine:
        machine.put(tmp_path / "source", f"{tmp_path}/there", verify=True)
        machine.get(f"{tmp_path}/there", tmp_path / "back", verify=True)
    assert (tmp_path / "back").read_bytes() == content
