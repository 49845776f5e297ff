"""Tar streams: what goes in comes out, and nothing is written where it does not belong."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchlib.errors import ConnectionLost, DataStagingError
from batchlib.transport import archive as archive_module
from batchlib.transport import unpacking
from batchlib.transport.archive import Entry, Link, entries_of, pack
from batchlib.transport.unpacking import unpack, write_atomically

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 150
)
files = st.dictionaries(names, st.binary(max_size=2000), max_size=5)


def below(directory: Path) -> Callable[[str], Path]:
    """Place each member below a directory, without the name of the tree itself."""
    return lambda name: directory.joinpath(*name.split("/")[1:])


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def tree(directory: Path) -> dict[str, bytes | str | None]:
    """All that is in a directory: contents of files, targets of links, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in directory.rglob("*"):
        content = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        found[os.fsdecode(path.relative_to(directory))] = content
    return found


# --- the way there and back ---------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(files=files, sizes=st.integers(1, 3000))
def test_what_is_packed_is_unpacked(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], sizes: int
) -> None:
    directory = tmp_path_factory.mktemp("tree")
    source, target = directory / "source", directory / "target"
    (source / "sub/empty").mkdir(parents=True)
    for name, content in files.items():
        (source / "sub" / name).write_bytes(content)
    data = b"".join(pack(entries_of(source, "tree")))
    came = unpack(chunked(data, sizes), below(target))
    assert tree(target) == tree(source)
    assert sorted(came) == sorted(["tree", *(f"tree/{name}" for name in tree(source))])


def test_modes_times_links_and_odd_names_survive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    odd = ["new\nline", "-rf", " blank ", "ünï☃", "a" * 150, "back\\slash", "quo'te\"", os.fsdecode(b"latin-\xfc"), "*"]
    for name in odd:
        (source / name).write_text(name.encode("utf-8", "replace").decode())
    program = source / "bin/run"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o751)
    os.utime(program, (1_000_000_000, 1_000_000_000))
    (source / "old").write_bytes(b"")
    os.utime(source / "old", (-5, -5))
    (source / "link").symlink_to("bin/run")
    (source / "bin/up").symlink_to("../old")
    unpack(pack(entries_of(source, "t")), below(tmp_path / "target"))
    assert tree(tmp_path / "target") == tree(source)
    info = (tmp_path / "target/bin/run").stat()
    assert stat.S_IMODE(info.st_mode) == 0o751
    assert info.st_mtime == 1_000_000_000


@pytest.mark.parametrize("length", [99, 100, 101, 155, 156, 255])
def test_long_names(tmp_path: Path, length: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / ("x" * length)).write_bytes(b"long")
    (source / "ü").write_bytes(b"short")
    (source / ("ü" * (length // 2))).write_bytes(b"wide")
    unpack(pack(entries_of(source, "d" * length)), below(tmp_path / "target"))
    assert tree(tmp_path / "target") == tree(source)


def test_tar_reads_what_we_pack_and_we_read_what_tar_packs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep/down").mkdir(parents=True)
    (source / "deep/down" / ("n" * 200)).write_bytes(b"x" * 100_000)
    (source / "deep/twin").write_bytes(b"same")
    os.link(source / "deep/twin", source / "other")
    (source / "link").symlink_to("deep/twin")
    (tmp_path / "there").mkdir()
    packed = b"".join(pack(entries_of(source, "t")))
    subprocess.run(["tar", "-xpf", "-", "-C", tmp_path / "there"], input=packed, check=True)
    assert tree(tmp_path / "there/t") == tree(source)
    for form in ("gnu", "posix"):
        made = subprocess.run(
            ["tar", f"--format={form}", "-cf", "-", "-C", tmp_path / "there", "t"], check=True, capture_output=True
        ).stdout
        unpack(chunked(made, 7000), below(tmp_path / f"back-{form}"))
        assert tree(tmp_path / f"back-{form}") == tree(source)


def test_two_names_of_one_file_are_two_files(tmp_path: Path) -> None:
    source = tmp_path / "t"
    source.mkdir()
    (source / "a").write_bytes(b"content")
    os.link(source / "a", source / "b")
    made = subprocess.run(["tar", "-cf", "-", "-C", tmp_path, "t"], check=True, capture_output=True).stdout
    unpack([made], below(tmp_path / "target"))
    assert tree(tmp_path / "target") == {"a": b"content", "b": b"content"}
    assert (tmp_path / "target/a").stat().st_nlink == 1
    # where neither needs to be written again, neither is
    unpack([made], below(tmp_path / "target"), wanted=lambda path, size, mtime: size != 7)


def test_only_what_is_wanted_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    told: list[tuple[str, int, float]] = []

    def wanted(path: Path, size: int, mtime: float) -> bool:
        told.append((path.name, size, mtime))
        return path.name == "new"

    data = archive(member("t/old", b"other"), member("t/new", b"other", mtime=7), member("t/fresh", b"1"))
    (tmp_path / "new").write_bytes(b"old")
    unpack([data], below(tmp_path), wanted=wanted)
    assert tree(tmp_path) == {"old": b"old", "new": b"other", "fresh": b"1"}
    assert told == [("old", 5, 0), ("new", 5, 7)]


def test_what_is_left_out_is_named_but_not_written(tmp_path: Path) -> None:
    data = archive(member("t/a", b"1"), member("t/b", b"2" * 5000), member("t/c", b"3"))
    came = unpack([data], lambda name: tmp_path / "b" if name == "t/b" else None)
    assert came == ["t/a", "t/b", "t/c"]
    assert tree(tmp_path) == {"b": b"2" * 5000}


# --- what can't be sent -------------------------------------------------------------------------------------------


def test_inputs_that_can_not_be_sent(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/pipe")
    with pytest.raises(DataStagingError, match="neither a file nor a directory"):
        list(entries_of(tmp_path / "tree", "t"))
    with pytest.raises(DataStagingError, match="neither a file nor a directory"):
        list(entries_of(tmp_path / "tree/pipe", "t"))
    with pytest.raises(DataStagingError, match="No such file"):
        list(entries_of(tmp_path / "missing", "t"))


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../other", "sub/../../other", "../tree-too/x"])
def test_links_out_of_a_directory_are_not_sent(tmp_path: Path, target: str) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/link").symlink_to(target)
    with pytest.raises(DataStagingError, match="points outside"):
        list(entries_of(tmp_path / "tree", "t"))


def test_a_link_that_is_named_itself_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    unpack(pack(entries_of(tmp_path / "link", "t")), below(tmp_path / "target"))
    assert tree(tmp_path / "target") == {"file": b"1"}


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (3 << 20))
    chunks = pack([Entry("file", path)])
    next(chunks)
    os.truncate(path, 1 << 20)
    with pytest.raises(DataStagingError, match="became shorter"):
        list(chunks)


def test_a_file_that_grows_while_it_is_sent_is_sent_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    chunks = pack([Entry("t/file", path), Entry("t/last", b"last")])
    first = next(chunks)
    with path.open("ab") as file:
        file.write(b"y" * 5000)
    unpack([first, *chunks], below(tmp_path / "target"))
    assert tree(tmp_path / "target") == {"file": b"x" * 1000, "last": b"last"}


# --- hostile archives ---------------------------------------------------------------------------------------------


def member(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mtime: float = 0
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mtime, info.mode = kind, len(content), link, mtime, 0o644
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def archive(*members: bytes) -> bytes:
    return b"".join(members) + bytes(1024)


def link(name: str, target: str) -> bytes:
    return member(name, kind=tarfile.SYMTYPE, link=target)


def directory(name: str) -> bytes:
    return member(name, kind=tarfile.DIRTYPE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A destination in a directory where nothing else may appear."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "around/target").mkdir(parents=True)
    return tmp_path / "around/target"


def assert_nothing_outside(target: Path) -> None:
    around = target.parent
    assert list(around.iterdir()) == [target]
    assert list((around.parent / "outside").iterdir()) == []
    assert sorted(path.name for path in around.parent.iterdir()) == ["around", "outside"]


@pytest.mark.parametrize(
    "name", ["/etc/evil", "../evil", "t/../../evil", "t/..", "..", "//evil", "t/a/../../../evil", "./../evil"]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_names_that_lead_out_are_refused(target: Path, name: str, kind: bytes) -> None:
    with pytest.raises(DataStagingError, match="outside of where it belongs"):
        unpack([archive(member(name, kind=kind, link="x"))], below(target))
    assert_nothing_outside(target)


@pytest.mark.parametrize(
    "goal", ["/etc/passwd", "..", "../..", "../../outside", "a/../../..", "../target/../../outside", "../target-too"]
)
def test_links_that_lead_out_are_left_out(target: Path, goal: str) -> None:
    unpack([archive(link("t/link", goal), member("t/file", b"1"))], below(target))
    assert tree(target) == {"file": b"1"}
    assert_nothing_outside(target)


def test_links_within_the_tree_are_kept(target: Path) -> None:
    unpack([archive(directory("t/a"), link("t/a/up", "../b"), link("t/self", "."), member("t/b", b"1"))], below(target))
    assert tree(target) == {"a": None, "a/up": "../b", "self": ".", "b": b"1"}


def test_nothing_is_written_through_a_link(target: Path) -> None:
    with pytest.raises(DataStagingError, match="symbolic link"):
        unpack([archive(directory("t/real"), link("t/link", "real"), member("t/link/evil", b"1"))], below(target))
    assert_nothing_outside(target)
    assert tree(target) == {"real": None, "link": "real"}


def test_links_that_climb_over_each_other_lead_nowhere(target: Path) -> None:
    # each of them is harmless by its name, but the second one starts where the first one leads
    climbing = archive(
        directory("t/a/b/c"),
        link("t/a/b/c/top", "../../.."),
        link("t/a/b/c/out", "top/.."),
        member("t/a/b/c/out/evil", b"1"),
    )
    with pytest.raises(DataStagingError, match="symbolic link"):
        unpack([climbing], below(target))
    assert_nothing_outside(target)


def test_links_from_an_earlier_archive_are_not_written_through_either(target: Path) -> None:
    unpack([archive(directory("t/a"), link("t/a/self", ".."))], below(target))
    for evil in (link("t/a/self/out", "../.."), member("t/a/self/file", b"1"), directory("t/a/self/dir")):
        with pytest.raises(DataStagingError, match="symbolic link"):
            unpack([archive(evil)], below(target))
    assert tree(target) == {"a": None, "a/self": ".."}
    assert_nothing_outside(target)


def test_a_link_under_another_name_may_not_climb_where_it_could_in_the_archive(target: Path) -> None:
    def renamed(name: str) -> Path | None:
        return target / name.removeprefix("t/deep/down/") if name.startswith("t/deep/down/") else None

    unpack([archive(link("t/deep/down/x", "../../y"))], renamed)
    assert tree(target) == {}
    unpack([archive(directory("t/deep/down/sub"), link("t/deep/down/sub/x", "../y"))], renamed)
    assert tree(target) == {"sub": None, "sub/x": "../y"}


def test_a_destination_behind_the_users_own_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").symlink_to("scratch")
    unpack([archive(directory("t/a"), member("t/a/b", b"1"), link("t/c", "a/b"))], below(tmp_path / "out"))
    assert tree(tmp_path / "scratch") == {"a": None, "a/b": b"1", "c": "a/b"}


def test_a_file_replaces_a_link_and_does_not_write_to_its_goal(target: Path) -> None:
    victim = target.parent.parent / "victim"
    victim.write_bytes(b"precious")
    (target / "file").symlink_to(victim)
    unpack([archive(member("t/file", b"1"))], below(target))
    assert victim.read_bytes() == b"precious"
    assert tree(target) == {"file": b"1"}
    victim.unlink()
    assert_nothing_outside(target)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_not_made(target: Path, kind: bytes) -> None:
    unpack([archive(member("t/null", kind=kind), member("t/file", b"1"))], below(target))
    assert tree(target) == {"file": b"1"}


@pytest.mark.parametrize("goal", ["/etc/passwd", "../../outside/x", "t/not-there", "etc/passwd"])
def test_hard_links_to_what_did_not_come_are_refused(target: Path, goal: str) -> None:
    (target / "not-there").write_bytes(b"from before")
    with pytest.raises(DataStagingError):
        unpack([archive(member("t/link", kind=tarfile.LNKTYPE, link=goal))], below(target))
    assert not (target / "link").exists()


def test_names_with_newlines_and_other_controls_are_names(target: Path) -> None:
    name = "a\nb\tc\r\x1b[31m"
    unpack([archive(member(f"t/{name}", b"1"))], below(target))
    assert tree(target) == {name: b"1"}


def test_names_with_a_nul_are_refused(target: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as made:
        info = tarfile.TarInfo("t/x")
        info.pax_headers = {"path": "t/a\0b"}
        made.addfile(info)
    with pytest.raises(DataStagingError):
        unpack([data.getvalue()], below(target))


@pytest.mark.parametrize("mtime", ["nan", "inf", "-inf", "1e300", "-7", "99999999999999999999"])
def test_impossible_times(target: Path, mtime: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as made:
        info = tarfile.TarInfo("t/file")
        info.pax_headers = {"mtime": mtime}
        made.addfile(info)
    told: list[float] = []
    unpack([data.getvalue()], below(target))
    unpack([data.getvalue()], below(target), wanted=lambda path, size, when: bool(told.append(when)))
    assert tree(target) == {"file": b""}
    assert told == [int(told[0])]


def test_a_directory_in_the_way_is_an_error(target: Path) -> None:
    (target / "file").mkdir()
    for data in (member("t/file", b"1"), link("t/file", "x"), member("t/other", b"1") + member("t/other/x", b"1")):
        with pytest.raises(DataStagingError):
            unpack([archive(data)], below(target))
    assert not list(target.glob(".batchlib-*"))


# --- damaged archives ---------------------------------------------------------------------------------------------

WHOLE = archive(directory("t/a"), member("t/a/one", b"1" * 700), member("t/a/two", b"2" * 100), link("t/three", "a"))


@pytest.mark.parametrize("length", range(0, len(WHOLE) - 1024, 200))
def test_a_truncated_archive_is_noticed(target: Path, length: int) -> None:
    with pytest.raises(DataStagingError, match="not a sound archive"):
        unpack(chunked(WHOLE[:length], 333), below(target))
    for path in (target / "a/one", target / "a/two"):
        assert not path.exists() or path.stat().st_size in (700, 100)
    assert not list(target.rglob(".batchlib-*"))


@settings(max_examples=60)
@given(data=st.binary(max_size=2000), at=st.integers(0, len(WHOLE)))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    around = tmp_path_factory.mktemp("around")
    (around / "target").mkdir()
    for damaged in (data, WHOLE[:at] + data, WHOLE[:at] + data + WHOLE[at + len(data) :]):
        try:
            unpack([damaged], below(around / "target"))
        except DataStagingError:
            continue
    assert list(around.iterdir()) == [around / "target"]


def test_garbage_between_two_members_is_noticed(target: Path) -> None:
    garbage = b"\x01garbage" * 64
    with pytest.raises(DataStagingError, match="not a sound archive"):
        unpack([member("t/a", b"1") + garbage + archive(member("t/b", b"2"))], below(target))


def test_an_error_of_the_connection_is_told_as_it_is(target: Path) -> None:
    def broken() -> Iterable[bytes]:
        yield WHOLE[:600]
        raise ConnectionLost("the connection broke")

    with pytest.raises(ConnectionLost):
        unpack(broken(), below(target))


def test_a_file_appears_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionLost("gone")

    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(ConnectionLost):
        write_atomically(tmp_path / "file", broken(), mode=0o600)
    assert tree(tmp_path) == {"file": b"before"}


def test_entries_of_all_kinds(tmp_path: Path) -> None:
    made = [Entry("t", None), Entry("t/a", b"text", 0o700), Entry("t/l", Link("a")), Entry("t/b", b"")]
    data = b"".join(pack(made))
    assert len(data) % 512 == 0
    unpack([data], below(tmp_path / "x"))
    assert tree(tmp_path / "x") == {"a": b"text", "l": "a", "b": b""}
    assert stat.S_IMODE((tmp_path / "x/a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "x/b").stat().st_mode) == 0o600


# --- headers, which are written and read by code of our own for the sake of speed ------------------------------------


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=120),
    st.integers(0, 0o7777),
    st.integers(0, 8**11 + 5),
    st.integers(-5, 8**11 + 5),
)
def test_headers_are_those_of_the_library(name: str, mode: int, size: int, mtime: int) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.mtime = mode, size, mtime
    theirs = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    assert archive_module._header(name, tarfile.REGTYPE, mode, size=size, mtime=mtime) == theirs
    read = [kind.frombuf(theirs[-512:], "utf-8", "surrogateescape") for kind in (unpacking._Member, tarfile.TarInfo)]
    for field in ("name", "mode", "size", "mtime", "type", "linkname", "chksum"):
        assert getattr(read[0], field) == getattr(read[1], field)


@given(st.integers(0, 511), st.integers(0, 255))
@example(154, 1)
@example(107, 1)
@example(135, ord("7"))
def test_a_header_with_a_wrong_byte_is_read_as_the_library_reads_it(at: int, value: int) -> None:
    header = bytearray(archive_module._header("file", tarfile.REGTYPE, 0o644, size=5, mtime=7))
    header[at] = value
    read = []
    for kind in (unpacking._Member, tarfile.TarInfo):
        try:
            found = kind.frombuf(bytes(header), "utf-8", "surrogateescape")
            read.append((found.name, found.mode, found.size, found.mtime, found.type))
        except tarfile.HeaderError as error:
            read.append((type(error).__name__,))
    assert read[0] == read[1]


def test_sizes_below_zero_are_refused(target: Path) -> None:
    header = bytearray(member("t/file"))
    header[124:136] = b"\xff" * 11 + b"\xfe"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    with pytest.raises(DataStagingError, match="size below zero"):
        unpack([archive(bytes(header))], below(target))
    assert list(target.iterdir()) == []
