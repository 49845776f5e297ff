"""Tar streams, written without ever holding more than one block of them; see `unpacking` for how they are read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from ..errors import DataStagingError

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
#: User and group of a header, and what follows its checksum, which counts itself as blanks.
_NOBODY = b"0000000\0" * 2
_REST = b"0" + bytes(100) + b"ustar  \0" + bytes(247)
_REST_SUM = sum(_REST) + 8 * ord(" ")


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
            if not stays_inside(inner, target, root=root):
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


def stays_inside(name: str, target: str, *, root: str) -> bool:
    """Tell whether a symbolic link called `name` with this target leads to somewhere below `root`."""
    if target.startswith("/"):
        return False
    where = os.path.normpath(os.path.join(os.path.dirname(name), target))
    return where == root or where.startswith(root + "/")
