"""What Grid Engine's commands print, and what it means.

All of it is total: whatever the text, the answer is a value. Listings are read in their XML form, which alone has names
in full, but not by an XML parser: the names of other jobs may make it ill-formed.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from html import unescape

import attrs

from ..quantity import Duration, Memory, whole_number
from ..run import Accounting, Reason, State
from .base import JobInfo, Machine, Queue
from .verdict import JobRow

_LETTERS = frozenset("dEhRtrsSTqwz")
_JOB = re.compile(r"<job_list\b[^>]*>(.*?)</job_list>", re.DOTALL)
_FIELD = re.compile(r"<(\w+)[^>]*>([^<]*)</\1>")
_TASKS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")
_REASON = re.compile(r"error reason\s+([0-9]{1,9}):\s+(.*)")
#: Date, time and process ids before the reason of an error.
_STAMP = re.compile(r"^\S+ \S+ \[[0-9:]+\]: (?:error: )?")
#: Elements of arrays that one line of a listing of everybody's jobs may stand for: 75,000 is an array's default limit.
_MOST_TASKS = 100_000

_RULE = re.compile(r"^={20,}\s*$", re.MULTILINE)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONG_TIME = re.compile(r"\w{3} +(\w{3}) +(\d{1,2}) (\d{2}):(\d{2}):(\d{2}) (\d{4})", re.ASCII)
_SHORT_TIME = re.compile(r"(\d{2})/(\d{2})/(\d{4}) (\d{2}):(\d{2}):(\d{2})(?:\.\d+)?", re.ASCII)
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGT]?)B?s?")
_UNITS = {"": "B", "K": "KiB", "M": "MiB", "G": "GiB", "T": "TiB"}

# What the number behind "failed" means, by the table of sge_status(5). With these the job's command had ended.
_RAN = frozenset({0, 12, 13, 14, 15, 16, 30})
_CRASHED = frozenset({18, 19, 20})
_AGAIN = frozenset({24, 25})
_LIMIT = 37
_KILLED = frozenset({17, 100})
_NEVER_STARTED = frozenset({*range(1, 12), 21, 26, 27, 28, 29, *range(31, 37), 38})

_CONTROLLED = re.compile(r'\b(?:job|task) "?([0-9]+(?:\.[0-9]+)?)"?(?: task "?([0-9]+)"?)?')
_LIVE_HOST = re.compile(r"<host name='([^']*)'>(.*?)</host>", re.DOTALL)
_HOST_VALUE = re.compile(r"<hostvalue name='(\w+)'>([^<]*)<")
_QUEUE_VALUE = re.compile(r"<queuevalue qname='([^']*)' name='(\w+)'>([^<]*)<")
_CLUSTER_QUEUE = re.compile(r"<cluster_queue_summary>(.*?)</cluster_queue_summary>", re.DOTALL)


# --- listings -----------------------------------------------------------------------------------------------------


def native_state(letters: str) -> State:
    """Give the meaning of a native state.

    Parameters
    ----------
    letters : str
        Such as ``qw``, ``hRwq`` or ``dr``; a ``d`` (told to end) changes nothing until it has ended.
    """
    found = set(letters)
    if not found or found - _LETTERS:
        return State.UNDETERMINED
    if "z" in found:
        return State.ENDED_NO_STATUS
    if found & {"q", "w"}:
        if "E" in found:
            return State.HELD
        if "R" in found:
            return State.REQUEUED_HELD if "h" in found else State.REQUEUED
        return State.HELD if "h" in found else State.QUEUED
    if found & {"s", "S", "T"}:
        return State.SUSPENDED
    if "t" in found:
        return State.STARTING
    return State.RUNNING if "r" in found else State.UNDETERMINED


def parse_tasks(text: str) -> tuple[range, ...]:
    """Read indices of an array's elements, as in ``3,4`` or ``1-4999:2,5001``; what is no index is left out."""
    found = []
    for part in text.split(","):
        if match := _TASKS.fullmatch(part.strip()):
            low, high, step = (int(number) if number else None for number in match.groups())
            if low is not None:
                found.append(range(low, (low if high is None else high) + 1, step or 1))
    return tuple(found)


@attrs.frozen
class ListedJob:
    """A job, or elements of an array that are in the same state, as one entry of a listing.

    Parameters
    ----------
    number : str
        The job's id, without an element's index.
    tasks : tuple of range
        Indices of the elements; empty for a job that is no array.
    fields : mapping of str to str
        All that the listing says.
    """

    number: str
    tasks: tuple[range, ...]
    fields: Mapping[str, str]

    def ids(self) -> Iterator[str]:
        """Give the ids of the job or of each element."""
        if not self.tasks:
            yield self.number
        for indices in self.tasks:
            for index in indices:
                yield f"{self.number}.{index}"

    def row(self, jobid: str, reason: str = "") -> JobRow:
        """Say what the listing says of one of them."""
        native = self.fields.get("state", "")
        state = native_state(native)
        started = _iso(self.fields.get("JAT_start_time", ""))
        host = self.fields.get("queue_name", "").partition("@")[2]
        accounting = Accounting(
            hosts=(host,) if host and started else (),
            submitted=_iso(self.fields.get("JB_submission_time", "")),
            started=started if state is not State.STARTING else None,
        )
        shown = f"{native} ({reason})" if reason else native
        return JobRow(jobid, state, shown, name=self.fields.get("JB_name", ""), accounting=accounting)


def parse_jobs(text: str) -> list[ListedJob]:
    """Read the entries of ``qstat -xml``."""
    found = []
    for match in _JOB.finditer(text):
        fields = {key: unescape(value) for key, value in _FIELD.findall(match[1])}
        number = fields.get("JB_job_number", "")
        if whole_number(number) is not None:
            found.append(ListedJob(number, parse_tasks(fields.get("tasks", "")), fields))
    return found


def parse_reasons(text: str) -> dict[str, str]:
    """Read from ``qstat -j`` why jobs are in an error state, by the ids of array elements; a plain job's index is 1."""
    found = {}
    number = ""
    for line in text.splitlines():
        if line.startswith("job_number:"):
            number = line.partition(":")[2].strip()
        elif match := _REASON.match(line):
            found[f"{number}.{int(match[1])}"] = _STAMP.sub("", match[2].strip())
    return found


class Rows(Mapping[str, JobRow]):
    """The rows of a listing by id; those of an array's elements that wait together are made when asked for.

    Parameters
    ----------
    jobs : sequence of ListedJob
        What was listed. Of jobs that have ended, and still are, nothing is said.
    reasons : mapping of str to str
        Why some are in an error state, as `parse_reasons` gives it.
    """

    def __init__(self, jobs: Sequence[ListedJob], reasons: Mapping[str, str]) -> None:
        self._reasons = reasons
        self._single: dict[str, ListedJob] = {}
        self._arrays: dict[str, list[ListedJob]] = {}
        for job in jobs:
            if native_state(job.fields.get("state", "")) is State.ENDED_NO_STATUS:
                continue
            if sum(map(len, job.tasks)) < 2:
                self._single[next(job.ids(), job.number)] = job
            else:
                self._arrays.setdefault(job.number, []).append(job)

    def __getitem__(self, jobid: str) -> JobRow:
        number, _, index = jobid.partition(".")
        job = self._single.get(jobid) or self._find(number, whole_number(index))
        if job is None:
            raise KeyError(jobid)
        return job.row(jobid, self._reasons.get(jobid if index else f"{jobid}.1", ""))

    def _find(self, number: str, index: int | None) -> ListedJob | None:
        for job in self._arrays.get(number, ()):
            if index is not None and any(index in indices for indices in job.tasks):
                return job
        return None

    def __iter__(self) -> Iterator[str]:
        yield from self._single
        for jobs in self._arrays.values():
            for job in jobs:
                yield from job.ids()

    def __len__(self) -> int:
        waiting = (job for jobs in self._arrays.values() for job in jobs)
        return len(self._single) + sum(len(indices) for job in waiting for indices in job.tasks)


def parse_listing(text: str) -> list[JobInfo]:
    """Read everybody's jobs from ``qstat -xml``."""
    found = []
    for job in parse_jobs(text):
        few = sum(map(len, job.tasks)) <= _MOST_TASKS
        for jobid in job.ids() if few else [f"{job.number}.{job.fields['tasks']}"]:
            row, fields = job.row(jobid), job.fields
            found.append(
                JobInfo(
                    jobid,
                    row.name,
                    fields.get("JB_owner", ""),
                    fields.get("queue_name", "").partition("@")[0],
                    row.state,
                    row.native_state,
                    whole_number(fields.get("slots", "")),
                    row.accounting.submitted,
                    row.accounting.started,
                    row.accounting.hosts,
                )
            )
    return found


def parse_queues(text: str) -> list[Queue]:
    """Read ``qstat -g c -xml``, with the lines ``qname`` and ``h_rt`` of ``qconf -sq`` behind it."""
    limits: dict[str, Duration | None] = {}
    name = ""
    for line in text.rpartition(">")[2].splitlines():
        key, _, value = line.partition(" ")
        if key == "qname":
            name = value.strip()
        elif key == "h_rt" and name:
            limits[name] = _walltime(value.strip())
    found = []
    for match in _CLUSTER_QUEUE.finditer(text):
        fields = {key: unescape(value) for key, value in _FIELD.findall(match[1])}
        total, *lost = (
            whole_number(fields.get(key, "")) or 0 for key in ("total", "temp_disabled", "manual_intervention")
        )
        queue = fields.get("name", "")
        found.append(Queue(queue, total > sum(lost), max_walltime=limits.get(queue)))
    return found


def parse_machines(text: str) -> list[Machine]:
    """Read ``qhost -q -xml``. Cores are slots: of the largest queue on a machine, all its queues sharing them."""
    found = []
    for match in _LIVE_HOST.finditer(text):
        values = dict(_HOST_VALUE.findall(match[2]))
        queues: dict[str, dict[str, str]] = {}
        for queue, key, value in _QUEUE_VALUE.findall(match[2]):
            queues.setdefault(queue, {})[key] = value
        slots = [whole_number(queue.get("slots", "")) or 0 for queue in queues.values()]
        used = sum(whole_number(queue.get("slots_used", "")) or 0 for queue in queues.values())
        states = [queue.get("state_string", "") for queue in queues.values()]
        load = _number(values.get("load_avg", ""))
        if match[1] != "global":
            found.append(
                Machine(
                    unescape(match[1]),
                    load is not None and "" in states,
                    "".join(sorted(set("".join(states)))),
                    max(slots, default=whole_number(values.get("num_proc", ""))),
                    max(0, max(slots) - used) if slots else None,
                    _memory(values.get("mem_total", "")),
                    load,
                )
            )
    return found


# --- accounting ---------------------------------------------------------------------------------------------------


def parse_records(text: str) -> list[JobRow]:
    """Read the records that ``qacct -j`` prints, in their order.

    One job may have several: of runs that were ended to run again, of starts that failed, and of a job that had the
    same id before. Those of runs that were followed by another one are in the state REQUEUED.
    """
    found = []
    for block in _RULE.split(text):
        pairs = (line.partition(" ")[::2] for line in block.splitlines())
        fields = {key: " ".join(value.split()) for key, value in pairs}
        number, task = fields.get("jobnumber", ""), fields.get("taskid", "")
        if whole_number(number) is not None:
            found.append(_record(f"{number}.{task}" if whole_number(task) else number, fields))
    return found


def _record(jobid: str, fields: Mapping[str, str]) -> JobRow:
    failed, status = (whole_number(_first(fields.get(key, ""))) for key in ("failed", "exit_status"))
    state, reason, exitcode, signal = how_it_ended(failed, status)
    if failed == _LIMIT:
        reason = limit_reason(fields)
    started = _time(fields.get("start_time", ""))
    accounting = Accounting(
        cpu_time=_seconds(fields.get("cpu", "")) if started else None,
        wall_time=_seconds(fields.get("ru_wallclock", "")) if started else None,
        max_memory=_memory(fields.get("maxvmem", "")) or None,
        cores=whole_number(fields.get("slots", "")) or None,
        hosts=(fields["hostname"],) if started and "hostname" in fields else (),
        submitted=_time(fields.get("qsub_time", "")),
        started=started,
        ended=_time(fields.get("end_time", "")),
        native={key: fields[key] for key in ("failed", "exit_status", "qname", "account") if key in fields},
    )
    native = f"failed {fields.get('failed', '')}" if failed else f"exit_status {fields.get('exit_status', '')}"
    name = fields.get("jobname", "")
    return JobRow(jobid, state, native, reason, exitcode, signal, name=name, accounting=accounting)


def how_it_ended(failed: int | None, status: int | None) -> tuple[State, Reason | None, int | None, int | None]:
    """Give state, reason, exit code and signal.

    Parameters
    ----------
    failed : int, optional
        Grid Engine's number of what went wrong; 0 for nothing.
    status : int, optional
        Its ``exit_status``: an exit code, or 128 plus a signal. It is 0 for a job that could not be started.
    """
    if failed is None or status is None:
        return State.UNDETERMINED, None, None, None
    if failed in _AGAIN:
        return State.REQUEUED, None, None, None
    if failed in _RAN:
        return (State.FAILED if status else State.DONE), Reason.EXITED, status, None
    signal = status - 128 if status > 128 else None
    if failed == _LIMIT:
        return State.FAILED, Reason.WALLTIME, None, signal
    if failed in _KILLED and signal is not None:
        return State.FAILED, Reason.SIGNALLED, None, signal
    if failed in _CRASHED | _KILLED:
        return State.FAILED, Reason.NODE_FAILURE, None, None
    if failed in _NEVER_STARTED:
        return State.FAILED, Reason.START_FAILURE, None, None
    return State.UNDETERMINED, None, None, None


def limit_reason(fields: Mapping[str, str]) -> Reason:
    """Tell which limit a job met: Grid Engine has one number for all of them.

    Parameters
    ----------
    fields : mapping of str to str
        The job's accounting record; what it had asked for stands in its ``category``.
    """
    asked = dict(part.partition("=")[::2] for part in re.split(r"[\s,]+", fields.get("category", "")))
    limit = {key: _number(asked[key]) for key in ("h_rt", "h_cpu") if key in asked}
    used = {"h_rt": _number(_first(fields.get("ru_wallclock", ""))), "h_cpu": _number(_first(fields.get("cpu", "")))}
    for key, reason in (("h_rt", Reason.WALLTIME), ("h_cpu", Reason.CPU_TIME)):
        most, had = limit.get(key), used[key]
        if most is not None and had is not None and had >= most:
            return reason
    return Reason.MEMORY if "h_vmem" in asked else Reason.WALLTIME


# --- control ------------------------------------------------------------------------------------------------------


def lines_by_job(text: str, asked: Collection[str]) -> dict[str, list[str]]:
    """Sort what qdel, qhold, qrls or qmod said by the ids that were asked about.

    A plain job may be called by its only element, and all elements of an array by its number. What is about no job that
    was asked about is sorted under the empty id.
    """
    members: dict[str, list[str]] = {}
    for jobid in asked:
        members.setdefault(jobid.partition(".")[0], []).append(jobid)
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        about: list[str] = []
        if match := _CONTROLLED.search(line):
            named = f"{match[1]}.{match[2]}" if match[2] else match[1]
            number = named.partition(".")[0]
            same = [one for one in (named, number) if one in asked]
            about = same[:1] or (members.get(number, []) if named == number else [])
        for one in about or [""]:
            found.setdefault(one, []).append(line.strip())
    return found


# --- values -------------------------------------------------------------------------------------------------------


def _first(text: str) -> str:
    """Give a value without its unit of seconds, and without the words behind it."""
    return text.split()[0].rstrip("s") if text.split() else ""


def _number(text: str) -> float | None:
    match = _AMOUNT.fullmatch(text)
    return float(match[1]) if match and not match[2] else None


def _seconds(text: str) -> Duration | None:
    number = _number(_first(text))
    return None if number is None else Duration.of(number, "s")


def _memory(text: str) -> Memory | None:
    """Read an amount; Grid Engine's units are powers of 1024 whatever they are called."""
    match = _AMOUNT.fullmatch(text)
    return Memory.of(float(match[1]), _UNITS[match[2]]) if match else None


def _walltime(text: str) -> Duration | None:
    """Read a queue's limit; those of single hosts follow behind a comma."""
    first = text.partition(",")[0]
    try:
        return Duration(f"{first} s" if first.isdigit() else first)
    except ValueError:
        return None


def _iso(text: str) -> float | None:
    try:
        return float(calendar.timegm(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").timetuple()))
    except ValueError:
        return None


def _time(text: str) -> float | None:
    """Read a time of qacct's, in UTC; the epoch's start and ``-/-`` are none."""
    if match := _LONG_TIME.fullmatch(text):
        month = _MONTHS.index(match[1]) + 1 if match[1] in _MONTHS else 0
        numbers = [int(match[6]), month, *map(int, match.groups()[1:5])]
    elif match := _SHORT_TIME.fullmatch(text):
        month, day, year, *clock = map(int, match.groups())
        numbers = [year, month, day, *clock]
    else:
        return None
    year, month, day, hour, minute, second = numbers
    try:
        moment = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    return float(calendar.timegm(moment.timetuple())) or None
