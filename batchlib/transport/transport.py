"""A machine and its files, over nothing but a POSIX shell, ``tar`` and the usual file tools."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import attrs

from .. import events
from ..errors import RemoteFileError
from .archive import entries_of, pack, unpack
from .programs import Programs
from .shell import Completed

_CHUNK = 1 << 20
#: Bytes of file names that fit on one command line together with the environment.
_ARGUMENTS = 1_000_000
#: What the system's messages mean, under ``LC_ALL=C``.
_ERRNO = {
    "No such file": errno.ENOENT,
    "Directory nonexistent": errno.ENOENT,
    "Permission denied": errno.EACCES,
    "Operation not permitted": errno.EPERM,
    "Not a directory": errno.ENOTDIR,
    "Is a directory": errno.EISDIR,
    "Directory not empty": errno.ENOTEMPTY,
    "File exists": errno.EEXIST,
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
}


@attrs.frozen
class FileStat:
    """What is known of a file.

    Parameters
    ----------
    mode : int
        Type and permission bits.
    size : int
        Bytes.
    mtime : int
        Modification time, in seconds since the epoch.
    """

    mode: int
    size: int
    mtime: int

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def quote(path: str) -> str:
    """Quote a path for a POSIX shell, so that no tool takes it for an option."""
    return shlex.quote("./" + path if path.startswith("-") else path)


def _enter(path: str) -> str:
    """Make the shell text that enters a directory, or says why that is not possible: not every ``cd`` does."""
    return f"cd {quote(path)} 2>/dev/null || {{ ls -d {quote(path)}/. >/dev/null; exit 1; }}; "


class Transport(Programs):
    """Run programs on a machine and handle its files.

    Parameters are those of `Programs`. Relative paths start at the user's home directory (``/`` on this
    machine, as nothing but a login has a natural place to start from).
    """

    def exists(self, path: str) -> bool:
        """Tell whether there is anything at `path`, a dangling link included."""
        return self.run(f"[ -e {quote(path)} ] || [ -L {quote(path)} ]").exitcode == 0

    def isdir(self, path: str) -> bool:
        """Tell whether `path` is a directory or a link to one."""
        return self.run(f"[ -d {quote(path)} ]").exitcode == 0

    def stat(self, path: str) -> FileStat:
        """Look at `path` itself, not at what it links to."""
        answer = self._files(f"stat -c '%f %s %Y' -- {quote(path)}", f"look at {path}")
        mode, size, mtime = answer.out.split()
        return FileStat(int(mode, 16), int(size), int(mtime))

    def scandir(self, path: str) -> dict[str, FileStat]:
        """List a directory.

        Returns
        -------
        dict of str to FileStat
            For each name in it, whatever the name holds (newlines too), what it is.
        """
        # a record starts with "/" at the start of a line, which no name can imitate: names hold no "/"
        program = f"{_enter(path)}find . ! -name . -prune -exec stat -c '/%f %s %Y %n' {{}} +"
        found = {}
        for record in ("\n" + self._files(program, f"list {path}").out).split("\n/")[1:]:
            mode, size, mtime, name = record.removesuffix("\n").split(" ", 3)
            found[name[2:]] = FileStat(int(mode, 16), int(size), int(mtime))
        return found

    def listdir(self, path: str) -> list[str]:
        """List the names in a directory, sorted."""
        return sorted(self.scandir(path))

    def makedirs(self, path: str, mode: int = 0o755) -> None:
        """Make a directory and those above it; one that exists is left as it is."""
        self._files(f"[ -d {quote(path)} ] || mkdir -p -m {mode:o} -- {quote(path)}", f"make {path}")

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits of a file."""
        self._files(f"chmod {mode:o} -- {quote(path)}", f"change the mode of {path}")

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing what had the new name."""
        self._files(f"mv -f -- {quote(old)} {quote(new)}", f"rename {old}")

    def remove(self, path: str) -> None:
        """Remove a file or a link."""
        self._files(f"rm -- {quote(path)}", f"remove {path}")

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all that is in it; links are removed, never followed."""
        if not PurePosixPath(path).parts[1:]:
            raise RemoteFileError(f"refusing to remove {path!r} from {self.name}")
        self._files(f"rm -rf -- {quote(path)}", f"remove {path}")

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read a part of a file.

        Parameters
        ----------
        path : str
            The file.
        offset : int
            Byte to start at; a negative one counts from the end (of the whole file where it is shorter).
        size : int, optional
            Bytes to read at most; default is all.
        """
        start = f"-c {-offset}" if offset < 0 else f"-c +{offset + 1}"
        cut = f" | head -c {size}" if size is not None else ""
        # tail's own status is lost in the pipe: the redirection tells whether the file can be read
        return self._files(f"{{ tail {start}{cut}; }} < {quote(path)}", f"read {path}").stdout

    def write(self, path: str, data: bytes | Iterable[bytes], mode: int = 0o644) -> None:
        """Write a file under a temporary name, and give it its own when it is complete."""
        target = quote(path)
        program = (
            f"part={target}.part.$$; umask 077; "
            f'cat > "$part" && chmod {mode:o} "$part" && mv -f "$part" {target} || {{ rm -f "$part"; exit 1; }}'
        )
        chunks = [data] if isinstance(data, bytes) else data
        self._check(self.send(_CLEAN + program, chunks), f"write {path}")

    @contextlib.contextmanager
    def open(self, path: str, mode: str = "rb") -> Iterator[IO[bytes]]:
        """Open a remote file for reading (``rb``) or writing (``wb``) as a whole."""
        if mode == "rb":
            with (
                self.receive(f"{_CLEAN}cat < {quote(path)}") as incoming,
                tempfile.SpooledTemporaryFile(1 << 24) as file,
            ):
                for chunk in incoming:
                    file.write(chunk)
                self._check(incoming.result, f"read {path}")
                file.seek(0)
                yield file
        elif mode == "wb":
            with tempfile.SpooledTemporaryFile(1 << 24) as file:
                yield file
                file.seek(0)
                self.write(path, iter(lambda: file.read(_CHUNK), b""))
        else:
            raise ValueError(f"mode {mode!r} is neither 'rb' nor 'wb'")

    def put(
        self, local: str | os.PathLike[str], remote: str, *, overwrite: bool = False, changed_only: bool = True
    ) -> None:
        """Send a file or a directory.

        Parameters
        ----------
        local : path
            What to send.
        remote : str
            Where to; directories above are made as needed.
        overwrite : bool
            Replace files that are there already, whatever they hold.
        changed_only : bool
            Without `overwrite`: replace a file when its size or modification time differs; otherwise
            files that exist are left alone.
        """
        source = Path(local)
        keep = set() if overwrite else self._unchanged(source, remote, changed_only)
        parent, name = os.path.split(remote.rstrip("/"))
        entries = [entry for entry in entries_of(source, name) if os.path.relpath(entry.name, name) not in keep]
        total = sum(entry.source.stat().st_size for entry in entries if isinstance(entry.source, Path))
        chunks = events.counted(self, pack(entries), name=str(local), total=total)
        program = f"mkdir -p -- {quote(parent or '.')} && cd {quote(parent or '.')} && tar -xpf -"
        self._check(self.send(_CLEAN + program, chunks), f"send {local}")

    def get(
        self, remote: str, local: str | os.PathLike[str], *, overwrite: bool = False, changed_only: bool = True
    ) -> None:
        """Fetch a file or a directory.

        Parameters
        ----------
        remote : str
            What to fetch.
        local : path
            Where to; directories above are made as needed.
        overwrite, changed_only : bool
            As for `put`.
        """
        target = Path(local)
        parent, name = os.path.split(remote.rstrip("/"))

        def place(member: str) -> Path | None:
            inner = os.path.relpath(member, name)
            return None if inner.startswith("..") else target if inner == "." else target / inner

        def wanted(path: Path, size: int, mtime: float) -> bool:
            return overwrite or (changed_only and not _same(path, size, mtime))

        # what is named itself is followed when it is a link, as `put` does
        program = (
            f"{_enter(parent or '.')}follow=; [ ! -L {quote(name)} ] || follow=h; tar -c${{follow}}f - -- {quote(name)}"
        )
        with self.receive(_CLEAN + program) as incoming:
            try:
                unpack(events.counted(self, incoming, name=remote), place, wanted=wanted)
            finally:
                # why tar sent nothing is the better message; and it has to be let finish
                for _rest in incoming:
                    pass
                self._check(incoming.result, f"fetch {remote}")

    def _unchanged(self, source: Path, remote: str, changed_only: bool) -> set[str]:
        """Find what need not be sent, as paths relative to `source`."""
        program = (
            f"[ -e {quote(remote)} ] || exit 0; "
            f"cd {quote(remote)} 2>/dev/null || {{ stat -c '/%f %s %Y .' -- {quote(remote)}; exit; }}; "
            "find . -type f -exec stat -c '/%f %s %Y %n' {} +"
        )
        keep = set()
        # a name that holds a newline can make two records of one here: they match nothing, and are sent again
        for record in ("\n" + self._files(program, f"look at {remote}").out).split("\n/")[1:]:
            _mode, size, mtime, name = record.removesuffix("\n").split(" ", 3)
            path = source if name == "." else source / name
            if not changed_only or _same(path, int(size), int(mtime)):
                keep.add(os.path.normpath(name))
        return keep

    def _files(self, program: str, what: str) -> Completed:
        return self._check(self.run(_CLEAN + program), what)

    def _check(self, answer: Completed, what: str) -> Completed:
        if answer.exitcode:
            raise remote_file_error(f"cannot {what} on {self.name}", answer)
        return answer


#: Messages in English, whatever the user's language.
_CLEAN = "export LC_ALL=C\n"


def remote_file_error(what: str, answer: Completed) -> RemoteFileError:
    """Make an error of what a file tool said, with the system's error number where it can be told.

    Parameters
    ----------
    what : str
        Start of the message.
    answer : Completed
        The tool's answer.
    """
    said = answer.err.strip().splitlines()
    reason = said[-1] if said else f"exit code {answer.exitcode}"
    number = None
    for text, known in _ERRNO.items():
        if text in answer.err:
            reason, number = text, known
            break
    error = RemoteFileError(f"{what}: {reason}", exitcode=answer.exitcode, stderr=answer.err)
    error.errno = number
    return error


def _same(path: Path, size: int, mtime: float) -> bool:
    try:
        info = path.stat()
    except OSError:
        return False
    return info.st_size == size and int(info.st_mtime) == int(mtime)
