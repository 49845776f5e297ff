"""The pretended commands of Torque that act on jobs: qdel, qhold, qrls, qsig, qrerun; and the other listings."""

from __future__ import annotations

import re
import signal
import sys
import time

from tests.fakes.model import DEPENDENT, ENDED, QUEUED, RUNNING, SUSPENDED
from tests.fakes.pbs.common import SERVER, SUBMIT_HOST, Failed, leave, options, parse_indices, signal_number
from tests.fakes.torque.server import Torque, node_attributes, unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.model import Job, Task

    Command = Callable[[Torque, str, Job, list[Task], dict[str, str]], None]

_STATE = "Request invalid for state of job"
#: What a command says of a job that does not exist; some say nothing.
_UNKNOWN = {
    "qstat": "qstat: Unknown Job Id Error {full}\n",
    "qdel": "qdel: nonexistent job id: {name}\n",
    "qsig": "qsig: Unknown Job Id Error MSG=cannot locate job {full}\n",
    "qrerun": "qrerun: Unknown Job Id Error {full}\n",
}


def find(server: Torque, name: str, command: str, only: str = "") -> tuple[Job, list[Task]]:
    """Find a job and those of its tasks that an id stands for."""
    match = re.fullmatch(r"(\d+)(\[\d*\]?)?(\.\w+)?(@.*)?", name)
    if match is None:
        more = "qstat: Error (1 - Operation not permitted) \n" if command == "qstat" else ""
        raise Failed(1, f"{command}: illegally formed job identifier: {name}\n{more}")
    full = name if match[3] else f"{name}.{SERVER}"
    unknown = Failed(153, _UNKNOWN.get(command, "").format(name=name, full=full))
    job = server.job(int(match[1]))
    if job is None or match[3] not in (None, f".{SERVER}") or job.is_array != bool(match[2]):
        raise unknown
    tasks = server.tasks(job.number)
    if match[2] and match[2] != "[]":
        tasks = [task for task in tasks if f"[{task.index}]" == match[2]]
    elif only:
        indices = {index for part in only.split(",") for index in parse_indices(part) or []}
        tasks = [task for task in tasks if task.index in indices]
    if not tasks:
        raise unknown
    return job, tasks


def _own(server: Torque, command: str, jobid: str, job: Job, text: str = " MSG=operation not permitted") -> None:
    if not server.is_manager and job.owner != server.user:
        raise Failed(159, f"{command}: Unauthorized Request {text} {jobid}\n")


def _delete(server: Torque, jobid: str, job: Job, tasks: list[Task], flags: dict[str, str]) -> None:
    _own(server, "qdel", jobid, job)
    if "p" in flags:
        if not server.is_manager:
            raise Failed(159, f"qdel: Unauthorized Request  {jobid}\n")
        for task in tasks:
            server.cancel(task)
        if all(task.state == ENDED for task in tasks):
            server.forget(job.number)
        return
    if all(task.state == ENDED for task in tasks):
        raise Failed(170, f"qdel: {_STATE} MSG=invalid state for job - COMPLETE {jobid}\n")
    for task in tasks:
        if task.state in (QUEUED, DEPENDENT):
            task.face["comment"] = server.comment(job, task)
        server.cancel(task)


def _hold(server: Torque, jobid: str, job: Job, tasks: list[Task], flags: dict[str, str]) -> None:
    _own(server, "qhold", jobid, job)
    for task in tasks:
        if task.state != ENDED:
            server.hold(task)


def _release(server: Torque, jobid: str, job: Job, tasks: list[Task], flags: dict[str, str]) -> None:
    _own(server, "qrls", jobid, job)
    for task in tasks:
        if task.state != ENDED:
            server.release(task)


def _signal(server: Torque, jobid: str, job: Job, tasks: list[Task], flags: dict[str, str]) -> None:
    name = flags.get("s", "TERM")
    if name in ("suspend", "resume") and not server.is_manager:
        raise Failed(159, f"qsig: Unauthorized Request  {jobid}\n")
    _own(server, "qsig", jobid, job)
    number = 0 if name in ("suspend", "resume") else signal_number(name)
    if number is None:
        raise Failed(165, f"qsig: Unknown/illegal signal name {jobid}\n")
    for task in tasks:
        if task.state not in (RUNNING, SUSPENDED):
            raise Failed(170, f"qsig: {_STATE} {jobid}\n")
        if name == "suspend":
            server.suspend(task)
        elif name == "resume":
            server.resume(task)
        elif number == signal.SIGKILL:
            # the daemon on the node is polite
            server.cancel(task, reason="")
        elif number:
            server.send_signal(task, number)


def _rerun(server: Torque, jobid: str, job: Job, tasks: list[Task], flags: dict[str, str]) -> None:
    if not server.is_manager:
        rights = "additional permissions required (ATR_DFLAG_MGWR | ATR_DFLAG_OPWR)"
        raise Failed(159, f"qrerun: Unauthorized Request  MSG={rights} {jobid}\n")
    for task in tasks:
        if task.state != RUNNING:
            raise Failed(170, f"qrerun: {_STATE} {jobid}\n")
        server.requeue(task)


_COMMANDS: dict[str, tuple[str, Command]] = {
    "qdel": ("apm:t:W:", _delete),
    "qhold": ("h:t:", _hold),
    "qrls": ("h:t:", _release),
    "qsig": ("as:", _signal),
    "qrerun": ("f", _rerun),
}


def main(command: str, arguments: list[str]) -> int:
    """Run one of the commands."""
    server = Torque()
    if command == "tracejob":
        return _trace(server, arguments[-1])
    unreachable(server, command)
    if command == "qselect":
        return _select(server, arguments)
    if command == "pbsnodes":
        return _nodes(server, arguments)
    letters, act = _COMMANDS[command]
    found, names, invalid = options(arguments, letters)
    if invalid or not names:
        leave(2, f"usage: {command} [-{letters.replace(':', ' value')}] job_identifier...\n")
    code = 0
    flags = dict(found)
    with server:
        for name in names:
            try:
                job, tasks = find(server, name, command, flags.get("t", ""))
                jobid = name if "." in name else f"{name}.{SERVER}"
                act(server, jobid, job, tasks, flags)
            except Failed as failed:
                sys.stderr.write(failed.message)
                code = failed.code
    return code


def _select(server: Torque, arguments: list[str]) -> int:
    flags = dict(options(arguments, "N:q:s:u:")[0])
    with server:
        for job in server.jobs():
            if flags.get("N", job.name) != job.name or flags.get("q", job.queue) != job.queue:
                continue
            for task in server.tasks(job.number):
                letter = server.letter(job, task)
                if letter in flags.get("s", letter) and job.owner in flags.get("u", job.owner).split(","):
                    print(server.job_id(job, task.index))
    return 0


def _nodes(server: Torque, arguments: list[str]) -> int:
    with server:
        found = node_attributes(server)
    if "-x" in arguments:
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in found.items())
        print(f"<Data><Node><name>{SERVER}</name>{inner}</Node></Data>")
    elif "-l" not in arguments:
        print(f"{SERVER}\n" + "".join(f"     {name} = {value}\n" for name, value in found.items()))
    return 0


def _trace(server: Torque, name: str) -> int:
    """Print what the logs say of a job; nothing is no error."""
    print(f"\nJob: {name if '.' in name else f'{name}.{SERVER}'}\n")
    lines: list[tuple[float, str]] = []
    with server:
        try:
            job, tasks = find(server, name, "tracejob")
        except Failed:
            return 0
        lines.append((job.submitted, f"S    enqueuing into {job.queue}, state 1 hop 1"))
        for task in tasks:
            if task.runs:
                lines.append((task.started, f"S    Job Run at request of root@{SUBMIT_HOST}"))
            if task.state == ENDED:
                used = [(key, value) for key, value in server.attributes(job, task).items() if "_used." in key]
                said = [f"Exit_status={server.exit_status(task)}", *(f"{key}={value}" for key, value in used)]
                lines.append((task.ended, f"S    {' '.join(said)}"))
    for when, line in sorted(lines):
        stamp = time.strftime("%m/%d/%Y %H:%M:%S", time.localtime(when))
        print(f"{stamp}.{int(when % 1 * 1000):03d} {line}")
    return 0
