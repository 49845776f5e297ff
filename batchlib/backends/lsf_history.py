"""The history that LSF keeps of jobs which its listing has forgotten, or says too little of: what ``bhist`` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from ..quantity import Duration, Memory, whole_number
from ..run import Accounting, Reason, State
from .lsf_text import ELEMENT, between, judge_end, parse_hosts, parse_memory, parse_time
from .verdict import JobRow

#: The signal by which LSF tells a job that it is over its run limit: an exit code of 140.
_SIGUSR2 = 12

_STAMP = re.compile(r"^[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2}(?: \d{4})?: ", re.ASCII | re.MULTILINE)
_HEAD = re.compile(r"Job <(\d{1,18}(?:\[\d{1,9}\])?)>, *(?:Job Name *<(.*?)>, *)?User *<([^>]*)>", re.ASCII | re.DOTALL)
_DISPATCHED = re.compile(r"(?:\[\d+\] )?[Dd]ispatched\b", re.ASCII)
_KILL = re.compile(r"Signal *<KILL> requested by user or administrator *<([^>]*)>")
_END = re.compile(
    r"(?P<done>Done successfully)|sbatchd startup; kill ZOMBIE|Exited(?:"
    r" *with exit *code *(?P<code>\d{1,3})| *by signal *(?P<signal>\d{1,3})|;? job has been forced to exit"
    r" with exit code (?P<forced>\d{1,3}))?",
    re.ASCII,
)
_COMPLETED = re.compile(r"Completed *<(?P<how>\w+)>(?:; *(?P<why>TERM_\w+))?")
_CPU = re.compile(r"The CPU time used is (\d{1,9}(?:\.\d{1,9})?) sec", re.ASCII)
_RUN_LIMIT = re.compile(r"^ RUNLIMIT *\n *(\d{1,9}(?:\.\d{1,9})?) min", re.ASCII | re.MULTILINE)
_MEMORY_LIMIT = re.compile(r"^ MEMLIMIT *\n *(\d{1,12}(?:\.\d{1,9})? [KMGTP])", re.ASCII | re.MULTILINE)
_MOST_MEMORY = re.compile(r"^ MAX MEM: (\d{1,12}(?:\.\d{1,9})? [KMGTP])", re.ASCII | re.MULTILINE)


@attrs.frozen
class _Story:
    """What the events of a job's latest run tell."""

    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    hosts: tuple[str, ...] = ()
    cores: int | None = None
    runs: int = 0
    done: bool = False
    killer: str = ""
    why: str = ""
    code: int | None = None
    signal: int | None = None
    cpu_time: Duration | None = None

    def after(self, when: float | None, what: str) -> _Story:
        """Give what is told with one more event."""
        if what.startswith("Submitted"):
            return attrs.evolve(self, submitted=when)
        if _DISPATCHED.match(what):
            hosts, slots = parse_hosts(":".join(re.findall(r"<([^<>]+)>", what.partition(",")[0])))
            return _Story(self.submitted, when, hosts=hosts, cores=slots or None, runs=self.runs + 1)
        if what.startswith("Pending: Job has been requeued"):
            return _Story(self.submitted, runs=self.runs)
        if match := _KILL.match(what):
            return attrs.evolve(self, killer=match[1])
        if match := _COMPLETED.match(what):
            ended = when if self.ended is None else self.ended
            return attrs.evolve(self, ended=ended, done=match["how"] == "done", why=match["why"] or self.why)
        if match := _END.match(what):
            used = _CPU.search(what)
            return attrs.evolve(
                self,
                ended=when,
                done=bool(match["done"]),
                code=whole_number(match["code"] or match["forced"]),
                signal=whole_number(match["signal"]),
                cpu_time=Duration.of(float(used[1]), "s") if used else None,
            )
        return self


def parse_history(text: str, listed: Mapping[str, JobRow] | None = None, now: float | None = None) -> dict[str, JobRow]:
    """Read ``bhist -l``: the jobs that have ended, and how.

    Parameters
    ----------
    text : str
        What it printed.
    listed : mapping of str to JobRow, optional
        What a listing says of the same jobs.
    now : float, optional
        The time, in seconds since the epoch.
    """
    found: dict[str, JobRow] = {}
    for block in re.split(r"^(?=Job <)", unwrap(text), flags=re.MULTILINE)[1:]:
        head = _HEAD.match(block)
        if head is not None:
            row = _history_row(head, block, (listed or {}).get(head[1]), now)
            if row is not None:
                found[row.jobid] = row
    return found


def unwrap(text: str) -> str:
    """Put lines together that were broken at column 79, which may be within any word.

    They go on behind as many blanks as the time of an event is wide: with its year or without.
    """
    stamp = _STAMP.search(text)
    indent = " " * (len(stamp[0]) if stamp else len("Mon Jan  1 00:00:00: "))
    lines: list[str] = []
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if lines and line.startswith(indent):
            lines[-1] += line[len(indent) :]
        else:
            lines.append(line)
    return "\n".join(lines)


def _history_row(head: re.Match[str], block: str, listed: JobRow | None, now: float | None) -> JobRow | None:
    story = _Story()
    for line in block.split("\n"):
        stamp = _STAMP.match(line)
        if stamp is not None:
            story = story.after(parse_time(stamp[0].rstrip(": "), now), line[stamp.end() :])
    if story.ended is None:
        return None
    used = Accounting(
        cpu_time=story.cpu_time,
        wall_time=between(story.started, story.ended),
        max_memory=_memory_in(_MOST_MEMORY, block),
        cores=story.cores,
        hosts=story.hosts,
        submitted=story.submitted,
        started=story.started,
        ended=story.ended,
        runs=max(1, story.runs),
    )
    if listed is not None:
        used.cpu_time = listed.accounting.cpu_time or used.cpu_time
        used.max_memory = used.max_memory or listed.accounting.max_memory
    state, reason, exitcode, signal = _verdict(story, head[3], block, used)
    used.native = {"STAT": "DONE" if story.done else "EXIT", "EXIT_REASON": story.why}
    shown = "DONE" if story.done else f"EXIT ({story.why})" if story.why else "EXIT"
    name = head[2] or ""
    element = ELEMENT.fullmatch(name)
    if element and "[" in head[1]:
        name = element[1]
    return JobRow(head[1], state, shown, reason, exitcode, signal, name=name, accounting=used)


def _verdict(
    story: _Story, owner: str, block: str, used: Accounting
) -> tuple[State, Reason | None, int | None, int | None]:
    """Judge how a job ended by all that its history tells."""
    if story.done:
        # so it says too when only the shell around the job was killed: the job's own word counts more
        return State.DONE, None, None, None
    state, reason, exitcode, signal = judge_end(story.why, story.code, story.signal)
    if reason not in (None, Reason.EXITED, Reason.SIGNALLED):
        return state, reason, exitcode, signal
    if story.killer:
        by = Reason.CANCELLED_BY_USER if story.killer == owner else Reason.CANCELLED_BY_SYSTEM
        return State.CANCELLED, by, exitcode, signal
    limit = _RUN_LIMIT.search(block)
    ran = used.wall_time.seconds if used.wall_time is not None else 0.0
    if signal == _SIGUSR2 and (limit is None or ran >= 60 * float(limit[1])):
        return State.FAILED, Reason.WALLTIME, None, signal
    most = _memory_in(_MEMORY_LIMIT, block)
    if signal is not None and most is not None and used.max_memory is not None and used.max_memory > most:
        # nobody asked for its end, and it had more than it may: volclava says no more than that
        return State.FAILED, Reason.MEMORY, None, signal
    return state, reason, exitcode, signal


def parse_names(text: str) -> dict[str, str]:
    """Read ``bhist -w``: native ids by name, of arrays without indices."""
    found = {}
    for line in text.split("\n"):
        match = re.match(r"(\d{1,18})(\[\d{1,9}\])? +\S+ +(\S+) ", line, re.ASCII)
        if match:
            element = ELEMENT.fullmatch(match[3]) if match[2] else None
            found[element[1] if element else match[3]] = match[1]
    return found


def _memory_in(pattern: re.Pattern[str], text: str) -> Memory | None:
    match = pattern.search(text)
    return parse_memory(match[1]) if match else None
