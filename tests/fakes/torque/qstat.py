"""The pretended qstat of Torque."""

from __future__ import annotations

import re
import sys

from tests.fakes.pbs.common import SERVER, Failed, clock, fold, leave, options
from tests.fakes.torque.control import find
from tests.fakes.torque.server import VERSION, Torque, text, unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tests.fakes.model import Job
    from tests.fakes.torque.server import Attributes

    Rows = list[tuple[str, Attributes]]

_USAGE = """usage: 
                          qstat [-f [-1]] [-W site_specific] [-x] [ job_identifier... | destination... ]
                          qstat [-a|-i|-r|-e] [-u user] [-n [-1]] [-s] [-t] [-G|-M] [-R] [job_id... | destination...]
                          qstat -Q [-f [-1]] [-W site_specific] [ destination... ]
                          qstat -q [-G|-M] [ destination... ]
                          qstat -B [-f [-1]] [-W site_specific] [ server_name... ]
                          qstat -t
"""  # noqa: W291
_WIDTH = 77
_PLAIN = """Job ID                    Name             User            Time Use S Queue
------------------------- ---------------- --------------- -------- - -----
"""
_ALTERNATIVE = f"""
{SERVER}: 
                                                                                  Req'd       Req'd       Elap
Job ID                  Username    Queue    Jobname          SessID  NDS   TSK   Memory      Time    S   Time
----------------------- ----------- -------- ---------------- ------ ----- ------ --------- --------- - ---------
"""  # noqa: W291
_QUEUES = """Queue              Max    Tot   Ena   Str   Que   Run   Hld   Wat   Trn   Ext T   Cpt
----------------   ---   ----    --    --   ---   ---   ---   ---   ---   --- -   ---
"""
_SERVERS = """Server             Max   Tot   Que   Run   Hld   Wat   Trn   Ext   Com Status    
----------------   ---   ---   ---   ---   ---   ---   ---   ---   --- ----------
"""  # noqa: W291
_STATES = {"Queued": "Q", "Held": "H", "Waiting": "W", "Running": "R", "Exiting": "E", "Complete": "C"}
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}


def main(arguments: list[str]) -> int:
    """List jobs, queues or servers."""
    if arguments == ["--version"]:
        print(f"Version: {VERSION}\nCommit: ")
        return 0
    found, names, invalid = options(arguments, "acefGilMnQBRrstu:W:x1")
    for letter in invalid:
        sys.stderr.write(f"qstat: invalid option -- '{letter}'\n")
    if invalid:
        leave(2, _USAGE)
    flags = dict(found)
    if "1" in flags and not flags.keys() & set("fn"):
        leave(2, f"qstat: conflicting options.\n{_USAGE}")
    server = Torque()
    unreachable(server, "qstat")
    problems: list[Failed] = []
    with server:
        if "B" in flags:
            rows = [(SERVER, _server(server))]
        elif "Q" in flags:
            rows = _queues(server, names, problems)
        else:
            rows = _jobs(server, names, flags, problems)
    sys.stdout.write(_print(rows, flags))
    sys.stdout.flush()
    for problem in problems:
        sys.stderr.write(problem.message)
    return problems[-1].code if problems else 0


# --- which jobs --------------------------------------------------------------------------------------------


def _jobs(server: Torque, names: list[str], flags: dict[str, str], problems: list[Failed]) -> Rows:
    rows: Rows = []
    for name in names or ["@"]:
        try:
            rows += _destination(server, name, flags)
        except Failed as failed:
            problems.append(failed)
    return [row for row in rows if _wanted(row[1], flags)]


def _destination(server: Torque, name: str, flags: dict[str, str]) -> Rows:
    if name[:1].isdigit():
        job, tasks = find(server, name, "qstat")
        if not re.match(r"\d+\[\]", name):
            return [(server.job_id(job, task.index), server.attributes(job, task)) for task in tasks]
        # without -t, an array's id is an id of everything
        jobs = [job] if "t" in flags else server.jobs()
    else:
        queue = name.split("@")[0]
        if queue and queue not in server.queues:
            raise Failed(172, f"qstat: Unknown queue destination {name}\n")
        jobs = [job for job in server.jobs() if queue in ("", job.queue)]
    return [row for job in jobs for row in _rows(server, job, expand=bool(flags.keys() & {"t", "e"}))]


def _rows(server: Torque, job: Job, *, expand: bool) -> Rows:
    if job.is_array and not expand:
        return [(server.job_id(job), server.array_attributes(job))]
    return [(server.job_id(job, task.index), server.attributes(job, task)) for task in server.tasks_of(job)]


def _wanted(found: Attributes, flags: dict[str, str]) -> bool:
    if "u" in flags and str(found["Job_Owner"]).split("@")[0] not in flags["u"].split(","):
        return False
    if "r" in flags:
        return str(found["job_state"]) in "RSE"
    if "c" in flags:
        return found["job_state"] != "C"
    return "i" not in flags or str(found["job_state"]) in "QHW"


# --- printing ----------------------------------------------------------------------------------------------


def _print(rows: Rows, flags: dict[str, str]) -> str:
    kind = "Queue" if "Q" in flags else "Server" if "B" in flags else "Job"
    if not rows:
        return ""
    if "x" in flags:
        return f'<?xml version="1.0"?>\n<Data>{"".join(_xml(kind, name, found) for name, found in rows)}</Data>\n'
    if "f" in flags:
        limit = sys.maxsize if "1" in flags else _WIDTH
        title = {"Job": "Job Id"}.get(kind, kind)
        return "".join(
            f"{title}: {name}\n{''.join(fold(key, text(value), limit) for key, value in found.items())}\n"
            for name, found in rows
        )
    if kind == "Queue":
        return _QUEUES + "".join(_queue_line(name, found) for name, found in rows)
    if kind == "Server":
        counts = "   ".join(f"{number:>3}" for number in ["0", *_counts(rows[0][1])])
        return f"{_SERVERS}{SERVER:<16}   {counts} Active    \n"
    if flags.keys() & set("airnus"):
        return _ALTERNATIVE + "".join(_alternative(name, found, flags) for name, found in rows)
    return _PLAIN + "".join(_line(name, found) for name, found in rows)


def _line(name: str, found: Attributes) -> str:
    title = str(found["Job_Name"])
    title = title if len(title) <= 16 else f"...{title[-13:]}"
    owner, used = str(found["Job_Owner"]).split("@")[0], found.get("resources_used.cput", "0")
    return f"{name:<26} {title:<16} {owner:<15} {used:>8} {found['job_state']} {found['queue']:<15}\n"


def _alternative(name: str, found: Attributes, flags: dict[str, str]) -> str:
    nodes = str(found.get("Resource_List.nodes", ""))
    cores = re.sub(r".*ppn=", "", nodes) or found.get("Resource_List.procs") or found.get("Resource_List.ncpus", "")
    remaining, asked = found.get("Walltime.Remaining"), str(found.get("Resource_List.walltime", "-- "))
    used = clock(_seconds(asked) - int(remaining)) if remaining is not None else " -- "
    title = str(found["Job_Name"])
    title = title if len(title) <= 16 else f"...{title[-13:]}"
    line = (
        f"{name:<23} {str(found['Job_Owner']).split('@')[0]:<11} {found['queue']:<8} {title:<16} "
        f"{found.get('session_id', '-- '):>6} {found.get('Resource_List.nodect', '-- '):>5} {cores:>6} "
        f"{found.get('Resource_List.mem', '-- '):>9} {asked:>9} {found['job_state']} {used:>9}"
    )
    if "n" in flags:
        line += ("   " if "1" in flags else "\n   ") + str(found.get("exec_host", "--"))
    return line + "\n"


def _seconds(asked: str) -> int:
    hours, minutes, seconds = asked.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds)


def _xml(kind: str, name: str, found: Attributes) -> str:
    groups: dict[str, str] = {}
    for key, value in found.items():
        group, _, member = key.partition(".")
        shown = value if isinstance(value, str) else str(int(value))
        content = "".join(_ENTITIES.get(letter, letter) for letter in shown)
        groups[group] = groups.get(group, "") + (f"<{member}>{content}</{member}>" if member else content)
    identity = f"<{kind}_Id>{name}</{kind}_Id>" if kind == "Job" else f"<Name>{name}</Name>"
    return f"<{kind}>{identity}{''.join(f'<{key}>{value}</{key}>' for key, value in groups.items())}</{kind}>"


# --- queues and the server ---------------------------------------------------------------------------------


def _queues(server: Torque, names: list[str], problems: list[Failed]) -> Rows:
    rows: Rows = []
    for name in names or sorted(server.queues):
        if name in server.queues:
            rows.append((name, _queue(server, name)))
        else:
            problems.append(Failed(172, f"qstat: Unknown queue {name}\n"))
    return rows


def _state_count(server: Torque, queue: str = "") -> Attributes:
    jobs = [job for job in server.jobs() if queue in ("", job.queue)]
    letters = [server.letter(job, task) for job in jobs for task in server.tasks_of(job)]
    order = ("Transit", "Queued", "Held", "Waiting", "Running", "Exiting", "Complete")
    counts = " ".join(f"{name}:{letters.count(_STATES.get(name, '-'))}" for name in order)
    return {"total_jobs": str(len(letters)), "state_count": f"{counts} "}


def _queue(server: Torque, name: str) -> Attributes:
    queue = server.queues[name]
    found: Attributes = {"queue_type": "Execution", **_state_count(server, name)}
    if queue.max_walltime:
        found["resources_max.walltime"] = clock(queue.max_walltime)
    if queue.walltime:
        found |= {"resources_default.walltime": clock(queue.walltime), "resources_default.nodes": "1"}
    return found | {"enabled": str(queue.enabled), "started": str(queue.started)}


def _counts(found: Attributes) -> list[str]:
    counts = dict(pair.split(":") for pair in str(found["state_count"]).split())
    order = ("Queued", "Running", "Held", "Waiting", "Transit", "Exiting", "Complete")
    return [str(found["total_jobs"]), *(counts[name] for name in order)]


def _queue_line(name: str, found: Attributes) -> str:
    enabled, started = ({"True": "yes", "False": "no"}[str(found[key])] for key in ("enabled", "started"))
    total, *counts, complete = _counts(found)
    numbers = "   ".join(f"{number:>3}" for number in counts)
    return f"{name:<16}   {0:>3}   {total:>4}   {enabled:>3}   {started:>3}   {numbers} E   {complete:>3}\n"


def _server(server: Torque) -> Attributes:
    return {
        "server_state": "Active",
        "scheduling": "True",
        **_state_count(server),
        "acl_hosts": SERVER,
        "managers": "root@*",
        "operators": "root@*",
        "default_queue": server.default_queue,
        "log_events": "2047",
        "mail_from": "adm",
        "query_other_jobs": "True",
        "resources_assigned.nodect": "0",
        "scheduler_iteration": "5",
        "node_check_rate": "150",
        "tcp_timeout": "300",
        "job_stat_rate": "300",
        "poll_jobs": "True",
        "down_on_error": "True",
        "mom_job_sync": "True",
        "pbs_version": VERSION,
        "keep_completed": str(int(server.history)),
        "submit_hosts": SERVER,
        "allow_node_submit": "True",
        "auto_node_np": "False",
        "moab_array_compatible": "True",
        "nppcu": "1",
        "timeout_for_job_delete": "120",
        "timeout_for_job_requeue": "120",
        "note_append_on_error": "True",
    }
