"""Files and directories there and back: small files in one tar stream, big ones in slices.

On the way back the far side leaves big files out of the archive and names them behind it; so there is no more to
wait for where there are none. It looks at each file once, so that one that grows meanwhile is not left out twice.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs

from .. import events
from ..errors import DataStagingError
from . import big_files, slices
from .archive import Entry, entries_of, pack
from .big_files import BigFile
from .posix import CLEAN, enter, quote, remote_file_error
from .programs import Programs, together
from .shell import Completed
from .unpacking import believable, make_way, safe_name, unpack

#: Says whether to replace a local file: told (local path, size in bytes, modification time) of the remote one.
Wanted = Callable[[Path, int, float], bool]

# The names of small files go from find to tar, those of big ones into the list. A name with a newline would be
# two lines of the list: tar takes it, whatever its size.
_PACK = """look= how=c
{follow}
export look
if tar --null --no-recursion -T /dev/null -cf /dev/null 2>/dev/null; then
  exec 3>&1
  list=$({{ {{
    find $look "$@" \\( -type f -size +{blocks} ! -path '*
*' -exec sh -c 'stat $look -c "/%f %s %Y %n" -- "$@" >&4' sh {{}} + \\) -o -print0
    echo "/$?" >&4
  }} | tar -${{how}}f - --null --no-recursion -T - >&3; }} 4>&1)
  code=$?
else
  tar -${{how}}f - -- "$@"
  code=$? list=/0
fi
printf '%s\\n' "$list"
[ "$code" != 0 ] || code=${{list##*/}}
exit "$code"
"""


def packing(names: Iterable[str], *, follow: bool = False) -> str:
    """Make the shell text that sends files and directories, for `fetch` to read.

    Parameters
    ----------
    names : iterable of str
        Paths relative to the directory that the program is in.
    follow : bool
        Follow the only one of them when it is a symbolic link.
    """
    words = [quote(f"./{name}" if name and not name.startswith("/") else name) for name in names]
    followed = f"[ ! -L {words[0]} ] || look=-L how=ch" if follow else ""
    return f"set -- {' '.join(words)}\n" + _PACK.format(follow=followed, blocks=slices.BIG // 512)


def fetch(
    transport: Programs,
    directory: str,
    program: str,
    place: Callable[[str], Path | None],
    check: Callable[[Completed], object],
    *,
    wanted: Wanted,
    name: str,
    verify: bool = False,
    idle_timeout: float | None = None,
) -> None:
    """Read what `packing` sends, and fetch the big files that it names.

    Parameters
    ----------
    transport : Programs
        Where from.
    directory : str
        The directory there that names are relative to.
    program : str
        Shell text that enters the directory and does what `packing` says.
    place : callable
        Gives the local path for a name, or None to leave it out; asked once for each.
    check : callable
        Raises what is to be raised for the program's answer.
    wanted : callable
        Decides about local files that exist.
    name : str
        What is fetched, for those who follow the progress.
    verify : bool
        Compare big files by their SHA-256.
    idle_timeout : float, optional
        Seconds without progress after which it is given up.
    """
    progress = events.Progress(transport, name)
    listing = bytearray()
    with transport.receive(program, idle_timeout=idle_timeout) as incoming:
        try:
            unpack(progress.counted(incoming), place, wanted=wanted, behind=listing)
        finally:
            # why tar sent nothing is the better message; and it has to be let finish
            for _rest in incoming:
                pass
            check(incoming.result)
    big = []
    for file in parse_listing(bytes(listing)):
        inner = safe_name(file.name)
        path = place(inner)
        if path is None:
            continue
        make_way(inner, path)
        if not os.path.lexists(path) or wanted(path, file.size, file.mtime):
            remote = os.path.join(directory, inner)
            identity = f"{file.size} {file.mtime} {transport.name} {remote}"
            big.append(BigFile(path, remote, file.size, file.mode, believable(file.mtime), identity))
    if big:
        big_files.receive(transport, big, progress.advance, verify=verify, idle_timeout=idle_timeout)
    progress.end()


@attrs.frozen
class Listed:
    """A big file as the far side names it.

    Parameters
    ----------
    name : str
        Its path.
    mode, size, mtime : int
        Permission bits, bytes, and modification time in seconds since the epoch.
    """

    name: str
    mode: int
    size: int
    mtime: int


def parse_listing(data: bytes) -> list[Listed]:
    """Read what stands behind an archive.

    Raises
    ------
    DataStagingError
        It is damaged or not complete.
    """
    *lines, status, end = data.lstrip(b"\0").decode("utf-8", "surrogateescape").split("\n") if data else ("", "")
    if end or not status.startswith("/") or not status[1:].isdecimal():
        raise DataStagingError("what came is not complete: the list of big files has no end")
    found = []
    for line in lines:
        fields = line.removeprefix("/").split(" ", 3)
        try:
            mode, size, mtime = int(fields[0], 16), int(fields[1]), int(fields[2])
            name = fields[3]
        except (ValueError, IndexError):
            raise DataStagingError(f"what came is not a sound list of big files: {line[:80]!r}") from None
        if not stat.S_ISREG(mode) or not 0 <= size < 1 << 63:
            raise DataStagingError(f"a file can't have the size and type that are said of {name!r}")
        found.append(Listed(name, mode & 0o777, size, mtime))
    return found


def put(transport: Programs, source: Path, remote: str, *, overwrite: bool, changed_only: bool, verify: bool) -> None:
    """Do what `Transport.put` says."""
    keep = set() if overwrite else _unchanged(transport, source, remote, changed_only)
    parent, name = os.path.split(remote.rstrip("/"))
    small: list[Entry] = []
    big: list[BigFile] = []
    total = small_size = 0
    for entry in entries_of(source, name):
        if (entry.name[len(name) + 1 :] or ".") in keep:
            continue
        if isinstance(entry.source, Path):
            size = os.stat(entry.source).st_size
            total += size
            if size > slices.BIG:
                big.append(big_files.outgoing(entry.source, os.path.join(parent, entry.name), entry.mode))
                continue
            small_size += size
        small.append(entry)
    progress = events.Progress(transport, str(source), total)
    if small:
        program = f"mkdir -p -- {quote(parent or '.')} && cd {quote(parent or '.')} && tar -xpf -"
        shares = _shares(small, slices.upload_channels(transport.round_trip, small_size, transport.carrier.room))

        def work(given_up: threading.Event) -> None:
            answer = transport.send(CLEAN + program, progress.counted(pack(shares.pop())), given_up=given_up)
            if answer.exitcode:
                raise remote_file_error(f"cannot send {source} to {transport.name}", answer)

        together(work, len(shares))
    if big:
        big_files.send(transport, big, progress.advance, verify=verify)
    progress.end()


def _shares(entries: Sequence[Entry], count: int) -> list[list[Entry]]:
    """Divide what goes into an archive among several; each has all directories, whichever comes first."""
    directories = [entry for entry in entries if entry.source is None]
    others = [entry for entry in entries if entry.source is not None]
    return [directories + others[first::count] for first in range(count)]


def get(transport: Programs, remote: str, target: Path, *, overwrite: bool, changed_only: bool, verify: bool) -> None:
    """Do what `Transport.get` says."""
    parent, name = os.path.split(remote.rstrip("/"))

    def place(member: str) -> Path | None:
        if member == name:
            return target
        return target / member[len(name) + 1 :] if member.startswith(f"{name}/") else None

    def wanted(path: Path, size: int, mtime: float) -> bool:
        return overwrite or (changed_only and not same(path, size, mtime))

    def check(answer: Completed) -> None:
        if answer.exitcode:
            raise remote_file_error(f"cannot fetch {remote} from {transport.name}", answer)

    # what is named itself is followed when it is a link, as `put` does
    program = CLEAN + enter(parent or ".") + "\n" + packing([name], follow=True)
    fetch(transport, parent, program, place, check, wanted=wanted, name=remote, verify=verify)


def _unchanged(transport: Programs, source: Path, remote: str, changed_only: bool) -> set[str]:
    """Find what need not be sent, as paths relative to `source`."""
    program = (
        f"[ -e {quote(remote)} ] || exit 0; "
        f"cd {quote(remote)} 2>/dev/null || {{ stat -c '/%f %s %Y .' -- {quote(remote)}; exit; }}; "
        "find . -type f -exec stat -c '/%f %s %Y %n' {} +"
    )
    answer = transport.run(CLEAN + program)
    if answer.exitcode:
        raise remote_file_error(f"cannot look at {remote} on {transport.name}", answer)
    keep = set()
    # a name that holds a newline can make two records of one here: they match nothing, and are sent again
    for record in ("\n" + answer.out).split("\n/")[1:]:
        _mode, size, mtime, name = record.removesuffix("\n").split(" ", 3)
        path = source if name == "." else source / name
        if not changed_only or same(path, int(size), int(mtime)):
            keep.add(os.path.normpath(name))
    return keep


def same(path: Path, size: int, mtime: float) -> bool:
    """Tell whether a local file has this size and, in whole seconds, this modification time."""
    try:
        info = path.stat()
    except OSError:
        return False
    return info.st_size == size and int(info.st_mtime) == int(mtime)
