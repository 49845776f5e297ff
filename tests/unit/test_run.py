"""What became of a task: states, reasons, exit status, times."""

from __future__ import annotations

import pytest

from batchlib.run import PSEUDO_SIGNALS, Accounting, Reason, Run, State

FINAL = {State.DONE, State.FAILED, State.CANCELLED, State.OMITTED, State.LOST}


@pytest.mark.parametrize("state", list(State))
def test_a_state_is_new_live_or_final(state: State) -> None:
    assert state.final is (state in FINAL)
    assert state.live is (state not in FINAL and state is not State.NEW)
    assert State(state.value) is state


def test_states_and_reasons_have_names_of_their_own() -> None:
    assert len({state.value for state in State}) == len(State) == 18
    assert len({reason.value for reason in Reason}) == len(Reason)


@pytest.mark.parametrize("state", [state for state in State if not state.final])
def test_before_the_end_there_is_no_exit_status(state: State) -> None:
    assert Run(state=state, exitcode=3, signal=9).returncode is None
    assert Run(state=state).ended_at is None


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (Run(State.DONE, Reason.EXITED, exitcode=0), 0),
        (Run(State.FAILED, Reason.EXITED, exitcode=3), 3 << 8),
        (Run(State.FAILED, Reason.EXITED, exitcode=255), 255 << 8),
        (Run(State.FAILED, Reason.EXITED), 0),
        (Run(State.FAILED, Reason.SIGNALLED, signal=9), 9),
        (Run(State.FAILED, Reason.WALLTIME), 122),
        (Run(State.FAILED, Reason.WALLTIME, signal=15), 15),
        (Run(State.FAILED, Reason.MEMORY, exitcode=0), 122),
        (Run(State.FAILED, Reason.NODE_FAILURE), 124),
        (Run(State.FAILED, Reason.START_FAILURE), 124),
        (Run(State.FAILED, Reason.SUBMISSION_FAILED), 125),
        (Run(State.FAILED, Reason.STAGING_FAILED), 123),
        (Run(State.CANCELLED, Reason.CANCELLED_BY_USER), 121),
        (Run(State.CANCELLED, Reason.CANCELLED_BY_SYSTEM), 122),
        (Run(State.OMITTED, Reason.DEPENDENCY), 125),
        (Run(State.LOST, Reason.LOST), 120),
        (Run(State.LOST), 0),
    ],
)
def test_the_packed_exit_status(run: Run, code: int) -> None:
    assert run.returncode == code


def test_only_a_job_that_is_done_looks_like_success() -> None:
    for reason in Reason:
        if reason not in (Reason.EXITED, Reason.SIGNALLED):
            assert PSEUDO_SIGNALS[reason] in range(120, 126)
            assert Run(State.FAILED, reason).returncode


def test_times_come_from_the_accounting_first() -> None:
    run = Run(
        State.DONE,
        timestamps={State.QUEUED: 10.0, State.RUNNING: 20.0, State.DONE: 30.0},
        accounting=Accounting(submitted=11.0, started=21.0, ended=31.0),
    )
    assert (run.submitted_at, run.started_at, run.ended_at) == (11.0, 21.0, 31.0)
    run.accounting = Accounting()
    assert (run.submitted_at, run.started_at, run.ended_at) == (10.0, 20.0, 30.0)
    run.timestamps = {}
    assert (run.submitted_at, run.started_at, run.ended_at) == (None, None, None)


def test_runs_share_nothing() -> None:
    one, other = Run(), Run()
    one.note("first")
    one.timestamps[State.QUEUED] = 1.0
    one.accounting.native["x"] = "y"
    assert (other.history, other.timestamps, other.accounting.native, other.info) == ([], {}, {}, "")
    assert one.history[0][1] == one.info == "first"
