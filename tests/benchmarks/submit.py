"""Submit N jobs over SSH, wait for them, collect their outputs: batchlib against a careful hand-written batch.

By hand means what somebody who knows better than one connection a job would write: one tar stream in, one remote
loop of sbatch, squeue until all have gone, one tar stream out, all over one multiplexed ``ssh`` connection. Every
job has two small inputs and two outputs. The two take turns, so that both meet the same machine.

    python -m tests.benchmarks.submit [--jobs N] [--rounds N]

Starts a Slurm cluster and an SSH server of its own; needs root and Debian's packages, like the live tests.
Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from batchlib import Application, Engine, Session, State
from batchlib.config import Configuration, resource_settings
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd
from tests.servers.state import make_state_directory, remove_state_directory

#: Seconds between two looks of the hand-written batch, as short as batchlib's shortest.
POLL = 0.25
COMMAND = "cat first.txt second.txt > both.txt; wc -c both.txt > size.txt"


def by_hand(sshd: Sshd, work: Path, jobs: int) -> None:
    """Do it with ssh, tar and a shell loop."""
    for number in range(jobs):
        job = work / "in" / f"job{number:05d}"
        job.mkdir(parents=True)
        (job / "first.txt").write_text(f"first {number}\n")
        (job / "second.txt").write_text(f"second {number}\n")
        (job / "script").write_text(f"#!/bin/sh\n#SBATCH --output=log --cpus-per-task=1\n{COMMAND}\n")
    control = ["-o", "ControlMaster=auto", "-o", f"ControlPath={work}/control", "-o", "ControlPersist=60"]
    ssh = ["ssh", "-F", str(sshd.config), *control, sshd.name]
    loop = (
        "rm -rf by-hand && mkdir by-hand && cd by-hand && tar xf - && "
        "for d in */; do (cd $d && sbatch script) || exit; done"
    )
    with subprocess.Popen(["tar", "cf", "-", "-C", str(work / "in"), "."], stdout=subprocess.PIPE) as tar:
        subprocess.run([*ssh, loop], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL)
    while subprocess.run([*ssh, "squeue -h -u $USER -o %i"], check=True, capture_output=True).stdout:
        time.sleep(POLL)
    fetch = "cd by-hand && tar cf - */both.txt */size.txt"
    (work / "out").mkdir()
    with subprocess.Popen([*ssh, fetch], stdout=subprocess.PIPE) as remote:
        subprocess.run(["tar", "xf", "-", "-C", str(work / "out")], stdin=remote.stdout, check=True)
    subprocess.run([*ssh, "-O", "exit"], check=True, capture_output=True)


def with_batchlib(sshd: Sshd, work: Path, jobs: int) -> None:
    """Do it with a session and an engine."""
    keys = {
        "type": "slurm",
        "transport": "ssh",
        "frontend": sshd.host,
        "port": str(sshd.port),
        "username": sshd.user,
        "keyfile": str(sshd.keyfile),
        "known_hosts": str(sshd.known_hosts),
        "ssh_config": "none",
    }
    configuration = Configuration({"cluster": resource_settings("cluster", keys)})
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


def timed(way: Callable[[Sshd, Path, int], None], sshd: Sshd, directory: Path, jobs: int) -> float:
    """Run one way once, check its results, and give the seconds it took."""
    work = directory / "work"
    work.mkdir()
    start = time.monotonic()
    way(sshd, work, jobs)
    seconds = time.monotonic() - start
    for number in range(jobs):
        found = (work / "out" / f"job{number:05d}" / "both.txt").read_text()
        if found != f"first {number}\nsecond {number}\n":
            raise SystemExit(f"job {number} brought back {found!r}")
    shutil.rmtree(work)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Submit, wait and collect over SSH, against a hand-written batch.")
    parser.add_argument("--jobs", type=int, default=50, help="jobs in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (default: %(default)s)")
    chosen = parser.parse_args()
    directory = make_state_directory()
    try:
        with (
            SlurmCluster(directory / "slurm", accounting=True) as slurm,
            Sshd(directory / "frontend", user=slurm.account.pw_name, set_env=slurm.env) as sshd,
        ):
            times: dict[str, list[float]] = {"by hand": [], "batchlib": []}
            for _ in range(chosen.rounds):
                for name, way in (("by hand", by_hand), ("batchlib", with_batchlib)):
                    times[name].append(timed(way, sshd, directory, chosen.jobs))
    finally:
        remove_state_directory(directory)
    report(chosen.jobs, times)


def report(jobs: int, times: dict[str, list[float]]) -> None:
    """Print the table and the JSON line."""
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratio = median["batchlib"] / median["by hand"]
    print(f"{'way':<10} {'median s':>9}  all rounds")
    for name, seconds in times.items():
        print(f"{name:<10} {median[name]:>9.2f}  {' '.join(f'{second:.2f}' for second in seconds)}")
    print(f"{jobs} jobs: batchlib takes {ratio:.2f} times as long as the hand-written batch")
    print(json.dumps({"benchmark": "submit", "jobs": jobs, "seconds": median, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
