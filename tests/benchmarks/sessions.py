"""Sessions of a hundred thousand tasks: what adding, loading, a cycle, and a listing take, and how that grows.

Every row is measured at a tenth of the tasks and at all of them, each in a process of its own; nothing may grow faster
than tenfold. The commands get their wall-clock time and the memory at their peak, less what the same command needs for
one task. Beside ``gstat`` stands a program by hand that reads the same columns with ``sqlite3`` and prints them, with
no thought for states, times, or the width of columns.

    python -m tests.benchmarks.sessions [--tasks N]

Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import attrs

from batchlib import Application, Engine, Session, State
from batchlib.config import Configuration
from tests.stand_in import StandIn

#: How the same listing would be written by hand.
BY_HAND = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
columns = "id, name, state, exitcode, resource, jobid, submitted_at, started_at, ended_at, info"
for row in connection.execute(f"SELECT {columns} FROM tasks ORDER BY number"):
    print("\\t".join(map(str, row)))
"""


#: Runs a module and tells how much memory it needed, in KiB.
PEAK = """
import runpy, sys
sys.argv.pop(0)
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    with open("/proc/self/status") as file:
        print(file.read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""


@attrs.frozen
class Taken:
    """What one row took.

    Parameters
    ----------
    seconds : float
        Time.
    memory : int
        Memory at the peak, in bytes.
    """

    seconds: float
    memory: int


# --- steps, each in a process of its own ---------------------------------------------------------------------


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def add(directory: Path, tasks: int) -> float:
    """Add tasks that are all different."""
    apps = [
        Application(["./simulate", "--seed", str(number)], inputs={"simulate": "simulate"}, outputs=["result.csv"])
        for number in range(tasks)
    ]
    with Session(directory / "different") as session:
        session.store.revision()
        return timed(lambda: session.add(*apps))


def gsub(directory: Path, name: str, *options: str) -> float:
    """Run gsub while somebody else drives the session, so that nothing is submitted."""
    from batchlib.cli import gsub as command

    arguments = ["gsub", "-s", str(directory / name), "-d", str(directory / "out"), *options, "--", "./simulate"]
    with (
        Session(directory / name) as session,
        session.driving(),
        open(os.devnull, "w") as nowhere,
        mock.patch.multiple(sys, argv=arguments, stdout=nowhere, stderr=nowhere),
        mock.patch.object(command, "_PATIENCE", 0.0),
    ):
        return timed(lambda: ends_well(command.main))


def ends_well(command: Callable[[], None]) -> None:
    try:
        command()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"the command ended with {end.code}") from end


def load(directory: Path, name: str) -> float:
    """Open a session and read all of it."""
    with Session(directory / name) as session:
        return timed(session.load)


def engine(session: Session, *, fetch: bool = False) -> Engine:
    site = StandIn("site", ends=lambda app, looks: False)
    return Engine(session, Configuration({}), on="site", backends={"site": site}, fetch=fetch)


def submit(directory: Path) -> float:
    """Submit the array to a stand-in, which takes no time."""
    with Session(directory / "array") as session, engine(session) as driver:
        apps = session.load()
        for app in apps:
            app.execution.resource = "site"
        session.save(apps)
        taken = timed(driver.progress)
        if session.counts() != {State.QUEUED: len(apps)}:
            raise RuntimeError(f"not all are queued: {session.counts()}")
        for app in apps:
            app.set_state(State.RUNNING)
        session.save(apps)
    return taken


def cycles(directory: Path, *, again: bool, fetch: bool = False) -> float:
    """Run a cycle in which nothing changes: the first one of a process, or a later one."""
    with Session(directory / "array") as session, engine(session, fetch=fetch) as driver:
        session.store.revision()
        # looks are not spared because there was one just now
        with mock.patch("batchlib.polling.Look.wait", return_value=0.0):
            if again:
                driver.progress()
            return timed(driver.progress)


def end(directory: Path) -> float:
    """End all tasks of the array, and write so."""
    with Session(directory / "array") as session:
        apps = session.load()
        for app in apps:
            app.execution.exitcode, app.execution.collected = 0, True
            app.set_state(State.DONE)
        return timed(lambda: session.save(apps))


STEPS: dict[str, Callable[[Path, int], float]] = {
    "add, all different": add,
    "gsub -n N": lambda directory, tasks: gsub(directory, "copies", "-n", str(tasks)),
    "gsub -a 1-N": lambda directory, tasks: gsub(directory, "array", "-a", f"1-{tasks}"),
    "load, all different": lambda directory, tasks: load(directory, "different"),
    "load, array": lambda directory, tasks: load(directory, "array"),
    "submit to a stand-in": lambda directory, tasks: submit(directory),
    "first cycle, all live": lambda directory, tasks: cycles(directory, again=False),
    "next cycle, all live": lambda directory, tasks: cycles(directory, again=True),
    "save, all": lambda directory, tasks: end(directory),
    "first cycle, all done": lambda directory, tasks: cycles(directory, again=False, fetch=True),
    "next cycle, all done": lambda directory, tasks: cycles(directory, again=True, fetch=True),
}
#: Commands on the array, whose tasks have all ended by then.
COMMANDS = {
    "gstat": ["gstat"],
    "gstat -n": ["gstat", "-n"],
    "gstat --json": ["gstat", "--json"],
    "gstat -l failed": ["gstat", "-l", "failed"],
    "gstat ID": ["gstat", "1.1"],
}


# --- processes ----------------------------------------------------------------------------------------------


def run(arguments: Sequence[str], directory: Path) -> Taken:
    """Run Python with arguments; give the time that it took, and its memory at the peak."""
    environment = {**os.environ, "BATCHLIB_CONF": str(directory / "batchlib.conf"), "PYTHONPATH": os.getcwd()}
    with open(directory / "output", "wb") as output:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=output, env=environment, check=True)
        seconds = time.perf_counter() - start
        if arguments[0] == "-c":
            return Taken(seconds, 0)
        # once more, as the system's own count of a child's memory begins with that of its parent
        again = [sys.executable, "-c", PEAK, *arguments[1:]]
        told = subprocess.run(again, stdout=output, stderr=subprocess.PIPE, env=environment, text=True, check=True)
        return Taken(seconds, int(told.stderr.split()[-1]) * 1024)


def step(name: str, directory: Path, tasks: int) -> Taken:
    """Take a step in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.sessions", "--step", name]
    command += ["--directory", str(directory), "--tasks", str(tasks)]
    environment = {**os.environ, "BATCHLIB_CONF": str(directory / "batchlib.conf")}
    said = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return Taken(float(said.stdout), int(said.stderr.split()[-1]) * 1024)


def peak() -> int:
    """Give the most memory that this process has had, in KiB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def measure(directory: Path, tasks: int, rounds: int) -> Iterator[tuple[str, Taken]]:
    """Measure all rows for some number of tasks."""
    directory.mkdir()
    (directory / "batchlib.conf").write_text("[resource/here]\ntype = shell\nmax_cores = 4\n")
    for name in STEPS:
        yield name, step(name, directory, tasks)
    session = directory / "array"
    commands = {
        name: ["-m", f"batchlib.cli.{words[0]}", "-s", str(session), *words[1:]] for name, words in COMMANDS.items()
    }
    commands["by hand"] = ["-c", BY_HAND, str(session / "session.db")]
    best: dict[str, Taken] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            taken = run(command, directory)
            best[name] = min(best.get(name, taken), taken, key=lambda one: one.seconds)
    yield from best.items()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Sessions of many tasks.")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks of the larger session (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command, of which the best counts")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step is not None:
        print(STEPS[chosen.step](chosen.directory, chosen.tasks))
        print(peak(), file=sys.stderr)
        return
    found: dict[str, list[Taken]] = {}
    sizes = [1, chosen.tasks // 10, chosen.tasks]
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            for name, taken in measure(Path(temporary, str(size)), size, chosen.rounds):
                found.setdefault(name, []).append(taken)
    report(sizes, found)


def report(sizes: Sequence[int], found: dict[str, list[Taken]]) -> None:
    """Print the table and the JSON line."""
    print(
        f"{'':<24}{f'{sizes[1]} tasks':>14}{f'{sizes[2]} tasks':>14}{'growth':>8}{'us a task':>11}{'bytes a task':>14}"
    )
    rows = {}
    for name, (one, tenth, whole) in found.items():
        growth = whole.seconds / tenth.seconds
        memory = (whole.memory - one.memory) / sizes[2]
        rows[name] = {
            "seconds": [round(tenth.seconds, 4), round(whole.seconds, 4)],
            "growth": round(growth, 2),
            "bytes_per_task": round(memory),
        }
        times = f"{tenth.seconds:>12.3f} s{whole.seconds:>12.3f} s"
        print(f"{name:<24}{times}{growth:>8.1f}{whole.seconds / sizes[2] * 1e6:>11.1f}{memory:>14.0f}")
    ratio = found["gstat -n"][2].seconds / found["by hand"][2].seconds
    print(f"gstat -n of {sizes[2]} tasks takes {ratio:.2f} times as long as the program by hand")
    print(json.dumps({"benchmark": "sessions", "tasks": sizes[1:], "rows": rows, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
