"""bjobs."""

from __future__ import annotations

import os
import re
import sys

from tests.fakes.lsf.fields import common, parse_form, table, to_json, values_of
from tests.fakes.lsf.longform import long_text
from tests.fakes.lsf.options import HOST, IBM, Failure, UsageFailure, connect, parse_id, parse_letters
from tests.fakes.lsf.system import LSF, name_of, status, written
from tests.fakes.model import ENDED, SUSPENDED, Job, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fakes.lsf.options import Options

    Row = tuple[Job, Task]

_HEADER = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME"
_WIDE = " PROJ_NAME CPU_USED MEM SWAP PIDS START_TIME FINISH_TIME"
_ARRAYS = "JOBID    ARRAY_SPEC  OWNER   NJOBS PEND DONE  RUN EXIT SSUSP USUSP PSUSP"
_NOTHING = "lsb_readjobinfo: End of file"
_KINDS = {"p": ("PEND", "pending"), "r": ("RUN", "running"), "s": ("SUSP", "suspended"), "d": ("DONE EXIT", "done")}


def main(name: str, words: Sequence[str]) -> int:
    """List jobs."""
    whole = ["json", "UF", *(["noheader", "hms", "sum"] if IBM else [])]
    options = parse_letters("bjobs", words, "mquPNJo", "wlWadpsroAhV" + "X" * IBM, whole)
    form = options.get("o") or (os.environ.get("LSB_BJOBS_FORMAT", "") if IBM and "l" not in options else "")
    if ("o" in options and (not form or "l" in options)) or ("json" in options and not form):
        raise UsageFailure("bjobs")
    fields, delimiter = parse_form(form)
    ids = [(word, *parse_id(word)) for word in options.rest if word != "0"]
    system = LSF()
    try:
        connect(system)
    except Failure:
        if "json" in options:
            print(to_json([], [], []))
        raise
    with system:
        if "A" in options:
            return _arrays(system, ids, "w" in options)
        rows, missing = _select(system, ids, options)
        found = [values_of(system, job, task) for job, task in rows] if fields else []
        text = _text(system, rows, options) if rows and not fields else ""
    unknown = [f"Job <{word}> is not found" for word in missing]
    if "json" in options:
        if not (rows or unknown) and ("a" in options or "d" in options) and not IBM:
            raise Failure(_NOTHING)
        print(to_json(fields, found, missing))
        return 0 if rows or (IBM and not unknown) else 255
    if not rows and not unknown:
        return _nothing(options)
    if fields and rows:
        print(table(fields, found, delimiter, header="noheader" not in options))
    elif rows:
        print(text)
    sys.stdout.flush()
    for line in unknown:
        print(line, file=sys.stderr)
    return 255 if unknown else 0


# --- which jobs ------------------------------------------------------------------------------------------------


def _select(system: LSF, ids: Sequence[tuple[str, int, list[int]]], options: Options) -> tuple[list[Row], list[str]]:
    """Give the jobs that were asked for, and the ids that nobody has."""
    rows: list[Row] = []
    missing = []
    for word, number, indices in ids:
        job = system.job(number)
        tasks = [task for task in system.tasks(number) if not indices or task.index in indices]
        rows += [(job, task) for task in tasks if job]
        if not tasks:
            missing.append(word)
    if not ids:
        rows = [(system.job_of(task), task) for task in system.tasks()]
        rows = [row for row in rows if _wanted(system, row, options)]
    order = {"RUN": 0, "USUSP": 0, "SSUSP": 0, "PEND": 1, "PSUSP": 1}
    return sorted(rows, key=lambda row: order.get(status(row[1]), 2)), missing


def _wanted(system: LSF, row: Row, options: Options) -> bool:
    job, task = row
    user = options.get("u") or system.user
    names = (job.name, name_of(job, task))
    kinds = [words for letter, (words, _) in _KINDS.items() if letter in options]
    return (
        user in ("all", job.owner)
        and ("q" not in options or options.get("q") == job.queue)
        and ("P" not in options or options.get("P") == job.face["project"])
        and ("J" not in options or any(_matches(options.get("J"), name) for name in names))
        and ("a" in options or (any(_is_of(task, words) for words in kinds) if kinds else task.state != ENDED))
    )


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def _is_of(task: Task, words: str) -> bool:
    return any(status(task).endswith(word) for word in words.split())


def _nothing(options: Options) -> int:
    """Say that there are no such jobs."""
    queue = options.get("q")
    if queue and queue not in LSF.queues:
        raise Failure(f"{queue}: No such queue")
    kinds = [word for letter, (_, word) in _KINDS.items() if letter in options and letter != "d"]
    text = f"No {kinds[0] if kinds else 'unfinished'} job found"
    code = 254
    if "J" in options:
        text = f"Job <{options.get('J')}> is not found"
    elif "a" in options or "d" in options:
        text, code = ("No job found", 254) if IBM else (_NOTHING, 255)
    if IBM:
        code = 255 if os.environ.get("LSB_BJOBS_CONSISTENT_EXIT_CODE", "").upper() == "Y" else 0
    raise Failure(text, code)


# --- tables ----------------------------------------------------------------------------------------------------


def _text(system: LSF, rows: Sequence[Row], options: Options) -> str:
    """Make a listing in one of the forms that are not free."""
    if "l" in options or "UF" in options:
        unified = "UF" in options
        return ("-" * 78 + "\n").join(long_text(system, job, task, unified=unified) for job, task in rows)
    wide = "w" in options or "W" in options
    lines = [_HEADER + ((" " + _WIDE) if "W" in options else "")]
    for job, task in rows:
        lines += _lines(job, task, wide=wide)
        if "W" in options:
            lines[-1] = _widest(job, task, lines[-1])
        if "p" in options and status(task) in ("PEND", "PSUSP"):
            lines.append(f" {system.pending_reason(job, task)}: 1 host;")
        if "s" in options and task.state == SUSPENDED:
            lines.append(" The job was suspended by user;")
    return "\n".join(lines)


def _lines(job: Job, task: Task, *, wide: bool) -> list[str]:
    hosts = [HOST] * job.slots if task.started else [""]
    if not task.started and (wide or task.state == ENDED):
        hosts = ["   -    "]
    time_ = written(job.submitted, "%b %e %H:%M")
    head = f"{job.number:<7} "
    name = name_of(job, task)
    if wide:
        host = f"{job.slots}*{HOST}" if IBM and task.started and job.slots > 1 else ":".join(hosts)
        return [f"{head}{job.owner:<7} {status(task):<5} {job.queue:<10} {HOST:<11} {host:<11} {name:<10} {time_}"]
    short = f"*{name[-9:]}" if len(name) > 10 else name
    first = f"{HOST[:11]:<11} {hosts[0][:11]:<11} {short:<10} {time_}"
    rest = [" " * 45 + host[:11] for host in hosts[1:]]
    return [f"{head}{job.owner[:7]:<7} {status(task):<5} {job.queue[:10]:<10} {first}", *rest]


def _widest(job: Job, task: Task, line: str) -> str:
    values = common(job, task)
    line = line[: -len(values["SUBMIT_TIME"])] + written(job.submitted, "%m/%d-%H:%M:%S")
    line += f" {job.face['project']:<10} {values['CPU_USED']} {values['MEM']:<6} {values['SWAP']:<7}"
    return line + "".join(
        " - " if values[field] == "-" else f" {values[field]}" for field in ("PIDS", "START_TIME", "FINISH_TIME")
    )


def _arrays(system: LSF, ids: Sequence[tuple[str, int, list[int]]], wide: bool) -> int:
    """Count the elements of arrays by state."""
    numbers = [number for _, number, _ in ids] or [job.number for job in system.jobs() if job.is_array]
    lines = [_ARRAYS]
    code = 0
    for number in numbers:
        job = system.job(number)
        if job is None or not job.is_array:
            print(f"Job array <{number}> is not found", file=sys.stderr)
            code = 255
            continue
        states = [status(task) for task in system.tasks(number)]
        spec = job.name + job.face["spec"]
        counts = [states.count(state) for state in ("PEND", "DONE", "RUN", "EXIT", "SSUSP", "USUSP", "PSUSP")]
        lines.append(
            f"{number:<8} "
            + (f"{spec:<11} {job.owner}" if wide else f"{spec[:8]:<8}  {job.owner:>7}")
            + f"{len(states):>8}"
            + "".join(f" {count:>{4 if at < 4 else 5}}" for at, count in enumerate(counts))
        )
    if len(lines) > 1:
        print("\n".join(lines), flush=True)
    return code
