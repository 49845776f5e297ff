"""Tar streams, written and read without ever holding more than one block of them.

Reading distrusts the stream: nothing is written outside the destination, no link is followed, no device made.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import secrets
import stat
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import attrs

from ..errors import DataStagingError

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
#: Tell the temporary files of a process from each other, and from those of processes before it.
_numbers = itertools.count(secrets.randbits(48))
#: User and group of a header, and what follows its checksum, which counts itself as blanks.
_NOBODY = b"0000000\0" * 2
_REST = b"0" + bytes(100) + b"ustar  \0" + bytes(247)
_REST_SUM = sum(_REST) + 8 * ord(" ")
#: Bytes that may come behind an archive.
_LONGEST_REST = 1 << 28
#: The latest modification time, in seconds since the epoch, that is believed.
_LATEST = 1 << 40


@attrs.frozen
class Link:
    """A symbolic link.

    Parameters
    ----------
    target : str
        What it points to.
    """

    target: str


@attrs.frozen
class HardLink:
    """Another name of something that lies where the archive is unpacked.

    Parameters
    ----------
    target : str
        Its path there.
    """

    target: str


@attrs.frozen
class Known:
    """A local file whose content was looked at before: it is sent only if it is still the same.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str
        Digest of its content, in hexadecimal digits.
    size : int
        Bytes.
    mtime : int
        Modification time to give it, in seconds since the epoch.
    """

    path: Path
    sha256: str
    size: int
    mtime: int


@attrs.frozen
class Entry:
    """One thing to put into an archive.

    Parameters
    ----------
    name : str
        Relative path in the archive.
    source : Path or Known or bytes or Link or HardLink or None
        A local file, the content itself, a link, or None for a directory.
    mode : int, optional
        Permission bits; default is those of the local file, or 0600 (directories 0700).
    """

    name: str
    source: Path | Known | bytes | Link | HardLink | None
    mode: int | None = None


def entries_of(path: Path, name: str) -> Iterator[Entry]:
    """List a local file, or a directory and all that is in it.

    Parameters
    ----------
    path : Path
        What the user named: a link at this place is followed, further down not.
    name : str
        Its name in the archive.

    Raises
    ------
    DataStagingError
        Something can't be read, is neither file nor directory, or is a link that leads out of the directory.
    """
    try:
        info = path.stat()
        if stat.S_ISREG(info.st_mode):
            yield Entry(name, path)
        elif stat.S_ISDIR(info.st_mode):
            yield from _entries_below(path, name, name)
        else:
            raise DataStagingError(f"the input {path} is neither a file nor a directory")
    except OSError as error:
        raise DataStagingError(f"cannot read the input {path}: {error.strerror}") from error


def _entries_below(directory: Path, name: str, root: str) -> Iterator[Entry]:
    yield Entry(name, None, stat.S_IMODE(directory.stat().st_mode) | stat.S_IRWXU)
    for found in sorted(os.scandir(directory), key=lambda found: found.name):
        inner = f"{name}/{found.name}"
        path = Path(found.path)
        if found.is_symlink():
            target = os.readlink(path)
            if not _stays_inside(inner, target, root=root):
                raise DataStagingError(
                    f"the symbolic link {path} points outside of the directory that is to be sent; "
                    "name its target as an input of its own"
                )
            yield Entry(inner, Link(target))
        elif found.is_dir():
            yield from _entries_below(path, inner, root)
        elif found.is_file():
            yield Entry(inner, path)
        else:
            raise DataStagingError(f"the input {path} is neither a file nor a directory")


def pack(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield the blocks of a tar archive of `entries`, in GNU format, which every tar reads.

    Raises
    ------
    DataStagingError
        A file can't be read, shrinks while it is read, or is no longer what was known of it.
    """
    for entry in entries:
        source = entry.source
        if isinstance(source, Path):
            with readable(source):
                yield from _pack_file(entry.name, source, entry.mode)
        elif isinstance(source, Known):
            with readable(source.path):
                yield from _pack_known(entry.name, source, entry.mode)
        elif isinstance(source, HardLink):
            yield _header(entry.name, tarfile.LNKTYPE, 0o600, target=source.target)
        elif isinstance(source, Link):
            yield _header(entry.name, tarfile.SYMTYPE, 0o777, mtime=int(time.time()), target=source.target)
        elif source is None:
            yield _header(entry.name, tarfile.DIRTYPE, 0o700 if entry.mode is None else entry.mode)
        else:
            mode = 0o600 if entry.mode is None else entry.mode
            yield _header(entry.name, tarfile.REGTYPE, mode, size=len(source), mtime=int(time.time()))
            yield source + _padding(len(source))
    yield bytes(2 * _BLOCK)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tell of a local file that can't be read.

    Raises
    ------
    DataStagingError
        In the place of any error of the system.
    """
    try:
        yield
    except OSError as error:
        raise DataStagingError(f"cannot read the input {path}: {error.strerror}") from error


def _pack_file(name: str, path: Path, mode: int | None) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = os.fstat(descriptor)
        bits = stat.S_IMODE(info.st_mode) if mode is None else mode
        head = _header(name, tarfile.REGTYPE, bits, size=info.st_size, mtime=int(info.st_mtime))
        left = info.st_size
        while left:
            data = os.read(descriptor, min(_CHUNK, left))
            if not data:
                raise DataStagingError(f"the input {path} became shorter while it was read")
            left -= len(data)
            if not left:
                data += _padding(info.st_size)
            # one chunk for most files: passing it on costs as much as making it
            yield head + data if head else data
            head = b""
        if head:
            yield head
    finally:
        os.close(descriptor)


def _pack_known(name: str, known: Known, mode: int | None) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with known.path.open("rb") as file:
        left = known.size
        if os.fstat(file.fileno()).st_size == left:
            yield _header(name, tarfile.REGTYPE, 0o600 if mode is None else mode, size=left, mtime=known.mtime)
            while data := file.read(min(_CHUNK, left)):
                left -= len(data)
                digest.update(data)
                yield data
    if left or digest.hexdigest() != known.sha256:
        raise DataStagingError(
            f"the input {known.path} changed while it was being sent; submit again when nothing writes to it"
        )
    yield _padding(known.size)


def _header(name: str, kind: bytes, mode: int, *, size: int = 0, mtime: int = 0, target: str = "") -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    if kind == tarfile.REGTYPE and len(raw) < 100 and 0 <= size < 8**11 and 0 <= mtime < 8**11:
        # what the library makes of it, in a third of the time
        front = b"%b%07o\0%b%011o\0%011o\0" % (raw.ljust(100, b"\0"), mode, _NOBODY, size, mtime)
        return b"%b%06o\0 %b" % (front, sum(front) + _REST_SUM, _REST)
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime, info.linkname = kind, mode, size, mtime, target
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def unpack(
    chunks: Iterable[bytes],
    place: Callable[[str], Path | None],
    *,
    wanted: Callable[[Path, int, float], bool] = lambda path, size, mtime: True,
    behind: bytearray | None = None,
) -> list[str]:
    """Read a tar archive and write its files.

    Parameters
    ----------
    chunks : iterable of bytes
        The archive.
    place : callable
        Gives the local path for a member's name, or None to leave the member out.
    wanted : callable
        Told (local path, size in bytes, modification time) of a file that exists already, says whether
        to replace it.
    behind : bytearray, optional
        Gets what comes after the archive, but for its padding.

    Returns
    -------
    list of str
        Names of all members that were there, left out or not.

    Raises
    ------
    DataStagingError
        The archive is damaged, or names something outside of where it belongs; or a file can't be written.
    """
    names: list[str] = []
    files: dict[str, Path] = {}
    ways: set[tuple[str, Path]] = set()
    reader = _Reader(chunks)
    try:
        with tarfile.open(
            fileobj=cast(BinaryIO, reader), mode="r|", errorlevel=2, encoding="utf-8", tarinfo=_Member
        ) as archive:
            for member in archive:
                if member.size < 0:
                    raise tarfile.ReadError(f"{member.name!r} has a size below zero")
                name = safe_name(member.name)
                names.append(name)
                path = place(name)
                if path is not None:
                    try:
                        _extract(archive, member, name, path, wanted, files, ways)
                    except OSError as error:
                        raise DataStagingError(f"cannot write {path}: {error.strerror}") from error
    except tarfile.TarError as error:
        raise DataStagingError(f"what came is not a sound archive: {error}") from error
    if behind is not None:
        behind += reader.rest()
    return names


class _Member(tarfile.TarInfo):
    """A member of an archive that has to come to a proper end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        """Read a header; that of a plain file in GNU format, as most are, in a fraction of the library's time."""
        if len(buf) == _BLOCK and buf[156:157] == tarfile.REGTYPE and buf[257:265] == tarfile.GNU_MAGIC:
            numbers = buf[100:107], buf[124:135], buf[136:147], buf[148:154]
            ends = buf[107:108] + buf[135:136] + buf[147:148] + buf[154:156]
            if not b"".join(numbers).strip(b"01234567") and not ends.strip(b"\0 "):
                mode, size, mtime, checksum = (int(number, 8) for number in numbers)
                if sum(buf) - sum(buf[148:156]) + 8 * ord(" ") == checksum:
                    member = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
                    member.mode, member.size, member.mtime, member.chksum = mode, size, mtime, checksum
                    return member
        return super().frombuf(buf, encoding, errors)

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        """Read the next header; the library itself takes a damaged one for the end."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _extract(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    name: str,
    path: Path,
    wanted: Callable[[Path, int, float], bool],
    files: dict[str, Path],
    ways: set[tuple[str, Path]],
) -> None:
    """Write one member; `files` are the regular ones that came before it, `ways` the directories known to be right."""
    way = (name.rpartition("/")[0], path.parent)
    if way not in ways or not member.isreg():
        below = make_way(name, path, directory=member.isdir())
        ways.add(way)
    if member.isdir():
        return
    if member.issym():
        if below and _stays_inside(
            os.path.abspath(path), member.linkname, root=os.path.abspath(path.parents[below - 1])
        ):
            path.unlink(missing_ok=True)
            path.symlink_to(member.linkname)
        return
    mtime = believable(member.mtime)
    if member.islnk():
        twin = files.get(safe_name(member.linkname))
        if twin is None:
            raise DataStagingError(f"{name!r} came as a link to {member.linkname!r}, which did not come")
        size = twin.stat().st_size
        content = _content(twin)
    elif member.isreg():
        size = member.size
        content = _member_content(archive, member)
    else:
        return
    if not os.path.exists(path) or wanted(path, size, mtime):
        write_atomically(path, content, mode=member.mode & 0o777, mtime=mtime)
    files[name] = path


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_CHUNK), b"")


def _member_content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    if member.issparse():
        with cast(IO[bytes], archive.extractfile(member)) as file:
            yield from iter(lambda: file.read(_CHUNK), b"")
        return
    # the library's file objects cost more than most files
    left = member.size
    while left:
        data = cast(IO[bytes], archive.fileobj).read(min(left, _CHUNK))
        if not data:
            raise tarfile.ReadError("unexpected end of data")
        left -= len(data)
        yield data


def believable(mtime: float) -> float:
    """Give a modification time that a file system can store."""
    return mtime if 0 <= mtime < _LATEST else 0


def make_way(name: str, path: Path, *, directory: bool = False) -> int:
    """Make the directories in which something is going to be written.

    Parameters
    ----------
    name : str
        The name that the other side gave it.
    path : Path
        Where it goes.
    directory : bool
        Whether it is a directory itself, to be made as well.

    Returns
    -------
    int
        How many of the last parts of `path` are the other side's word.

    Raises
    ------
    DataStagingError
        Among the directories that the other side named is a symbolic link, or something is in the way.
    """
    below = _named_by(name, path)
    for parent in path.parents[: max(0, below - 1)]:
        if parent.is_symlink():
            raise DataStagingError(f"{parent} is a symbolic link; nothing is written through it")
    _make_directory(path if directory else path.parent)
    return below


def _named_by(name: str, path: Path) -> int:
    """Count the last parts of a local path that are the archive's word: those it shares with the member's name.

    The first part of the name is that of the tree itself, for which we chose the place.
    """
    count = 0
    for theirs, ours in zip(reversed(PurePosixPath(name).parts[1:]), reversed(path.parts), strict=False):
        if theirs != ours:
            break
        count += 1
    return count


def write_atomically(path: Path, chunks: Iterable[bytes], *, mode: int, mtime: float | None = None) -> None:
    """Write a file under a temporary name and rename it when it is complete.

    Parameters
    ----------
    path : Path
        The file; a symbolic link at this place is replaced, not followed.
    chunks : iterable of bytes
        Its content.
    mode : int
        Its permission bits.
    mtime : float, optional
        Its modification time, in seconds since the epoch.
    """
    # the names that the library makes are as good, and take longer than the rest
    temporary = f"{path.parent}/.batchlib-{os.getpid()}-{next(_numbers)}.part"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            for chunk in chunks:
                data = memoryview(chunk)
                while data:
                    data = data[os.write(descriptor, data) :]
            os.fchmod(descriptor, mode)
            if mtime is not None:
                os.utime(descriptor, (mtime, mtime))
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise DataStagingError(f"{path} is in the way: a directory of that name has to be made") from error


def safe_name(name: str) -> str:
    """Give the normal form of a name that the other side gave, refusing what would escape."""
    parts = name.split("/")
    if not parts[0] or ".." in parts or "\0" in name:
        raise DataStagingError(f"the archive names {name!r}, which lies outside of where it belongs; refused")
    return "/".join(part for part in parts if part not in ("", ".")) or "."


def _stays_inside(name: str, target: str, *, root: str) -> bool:
    """Tell whether a symbolic link called `name` with this target leads to somewhere below `root`."""
    if target.startswith("/"):
        return False
    where = os.path.normpath(os.path.join(os.path.dirname(name), target))
    return where == root or where.startswith(root + "/")


class _Reader:
    """A file object over an iterable of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        data = self._chunk[self._at : self._at + size]
        self._at += len(data)
        if len(data) == size:
            return data
        parts = [data]
        missing = size - len(data)
        while missing:
            self._chunk = next(self._chunks, b"")
            self._at = min(missing, len(self._chunk))
            if not self._chunk:
                break
            parts.append(self._chunk[: self._at])
            missing -= self._at
        return b"".join(parts)

    def rest(self) -> bytes:
        """Give what is left, without zeros in front."""
        found = bytearray()
        for chunk in itertools.chain([self._chunk[self._at :]], self._chunks):
            found += chunk if found else chunk.lstrip(b"\0")
            if len(found) > _LONGEST_REST:
                raise DataStagingError("what came behind the archive has no end")
        return bytes(found)
