"""From evidence to a state: what is known of a job, and what may be concluded from it.

A job ends by evidence only: its own status file, or a row of the batch system that says how it ended. Gone from
the queue is not ended, and no answer is no evidence. While the queue knows a job to be live, the queue wins.
"""

from __future__ import annotations

import functools

import attrs

from ..quantity import Duration
from ..run import Accounting, Reason, Run, State
from ..sandbox import Status


@attrs.frozen
class JobRow:
    """What a batch system's listing or accounting says of one job.

    Parameters
    ----------
    jobid : str
        Its id.
    state : State
        What the native state means.
    native_state : str
        The native state, with the native reason where there is one.
    reason : Reason, optional
        Why it ended, as far as the native state tells.
    exitcode, signal : int, optional
        How its script ended, as far as the batch system tells.
    name : str
        Its name in the queue.
    accounting : Accounting
        What it used.
    """

    jobid: str
    state: State
    native_state: str = ""
    reason: Reason | None = None
    exitcode: int | None = None
    signal: int | None = None
    name: str = ""
    accounting: Accounting = attrs.Factory(Accounting)


@attrs.frozen
class Verdict:
    """What is to be believed of a job now.

    Parameters
    ----------
    state : State
        Its state.
    native_state : str
        The batch system's words.
    reason, exitcode, signal
        How it ended, once it has.
    note : str
        A line for its history.
    """

    state: State
    native_state: str = ""
    reason: Reason | None = None
    exitcode: int | None = None
    signal: int | None = None
    note: str = ""


#: Ends that the batch system brought about: its word on why counts more than how the command took it.
_IMPOSED = frozenset(
    {
        Reason.WALLTIME,
        Reason.MEMORY,
        Reason.CPU_TIME,
        Reason.NODE_FAILURE,
        Reason.PREEMPTED,
        Reason.START_FAILURE,
        Reason.DEADLINE,
        Reason.CANCELLED_BY_USER,
        Reason.CANCELLED_BY_SYSTEM,
    }
)


def judge(
    run: Run,
    queue: JobRow | None,
    accounting: JobRow | None,
    status: Status | None,
    *,
    now: float,
    patience: float,
    walltime: Duration | None = None,
) -> Verdict:
    """Conclude what state a job is in.

    Parameters
    ----------
    run : Run
        What was believed so far.
    queue, accounting : JobRow, optional
        What the listing and the accounting say; None when they answered and do not know it.
    status : Status, optional
        What its own script wrote.
    now : float
        The time, in seconds since the epoch.
    patience : float
        Seconds to wait for evidence of a job that is gone from the queue.
    walltime : Duration, optional
        How long it was allowed to run.

    Returns
    -------
    Verdict
        What to believe now.
    """
    if queue is not None and not queue.state.final:
        return _live(run, queue, status)
    final = queue if queue is not None else accounting if accounting and accounting.state.final else None
    if final is not None and accounting is not None and accounting.state.final:
        final = _merge(final, accounting)
    waited = now - run.unseen_since if run.unseen_since is not None else 0.0
    if final is not None:
        if waited < patience and not _settled(run, queue, accounting, final, status):
            return Verdict(State.ENDED_NO_STATUS, final.native_state, note="ended; waiting for how")
        return _ended(run, final, status, walltime)
    if status is not None and (_clean(status) or waited >= patience or run.cancel_requested):
        return _ended_by_itself(run, status, walltime)
    if status is None and accounting is not None and accounting.state is not State.UNDETERMINED:
        # the listing left it out, the accounting says it is live: an empty answer is no evidence
        return Verdict(accounting.state, accounting.native_state)
    if waited < patience:
        return Verdict(State.ENDED_NO_STATUS, run.native_state, note="gone from the queue; waiting for how it ended")
    if run.cancel_requested:
        return Verdict(State.CANCELLED, run.native_state, Reason.CANCELLED_BY_USER)
    return Verdict(
        State.LOST,
        run.native_state,
        Reason.LOST,
        note="neither queue, accounting nor its own status file know how it ended",
    )


def _live(run: Run, row: JobRow, status: Status | None) -> Verdict:
    state = row.state
    if status is not None and state is State.RUNNING:
        state = State.COMPLETING
    has_run = State.RUNNING in run.timestamps
    if has_run and state is State.QUEUED:
        state = State.REQUEUED
    elif has_run and state is State.HELD:
        state = State.REQUEUED_HELD
    return Verdict(state, row.native_state)


def _merge(row: JobRow, accounting: JobRow) -> JobRow:
    """Fill in what the listing leaves open: who cancelled, and exit status."""
    if row.exitcode is None and row.signal is None:
        row = attrs.evolve(row, exitcode=accounting.exitcode, signal=accounting.signal)
    if row.reason is None and accounting.reason is not None:
        # without a reason the listing's state says no more than that it ended
        row = attrs.evolve(row, state=accounting.state, reason=accounting.reason)
    if row.reason in (Reason.CANCELLED_BY_SYSTEM, Reason.START_FAILURE) and accounting.reason is not None:
        row = attrs.evolve(row, reason=accounting.reason)
    return row


def _settled(run: Run, queue: JobRow | None, accounting: JobRow | None, final: JobRow, status: Status | None) -> bool:
    """Tell whether all is known of a job's end, so that neither status file nor accounting need be waited for."""
    if status is not None or final.state is State.OMITTED or (final.state is State.DONE and final.reason is not None):
        return True
    if queue is not None and (queue.exitcode, queue.signal) != (None, None):
        return True
    if final.state is State.CANCELLED and run.cancel_requested:
        return True
    # an exit code is better told by the script itself: not every accounting keeps all of it
    return accounting is not None and accounting.state.final and final.reason not in (None, Reason.EXITED)


def _ended(run: Run, row: JobRow, status: Status | None, walltime: Duration | None) -> Verdict:
    """Conclude from a row that says the job ended, together with what its script wrote."""
    never_started = status is None and State.RUNNING not in run.timestamps
    if row.state is State.CANCELLED and run.waits_for and never_started and not run.cancel_requested:
        # the batch system gave up waiting for the jobs that it had to wait for
        row = attrs.evolve(row, state=State.OMITTED)
    if row.state is State.OMITTED:
        return Verdict(row.state, row.native_state, Reason.DEPENDENCY)
    exitcode, signal = (row.exitcode, row.signal) if status is None else (status.exitcode, status.signal)
    untold = row.state is not State.DONE and row.reason in (None, Reason.SIGNALLED)
    killed = (untold or row.reason is Reason.START_FAILURE) and (status is None or not _clean(status))
    if run.cancel_requested and killed:
        # some batch systems tell of a job that was cancelled no more than that it was killed, or never started
        return Verdict(State.CANCELLED, row.native_state, Reason.CANCELLED_BY_USER, exitcode, signal)
    imposed = row.reason in _IMPOSED
    if imposed and status is not None and _clean(status) and row.reason is not Reason.MEMORY:
        # the command had ended by itself before the batch system struck
        imposed = False
    if row.reason is Reason.START_FAILURE and status is not None:
        # it did start
        imposed = False
    if imposed:
        reason = row.reason
        if row.state is State.CANCELLED and run.cancel_requested:
            reason = Reason.CANCELLED_BY_USER
        return Verdict(row.state, row.native_state, reason, exitcode, signal)
    if untold and status is not None and status.caught and _ran_for(status, walltime):
        return Verdict(State.FAILED, row.native_state, Reason.WALLTIME, exitcode, signal)
    if status is None and row.state is State.DONE:
        return Verdict(State.DONE, row.native_state, Reason.EXITED, 0)
    if status is None and exitcode == 0:
        # a job that failed did not end with 0, whatever stands in that field
        exitcode = None
    return _by_exit(row.native_state, exitcode, signal, status)


def _ended_by_itself(run: Run, status: Status, walltime: Duration | None) -> Verdict:
    """Conclude from the status file alone."""
    if not _clean(status):
        if run.cancel_requested:
            return Verdict(State.CANCELLED, run.native_state, Reason.CANCELLED_BY_USER, status.exitcode, status.signal)
        if _ran_for(status, walltime):
            return Verdict(State.FAILED, run.native_state, Reason.WALLTIME, status.exitcode, status.signal)
    return _by_exit(run.native_state, status.exitcode, status.signal, status)


def _ran_for(status: Status, walltime: Duration | None) -> bool:
    """Tell whether a job ran for all the time that it was given."""
    return walltime is not None and (status.ended or 0) - (status.started or 0) >= walltime.seconds


def _by_exit(native: str, exitcode: int | None, signal: int | None, status: Status | None) -> Verdict:
    if status is not None and status.phase == "prologue":
        note = "the prologue ended the job before its command was started"
        return Verdict(State.FAILED, native, Reason.START_FAILURE, exitcode, signal, note)
    if signal:
        return Verdict(State.FAILED, native, Reason.SIGNALLED, None, signal)
    if exitcode == 0:
        return Verdict(State.DONE, native, Reason.EXITED, 0)
    return Verdict(State.FAILED, native, Reason.EXITED, exitcode)


def _clean(status: Status) -> bool:
    """Tell whether the command ended on its own account."""
    return not status.caught and status.signal is None


def gather(record: JobRow | None, row: JobRow | None, status: Status | None, known: Accounting) -> Accounting:
    """Put together what is known of a job's use of the machine.

    Parameters
    ----------
    record, row : JobRow, optional
        What accounting and listing say; the first that tells something is believed.
    status : Status, optional
        What the job's own script wrote.
    known : Accounting
        What was known before.
    """
    sources = [source.accounting for source in (record, row) if source is not None]
    if status is not None:
        wall = None
        if status.started is not None and status.ended is not None and status.ended >= status.started:
            wall = Duration.of(status.ended - status.started, "s")
        own = Accounting(
            cpu_time=status.cpu_time,
            wall_time=wall,
            hosts=(status.host,) if status.host else (),
            started=status.started,
            ended=status.ended,
        )
        sources.append(own)
    return functools.reduce(_filled, [*sources, known])


def _filled(used: Accounting, better: Accounting) -> Accounting:
    """Give `used` with what is unknown in it taken from `better`."""
    known = {}
    for field in attrs.fields(Accounting):
        value = getattr(used, field.name)
        known[field.name] = getattr(better, field.name) if value in (None, (), {}) else value
    return Accounting(**known)
