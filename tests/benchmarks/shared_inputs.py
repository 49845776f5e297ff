"""N jobs with one large input in common, over SSH: batchlib against a careful hand-written batch.

By hand means one tar stream with the input once, and a remote loop that links it into each job's directory and calls
sbatch. batchlib is measured twice: when the frontend does not have the input yet, and when it has it from the time
before. What it would take to send the input along with every job is extrapolated from a few jobs. The jobs check the
size of what they got, so a way that does not bring it does not end well.

    python -m tests.benchmarks.shared_inputs [--jobs N] [--size MIB] [--delay MS] [--rounds N]

Starts a Slurm cluster and an SSH server of its own; needs root and Debian's packages, like the live tests. Bytes are
those given to the connection, before encryption. Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from batchlib import Application, State
from batchlib.backends.slurm import SlurmBackend
from batchlib.transport.base import Pipe
from tests.benchmarks.link import delayed_link
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd
from tests.servers.state import make_state_directory, remove_state_directory

#: Seconds between two looks whether all jobs have ended.
POLL = 0.25
#: Jobs that the way without sharing is extrapolated from.
FEW = 3


@attrs.frozen
class Frontend:
    """The SSH server, at the far end of the link."""

    sshd: Sshd
    port: int
    known_hosts: Path


@attrs.frozen
class Cost:
    """What a way took: seconds until all jobs were submitted and until all had ended, and megabytes sent."""

    submitted: float
    ended: float
    megabytes: float


def command(size: int) -> str:
    """The command of every job."""
    return f"test $(wc -c < common) = {size}"


def by_hand(frontend: Frontend, work: Path, common: Path, jobs: int) -> Cost:
    """Do it with ssh, tar and a shell loop."""
    script = f"#!/bin/sh\n#SBATCH --output=log --cpus-per-task=1\n{command(common.stat().st_size)} && echo fine\n"
    for number in range(jobs):
        job = work / f"in/job{number:05d}"
        job.mkdir(parents=True)
        (job / "script").write_text(script)
    os.link(common, work / "in/common")
    control = ["-o", "ControlMaster=auto", "-o", f"ControlPath={work}/control", "-o", "ControlPersist=60"]
    there = ["-o", f"Port={frontend.port}", "-o", f"UserKnownHostsFile={frontend.known_hosts}"]
    ssh = ["ssh", "-F", str(frontend.sshd.config), *there, *control, frontend.sshd.name]
    loop = (
        "rm -rf by-hand && mkdir by-hand && cd by-hand && tar xf - && "
        "for d in job*/; do ln common $d && (cd $d && sbatch script) || exit; done"
    )
    sent = 0
    start = time.monotonic()
    with (
        subprocess.Popen(["tar", "cf", "-", "-C", str(work / "in"), "."], stdout=subprocess.PIPE) as tar,
        subprocess.Popen([*ssh, loop], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as remote,
    ):
        if tar.stdout is None or remote.stdin is None:
            raise SystemExit("no pipes")
        while data := tar.stdout.read(1 << 20):
            remote.stdin.write(data)
            sent += len(data)
        remote.stdin.close()
        if remote.wait():
            raise SystemExit("the batch could not be submitted by hand")
    submitted = time.monotonic() - start
    while subprocess.run([*ssh, "squeue -h -u $USER -o %i"], check=True, capture_output=True).stdout:
        time.sleep(POLL)
    ended = time.monotonic() - start
    fine = subprocess.run([*ssh, "cat by-hand/*/log | grep -c fine"], check=True, capture_output=True, text=True)
    if int(fine.stdout) != jobs:
        raise SystemExit(f"only {fine.stdout} of {jobs} jobs went well")
    subprocess.run([*ssh, "rm -rf by-hand"], check=True)
    subprocess.run([*ssh, "-O", "exit"], check=True, capture_output=True)
    return Cost(submitted, ended, sent / 1e6)


@contextlib.contextmanager
def resource(frontend: Frontend, **keys: object) -> Iterator[tuple[SlurmBackend, list[int]]]:
    """Connect to the cluster, and count what is sent in the list."""
    sshd = frontend.sshd
    backend = SlurmBackend(
        "cluster",
        transport="ssh",
        frontend=sshd.host,
        port=frontend.port,
        username=sshd.user,
        keyfile=str(sshd.keyfile),
        known_hosts=str(frontend.known_hosts),
        ssh_config="none",
        **keys,
    )
    sent: list[int] = []
    carrier = backend.transport.carrier
    opened = carrier.open

    def open_counted(words: str, window: int | None = None) -> Pipe:
        pipe = opened(words, window)
        write = pipe.write

        def counted(data: bytes) -> None:
            sent.append(len(data))
            write(data)

        pipe.write = counted  # type: ignore[method-assign]
        return pipe

    carrier.open = open_counted  # type: ignore[method-assign]
    try:
        yield backend, sent
    finally:
        backend.close()


def with_batchlib(frontend: Frontend, common: Path, jobs: int, **keys: object) -> Cost:
    """Do it with a backend."""
    with resource(frontend, **keys) as (backend, sent):
        apps = [
            Application(["sh", "-c", command(common.stat().st_size)], inputs={str(common): "common"})
            for _ in range(jobs)
        ]
        start = time.monotonic()
        for error in backend.submit_jobs(apps).values():
            if error is not None:
                raise error
        submitted = time.monotonic() - start
        while not all(app.execution.state.final for app in apps):
            time.sleep(POLL)
            backend.update_job_states(apps)
        ended = time.monotonic() - start
        if {app.execution.state for app in apps} != {State.DONE}:
            raise SystemExit("not all jobs are DONE")
        backend.free_jobs(apps)
    return Cost(submitted, ended, sum(sent) / 1e6)


def with_every_job(frontend: Frontend, common: Path, jobs: int) -> Cost:
    """Send the input with each of a few jobs, and extrapolate what this costs beyond one job that needs no input."""
    tiny = common.with_name("tiny")
    tiny.write_bytes(b"x")
    none = with_batchlib(frontend, tiny, FEW, cache_quota="off")
    few = with_batchlib(frontend, common, FEW, cache_quota="off")
    more = [(few.submitted - none.submitted) / FEW, (few.megabytes - none.megabytes) / FEW]
    return Cost(few.submitted + (jobs - FEW) * more[0], 0.0, few.megabytes + (jobs - FEW) * more[1])


def measure(frontend: Frontend, directory: Path, jobs: int, size: int, rounds: int) -> dict[str, list[Cost]]:
    """Let the ways take turns, with a new input in each round."""
    costs: dict[str, list[Cost]] = {"by hand": [], "batchlib": [], "batchlib again": [], "with every job": []}
    for _ in range(rounds):
        work = directory / "work"
        work.mkdir()
        common = work / "common"
        with common.open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(1 << 20))
        costs["by hand"].append(by_hand(frontend, work, common, jobs))
        for name in ("batchlib", "batchlib again"):
            costs[name].append(with_batchlib(frontend, common, jobs))
        costs["with every job"].append(with_every_job(frontend, common, jobs))
        shutil.rmtree(work)
    return costs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="One input for many jobs over SSH, against a hand-written batch.")
    parser.add_argument("--jobs", type=int, default=200, help="jobs (default: %(default)s)")
    parser.add_argument("--size", type=int, default=100, help="MiB of the input (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.0, help="round-trip time in ms to add (default: none)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each way (default: %(default)s)")
    chosen = parser.parse_args()
    directory = make_state_directory()
    try:
        with (
            SlurmCluster(directory / "slurm", accounting=True) as slurm,
            Sshd(directory / "frontend", user=slurm.account.pw_name, set_env=slurm.env) as sshd,
            delayed_link(sshd.host, sshd.port, chosen.delay) as port,
            tempfile.NamedTemporaryFile("w", suffix=".known_hosts") as known_hosts,
        ):
            known_hosts.write(sshd.known_hosts.read_text().replace(f":{sshd.port} ", f":{port} "))
            known_hosts.flush()
            frontend = Frontend(sshd, port, Path(known_hosts.name))
            costs = measure(frontend, directory, chosen.jobs, chosen.size, chosen.rounds)
    finally:
        remove_state_directory(directory)
    report(chosen.jobs, chosen.size, chosen.delay, costs)


def report(jobs: int, size: int, delay: float, costs: dict[str, list[Cost]]) -> None:
    """Print the table and the JSON line."""
    median = {
        name: Cost(*(statistics.median(numbers) for numbers in zip(*map(attrs.astuple, found), strict=True)))
        for name, found in costs.items()
    }
    hand = median["by hand"]
    print(f"{jobs} jobs with one input of {size} MiB, {delay:g} ms added to each round trip")
    print(f"{'way':<16} {'submitted s':>12} {'ended s':>9} {'MB sent':>10} {'ratio':>7}  (time to submit, to by hand)")
    for name, cost in median.items():
        ended = f"{cost.ended:9.2f}" if cost.ended else f"{'-':>9}"
        note = f"  extrapolated from {FEW} jobs" if name == "with every job" else ""
        ratio = cost.submitted / hand.submitted
        print(f"{name:<16} {cost.submitted:>12.2f} {ended} {cost.megabytes:>10.1f} {ratio:>7.2f}{note}")
    seconds = {name: attrs.asdict(cost) for name, cost in median.items()}
    ratio = median["batchlib"].submitted / hand.submitted
    document = {"jobs": jobs, "mebibytes": size, "delay": delay, "ways": seconds, "ratio": round(ratio, 3)}
    print(json.dumps({"benchmark": "shared_inputs", **document}))


if __name__ == "__main__":
    main()
