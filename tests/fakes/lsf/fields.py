"""The free forms of bjobs: -o and -json."""

from __future__ import annotations

import re
import time

from tests.fakes.lsf.options import HOST, IBM, Failure
from tests.fakes.lsf.system import LSF, exit_reason, memory, name_of, sampled, status, written
from tests.fakes.model import ENDED, Job, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FIELDS = """
JOBID USER STAT QUEUE FROM_HOST EXEC_HOST JOB_NAME SUBMIT_TIME PROJ_NAME CPU_USED MEM SWAP PIDS START_TIME
FINISH_TIME
"""
_ALIASES = {"ID": "JOBID", "NAME": "JOB_NAME", "PROJ": "PROJ_NAME", "SUB_CWD": "CWD"}
#: Widths of the columns of IBM's -o; others are 15 wide.
_WIDTHS = {
    "JOBID": 7, "JOBINDEX": 8, "STAT": 5, "USER": 7, "QUEUE": 10, "JOB_NAME": 10, "PROJ_NAME": 11, "FROM_HOST": 11,
    "EXEC_HOST": 11, "EXIT_CODE": 10, "EXIT_REASON": 50, "FINISH_TIME": 16, "CPU_USED": 20, "PIDS": 20, "SLOTS": 5,
    "PEND_REASON": 11, "MAX_MEM": 10, "MEM": 10,
}  # fmt: skip


def parse_form(form: str) -> tuple[list[str], str]:
    """Read the value of -o: fields, and what stands between them."""
    delimiter = ""
    if IBM:
        match = re.search(r"delimiter=(['\"])(.*?)\1", form)
        delimiter = match[2] if match else ""
        form = re.sub(r"delimiter=(['\"])(.*?)\1", "", form)
    fields = form.upper().split()
    for field in fields:
        name = _ALIASES.get(field.partition(":")[0], field.partition(":")[0]) if IBM else field
        if name not in (_IBM_FIELDS if IBM else _FIELDS.split()):
            raise Failure(f"<{field}> in the format string is not a valid field name.", 99)
    return fields, delimiter


def common(job: Job, task: Task) -> dict[str, str]:
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
        "SUBMIT_TIME": written(job.submitted, "%b %e %H:%M"),
        "PROJ_NAME": job.face["project"],
        "CPU_USED": f"{int(cpu) // 3600:03}:{int(cpu) // 60 % 60:02}:{cpu % 60:05.2f}" if cpu >= 0 else "000:00:-2.00",
        "MEM": str(task.rss if known else 0),
        "SWAP": str(task.rss if known else 0),
        "PIDS": str(task.session) if known and task.session else "-",
        "START_TIME": written(task.started, "%m/%d-%H:%M:%S"),
        "FINISH_TIME": written(task.ended, "%m/%d-%H:%M:%S"),
    }


#: What IBM's LSF has in addition, or writes in another way.
_IBM_VALUES: dict[str, Callable[[LSF, Job, Task], str]] = {
    "JOBINDEX": lambda system, job, task: str(max(task.index, 0)),
    "EXEC_HOST": lambda system, job, task: (f"{job.slots}*{HOST}" if job.slots > 1 else HOST) if task.started else "-",
    "CPU_USED": lambda system, job, task: f"{task.cpu:.1f} second(s)" if sampled(task) or task.ended else "-",
    "RUN_TIME": lambda system, job, task: f"{int(_run_time(task))} second(s)",
    "MEM": lambda system, job, task: f"{task.rss // 1024} Mbytes" if sampled(task) and not task.ended else "-",
    "MAX_MEM": lambda system, job, task: memory(task.rss) if sampled(task) else "-",
    "SWAP": lambda system, job, task: "-",
    "START_TIME": lambda system, job, task: written(task.started, "%b %e %H:%M"),
    "FINISH_TIME": lambda system, job, task: (
        written(task.started + job.walltime, "%b %e %H:%M") + " L"
        if task.started and not task.ended and job.walltime
        else written(task.ended, "%b %e %H:%M")
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
_IBM_FIELDS = {*_FIELDS.split(), *_IBM_VALUES}


def values_of(system: LSF, job: Job, task: Task) -> dict[str, str]:
    """Give the values of all fields."""
    values = common(job, task)
    if IBM:
        values |= {field: make(system, job, task) for field, make in _IBM_VALUES.items()}
    return values


def _exit_code(task: Task) -> str:
    if task.state != ENDED or task.ok or not task.started or task.reason == "lost":
        return "-"
    code = task.exit_code or 128 + task.signal
    # seen in a job over its limit: the bare signal here, while the report has 140
    return str(code - 128 if task.reason == "walltime" and code > 128 else code)


def _run_time(task: Task) -> float:
    return (task.ended or time.time()) - task.started if task.started else 0.0


def _name(field: str) -> str:
    name = field.partition(":")[0]
    return _ALIASES.get(name, name)


def table(fields: Sequence[str], found: Sequence[dict[str, str]], delimiter: str, *, header: bool) -> str:
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


def to_json(fields: Sequence[str], found: Sequence[dict[str, str]], missing: Sequence[str]) -> str:
    records = [[(_name(field), values[_name(field)]) for field in fields] for values in found]
    records += [[("JOBID", word), ("ERROR", f"Job <{word}> is not found")] for word in missing]
    if IBM:
        made = [
            "{" + ",".join(f"\n      {_quoted(n)}:{_quoted(v)}" for n, v in record) + "\n    }" for record in records
        ]
        inside = "\n    " + ",\n    ".join(made) + "\n  " if made else ""
        return f'{{\n  "COMMAND":"bjobs",\n  "JOBS":{len(records)},\n  "RECORDS":[{inside}]\n}}'
    made = [
        "{\n" + ",\n".join(f"\t\t\t{_quoted(n)}:\t{_quoted(v)}" for n, v in record) + "\n\t\t}" for record in records
    ]
    return f'{{\n\t"COMMAND":\t"bjobs",\n\t"JOBS":\t{len(records)},\n\t"RECORDS":\t[{", ".join(made)}]\n}}'


def _quoted(value: str) -> str:
    value = "" if IBM and value == "-" else value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"' if not IBM else '"' + escaped.replace("/", "\\/") + '"'
