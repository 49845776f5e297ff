"""Submit N jobs with GC3Pie, wait for them and collect their outputs; `peers` tells how this is run.

The time to start Python and to import GC3Pie is not in its time.

GC3Pie lets its user call ``Engine.progress`` as often as he likes. Here 0.25 seconds pass between two calls, as in
the hand-written batch; its own scripts wait 30. The tasks are kept in a session on the disk, as its scripts do.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import gc3libs
from gc3libs.session import Session

POLL = 0.25


def configuration(todo: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Describe the cluster."""
    return {
        "auth/ssh": {"type": "ssh", "username": todo["user"], "port": todo["port"], "keyfile": todo["keyfile"]},
        "resource/cluster": {
            "type": "slurm",
            "auth": "ssh",
            "transport": "ssh",
            "frontend": todo["host"],
            "spooldir": todo["remote"],
            "enabled": "yes",
            "architecture": "x86_64",
            "max_cores": "1000",
            "max_cores_per_job": "2",
            "max_memory_per_core": "2 GiB",
            "max_walltime": "8 hours",
        },
    }


def main() -> None:
    todo = json.load(sys.stdin)
    work = Path(todo["work"])
    start = time.monotonic()
    tasks = []
    for number in range(todo["jobs"]):
        first, second = work / f"first{number}.txt", work / f"second{number}.txt"
        first.write_text(f"first {number}\n")
        second.write_text(f"second {number}\n")
        tasks.append(
            gc3libs.Application(
                arguments=["sh", "-c", todo["command"]],
                inputs={str(first): "first.txt", str(second): "second.txt"},
                outputs=["both.txt", "size.txt"],
                output_dir=str(work / "out" / f"job{number:05d}"),
                requested_cores=1,
            )
        )
    session = Session(str(work / "session"))
    engine = gc3libs.create_engine(cfg_dict=configuration(todo), store=session.store)
    for task in tasks:
        session.add(task)
        engine.add(task)
    submitted = None
    while not all(task.execution.state == "TERMINATED" for task in tasks):
        engine.progress()
        if submitted is None and all(task.execution.state != "NEW" for task in tasks):
            submitted = time.monotonic() - start
        time.sleep(POLL)
    print(json.dumps({"submission": submitted, "total": time.monotonic() - start}))


if __name__ == "__main__":
    main()
