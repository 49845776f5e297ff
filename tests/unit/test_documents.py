"""Tasks as JSON: what was written is what is read."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.application import Application, ArrayElement, Dependency
from batchlib.documents import OWN_FIELDS, description_document, read_description, read_run, run_document
from batchlib.quantity import Duration, Memory
from batchlib.run import Accounting, NativeDependency, Reason, Run, State

words = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20)
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
times = st.floats(0, 4e9)
durations = st.integers(0, 10**18).map(lambda number: Duration.of(number, "ns"))
memories = st.integers(0, 10**15).map(lambda number: Memory.of(number, "b"))

accountings = st.builds(
    Accounting,
    cpu_time=st.none() | durations,
    wall_time=st.none() | durations,
    max_memory=st.none() | memories,
    cores=st.none() | st.integers(1, 99),
    hosts=st.lists(names).map(tuple),
    submitted=st.none() | times,
    started=st.none() | times,
    ended=st.none() | times,
    runs=st.integers(1, 9),
    native=st.dictionaries(words, words),
)
runs = st.builds(
    Run,
    state=st.sampled_from(State),
    reason=st.none() | st.sampled_from(Reason),
    exitcode=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    native_state=words,
    resource=st.none() | names,
    jobid=st.none() | names,
    token=st.none() | names,
    submission_started=st.booleans(),
    waits_for=st.lists(st.builds(NativeDependency, names, st.sampled_from(["ok", "any", "notok"]))).map(tuple),
    cancel_requested=st.booleans(),
    collected=st.booleans(),
    freed=st.booleans(),
    attempts=st.integers(0, 10),
    retried=st.integers(0, 10),
    unseen_since=st.none() | times,
    info=words,
    accounting=accountings,
    timestamps=st.dictionaries(st.sampled_from(State), times),
    history=st.lists(st.tuples(times, words)),
)
applications = st.builds(
    Application,
    st.lists(words, min_size=1),
    inputs=st.dictionaries(words, names, max_size=1),
    outputs=st.dictionaries(names, names, max_size=1),
    environment=st.dictionaries(names, words),
    stdin=st.none() | names,
    join=st.booleans(),
    jobname=st.just("") | names,
    requested_cores=st.integers(1, 99),
    requested_memory=st.none() | memories.filter(bool),
    requested_walltime=st.none() | durations.filter(bool),
    queue=st.none() | names,
    begin=st.none() | times,
    mail_on=st.lists(st.sampled_from(["begin", "end", "fail"])),
    native=st.lists(names.map(lambda name: f"--{name}")),
    tags=st.lists(words),
    after=st.lists(st.builds(Dependency, st.lists(names, min_size=1), st.sampled_from(["ok", "any", "notok"]))),
)


def of_everybody(app: Application) -> dict[str, Any]:
    return {name: value for name, value in attrs.asdict(app, recurse=False).items() if name not in OWN_FIELDS}


@given(runs)
def test_runs_are_read_as_they_were_written(run: Run) -> None:
    assert read_run(run_document(run)) == run


@given(applications)
def test_descriptions_are_read_as_they_were_written(app: Application) -> None:
    found, max_running = read_description(description_document(app))
    assert of_everybody(found) == of_everybody(app)
    assert max_running is None
    assert (found.output_dir, found.task_id, found.array, found.execution) == (None, None, None, Run())


def test_every_field_of_a_run_is_tried_above() -> None:
    # builds() would leave out a field that is added without a word here
    assert len(attrs.fields(Run)) == 20
    assert len(attrs.fields(Accounting)) == 10


def test_what_is_one_tasks_own_is_no_part_of_its_description() -> None:
    first = Application(["true"], output_dir="/a")
    second = Application(["true"], output_dir="/b", task_id="7", array=ArrayElement("7", 3))
    second.execution.note("done")
    assert description_document(first) == description_document(second)


def test_how_many_elements_may_run_belongs_to_the_description() -> None:
    _, max_running = read_description(description_document(Application(["true"], array=ArrayElement("7", 3, 5))))
    assert max_running == 5


def test_defaults_take_no_room() -> None:
    assert run_document(Run()) == '{"state": "NEW"}'
    assert json.loads(description_document(Application(["./true"]))) == {"arguments": ["./true"], "jobname": "true"}


@pytest.mark.parametrize("document", ['{"state": "DONE", "colour": "red"}', '{"accounting": {"colour": "red"}}'])
def test_what_later_versions_add_is_passed_over(document: str) -> None:
    assert read_run(document).accounting == Accounting()
    assert read_description('{"arguments": ["true"], "colour": "red"}')[0].arguments == ("true",)
