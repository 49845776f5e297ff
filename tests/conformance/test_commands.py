"""The same command line means the same on every batch system."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import User
from tests.conformance.sites import PLACES, keys_of

pytestmark = pytest.mark.live

#: What may differ: names of things, times, the batch system's own words.
DIFFERS = frozenset(
    [
        "id",
        "array",
        "resource",
        "jobid",
        "native_state",
        "info",
        "output_dir",
        "created_at",
        "submitted_at",
        "started_at",
        "ended_at",
    ]
)

SCRIPT = """#!/bin/bash
#SBATCH --job-name=dozen
#SBATCH --time=10
#SBATCH --nodes=1
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=100M
#SBATCH --array=1-3
#SBATCH --output=out-%a.txt
#SBATCH --error=err-%a.txt
#SBATCH --no-requeue
#SBATCH --mail-type=NONE
#SBATCH --export=ALL,GREETING="good day"
echo "$GREETING from task $SLURM_ARRAY_TASK_ID with $1"
echo trouble >&2
exit $((SLURM_ARRAY_TASK_ID - 1))
"""


@pytest.fixture(scope="module")
def everywhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """A configuration file with a resource for each batch system: real ones by SSH, pretended ones from here."""
    text = ""
    with contextlib.ExitStack() as stack:
        for name, place in PLACES.items():
            keys, _down = keys_of(request, stack, place, "ssh" if place.fixture else "local")
            text += f"[resource/{name}]\ntype = {place.kind}\n"
            text += "".join(f"{key} = {value}\n" for key, value in keys.items())
        yield text


@pytest.fixture
def user(everywhere: str, tmp_path: Path) -> Iterator[User]:
    """Somebody who has all of them in their configuration."""
    somebody = User(tmp_path)
    somebody.config.write_text(everywhere)
    yield somebody
    somebody.run("gsession", "abort")
    somebody.end()


def _normal(tasks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in task.items() if key not in DIFFERS} for task in tasks.values()]


def test_one_line_gives_the_same_everywhere(user: User) -> None:
    (user.work / "in.txt").write_text("given\n")
    line = ("-N", "same", "-w", "10 min", "-i", "in.txt", "-o", "out.txt", "-a", "3-4", "--", "sh", "-c")
    for name in PLACES:
        said = user.run("gsub", "-r", name, "-d", name, *line, "cp in.txt out.txt; echo {index}; exit {index}")
        assert said.status == 0, said.err
    user.run("gwait", "-A")
    found = {}
    for number, name in enumerate(PLACES, 1):
        found[name] = _normal(user.run("gstat", "-n", "--json", str(number)).tasks)
        assert (user.work / name / f"{number}.4" / "out.txt").read_text() == "given\n"
        assert (user.work / name / f"{number}.4" / "stdout.txt").read_text() == "4\n"
    assert [task["exitcode"] for task in found["shell"]] == [3, 4]
    assert found == dict.fromkeys(PLACES, found["shell"])


@pytest.mark.parametrize("name", ["sge", "pbs", "torque", "volclava"])
def test_a_script_for_slurm_runs_unchanged(user: User, name: str) -> None:
    (user.work / "dozen.sh").write_text(SCRIPT)
    said = user.run("gsub", "-r", name, "dozen.sh", "an argument")
    assert said.out.split() == ["1.1", "1.2", "1.3"], said.err
    user.run("gwait", "1")
    tasks = user.run("gstat", "-n", "--json", "1").tasks
    ends = [(task["name"], task["reason"], task["exitcode"]) for task in tasks.values()]
    assert ends == [("dozen", "exited", code) for code in (0, 1, 2)]
    assert (user.work / "1.2/out-2.txt").read_text() == "good day from task 2 with an argument\n"
    assert (user.work / "1.2/err-2.txt").read_text() == "trouble\n"
