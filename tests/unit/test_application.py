"""Job descriptions: what people write, what it means, and what is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib import events
from batchlib.application import Application, check_inputs, twin
from batchlib.errors import InvalidValue
from batchlib.quantity import Duration, Memory
from batchlib.run import Run, State

names = st.text(st.characters(exclude_characters="\0\n/", exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..", ".batchlib", "*")
)


def test_the_least_that_has_to_be_said() -> None:
    app = Application(["./bin/run", "-x", 3])
    assert app.arguments == ("./bin/run", "-x", "3")
    assert app.jobname == "run"
    assert (app.stdout, app.stderr, app.join) == ("stdout.txt", "stderr.txt", False)
    assert app.execution.state is State.NEW
    assert app.total_cores == 1
    assert app.total_memory is None
    assert "run" in repr(app)


def test_one_string_is_split_as_a_shell_would() -> None:
    assert Application("sh -c 'echo a  b' \"$HOME\" c\\ d").arguments == ("sh", "-c", "echo a  b", "$HOME", "c d")
    with pytest.raises(InvalidValue, match="can't be split into words"):
        Application("echo 'oops")


class Simulation(Application):
    """What people make of their own programs."""


@pytest.mark.parametrize("kind", [Application, Simulation])
def test_a_twin_shares_nothing_that_can_be_changed(kind: type[Application]) -> None:
    app = kind(["./run", "-x"], inputs={"a": "b"}, environment={"X": "1"}, requested_memory="2 GB", output_dir="out")
    before = attrs.asdict(app)
    made = twin(app, Run(resource="here"), task_id="7")
    assert type(made) is kind
    assert attrs.asdict(made) == before | {"task_id": "7", "execution": attrs.asdict(Run(resource="here"))}
    made.environment["X"] = "2"
    made.inputs["c"] = "d"
    made.set_state(State.DONE)
    assert attrs.asdict(app) == before


@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1).filter(lambda words: words[0]))
def test_arguments_are_kept_as_they_are(words: list[str]) -> None:
    app = Application(words)
    assert list(app.arguments) == words
    assert Application(app.command_line).arguments == app.arguments


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meaning"),
    [
        (["data/a.txt", Path("b.txt")], {"data/a.txt": "a.txt", "b.txt": "b.txt"}),
        ([("a", "x/y"), ["b", "./z/"]], {"a": "x/y", "b": "z"}),
        ({"a": "x", "b": "d//e/./f"}, {"a": "x", "b": "d/e/f"}),
        ("only.txt", {"only.txt": "only.txt"}),
        (["dir/sub/"], {"dir/sub/": "sub"}),
        ([], {}),
    ],
)
def test_inputs(given: Any, meaning: dict[str, str]) -> None:
    assert Application("x", inputs=given).inputs == meaning


@pytest.mark.parametrize(
    ("given", "meaning"),
    [
        (["data/a.txt", Path("b.txt")], {"data/a.txt": "data/a.txt", "b.txt": "b.txt"}),
        ([("a", "x/y"), ["./b/", "c/"]], {"a": "x/y", "b": "c"}),
        ({"a": "x"}, {"a": "x"}),
        ("*", {"*": "*"}),
        ([("dir", ".")], {"dir": "."}),
    ],
)
def test_outputs(given: Any, meaning: dict[str, str]) -> None:
    assert Application("x", outputs=given).outputs == meaning


@pytest.mark.parametrize(
    "keys",
    [
        {"inputs": ["a/x", "b/x"]},
        {"inputs": [("a", "x"), ("b", "./x")]},
        {"inputs": ["a", "a"]},
        {"inputs": [("a", "")]},
        {"inputs": [("a", ".")]},
        {"inputs": [("a", "/etc/x")]},
        {"inputs": [("a", "../x")]},
        {"inputs": [("a", "x/../../y")]},
        {"inputs": [("a", ".batchlib/script")]},
        {"inputs": [("a", "./.batchlib")]},
        {"inputs": [("a", "x\ny")]},
        {"inputs": [("a", "x\0y")]},
        {"inputs": ["/"]},
        {"inputs": [("a", "b", "c")]},
        {"inputs": [3]},
        {"inputs": [("a", None)]},
        {"outputs": ["../x"]},
        {"outputs": ["/x"]},
        {"outputs": [("x", "/etc/passwd")]},
        {"outputs": [("x", "../y")]},
        {"outputs": ["x", "./x"]},
        {"outputs": [("x", "same"), ("y", "same")]},
        {"outputs": [("x", "same"), ("y", "./same/")]},
        {"outputs": ["."]},
        {"outputs": [".batchlib"]},
        {"outputs": [("x", "")]},
        {"stdout": "../x"},
        {"stdout": ""},
        {"stdout": "."},
        {"stderr": "/dev/null"},
        {"stdout": "same", "stderr": "./same"},
        {"stdout": ".batchlib/status"},
    ],
)
def test_names_that_lead_astray(keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        Application("x", **keys)


@given(names, names)
def test_any_plain_name_will_do(one: str, other: str) -> None:
    app = Application("x", inputs=[("local", f"{one}/{other}")], outputs=[(f"{one}/{other}", f"{other}/x")], join=True)
    assert app.inputs == {"local": f"{one}/{other}"}
    assert app.outputs == {f"{one}/{other}": f"{other}/x"}


def test_one_file_for_both_outputs() -> None:
    assert Application("x", stdout="all", stderr="all", join=True).join
    assert Application("x", stdout=Path("logs/out")).stdout == "logs/out"


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"arguments": []}, "nothing to run"),
        ({"arguments": ""}, "nothing to run"),
        ({"arguments": [""]}, "nothing to run"),
        ({"arguments": ["a\0b"]}, "NUL"),
        ({"environment": {"A": "x\0"}}, "NUL"),
        ({"environment": {"A=B": "x"}}, "'A=B' is no name for an environment variable"),
        ({"environment": {"1A": "x"}}, "no name for an environment variable"),
        ({"environment": {"": "x"}}, "no name for an environment variable"),
        ({"environment": {"A\nB": "x"}}, "no name for an environment variable"),
        ({"requested_cores": 0}, "requested_cores has to be a whole number from 1 on, not 0"),
        ({"requested_cores": -1}, "requested_cores"),
        ({"requested_cores": 2.5}, "requested_cores"),
        ({"requested_cores": "4"}, "requested_cores has to be a whole number from 1 on, not '4'"),
        ({"requested_nodes": 0}, "requested_nodes"),
        ({"tasks_per_node": 0}, "tasks_per_node"),
        ({"cores_per_task": 0}, "cores_per_task"),
        ({"requested_gpus": -1}, "requested_gpus"),
        ({"retries": -1}, "retries"),
        ({"requested_memory": "4"}, "write it with its unit"),
        ({"requested_memory": 4}, "write it with its unit"),
        ({"requested_memory": "0 GB"}, "can be zero"),
        ({"requested_memory": "1 GB", "requested_memory_per_core": "1 GB"}, "not both"),
        ({"requested_walltime": "2:30"}, "may mean hours and minutes"),
        ({"requested_walltime": "0 s"}, "can be zero"),
        ({"queue": "a b"}, "queue 'a b' holds characters"),
        ({"queue": "a\n#SBATCH -x"}, "queue"),
        ({"account": "a;b"}, "account"),
        ({"qos": "$(x)"}, "qos"),
        ({"constraint": 'a"b'}, "constraint"),
        ({"reservation": ""}, "reservation"),
        ({"mail_to": "a b@c"}, "mail_to"),
        ({"mail_on": "never"}, "there is no mail on 'never', only on begin, end, fail"),
        ({"mail_on": ["end\n#SBATCH -x"]}, "there is no mail on"),
        ({"native": ["x"]}, "has to start with a dash"),
        ({"native": ["-x\n-y"]}, "on one line"),
    ],
)
def test_values_that_can_not_be_used(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidValue, match=problem.replace("(", r"\(")):
        Application(**{"arguments": "x", **keys})


def test_lists_of_one() -> None:
    app = Application("x", native="--nice=3", tags="mine", mail_on="begin end")
    assert (app.native, app.tags, app.mail_on) == (("--nice=3",), ("mine",), ("begin", "end"))
    assert Application("x", native=["-a", "-b"], tags=["x", "y"]).native == ("-a", "-b")


def test_amounts() -> None:
    app = Application("x", requested_memory="2 GB", requested_walltime=Duration("1 h"))
    assert (app.requested_memory, app.requested_walltime) == (Memory("2 GB"), Duration("3600 s"))


@pytest.mark.parametrize(
    ("keys", "cores", "memory"),
    [
        ({}, 1, "1 GB"),
        ({"requested_cores": 8}, 8, "8 GB"),
        ({"cores_per_task": 4}, 4, "4 GB"),
        ({"requested_cores": 2, "cores_per_task": 4}, 4, "4 GB"),
        ({"requested_nodes": 3}, 3, "3 GB"),
        ({"requested_nodes": 2, "tasks_per_node": 4}, 8, "8 GB"),
        ({"requested_nodes": 2, "tasks_per_node": 4, "cores_per_task": 3}, 24, "24 GB"),
        ({"tasks_per_node": 4}, 4, "4 GB"),
    ],
)
def test_cores_and_memory_in_all(keys: dict[str, int], cores: int, memory: str) -> None:
    app = Application("x", requested_memory_per_core="1 GB", **keys)  # type: ignore[arg-type]
    assert app.total_cores == cores
    assert app.total_memory == Memory(memory)


# --- inputs on disk -----------------------------------------------------------------------------------------------


def problem(app: Application) -> str:
    return check_inputs([Application("good"), app]).get(app, "")


def test_inputs_that_can_not_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    file, directory = tmp_path / "file", tmp_path / "dir"
    assert problem(Application("x", inputs=[file, directory], stdin=file)) == ""
    assert "does not exist" in problem(Application("x", inputs=[tmp_path / "none"]))
    assert "does not exist" in problem(Application("x", inputs=[tmp_path / "dangling"]))
    assert "does not exist" in problem(Application("x", stdin=tmp_path / "none"))
    assert "is a directory" in problem(Application("x", stdin=directory))
    monkeypatch.setattr(os, "access", lambda *_args: False)
    assert "can't be read" in problem(Application("x", inputs=[file]))


def test_a_file_holds_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    file, directory = str(tmp_path / "file"), str(tmp_path / "dir")
    assert "can't lie in the input 'd'" in problem(Application("x", inputs={file: "d", directory: "d/e"}))
    assert "can't lie in the input 'd'" in problem(Application("x", inputs={file: "d"}, stdout="d/out"))
    assert problem(Application("x", inputs={directory: "d", file: "d/e"}, stdout="d/out")) == ""
    assert problem(Application("x", inputs={file: "d", directory: "dd/e"})) == ""


# --- states -------------------------------------------------------------------------------------------------------


@pytest.fixture
def changes() -> list[tuple[State, State]]:
    """What listeners hear."""
    return []


@pytest.fixture
def listen(changes: list[tuple[State, State]]) -> Callable[..., None]:
    """A listener that writes down what it hears."""

    def hear(_sender: object, *, before: State, after: State) -> None:
        changes.append((before, after))

    return hear


def test_changes_of_state_are_told_and_remembered(
    listen: Callable[..., None], changes: list[tuple[State, State]]
) -> None:
    app = Application("x")
    before = time.time()
    with events.run_changed.connected_to(listen, app):
        app.set_state(State.QUEUED)
        app.set_state(State.QUEUED, "still waiting")
        app.set_state(State.RUNNING, "on node 7")
        app.set_state(State.QUEUED)
        app.set_state(State.DONE)
    assert changes == [
        (State.NEW, State.QUEUED),
        (State.QUEUED, State.RUNNING),
        (State.RUNNING, State.QUEUED),
        (State.QUEUED, State.DONE),
    ]
    run = app.execution
    assert [text for _, text in run.history] == ["QUEUED", "still waiting", "on node 7", "QUEUED", "DONE"]
    assert run.info == "DONE"
    assert before <= run.timestamps[State.QUEUED] <= run.timestamps[State.RUNNING] <= time.time()


def test_what_a_listener_raises_reaches_the_caller_after_the_change() -> None:
    app = Application("x")

    def fail(_sender: object, **_keywords: object) -> None:
        raise RuntimeError("listener")

    with events.run_changed.connected_to(fail, app), pytest.raises(RuntimeError):
        app.set_state(State.QUEUED)
    assert app.execution.state is State.QUEUED


def test_descriptions_are_told_apart_by_identity() -> None:
    one, other = Application("x"), Application("x")
    assert one != other
    assert len({one, other}) == 2


def test_efficiency_compares_what_was_used_with_what_was_asked_for() -> None:
    app = Application(["true"], requested_cores=4, requested_memory="8 GB", requested_walltime="1 h")
    assert app.efficiency == {}
    used = app.execution.accounting
    used.cpu_time, used.wall_time, used.max_memory = Duration("1 h"), Duration("30 min"), Memory("2 GB")
    assert app.efficiency == {"cpu": 0.5, "memory": 0.25, "walltime": 0.5}
