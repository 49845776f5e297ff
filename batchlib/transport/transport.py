"""A machine and its files, over nothing but a POSIX shell, ``tar`` and the usual file tools."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import attrs

from ..errors import RemoteFileError
from . import big_files, trees
from .posix import CLEAN, enter, quote, remote_file_error
from .programs import Programs
from .shell import Completed

_CHUNK = 1 << 20
#: Bytes of file names that fit on one command line together with the environment.
_ARGUMENTS = 1_000_000


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
        program = f"{enter(path)}find . ! -name . -prune -exec stat -c '/%f %s %Y %n' {{}} +"
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
        self._check(self.send(CLEAN + program, chunks), f"write {path}")

    @contextlib.contextmanager
    def open(self, path: str, mode: str = "rb") -> Iterator[IO[bytes]]:
        """Open a remote file for reading (``rb``) or writing (``wb``) as a whole."""
        if mode == "rb":
            with (
                self.receive(f"{CLEAN}cat < {quote(path)}") as incoming,
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
        self,
        local: str | os.PathLike[str],
        remote: str,
        *,
        overwrite: bool = False,
        changed_only: bool = True,
        verify: bool = False,
    ) -> None:
        """Send a file or a directory; what is interrupted and asked for again sends only the rest of a big file.

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
        verify : bool
            Compare big files by their SHA-256 when they have been sent. What was there from an interrupted attempt
            is compared in any case.
        """
        trees.put(self, Path(local), remote, overwrite=overwrite, changed_only=changed_only, verify=verify)

    def get(
        self,
        remote: str,
        local: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        changed_only: bool = True,
        verify: bool = False,
    ) -> None:
        """Fetch a file or a directory; what is interrupted and asked for again fetches only the rest of a big file.

        Parameters
        ----------
        remote : str
            What to fetch.
        local : path
            Where to; directories above are made as needed.
        overwrite, changed_only, verify : bool
            As for `put`.
        """
        trees.get(self, remote, Path(local), overwrite=overwrite, changed_only=changed_only, verify=verify)

    def put_file(
        self,
        local: str | os.PathLike[str],
        remote: str,
        *,
        mode: int | None = None,
        verify: bool = False,
        advanced: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Send one file of any size in slices, whatever is there already, and resume where that was interrupted.

        Parameters
        ----------
        local : path
            The file.
        remote : str
            Where to; directories above are made as needed.
        mode : int, optional
            Permission bits; default is those of the local file.
        verify : bool
            Compare the content by its SHA-256 when it has been sent.
        advanced : callable
            Told how many more bytes are there.
        """
        big_files.send(self, [big_files.outgoing(Path(local), remote, mode)], advanced, verify=verify)

    def _files(self, program: str, what: str) -> Completed:
        return self._check(self.run(CLEAN + program), what)

    def _check(self, answer: Completed, what: str) -> Completed:
        if answer.exitcode:
            raise remote_file_error(f"cannot {what} on {self.name}", answer)
        return answer
