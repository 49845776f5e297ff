"""What is submitted to a pretended batch system, and what becomes of it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

QUEUED, DEPENDENT, RUNNING, SUSPENDED, EXITING, ENDED = (
    "queued",
    "dependent",
    "running",
    "suspended",
    "exiting",
    "ended",
)
#: States in which a task has a process that supervises it.
ACTIVE = (RUNNING, SUSPENDED, EXITING)
#: The index of what is no array's element.
PLAIN = -1


class Refused(Exception):
    """A queue does not take a job: ``unknown``, ``disabled``, ``limit`` or ``full``."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class StartFailed(Exception):
    """A task can't be started; it ends with this exit code (negative ones are the batch system's own)."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Queue:
    """A queue and its limits; `max_walltime` and `walltime` (the default) are in seconds, 0 means none."""

    def __init__(self, *, max_walltime: int = 0, walltime: int = 0, enabled: bool = True, started: bool = True) -> None:
        self.max_walltime = max_walltime
        self.walltime = walltime
        self.enabled = enabled
        self.started = started


class Job:
    """What was submitted, for all elements of an array together."""

    number: int = 0
    owner: str = ""
    name: str = ""
    queue: str = ""
    submitted: float = 0.0
    #: Cores of one task.
    slots: int = 1
    #: Seconds; 0 for no limit.
    walltime: int = 0
    #: Bytes that all processes of a task may have in memory; 0 for no limit.
    memory: int = 0
    indices: Sequence[int] = (PLAIN,)
    #: How many elements may run at a time; 0 for no limit.
    max_running: int = 0
    #: ``[kind, number, index]``, ``["and", ...]``, ``["or", ...]`` or ``["not", one]``; kinds are ``ok``, ``notok``,
    #: ``any`` and ``started``, the index may be None for all elements.
    condition: Sequence[Any] = ()
    #: What happens when the condition can never be met: ``end`` or ``stay``.
    never: str = "end"
    #: Whatever the face needs to start the job and to print it; made of JSON types.
    face: dict[str, Any]

    def __init__(self, **fields: object) -> None:
        self.face = {}
        self.__dict__.update(fields)

    @property
    def is_array(self) -> bool:
        return list(self.indices) != [PLAIN]


class Task:
    """One element of an array, or a job that is none."""

    number: int = 0
    index: int = PLAIN
    state: str = QUEUED
    #: Letters of holds: ``u`` by the user, ``s`` by the system, ...
    hold: str = ""
    #: Time before which it may not start.
    begin: float = 0.0
    queued: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    #: Time of the last change.
    changed: float = 0.0
    #: Status of the process: its exit code, and the signal that ended it.
    exit_code: int | None = None
    signal: int = 0
    #: Why it ended: "" (by itself), ``cancelled``, ``walltime``, ``memory``, ``dependency``, ``start``, ``lost``.
    reason: str = ""
    cancelled_by: str = ""
    #: How often it was started.
    runs: int = 0
    #: The supervisor, and the task's own first process, which leads its session.
    supervisor: int = 0
    session: int = 0
    #: Seconds of processor time; kilobytes of memory at most, as far as anybody looked.
    cpu: float = 0.0
    rss: int = 0
    #: Signals to be sent to the session: ``[time, number]``.
    orders: Sequence[Sequence[float]] = ()
    requeue: bool = False
    #: Cores that it has.
    cores: Sequence[int] = ()
    face: dict[str, Any]

    def __init__(self, **fields: object) -> None:
        self.face = {}
        self.__dict__.update(fields)

    @property
    def key(self) -> str:
        return f"{self.number}" if self.index == PLAIN else f"{self.number}.{self.index}"

    @property
    def ok(self) -> bool:
        return self.state == ENDED and not self.reason and self.exit_code == 0 and self.signal == 0


class Launch:
    """How a task is started: files are opened with the umask, a relative one in `cwd`."""

    def __init__(
        self,
        argv: Sequence[str],
        env: dict[str, str],
        *,
        executable: str = "",
        cwd: str = "/",
        umask: int = 0o077,
        stdin: bytes = b"",
        stdout: str = "/dev/null",
        stderr: str = "",
        append: bool = False,
        rlimits: Iterable[tuple[int, int]] = (),
        exec_failed: str = "exec of {path} failed: {why}\n",
        exec_failed_code: int = 254,
    ) -> None:
        self.argv = list(argv)
        self.env = env
        self.executable = executable or self.argv[0]
        self.cwd = cwd
        self.umask = umask
        self.stdin = stdin
        self.stdout = stdout
        #: Empty for the same as standard output.
        self.stderr = stderr
        self.append = append
        self.rlimits = list(rlimits)
        self.exec_failed = exec_failed
        self.exec_failed_code = exec_failed_code


def setting(name: str, default: float) -> float:
    """Give a numeric setting from the environment."""
    return float(os.environ.get(name) or default)
