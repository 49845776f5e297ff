"""Submit N jobs over SSH, wait for them, collect their outputs: batchlib against a careful hand-written batch.

By hand means what somebody who knows better than one connection a job would write: one tar stream in, one remote
loop of sbatch, squeue until all have gone, one tar stream out, all over one multiplexed ``ssh`` connection. Every
job has two small inputs and two outputs. The ways take turns, so that all meet the same machine.

    python -m tests.benchmarks.submit [--jobs N...] [--delay MILLISECONDS...] [--rounds N] [--ways NAME...]

Starts a Slurm cluster and an SSH server of its own; needs root and Debian's packages, like the live tests.
Prints a table and, as its last line, a JSON document. Other libraries do the same work beside them when they are
installed; see ``peers``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from batchlib import Application, Engine, Session, State
from batchlib.config import Configuration
from tests.benchmarks.frontend import FrontEnd, reached, slurm_cluster, table
from tests.benchmarks.peers import PEERS, add_peer_options, peer_ways

#: Seconds between two looks of the hand-written batch, as short as batchlib's shortest.
POLL = 0.25
COMMAND = "cat first.txt second.txt > both.txt; wc -c both.txt > size.txt"


def by_hand(frontend: FrontEnd, work: Path, jobs: int) -> None:
    """Do it with ssh, tar and a shell loop."""
    for number in range(jobs):
        job = work / "in" / f"job{number:05d}"
        job.mkdir(parents=True)
        (job / "first.txt").write_text(f"first {number}\n")
        (job / "second.txt").write_text(f"second {number}\n")
        (job / "script").write_text(f"#!/bin/sh\n#SBATCH --output=log --cpus-per-task=1\n{COMMAND}\n")
    ssh = frontend.ssh(work)
    there = frontend.scratch / work.name
    loop = f"mkdir {there} && cd {there} && tar xf - && for d in */; do (cd $d && sbatch script) || exit; done"
    with subprocess.Popen(["tar", "cf", "-", "-C", str(work / "in"), "."], stdout=subprocess.PIPE) as tar:
        subprocess.run([*ssh, loop], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL)
    while subprocess.run([*ssh, "squeue -h -u $USER -o %i"], check=True, capture_output=True).stdout:
        time.sleep(POLL)
    fetch = f"cd {there} && tar cf - */both.txt */size.txt"
    (work / "out").mkdir()
    with subprocess.Popen([*ssh, fetch], stdout=subprocess.PIPE) as remote:
        subprocess.run(["tar", "xf", "-", "-C", str(work / "out")], stdin=remote.stdout, check=True)
    subprocess.run([*ssh, "-O", "exit"], check=True, capture_output=True)


def with_batchlib(frontend: FrontEnd, work: Path, jobs: int) -> None:
    """Do it with a session and an engine."""
    configuration = Configuration({"cluster": frontend.settings})
    apps = []
    for number in range(jobs):
        first, second = work / f"first{number}.txt", work / f"second{number}.txt"
        first.write_text(f"first {number}\n")
        second.write_text(f"second {number}\n")
        apps.append(
            Application(
                ["sh", "-c", COMMAND],
                inputs={str(first): "first.txt", str(second): "second.txt"},
                outputs=["both.txt", "size.txt"],
                output_dir=work / "out" / f"job{number:05d}",
            )
        )
    with Session(work / "session") as session, Engine(session, configuration, fetch=True) as engine:
        session.add(*apps)
        counts = engine.run(on="cluster")
    if counts != {State.DONE: jobs}:
        raise SystemExit(f"not all jobs are DONE: {counts}")


#: Each is given the front end, a directory of its own and the number of jobs, and leaves the outputs of job number N
#: in the directory ``out/jobNNNNN`` there. A way that starts a program gives the seconds that the work itself took.
Way = Callable[[FrontEnd, Path, int], float | None]
WAYS: Mapping[str, Way] = {
    "by hand": by_hand,
    "batchlib": with_batchlib,
}
#: What the others are compared with.
FLOOR = "by hand"


def timed(way: Way, frontend: FrontEnd, directory: Path, jobs: int) -> float:
    """Run one way once, check its results, and give the seconds it took."""
    work = Path(tempfile.mkdtemp(dir=directory))
    start = time.monotonic()
    own = way(frontend, work, jobs)
    seconds = time.monotonic() - start if own is None else own
    for number in range(jobs):
        found = (work / "out" / f"job{number:05d}" / "both.txt").read_text()
        if found != f"first {number}\nsecond {number}\n":
            raise SystemExit(f"job {number} brought back {found!r}")
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Submit, wait and collect over SSH, against a hand-written batch.")
    parser.add_argument("--jobs", type=int, nargs="+", default=[50], help="jobs in each round (default: 50)")
    parser.add_argument("--delay", type=float, nargs="+", default=[0], help="milliseconds of the link (default: 0)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", default=[*WAYS, *PEERS], choices=[*WAYS, *PEERS], help="default: all")
    add_peer_options(parser)
    chosen = parser.parse_args()
    ways = {**WAYS, **peer_ways(chosen, COMMAND)}
    results = []
    with slurm_cluster() as (directory, slurm, sshd):
        for jobs in chosen.jobs:
            for delay in chosen.delay:
                times: dict[str, list[float]] = {name: [] for name in chosen.ways if name in ways}
                with reached(sshd, delay) as frontend:
                    for _ in range(chosen.rounds):
                        for name, seconds in times.items():
                            seconds.append(timed(ways[name], frontend, directory, jobs))
                            slurm.cancel_all()
                results.append({"jobs": jobs, "delay_ms": delay, "seconds": times})
    report(results, missing=[name for name in chosen.ways if name not in ways])


def report(results: list[dict[str, object]], missing: list[str]) -> None:
    """Print the table and the JSON line."""
    rows = []
    for result in results:
        times = result["seconds"]
        if not isinstance(times, dict):
            raise TypeError(times)
        median = {name: statistics.median(seconds) for name, seconds in times.items()}
        result["ratio"] = {name: round(value / median[FLOOR], 3) for name, value in median.items() if FLOOR in median}
        for name, seconds in times.items():
            ratio = median[name] / median.get(FLOOR, median[name])
            rows.append(
                [
                    name,
                    result["jobs"],
                    result["delay_ms"],
                    f"{median[name]:.2f}",
                    f"{ratio:.2f}",
                    " ".join(f"{one:.2f}" for one in seconds),
                ]
            )
    rows += [[name, "-", "-", "-", "-", "not installed"] for name in missing]
    print(table(["way", "jobs", "delay ms", "median s", "ratio", "all rounds"], rows))
    print(json.dumps({"benchmark": "submit", "results": results}))


if __name__ == "__main__":
    main()
