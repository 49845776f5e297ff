"""Slurm.

Facts about Slurm's commands were measured on 22.05.8; the wording of its messages is that of its sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs

from ..errors import OperationRefused, SystemUnavailable
from ..quantity import Duration, Memory
from ..run import Accounting, Reason, State
from ..transport.shell import Completed
from .base import Answer, Outcome, ResourceStatus
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

#: Ids on one command line: an argument may have 128 KiB.
_IDS_AT_ONCE = 2000

#: The name comes last because it may hold the separator.
_QUEUE_FORMAT = "%i|%T|%S|%N|%V|%r|%j"
_ACCOUNTING_FIELDS = (
    "JobID,State,ExitCode,User,UID,Submit,Start,End,ElapsedRaw,TotalCPU,MaxRSS,AllocCPUS,NodeList,JobName"
)
_JOBID = re.compile(r"(\d+)(?:_(\d+))?(?:\+0)?")
_CLOCK = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_REFUSED = ("Access/permission denied", "Invalid user id")
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
    capabilities = frozenset({"accounting", "array", "dependency", "hold", "monitoring", "requeue"})

    _accounting_works = True

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """List the user's jobs, ended ones too: by user costs a fifth of what a thousand ids cost."""
        squeue = self.command("squeue")
        return f'SLURM_TIME_FORMAT=%s {squeue} -h -r -t all -u "$(id -un)" -o {quote(_QUEUE_FORMAT)}'

    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read squeue's listing."""
        self.check_command(answer)
        if answer.exitcode != 0 or "error:" in answer.err:
            raise self._unavailable("squeue", answer)
        return {row.jobid: row for row in map(parse_queue_line, answer.out.splitlines()) if row is not None}

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """Ask sacct for jobs; nothing once it has said that accounting is off."""
        if not self._accounting_works:
            return None
        sacct = f"SLURM_TIME_FORMAT=%s {self.command('sacct')} -n -P -o {_ACCOUNTING_FIELDS}"
        ids = [job.jobid for job in jobs]
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
        if answer.exitcode != 0 or "error:" in answer.err:
            raise self._unavailable("sacct", answer)
        return parse_accounting(answer.out, self._uid)

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look for jobs by name in squeue, which knows them at once, and in sacct, which knows them for long."""
        listed = quote(",".join(names))
        return {
            "queue": f"{self.command('squeue')} -h -t all -u \"$(id -un)\" -n {listed} -o '%F|%j'",
            "accounting": f"{self.command('sacct')} -n -P -X -S now-7days --name={listed} -o JobIDRaw,JobName",
        }

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read the answers: squeue must have given one, sacct unless it is switched off."""
        queue, accounting = parts["queue"], parts["accounting"]
        if queue.exitcode != 0 or "error:" in queue.err:
            raise self._unavailable("squeue", queue)
        if accounting.exitcode not in (0, 126, 127) and "accounting storage is disabled" not in accounting.err:
            raise self._unavailable("sacct", accounting)
        found = {}
        for line in (accounting.out + queue.out).splitlines():
            jobid, _, name = line.partition("|")
            if jobid.isdigit():
                found[name] = jobid
        return found

    def cancel_command(self, jobs: Sequence[Job]) -> str:
        """End jobs with one scancel, or as many as the command line's length demands."""
        listed = "\n".join(job.jobid for job in jobs)
        return f"xargs {self.command('scancel')} <<'.'\n{listed}\n."

    def parse_cancel(self, answer: Completed, jobs: Sequence[Job]) -> dict[str, Answer]:
        """Read scancel's complaints: it says nothing of jobs that it cancelled, or that had ended."""
        self.check_command(answer)
        found: dict[str, Answer] = {}
        for line in answer.err.splitlines():
            match = _KILL_ERROR.match(line)
            if match:
                outcome = Outcome.REFUSED if any(sign in match[2] for sign in _REFUSED) else Outcome.UNKNOWN
                error = OperationRefused(f"cancelling {match[1]}: {match[2]}", resource=self.name, stderr=answer.err)
                found[match[1]] = Answer(outcome, error)
        if answer.exitcode != 0 and not found:
            raise self._unavailable("scancel", answer)
        return found

    def version_command(self) -> str:
        """Ask sbatch, which answers without its controller."""
        return f"{self.command('sbatch')} --version"

    def ping(self) -> None:
        """Ask the controller for a sign of life."""
        answer = self.check_command(self.ask(f"{self.command('scontrol')} ping"))
        if "is UP" not in answer.out:
            raise self._unavailable("scontrol ping", answer)

    def get_resource_status(self) -> ResourceStatus:
        """Ask sinfo for cores, and squeue for jobs."""
        squeue = f"{self.command('squeue')} -h -r -t PD,R -o '%T|%u'"
        parts = self.ask_all({"cores": f"{self.command('sinfo')} -h -o %C", "jobs": squeue, "user": "id -un"})
        for name in ("cores", "jobs"):
            if parts[name].exitcode != 0:
                raise self._unavailable("sinfo" if name == "cores" else "squeue", parts[name])
        cores = parts["cores"].out.strip().split("/")
        numbers = [int(part) for part in cores] if len(cores) == 4 and all(map(str.isdigit, cores)) else None
        jobs = [line.partition("|")[::2] for line in parts["jobs"].out.splitlines()]
        user = parts["user"].out.strip()
        own = [state for state, owner in jobs if owner == user]
        return ResourceStatus(
            cores=numbers[3] if numbers else None,
            free_cores=numbers[1] if numbers else None,
            own_queued=own.count("PENDING"),
            own_running=own.count("RUNNING"),
            queued=sum(state == "PENDING" for state, _ in jobs),
            running=sum(state == "RUNNING" for state, _ in jobs),
        )

    def _unavailable(self, command: str, answer: Completed) -> SystemUnavailable:
        said = (answer.err.strip() or answer.out.strip() or f"exit code {answer.exitcode}")[-500:]
        return SystemUnavailable(
            f"{command} does not answer: {said}",
            resource=self.name,
            command=command,
            exitcode=answer.exitcode,
            stderr=answer.err,
        )


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
    words = reason.replace("_", " ")
    if words == "job requeued in held state":
        return State.REQUEUED_HELD
    if re.search(r"\bJobHeld(User|Admin)\b", reason):
        return State.HELD
    if "DependencyNeverSatisfied" in reason:
        return State.OMITTED
    return State.QUEUED


def parse_queue_line(line: str) -> JobRow | None:
    """Read one line of the queue listing; None for what is no such line.

    Parameters
    ----------
    line : str
        Fields as in the format: id, state, start, nodes, submission, reason, name.
    """
    fields = line.rstrip("\r").split("|", 6)
    jobid = _JOBID.fullmatch(fields[0].strip()) if len(fields) >= 2 else None
    if jobid is None:
        return None
    fields += [""] * (7 - len(fields))
    _id, native, start, nodes, submitted, reason, name = fields
    state, why = native_state(native)
    if state is State.QUEUED:
        state = pending_state(reason)
    if state is State.FAILED and reason == "JobLaunchFailure":
        why = Reason.START_FAILURE
    if state is State.OMITTED:
        why = Reason.DEPENDENCY
    running = state not in (State.QUEUED, State.HELD, State.OMITTED)
    accounting = Accounting(
        hosts=tuple(expand_hosts(nodes)) if running else (),
        submitted=_epoch(submitted),
        started=_epoch(start) if running else None,
    )
    shown = f"{native} ({reason})" if reason not in ("", "None", native) else native
    return JobRow(_key(jobid), state, shown, why, name=name, accounting=accounting)


def parse_accounting(text: str, uid: str = "") -> dict[str, JobRow]:
    """Read sacct's answer: one row a job, with what its steps used.

    Parameters
    ----------
    text : str
        Fields as asked for, separated by bars.
    uid : str
        Numeric id of the jobs' owner, to tell who cancelled.
    """
    found: dict[str, JobRow] = {}
    for line in text.splitlines():
        fields = line.rstrip("\r").split("|", 13)
        if len(fields) < 14:
            continue
        whole, _, step = fields[0].partition(".")
        jobid = _JOBID.fullmatch(whole)
        if jobid is None:
            continue
        key = _key(jobid)
        if step:
            if key in found:
                found[key] = _with_step(found[key], fields)
        else:
            found[key] = _accounting_row(key, fields, uid)
    return found


def _accounting_row(jobid: str, fields: Sequence[str], uid: str) -> JobRow:
    _id, native, exit_code, user, owner, submit, start, end, elapsed, cpu, _rss, cores, nodes, name = fields
    state, reason = native_state(native)
    exitcode, signal, told = parse_exit_code(exit_code)
    reason = told if told is not None and state is State.FAILED and reason is Reason.EXITED else reason
    if state is State.CANCELLED:
        who = re.match(r"CANCELLED by (\d+)", native)
        if who and who[1] in (uid, owner):
            reason = Reason.CANCELLED_BY_USER
    if state is not State.DONE and not exitcode:
        exitcode = None
    ended = _epoch(end)
    if state.final and ended is None:
        # seen just after the accounting daemon came back: such a row had the wrong exit code
        state, reason = State.UNDETERMINED, None
    native_fields = {"State": native, "ExitCode": exit_code, "NodeList": nodes, "User": user}
    accounting = Accounting(
        cpu_time=_duration(cpu),
        wall_time=Duration.of(int(elapsed), "s") if elapsed.isdigit() else None,
        cores=int(cores) if cores.isdigit() else None,
        hosts=tuple(expand_hosts(nodes)),
        submitted=_epoch(submit),
        started=_epoch(start),
        ended=ended,
        native=native_fields,
    )
    return JobRow(jobid, state, native, reason, exitcode, signal, name=name, accounting=accounting)


def _with_step(row: JobRow, fields: Sequence[str]) -> JobRow:
    """Take the largest memory use of a job's steps as its own."""
    try:
        memory = Memory(fields[10] if fields[10][-1:].isalpha() else f"{fields[10]} B")
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
    code, _, number = text.partition(":")
    if not (code.isdigit() and number.isdigit()):
        return None, None, None
    signal = int(number)
    if signal == _LAUNCH_FAILURE:
        return None, None, Reason.START_FAILURE
    if signal == _OUT_OF_MEMORY:
        return None, None, Reason.MEMORY
    if signal:
        return None, signal, Reason.SIGNALLED
    return int(code), None, None


def _key(jobid: re.Match[str]) -> str:
    return f"{jobid[1]}_{jobid[2]}" if jobid[2] else jobid[1]


def _epoch(text: str) -> float | None:
    """Read a time as ``SLURM_TIME_FORMAT=%s`` prints it; ``Unknown``, ``None`` and ``N/A`` are none."""
    return float(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


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
        if match is None:
            hosts.append(part)
            continue
        for piece in match[2].split(","):
            low, _, high = piece.partition("-")
            if low.isdigit() and (high or low).isdigit() and int(high or low) - int(low) < 100_000:
                hosts += [f"{match[1]}{n:0{len(low)}d}{match[3]}" for n in range(int(low), int(high or low) + 1)]
    return [host for host in hosts if host not in ("None assigned", "(null)", "N/A")]
