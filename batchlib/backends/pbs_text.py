"""What PBS commands print, and what it means: the same for OpenPBS and for Torque, but for what is named here.

Jobs, queues and servers are listed as blocks: a headline, and an attribute a line, indented by four blanks. What is
too long goes on after a tab on the next line, and a line that begins with neither goes on as well: values may hold
line ends. Measured on OpenPBS 23.06.06 and Torque 6.1.3; its JSON and XML are not used, as one odd job of any user
makes the first one's unreadable.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence

import attrs

from ..errors import InvalidValue
from ..quantity import Duration, Memory, whole_number
from ..run import Accounting, Reason, State
from .base import Outcome
from .verdict import JobRow

#: Attributes of one job, queue or server.
Attributes = dict[str, str]

_HEADLINE = re.compile(r"(Job Id|Queue|Server): (\S+)\s*")
_ATTRIBUTE = re.compile(r"    ([A-Za-z_]\w*(?:\.\w+)?) = (.*)", re.DOTALL)
_DATE = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) +(\d{1,2}) (\d{2}):(\d{2}):(\d{2}) ([1-9]\d{3})", re.ASCII)
_CLOCK = re.compile(r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)
_SIZE = re.compile(r"(\d{1,18})([kmgtp]?)b", re.ASCII | re.IGNORECASE)
_ELEMENT = re.compile(r"\[\d+\]", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: More cores than any machine has are a mistake.
_MOST_CORES = 1_000_000

#: Attributes of jobs that are read.
WANTED = (
    *("Job_Name", "Job_Owner", "job_state", "substate", "queue", "comment", "depend", "Hold_Types"),
    *("ctime", "stime", "start_time", "obittime", "comp_time", "mtime", "history_timestamp"),
    *("Exit_status", "exit_status", "run_count", "start_count", "array_index", "job_array_id"),
    *("exec_host", "exec_vnode", "Resource_List.ncpus", "Resource_List.nodes"),
    *("resources_used.cput", "resources_used.walltime", "resources_used.mem"),
)
#: Letters of states in which a job has not ended, but for those that wait: what they mean.
_LIVE = {
    "R": State.RUNNING,
    "B": State.RUNNING,
    "S": State.SUSPENDED,
    "U": State.SUSPENDED,
    "E": State.COMPLETING,
}
_WAITING = frozenset("QHTW")
_ENDED = frozenset("FXC")
#: Substate of a job that was deleted, and of one that ended by itself.
_DELETED, _FINISHED = "91", "92"
#: The highest number of a signal.
_LAST_SIGNAL = 64

#: What commands say of a job, and how it went; they don't always say it alike.
_SAID: Mapping[str, Outcome] = {
    "Job has finished": Outcome.ALREADY_ENDED,
    "finished array subjob": Outcome.ALREADY_ENDED,
    "COMPLETE": Outcome.ALREADY_ENDED,
    "already in exit state": Outcome.ALREADY_ENDED,
    "Unknown Job Id": Outcome.NOT_FOUND,
    "nonexistent job id": Outcome.NOT_FOUND,
    "illegally formed job identifier": Outcome.NOT_FOUND,
    "Unauthorized Request": Outcome.REFUSED,
    "illegal signal name": Outcome.REFUSED,
    "invalid for state": Outcome.REFUSED,
    "not rerunnable": Outcome.REFUSED,
    "Invalid request": Outcome.REFUSED,
}
#: The same of commands that end jobs, where it differs: one that can't be ended now is about to, and what is invalid
#: is an index that the array does not have.
_ON_CANCELLING: Mapping[str, Outcome] = {
    "invalid for state": Outcome.ALREADY_ENDED,
    "Invalid request": Outcome.NOT_FOUND,
}
_NO_SERVER = ("cannot connect to server", "connect to cluster", "Unable to communicate with", "cannot connect to MOM")


# --- reading ----------------------------------------------------------------------------------------------------


def parse_blocks(text: str, kind: str = "Job Id") -> list[tuple[str, Attributes]]:
    """Read blocks of one kind: their names and attributes, in the order of the text.

    Parameters
    ----------
    text : str
        What ``qstat -f``, ``qstat -Q -f`` or ``qstat -B -f`` printed.
    kind : str
        ``Job Id``, ``Queue`` or ``Server``.
    """
    found: list[tuple[str, Attributes]] = []
    attributes: Attributes = {}
    name = ""
    # what is not UTF-8, such as in a comment, could not be stored
    for line in text.encode("utf-8", "replace").decode("utf-8").split("\n"):
        line = line.removesuffix("\r")
        headline = _HEADLINE.fullmatch(line)
        if headline:
            name, attributes = "", {}
            if headline[1] == kind:
                found.append((headline[2], attributes))
        elif match := _ATTRIBUTE.fullmatch(line):
            name = match[1]
            attributes[name] = match[2]
        elif name and line:
            attributes[name] += line[1:] if line.startswith("\t") else "\n" + line
        elif not line:
            # ends the block, or is part of a value
            continue
    return found


def job_rows(text: str, reasons: Mapping[int, Reason], killed: int | None = None) -> dict[str, JobRow]:
    """Read a listing of jobs; an id that it has twice is believed nothing of.

    Parameters
    ----------
    text : str
        What ``qstat -f`` printed.
    reasons : mapping of int to Reason
        What the batch system's own, negative exit statuses stand for.
    killed : int, optional
        Exit status of jobs that were deleted while they ran, where nothing else tells of it.
    """
    rows: dict[str, JobRow] = {}
    for jobid, found in parse_blocks(text):
        row = job_row(jobid, found, reasons, killed)
        if jobid in rows and rows[jobid] != row:
            row = JobRow(jobid, State.UNDETERMINED, "listed twice", name=row.name)
        rows[jobid] = row
    return rows


def job_row(jobid: str, found: Attributes, reasons: Mapping[int, Reason], killed: int | None = None) -> JobRow:
    """Give the meaning of one job's attributes; the other parameters are those of `job_rows`."""
    letter = found.get("job_state", "")
    native = f"{letter} ({found['comment']})" if found.get("comment") else letter
    row = JobRow(jobid, State.UNDETERMINED, native, name=_name(found))
    if letter in _ENDED:
        row = _ended(row, found, reasons, killed)
    elif letter in _WAITING:
        row = attrs.evolve(row, state=_waiting(letter, found))
    elif letter in _LIVE:
        row = attrs.evolve(row, state=_LIVE[letter])
    return attrs.evolve(row, accounting=_accounting(found, row.state))


def _name(found: Attributes) -> str:
    """Give a job's name; Torque appends their indices to those of elements."""
    name, index = found.get("Job_Name", ""), found.get("job_array_id")
    return name.removesuffix(f"-{index}") if index else name


def has_run(found: Attributes) -> bool:
    """Tell whether a job was ever started.

    An element of an OpenPBS array that was not is shown with the attributes of the whole array, its time of start
    and its exit status among them, but without these.
    """
    return "array_index" in found or any(found.get(name, "0") != "0" for name in ("run_count", "start_count"))


def _waiting(letter: str, found: Attributes) -> State:
    """Tell waiting for resources, for other jobs or for a place in the array from waiting for somebody's release."""
    holds = found.get("Hold_Types", "n")
    # an element that waits shows the holds of its array
    held = "u" in holds or "o" in holds or letter == "W"
    if letter == "H" and not held:
        held = "depend" not in found and holds != "l"
    if has_run(found):
        return State.REQUEUED_HELD if held else State.REQUEUED
    return State.HELD if held else State.QUEUED


def _ended(row: JobRow, found: Attributes, reasons: Mapping[int, Reason], killed: int | None) -> JobRow:
    """Tell how a job ended."""
    status = _integer(found.get("Exit_status", found.get("exit_status", "")))
    substate, comment = found.get("substate"), found.get("comment", "")
    ran = has_run(found) or (status is not None and not _ELEMENT.search(row.jobid))
    if "[]" in row.jobid and status is None:
        # how its elements ended is told with them
        return row
    if comment.startswith("Job deleted as result of dependency"):
        return attrs.evolve(row, state=State.OMITTED, reason=Reason.DEPENDENCY)
    if not ran and substate == _FINISHED and "depend" in found:
        return attrs.evolve(row, state=State.OMITTED, reason=Reason.DEPENDENCY)
    exitcode, signal = _exit(status)
    # deleted while its epilogue ran, a job has done all it had to
    deleted = (substate == _DELETED and status != 0) or status == killed
    if not ran or status is None or deleted:
        owner = found.get("Job_Owner", "")
        by_owner = bool(owner) and re.search(rf"terminated by {re.escape(owner)}$", comment) is not None
        reason = Reason.CANCELLED_BY_USER if by_owner else Reason.CANCELLED_BY_SYSTEM
        told = (exitcode, signal) if ran else (None, None)
        return attrs.evolve(row, state=State.CANCELLED, reason=reason, exitcode=told[0], signal=told[1])
    if status < 0:
        reason = reasons.get(status, Reason.START_FAILURE)
        state = State.CANCELLED if reason is Reason.CANCELLED_BY_SYSTEM else State.FAILED
        return attrs.evolve(row, state=state, reason=reason)
    if signal is not None:
        return attrs.evolve(row, state=State.FAILED, reason=Reason.SIGNALLED, signal=signal)
    state = State.FAILED if exitcode else State.DONE
    return attrs.evolve(row, state=state, reason=Reason.EXITED, exitcode=exitcode)


def _exit(status: int | None) -> tuple[int | None, int | None]:
    """Take an exit status apart: a signal is 256 + N, or 128 + N where the login shell told of it."""
    if status is None or status < 0:
        return None, None
    signal = status - 256 if status > 256 else status - 128
    if 0 < signal <= _LAST_SIGNAL:
        return None, signal
    return (status, None) if status < 256 else (None, None)


def _accounting(found: Attributes, state: State) -> Accounting:
    if not has_run(found):
        return Accounting(submitted=parse_date(found.get("ctime", "")), ended=_end(found) if state.final else None)
    vnode, host = found.get("exec_vnode", ""), found.get("exec_host", "")
    return Accounting(
        cpu_time=parse_duration(found.get("resources_used.cput", "")),
        wall_time=parse_duration(found.get("resources_used.walltime", "")),
        max_memory=parse_memory(found.get("resources_used.mem", "")),
        cores=whole_number(found.get("Resource_List.ncpus")) if vnode else count_cores(host),
        hosts=parse_hosts(host),
        submitted=parse_date(found.get("ctime", "")),
        started=parse_date(found.get("stime") or found.get("start_time", "")),
        ended=_end(found) if state.final else None,
        runs=whole_number(found.get("run_count") or found.get("start_count")) or 1,
        native={name: found[name] for name in ("job_state", "substate", "comment", "exec_vnode") if name in found},
    )


def _end(found: Attributes) -> float | None:
    times = (parse_date(found.get(name, "")) for name in ("obittime", "comp_time", "history_timestamp", "mtime"))
    return next((time for time in times if time is not None), None)


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None


def parse_date(text: str) -> float | None:
    """Read a time as PBS prints it in UTC, or seconds since the epoch."""
    seconds = whole_number(text)
    if seconds is not None:
        return float(seconds)
    match = _DATE.fullmatch(text)
    if match is None or match[1] not in _MONTHS:
        return None
    day, hour, minute, second, year = map(int, match.groups()[1:])
    return float(calendar.timegm((year, _MONTHS.index(match[1]) + 1, day, hour, minute, second)))


def parse_duration(text: str) -> Duration | None:
    """Read ``[[hours:]minutes:]seconds``."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hours, minutes = int(match[1] or 0), int(match[2] or 0)
    return Duration.of(hours * 3600 + minutes * 60 + float(match[3]), "s")


def parse_memory(text: str) -> Memory | None:
    """Read an amount such as ``1392kb``: the units are binary ones."""
    match = _SIZE.fullmatch(text)
    return Memory(f"{match[1]} {match[2] + 'i' if match[2] else ''}b") if match else None


def parse_hosts(text: str) -> tuple[str, ...]:
    """List the machines of ``node01/0*4+node02/1``, each once."""
    return tuple(dict.fromkeys(part.partition("/")[0] for part in text.split("+") if part.partition("/")[0]))


def count_cores(text: str) -> int | None:
    """Count the cores of ``frontend/0-3+node2/0,2``."""
    total = sum(count_numbers(part.partition("/")[2]) for part in text.split("+"))
    return total if 0 < total < _MOST_CORES else None


def count_numbers(text: str) -> int:
    """Count the numbers of ``0-3,7``."""
    pairs = re.findall(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    return sum(max(0, int(last or first) - int(first)) + 1 for first, last in pairs)


def requested_cores(found: Attributes) -> int | None:
    """Give the cores that a job asked for."""
    match = re.match(r"([0-9]{1,6})(?:.*:ppn=([0-9]{1,6}))?", found.get("Resource_List.nodes", ""))
    if match:
        return int(match[1]) * int(match[2] or 1)
    return whole_number(found.get("Resource_List.ncpus"))


def parse_nodes(text: str) -> list[tuple[str, Attributes]]:
    """Read what ``pbsnodes -a`` prints: names of machines, and their attributes."""
    nodes: list[tuple[str, Attributes]] = []
    for line in text.split("\n"):
        name, equals, value = line.strip().partition(" = ")
        if line[:1].strip() and not equals:
            nodes.append((line.strip(), {}))
        elif nodes and equals:
            nodes[-1][1][name] = value
    return nodes


# --- ids and controls -------------------------------------------------------------------------------------------


def array_of(jobid: str) -> str:
    """Give the id of the array that an element belongs to; any other id as it is."""
    return _ELEMENT.sub("[]", jobid)


def element_of(jobid: str, index: int) -> str:
    """Give the id of an array's element."""
    return jobid.replace("[]", f"[{index}]", 1)


def outcome(said: str, exitcode: int, *, cancelling: bool) -> Outcome | None:
    """Give the meaning of what a command said of a job; None when it answered nothing that is known.

    Parameters
    ----------
    said : str
        Its complaint.
    exitcode : int
        Its exit code: the low byte of an error number, of which 153 is the same everywhere.
    cancelling : bool
        Whether it was to end the job.
    """
    if any(sign in said for sign in _NO_SERVER):
        return None
    for sign, found in _SAID.items():
        if sign in said:
            return _ON_CANCELLING.get(sign, found) if cancelling else found
    return Outcome.NOT_FOUND if exitcode == 153 else None


def complaints(text: str) -> dict[str, str]:
    """Read what qdel complained about: a line for each job, whose id comes last."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"qdel: (.*\S)\s+(\S+)", line.strip())
        if match:
            found[match[2]] = match[1]
    return found


def dependency(waits_for: Sequence[tuple[str, str]]) -> str:
    """Write dependencies as qsub wants them: all of them have to hold.

    Parameters
    ----------
    waits_for : sequence of (str, str)
        How each job has to end (``ok``, ``any`` or ``notok``), and its id.
    """
    words = {"ok": "afterok", "any": "afterany", "notok": "afternotok"}
    kinds: dict[str, list[str]] = {}
    for how, jobid in waits_for:
        kinds.setdefault(words[how], []).append(jobid)
    return ",".join(":".join([kind, *jobids]) for kind, jobids in kinds.items())


def check_words(text: str, pattern: str, field: str, example: str) -> None:
    """Refuse a value that would become something else within a request for resources."""
    if not re.fullmatch(pattern, text):
        raise InvalidValue(f"{field} {text!r}: write it such as {example}")
