"""Big files in slices, over several channels of one connection, and resumed where they were interrupted.

A file is gathered in a *part* beside its target and renamed when it is complete. Where a part is found, its blocks
are compared with those of the source by their SHA-256, and only those that differ are sent: so it does not matter
when or how the transfer was interrupted, or what was sent then. A machine without ``sha256sum`` starts anew.

The far side takes or gives slices with ``dd``, told on its standard input where each begins and how long it is; so
channels need not agree on anything in advance, and none waits for another one.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from ..errors import ConnectionLost, DataStagingError, RemoteFileError, TransportError
from . import slices
from .archive import readable
from .posix import CLEAN, quote, remote_file_error
from .programs import Programs, together
from .shell import Completed, Stream
from .slices import Slice

_CHUNK = 3 * 32704
#: The latest time that ``touch -t`` can express, in seconds since the epoch.
_LATEST = 253402300799
#: Slices that are asked for ahead of the one that comes.
_AHEAD = 2
#: Exit code of our own programs where the machine has no ``sha256sum``.
_NO_SHA256 = 95

_COMPARE = """command -v sha256sum >/dev/null || exit {missing}
exec < {path}
i=0
while [ $i -lt {blocks} ]; do dd bs=65536 count=64 2>/dev/null | sha256sum || exit 1; i=$((i+1)); done
"""
_READY = """ready() {
  mkdir -p -- "$3" || return 1
  if [ -d "$2" ]; then echo "$2: Is a directory" >&2; return 1; fi
  if [ -f "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; then stat -c %s -- "$1"; return; fi
  rm -f -- "$1"
  ( umask 077; set -C; : > "$1" ) && echo 0
}
"""
# a part that was removed meanwhile must not come back
_TAKE = """if dd iflag=fullblock,count_bytes oflag=seek_bytes count=0 status=none </dev/null >/dev/null 2>&1; then
  take() {
    dd of="$1" seek="$2" count="$3" bs=262144 status=none \\
      iflag=fullblock,count_bytes oflag=seek_bytes conv=notrunc,nocreat
  }
else
  take() { [ -f "$1" ] && head -c "$3" | dd of="$1" seek="$(($2 / 65536))" bs=65536 conv=notrunc; }
fi
while IFS=' ' read -r number offset size; do
  [ "$number" != 0 ] || exit 0
  eval "file=\\${$number}"
  take "$file" "$offset" "$size" || exit 1
done
exit 1
"""
_GIVE = """if dd iflag=skip_bytes,count_bytes count=0 status=none </dev/null >/dev/null 2>&1; then
  give() { dd if="$1" skip="$2" count="$3" bs=262144 iflag=skip_bytes,count_bytes status=none; }
else
  give() { tail -c "+$(($2 + 1))" < "$1" | head -c "$3"; }
fi
while IFS=' ' read -r number offset size; do
  [ "$number" != 0 ] || exit 0
  eval "file=\\${$number}"
  give "$file" "$offset" "$size" || exit 1
  [ "$(stat -L -c %s -- "$file")" -ge "$((offset + size))" ] || { echo "it became shorter meanwhile" >&2; exit 1; }
done
exit 1
"""
_FINISH = """finish() {
  if [ "$(stat -c %s -- "$1")" != "$3" ]; then echo "not all of it arrived" >&2; return 1; fi
  chmod "$4" "$1" && TZ=UTC0 touch -t "$5" "$1" && mv -f "$1" "$2"
}
"""


@attrs.frozen
class BigFile:
    """A file to send or to fetch.

    Parameters
    ----------
    local : Path
        Its place here.
    remote : str
        Its place there.
    size : int
        Bytes.
    mode : int
        Permission bits that the copy gets.
    mtime : float
        Modification time of the source, in seconds since the epoch.
    identity : str
        What tells this content from another one that is to get the same name.
    """

    local: Path
    remote: str
    size: int
    mode: int
    mtime: float
    identity: str

    @property
    def remote_part(self) -> str:
        """Where it is gathered when it is sent."""
        directory, name = os.path.split(self.remote)
        return os.path.join(directory, _stem(name) + _key(self.identity) + ".part")

    @property
    def local_part(self) -> Path:
        """Where it is gathered when it is fetched."""
        return self.local.with_name(_stem(self.local.name) + _key(self.identity) + ".part")


def outgoing(local: Path, remote: str, mode: int | None = None) -> BigFile:
    """Describe a local file that is to be sent.

    Parameters
    ----------
    local : Path
        The file.
    remote : str
        Where it goes.
    mode : int, optional
        Permission bits; default is those of the local file.
    """
    with readable(local):
        info = local.stat()
    identity = f"{info.st_size} {info.st_mtime_ns} {local.absolute()}"
    return BigFile(
        local, remote, info.st_size, (info.st_mode if mode is None else mode) & 0o7777, info.st_mtime, identity
    )


def send(
    transport: Programs,
    files: Sequence[BigFile],
    advanced: Callable[[int], object],
    *,
    verify: bool = False,
    idle_timeout: float | None = None,
) -> None:
    """Send files; directories above are made as needed.

    Parameters
    ----------
    transport : Programs
        Where to.
    files : sequence of BigFile
        The files.
    advanced : callable
        Told how many more bytes are there.
    verify : bool
        Compare all content by its SHA-256 in the end.
    idle_timeout : float, optional
        Seconds without progress after which it is given up; default is the transport's.

    Raises
    ------
    RemoteFileError
        A file can't be written; what was there under its name stays.
    DataStagingError
        A file can't be read, or changed while it was read.
    """
    found = _prepare(transport, files)
    missing: list[Slice] = []
    for number, (file, size) in enumerate(zip(files, found, strict=True)):
        kept = _compare(transport, file.remote_part, file.local, min(size, file.size), idle_timeout) if size else None
        missing += slices.missing_parts(number, file.size, kept or [])
    total = sum(part.size for part in missing)
    advanced(sum(file.size for file in files) - total)
    channels = slices.upload_channels(transport.round_trip, total, transport.carrier.room)
    shared = _Shared(slices.plan(missing, channels))
    program = CLEAN + "set -- " + " ".join(quote(file.remote_part) for file in files) + "\n" + _TAKE

    def work(given_up: threading.Event) -> None:
        with transport.stream(program, bare=True, given_up=given_up, idle_timeout=idle_timeout) as stream:
            for _nothing in stream.exchange(_feed(shared, files, advanced)):
                pass
            _check(transport, stream.result(), "send", files)

    try:
        if total:
            together(work, channels)
        for file in files:
            _check_unchanged(file)
            if verify:
                _verify(transport, file.remote_part, file.local, file, idle_timeout)
        _finish(transport, files)
    except (RemoteFileError, DataStagingError):
        # after a loss of the connection it stays, for the next attempt
        with contextlib.suppress(TransportError):
            transport.run("rm -f -- " + " ".join(quote(file.remote_part) for file in files))
        raise


def receive(
    transport: Programs,
    files: Sequence[BigFile],
    advanced: Callable[[int], object],
    *,
    verify: bool = False,
    idle_timeout: float | None = None,
) -> None:
    """Fetch files; their directories have to be there.

    Parameters are those of `send`.

    Raises
    ------
    RemoteFileError
        A file can't be read, or became shorter while it was read.
    DataStagingError
        A file can't be written; what was there under its name stays.
    """
    missing: list[Slice] = []
    for number, file in enumerate(files):
        with _writing(file):
            there = _open_part(file)
        kept = _compare(transport, file.remote, file.local_part, min(there, file.size), idle_timeout) if there else None
        missing += slices.missing_parts(number, file.size, kept or [])
    total = sum(part.size for part in missing)
    advanced(sum(file.size for file in files) - total)
    channels, window = slices.download_channels(transport.round_trip, total, transport.carrier.room)
    shared = _Shared(slices.plan(missing, channels))
    program = CLEAN + "set -- " + " ".join(quote(file.remote) for file in files) + "\n" + _GIVE

    def work(given_up: threading.Event) -> None:
        with transport.stream(
            program, bare=True, window=window, given_up=given_up, idle_timeout=idle_timeout
        ) as stream:
            complete = _take(stream, shared, files, advanced)
            _check(transport, stream.result(), "fetch", files)
            if not complete:
                raise ConnectionLost(f"the connection to {transport.name} broke in a transfer")

    try:
        if total:
            together(work, channels)
        for file in files:
            if verify:
                _verify(transport, file.remote, file.local_part, file, idle_timeout)
            with _writing(file):
                _finish_part(file)
    except (RemoteFileError, DataStagingError):
        for file in files:
            file.local_part.unlink(missing_ok=True)
        raise


class _Shared:
    """Slices that several threads take from."""

    def __init__(self, found: Iterator[Slice]) -> None:
        self._found = found
        self._lock = threading.Lock()

    def take(self) -> Slice | None:
        """Give the next one, or None after the last one."""
        with self._lock:
            return next(self._found, None)


def _check(transport: Programs, answer: Completed, verb: str, files: Sequence[BigFile]) -> None:
    if answer.exitcode:
        names = files[0].remote if len(files) == 1 else f"{files[0].remote} and {len(files) - 1} more"
        raise remote_file_error(f"cannot {verb} {names} {'to' if verb == 'send' else 'from'} {transport.name}", answer)


# sending


def _prepare(transport: Programs, files: Sequence[BigFile]) -> list[int]:
    """Make the parts of files, and give the sizes of those that were there."""
    calls = [
        f"ready {quote(file.remote_part)} {quote(file.remote)} {quote(os.path.dirname(file.remote) or '.')} || exit 1\n"
        for file in files
    ]
    answer = transport.run(CLEAN + _READY + "".join(calls))
    _check(transport, answer, "send", files)
    return [int(line) for line in answer.out.split()]


def _feed(shared: _Shared, files: Sequence[BigFile], advanced: Callable[[int], object]) -> Iterator[bytes]:
    """Yield slices, each after a line that says what it is."""
    while part := shared.take():
        file = files[part.file]
        yield b"%d %d %d\n" % (part.file + 1, part.offset, part.size)
        with readable(file.local):
            source = file.local.open("rb", buffering=0)
        with source:
            at = part.offset
            while at < part.end:
                with readable(file.local):
                    data = os.pread(source.fileno(), min(_CHUNK, part.end - at), at)
                if not data:
                    raise DataStagingError(f"the input {file.local} became shorter while it was read")
                yield data
                at += len(data)
                advanced(len(data))
    yield b"0\n"


def _check_unchanged(file: BigFile) -> None:
    if outgoing(file.local, file.remote, file.mode) != file:
        raise DataStagingError(f"the input {file.local} changed while it was sent")


def _finish(transport: Programs, files: Sequence[BigFile]) -> None:
    """Give files their modes, times and names."""
    program = CLEAN + _FINISH
    for file in files:
        directory, name = os.path.split(file.remote)
        stamp = time.strftime("%Y%m%d%H%M.%S", time.gmtime(min(max(int(file.mtime), 0), _LATEST)))
        program += (
            f"finish {quote(file.remote_part)} {quote(file.remote)} {file.size} {file.mode:o} {stamp} || exit 1\n"
            # those of other contents, which nobody will ask for any more
            f"rm -f -- {quote(os.path.join(directory, _stem(name)))}{'[0-9a-f]' * 12}.part\n"
        )
    _check(transport, transport.run(program), "send", files)


# fetching


def _take(stream: Stream, shared: _Shared, files: Sequence[BigFile], advanced: Callable[[int], object]) -> bool:
    """Ask for slices and write them; tell whether all that was asked for came."""
    asked: collections.deque[Slice] = collections.deque()

    def ask() -> None:
        part = shared.take()
        request = b"0\n"
        if part is not None:
            asked.append(part)
            request = b"%d %d %d\n" % (part.file + 1, part.offset, part.size)
        # a program that has ended will be asked why
        with contextlib.suppress(ConnectionLost):
            stream.write(request)

    for _ in range(_AHEAD):
        ask()
    incoming = stream.output()
    data = memoryview(b"")
    while asked:
        part = asked[0]
        file = files[part.file]
        with _writing(file):
            target = file.local_part.open("r+b", buffering=0)
        with target:
            at = part.offset
            while at < part.end:
                data = data or memoryview(next(incoming, b""))
                if not data:
                    return False
                piece = data[: part.end - at]
                with _writing(file):
                    at += _write(target.fileno(), piece, at)
                advanced(len(piece))
                data = data[len(piece) :]
        asked.popleft()
        ask()
    for _nothing in incoming:
        pass
    return True


def _write(descriptor: int, data: memoryview, offset: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
    return done


def _open_part(file: BigFile) -> int:
    """Make the part of a file if it is not there, and give its size."""
    part = file.local_part
    with contextlib.suppress(FileNotFoundError):
        info = part.lstat()
        if part.is_symlink() or not part.is_file() or info.st_uid != os.geteuid():
            part.unlink()
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _finish_part(file: BigFile) -> None:
    """Give a file its mode, time and name."""
    part = file.local_part
    if part.stat().st_size != file.size:
        raise DataStagingError(f"not all of {file.remote} arrived")
    part.chmod(file.mode)
    os.utime(part, (file.mtime, file.mtime))
    part.replace(file.local)
    others = re.compile(re.escape(_stem(file.local.name)) + r"[0-9a-f]{12}\.part")
    for found in os.scandir(part.parent):
        if others.fullmatch(found.name):
            os.unlink(found.path)


@contextlib.contextmanager
def _writing(file: BigFile) -> Iterator[None]:
    """Turn an error of the local file system into one that names the file."""
    try:
        yield
    except OSError as error:
        raise DataStagingError(f"cannot write {file.local}: {error.strerror}") from error


# comparing


def _compare(transport: Programs, remote: str, local: Path, size: int, idle_timeout: float | None) -> list[bool] | None:
    """Compare the first `size` bytes of two files block by block; None where the machine has no ``sha256sum``."""
    program = CLEAN + _COMPARE.format(missing=_NO_SHA256, path=quote(remote), blocks=slices.blocks(size))
    same: list[bool] = []
    with transport.receive(program, idle_timeout=idle_timeout) as incoming:
        for number, line in enumerate(_lines(incoming)):
            same.append(line[:64] == _digest(local, number).encode())
        answer = incoming.result
    if answer.exitcode == _NO_SHA256:
        return None
    if answer.exitcode:
        raise remote_file_error(f"cannot read {remote} on {transport.name}", answer)
    return same


def _verify(transport: Programs, remote: str, local: Path, file: BigFile, idle_timeout: float | None) -> None:
    same = _compare(transport, remote, local, file.size, idle_timeout)
    if same is None:
        raise DataStagingError(f"the content of {file.remote} can't be verified: {transport.name} has no sha256sum")
    if len(same) != slices.blocks(file.size) or not all(same):
        raise DataStagingError(f"{file.remote} and {file.local} differ after the transfer; the copy was removed")


def _digest(path: Path, block: int) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.sha256(os.pread(file.fileno(), slices.BLOCK, block * slices.BLOCK)).hexdigest()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        yield from complete


# names of parts


def _stem(name: str) -> str:
    """Give what the names of all parts of a file begin with; a name has 255 bytes at most."""
    raw = os.fsencode(name)
    if len(raw) > 200:
        raw = raw[:180] + b"-" + _key(name).encode()
    return os.fsdecode(b"." + raw + b".")


def _key(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]
