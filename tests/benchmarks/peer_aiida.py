"""Submit N jobs with AiiDA, wait for them and collect their outputs; `peers` tells how this is run.

Its time begins with the nodes of the inputs and ends with the outputs copied out of AiiDA's repository; the start of
Python, the import and the making of a profile are not in it.

The profile keeps its data in SQLite and has no message broker: the event loop of this process runs all calculations
side by side, with checkpoints, as a daemon's worker does. The transport is ``core.ssh_async``, the quickest of
AiiDA's. Jobs are looked for every 0.25 seconds at most, as in the hand-written batch, and a connection is opened 0.25
seconds after it was asked for, so that others may share it; AiiDA's own values are 10 and 15 seconds.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec
from aiida.manage import get_manager
from aiida.manage.configuration import create_profile, get_config, load_profile

POLL = 0.25


class Concatenation(CalcJob):
    command: str

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        super().define(spec)
        spec.input("first", valid_type=orm.SinglefileData)
        spec.input("second", valid_type=orm.SinglefileData)

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = ["-c", self.command]
        calculation = CalcInfo()
        calculation.codes_info = [code]
        calculation.local_copy_list = [
            (self.inputs[name].uuid, self.inputs[name].filename, f"{name}.txt") for name in ("first", "second")
        ]
        calculation.retrieve_list = ["both.txt", "size.txt"]
        return calculation


def code_on_cluster(todo: dict[str, Any]) -> orm.InstalledCode:
    """Make a profile that knows the cluster and the shell on it."""
    config = get_config(create=True)
    create_profile(config, name="peer", email="peer@localhost", storage_backend="core.sqlite_dos", storage_config={})
    load_profile("peer")
    computer = orm.Computer(
        label="cluster",
        hostname=todo["name"],
        transport_type="core.ssh_async",
        scheduler_type="core.slurm",
        workdir=todo["remote"],
    ).store()
    computer.configure(safe_interval=POLL)
    computer.set_minimum_job_poll_interval(POLL)
    computer.set_default_mpiprocs_per_machine(1)
    return orm.InstalledCode(computer=computer, filepath_executable="/bin/sh", label="sh").store()


async def run_all(calculations: list[CalcJob]) -> float:
    """Run them until all have ended, and give the time at which the last was submitted."""
    ends = asyncio.gather(*(calculation.step_until_terminated() for calculation in calculations))
    for calculation in calculations:
        while calculation.node.get_job_id() is None and not ends.done():
            await asyncio.sleep(POLL)
    submitted = time.monotonic()
    await ends
    return submitted


def main() -> None:
    todo = json.load(sys.stdin)
    Concatenation.command = todo["command"]
    code = code_on_cluster(todo)
    runner = get_manager().get_runner()
    metadata = {"options": {"resources": {"num_machines": 1}, "withmpi": False}}
    start = time.monotonic()
    calculations = []
    for number in range(todo["jobs"]):
        inputs = {name: orm.SinglefileData.from_string(f"{name} {number}\n") for name in ("first", "second")}
        calculations.append(runner.instantiate_process(Concatenation, code=code, metadata=metadata, **inputs))
    submitted = runner.run_until_complete(run_all(calculations))
    for number, calculation in enumerate(calculations):
        repository = calculation.node.outputs.retrieved.base.repository
        repository.copy_tree(Path(todo["work"]) / "out" / f"job{number:05d}")
    print(json.dumps({"submission": submitted - start, "total": time.monotonic() - start}))


if __name__ == "__main__":
    main()
