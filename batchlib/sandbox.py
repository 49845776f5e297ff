"""The job's directory on the cluster: its name, what goes in, what comes out, and its status file.

::

    SPOOL/
      TOKEN/             one job's sandbox
        .batchlib/       script, log, owner, submitted, status
        ...              inputs, stdout, stderr, outputs
      cache/             inputs that are sent once, and linked into the sandboxes
      .incoming/         those that are on their way
"""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import attrs

from .application import EVERYTHING, RESERVED, Application
from .errors import DataStagingError, InvalidValue
from .quantity import Duration, whole_number
from .transport.archive import Entry, entries_of

#: No vowels, so that no words arise; no letters that look like digits.
_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
_TOKEN = re.compile(f"(?P<root>b[{_ALPHABET}]{{15}})(?:/(?P<index>[0-9]{{1,9}}))?")
_NAMED = re.compile(f"(?:^|\\.)(b[{_ALPHABET}]{{15}})$")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_TIMES = re.compile(r"{0}\s+{0}".format(r"([0-9]{1,9})m([0-9]{1,9}(?:[.,][0-9]{1,9})?)s"))

#: Name, in the sandbox, of the file with a job's standard input.
STDIN = f"{RESERVED}/stdin"
#: Name of the file with what the batch system and the job script themselves have to say.
LOG = f"{RESERVED}/log"


class Role(enum.Enum):
    """What a job needs a local file for."""

    INPUT = enum.auto()
    COMMAND = enum.auto()
    STDIN = enum.auto()


def new_token() -> str:
    """Make the name of a sandbox: unique in the world, and good as a file name and in a job's name."""
    return "b" + "".join(secrets.choice(_ALPHABET) for _ in range(15))


def check_token(token: str) -> str:
    """Refuse a name that we did not make: paths are built from it and removed by it."""
    if not _TOKEN.fullmatch(token):
        raise InvalidValue(f"{token!r} is no name of a sandbox")
    return token


def root_of(token: str) -> str:
    """Give the directory of the spool that a sandbox is, or, for an element of an array, lies in."""
    return check_token(token).partition("/")[0]


def split_member(name: str, tokens: Collection[str]) -> tuple[str, str]:
    """Take a path below the spool directory apart into sandbox and name; the sandbox is empty for a stranger.

    Parameters
    ----------
    name : str
        The path.
    tokens : collection of str
        The sandboxes that it may lie in.
    """
    first, _, rest = name.partition("/")
    second, _, inner = rest.partition("/")
    if f"{first}/{second}" in tokens:
        return f"{first}/{second}", inner
    return (first, rest) if first in tokens else ("", name)


def token_in(name: str) -> str:
    """Give the token that a job's unique name ends in; empty for a job that is none of ours."""
    match = _NAMED.search(name)
    return match[1] if match else ""


def unique_name(jobname: str, token: str, length: int) -> str:
    """Make the name under which a job is queued: readable for people, and unique, so that it can be looked up.

    Parameters
    ----------
    jobname : str
        The name that the user gave.
    token : str
        The sandbox's name.
    length : int
        Characters that the batch system allows.
    """
    readable = _UNSAFE.sub("_", jobname).strip("_.-")[: max(0, length - len(token) - 1)]
    return f"{readable}.{token}" if readable else token


def root_entries(token: str, script: str) -> Iterator[Entry]:
    """List what a submission needs: the directory that it is made from, and the job script.

    Parameters
    ----------
    token : str
        The sandbox, or the directory of an array's sandboxes.
    script : str
        The text of the job script.
    """
    yield Entry(token, None)
    yield Entry(f"{token}/{RESERVED}", None)
    yield Entry(f"{token}/{RESERVED}/script", script.encode("utf-8", "surrogateescape"), 0o700)


def element_entries(token: str, command: str) -> Iterator[Entry]:
    """List what makes a directory the sandbox of an array's element.

    Parameters
    ----------
    token : str
        The sandbox.
    command : str
        Shell text that becomes its command.
    """
    yield Entry(token, None)
    yield Entry(f"{token}/{RESERVED}", None)
    yield Entry(f"{token}/{RESERVED}/command", command.encode("utf-8", "surrogateescape"))


def input_entries(app: Application, token: str) -> Iterator[Entry]:
    """List a job's inputs, and the directories that its outputs need.

    Parameters
    ----------
    app : Application
        The job.
    token : str
        Its sandbox.
    """
    if app.stdin is not None:
        yield from entries_of(Path(app.stdin), f"{token}/{STDIN}")
    directories: set[str] = set()
    for local, remote in app.inputs.items():
        name = f"{token}/{remote}"
        yield from _parents(name, token, directories)
        for entry in entries_of(Path(local), name):
            if isinstance(entry.source, Path) and _is_command(app, remote):
                entry = attrs.evolve(entry, mode=entry.source.stat().st_mode & 0o777 | 0o700)
            yield entry
    for name in (app.stdout, app.stderr):
        yield from _parents(f"{token}/{name}", token, directories)


def local_inputs(app: Application) -> Iterator[tuple[str, Role]]:
    """List the local files and directories that a job needs, and what for."""
    if app.stdin is not None:
        yield app.stdin, Role.STDIN
    for local, remote in app.inputs.items():
        yield local, Role.COMMAND if _is_command(app, remote) else Role.INPUT


def role_of(entry: Entry) -> Role:
    """Tell what one of the files of `input_entries` is for."""
    if entry.name.endswith(f"/{STDIN}"):
        return Role.STDIN
    return Role.INPUT if entry.mode is None else Role.COMMAND


def _parents(name: str, token: str, known: set[str]) -> Iterator[Entry]:
    """List the directories above `name`, but for its sandbox, that were not listed yet."""
    parts = name[len(token) + 1 :].split("/")
    for depth in range(1, len(parts)):
        directory = "/".join([token, *parts[:depth]])
        if directory not in known:
            known.add(directory)
            yield Entry(directory, None)


def _is_command(app: Application, remote: str) -> bool:
    command = app.arguments[0]
    return "/" in command and PurePosixPath(command) == PurePosixPath(remote)


def wanted_outputs(app: Application) -> dict[str, str]:
    """Give what has to be fetched for a job: names in the sandbox, and names in the output directory."""
    names = dict(app.outputs)
    if EVERYTHING in names:
        return names
    names.setdefault(app.stdout, app.stdout)
    if not app.join:
        names.setdefault(app.stderr, app.stderr)
    return names


def local_name(app: Application, member: str) -> str | None:
    """Give the local name of something in the sandbox, or None for what is not wanted.

    Parameters
    ----------
    app : Application
        The job.
    member : str
        A path relative to the sandbox.
    """
    if member == RESERVED or member.startswith(RESERVED + "/"):
        return None
    wanted = wanted_outputs(app)
    # what is named itself goes where it says, whatever its directory says
    for remote in sorted(wanted.keys() - {EVERYTHING}, key=len, reverse=True):
        if _covers(remote, member):
            return wanted[remote] + member[len(remote) :]
    if EVERYTHING not in wanted:
        return None
    return member if wanted[EVERYTHING] == EVERYTHING else f"{wanted[EVERYTHING]}/{member}"


@attrs.frozen
class Status:
    """What a job's script wrote of its own end.

    Parameters
    ----------
    exitcode : int, optional
        Exit code of the command; None after a death by signal.
    signal : int, optional
        Signal that the command died of.
    caught : str
        Signal that the batch system sent to the script, such as ``TERM``; empty without.
    phase : str
        ``command``, or ``prologue`` when that ended the job before the command was started.
    host : str
        Where it ran.
    started, ended : float, optional
        Times, in seconds since the epoch, by that machine's clock.
    cpu_time : Duration, optional
        Processor time of the command and its children.
    """

    exitcode: int | None = None
    signal: int | None = None
    caught: str = ""
    phase: str = "command"
    host: str = ""
    started: float | None = None
    ended: float | None = None
    cpu_time: Duration | None = None


def parse_status(text: str) -> Status | None:
    """Read a status file; None when it is not complete."""
    found = dict(line.partition("=")[::2] for line in text.split("\n") if "=" in line)
    code = whole_number(found.get("code"))
    if code is None or code > 255 or found.get("complete") != "yes":
        return None
    signalled = found.get("signalled") == "yes" and code > 128
    return Status(
        exitcode=None if signalled else code,
        signal=code - 128 if signalled else None,
        caught=found.get("caught", ""),
        phase=found.get("phase", "command"),
        host=found.get("host", ""),
        started=whole_number(found.get("started")),
        ended=whole_number(found.get("ended")),
        # what the shell itself used, and, on the next line, what its children did
        cpu_time=_cpu_time("".join(text.partition("\ntimes=\n")[2].split("\n")[1:2])),
    )


def _cpu_time(text: str) -> Duration | None:
    """Read user and system time as the shell's ``times`` prints them: ``0m1.20s 0m0.03s``, or with commas."""
    match = _TIMES.fullmatch(text.strip())
    if match is None:
        return None
    user_minutes, user, system_minutes, system = (float(part.replace(",", ".")) for part in match.groups())
    return Duration.of(60 * (user_minutes + system_minutes) + user + system, "s")


def statuses(text: str) -> dict[str, Status]:
    """Read the answer of `status_program`: the status of each sandbox that has one."""
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        path, _, content = line.partition(":")
        token = path.removesuffix(f"/{RESERVED}/status")
        if token != path and _TOKEN.fullmatch(token):
            found.setdefault(token, []).append(content)
    read = {token: parse_status("\n".join(content)) for token, content in found.items()}
    return {token: status for token, status in read.items() if status is not None}


def status_program(spool: str, tokens: Iterable[str]) -> str:
    """Make the shell text that prints the status files of many sandboxes, with one process for thousands of them."""
    files = "".join(f"{token}/{RESERVED}/status\n" for token in map(check_token, tokens))
    # beside another file, grep tells the name even of a single one
    return f"cd {spool} || exit\nxargs grep -s '' /dev/null <<'.' || :\n{files}.\n"


def remove_program(spool: str, tokens: Iterable[str]) -> str:
    """Make the shell text that removes sandboxes; what is not there is no error.

    Parameters
    ----------
    spool : str
        The spool directory, as a shell word.
    tokens : iterable of str
        The sandboxes. The directory of an array goes with the last of its elements.
    """
    tokens = list(tokens)
    roots = dict.fromkeys(root_of(token) for token in tokens if "/" in token)
    return f"""cd {spool} || exit
code=0
remove() {{ # a directory of which a job took away the permission to write is ours all the same
  rm -rf -- "./$1" 2>/dev/null || {{ chmod -R u+rwx -- "./$1"; rm -rf -- "./$1"; }} || code=1
}}
while IFS= read -r token; do remove "$token"; done <<'.'
{lines(tokens)}.
while IFS= read -r token; do
  set -- "$token"/[0-9]*
  [ -d "$1" ] || remove "$token"
done <<'.'
{lines(roots)}.
exit "$code"
"""


def lines(tokens: Iterable[str]) -> str:
    """List tokens one a line, for a here-document."""
    return "".join(check_token(token) + "\n" for token in tokens)


def missing(app: Application, came: Iterable[str]) -> list[str]:
    """List the outputs that were asked for and are not among the names that came.

    Parameters
    ----------
    app : Application
        The job.
    came : iterable of str
        Paths relative to the sandbox.
    """
    names = set(came)
    return [name for name in app.outputs if name != EVERYTHING and not any(_covers(name, found) for found in names)]


def _covers(name: str, found: str) -> bool:
    return found == name or found.startswith(name + "/")


def check_room(text: str) -> DataStagingError | None:
    """Recognise a full or read-only file system in what a tool said."""
    for sign, what in _NO_ROOM.items():
        if sign in text:
            return DataStagingError(f"the spool directory can't be written: {what}")
    return None


_NO_ROOM: Mapping[str, str] = {
    "No space left": "its file system is full",
    # GNU tar's words when the last block fits in part
    "Wrote only": "its file system is full",
    "Disk quota exceeded": "your quota is used up",
    "Read-only file system": "its file system is read-only",
    "Permission denied": "permission denied",
}
