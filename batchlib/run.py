"""What became of a task: its state, why it ended, when, where, and what it used."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable

import attrs

from .quantity import Duration, Memory


class State(enum.Enum):
    """Where a task stands. `Reason` says why it ended; the native text is kept beside it."""

    #: not submitted yet
    NEW = "NEW"
    #: the batch system is being asked; not known yet whether it accepted
    SUBMITTING = "SUBMITTING"
    #: waiting in the queue
    QUEUED = "QUEUED"
    #: waiting for somebody to release it
    HELD = "HELD"
    #: has run, or begun to, and waits to run again
    REQUEUED = "REQUEUED"
    #: the same, waiting for somebody to release it
    REQUEUED_HELD = "REQUEUED_HELD"
    #: has its resources, does not run yet
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    #: the command ended; the batch system is cleaning up
    COMPLETING = "COMPLETING"
    #: gone from the queue, without a word yet on how it ended
    ENDED_NO_STATUS = "ENDED_NO_STATUS"
    #: outputs are being collected
    FETCHING = "FETCHING"
    #: ended with exit code 0
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    #: will never run, because what it depends on did not end as asked
    OMITTED = "OMITTED"
    #: the batch system no longer knows it, and nothing tells how it ended
    LOST = "LOST"
    #: no answer, or one that nobody understands
    UNDETERMINED = "UNDETERMINED"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self in _FINAL

    @property
    def live(self) -> bool:
        """Whether the batch system has it: submitted, and not ended."""
        return not self.final and self is not State.NEW


_FINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.OMITTED, State.LOST})


class Reason(enum.Enum):
    """Why a task ended as it did."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    CANCELLED_BY_USER = "cancelled-by-user"
    CANCELLED_BY_SYSTEM = "cancelled-by-system"
    WALLTIME = "walltime"
    MEMORY = "memory"
    CPU_TIME = "cpu-time"
    NODE_FAILURE = "node-failure"
    PREEMPTED = "preempted"
    START_FAILURE = "start-failure"
    DEADLINE = "deadline"
    DEPENDENCY = "dependency"
    SUBMISSION_FAILED = "submission-failed"
    STAGING_FAILED = "staging-failed"
    LOST = "lost"


#: GC3Pie's made-up signals for ends that have no real one.
PSEUDO_SIGNALS = {
    Reason.LOST: 120,
    Reason.CANCELLED_BY_USER: 121,
    Reason.CANCELLED_BY_SYSTEM: 122,
    Reason.WALLTIME: 122,
    Reason.MEMORY: 122,
    Reason.CPU_TIME: 122,
    Reason.PREEMPTED: 122,
    Reason.DEADLINE: 122,
    Reason.STAGING_FAILED: 123,
    Reason.NODE_FAILURE: 124,
    Reason.START_FAILURE: 124,
    Reason.SUBMISSION_FAILED: 125,
    Reason.DEPENDENCY: 125,
}


@attrs.define
class Accounting:
    """What a job used, in common names and units, whatever the batch system calls them.

    Parameters
    ----------
    cpu_time, wall_time : Duration, optional
        Processor time of all its processes, and time from start to end, of its last run.
    max_memory : Memory, optional
        The most memory it used, as far as the batch system measured it.
    cores : int, optional
        Cores it had.
    hosts : tuple of str
        Machines it ran on.
    submitted, started, ended : float, optional
        Times, in seconds since the epoch.
    runs : int
        How often it was started.
    native : dict of str to str
        What the batch system said, in its own words.
    """

    cpu_time: Duration | None = None
    wall_time: Duration | None = None
    max_memory: Memory | None = None
    cores: int | None = None
    hosts: tuple[str, ...] = ()
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    runs: int = 1
    native: dict[str, str] = attrs.Factory(dict)


@attrs.frozen
class NativeDependency:
    """A job that the batch system itself waits for.

    Parameters
    ----------
    jobid : str
        Its native id.
    on : str
        How it has to end: ``ok``, ``notok`` or ``any``.
    """

    jobid: str
    on: str


@attrs.define
class Run:
    """What became of one task.

    Parameters
    ----------
    state : State
        Where it stands.
    reason : Reason, optional
        Why it ended as it did.
    exitcode : int, optional
        Exit code of its command; None while unknown, and after a death by signal.
    signal : int, optional
        The signal that ended its command.
    native_state : str
        State in the batch system's own words.
    resource : str, optional
        Name of the resource it was given to.
    jobid : str, optional
        The batch system's id.
    token : str, optional
        The name of its sandbox, unique in the world, made before anything is sent.
    submission_started : bool
        Whether the batch system may have been asked already.
    waits_for : tuple of NativeDependency
        Jobs that the batch system was told to let end first.
    cancel_requested : bool
        Whether we asked the batch system to end it.
    collected : bool
        Whether its outputs were fetched.
    freed : bool
        Whether its sandbox was removed.
    attempts : int
        Submissions tried so far, the current one included.
    retried : int
        How often it was run again after a failure.
    unseen_since : float, optional
        Since when the batch system has not known it although nothing tells its end.
    info : str
        The latest thing worth saying about it.
    accounting : Accounting
        What it used.
    timestamps : dict of State to float
        When it entered each state first, in seconds since the epoch.
    history : list of (float, str)
        What happened, with times.
    """

    state: State = State.NEW
    reason: Reason | None = None
    exitcode: int | None = None
    signal: int | None = None
    native_state: str = ""
    resource: str | None = None
    jobid: str | None = None
    token: str | None = None
    submission_started: bool = False
    waits_for: tuple[NativeDependency, ...] = ()
    cancel_requested: bool = False
    collected: bool = False
    freed: bool = False
    attempts: int = 0
    retried: int = 0
    unseen_since: float | None = None
    info: str = ""
    accounting: Accounting = attrs.Factory(Accounting)
    timestamps: dict[State, float] = attrs.Factory(dict)
    history: list[tuple[float, str]] = attrs.Factory(list)

    def note(self, text: str) -> None:
        """Add a line to the history."""
        self.info = text
        self.history.append((time.time(), text))

    @property
    def returncode(self) -> int | None:
        """Exit status packed as ``exitcode << 8 | signal``, with GC3Pie's pseudo-signals; None before the end."""
        if not self.state.final:
            return None
        signal = self.signal
        if signal is None and self.reason is not None:
            signal = PSEUDO_SIGNALS.get(self.reason, 0)
        return ((self.exitcode or 0) & 0xFF) << 8 | (signal or 0)

    @property
    def submitted_at(self) -> float | None:
        """When the batch system accepted it."""
        return self.accounting.submitted or _earliest(self.timestamps, (State.QUEUED,))

    @property
    def started_at(self) -> float | None:
        """When its command was started, for the last time."""
        return self.accounting.started or _earliest(self.timestamps, (State.RUNNING,))

    @property
    def ended_at(self) -> float | None:
        """When it ended."""
        if not self.state.final:
            return None
        return self.accounting.ended or _earliest(self.timestamps, _FINAL)

    @property
    def outputs_wait(self) -> bool:
        """Whether it has ended and has outputs on the cluster that were not fetched."""
        return self.state.final and self.jobid is not None and not self.collected and not self.freed


def _earliest(timestamps: dict[State, float], states: Iterable[State]) -> float | None:
    return min((timestamps[state] for state in states if state in timestamps), default=None)
