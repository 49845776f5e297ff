"""A native array over SSH: submitted, polled, run, collected, against ``sbatch --array``, ``squeue`` and tar.

By hand means: one tar stream with an input for each element and one script, one ``sbatch --array``, ``squeue`` until
nothing is left, one tar stream out. In batchlib every element has a sandbox and a command of its own. The parts that
depend on the client are timed apart from the run, which takes the nodes as long as it takes them; with ``--held`` the
array is submitted and polled but never runs, and what is collected was written by a stand-in.

    python -m tests.benchmarks.array [--elements N] [--held] [--delay MILLISECONDS] [--rounds N]

Starts a Slurm cluster and an SSH server of its own; needs root and Debian's packages, like the live tests.
Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchlib import Application
from batchlib.array import ArraySpec, expand_array
from batchlib.backends.slurm import SlurmBackend
from tests.benchmarks.frontend import FrontEnd, reached, slurm_cluster, table

PARTS = ("submit", "poll", "collect")
COMMAND = "cat in.txt > out.txt"
#: What a node would have left in the directory of an element.
STAND_IN = "for d in [0-9]*/; do ( cd $d && cat in.txt > out.txt && : > stdout.txt ); done"
POLL = 0.25

Times = dict[str, float]


@contextmanager
def timed(times: Times, part: str) -> Iterator[None]:
    """Note how long a part takes."""
    start = time.perf_counter()
    yield
    times[part] = time.perf_counter() - start


def by_hand(frontend: FrontEnd, work: Path, elements: int, held: bool) -> Times:
    """Do it with ssh, tar and Slurm's commands."""
    times: Times = {}
    for index in range(elements):
        (work / "in" / str(index)).mkdir(parents=True)
        (work / "in" / str(index) / "in.txt").write_text(f"{index}\n")
    (work / "in/script").write_text(
        f"#!/bin/sh\n#SBATCH --output=%a/stdout.txt\ncd $SLURM_ARRAY_TASK_ID && {COMMAND}\n"
    )
    ssh = frontend.ssh(work)
    subprocess.run([*ssh, "true"], check=True)
    there = frontend.scratch / work.name
    hold = "--hold" if held else ""
    program = f"mkdir {there} && cd {there} && tar xf - && sbatch --parsable {hold} --array=0-{elements - 1} script"
    pack = ["tar", "cf", "-", "-C", str(work / "in"), "."]
    with timed(times, "submit"), subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
        subprocess.run([*ssh, program], stdin=tar.stdout, check=True, capture_output=True)
    squeue = [*ssh, "squeue -h -r -u $USER"]
    with timed(times, "poll"):
        subprocess.run(squeue, check=True, capture_output=True)
    if held:
        subprocess.run([*ssh, f"cd {there}; {STAND_IN}; scancel -u $USER"], check=True)
    while subprocess.run(squeue, check=True, capture_output=True).stdout:
        time.sleep(POLL)
    (work / "out").mkdir()
    with timed(times, "collect"):
        fetch = f"cd {there} && tar cf - */out.txt */stdout.txt"
        with subprocess.Popen([*ssh, fetch], stdout=subprocess.PIPE) as remote:
            subprocess.run(["tar", "xf", "-", "-C", str(work / "out")], stdin=remote.stdout, check=True)
    subprocess.run([*ssh, "-O", "exit"], check=True, capture_output=True)
    return times


def with_batchlib(frontend: FrontEnd, work: Path, elements: int, held: bool) -> Times:
    """Do it with a backend."""
    times: Times = {}
    (work / "in").mkdir()
    for index in range(elements):
        (work / "in" / str(index)).write_text(f"{index}\n")
    app = Application(
        ["sh", "-c", COMMAND], inputs={str(work / "in/{index}"): "in.txt"}, outputs=["out.txt"], join=True, hold=held
    )
    apps = expand_array(app, ArraySpec(tuple(range(elements))), "array")
    backend = SlurmBackend.from_settings(frontend.settings)
    try:
        spool = backend.spool
        with timed(times, "submit"):
            refused = [error for error in backend.submit_jobs(apps).values() if error is not None]
        if refused:
            raise SystemExit(f"not submitted: {refused[0]}")
        with timed(times, "poll"):
            backend.update_job_states(apps)
        if held:
            root = (apps[0].execution.token or "").partition("/")[0]
            backend.transport.run(f"cd {spool}/{root}; {STAND_IN}; scancel -u $USER")
        else:
            while not all(app.execution.state.final for app in apps):
                time.sleep(POLL)
                backend.update_job_states(apps)
        with timed(times, "collect"):
            backend.collect_jobs({app: work / "out" / str(index) for index, app in enumerate(apps)})
    finally:
        backend.close()
    return times


def check(work: Path, elements: int) -> None:
    """See that all results are there and right."""
    for index in range(elements):
        found = (work / "out" / str(index) / "out.txt").read_text()
        if found != f"{index}\n":
            raise SystemExit(f"element {index} brought back {found!r}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A native array over SSH, against sbatch --array, squeue and tar.")
    parser.add_argument("--elements", type=int, default=1000, help="elements (default: %(default)s)")
    parser.add_argument("--held", action="store_true", help="never run it: a stand-in writes the results")
    parser.add_argument("--delay", type=float, default=0, help="milliseconds of the link (default: none)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each way (default: %(default)s)")
    chosen = parser.parse_args()
    found: dict[str, list[Times]] = {"by hand": [], "batchlib": []}
    with slurm_cluster() as (directory, slurm, sshd), reached(sshd, chosen.delay) as frontend:
        for _ in range(chosen.rounds):
            for name, way in (("by hand", by_hand), ("batchlib", with_batchlib)):
                work = Path(tempfile.mkdtemp(dir=directory))
                start = time.perf_counter()
                times = way(frontend, work, chosen.elements, chosen.held)
                found[name].append({**times, "all": time.perf_counter() - start})
                check(work, chosen.elements)
                slurm.cancel_all()
    parts = [*PARTS, "all"]
    median = {
        name: {part: statistics.median(one[part] for one in all_) for part in parts} for name, all_ in found.items()
    }
    ratio = {part: median["batchlib"][part] / median["by hand"][part] for part in parts}
    rows = [[part, *(f"{median[name][part]:.3f}" for name in median), f"{ratio[part]:.2f}"] for part in parts]
    print(table([f"{chosen.elements} elements", *(f"{name} s" for name in median), "ratio"], rows))
    document = {"benchmark": "array", "elements": chosen.elements, "held": chosen.held, "delay_ms": chosen.delay}
    print(json.dumps({**document, "seconds": median, "ratio": {part: round(one, 3) for part, one in ratio.items()}}))


if __name__ == "__main__":
    main()
