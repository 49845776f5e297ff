"""How long it takes until a command has answered: its help, and its work on a session of one task.

Beside each stands an interpreter that does nothing, as many times and in turns with it; the best of all runs counts, as
whatever else the machine does only ever adds. The commands are the installed scripts; ``gsub`` submits to plain
processes of this machine, shell and all.

    python -m tests.benchmarks.start_up [--rounds N]

Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import entry_points
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
NAMES = sorted(point.name for point in entry_points(group="console_scripts") if point.value.startswith("batchlib.cli."))
BARE = [sys.executable, "-c", "pass"]
#: The most that rows may take, in milliseconds, where an interpreter that does nothing takes 11 ms.
IMPORT, HELP, WORK = 80.0, 100.0, 250.0


def commands(session: str) -> dict[str, tuple[list[str], float]]:
    """Give what is measured, and its limit."""
    work = {
        "gstat": [],
        "gstat -n": ["-n"],
        "gstat --json": ["--json"],
        "gwait": [],
        "ginfo 1": ["1"],
        "gget 1": ["1"],
        "gtail 1": ["1"],
        "gkill 1": ["1"],
        "gsession info": ["info"],
        "gsub true": ["-d", os.path.join(session, "out"), "true"],
    }
    found: dict[str, tuple[list[str], float]] = {"import batchlib": ([sys.executable, "-c", "import batchlib"], IMPORT)}
    for name in NAMES:
        found[f"{name} --help"] = ([str(SCRIPTS / name), "--help"], HELP)
    for name, words in work.items():
        found[name] = ([str(SCRIPTS / name.split()[0]), "-s", session, *words], WORK)
    return found


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Run a command and give the milliseconds that it took."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How long commands take to start.")
    parser.add_argument("--rounds", type=int, default=10, help="runs of each command (default: %(default)s)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHLIB", "XDG", "SSH_"))}
        environment = {**kept, "HOME": home, "PYTHONPATH": os.getcwd()}
        session = os.path.join(home, "session")
        gsub = [str(SCRIPTS / "gsub"), "-W", "-d", os.path.join(home, "out"), "-s", session, "true"]
        timed(gsub, environment)
        measured = commands(session)
        best: dict[str, float] = {}
        bare = float("inf")
        for _ in range(chosen.rounds):
            for name, (command, _) in measured.items():
                bare = min(bare, timed(BARE, environment))
                best[name] = min(best.get(name, float("inf")), timed(command, environment))
                # a task that ended is the same for all that come after
                if name == "gsub true":
                    timed([str(SCRIPTS / "gwait"), "-s", session], environment)
    report(bare, best, {name: limit for name, (_, limit) in measured.items()})


def report(bare: float, best: dict[str, float], limits: dict[str, float]) -> None:
    """Print the table and the JSON line."""
    print(f"{'':<20}{'best ms':>9}{'times bare Python':>19}{'limit ms':>10}")
    print(f"{'bare Python':<20}{bare:>9.1f}{1.0:>19.1f}")
    for name, taken in best.items():
        print(f"{name:<20}{taken:>9.1f}{taken / bare:>19.1f}{limits[name]:>10.0f}")
    worst = max(best, key=lambda name: best[name] / limits[name])
    print(f"nearest to its limit: {worst}, {best[worst]:.0f} of {limits[worst]:.0f} ms")
    milliseconds = {"bare Python": round(bare, 1), **{name: round(taken, 1) for name, taken in best.items()}}
    print(json.dumps({"benchmark": "start_up", "ms": milliseconds, "ratio": round(best["gstat"] / bare, 3)}))


if __name__ == "__main__":
    main()
