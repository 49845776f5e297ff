"""Arrays, dependencies, scripts written for batch systems, and control."""

from __future__ import annotations

from .conftest import User

SCRIPT = """#!/bin/sh
#SBATCH --job-name=demo -t 10 -c 1
#SBATCH --array=1-3%2
#SBATCH --output=out-%a.txt
#SBATCH --no-such-option=1
echo task $SLURM_ARRAY_TASK_ID with $1
exit $((SLURM_ARRAY_TASK_ID == 2))
"""


def test_an_array_makes_a_task_of_each_element(user: User) -> None:
    for index in (1, 2):
        (user.work / f"in{index}.txt").write_text(f"input {index}\n")
    said = user.run(
        "gsub", "-a", "1-2", "-i", "in{index}.txt:in.txt", "-o", "result", "-d", "out", "--",
        "sh", "-c", "cat in.txt; echo {index} $TASK_ID > result",
    )  # fmt: skip
    assert said.out.split() == ["1.1", "1.2"]
    assert user.run("gwait", "1").status == 0
    assert (user.work / "out/1.2/result").read_text() == "2 2\n"
    assert (user.work / "out/1.2/stdout.txt").read_text() == "input 2\n"
    assert {task["id"] for task in user.run("gstat", "-n", "--json", "1").document["tasks"]} == {"1.1", "1.2"}


def test_a_malformed_array_adds_nothing(user: User) -> None:
    said = user.run("gsub", "-a", "5-1", "--", "true")
    assert said.status == 2
    assert "'5-1' is no array" in said.err
    assert user.run("gstat", "-n", "--json").tasks == {}


def test_an_element_without_its_input_adds_nothing(user: User) -> None:
    (user.work / "in1.txt").write_text("there\n")
    said = user.run("gsub", "-a", "1-2", "-i", "in{index}.txt", "--", "true")
    assert said.status == 1
    assert "in2.txt does not exist" in said.err
    assert user.run("gstat", "-n", "--json").tasks == {}


def test_tasks_wait_for_others(user: User) -> None:
    good = user.submit("--", "sleep", "1")
    bad = user.submit("--", "sh", "-c", "sleep 1; exit 1")
    expected = {
        user.submit("--after", good, "--", "true"): "DONE",
        user.submit("--after", f"{good},{bad}:any", "--", "true"): "DONE",
        user.submit("--after", bad, "--", "true"): "OMITTED",
        user.submit("--after", f"{bad}:notok", "--after", good, "--", "true"): "DONE",
    }
    user.run("gwait", "-A")
    tasks = user.run("gstat", "-n", "--json").tasks
    assert {task: tasks[task]["state"] for task in expected} == expected
    assert "no task 99" in user.run("gsub", "--after", "99", "--", "true").err


def test_a_script_with_native_header_lines(user: User) -> None:
    (user.work / "job.sh").write_text(SCRIPT)
    said = user.run("gsub", "job.sh", "hello")
    assert said.out.split() == ["1.1", "1.2", "1.3"]
    assert "--no-such-option 1 can't be carried over from slurm" in said.err
    assert user.run("gwait", "1").status == 1
    tasks = user.run("gstat", "-n", "--json").tasks
    assert [(task["name"], task["exitcode"]) for task in tasks.values()] == [("demo", 0), ("demo", 1), ("demo", 0)]
    assert (user.work / "1.3/out-3.txt").read_text() == "task 3 with hello\n"


def test_options_win_over_header_lines(user: User) -> None:
    (user.work / "job.sh").write_text(SCRIPT)
    said = user.run("gsub", "--dry-run", "-N", "other", "-a", "7,9", "job.sh")
    assert "other.TOKEN" in said.out or "other" in said.out
    assert user.run("gsub", "-a", "7,9", "job.sh").out.split() == ["1.7", "1.9"]


def test_suspend_and_resume(user: User) -> None:
    task = user.submit("--", "sleep", "600")
    user.wait_for(task, "RUNNING")
    assert user.run("gsuspend", task).out == f"{task}: done\n"
    user.wait_for(task, "SUSPENDED")
    assert user.run("gresume", task).status == 0
    user.wait_for(task, "RUNNING")
    held = user.run("ghold", task)
    assert held.status == 1
    assert "can't be held" in held.out
    assert user.run("gkill", task).status == 0
