"""What LSF's commands print, and what it means: for IBM's LSF and for the compatible volclava and OpenLava.

Measured on volclava 2.2; what only IBM's LSF prints is from samples of its users. Times have no year there as a rule:
they are read as the latest moment that they can mean.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone

import attrs

from ..quantity import Duration, Memory, whole_number
from ..run import Accounting, Reason, State
from .base import JobInfo, Machine, Queue
from .verdict import JobRow

#: Fields of the free form of a listing, which IBM's LSF has since 9.1. The name comes last: it may hold the delimiter.
FIELDS = (
    *("jobid", "jobindex", "stat", "exit_code", "exit_reason", "user", "queue", "exec_host", "slots"),
    *("cpu_used", "run_time", "max_mem", "submit_time", "start_time", "job_name"),
)
DELIMITER = "^"
#: Units of memory limits that a site may have.
UNITS = ("KB", "MB", "GB", "TB", "PB", "EB")

#: What a state means; why a job ended is no part of it. ZOMBI and PERR are not here: how such a job ended, or
#: whether it has, has to be found out in other ways.
_STATES: Mapping[str, State] = {
    "PEND": State.QUEUED,
    "PSUSP": State.HELD,
    "WAIT": State.STARTING,
    "PROV": State.STARTING,
    "RUN": State.RUNNING,
    "USUSP": State.SUSPENDED,
    "SSUSP": State.SUSPENDED,
    "DONE": State.DONE,
    "PDONE": State.DONE,
    "EXIT": State.FAILED,
    "UNKWN": State.UNDETERMINED,
}
_NO_STATE = frozenset({"ZOMBI", "PERR"})

#: IBM's reasons for the end of a job; those that are left out tell no more than the exit code.
_TERMINATIONS: Mapping[str, tuple[State, Reason | None]] = {
    "TERM_RUNLIMIT": (State.FAILED, Reason.WALLTIME),
    "TERM_CPULIMIT": (State.FAILED, Reason.CPU_TIME),
    "TERM_MEMLIMIT": (State.FAILED, Reason.MEMORY),
    "TERM_SWAP": (State.FAILED, Reason.MEMORY),
    "TERM_DEADLINE": (State.FAILED, Reason.DEADLINE),
    "TERM_PREEMPT": (State.FAILED, Reason.PREEMPTED),
    "TERM_ZOMBIE": (State.FAILED, Reason.NODE_FAILURE),
    "TERM_REMOVE_HUNG_JOB": (State.FAILED, Reason.NODE_FAILURE),
    "TERM_CWD_NOTEXIST": (State.FAILED, Reason.START_FAILURE),
    "TERM_PRE_EXEC_FAIL": (State.FAILED, Reason.START_FAILURE),
    "TERM_OWNER": (State.CANCELLED, Reason.CANCELLED_BY_USER),
    **dict.fromkeys(
        (
            *("TERM_ADMIN", "TERM_FORCE_OWNER", "TERM_FORCE_ADMIN", "TERM_BUCKET_KILL", "TERM_WINDOW", "TERM_LOAD"),
            *("TERM_PROCESSLIMIT", "TERM_THREADLIMIT"),
        ),
        (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM),
    ),
    "TERM_ORPHAN_SYSTEM": (State.OMITTED, Reason.DEPENDENCY),
    **dict.fromkeys(("TERM_REQUEUE_OWNER", "TERM_REQUEUE_ADMIN", "TERM_REQUEUE_RC"), (State.REQUEUED, None)),
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = r"[A-Z][a-z]{2} +\d{1,2} +\d{2}:\d{2}(?::\d{2})?(?: +\d{4})?"
_TIME = re.compile(
    r"(?:[A-Z][a-z]{2} +)?(?:(?P<name>[A-Z][a-z]{2}) +(?P<day>\d{1,2}) +|(?P<month>\d{2})/(?P<mday>\d{2})-)"
    r"(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?: +(?P<year>\d{4}))?(?: +[LEX])?",
    re.ASCII,
)
_CLOCK = re.compile(r"(\d{1,9}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", re.ASCII)
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) second", re.ASCII)
_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) *([KMGTP]?)(?:i?[Bb](?:ytes)?)?", re.ASCII)
ELEMENT = re.compile(r"(.+)\[(\d{1,9})\]", re.ASCII | re.DOTALL)
_JOBID = re.compile(r"(\d{1,18})(?:\[(\d{1,9})\])?", re.ASCII)
#: A row of ``bjobs -w``, and of ``bjobs -W``, which has more behind it. A job that waits may have no host.
_ROW = re.compile(
    r"(?P<jobid>\d{1,18}) +(?P<user>\S+) +(?P<stat>[A-Z]+) +(?P<queue>\S+) +(?P<from_host>\S+) +"
    r"(?:(?P<exec_host>\S+) +)?(?P<job_name>\S.*?) +"
    rf"(?:(?P<submit_time>{_DATE})|(?P<submit_second>\d{{2}}/\d{{2}}-\d{{2}}:\d{{2}}:\d{{2}}) +\S+ +(?P<cpu_used>\S+) +"
    r"(?P<mem>\d+) +\S+ +\S+ +(?P<start_time>\S+) +(?P<finish_time>\S+)) *",
    re.ASCII,
)
_HEADER = re.compile(r"^JOBID +USER +STAT ", re.MULTILINE)
#: What bjobs and bhist say when there is no such job: an answer, whatever the exit code.
_NOTHING = re.compile(
    r"^(No (unfinished |matching |running |pending |suspended |finished )?job found|lsb_readjobinfo: End of file)",
    re.MULTILINE,
)
_REPLY = re.compile(r"Job <(\d{1,18}(?:\[\d{1,9}\])?)> ?:? *(.*)", re.ASCII)
_RUN_LIMIT = re.compile(r"^ *RUNLIMIT *\n *(\d{1,9}(?:\.\d{1,9})?) min", re.ASCII | re.MULTILINE)
#: Ranges of a host list that repeat a host: ``12*node1``.
_HOST = re.compile(r"(?:(\d{1,9})\*)?([^*]+)", re.ASCII)

Fields = dict[str, str]


# --- listings ----------------------------------------------------------------------------------------------------


def parse_rows(text: str) -> list[Fields]:
    """Read a listing in the free form or in one of the wide ones; lines that are no rows are left out.

    Parameters
    ----------
    text : str
        What bjobs printed.

    Returns
    -------
    list of dict of str to str
        The values of each row, by the names of `FIELDS`; ``finish_time`` and ``mem`` too where they are exact.
    """
    return [found for line in text.split("\n") for found in [_fields(line.rstrip("\r"))] if found]


def _fields(line: str) -> Fields | None:
    values = line.split(DELIMITER, len(FIELDS) - 1)
    if len(values) == len(FIELDS):
        found = dict(zip(FIELDS, map(str.strip, values), strict=True))
        return found if _JOBID.fullmatch(found["jobid"]) else None
    match = _ROW.fullmatch(line)
    if match is None:
        return None
    found = {name: value for name, value in match.groupdict().items() if value is not None}
    if "submit_second" in found:
        found["submit_time"] = found.pop("submit_second")
    return found


def is_free_form(text: str) -> bool | None:
    """Tell whether a listing is in the free form (True) or a wide one (False); None when it is neither."""
    if _HEADER.search(text):
        return False
    return True if any("exit_code" in found for found in parse_rows(text)) else None


def is_nothing(text: str) -> bool:
    """Tell whether a command said that there is no such job."""
    return bool(_NOTHING.search(text))


def key_of(found: Fields) -> str:
    """Give the native id of a row: with the index for an element of an array, as in ``25[3]``."""
    jobid, index = _split(found)
    return f"{jobid}[{index}]" if index else jobid


def name_of(found: Fields) -> str:
    """Give a job's name, without its index."""
    name = found.get("job_name", "")
    element = ELEMENT.fullmatch(name)
    return element[1] if element and _split(found)[1] else name


def _split(found: Fields) -> tuple[str, str]:
    """Give id and index of a row; the index is empty for what is no element."""
    match = _JOBID.fullmatch(found["jobid"])
    jobid, index = (match[1], match[2] or "") if match else (found["jobid"], "")
    if "jobindex" in found:
        given = found["jobindex"]
        index = index or (given if whole_number(given) else "")
    elif element := ELEMENT.fullmatch(found.get("job_name", "")):
        index = index or element[2]
    return jobid, index


def job_row(found: Fields, now: float | None = None) -> JobRow | None:
    """Give what a row says of a job; None when that is neither that it lives nor how it ended.

    Parameters
    ----------
    found : dict of str to str
        A row as `parse_rows` gives it.
    now : float, optional
        The time, in seconds since the epoch.
    """
    native = found.get("stat", "")
    if native in _NO_STATE:
        return None
    state, reason, exitcode, signal = _STATES.get(native, State.UNDETERMINED), None, None, None
    why = found.get("exit_reason", "-")
    if state is State.FAILED:
        state, reason, exitcode, signal = judge_end(why, whole_number(found.get("exit_code")), None)
    hosts, slots = parse_hosts(found.get("exec_host", ""))
    # the other forms have minutes only: the job's own status knows better
    exact = ("submit_time", "start_time", "finish_time") if "mem" in found else ("", "", "")
    submitted, started, ended = (parse_time(found.get(name, ""), now) for name in exact)
    accounting = Accounting(
        cpu_time=parse_duration(found.get("cpu_used", "")),
        wall_time=parse_duration(found["run_time"]) if "run_time" in found else between(started, ended),
        max_memory=parse_memory(found.get("max_mem", "")) or _kilobytes(found.get("mem")),
        cores=whole_number(found.get("slots")) or slots or None,
        hosts=hosts,
        submitted=submitted,
        started=started,
        ended=ended,
        native={name.upper(): found[name] for name in ("stat", "exit_code", "exit_reason") if name in found},
    )
    shown = native if why in ("-", "") else f"{native} ({why})"
    return JobRow(key_of(found), state, shown, reason, exitcode, signal, name=name_of(found), accounting=accounting)


def job_info(found: Fields, now: float | None = None) -> JobInfo:
    """Give what a row tells about somebody's job.

    Parameters
    ----------
    found : dict of str to str
        A row as `parse_rows` gives it.
    now : float, optional
        The time, in seconds since the epoch.
    """
    hosts, slots = parse_hosts(found.get("exec_host", ""))
    return JobInfo(
        key_of(found),
        name_of(found),
        found.get("user", ""),
        found.get("queue", ""),
        _STATES.get(found.get("stat", ""), State.UNDETERMINED),
        found.get("stat", ""),
        whole_number(found.get("slots")) or slots or None,
        parse_time(found.get("submit_time", ""), now),
        parse_time(found.get("start_time", ""), now),
        hosts,
    )


def judge_end(why: str, code: int | None, signal: int | None) -> tuple[State, Reason | None, int | None, int | None]:
    """Judge the end of a job that LSF calls EXIT.

    Parameters
    ----------
    why : str
        IBM's reason, such as ``TERM_OWNER: job killed by owner``.
    code, signal : int, optional
        What it ended with; a code above 128 stands for a signal.

    Returns
    -------
    (State, Reason or None, int or None, int or None)
        State, reason, exit code, signal.
    """
    if signal is None and code is not None and 128 < code < 128 + 65:
        signal, code = code - 128, None
    known = _TERMINATIONS.get(why.partition(":")[0].strip())
    if known is not None:
        # with such a reason the code is LSF's own: 12 for a job over its run limit
        return *known, None, signal
    if signal is not None:
        return State.FAILED, Reason.SIGNALLED, None, signal
    return State.FAILED, Reason.EXITED if code is not None else None, code, None


@attrs.frozen
class Site:
    """What has to be known of a site before some jobs can be submitted.

    Parameters
    ----------
    ibm : bool
        Whether it is IBM's LSF.
    unit : str
        Unit of memory limits, as in ``lsf.conf``; empty when that says nothing or can't be read.
    array_size : int
        Elements that an array may have.
    """

    ibm: bool = False
    unit: str = ""
    array_size: int = 1000


def parse_site(text: str) -> Site | None:
    """Read what is known of a site, as ``key=value``; None when not even its version is."""
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    if not found.get("version"):
        return None
    unit = found.get("unit", "").upper()
    size = whole_number(found.get("array"))
    return Site("LSF" in found["version"], unit if unit in UNITS else "", size or Site().array_size)


def parse_replies(text: str) -> tuple[dict[str, str], str]:
    """Read what a control command says: of each job by its id, and besides."""
    found, rest = {}, []
    for line in text.split("\n"):
        match = _REPLY.match(line.rstrip("\r"))
        if match:
            found[match[1]] = match[2].strip()
        else:
            rest.append(line)
    return found, "\n".join(rest).strip()


# --- queues and machines -----------------------------------------------------------------------------------------


def parse_queues(text: str) -> list[Queue]:
    """Read ``bqueues -l``."""
    found = []
    for block in re.split(r"^QUEUE: ", text, flags=re.MULTILINE)[1:]:
        name = block.partition("\n")[0].strip()
        table = next(iter(_tables(block, "PRIO NICE STATUS")), {})
        # a default limit comes before the largest one
        limits = _RUN_LIMIT.findall(block)
        found.append(
            Queue(
                name,
                table.get("STATUS") == "Open:Active",
                "This is the default queue" in block,
                Duration.of(float(limits[-1]), "min") if limits else None,
                whole_number(table.get("RUN")),
                whole_number(table.get("PEND")),
            )
        )
    return found


def parse_machines(text: str) -> list[Machine]:
    """Read ``bhosts -w``, with ``lshosts -w`` and ``lsload -w`` behind it."""
    static = {table["HOST_NAME"]: table for table in _tables(text, "HOST_NAME type")}
    loads = {table["HOST_NAME"]: table for table in _tables(text, "HOST_NAME status")}
    found = []
    for table in _tables(text, "HOST_NAME STATUS"):
        name, state = table["HOST_NAME"], table.get("STATUS", "")
        slots, taken = whole_number(table.get("MAX")), whole_number(table.get("NJOBS"))
        load = loads.get(name, {}).get("r1m", "")
        found.append(
            Machine(
                name,
                state == "ok" or state.startswith(("closed_Full", "closed_Excl")),
                state,
                slots if slots is not None else whole_number(static.get(name, {}).get("ncpus")),
                max(0, slots - taken) if slots is not None and taken is not None else None,
                parse_memory(static.get(name, {}).get("maxmem", "")),
                float(load) if re.fullmatch(r"\d{1,9}\.\d{1,9}", load, re.ASCII) else None,
            )
        )
    return found


def _tables(text: str, start: str) -> Iterable[dict[str, str]]:
    """Give the rows below each header that begins so, up to the next header or an empty line."""
    header: Sequence[str] = ()
    for line in text.split("\n"):
        words = line.split()
        if words[: len(start.split())] == start.split():
            header = words
        elif not words or words[0] == "HOST_NAME":
            header = ()
        elif header:
            yield dict(zip(header, words, strict=False))


# --- values ------------------------------------------------------------------------------------------------------


def parse_hosts(text: str) -> tuple[tuple[str, ...], int]:
    """Read ``node1:node1:node2`` or ``12*node1:4*node2``: the hosts, each once, and the slots on all of them."""
    hosts: dict[str, None] = {}
    slots = 0
    for part in text.split(":"):
        match = _HOST.fullmatch(part.strip())
        if match and match[2] != "-":
            hosts[match[2]] = None
            slots += int(match[1] or 1)
    return tuple(hosts), slots


def parse_time(text: str, now: float | None = None) -> float | None:
    """Read a time as LSF prints it, in UTC; without a year it is the latest such moment.

    Parameters
    ----------
    text : str
        Such as ``Nov 20 11:45``, ``Fri Nov 20 11:45:56 2026`` or ``11/20-12:20:34``.
    now : float, optional
        The time, in seconds since the epoch.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None or (match["name"] and match["name"] not in _MONTHS):
        return None
    now = time.time() if now is None else now
    month = _MONTHS.index(match["name"]) + 1 if match["name"] else int(match["month"])
    day = int(match["day"] or match["mday"])
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    this = datetime.fromtimestamp(now, timezone.utc).year
    # the 29th of February may be years ago, and clocks differ
    for year in [int(match["year"])] if match["year"] else range(this + 1, this - 9, -1):
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
        if match["year"] or moment <= now + 86400:
            return moment
    return None


def parse_duration(text: str) -> Duration | None:
    """Read ``0.1 second(s)`` or ``000:00:00.16``."""
    if match := _SECONDS.match(text):
        return Duration.of(float(match[1]), "s")
    if match := _CLOCK.fullmatch(text):
        return Duration.of(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), "s")
    return None


def parse_memory(text: str) -> Memory | None:
    """Read ``3.9 Gbytes``, ``522 MBytes`` or ``24105M``."""
    match = _AMOUNT.fullmatch(text.strip())
    return Memory.of(float(match[1]), match[2] or "b") if match and float(match[1]) else None


def _kilobytes(text: str | None) -> Memory | None:
    number = whole_number(text)
    return Memory.of(number, "k") if number else None


def between(start: float | None, end: float | None) -> Duration | None:
    """Give the time from start to end, where both are known."""
    return Duration.of(end - start, "s") if start is not None and end is not None and end >= start else None
