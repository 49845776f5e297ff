"""The long forms: bjobs -l and -UF, and the lines that bhist -l has in common with them."""

from __future__ import annotations

import re

from tests.fakes.lsf.options import HOST, IBM
from tests.fakes.lsf.system import LSF, ending, exit_reason, ident, memory, name_of, sampled, status, written
from tests.fakes.model import ENDED, SUSPENDED, Job, Task

EVENT = "%a %b %e %H:%M:%S"
LOAD = """
 SCHEDULING PARAMETERS:
           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem
 loadSched   -     -     -     -       -     -    -     -     -      -      - \x20
 loadStop    -     -     -     -       -     -    -     -     -      -      - \x20
"""


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
    return wrap(f"{written(job.submitted, EVENT)}: {', '.join(parts)};", always=IBM) + "\n"


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


def long_text(system: LSF, job: Job, task: Task, *, unified: bool) -> str:
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
            started = (
                f"Started {job.slots} Task(s) on Host(s) {where}, Allocated {job.slots} Slot(s) on Host(s) {where}"
            )
        if task.session:
            started += f", Execution Home <{face['home']}>, Execution CWD <{face['cwd']}>"
        lines.append(wrap(f"{written(task.started, EVENT)}: {started};", always=IBM) + "\n")
    if task.state == SUSPENDED:
        lines.append(" SUSPENDING REASONS:\n The job was suspended by user;\n")
    elif status(task) in ("PEND", "PSUSP"):
        lines.append(f" PENDING REASONS:\n {system.pending_reason(job, task)}: 1 host;\n")
    elif task.state == ENDED:
        lines += [wrap(line, always=IBM) + "\n" for line in _end_lines(job, task)]
    if unified:
        lines.append(limits(job))
    if sampled(task) and task.rss:
        lines.append(f"\n MEMORY USAGE:\n MAX MEM: {memory(task.rss)};  AVG MEM: {memory(task.rss)}\n")
    return "".join(lines) + LOAD + _requirements(job, task)


def _end_lines(job: Job, task: Task) -> list[str]:
    text = ending(task)
    dot = "" if text == "Exited" and not IBM else "."
    lines = [f"{written(task.ended, EVENT)}: {text}{dot}"]
    if IBM and not task.ok:
        reason = exit_reason(job, task)
        lines.append(f"{written(task.ended, EVENT)}: Completed <exit>{'; ' * bool(reason)}{reason}.")
    return lines


def _requirements(job: Job, task: Task) -> str:
    wanted = job.face["resreq"]
    select = re.search(r"select\[([^]]*)\]", wanted)
    rest = [re.sub(r"(mem=\d+)\b", r"\1.00", part) for part in re.findall(r"rusage\[[^]]*\]|span\[[^]]*\]", wanted)]
    where = f"({select[1]}) && (type == local)" if select else "type == local"
    text = " ".join([f"select[{where}] order[r15s:pg]", *rest])
    return f"\n RESOURCE REQUIREMENT DETAILS:\n Combined: {text}\n Effective: {text if task.started else '-'}\n"
