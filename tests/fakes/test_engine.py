"""The engine below the pretended batch systems, through a face that knows nothing but shell commands."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine import stop_everything
from tests.fakes.replay import until

ROOT = Path(__file__).parents[2]

#: The face, and the program that each command of it is: it runs what comes on standard input.
FACE = """
import json, os, sys
sys.path.insert(0, os.environ["ROOT"])
from tests.fakes.engine import Engine
from tests.fakes.model import Job, Launch, Queue, Refused, StartFailed, Task

class Plain(Engine):
    queues = {"default": Queue(), "short": Queue(max_walltime=60), "closed": Queue(enabled=False),
              "stopped": Queue(started=False)}

    def launch(self, job, task):
        if "unstartable" in job.face:
            raise StartFailed(-2)
        env = {"PATH": os.environ["PATH"], "INDEX": str(task.index)}
        return Launch(["/bin/sh", "-c", job.face["script"]], env, cwd=job.face["cwd"], stdout=f"out.{task.key}")

    def finish(self, job, task, launch):
        with open(os.path.join(job.face["cwd"], f"delivered.{task.key}"), "w") as file:
            file.write(f"{task.exit_code} {task.signal}")

engine = Plain()
answer = None
program = sys.stdin.read()
with engine:
    exec(program)
print(json.dumps(answer))
"""


class World:
    """A spool directory and what can be done with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        self.environment = {
            "PATH": os.environ["PATH"],
            "FAKE_SPOOL": str(self.spool),
            "FAKE_KILL_DELAY": "0.2",
            "ROOT": str(ROOT),
        }

    def do(self, program: str) -> Any:
        """Run lines within a transaction and give their `answer`."""
        done = subprocess.run(
            [sys.executable, "-IS", "-c", FACE],
            input=program,
            text=True,
            capture_output=True,
            env=self.environment,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def submit(self, script: str, *, hold: str = "", begin: float = 0.0, **fields: Any) -> int:
        """Submit a shell script."""
        face = {"script": script, "cwd": str(self.directory)}
        return int(
            self.do(
                f"job = Job(number=engine.next_number(), queue='default', **{fields!r})\n"
                f"job.face = {face!r}\n"
                f"engine.submit(job, hold={hold!r}, begin={begin!r})\n"
                "answer = job.number"
            )
        )

    def tasks(self, number: int) -> list[dict[str, Any]]:
        """Give what is known of a job's tasks."""
        found: list[dict[str, Any]] = self.do(
            "fields = [name for name in Task.__annotations__ if name != 'face']\n"
            f"answer = [{{name: getattr(task, name) for name in fields}} for task in engine.tasks({number})]"
        )
        return found

    def states(self, number: int) -> list[str]:
        """Give the states of a job's tasks."""
        return [task["state"] for task in self.tasks(number)]

    def ended(self, number: int) -> dict[str, Any]:
        """Wait for a job's only task to end."""
        until(lambda: self.states(number) == ["ended"])
        return self.tasks(number)[0]

    def stored(self, number: int) -> str:
        """Read a state without asking the engine, so that nothing moves."""
        db = sqlite3.connect(self.spool / "state.db", timeout=30)
        found = db.execute("SELECT state FROM tasks WHERE number = ?", (number,)).fetchone()
        db.close()
        return str(found[0])

    def control(self, number: int, call: str) -> None:
        """Call a method of the engine with a job's only task."""
        self.do(f"task = engine.task({number})\nengine.{call}")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # jobs leave their output where their submitter stands
    monkeypatch.chdir(tmp_path)
    made = World(tmp_path)
    yield made
    stop_everything(str(made.spool))


def test_jobs_run_to_their_end_when_nobody_asks(world: World) -> None:
    number = world.submit("echo hello; exit 3")
    until(lambda: world.stored(number) == "ended")
    task = world.ended(number)
    assert (task["exit_code"], task["signal"], task["reason"], task["runs"]) == (3, 0, "", 1)
    assert (world.directory / f"out.{number}").read_text() == "hello\n"
    assert (world.directory / f"delivered.{number}").read_text() == "3 0"


def test_what_waits_for_a_free_core_starts_when_nobody_asks(world: World) -> None:
    world.environment["FAKE_SLOTS"] = "2"
    first = world.submit("until [ -e go ]; do sleep 0.02; done", slots=2)
    second = world.submit("true")
    assert (world.states(first), world.states(second)) == (["running"], ["queued"])
    (world.directory / "go").touch()
    until(lambda: world.stored(second) == "ended")


def test_a_signal_that_ended_a_task_is_known(world: World) -> None:
    task = world.ended(world.submit("kill -SEGV $$"))
    assert (task["exit_code"], task["signal"]) == (0, signal.SIGSEGV)


def test_a_task_leaves_no_process_behind(world: World) -> None:
    world.ended(world.submit("sleep 60 & echo $!"))
    child = (world.directory / "out.1").read_text().strip()
    until(lambda: not Path(f"/proc/{child}").exists() or "\nState:\tZ" in Path(f"/proc/{child}/status").read_text())


def test_held_tasks_wait(world: World) -> None:
    number = world.submit("true", hold="u")
    world.control(number, "hold(task, 's')")
    world.control(number, "release(task)")
    assert world.tasks(number)[0]["hold"] == "s"
    assert world.states(number) == ["queued"]
    world.control(number, "release(task, 's')")
    world.ended(number)


def test_tasks_wait_for_their_time(world: World) -> None:
    later = world.submit("true", begin=time.time() + 3600)
    past = world.submit("true", begin=time.time() - 3600)
    world.ended(past)
    assert world.states(later) == ["queued"]


def test_a_queue_that_is_stopped_starts_nothing(world: World) -> None:
    number = world.do(
        "job = Job(number=engine.next_number(), queue='stopped')\nengine.submit(job)\nanswer = job.number"
    )
    assert world.states(number) == ["queued"]


@pytest.mark.parametrize(
    ("queue", "walltime", "why"),
    [("nosuch", 0, "unknown"), ("closed", 0, "disabled"), ("short", 61, "limit"), ("default", 0, "full")],
)
def test_queues_refuse(world: World, queue: str, walltime: int, why: str) -> None:
    world.environment["FAKE_MAX_QUEUED"] = "1"
    world.submit("true", hold="u")
    said = world.do(
        f"try:\n    engine.check_queue({queue!r}, {walltime})\nexcept Refused as refused:\n    answer = refused.why"
    )
    assert said == why


@pytest.mark.parametrize(
    ("kind", "code", "state"),
    [
        ("ok", 0, "ended"),
        ("notok", 0, "dependency"),
        ("any", 0, "ended"),
        ("ok", 1, "dependency"),
        ("notok", 1, "ended"),
        ("any", 1, "ended"),
    ],
)
def test_dependencies(world: World, kind: str, code: int, state: str) -> None:
    parent = world.submit(f"until [ -e go ]; do sleep 0.02; done; exit {code}")
    child = world.submit("true", condition=[kind, parent, None])
    grandchild = world.submit("true", condition=["ok", child, None])
    assert (world.states(child), world.states(grandchild)) == (["dependent"], ["dependent"])
    (world.directory / "go").touch()
    ran = state == "ended"
    for number in (child, grandchild):
        task = world.ended(number)
        assert (task["reason"], task["runs"]) == ("" if ran else "dependency", int(ran))


def test_combined_conditions(world: World) -> None:
    good, bad = world.submit("true"), world.submit("false")
    world.ended(good)
    world.ended(bad)
    waits = world.submit("true", hold="u")
    conditions: list[tuple[list[Any], bool | None]] = [
        (["and", ["ok", good, None], ["notok", bad, None]], True),
        (["and", ["ok", good, None], ["ok", bad, None]], None),
        (["and", ["ok", good, None], ["any", waits, None]], False),
        (["or", ["ok", bad, None], ["any", waits, None]], False),
        (["or", ["ok", bad, None], ["notok", good, None]], None),
        (["or", ["ok", bad, None], ["ok", good, -1]], True),
        (["not", ["ok", bad, None]], True),
        (["not", ["ok", good, None]], None),
        (["started", waits, None], False),
        (["started", good, None], True),
        (["any", 99, None], None),
    ]
    for condition, value in conditions:
        assert world.do(f"answer = engine.evaluate({condition!r})") is value, condition


def test_conditions_that_can_never_be_met_may_leave_a_job_waiting(world: World) -> None:
    parent = world.submit("false")
    world.ended(parent)
    assert world.states(world.submit("true", condition=["ok", parent, None], never="stay")) == ["dependent"]


def test_arrays_keep_to_their_limit(world: World) -> None:
    script = "echo $INDEX; until [ -e go ]; do sleep 0.02; done; exit $INDEX"
    number = world.submit(script, indices=[1, 4, 7], max_running=2)
    assert world.states(number) == ["running", "running", "queued"]
    (world.directory / "go").touch()
    until(lambda: set(world.states(number)) == {"ended"})
    assert [task["exit_code"] for task in world.tasks(number)] == [1, 4, 7]
    assert (world.directory / f"out.{number}.4").read_text() == "4\n"


def test_tasks_over_their_time_are_ended(world: World) -> None:
    task = world.ended(world.submit("trap '' TERM; while :; do sleep 0.1; done", walltime=1))
    assert (task["reason"], task["signal"]) == ("walltime", signal.SIGKILL)


def test_tasks_over_their_memory_are_ended(world: World) -> None:
    eat = f"{sys.executable} -c 'x = b\"x\" * 200_000_000; import time; time.sleep(60)'"
    task = world.ended(world.submit(eat, memory=100_000_000))
    assert task["reason"] == "memory"


def test_cancelling(world: World) -> None:
    running = world.submit("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done")
    queued = world.submit("true", hold="u")
    out = world.directory / f"out.{running}"
    until(lambda: out.exists() and out.stat().st_size > 0)
    for number in (running, queued):
        world.control(number, "cancel(task)")
        world.control(number, "cancel(task)")
    task = world.ended(running)
    assert (task["reason"], task["exit_code"]) == ("cancelled", 7)
    assert out.read_text().endswith("bye\n")
    task = world.ended(queued)
    assert (task["reason"], task["exit_code"], task["runs"]) == ("cancelled", None, 0)


def test_what_a_cancelled_task_leaves_has_time_to_end(world: World) -> None:
    world.environment["FAKE_KILL_DELAY"] = "20"
    number = world.submit("(trap 'sleep 0.5; echo late; exit' TERM; echo up; while :; do sleep 0.05; done) & wait")
    out = world.directory / f"out.{number}"
    until(lambda: out.exists() and out.stat().st_size > 0)
    world.control(number, "cancel(task)")
    assert world.ended(number)["reason"] == "cancelled"
    assert out.read_text().endswith("late\n")


def test_suspended_tasks_stand_still_and_can_be_cancelled(world: World) -> None:
    number = world.submit("while :; do echo x; sleep 0.02; done")
    out = world.directory / f"out.{number}"
    until(lambda: out.exists() and out.stat().st_size > 0)
    session = world.tasks(number)[0]["session"]
    world.control(number, "suspend(task)")
    assert world.states(number) == ["suspended"]
    until(lambda: "\nState:\tT" in Path(f"/proc/{session}/status").read_text())
    size = out.stat().st_size
    world.control(number, "resume(task)")
    until(lambda: out.stat().st_size > size)
    world.control(number, "suspend(task)")
    world.control(number, "cancel(task)")
    assert world.ended(number)["signal"] == signal.SIGTERM


def test_requeued_tasks_run_again(world: World) -> None:
    number = world.submit("[ -e again ] || { touch again; exec sleep 60; }")
    until((world.directory / "again").exists)
    world.control(number, "requeue(task)")
    task = world.ended(number)
    assert (task["exit_code"], task["signal"], task["runs"]) == (0, 0, 2)


def test_tasks_that_can_not_be_started(world: World) -> None:
    number = world.do(
        "job = Job(number=engine.next_number(), face={'unstartable': 1})\nengine.submit(job)\nanswer = job.number"
    )
    task = world.ended(number)
    assert (task["reason"], task["exit_code"]) == ("start", -2)


def test_a_task_whose_supervisor_died_is_lost(world: World) -> None:
    number = world.submit("sleep 60")
    until(lambda: bool(world.tasks(number)[0]["session"]))
    task = world.tasks(number)[0]
    os.kill(task["supervisor"], signal.SIGKILL)
    world.do(f"task = engine.task({number})\ntask.started -= 60\nengine.save(task)")
    assert world.ended(number)["reason"] == "lost"


def test_a_task_that_nobody_started_is_started_later(world: World) -> None:
    number = world.submit("true", hold="u")
    world.do(f"task = engine.task({number})\ntask.hold, task.state, task.runs = '', 'running', 1\nengine.save(task)")
    task = world.ended(number)
    assert (task["reason"], task["runs"], task["exit_code"]) == ("", 1, 0)


def test_jobs_are_forgotten_when_all_their_tasks_have_ended_long_ago(world: World) -> None:
    number = world.submit("true", indices=[1, 2], hold="u")
    world.do(f"engine.release(engine.task({number}, 1))")
    world.environment["FAKE_HISTORY"] = "0.01"
    until(lambda: world.states(number) == ["ended", "queued"])
    world.do(f"engine.release(engine.task({number}, 2))")
    until(lambda: world.states(number) == [])


def test_commands_wait_for_a_server_that_hangs(world: World) -> None:
    world.do("")
    (world.spool / "down").touch()
    assert world.do("answer = engine.reachable()") is False
    (world.spool / "down").unlink()
    hang = world.spool / "hang"
    hang.touch()
    program = FACE.replace("engine = Plain()", "engine = Plain(); engine.reachable()")
    with subprocess.Popen(
        [sys.executable, "-IS", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=world.environment
    ) as command:
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(0.5)
        hang.unlink()
        assert command.communicate(b"", 20)[0] == b"null\n"


def test_many_submit_at_once(world: World) -> None:
    program = "job = Job(number=engine.next_number(), face={'script': 'true', 'cwd': '.'})\nengine.submit(job)\n"
    calls = [
        subprocess.Popen([sys.executable, "-IS", "-c", FACE], stdin=subprocess.PIPE, text=True, env=world.environment)
        for _ in range(8)
    ]
    for call in calls:
        call.communicate(program + "answer = job.number", timeout=30)
    until(lambda: world.do("answer = [task.state for task in engine.tasks()]") == ["ended"] * 8)
