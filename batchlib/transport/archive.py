"""Tar streams, written and read without ever holding more than one block of them.

Reading distrusts the stream: nothing is written outside the destination, no link is followed, no device made.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import attrs

from ..errors import DataStagingError

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
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
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        bits = stat.S_IMODE(info.st_mode) if mode is None else mode
        yield _header(name, tarfile.REGTYPE, bits, size=info.st_size, mtime=int(info.st_mtime))
        left = info.st_size
        while left:
            data = file.read(min(_CHUNK, left))
            if not data:
                raise DataStagingError(f"the input {path} became shorter while it was read")
            left -= len(data)
            yield data
    yield _padding(info.st_size)


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
    reader = cast(BinaryIO, _Reader(chunks))
    try:
        with tarfile.open(fileobj=reader, mode="r|", errorlevel=2, encoding="utf-8", tarinfo=_Member) as archive:
            for member in archive:
                name = _safe(member.name)
                names.append(name)
                path = place(name)
                if path is not None:
                    try:
                        _extract(archive, member, path, wanted, files)
                    except OSError as error:
                        raise DataStagingError(f"cannot write {path}: {error.strerror}") from error
    except tarfile.TarError as error:
        raise DataStagingError(f"what came is not a sound archive: {error}") from error
    return names


class _Member(tarfile.TarInfo):
    """A member of an archive that has to come to a proper end."""

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
    path: Path,
    wanted: Callable[[Path, int, float], bool],
    files: dict[str, Path],
) -> None:
    """Write one member; `files` are the regular ones that came before it."""
    name = _safe(member.name)
    below = _named_by(name, path)
    for directory in path.parents[: max(0, below - 1)]:
        if directory.is_symlink():
            raise DataStagingError(f"{directory} is a symbolic link; nothing is written through it")
    if member.isdir():
        _make_directory(path)
        return
    _make_directory(path.parent)
    if member.issym():
        if below and _stays_inside(
            os.path.abspath(path), member.linkname, root=os.path.abspath(path.parents[below - 1])
        ):
            path.unlink(missing_ok=True)
            path.symlink_to(member.linkname)
        return
    mtime = member.mtime if 0 <= member.mtime < _LATEST else 0
    if member.islnk():
        twin = files.get(_safe(member.linkname))
        if twin is None:
            raise DataStagingError(f"{name!r} came as a link to {member.linkname!r}, which did not come")
        size = twin.stat().st_size
        content: IO[bytes] = twin.open("rb")
    elif member.isreg():
        size, content = member.size, cast(IO[bytes], archive.extractfile(member))
    else:
        return
    with content:
        if not path.exists() or wanted(path, size, mtime):
            write_atomically(path, iter(lambda: content.read(_CHUNK), b""), mode=member.mode & 0o777, mtime=mtime)
    files[name] = path


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
    descriptor, temporary = tempfile.mkstemp(prefix=".batchlib-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            os.fchmod(file.fileno(), mode)
        if mtime is not None:
            os.utime(temporary, (mtime, mtime))
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


def _safe(name: str) -> str:
    """Give the normal form of a member's name, refusing what would escape."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataStagingError(f"the archive names {name!r}, which lies outside of where it belongs; refused")
    return str(path)


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
        self._buffer = b""

    def read(self, size: int) -> bytes:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        self._buffer = data[size:]
        return data[:size]
