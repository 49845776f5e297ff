"""bkill, bstop, bresume and brequeue: they share how jobs are named and what is answered."""

from __future__ import annotations

import signal
import sys
import time

from tests.fakes.lsf.options import IBM, Failure, UsageFailure, connect, parse_id, parse_letters
from tests.fakes.lsf.system import LSF, ident, name_of
from tests.fakes.model import DEPENDENT, ENDED, QUEUED, RUNNING, SUSPENDED, Job, Task, setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fakes.lsf.options import Options

_SIGNALS = """
HUP INT QUIT ILL TRAP IOT EMT FPE KILL BUS SEGV SYS PIPE ALRM TERM STOP TSTP CONT CHLD TTIN TTOU IO XCPU
XFSZ VTALRM PROF WINCH LOST USR1 USR2
"""
_DONE = {
    "bkill": "Job <{}> is being terminated",
    "signal": "Job <{}> is being signaled",
    "bstop": "Job <{}> is being stopped",
    "bresume": "Job <{}> is being resumed",
    "brequeue": "Job <{}> is being requeued ",
}
#: What is to be done with each job; a signal is a number.
_Action = tuple[str, int]
#: What is named, and what it is; an id that nobody has is none.
_Target = tuple[str, Job | None, list[Task]]


def main(name: str, words: Sequence[str]) -> int:
    """Do something to jobs."""
    options = parse_letters(name, words, "mquJsgC" if name == "bkill" else "mquJgC", "lrdaehHV")
    if name == "bkill" and "l" in options:
        print(" ".join(_SIGNALS.split()), "")
        return 255
    if not options.rest and not any(letter in options for letter in "mquJ"):
        raise UsageFailure(name, "Job ID or one of '-m', '-u' '-q' and '-J' must be specified.")
    action = (name, _signal(options.get("s")) if "s" in options else 0)
    ids = [(word, *parse_id(word)) for word in options.rest if word != "0"]
    system = LSF()
    try:
        connect(system)
    except Failure as failure:
        first = f"Job <{ids[0][0]}>: " if ids else ""
        raise Failure(first + failure.text) from None
    said, refused = [], []
    with system:
        for label, job, tasks in _named(system, ids) if ids else _selected(system, options):
            why = _do(system, action, job, tasks)
            if why:
                refused.append(f"Job <{label}>{' ' * (name == 'brequeue')}: {why}")
            else:
                verb = "signal" if action[1] and action[1] not in (signal.SIGKILL,) else name
                said.append(_DONE[verb].format(label))
    for line in said:
        print(line, flush=True)
    for line in refused:
        print(line, file=sys.stderr)
    return 255 if refused else 0


def _signal(text: str) -> int:
    if text.isdigit() and 0 < int(text) < 65:
        return int(text)
    if text.removeprefix("SIG") not in _SIGNALS.split():
        raise Failure(f"{text}: Illegal signal value")
    return int(getattr(signal, f"SIG{text.removeprefix('SIG')}", 0))


def _named(system: LSF, ids: Sequence[tuple[str, int, list[int]]]) -> list[_Target]:
    """Give the jobs with these ids; elements of an array that are named are jobs of their own."""
    found: list[_Target] = []
    for word, number, indices in ids:
        job = system.job(number)
        if not indices:
            found.append((word, job, system.tasks(number)))
        for index in indices:
            task = system.task(number, index)
            found.append((f"{number}[{index}]", job, [task] if task else []))
    return found


def _selected(system: LSF, options: Options) -> list[_Target]:
    """Give the user's unfinished jobs of this name and queue."""
    name, queue = options.get("J"), options.get("q")
    found = {}
    for task in system.tasks(live=True):
        job = system.job_of(task)
        fits = job.owner == system.user and queue in ("", job.queue) and name in ("", job.name, name_of(job, task))
        if fits and name != job.name and name:
            found[ident(job, task)] = (job, [task])
        elif fits:
            found.setdefault(f"{job.number}", (job, []))[1].append(task)
    if not found:
        where = f" in queue <{queue}>" if queue else ""
        raise Failure(f"Job <{name}> is not found" if name else f"No unfinished job found{where}")
    chosen: list[_Target] = [(label, job, tasks) for label, (job, tasks) in found.items()]
    # without a 0, IBM's LSF means the job that was submitted last
    return chosen[-1:] if IBM and "0" not in options.rest else chosen


def _do(system: LSF, action: _Action, job: Job | None, tasks: Sequence[Task]) -> str:
    """Do it to all tasks of a job; says why not, or why there is no answer yet."""
    if job is None or not tasks:
        return "No matching job found"
    if job.owner != system.user and not system.is_manager:
        return "User permission denied"
    live = [task for task in tasks if task.state != ENDED]
    if not live:
        return "Job has already finished"
    if action[0] == "brequeue" and not any(task.state in (RUNNING, SUSPENDED) for task in live):
        return "Job has not started yet"
    for task in live:
        _do_to(system, action, job, task)
    # it is done, but the client hears that it is not yet
    slow = len(tasks) > 1 and not IBM and action[0] != "brequeue"
    return "Operation is in progress" if slow or system.switch("unreachable") else ""


def _do_to(system: LSF, action: _Action, job: Job, task: Task) -> None:
    name, number = action
    pending = task.state in (QUEUED, DEPENDENT)
    if name == "bstop" or number in (signal.SIGSTOP, signal.SIGTSTP):
        if pending:
            _note(task, "PSUSP", "Suspended by the user or administrator while pending")
            system.hold(task)
        elif task.state == RUNNING:
            _note(task, "USUSP", "Suspended by the user or administrator")
            system.suspend(task)
    elif name == "bresume" or number == signal.SIGCONT:
        if pending:
            _note(task, "PEND", "Pending: Waiting for scheduling after resumed by user: 1 host")
            system.release(task)
        elif task.state == SUSPENDED:
            _note(task, "SSUSP", "Suspended:  Waiting for re-scheduling after being resumed by user")
            task.face["resumed"] = time.time()
            _note(task, "RUN", "Running", setting("FAKE_LSF_RESUME", 1))
            system.resume(task)
    elif name == "brequeue":
        if task.state in (RUNNING, SUSPENDED):
            _note(task, "", f"Signal <REQUEUE_PEND> requested by user or administrator <{system.user}>")
            task.requeue = True
            system.order(task, system.kill_signals)
    elif number and number != signal.SIGKILL and not pending:
        system.send_signal(task, number)
    else:
        if not job.is_array or pending:
            _note(task, "", f"Signal <KILL> requested by user or administrator <{system.user}>")
        system.cancel(task, signals=(number,) if number and not pending else ())


def _note(task: Task, state: str, text: str, after: float = 0.0) -> None:
    """Note an event for bhist."""
    task.face.setdefault("events", []).append((time.time() + after, state, text))
