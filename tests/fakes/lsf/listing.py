"""bjobs."""

from __future__ import annotations

import os
import re
import sys
import time

from tests.fakes.lsf.options import HOST, IBM, Failure, UsageFailure, connect, parse_id, parse_letters
from tests.fakes.lsf.system import LSF, ending, exit_reason, ident, name_of, sampled, status
from tests.fakes.model import ENDED, SUSPENDED, Job, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fakes.lsf.options import Options

    Row = tuple[Job, Task]

_HEADER = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME"
_WIDE = " PROJ_NAME CPU_USED MEM SWAP PIDS START_TIME FINISH_TIME"
_ARRAYS = "JOBID    ARRAY_SPEC  OWNER   NJOBS PEND DONE  RUN EXIT SSUSP USUSP PSUSP"
_FIELDS = """JOBID USER STAT QUEUE FROM_HOST EXEC_HOST JOB_NAME SUBMIT_TIME PROJ_NAME CPU_USED MEM SWAP PIDS START_TIME
FINISH_TIME""".split()
_ALIASES = {"ID": "JOBID", "NAME": "JOB_NAME", "PROJ": "PROJ_NAME", "SUB_CWD": "CWD"}
#: Widths of the columns of IBM's -o; others are 15 wide.
_WIDTHS = {
    "JOBID": 7, "JOBINDEX": 8, "STAT": 5, "USER": 7, "QUEUE": 10, "JOB_NAME": 10, "PROJ_NAME": 11, "FROM_HOST": 11,
    "EXEC_HOST": 11, "EXIT_CODE": 10, "EXIT_REASON": 50, "FINISH_TIME": 16, "CPU_USED": 20, "PIDS": 20, "SLOTS": 5,
    "PEND_REASON": 11, "MAX_MEM": 10, "MEM": 10,
}  # fmt: skip
_LOAD = """
 SCHEDULING PARAMETERS:
           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem
 loadSched   -     -     -     -       -     -    -     -     -      -      - \x20
 loadStop    -     -     -     -       -     -    -     -     -      -      - \x20
"""
_NOTHING = "lsb_readjobinfo: End of file"
_KINDS = {"p": ("PEND", "pending"), "r": ("RUN", "running"), "s": ("SUSP", "suspended"), "d": ("DONE EXIT", "done")}


def main(name: str, words: Sequence[str]) -> int:
    """List jobs."""
    whole = ["json", "UF", *(["noheader", "hms", "sum"] if IBM else [])]
    options = parse_letters("bjobs", words, "mquPNJo", "wlWadpsroAhV" + "X" * IBM, whole)
    form = options.get("o") or (os.environ.get("LSB_BJOBS_FORMAT", "") if IBM and "l" not in options else "")
    if ("o" in options and (not form or "l" in options)) or ("json" in options and not form):
        raise UsageFailure("bjobs")
    fields, delimiter = _fields(form)
    ids = [(word, *parse_id(word)) for word in options.rest if word != "0"]
    system = LSF()
    try:
        connect(system)
    except Failure:
        if "json" in options:
            print(_json([], [], []))
        raise
    with system:
        if "A" in options:
            return _arrays(system, ids, "w" in options)
        rows, missing = _select(system, ids, options)
        found = [_values(system, job, task) for job, task in rows] if fields else []
        text = _text(system, rows, options) if rows and not fields else ""
    unknown = [f"Job <{word}> is not found" for word in missing]
    if "json" in options:
        if not (rows or unknown) and ("a" in options or "d" in options) and not IBM:
            raise Failure(_NOTHING)
        print(_json(fields, found, missing))
        return 0 if rows or (IBM and not unknown) else 255
    if not rows and not unknown:
        return _nothing(options)
    if fields and rows:
        print(_table(fields, found, delimiter, header="noheader" not in options))
    elif rows:
        print(text)
    sys.stdout.flush()
    for line in unknown:
        print(line, file=sys.stderr)
    return 255 if unknown else 0


# --- which jobs ------------------------------------------------------------------------------------------------


def _select(
    system: LSF, ids: Sequence[tuple[str, int, list[int]]], options: Options
) -> tuple[list[Row], list[str]]:
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
        return ("-" * 78 + "\n").join(_long(system, job, task, unified=unified) for job, task in rows)
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
    time_ = _when(job.submitted, "%b %e %H:%M")
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
    values = _common(job, task)
    line = line[: -len(values["SUBMIT_TIME"])] + _when(job.submitted, "%m/%d-%H:%M:%S")
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


# --- the free form ---------------------------------------------------------------------------------------------


def _fields(form: str) -> tuple[list[str], str]:
    """Read the value of -o: fields, and what stands between them."""
    delimiter = ""
    if IBM:
        match = re.search(r"delimiter=(['\"])(.*?)\1", form)
        delimiter = match[2] if match else ""
        form = re.sub(r"delimiter=(['\"])(.*?)\1", "", form)
    fields = form.upper().split()
    for field in fields:
        name = _ALIASES.get(field.partition(":")[0], field.partition(":")[0]) if IBM else field
        if name not in (_IBM_FIELDS if IBM else _FIELDS):
            raise Failure(f"<{field}> in the format string is not a valid field name.", 99)
    return fields, delimiter


def _common(job: Job, task: Task) -> dict[str, str]:
    """Give the values of the fields that both dialects have, as volclava writes them."""
    known = sampled(task)
    cpu = -2.0 if task.started and not task.ended and not known else task.cpu
    return {
        "JOBID": str(job.number),
        "USER": job.owner,
        "STAT": status(task),
        "QUEUE": job.queue,
        "FROM_HOST": HOST,
        "EXEC_HOST": ":".join([HOST] * job.slots) if task.started else "-",
        "JOB_NAME": name_of(job, task),
        "SUBMIT_TIME": _when(job.submitted, "%b %e %H:%M"),
        "PROJ_NAME": job.face["project"],
        "CPU_USED": f"{int(cpu) // 3600:03}:{int(cpu) // 60 % 60:02}:{cpu % 60:05.2f}" if cpu >= 0 else "000:00:-2.00",
        "MEM": str(task.rss if known else 0),
        "SWAP": str(task.rss if known else 0),
        "PIDS": str(task.session) if known and task.session else "-",
        "START_TIME": _when(task.started, "%m/%d-%H:%M:%S"),
        "FINISH_TIME": _when(task.ended, "%m/%d-%H:%M:%S"),
    }


#: What IBM's LSF has in addition, or writes in another way.
_IBM_VALUES: dict[str, Callable[[LSF, Job, Task], str]] = {
    "JOBINDEX": lambda system, job, task: str(max(task.index, 0)),
    "EXEC_HOST": lambda system, job, task: (
        (f"{job.slots}*{HOST}" if job.slots > 1 else HOST) if task.started else "-"
    ),
    "CPU_USED": lambda system, job, task: f"{task.cpu:.1f} second(s)" if sampled(task) or task.ended else "-",
    "RUN_TIME": lambda system, job, task: f"{int(_run_time(task))} second(s)",
    "MEM": lambda system, job, task: f"{task.rss // 1024} Mbytes" if sampled(task) and not task.ended else "-",
    "MAX_MEM": lambda system, job, task: _memory(task.rss) if sampled(task) else "-",
    "SWAP": lambda system, job, task: "-",
    "START_TIME": lambda system, job, task: _when(task.started, "%b %e %H:%M"),
    "FINISH_TIME": lambda system, job, task: (
        _when(task.started + job.walltime, "%b %e %H:%M") + " L"
        if task.started and not task.ended and job.walltime
        else _when(task.ended, "%b %e %H:%M")
    ),
    "EXIT_CODE": lambda system, job, task: _exit_code(task),
    "EXIT_REASON": lambda system, job, task: exit_reason(job, task) or "-" if task.state == ENDED else "-",
    "KILL_REASON": lambda system, job, task: "-",
    "SUSPEND_REASON": lambda system, job, task: "-",
    "SLOTS": lambda system, job, task: str(job.slots),
    "MAX_REQ_PROC": lambda system, job, task: "-",
    "%COMPLETE": lambda system, job, task: "-",
    "RUNTIMELIMIT": lambda system, job, task: f"{job.face['minutes']:.1f}" if job.face["minutes"] else "-",
    "DEPENDENCY": lambda system, job, task: job.face["depends"] or "-",
    "PEND_REASON": lambda system, job, task: (
        f"{system.pending_reason(job, task)};" if status(task) in ("PEND", "PSUSP") else "-"
    ),
    "COMMAND": lambda system, job, task: job.face["title"],
    "CWD": lambda system, job, task: job.face["cwd"],
    "EXEC_CWD": lambda system, job, task: job.face["cwd"],
    "OUTPUT_FILE": lambda system, job, task: job.face["out"] or "-",
}
_IBM_FIELDS = {*_FIELDS, *_IBM_VALUES}


def _values(system: LSF, job: Job, task: Task) -> dict[str, str]:
    """Give the values of all fields."""
    values = _common(job, task)
    if IBM:
        values |= {field: make(system, job, task) for field, make in _IBM_VALUES.items()}
    return values


def _exit_code(task: Task) -> str:
    if task.state != ENDED or task.ok or not task.started or task.reason == "lost":
        return "-"
    code = task.exit_code or 128 + task.signal
    # seen in a job over its limit: the bare signal here, while the report has 140
    return str(code - 128 if task.reason == "walltime" and code > 128 else code)


def _memory(kilobytes: int) -> str:
    megabytes = kilobytes / 1024
    return f"{megabytes / 1024:.1f} Gbytes" if megabytes >= 1024 else f"{megabytes:.0f} Mbytes"


def _run_time(task: Task) -> float:
    return (task.ended or time.time()) - task.started if task.started else 0.0


def _when(when: float, form: str) -> str:
    return time.strftime(form, time.localtime(when)) if when else "-"


def _name(field: str) -> str:
    name = field.partition(":")[0]
    return _ALIASES.get(name, name)


def _table(fields: Sequence[str], found: Sequence[dict[str, str]], delimiter: str, *, header: bool) -> str:
    rows = [[_name(field) for field in fields]] if header else []
    rows += [[values[_name(field)] for field in fields] for values in found]
    if delimiter or not IBM:
        return "\n".join((delimiter or " ").join(row) for row in rows)
    widths = [int(field.partition(":")[2] or _WIDTHS.get(_name(field), 15)) for field in fields]
    cut = [
        [value if len(value) <= width else "*" + value[1 - width :] for value, width in zip(row, widths, strict=True)]
        for row in rows
    ]
    return "\n".join(
        " ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip() for row in cut
    )


def _json(fields: Sequence[str], found: Sequence[dict[str, str]], missing: Sequence[str]) -> str:
    records = [[(_name(field), values[_name(field)]) for field in fields] for values in found]
    records += [[("JOBID", word), ("ERROR", f"Job <{word}> is not found")] for word in missing]
    if IBM:
        made = ["{" + ",".join(f"\n      {_quoted(n)}:{_quoted(v)}" for n, v in record) + "\n    }" for record in records]
        inside = "\n    " + ",\n    ".join(made) + "\n  " if made else ""
        return f'{{\n  "COMMAND":"bjobs",\n  "JOBS":{len(records)},\n  "RECORDS":[{inside}]\n}}'
    made = ["{\n" + ",\n".join(f"\t\t\t{_quoted(n)}:\t{_quoted(v)}" for n, v in record) + "\n\t\t}" for record in records]
    return f'{{\n\t"COMMAND":\t"bjobs",\n\t"JOBS":\t{len(records)},\n\t"RECORDS":\t[{", ".join(made)}]\n}}'


def _quoted(value: str) -> str:
    value = "" if IBM and value == "-" else value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"' if not IBM else '"' + escaped.replace("/", "\\/") + '"'


# --- the long form ---------------------------------------------------------------------------------------------


def wrap(line: str, *, always: bool = True) -> str:
    """Break a line at column 79, wherever that is."""
    if not always:
        return line
    parts, rest, width = [], line, 79
    while True:
        parts.append(rest[:width])
        if len(rest) < width:
            return ("\n" + " " * 21).join(parts)
        rest, width = rest[width:], 58


def head(job: Job, task: Task, *, history: bool) -> str:
    """Make the line that says what job it is."""
    named = f"Job Name <{name_of(job, task)}>, " if job.face["named"] else ""
    now = "" if history else f"Status <{status(task)}>, Queue <{job.queue}>, "
    line = (
        f"Job <{ident(job, task)}>, {named}User <{job.owner}>, Project <{job.face['project']}>, {now}"
        f"Command <{job.face['title']}>"
    )
    # in samples of IBM's, a blank at the first break is not there
    return wrap(line[:79] + line[79:].removeprefix(" ")) if IBM else line


def submitted(job: Job, *, history: bool) -> str:
    """Make the line on the submission, and those on limits."""
    face = job.face
    home, cwd = face["home"], face["cwd"]
    below = "$HOME" + cwd[len(home) :] if home != "/" and (cwd + "/").startswith(home + "/") else cwd
    parts = [f"Submitted from host <{HOST}>{' with hold' * face['held']}"]
    parts += [f"to Queue <{job.queue}>"] if history else []
    parts.append(f"CWD <{below}>")
    for kind, what in (("out", "Output File"), ("err", "Error File")):
        if face[kind]:
            # volclava takes the name for a format of printf
            path = face[kind] if IBM else re.sub(r"%I\.o", f"{job.number + 0o30000000000:o}", face[kind])
            parts.append(f"{what}{' (overwrite)' * face[f'over_{kind}']} <{path}>")
    if job.slots > 1:
        parts.append(f"{job.slots} {'Task(s)' if IBM else 'Processors Requested'}")
    if face["resreq"]:
        parts.append(f"Requested Resources <{face['resreq']}>")
    if face["depends"]:
        parts.append(f"Dependency Condition <{face['depends']}>")
    return wrap(f"{_when(job.submitted, EVENT)}: {', '.join(parts)};", always=IBM) + "\n"


def limits(job: Job) -> str:
    """Make the lines on limits."""
    text = ""
    if job.face["minutes"]:
        text += (
            f"\n RUNLIMIT\n {job.face['minutes']:.1f} min of {HOST}\n"
            if IBM
            else f"\n RUNLIMIT                \n {job.face['minutes']:.1f} min                 \n"
        )
    if job.face["memory"]:
        amount = job.face["memory"]
        text += f"\n MEMLIMIT\n {amount // 1024:>6} M\n" if IBM else f"\n MEMLIMIT\n {amount:>6} K\n"
    return text


EVENT = "%a %b %e %H:%M:%S"


def _long(system: LSF, job: Job, task: Task, *, unified: bool) -> str:
    face = job.face
    lines = ["\n" + head(job, task, history=False) + "\n" + submitted(job, history=False)]
    hosts = " ".join([f"<{HOST}>"] * job.slots)
    if not unified:
        lines.append(limits(job))
    if task.started:
        started = f"{job.slots} Hosts/Processors {hosts}" if job.slots > 1 else hosts
        started = f"[{task.index}] started on {started}" if job.is_array else f"Started on {started}"
        if IBM or unified:
            where = f"<{job.slots}*{HOST}>" if IBM and job.slots > 1 else hosts
            started = f"Started {job.slots} Task(s) on Host(s) {where}, Allocated {job.slots} Slot(s) on Host(s) {where}"
        if task.session:
            started += f", Execution Home <{face['home']}>, Execution CWD <{face['cwd']}>"
        lines.append(wrap(f"{_when(task.started, EVENT)}: {started};", always=IBM) + "\n")
    if task.state == SUSPENDED:
        lines.append(" SUSPENDING REASONS:\n The job was suspended by user;\n")
    elif status(task) in ("PEND", "PSUSP"):
        lines.append(f" PENDING REASONS:\n {system.pending_reason(job, task)}: 1 host;\n")
    elif task.state == ENDED:
        lines += [wrap(line, always=IBM) + "\n" for line in _end_lines(job, task)]
    if unified:
        lines.append(limits(job))
    if sampled(task) and task.rss:
        lines.append(f"\n MEMORY USAGE:\n MAX MEM: {_memory(task.rss)};  AVG MEM: {_memory(task.rss)}\n")
    return "".join(lines) + _LOAD + _requirements(job, task)


def _end_lines(job: Job, task: Task) -> list[str]:
    text = ending(task)
    dot = "" if text == "Exited" and not IBM else "."
    lines = [f"{_when(task.ended, EVENT)}: {text}{dot}"]
    if IBM and not task.ok:
        reason = exit_reason(job, task)
        lines.append(f"{_when(task.ended, EVENT)}: Completed <exit>{'; ' * bool(reason)}{reason}.")
    return lines


def _requirements(job: Job, task: Task) -> str:
    wanted = job.face["resreq"]
    select = re.search(r"select\[([^]]*)\]", wanted)
    rest = [re.sub(r"(mem=\d+)\b", r"\1.00", part) for part in re.findall(r"rusage\[[^]]*\]|span\[[^]]*\]", wanted)]
    where = f"({select[1]}) && (type == local)" if select else "type == local"
    text = " ".join([f"select[{where}] order[r15s:pg]", *rest])
    return f"\n RESOURCE REQUIREMENT DETAILS:\n Combined: {text}\n Effective: {text if task.started else '-'}\n"
