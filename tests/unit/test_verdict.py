"""What is believed of a job: all evidence in all combinations, and the promises that hold in each."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchlib.backends.verdict import JobRow, Verdict, gather, judge
from batchlib.quantity import Duration, Memory
from batchlib.run import Accounting, NativeDependency, Reason, Run, State
from batchlib.sandbox import Status

PATIENCE = 15.0
LIVE = [state for state in State if not state.final]
FINAL = [state for state in State if state.final]
#: Ends that a batch system brings about.
STRUCK = [
    Reason.WALLTIME,
    Reason.CPU_TIME,
    Reason.NODE_FAILURE,
    Reason.PREEMPTED,
    Reason.DEADLINE,
    Reason.CANCELLED_BY_USER,
    Reason.CANCELLED_BY_SYSTEM,
]

exits = st.sampled_from([0, 1, 3, 137, 255])
codes = st.none() | exits
signals = st.none() | st.sampled_from([9, 15])
#: What a listing or accounting may say of an end, as far as batch systems can: a state with a reason that fits.
ends = st.sampled_from(
    [
        (State.DONE, Reason.EXITED),
        (State.DONE, None),
        (State.FAILED, None),
        (State.OMITTED, Reason.DEPENDENCY),
        (State.CANCELLED, Reason.CANCELLED_BY_USER),
        (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM),
        *((State.FAILED, reason) for reason in (*STRUCK[:5], Reason.EXITED, Reason.SIGNALLED, Reason.MEMORY)),
        (State.FAILED, Reason.START_FAILURE),
    ]
)


@st.composite
def ended_rows(draw: st.DrawFn) -> JobRow:
    state, reason = draw(ends)
    code = draw(st.none() | st.just(0)) if state is State.DONE else draw(codes)
    signal = None if code is not None or state is State.DONE else draw(signals)
    return JobRow("7", state, f"native {state.value}", reason, code, signal)


live_rows = st.sampled_from(LIVE).map(lambda state: JobRow("7", state, f"native {state.value}"))
rows = st.none() | live_rows | ended_rows()


@st.composite
def made_statuses(draw: st.DrawFn) -> Status:
    signal = draw(signals)
    return Status(
        exitcode=None if signal else draw(exits),
        signal=signal,
        caught=draw(st.sampled_from(["", "", "TERM", "USR1"])),
        phase=draw(st.sampled_from(["command", "command", "prologue"])),
        started=100.0,
        ended=100.0 + draw(st.sampled_from([0, 10, 60, 100])),
    )


statuses = st.none() | made_statuses()
#: The command ended of its own accord.
clean_statuses = st.builds(Status, exitcode=exits, started=st.just(100.0), ended=st.sampled_from([100.0, 160.0, 200.0]))


@st.composite
def runs(draw: st.DrawFn) -> Run:
    return Run(
        state=draw(st.sampled_from(LIVE)),
        jobid="7",
        native_state="as it was",
        cancel_requested=draw(st.booleans()),
        unseen_since=draw(st.sampled_from([None, 0.0, 990.0])),
        timestamps={State.RUNNING: 1.0} if draw(st.booleans()) else {},
        waits_for=(NativeDependency("6", "ok"),) if draw(st.booleans()) else (),
    )


def conclude(run: Run, queue: JobRow | None, accounting: JobRow | None, status: Status | None) -> Verdict:
    """Judge at a moment when ten or a thousand seconds have passed since the job was seen last."""
    return judge(run, queue, accounting, status, now=1000.0, patience=PATIENCE, walltime=Duration("60 s"))


def late(run: Run) -> bool:
    return run.unseen_since is not None and 1000.0 - run.unseen_since >= PATIENCE


# --- in all combinations ------------------------------------------------------------------------------------------


@settings(max_examples=600)
@given(runs(), rows, rows, statuses)
def test_any_evidence_gives_a_sound_verdict(
    run: Run, queue: JobRow | None, accounting: JobRow | None, status: Status | None
) -> None:
    before = attrs.evolve(run)
    verdict = conclude(run, queue, accounting, status)
    assert isinstance(verdict.state, State)
    assert run == before, "judging changes nothing"
    assert verdict.state.final is (verdict.reason is not None)
    assert verdict.exitcode is None or verdict.signal is None
    if verdict.state is State.DONE:
        assert (verdict.reason, verdict.exitcode) == (Reason.EXITED, 0)
    if verdict.reason is Reason.SIGNALLED:
        assert verdict.signal
    if verdict.reason is Reason.EXITED and verdict.state is State.FAILED:
        assert verdict.exitcode != 0
    if not verdict.state.final:
        assert (verdict.exitcode, verdict.signal) == (None, None)
    assert (verdict.state is State.LOST) is (verdict.reason is Reason.LOST)
    assert (verdict.state is State.OMITTED) is (verdict.reason is Reason.DEPENDENCY)
    assert verdict.native_state


@given(runs(), live_rows, rows, statuses)
def test_while_the_queue_knows_a_job_to_live_it_lives(
    run: Run, queue: JobRow, accounting: JobRow | None, status: Status | None
) -> None:
    verdict = conclude(run, queue, accounting, status)
    assert not verdict.state.final
    assert verdict.native_state == queue.native_state
    alike = {
        State.QUEUED: {State.QUEUED, State.REQUEUED},
        State.HELD: {State.HELD, State.REQUEUED_HELD},
        State.RUNNING: {State.RUNNING, State.COMPLETING},
    }
    assert verdict.state in alike.get(queue.state, {queue.state})


@given(runs(), st.none() | st.just(JobRow("7", State.UNDETERMINED, "?")))
def test_without_evidence_a_job_is_neither_done_nor_failed(run: Run, accounting: JobRow | None) -> None:
    verdict = conclude(run, None, accounting, None)
    if not late(run):
        assert verdict.state is State.ENDED_NO_STATUS
    elif run.cancel_requested:
        assert (verdict.state, verdict.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    else:
        assert (verdict.state, verdict.reason) == (State.LOST, Reason.LOST)


@settings(max_examples=400)
@given(runs(), rows, rows, statuses)
def test_a_job_is_lost_only_after_patience_and_without_any_evidence(
    run: Run, queue: JobRow | None, accounting: JobRow | None, status: Status | None
) -> None:
    if conclude(run, queue, accounting, status).state is State.LOST:
        assert late(run)
        assert queue is None
        assert accounting is None or accounting.state is State.UNDETERMINED
        assert status is None


@settings(max_examples=400)
@given(runs(), rows, rows, statuses)
def test_success_needs_a_witness(
    run: Run, queue: JobRow | None, accounting: JobRow | None, status: Status | None
) -> None:
    if conclude(run, queue, accounting, status).state is State.DONE:
        if status is not None:
            assert status.exitcode == 0
            assert status.phase == "command"
        else:
            witness = queue or accounting
            assert witness is not None
            assert State.DONE in (witness.state, accounting.state if accounting else None)


@settings(max_examples=400)
@given(runs(), st.none() | ended_rows(), rows, statuses)
def test_failure_needs_a_witness(
    run: Run, queue: JobRow | None, accounting: JobRow | None, status: Status | None
) -> None:
    if conclude(run, queue, accounting, status).state is State.FAILED:
        assert status is not None or queue is not None or (accounting is not None and accounting.state.final)


# --- who struck first ---------------------------------------------------------------------------------------------


@given(runs(), ended_rows(), st.none() | ended_rows(), clean_statuses)
def test_a_command_that_ended_by_itself_was_not_ended_by_anybody(
    run: Run, queue: JobRow, accounting: JobRow | None, status: Status
) -> None:
    for row in (queue, accounting):
        assume(row is None or (row.state is not State.OMITTED and row.reason is not Reason.MEMORY))
    verdict = conclude(run, queue, accounting, status)
    assert (verdict.reason, verdict.exitcode) == (Reason.EXITED, status.exitcode)
    assert verdict.state is (State.DONE if status.exitcode == 0 else State.FAILED)


@given(runs(), clean_statuses)
def test_a_clean_end_is_believed_at_once_and_alone(run: Run, status: Status) -> None:
    verdict = conclude(run, None, None, status)
    assert (verdict.reason, verdict.exitcode) == (Reason.EXITED, status.exitcode)


@given(runs(), statuses, st.booleans())
def test_memory_is_a_failure_whatever_the_exit_code(run: Run, status: Status | None, listed: bool) -> None:
    row = JobRow("7", State.FAILED, "OUT_OF_MEMORY", Reason.MEMORY)
    run.unseen_since = 0.0
    verdict = conclude(run, row if listed else None, None if listed else row, status)
    assert (verdict.state, verdict.reason) == (State.FAILED, Reason.MEMORY)
    assert verdict.exitcode == (status.exitcode if status else None)


@pytest.mark.parametrize("requested", [True, False])
@pytest.mark.parametrize("said", [Reason.CANCELLED_BY_USER, Reason.CANCELLED_BY_SYSTEM])
@pytest.mark.parametrize("status", [None, Status(signal=15, caught="TERM"), Status(exitcode=0, caught="TERM")])
def test_who_cancelled(requested: bool, said: Reason, status: Status | None) -> None:
    run = Run(state=State.RUNNING, cancel_requested=requested, unseen_since=0.0, timestamps={State.RUNNING: 1.0})
    listed, told = (
        JobRow("7", State.CANCELLED, "CA", Reason.CANCELLED_BY_SYSTEM),
        JobRow("7", State.CANCELLED, "CA", said),
    )
    for queue, accounting in ((listed, told), (None, told), (told, None)):
        verdict = conclude(run, queue, accounting, status)
        assert verdict.state is State.CANCELLED
        assert verdict.reason is (Reason.CANCELLED_BY_USER if requested else said)


def test_a_cancelled_job_without_a_word_from_anybody() -> None:
    run = Run(state=State.RUNNING, cancel_requested=True, unseen_since=990.0)
    assert conclude(run, None, None, None).state is State.ENDED_NO_STATUS
    killed = Status(signal=15, caught="TERM")
    assert conclude(run, None, None, killed).reason is Reason.CANCELLED_BY_USER
    run.unseen_since = 0.0
    assert conclude(run, None, None, None).reason is Reason.CANCELLED_BY_USER


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status(signal=15, caught="TERM", started=0, ended=61), Reason.WALLTIME),
        (Status(signal=9, started=0, ended=60), Reason.WALLTIME),
        (Status(exitcode=3, caught="TERM", started=0, ended=60), Reason.WALLTIME),
        (Status(signal=15, caught="TERM", started=0, ended=30), Reason.SIGNALLED),
        (Status(exitcode=3, caught="USR1", started=0, ended=30), Reason.EXITED),
        (Status(exitcode=3, started=0, ended=90), Reason.EXITED),
        (Status(signal=9), Reason.SIGNALLED),
        (Status(exitcode=1, phase="prologue"), Reason.START_FAILURE),
    ],
)
def test_a_status_file_alone(status: Status, reason: Reason) -> None:
    run = Run(state=State.RUNNING, unseen_since=0.0)
    assert conclude(run, None, None, status).reason is reason


def test_an_unclean_end_waits_for_a_word_of_the_batch_system() -> None:
    run = Run(state=State.RUNNING, unseen_since=990.0)
    killed = Status(signal=15, caught="TERM")
    assert conclude(run, None, None, killed).state is State.ENDED_NO_STATUS
    told = JobRow("7", State.FAILED, "TIMEOUT", Reason.WALLTIME)
    verdict = conclude(run, None, told, killed)
    assert (verdict.state, verdict.reason, verdict.signal) == (State.FAILED, Reason.WALLTIME, 15)


def test_an_exit_code_of_the_accounting_waits_for_the_better_one() -> None:
    run = Run(state=State.RUNNING, unseen_since=990.0)
    row = JobRow("7", State.FAILED, "FAILED", Reason.EXITED, exitcode=9)
    assert conclude(run, None, row, None).state is State.ENDED_NO_STATUS
    assert conclude(run, None, row, Status(exitcode=137)).exitcode == 137
    run.unseen_since = 0.0
    assert conclude(run, None, row, None).exitcode == 9


def test_a_job_that_did_start_is_no_start_failure() -> None:
    run = Run(state=State.RUNNING, unseen_since=0.0)
    row = JobRow("7", State.FAILED, "FAILED (JobLaunchFailure)", Reason.START_FAILURE)
    assert conclude(run, row, None, None).reason is Reason.START_FAILURE
    verdict = conclude(run, row, None, Status(signal=9))
    assert (verdict.reason, verdict.signal) == (Reason.SIGNALLED, 9)
    killed = JobRow("7", State.FAILED, "FAILED", Reason.SIGNALLED, signal=9)
    verdict = conclude(run, row, killed, None)
    assert (verdict.reason, verdict.signal) == (Reason.SIGNALLED, 9)


def test_an_empty_listing_is_no_evidence_against_the_accounting() -> None:
    run = Run(state=State.RUNNING, unseen_since=0.0)
    for state in (State.RUNNING, State.QUEUED, State.SUSPENDED):
        assert conclude(run, None, JobRow("7", state, "x"), None).state is state


def test_a_job_that_has_run_waits_again() -> None:
    run = Run(state=State.RUNNING, timestamps={State.RUNNING: 1.0})
    assert conclude(run, JobRow("7", State.QUEUED, "PD"), None, None).state is State.REQUEUED
    assert conclude(run, JobRow("7", State.HELD, "PD"), None, None).state is State.REQUEUED_HELD
    fresh = Run(state=State.QUEUED)
    assert conclude(fresh, JobRow("7", State.QUEUED, "PD"), None, None).state is State.QUEUED


def test_without_patience_nothing_is_waited_for() -> None:
    verdict = judge(Run(state=State.RUNNING, unseen_since=1000.0), None, None, None, now=1000.0, patience=0.0)
    assert verdict.state is State.LOST
    row = JobRow("7", State.FAILED, "F", Reason.EXITED)
    assert judge(Run(state=State.RUNNING), row, None, None, now=1000.0, patience=0.0).state is State.FAILED


def test_a_clock_that_is_set_back_only_makes_us_wait() -> None:
    run = Run(state=State.RUNNING, unseen_since=5000.0)
    assert conclude(run, None, None, None).state is State.ENDED_NO_STATUS


# --- what it used -------------------------------------------------------------------------------------------------


def test_the_accounting_tells_most_and_others_fill_its_gaps() -> None:
    record = JobRow("7", State.DONE, accounting=Accounting(max_memory=Memory("2 GB"), ended=50.0))
    row = JobRow("7", State.DONE, accounting=Accounting(hosts=("a",), submitted=1.0, ended=49.0))
    status = Status(exitcode=0, host="b", started=10.0, ended=48.0, cpu_time=Duration("3 s"))
    used = gather(record, row, status, Accounting(cores=4, hosts=("c",)))
    assert (used.max_memory, used.ended, used.hosts, used.submitted) == (Memory("2 GB"), 50.0, ("a",), 1.0)
    assert (used.cores, used.started, used.cpu_time, used.wall_time) == (4, 10.0, Duration("3 s"), Duration("38 s"))
    assert gather(None, None, None, used) == used
    backwards = gather(None, None, Status(exitcode=0, started=10.0, ended=9.0), Accounting())
    assert backwards.wall_time is None
