"""How often a resource is looked at."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib import Application, State
from batchlib.polling import LONGEST_PAUSE, Durations, Look, next_pause

seconds = st.floats(0, 1e6)


@given(last=seconds, changed=st.booleans(), cost=seconds, minimum=seconds, expected=st.none() | st.floats(-1e6, 1e6))
def test_never_more_often_than_configured(
    last: float, changed: bool, cost: float, minimum: float, expected: float | None
) -> None:
    pause = next_pause(last, changed=changed, cost=cost, minimum=minimum, expected=expected)
    assert pause >= minimum
    assert pause >= cost, "looking takes half of the time at most"
    assert pause >= 5 * cost or cost < 1, "and a sixth of it where it takes long"
    assert pause <= max(LONGEST_PAUSE, minimum, 5 * cost)


def test_looks_become_rarer_while_nothing_changes() -> None:
    pauses = [0.25]
    for _ in range(20):
        pauses.append(next_pause(pauses[-1], changed=False, cost=0.01, minimum=0.25))
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert sum(pauses[:8]) > 10, "a job of ten seconds is looked at a handful of times"
    assert next_pause(30, changed=True, cost=0.01, minimum=0.25) == 0.25


def test_what_is_expected_is_looked_at_in_time() -> None:
    assert next_pause(20, changed=False, cost=0, minimum=1, expected=4) == 4
    assert next_pause(20, changed=False, cost=0, minimum=1, expected=0.1) == 1
    assert next_pause(1, changed=False, cost=0, minimum=1, expected=1000) == 1.5


def running(name: str, since: float, walltime: str | None = None) -> Application:
    app = Application(["x"], jobname=name, requested_walltime=walltime)
    app.set_state(State.RUNNING)
    app.execution.timestamps[State.RUNNING] = time.time() - since
    return app


def ended(name: str, took: float) -> Application:
    app = running(name, took)
    app.set_state(State.DONE)
    return app


def test_tasks_are_expected_to_take_as_long_as_their_like() -> None:
    durations = Durations()
    assert durations.next_change([running("a", 5)]) is None
    for took in (100, 10, 12, 11, 1):
        durations.learn(ended("a", took))
    assert durations.next_change([running("a", 4), running("a", 2), running("b", 3)]) == pytest.approx(7, abs=1)
    assert durations.next_change([running("a", 12)]) == pytest.approx(0.5, abs=0.4), "it is late, but not by much"
    assert durations.next_change([running("a", 60)]) is None, "it is unlike the others"
    assert durations.next_change([running("a", 60, "2 minutes")]) == pytest.approx(60, abs=1), "but it has a limit"
    assert durations.next_change([Application(["x"], jobname="a")]) is None


def test_a_look_is_kept_as_text() -> None:
    look = Look(1000.5, 2.5)
    assert Look.read(look.write()) == look
    for damaged in (None, "", "{", "[]", '"x"', '{"at": "soon"}', '{"when": 1}', "null"):
        assert Look.read(damaged) == Look()
    assert Look().wait(10) == 0


def test_a_clock_that_was_set_back_stops_nobody() -> None:
    assert Look(time.time() + 3600).wait(10) == 0
    assert Look(time.time()).wait(10) == pytest.approx(10, abs=1)
