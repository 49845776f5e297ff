"""Bring the states of many live jobs up to date over SSH: one cycle of batchlib against a bare ``squeue``.

The jobs are held, so that they stay in the queue. Both go over connections that are open; they take turns.

    python -m tests.benchmarks.status [--jobs N] [--single] [--delay MILLISECONDS] [--rounds N]

Starts a Slurm cluster and an SSH server of its own; needs root and Debian's packages, like the live tests.
Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from batchlib import Application, State
from batchlib.backends.slurm import SlurmBackend
from batchlib.sandbox import new_token
from tests.benchmarks.frontend import FrontEnd, reached, slurm_cluster, table

BARE = "squeue -h -r -u $USER"


def hold_array(ssh: list[str], jobs: int) -> list[str]:
    """Submit a held array and give the ids of its elements."""
    sbatch = f"sbatch --parsable -H -o /dev/null --array=0-{jobs - 1} --wrap=true"
    jobid = subprocess.run([*ssh, sbatch], check=True, capture_output=True, text=True).stdout.strip()
    return [f"{jobid}_{index}" for index in range(jobs)]


def hold_jobs(ssh: list[str], jobs: int) -> list[str]:
    """Submit held jobs, four at a time, and give their ids."""
    sbatch = f"seq {jobs} | xargs -P 4 -n 1 sh -c 'sbatch --parsable -H -o /dev/null --wrap=true'"
    return subprocess.run([*ssh, sbatch], check=True, capture_output=True, text=True).stdout.split()


def live_apps(jobids: list[str]) -> list[Application]:
    """Make tasks of jobs that somebody submitted."""
    apps = []
    for jobid in jobids:
        app = Application(["true"])
        app.execution.jobid, app.execution.token = jobid, new_token()
        app.set_state(State.QUEUED)
        apps.append(app)
    return apps


def seconds(action: Callable[[], object]) -> float:
    """Time an action."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(frontend: FrontEnd, directory: Path, jobs: int, single: bool, rounds: int) -> dict[str, list[float]]:
    """Give the times of all rounds, by what was done."""
    ssh = frontend.ssh(directory)
    apps = live_apps((hold_jobs if single else hold_array)(ssh, jobs))
    backend = SlurmBackend.from_settings(frontend.settings)
    times: dict[str, list[float]] = {"bare squeue": [], "update_job_states": [], "of it parsing and judging": []}
    try:
        backend.update_job_states(apps)
        for app in apps:
            if app.execution.state is not State.HELD:
                raise SystemExit(f"the job {app.execution.jobid} is not held but {app.execution.state.value}")
        for _ in range(rounds):
            bare = [*ssh, BARE]
            times["bare squeue"].append(
                seconds(lambda bare=bare: subprocess.run(bare, check=True, stdout=subprocess.PIPE))  # type: ignore[misc]
            )
            trips = backend.transport.round_trips
            processor = time.process_time()
            times["update_job_states"].append(seconds(lambda: backend.update_job_states(apps)))
            times["of it parsing and judging"].append(time.process_time() - processor)
            if backend.transport.round_trips != trips + 1:
                raise SystemExit(f"it took {backend.transport.round_trips - trips} round trips")
    finally:
        backend.close()
        subprocess.run([*ssh, "scancel -u $USER"], check=True)
        subprocess.run([*ssh, "-O", "exit"], check=True, capture_output=True)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Bring states up to date over SSH, against a bare squeue.")
    parser.add_argument("--jobs", type=int, default=10_000, help="live jobs (default: %(default)s)")
    parser.add_argument("--single", action="store_true", help="jobs of their own, instead of elements of an array")
    parser.add_argument("--delay", type=float, default=0, help="milliseconds of the link (default: none)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each (default: %(default)s)")
    chosen = parser.parse_args()
    with slurm_cluster() as (directory, _slurm, sshd), reached(sshd, chosen.delay) as frontend:
        times = measure(frontend, directory, chosen.jobs, chosen.single, chosen.rounds)
    median = {name: statistics.median(found) for name, found in times.items()}
    floor = median["bare squeue"]
    rows = [
        [
            name,
            f"{1000 * median[name]:.0f}",
            f"{median[name] / floor:.2f}",
            " ".join(f"{1000 * one:.0f}" for one in all_),
        ]
        for name, all_ in times.items()
    ]
    print(table([f"{chosen.jobs} live jobs", "median ms", "ratio", "all rounds"], rows))
    ratio = round(median["update_job_states"] / floor, 3)
    document = {"benchmark": "status", "jobs": chosen.jobs, "single": chosen.single, "delay_ms": chosen.delay}
    print(json.dumps({**document, "seconds": median, "ratio": ratio}))


if __name__ == "__main__":
    main()
