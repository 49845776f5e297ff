"""Slurm.

Facts about Slurm's commands were measured on 22.05.8; the wording of its messages is that of its sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import ClassVar

import attrs

from ..quantity import Duration, Memory, whole_number
from ..run import Accounting, NativeDependency, Reason, State
from ..transport.shell import Completed
from . import control
from .base import Action, Answer, JobInfo, Machine, Outcome, Queue
from .batch import BatchSystem, Job
from .programs import quote
from .verdict import JobRow

_STATES: Mapping[str, tuple[State, Reason | None]] = {
    "PENDING": (State.QUEUED, None),
    "CONFIGURING": (State.STARTING, None),
    "RUNNING": (State.RUNNING, None),
    "RESIZING": (State.RUNNING, None),
    "SIGNALING": (State.RUNNING, None),
    "SUSPENDED": (State.SUSPENDED, None),
    "STOPPED": (State.SUSPENDED, None),
    "COMPLETING": (State.COMPLETING, None),
    "STAGE_OUT": (State.COMPLETING, None),
    "COMPLETED": (State.DONE, Reason.EXITED),
    "FAILED": (State.FAILED, Reason.EXITED),
    "CANCELLED": (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM),
    "TIMEOUT": (State.FAILED, Reason.WALLTIME),
    "OUT_OF_MEMORY": (State.FAILED, Reason.MEMORY),
    "NODE_FAIL": (State.FAILED, Reason.NODE_FAILURE),
    "BOOT_FAIL": (State.FAILED, Reason.START_FAILURE),
    "PREEMPTED": (State.FAILED, Reason.PREEMPTED),
    "DEADLINE": (State.FAILED, Reason.DEADLINE),
    "REQUEUED": (State.REQUEUED, None),
    "REQUEUE_FED": (State.REQUEUED, None),
    "REQUEUE_HOLD": (State.REQUEUED_HELD, None),
    "RESV_DEL_HOLD": (State.REQUEUED_HELD, None),
    "SPECIAL_EXIT": (State.REQUEUED_HELD, None),
    "REVOKED": (State.UNDETERMINED, None),
}
_COMPACT: Mapping[str, str] = {
    "PD": "PENDING", "CF": "CONFIGURING", "R": "RUNNING", "RS": "RESIZING", "SI": "SIGNALING", "S": "SUSPENDED",
    "ST": "STOPPED", "CG": "COMPLETING", "SO": "STAGE_OUT", "CD": "COMPLETED", "F": "FAILED", "CA": "CANCELLED",
    "TO": "TIMEOUT", "OOM": "OUT_OF_MEMORY", "NF": "NODE_FAIL", "BF": "BOOT_FAIL", "PR": "PREEMPTED",
    "DL": "DEADLINE", "RQ": "REQUEUED", "RF": "REQUEUE_FED", "RH": "REQUEUE_HOLD", "RD": "RESV_DEL_HOLD",
    "SE": "SPECIAL_EXIT", "RV": "REVOKED",
}  # fmt: skip
#: Slurm's own "signal" for a job whose output file or work directory could not be opened.
_LAUNCH_FAILURE = 53
#: The same for a job that ran out of memory.
_OUT_OF_MEMORY = 125

#: Reasons of pending jobs that had been started, or tried to, and now wait for somebody to release them.
_REQUEUED_HELD = ("job requeued in held state", "launch failed requeued held", "JobHoldMaxRequeue")

#: Ids on one command line: an argument may have 128 KiB.
_IDS_AT_ONCE = 2000
#: Hosts that one range may stand for: what names more is no range.
_MOST_HOSTS = 100_000

#: Letters of squeue's format: id, state, start, nodes, submission, reason, name. The name comes last because it may
#: hold the separator.
_QUEUE_FIELDS = ("i", "T", "S", "N", "V", "r", "j")
#: The same of sacct.
_ACCOUNTING_FIELDS = (
    *("JobID", "State", "ExitCode", "User", "UID", "Submit", "Start", "End"),
    *("ElapsedRaw", "TotalCPU", "MaxRSS", "AllocCPUS", "NodeList", "JobName"),
)
_JOBID = re.compile(r"([0-9]{1,18})(?:_([0-9]{1,18}))?(?:\+0)?")
_CLOCK = re.compile(r"(?:([0-9]{1,9})-)?(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]{1,9})?)")
#: What the tools print when they did not do what they were asked, whatever their exit code.
_COMPLAINT = re.compile(r"^(?:s[a-z]+:|slurm_\w+:?) (?:error|fatal)\b", re.MULTILINE)
#: The same for everybody's jobs, behind owner, partition and cores.
_LISTING_FIELDS = ("u", "P", "C", *_QUEUE_FIELDS)
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

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """List the user's jobs, ended ones too: by user costs a fifth of what a thousand ids cost."""
        squeue = self.command("squeue")
        return f'SLURM_TIME_FORMAT=%s {squeue} -h -r -t all -u "$(id -un)" -o {_format(_QUEUE_FIELDS)}'

    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read squeue's listing."""
        self.check_command(answer)
        if answer.exitcode != 0 or _COMPLAINT.search(answer.err):
            raise self.unavailable("squeue", answer)
        return {row.jobid: row for row in map(parse_queue_line, answer.out.split("\n")) if row is not None}

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """Ask sacct for jobs; nothing once it has said that accounting is off."""
        if not self._accounting_works:
            return None
        sacct = f"SLURM_TIME_FORMAT=%s {self.command('sacct')} -n -P -o {','.join(_ACCOUNTING_FIELDS)}"
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
        return f"SLURM_TIME_FORMAT=%s {self.command('squeue')} -h -r -o {_format(_LISTING_FIELDS)}"

    def parse_listing(self, answer: Completed) -> list[JobInfo]:
        """Read squeue's listing."""
        self.check_command(answer)
        if answer.exitcode != 0 or _COMPLAINT.search(answer.err):
            raise self.unavailable("squeue", answer)
        found = []
        for line in answer.out.split("\n"):
            row = parse_queue_line(line, _LISTING_FIELDS)
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
        if self.check_command(answer).exitcode != 0:
            raise self.unavailable("sinfo", answer)
        found = []
        for line in answer.out.splitlines():
            name, available, limit = [*line.split("|"), "", ""][:3]
            queue = Queue(name.rstrip("*"), available == "up", name.endswith("*"), _duration(limit))
            found.append(queue)
        return found

    def machines_command(self) -> str:
        """List nodes."""
        return f"{self.command('sinfo')} -h -N -o '%N|%T|%C|%m|%O'"

    def parse_machines(self, answer: Completed) -> list[Machine]:
        """Read sinfo's list of nodes; a node is in it once for each of its partitions."""
        if self.check_command(answer).exitcode != 0:
            raise self.unavailable("sinfo", answer)
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


def _format(fields: Sequence[str]) -> str:
    """Make the argument of squeue's -o, as a shell word."""
    return quote("|".join(f"%{field}" for field in fields))


def native_state(text: str) -> tuple[State, Reason | None]:
    """Give the meaning of a native state, compact or long, with whatever follows its first word.

    Parameters
    ----------
    text : str
        Such as ``PD``, ``CANCELLED by 1002`` or ``OUT_OF_ME+``.
    """
    word = text.split()[0] if text.split() else ""
    cut = word.endswith("+")
    word = word.rstrip("+")
    word = _COMPACT.get(word, word)
    if cut and word not in _STATES:
        whole = [state for state in _STATES if len(word) >= 4 and state.startswith(word)]
        word = whole[0] if len(whole) == 1 else word
    return _STATES.get(word, (State.UNDETERMINED, None))


def pending_state(reason: str) -> State:
    """Give the state of a pending job by Slurm's reason."""
    if any(sign in reason.replace("_", " ") for sign in _REQUEUED_HELD):
        return State.REQUEUED_HELD
    if re.search(r"\bJobHeld(User|Admin)\b", reason):
        return State.HELD
    if "DependencyNeverSatisfied" in reason:
        return State.OMITTED
    return State.QUEUED


def parse_queue_line(line: str, fields: Sequence[str] = _QUEUE_FIELDS) -> JobRow | None:
    """Read one line of the queue listing; None for what is no such line.

    Parameters
    ----------
    line : str
        Values separated by bars.
    fields : sequence of str
        Letters of squeue's format that were asked for.
    """
    values = line.rstrip("\r").split("|", len(fields) - 1)
    found = dict(zip(fields, values, strict=False))
    jobid = _JOBID.fullmatch(found.get("i", "").strip())
    if jobid is None or len(values) < 2:
        return None
    native, reason = found.get("T") or found.get("t", ""), found.get("r", "")
    state, why = native_state(native)
    if state is State.QUEUED:
        state = pending_state(reason)
    if state is State.OMITTED:
        why = Reason.DEPENDENCY
    if state is State.FAILED and reason == "JobLaunchFailure":
        # or a signal that ended the script itself: only the accounting tells these apart
        why = Reason.START_FAILURE
    running = state not in (State.QUEUED, State.HELD, State.OMITTED)
    accounting = Accounting(
        hosts=tuple(expand_hosts(found.get("N", ""))) if running else (),
        submitted=_epoch(found.get("V", "")),
        started=_epoch(found.get("S", "")) if running else None,
    )
    shown = f"{native} ({reason})" if reason not in ("", "None", native) else native
    return JobRow(_key(jobid), state, shown, why, name=found.get("j", ""), accounting=accounting)


def parse_accounting(text: str, uid: str = "", fields: Sequence[str] = _ACCOUNTING_FIELDS) -> dict[str, JobRow]:
    """Read sacct's answer: one row a job, with what its steps used.

    Parameters
    ----------
    text : str
        Values separated by bars.
    uid : str
        Numeric id of the jobs' owner, to tell who cancelled.
    fields : sequence of str
        Names of the fields that were asked for.
    """
    rows: dict[str, JobRow] = {}
    for line in text.split("\n"):
        values = line.rstrip("\r").split("|", len(fields) - 1)
        if len(values) < len(fields):
            continue
        found = dict(zip(fields, values, strict=True))
        whole, _, step = found.get("JobID", "").partition(".")
        jobid = _JOBID.fullmatch(whole)
        if jobid is None:
            continue
        key = _key(jobid)
        if not step:
            rows[key] = _accounting_row(key, found, uid)
        elif key in rows:
            rows[key] = _with_step(rows[key], found.get("MaxRSS", ""))
    return rows


def _accounting_row(jobid: str, found: Mapping[str, str], uid: str) -> JobRow:
    native = found.get("State", "")
    state, reason = native_state(native)
    exitcode, signal, told = parse_exit_code(found.get("ExitCode", ""))
    if told is not None and state is State.FAILED and reason is Reason.EXITED:
        reason = told
    if state is State.CANCELLED:
        who = re.match(r"CANCELLED by ([0-9]+)", native)
        if who and who[1] in (uid, found.get("UID")):
            reason = Reason.CANCELLED_BY_USER
    if reason is not Reason.EXITED or (state is State.FAILED and exitcode == 0):
        # Slurm's own: a job that missed its deadline, and so never ran, has an exit code of 1
        exitcode = None
    ended = _epoch(found.get("End", ""))
    if state.final and ended is None and "End" in found:
        # seen just after the accounting daemon came back: such a row had the wrong exit code
        state, reason = State.UNDETERMINED, None
    elapsed = whole_number(found.get("ElapsedRaw"))
    accounting = Accounting(
        cpu_time=_duration(found.get("TotalCPU", "")),
        wall_time=Duration.of(elapsed, "s") if elapsed is not None else None,
        cores=whole_number(found.get("AllocCPUS")),
        hosts=tuple(expand_hosts(found.get("NodeList", ""))),
        submitted=_epoch(found.get("Submit", "")),
        started=_epoch(found.get("Start", "")),
        ended=ended,
        native={key: found[key] for key in ("State", "ExitCode", "NodeList", "User") if key in found},
    )
    return JobRow(jobid, state, native, reason, exitcode, signal, name=found.get("JobName", ""), accounting=accounting)


def _with_step(row: JobRow, used: str) -> JobRow:
    """Take the largest memory use of a job's steps as its own."""
    try:
        memory = Memory(used if used[-1:].isalpha() else f"{used} B")
    except ValueError:
        return row
    most = row.accounting.max_memory
    if most is not None and most >= memory:
        return row
    return attrs.evolve(row, accounting=attrs.evolve(row.accounting, max_memory=memory))


def parse_exit_code(text: str) -> tuple[int | None, int | None, Reason | None]:
    """Read sacct's ``code:signal``: exit code, signal, and what Slurm's own made-up signals stand for.

    Slurm loses 128 of an exit code here: a script that exits with 137 reads ``9:0``.
    """
    code, signal = map(whole_number, text.partition(":")[::2])
    if code is None or signal is None:
        return None, None, None
    if signal == _LAUNCH_FAILURE:
        return None, None, Reason.START_FAILURE
    if signal == _OUT_OF_MEMORY:
        return None, None, Reason.MEMORY
    if signal:
        return None, signal, Reason.SIGNALLED
    return code, None, None


def _key(jobid: re.Match[str]) -> str:
    return f"{jobid[1]}_{jobid[2]}" if jobid[2] else jobid[1]


def _epoch(text: str) -> float | None:
    """Read a time as ``SLURM_TIME_FORMAT=%s`` prints it, or one in UTC; ``Unknown``, ``None`` and ``N/A`` are none."""
    seconds = whole_number(text)
    if seconds is not None:
        return float(seconds) or None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def _duration(text: str) -> Duration | None:
    """Read ``[days-][hours:]minutes:seconds``."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return Duration.of(days * 86400 + hours * 3600 + minutes * 60 + float(match[4]), "s")


def expand_hosts(text: str) -> list[str]:
    """List the hosts of an expression such as ``node[01-03,7],login``; what can't be read is given as it is."""
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        match = re.fullmatch(r"([^\[\]]*)\[([0-9,-]+)\]([^\[\]]*)", part)
        numbers = _numbers(match[2]) if match else None
        if match and numbers is not None:
            hosts += [f"{match[1]}{number}{match[3]}" for number in numbers]
        elif part not in ("None assigned", "(null)", "N/A"):
            hosts.append(part)
    return hosts


def _numbers(text: str) -> list[str] | None:
    """List the numbers of ``01-03,7`` with their leading zeros; None for what is no such list."""
    found: list[str] = []
    for piece in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", piece)
        if match is None:
            return None
        low, high = int(match[1]), int(match[2] or match[1])
        if not 0 <= high - low < _MOST_HOSTS:
            return None
        found += [f"{number:0{len(match[1])}d}" for number in range(low, high + 1)]
    return found
