"""A backend for ``tick``, a tiny made-up batch system: ``tsub SCRIPT``, ``tlist``, ``tcancel ID``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from batchlib.backends.base import Action, Answer, Outcome
from batchlib.backends.batch import BatchSystem
from batchlib.backends.native import Job
from batchlib.backends.verdict import JobRow
from batchlib.errors import SystemUnavailable, UnsupportedOperation
from batchlib.run import Reason, State
from batchlib.transport.shell import Completed

_STATES = {
    "waits": (State.QUEUED, None),
    "runs": (State.RUNNING, None),
    "over": (State.DONE, Reason.EXITED),
    "killed": (State.CANCELLED, Reason.CANCELLED_BY_USER),
}


class TickBackend(BatchSystem):
    """A machine with tick. Parameters are those of `BatchSystem`."""

    type = "tick"
    commands: ClassVar[Mapping[str, str]] = {"tsub": "tsub", "tlist": "tlist", "tcancel": "tcancel"}
    submit_command = "tsub"
    template = "tick.sh.j2"
    jobid_pattern = r"job (?P<jobid>\d+) accepted"
    jobid_expression = '"$TICK_JOB"'
    outer_variables = "TICK_*"
    transient_submit = ("tick is asleep",)

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """List all jobs: number, state and name on each line."""
        return self.command("tlist")

    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read the list; a line that is none counts for nothing."""
        if answer.exitcode != 0:
            raise SystemUnavailable(f"tlist does not answer: {answer.err.strip()}", resource=self.name)
        rows = {}
        for line in answer.out.splitlines():
            jobid, _, rest = line.partition(" ")
            native, _, name = rest.partition(" ")
            if jobid.isdigit():
                state, reason = _STATES.get(native, (State.UNDETERMINED, None))
                rows[jobid] = JobRow(jobid, state, native, reason, name=name)
        return rows

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look for jobs by their unique names: the list has them."""
        return {"list": self.command("tlist")}

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read the list once more."""
        return {row.name: row.jobid for row in self.parse_queue(parts["list"]).values()}

    def control_command(self, action: Action, job: Job, signal: str) -> str:
        """Cancel is all that tick can do."""
        if action is not Action.CANCEL:
            raise UnsupportedOperation(f"tick can't {action.value} jobs", resource=self.name)
        return f"{self.command('tcancel')} {job.jobid}"

    def control_answer(self, action: Action, job: Job, answer: Completed) -> Answer:
        """Read what tcancel says."""
        return Answer(Outcome.DONE if answer.exitcode == 0 else Outcome.NOT_FOUND)

    def version_command(self) -> str:
        """Ask for the version."""
        return "echo tick 1.0"
