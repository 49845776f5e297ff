"""What Slurm's commands print, and what it means: pure functions from text to values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

import attrs

from ..quantity import Duration, Memory, whole_number
from ..run import Accounting, Reason, State
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
#: Hosts that one range may stand for: what names more is no range.
_MOST_HOSTS = 100_000

#: Letters of squeue's format: id, state, start, nodes, submission, reason, name. The name comes last because it may
#: hold the separator.
QUEUE_FIELDS = ("i", "T", "S", "N", "V", "r", "j")
#: The same of sacct.
ACCOUNTING_FIELDS = (
    *("JobID", "State", "ExitCode", "User", "UID", "Submit", "Start", "End"),
    *("ElapsedRaw", "TotalCPU", "MaxRSS", "AllocCPUS", "NodeList", "JobName"),
)
_JOBID = re.compile(r"([0-9]{1,18})(?:_([0-9]{1,18}))?(?:\+0)?")
_CLOCK = re.compile(r"(?:([0-9]{1,9})-)?(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]{1,9})?)")
#: The same for everybody's jobs, behind owner, partition and cores.
LISTING_FIELDS = ("u", "P", "C", *QUEUE_FIELDS)


def squeue_format(fields: Sequence[str]) -> str:
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


def parse_queue_line(line: str, fields: Sequence[str] = QUEUE_FIELDS) -> JobRow | None:
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


def parse_accounting(text: str, uid: str = "", fields: Sequence[str] = ACCOUNTING_FIELDS) -> dict[str, JobRow]:
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
        cpu_time=parse_duration(found.get("TotalCPU", "")),
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


def parse_duration(text: str) -> Duration | None:
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
