"""Inputs that travel once: which ones they are, and what becomes of them on their way into the sandboxes.

A file that several jobs of a batch share, and any large file, is named by the digest of its content. The frontend is
asked, once for a batch, which of these it has; the others travel in front of the sandboxes, each once, and stay in
the spool directory for later batches. Jobs get links to them: see `cache_text` for what that is like over there.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .. import events, sandbox
from ..application import Application
from ..errors import DataStagingError
from ..sandbox import Role
from ..transport.archive import Entry, HardLink, Known, entries_of, readable
from . import cache_text
from .cache_text import Wanted
from .programs import quote

if TYPE_CHECKING:
    from .batch import BatchSystem

#: Bytes from which on a file is kept when several jobs of a batch need it, and from which on it always is.
SHARED = 64 << 10
ALWAYS = 1 << 20

_CHUNK = 1 << 20
#: The latest modification time, in seconds since the epoch, that every tool can write.
_LATEST = 1 << 32
#: Nanoseconds that a file must have been left alone, for its times to tell whether it was changed since.
_SETTLED = 2 * 10**9
#: Requests that look at files may take longer than others, by this factor.
_PATIENCE = 10

#: Digests of local files, by path, place and time of their last change.
_digests: dict[tuple[str, int, int, int, int, int], str] = {}


class Way(enum.Enum):
    """How inputs get from the batch's directory into the sandboxes."""

    #: As links in the archive: the quickest.
    ARCHIVE = enum.auto()
    #: One by one, as links as far as possible: for what the first way failed with.
    LINKS = enum.auto()
    #: One by one, as copies.
    COPIES = enum.auto()


@attrs.frozen
class Item:
    """An object, and where it comes from.

    Parameters
    ----------
    wanted : Wanted
        How it is known on the far side.
    content : Known
        The local file.
    inputs : frozenset of str
        Local names, as applications have them, of inputs that it is or lies in.
    """

    wanted: Wanted
    content: Known
    inputs: frozenset[str]

    def is_input_of(self, apps: Iterable[Application]) -> bool:
        """Tell whether one of these jobs needs it."""
        return any(local in self.inputs for app in apps for local, _ in sandbox.local_inputs(app))


#: Files by path, and what they are needed for.
Items = Mapping[tuple[str, Role], Item]


def choose(apps: Sequence[Application]) -> Items:
    """Find the inputs that are to travel once.

    Parameters
    ----------
    apps : sequence of Application
        The batch. What can't be read is left for others to complain of.
    """
    objects: dict[tuple[str, int], list[_File]] = {}
    for file in _files(apps):
        if file.info.st_size >= ALWAYS or (file.info.st_size >= SHARED and file.users > 1):
            with contextlib.suppress(OSError):
                sha256 = digest(Path(file.path), file.info)
                objects.setdefault((sha256, _mode(file.role, file.info.st_mode)), []).append(file)
    items: dict[tuple[str, Role], Item] = {}
    for number, ((sha256, mode), files) in enumerate(objects.items()):
        path, info = Path(files[0].path), files[0].info
        mtime = int(info.st_mtime) if 0 <= info.st_mtime < _LATEST else 0
        wanted = Wanted(number, sha256, info.st_size, mtime, mode)
        item = Item(wanted, Known(path, sha256, info.st_size, mtime), frozenset().union(*(one.inputs for one in files)))
        items |= {(one.path, one.role): item for one in files}
    return items


@attrs.define
class _File:
    """A local file that jobs need: for what, how many of them, and the names of the inputs that it is or lies in."""

    path: str
    role: Role
    info: os.stat_result
    users: int = 0
    inputs: set[str] = attrs.field(factory=set)


def _files(apps: Sequence[Application]) -> Iterable[_File]:
    """List the regular files that the inputs of a batch consist of; each input is looked at once."""
    users = Counter(one for app in apps for one in dict.fromkeys(sandbox.local_inputs(app)))
    files: dict[tuple[str, Role], _File] = {}
    for (local, role), count in users.items():
        with contextlib.suppress(DataStagingError, OSError):
            for entry in entries_of(Path(local), ""):
                if isinstance(entry.source, Path):
                    path = str(entry.source)
                    file = files.setdefault((path, role), _File(path, role, entry.source.stat()))
                    file.users += count
                    file.inputs.add(local)
    return files.values()


def _mode(role: Role, mode: int) -> int:
    """Give the mode of an object, which all its links share."""
    if role is Role.STDIN:
        # an object of its own: no output can turn out to be a link to it, which is not fetched
        return 0o440
    return 0o555 if role is Role.COMMAND or mode & stat.S_IXUSR else 0o444


def digest(path: Path, info: os.stat_result) -> str:
    """Give the SHA-256 digest of a file's content, which is read once as long as the file stays as it is.

    Parameters
    ----------
    path : Path
        The file.
    info : os.stat_result
        What it looks like.
    """
    key = (str(path), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    if key not in _digests:
        settled = time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) > _SETTLED
        found = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                found.update(data)
        if not settled:
            return found.hexdigest()
        _digests[key] = found.hexdigest()
    return _digests[key]


@attrs.define
class Staging:
    """What of a batch's inputs travels once.

    Parameters
    ----------
    items : mapping
        The files: see `choose`.
    present : set of int
        Objects that the far side has.
    directory : str
        The batch's own directory there, below the spool directory.
    way : Way
        How inputs get from there into the sandboxes.
    damaged : tuple of str
        Names to remove from the cache.
    quota : int
        Bytes that the cache may take.
    """

    items: Items
    present: frozenset[int] = frozenset()
    directory: str = ""
    way: Way = Way.ARCHIVE
    damaged: tuple[str, ...] = ()
    quota: int = 0
    _places: list[str] = attrs.field(factory=list, init=False)
    _ahead: set[int] = attrs.field(factory=set, init=False)

    @property
    def missing(self) -> list[Item]:
        """What has to be sent."""
        return [item for item in _unique(self.items) if item.wanted.number not in self.present | self._ahead]

    def send_ahead(self, system: BatchSystem, item: Item, progress: events.Progress) -> None:
        """Send a missing object by itself, before the stream; what was interrupted goes on where it was.

        It is looked at, and gets its name in the cache, in `arrived`, like what comes with the stream.

        Raises
        ------
        DataStagingError
            The file is not what it was, or can't be read.
        TransportError, RemoteFileError
            It did not get there.
        """
        content, transport = item.content, system.transport
        with readable(content.path):
            info = content.path.stat()
        if digest(content.path, info) != content.sha256:
            raise DataStagingError(f"the input {content.path} changed while it was read")
        # not in the batch's own directory, which the next attempt does not know
        upload = f"{system.spool}/{cache_text.INCOMING}/{item.wanted.sha256}"
        transport.put_file(content.path, upload, mode=item.wanted.mode, advanced=progress.advance)
        system.ask(cache_text.take_in(system.spool, upload, self._place(item)))
        self._ahead.add(item.wanted.number)

    def content(self, item: Item) -> Entry:
        """Give what brings a missing object to the far side in the stream."""
        return Entry(self._place(item), item.content, item.wanted.mode)

    def placed(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Put links in the place of inputs that travel by themselves, or note where they belong."""
        for entry in entries:
            path = entry.source
            item = self.items.get((str(path), sandbox.role_of(entry))) if isinstance(path, Path) else None
            if item is None or not isinstance(path, Path):
                yield entry
            elif self.way is Way.ARCHIVE:
                yield Entry(entry.name, HardLink(self._place(item)))
            else:
                with readable(path):
                    mode = stat.S_IMODE(path.stat().st_mode) if entry.mode is None else entry.mode
                self._places.append(cache_text.place(item.wanted.number, self._place(item), mode, entry.name))

    def places(self) -> Iterator[Entry]:
        """Give the program that does what could not be done by links in the archive; call it last."""
        if self._places:
            yield Entry(f"{self.directory}/places", "".join(self._places).encode("utf-8", "surrogateescape"))
            self._places.clear()

    @property
    def arrived(self) -> str:
        """Shell text to run after unpacking."""
        if not self.items:
            return ""
        new = [item.wanted for item in _unique(self.items) if item.wanted.number not in self.present]
        return cache_text.arrive(
            self.directory,
            new,
            damaged=self.damaged,
            # what is larger than the whole cache would only drive everything else out
            kept=[one for one in new if one.size <= self.quota],
            put="" if self.way is Way.ARCHIVE else cache_text.PUT[self.way is Way.LINKS],
        )

    @property
    def discarding(self) -> str:
        """Shell text that removes the batch's directory."""
        return f"rm -rf ./{self.directory}\n" if self.directory else ""

    def _place(self, item: Item) -> str:
        number = item.wanted.number
        return f"{self.directory}/{number}" if number in self.present else f"{self.directory}/new/{number}"


def _unique(items: Items) -> list[Item]:
    return list({item.wanted.number: item for item in items.values()}.values())


def stage(system: BatchSystem, apps: Sequence[Application], way: Way = Way.ARCHIVE) -> Staging:
    """Find out which inputs of a batch travel once, and which of these need not travel at all.

    Costs one round trip where there are such inputs, and none otherwise.

    Parameters
    ----------
    system : BatchSystem
        Where to.
    apps : sequence of Application
        The batch.
    way : Way
        How inputs are to get into the sandboxes, as far as that is possible.

    Raises
    ------
    DataStagingError
        The spool directory can't be written.
    """
    settings = system.settings
    items = choose(apps) if settings.cache_quota else {}
    if not items:
        return Staging({})
    wanted = [item.wanted for item in _unique(items)]
    directory = f"{cache_text.INCOMING}/{sandbox.new_token()}"
    quota = settings.cache_quota.bytes
    program = cache_text.claim(system.spool, directory, wanted, quota)
    answer = system.ask(program, timeout=_PATIENCE * settings.timeout)
    if answer.exitcode:
        raise sandbox.check_room(answer.err) or DataStagingError(
            f"the inputs can't be written to {quote(system.spool)}: {answer.err.strip()[-300:]}"
        )
    claims = cache_text.parse_claim(answer, wanted)
    linked = not claims.root if settings.cache_links is None else settings.cache_links
    if not linked or not claims.links:
        way = Way.COPIES
    return Staging(items, claims.present, directory, way, claims.damaged, quota)
