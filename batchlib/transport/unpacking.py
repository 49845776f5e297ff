"""Tar streams, read without ever holding more than one block of them, and distrusted.

Nothing is written outside the destination, no link is followed, no device made.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from ..errors import DataStagingError
from .archive import stays_inside

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
#: Tell the temporary files of a process from each other, and from those of processes before it.
_numbers = itertools.count(secrets.randbits(48))
#: Bytes that may come behind an archive.
_LONGEST_REST = 1 << 28
#: The latest modification time, in seconds since the epoch, that is believed.
_LATEST = 1 << 40


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
            if ends == b"\0\0\0\0 " and not b"".join(numbers).strip(b"01234567"):
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
        if below and stays_inside(
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
