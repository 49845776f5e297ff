"""The pretended commands of OpenPBS that act on jobs: qdel, qhold, qrls, qsig, qrerun; and the other listings."""

from __future__ import annotations

import json
import re
import sys
import time

from tests.fakes.model import DEPENDENT, ENDED, EXITING, PLAIN, QUEUED, RUNNING, SUSPENDED
from tests.fakes.pbs.common import SERVER, SUBMIT_HOST, Failed, date, leave, options, parse_indices, signal_number
from tests.fakes.pbs.server import NODE, VERSION, OpenPbs, node_attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.model import Job, Task

    Command = Callable[[OpenPbs, "Target", dict[str, str]], None]

_ID = re.compile(rf"(\d+)(?:\[([\d:-]*)\])?(?:\.{SERVER}(?:\.\w+)*)?(?:@.*)?")
_FINISHED = "Job has finished"
_WRONG_STATE = "Request invalid for state of job"


class Target:
    """What an id on the command line stands for: a job, a whole array, or elements of one."""

    def __init__(self, job: Job, tasks: list[Task], jobid: str, *, is_array: bool) -> None:
        self.job = job
        self.tasks = tasks
        self.jobid = jobid
        self.is_array = is_array


def whole(server: OpenPbs, job: Job) -> Target:
    """Give a job or an array with all its elements."""
    return Target(job, server.tasks_of(job), server.job_id(job), is_array=job.is_array)


def find(server: OpenPbs, text: str, command: str) -> Target:
    """Find what an id stands for; brackets are a part of an array's id."""
    match = _ID.fullmatch(text)
    if match is None:
        raise Failed(1, f"{command}: illegally formed job identifier: {text}\n")
    number, selected = int(match[1]), match[2]
    job = server.job(number)
    full = f"{match[1]}{'' if selected is None else f'[{selected}]'}.{SERVER}"
    indices = parse_indices(selected) if selected else None
    if selected and indices is None:
        raise Failed(1, f"{command}: illegally formed job identifier: {text}\n")
    unknown = Failed(153, f"{command}: Unknown Job Id {text if command == 'qdel' else full}\n")
    if job is None or job.is_array != (selected is not None):
        raise unknown
    if indices is None:
        return whole(server, job)
    tasks = [task for task in server.tasks_of(job) if task.index in indices]
    if not tasks:
        raise Failed(156, f"qdel: Invalid request {full}\n") if command == "qdel" else unknown
    return Target(job, tasks, full, is_array=False)


def _own(server: OpenPbs, target: Target, command: str) -> None:
    if not server.is_manager and target.job.owner != server.user:
        raise Failed(159, f"{command}: Unauthorized Request  {target.jobid}\n")


def _alive(server: OpenPbs, target: Target, command: str, *, echo: bool = False) -> None:
    if all(server.letter(target.job, task) == "F" for task in target.tasks):
        raise Failed(35, f"{command}: {_FINISHED}{f' {target.jobid}' if echo else ''}\n")


def _delete(server: OpenPbs, target: Target, flags: dict[str, str]) -> None:
    _own(server, target, "qdel")
    if all(server.letter(target.job, task) == "F" for task in target.tasks) and "x" in flags:
        server.forget(target.job.number)
        return
    _alive(server, target, "qdel", echo=True)
    if target.job.is_array and not target.is_array and all(task.state == ENDED for task in target.tasks):
        raise Failed(55, f"qdel: Request invalid for finished array subjob {target.jobid}\n")
    if target.is_array:
        target.job.face["deleted"] = True
        server.save_job(target.job)
    for task in target.tasks:
        if task.state == EXITING:
            # the server has its doubts, and deletes it all the same
            task.reason = "cancelled"
            server.touch(task)
            raise Failed(168, f"qdel: {_WRONG_STATE} {target.jobid}\n")
        if task.state in (QUEUED, DEPENDENT):
            task.face["comment"] = server.comment(target.job, task)
        server.cancel(task)


def _hold(server: OpenPbs, target: Target, flags: dict[str, str]) -> None:
    kinds = _hold_kinds(server, target, flags, "qhold")
    for task in target.tasks:
        if task.state != ENDED:
            task.face["comment"] = f"Job held by {server.user} on {date(time.time())}"
            for kind in kinds:
                server.hold(task, kind)


def _release(server: OpenPbs, target: Target, flags: dict[str, str]) -> None:
    kinds = _hold_kinds(server, target, flags, "qrls")
    for task in target.tasks:
        for kind in kinds:
            if task.state != ENDED and kind in task.hold:
                server.release(task, kind)
        if not task.hold and task.state == QUEUED:
            task.face.pop("comment", None)
            server.save(task)


def _hold_kinds(server: OpenPbs, target: Target, flags: dict[str, str], command: str) -> str:
    kinds = flags.get("h", "u").replace("n", "")
    if set(kinds) - {"u"} and not server.is_manager:
        raise Failed(159, f"{command}: Unauthorized Request  {target.jobid}\n")
    _own(server, target, command)
    _alive(server, target, command)
    return kinds


def _signal(server: OpenPbs, target: Target, flags: dict[str, str]) -> None:
    name = flags.get("s", "TERM")
    _own(server, target, "qsig")
    _alive(server, target, "qsig")
    suspending, resuming = (name.removeprefix("admin-") == word for word in ("suspend", "resume"))
    if (suspending or resuming) and not server.is_manager:
        raise Failed(159, f"qsig: Unauthorized Request  {target.jobid}\n")
    number = 0 if suspending or resuming else signal_number(name)
    if number is None:
        raise Failed(165, f"qsig: Unknown/illegal signal name {target.jobid}\n")
    wanted = {RUNNING} if suspending else {SUSPENDED} if resuming else {RUNNING, SUSPENDED}
    for task in target.tasks:
        if task.state not in wanted:
            raise Failed(168, f"qsig: {_WRONG_STATE} {target.jobid}\n")
        if suspending:
            server.suspend(task)
        elif resuming:
            task.face.pop("comment", None)
            server.resume(task)
        elif number:
            server.send_signal(task, number)


def _rerun(server: OpenPbs, target: Target, flags: dict[str, str]) -> None:
    if not server.is_manager:
        raise Failed(159, f"qrerun: Unauthorized Request  {target.jobid}\n")
    _alive(server, target, "qrerun")
    for task in target.tasks:
        if task.state != RUNNING:
            raise Failed(168, f"qrerun: {_WRONG_STATE} {target.jobid}\n")
        server.requeue(task)


_COMMANDS: dict[str, tuple[str, Command]] = {
    "qdel": ("W:x", _delete),
    "qhold": ("h:", _hold),
    "qrls": ("h:", _release),
    "qsig": ("s:", _signal),
    "qrerun": ("W:", _rerun),
}


def main(command: str, arguments: list[str]) -> int:
    """Run one of the commands."""
    if command == "tracejob":
        return _trace(arguments[-1])
    server = OpenPbs()
    if not server.reachable():
        _down(command)
    if command == "qselect":
        return _select(server, arguments)
    if command == "pbsnodes":
        return _nodes(server, arguments)
    letters, act = _COMMANDS[command]
    found, names, invalid = options(arguments, letters)
    if invalid or not names:
        leave(2, f"usage: {command} [-{letters.replace(':', ' value')}] job_identifier...\n")
    code = 0
    with server:
        for name in names:
            try:
                act(server, find(server, name, command), dict(found))
            except Failed as failed:
                sys.stderr.write(failed.message)
                code = failed.code
    return code


def _down(command: str) -> None:
    if command == "pbsnodes":
        leave(1, f"Connection refused\npbsnodes: cannot connect to server {SERVER}, error=15010\n")
    if command == "qdel":
        leave(162, f"Connection refused\nCouldn't connect to cluster: {SERVER}\n")
    leave(162, f"Connection refused\n{command}: cannot connect to server {SERVER[:7]} (errno=15010)\n")


def _select(server: OpenPbs, arguments: list[str]) -> int:
    flags = dict(options(arguments, "HJN:q:s:Tu:x")[0])
    with server:
        for job in server.jobs():
            target = whole(server, job)
            over = all(task.state == ENDED for task in target.tasks)
            if over and not flags.keys() & set("xH"):
                continue
            if flags.get("N", job.name) != job.name or flags.get("q", job.queue) != job.queue:
                continue
            if job.owner not in flags.get("u", job.owner).split(",") or ("J" in flags and not target.is_array):
                continue
            rows = [(server.job_id(job, task.index), server.letter(job, task)) for task in target.tasks]
            if target.is_array and "T" not in flags:
                rows = [(target.jobid, server.array_letter(job))]
            elif "T" in flags and not target.is_array:
                continue
            for jobid, letter in rows:
                if letter in flags.get("s", letter):
                    print(jobid)
    return 0


def _nodes(server: OpenPbs, arguments: list[str]) -> int:
    with server:
        found = node_attributes(server)
    if "json" in arguments:
        head = {"timestamp": int(time.time()), "pbs_version": VERSION, "pbs_server": SERVER}
        nested: dict[str, object] = {}
        for name, text in found.items():
            group, _, member = name.partition(".")
            if group == "resources_assigned" and text in ("0", "0kb"):
                member = ""
                text = ""
            value = int(text) if text.isdigit() else text
            members = nested.setdefault(group, {}) if member else {}
            if member and isinstance(members, dict):
                members[member] = value
            elif not member:
                nested[group] = value
        print(json.dumps(head | {"nodes": {NODE: nested}}, indent=4, separators=(",", ":")))
    elif "-a" in arguments:
        print(f"{NODE}\n" + "".join(f"     {name} = {value}\n" for name, value in found.items()))
    return 0


def _trace(text: str) -> int:
    """Print what the logs say of a job; they are read without the server, and nothing is no error."""
    server = OpenPbs()
    print(f"\nJob: {text.split('.')[0]}.{SERVER}\n")
    lines: list[tuple[float, str]] = []
    with server:
        try:
            target = find(server, text, "tracejob")
        except Failed:
            return 0
        job = target.job
        owner = f"{job.owner}@{SUBMIT_HOST}"
        queued = f"Job Queued at request of {owner}, owner = {owner}, job name = {job.name}, queue = {job.queue}"
        lines.append((job.submitted, f"S    {queued}"))
        for task in target.tasks:
            if task.runs:
                where = f"on exec_vnode {job.face['vnode']}"
                lines.append((task.started, f"S    Job Run at request of Scheduler@{SUBMIT_HOST} {where}"))
            if task.state == ENDED and task.index == PLAIN:
                used = server.attributes(job, task)
                said = [f"Exit_status={server.exit_status(task)}"] if task.runs else ["dequeuing"]
                said += [f"{name}={value}" for name, value in used.items() if name.startswith("resources_used.")]
                lines.append((task.ended, f"S    {' '.join(said)}"))
    for when, line in sorted(lines):
        print(f"{time.strftime('%m/%d/%Y %H:%M:%S', time.localtime(when))}  {line}")
    return 0
