"""Slurm.

Facts about Slurm's commands were measured on 22.05.8; the wording of its messages is that of its sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from ..quantity import Memory, whole_number
from ..run import NativeDependency
from ..transport.shell import Completed
from . import control
from .base import Action, Answer, JobInfo, Machine, Outcome, Queue
from .batch import BatchSystem
from .native import Job
from .programs import quote
from .slurm_text import (
    ACCOUNTING_FIELDS,
    LISTING_FIELDS,
    QUEUE_FIELDS,
    parse_accounting,
    parse_duration,
    parse_queue_line,
    squeue_format,
)
from .verdict import JobRow

#: Ids on one command line: an argument may have 128 KiB.
_IDS_AT_ONCE = 2000
#: What the tools print when they did not do what they were asked, whatever their exit code.
_COMPLAINT = re.compile(r"^(?:s[a-z]+:|slurm_\w+:?) (?:error|fatal)\b", re.MULTILINE)
#: States of nodes that run jobs.
_USABLE = frozenset({"idle", "mixed", "allocated", "completing"})
_REFUSALS = (
    "Access/permission denied",
    "Invalid user id",
    "Requested operation is presently disabled",
    "Job is pending execution",
    "Job is not suspended",
)
_KILL_ERROR = re.compile(r"scancel: error: Kill job error on job id (\S+): (.*)")


class SlurmBackend(BatchSystem):
    """A Slurm cluster. Parameters are those of `BatchSystem`."""

    type = "slurm"
    commands: ClassVar[Mapping[str, str]] = {
        "sbatch": "sbatch",
        "squeue": "squeue",
        "sacct": "sacct",
        "scancel": "scancel",
        "scontrol": "scontrol",
        "sinfo": "sinfo",
    }
    submit_command = "sbatch"
    template = "slurm.sh.j2"
    jobid_pattern = r"Submitted batch job (?P<jobid>\d+)(?: on cluster (?P<cluster>\S+))?$"
    jobid_expression = '"$SLURM_JOB_ID"'
    array_jobid_expression = '"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"'
    index_expression = '"$SLURM_ARRAY_TASK_ID"'
    outer_variables = "SLURM_*|SBATCH_*|SRUN_*|PMI_*|PMIX_*"
    kept_variables = "SLURM_CONF|SLURM_CONF_SERVER|SLURM_CLUSTERS"
    name_length = 100
    # measured: one after the other 255 a second, four at a time 470, eight at a time 500
    submit_commands = 4
    few = 100
    capacity_submit = (
        "AssocMaxSubmitJobLimit",
        "AssocGrpSubmitJobsLimit",
        "QOSMaxSubmitJobPerUserLimit",
        "QOSMaxSubmitJobPerAccountLimit",
        "QOSGrpSubmitJobsLimit",
    )
    transient_submit = (
        "Unable to contact slurm controller",
        "Zero Bytes were transmitted or received",
        "Slurm temporarily unable to accept job",
        "Resource temporarily unavailable",
        "Protocol authentication error",
        "Slurm controller in standby mode",
    )
    # the controller may have taken the job and been too slow to say so: seen with one that was stopped for a while
    unclear_submit = ("Socket timed out", "Unexpected message received", "Connection reset", "Transport endpoint")
    capabilities = frozenset(
        {"accounting", "array", "dependency", "hold", "monitoring", "requeue", "signal", "suspend"}
    )

    _accounting_works = True
    #: The last listing: its lines, and what they mean.
    _lines: Mapping[str, JobRow] = MappingProxyType({})

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """List the user's jobs, ended ones too: by user costs a fifth of what a thousand ids cost."""
        squeue = self.command("squeue")
        return f'SLURM_TIME_FORMAT=%s {squeue} -h -r -t all -u "$(id -un)" -o {squeue_format(QUEUE_FIELDS)}'

    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read squeue's listing."""
        self.check_listing(answer, "squeue", complete=not _COMPLAINT.search(answer.err))
        lines: dict[str, JobRow] = {}
        for line in answer.out.split("\n"):
            # most are the same as the last time
            row = self._lines.get(line) or parse_queue_line(line)
            if row is not None:
                lines[line] = row
        self._lines = lines
        return {row.jobid: row for row in lines.values()}

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """Ask sacct for jobs; nothing once it has said that accounting is off."""
        if not self._accounting_works:
            return None
        sacct = f"SLURM_TIME_FORMAT=%s {self.command('sacct')} -n -P -o {','.join(ACCOUNTING_FIELDS)}"
        # the id of an array brings all its elements
        ids = list(dict.fromkeys(self.array_jobid(job.jobid) for job in jobs))
        chunks = [",".join(ids[at : at + _IDS_AT_ONCE]) for at in range(0, len(ids), _IDS_AT_ONCE)]
        return "code=0\n" + "".join(f"{sacct} -j {chunk} || code=$?\n" for chunk in chunks) + "exit $code"

    def parse_accounting(self, answer: Completed) -> dict[str, JobRow]:
        """Read sacct's answer."""
        if "accounting storage is disabled" in answer.err:
            self._accounting_works = False
            return {}
        if answer.exitcode in (126, 127):
            # some sites don't have it on their frontends; queue and status files do as well
            self._accounting_works = False
            return {}
        if answer.exitcode != 0 or _COMPLAINT.search(answer.err):
            raise self.unavailable("sacct", answer)
        return parse_accounting(answer.out, self._uid)

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look for jobs by name in squeue, which knows them at once, and in sacct, which knows them for long."""
        listed = quote(",".join(names))
        return {
            "queue": f"{self.command('squeue')} -h -t all -u \"$(id -un)\" -n {listed} -o '%F|%j'",
            "accounting": f"{self.command('sacct')} -n -P -X -S now-7days --name={listed} -o JobID,JobName",
        }

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read the answers: squeue must have given one, sacct unless it is switched off."""
        queue, accounting = parts["queue"], parts["accounting"]
        if queue.exitcode != 0 or _COMPLAINT.search(queue.err):
            raise self.unavailable("squeue", queue)
        if accounting.exitcode not in (0, 126, 127) and "accounting storage is disabled" not in accounting.err:
            raise self.unavailable("sacct", accounting)
        found = {}
        for line in (accounting.out + queue.out).split("\n"):
            jobid, _, name = line.partition("|")
            if match := re.match(r"\d{1,18}(?=$|_)", jobid):
                found[name] = match[0]
        return found

    def native_dependency(self, waits_for: Sequence[NativeDependency]) -> str:
        """Write dependencies as sbatch wants them: all of them have to hold."""
        words = {"ok": "afterok", "any": "afterany", "notok": "afternotok"}
        return ",".join(f"{words[one.on]}:{one.jobid}" for one in waits_for)

    def control_commands(self, action: Action, jobs: Sequence[Job], signal: str) -> dict[str, str]:
        """Cancel with one scancel, or as many as the command line's length demands; all else job by job."""
        if action is not Action.CANCEL:
            return super().control_commands(action, jobs, signal)
        listed = "\n".join(job.jobid for job in jobs)
        return {"scancel": f"xargs {self.command('scancel')} <<'.'\n{listed}\n."}

    def control_command(self, action: Action, job: Job, signal: str) -> str:
        """Make the command for one job. Suspending is for operators; everybody may stop their own processes."""
        scontrol, scancel = self.command("scontrol"), f"{self.command('scancel')} --full -s"
        if action is Action.SIGNAL:
            return f"{scancel} {signal} {job.jobid}"
        if action in (Action.SUSPEND, Action.RESUME):
            own = "STOP" if action is Action.SUSPEND else "CONT"
            return (
                f"said=$({scontrol} {action.value} {job.jobid} 2>&1) || case $said in\n"
                f"*permission*|*'not suspended'*) {scancel} {own} {job.jobid} ;;\n"
                '*) printf "%s\\n" "$said" >&2; exit 1 ;;\nesac'
            )
        return f"{scontrol} {action.value} {job.jobid}"

    def control_answers(
        self, action: Action, jobs: Sequence[Job], parts: Mapping[str, Completed]
    ) -> Mapping[str, Answer]:
        """Read the answers; scancel says nothing of jobs that it cancelled, or that had ended."""
        if action is not Action.CANCEL:
            return super().control_answers(action, jobs, parts)
        answer = self.check_command(parts["scancel"])
        found: dict[str, Answer] = {}
        for line in answer.err.splitlines():
            if match := _KILL_ERROR.match(line):
                found[match[1]] = self._refusal(f"cancelling {match[1]}: {match[2]}")
        if answer.exitcode != 0 and not found:
            raise self.unavailable("scancel", answer)
        return found

    def control_answer(self, action: Action, job: Job, answer: Completed) -> Answer:
        """Read scontrol's answer."""
        if answer.exitcode == 0:
            return Answer(Outcome.DONE)
        return self._refusal(f"{action.value}: {answer.err.strip()}")

    def _refusal(self, said: str) -> Answer:
        """Give the meaning of what scontrol or scancel complained about."""
        if "already completing or completed" in said or "already finished" in said:
            return Answer(Outcome.ALREADY_ENDED)
        if any(sign in said for sign in _REFUSALS):
            return control.refused(said, self)
        if "Invalid job id" in said:
            return control.not_found(said, self)
        return control.unknown(said, self)

    def version_command(self) -> str:
        """Ask sbatch, which answers without its controller."""
        return f"{self.command('sbatch')} --version"

    def ping(self) -> None:
        """Ask the controller for a sign of life."""
        answer = self.check_command(self.ask(f"{self.command('scontrol')} ping"))
        if "is UP" not in answer.out:
            raise self.unavailable("scontrol ping", answer)

    def listing_command(self) -> str:
        """List everybody's live jobs."""
        return f"SLURM_TIME_FORMAT=%s {self.command('squeue')} -h -r -o {squeue_format(LISTING_FIELDS)}"

    def parse_listing(self, answer: Completed) -> list[JobInfo]:
        """Read squeue's listing."""
        self.check_listing(answer, "squeue", complete=not _COMPLAINT.search(answer.err))
        found = []
        for line in answer.out.split("\n"):
            row = parse_queue_line(line, LISTING_FIELDS)
            if row is not None:
                owner, queue, cores = line.split("|", 3)[:3]
                used = row.accounting
                found.append(
                    JobInfo(
                        row.jobid,
                        row.name,
                        owner,
                        queue,
                        row.state,
                        row.native_state,
                        whole_number(cores),
                        used.submitted,
                        used.started,
                        used.hosts,
                    )
                )
        return found

    def queues_command(self) -> str:
        """List partitions."""
        return f"{self.command('sinfo')} -h -s -o '%P|%a|%l'"

    def parse_queues(self, answer: Completed) -> list[Queue]:
        """Read sinfo's summary."""
        self.check_listing(answer, "sinfo")
        found = []
        for line in answer.out.splitlines():
            name, available, limit = [*line.split("|"), "", ""][:3]
            queue = Queue(name.rstrip("*"), available == "up", name.endswith("*"), parse_duration(limit))
            found.append(queue)
        return found

    def machines_command(self) -> str:
        """List nodes."""
        return f"{self.command('sinfo')} -h -N -o '%N|%T|%C|%m|%O'"

    def parse_machines(self, answer: Completed) -> list[Machine]:
        """Read sinfo's list of nodes; a node is in it once for each of its partitions."""
        self.check_listing(answer, "sinfo")
        found = {}
        for line in answer.out.splitlines():
            name, state, cores, memory, load = [*line.split("|"), "", "", "", ""][:5]
            # allocated/idle/other/total
            numbers = [whole_number(part) for part in [*cores.split("/"), "", "", ""][:4]]
            found[name] = Machine(
                name,
                state.rstrip("*~#!%$@^-") in _USABLE,
                state,
                numbers[3],
                numbers[1],
                Memory(f"{memory} MiB") if whole_number(memory) is not None else None,
                float(load) if re.fullmatch(r"\d+\.\d+", load) else None,
            )
        return list(found.values())
