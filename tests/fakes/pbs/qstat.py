"""The pretended qstat of OpenPBS."""

from __future__ import annotations

import json
import os
import re
import sys
import time

from tests.fakes.model import ENDED, EXITING, RUNNING, SUSPENDED
from tests.fakes.pbs.common import SERVER, Failed, clock, fold, leave, options
from tests.fakes.pbs.control import Target, find, whole
from tests.fakes.pbs.server import VERSION, OpenPbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.fakes.pbs.server import Attributes

    Rows = list[tuple[str, Attributes]]
    Scalar = Callable[[str, str], str]

_USAGE = """usage: 
qstat [-f] [-J] [-p] [-t] [-x] [-E] [-F format | -w] [-D delim] [ job_identifier... | destination... ]
qstat [-a|-i|-r|-H|-T] [-J] [-t] [-u user] [-n] [-s] [-G|-M] [-1] [-w]
	[ job_identifier... | destination... ]
qstat -Q [-f] [-F format] [-D delim] [ destination... ]
qstat -q [-G|-M] [ destination... ]
qstat -B [-f] [-F format] [-D delim] [ server_name... ]
qstat --version
"""  # noqa: W291
_WIDTH = 78
_PLAIN = """Job id            Name             User              Time Use S Queue
----------------  ---------------- ----------------  -------- - -----
"""
_WIDE = """Job id                         Name            User             Time Use S Queue
-----------------------------  --------------- ---------------  -------- - ---------------
"""
_ALTERNATIVE = f"""
{SERVER}: 
                                                            Req'd  Req'd   Elap
Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time
--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----
"""  # noqa: W291
_QUEUES = """Queue              Max   Tot Ena Str   Que   Run   Hld   Wat   Trn   Ext Type
---------------- ----- ----- --- --- ----- ----- ----- ----- ----- ----- ----
"""
_SERVERS = """Server             Max   Tot   Que   Run   Hld   Wat   Trn   Ext Status
---------------- ----- ----- ----- ----- ----- ----- ----- ----- -----------
"""
#: What strtod() reads as a number; what begins with a nought is taken for text.
_NUMBER = re.compile(r"(?i)(?!0[^.])[+-]?(inf(inity)?|nan|0x[0-9a-f]+|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)")
_STATES = {"Queued": "Q", "Held": "H", "Waiting": "W", "Running": "R", "Exiting": "E", "Begun": "B"}


def main(arguments: list[str]) -> int:
    """List jobs, queues or servers."""
    if arguments == ["--version"]:
        print(f"pbs_version = {VERSION}")
        return 0
    found, names, invalid = options(arguments, "faBD:EF:GHiJMnQrstu:wx1")
    for letter in invalid:
        sys.stderr.write(f"qstat: invalid option -- '{letter}'\n")
    flags = dict(found)
    if invalid:
        leave(2, _USAGE)
    if "F" in flags and not flags.keys() & set("fQB"):
        leave(2, f"qstat: conflicting options.\n{_USAGE}")
    server = OpenPbs()
    kind = next(({"Q": "Queue", "B": "Server"}[one] for one in "QB" if one in flags), "Jobs")
    if not server.reachable():
        if flags.get("F") == "json":
            sys.stdout.write(_json({}, kind))
        leave(255, f"Connection refused\nqstat: cannot connect to server {SERVER} (errno=15010)\n")
    with server:
        problems: list[Failed] = []
        if kind == "Jobs":
            rows = _jobs(server, names, flags, problems)
        else:
            rows = [(SERVER, _server(server))] if kind == "Server" else _queues(server, names, problems)
    _write(_print(rows, kind, flags))
    for problem in problems:
        sys.stderr.write(problem.message)
    return problems[-1].code if problems else 0


# --- which jobs --------------------------------------------------------------------------------------------


def _jobs(server: OpenPbs, names: list[str], flags: dict[str, str], problems: list[Failed]) -> Rows:
    rows: Rows = []
    history = bool(flags.keys() & set("xH"))
    for name in names or ["@"]:
        try:
            if name:
                rows += _destination(server, name, flags, history)
        except Failed as failed:
            problems.append(failed)
    return [row for row in rows if _wanted(row[1], flags)]


def _destination(server: OpenPbs, name: str, flags: dict[str, str], history: bool) -> Rows:
    if name[0].isdigit():
        target = find(server, name, "qstat")
        finished = [task for task in target.tasks if server.letter(target.job, task) == "F"]
        if not history and len(finished) == len(target.tasks):
            hint = "Job has finished, use -x or -H to obtain historical job information"
            raise Failed(35, f"qstat: {target.jobid} {hint}\n")
        return _rows(server, target, flags)
    queue = name.split("@")[0]
    if queue and queue not in server.queues:
        raise Failed(170, f"qstat: Unknown queue destination {name}\n")
    rows: Rows = []
    for job in server.jobs():
        target = whole(server, job)
        over = all(task.state == ENDED for task in target.tasks)
        if queue in ("", job.queue) and (history or not over) and ("H" not in flags or over):
            rows += _rows(server, target, flags)
    return rows


def _rows(server: OpenPbs, target: Target, flags: dict[str, str]) -> Rows:
    job = target.job
    rows: Rows = []
    if target.is_array:
        if not ("J" in flags and "t" in flags):
            rows.append((target.jobid, server.array_attributes(job)))
        if "t" not in flags:
            return rows
    elif "J" in flags:
        return rows
    return rows + [(server.job_id(job, task.index), server.attributes(job, task)) for task in target.tasks]


def _wanted(found: Attributes, flags: dict[str, str]) -> bool:
    if "u" in flags and found["Job_Owner"].split("@")[0] not in flags["u"].split(","):
        return False
    if "r" in flags:
        return found["job_state"] in "RBSE"
    return "i" not in flags or found["job_state"] in "QHW"


# --- printing ----------------------------------------------------------------------------------------------


def _print(rows: Rows, kind: str, flags: dict[str, str]) -> str:
    if flags.get("F") == "json":
        return _json(dict(rows), kind)
    if "f" in flags:
        title = {"Jobs": "Job Id", "Queue": "Queue", "Server": "Server"}[kind]
        return "".join(_full(title, name, found, flags) for name, found in rows)
    if not rows:
        return ""
    if kind == "Queue":
        return _QUEUES + "".join(_queue_line(name, found) for name, found in rows)
    if kind == "Server":
        return _SERVERS + "".join(f"{name:<16} {_counts(found)} Active    \n" for name, found in rows)
    if flags.keys() & set("aiHruns"):
        return _ALTERNATIVE + "".join(_alternative(name, found, flags) for name, found in rows)
    wide = "w" in flags
    return (_WIDE if wide else _PLAIN) + "".join(_line(name, found, wide) for name, found in rows)


def _full(title: str, name: str, found: Attributes, flags: dict[str, str]) -> str:
    if flags.get("F") == "dsv":
        bar = flags.get("D", "|")
        escaped = {"\\": "\\\\", "\n": "\\n", bar: f"\\{bar}"}
        values = ["".join(escaped.get(letter, letter) for letter in value) for value in found.values()]
        return bar.join([f"{title}: {name}", *(map("=".join, zip(found, values, strict=True)))]) + "\n"
    limit = sys.maxsize if "w" in flags else _WIDTH
    return f"{title}: {name}\n" + "".join(fold(key, value, limit) for key, value in found.items()) + "\n"


def _line(name: str, found: Attributes, wide: bool) -> str:
    longest, mark = (15, 14) if wide else (16, 15)
    title = found["Job_Name"]
    title = title if len(title) <= mark else f"{title[:mark]}*"
    owner, used = found["Job_Owner"].split("@")[0], found.get("resources_used.cput", "0")
    state, queue = found["job_state"], found["queue"]
    if wide:
        return f"{name:<30} {title:<{longest}} {owner:<15}  {used:>8} {state} {queue:<15}\n"
    return f"{name:<17} {title:<{longest}} {owner:<16}  {used:>8} {state} {queue:<16}\n"


def _alternative(name: str, found: Attributes, flags: dict[str, str]) -> str:
    used = found.get("resources_used.walltime", "00:00" if found["job_state"] == "F" else "-- ")
    cells = [
        f"{name:<15.15} {found['Job_Owner'].split('@')[0]:<8.8} {found['queue']:<8.8} {found['Job_Name']:<10.10}",
        f"{found.get('session_id', '-- '):>6} {found['Resource_List.nodect']:>3} {found['Resource_List.ncpus']:>3}",
        f"{found.get('Resource_List.mem', '-- '):>6} {found.get('Resource_List.walltime', '-- ')[:5]:>5}",
        f"{found['job_state']} {used[:5]:>5}",
    ]
    line = " ".join(cells)
    if "n" in flags:
        line += (" " if "1" in flags else "\n   ") + found.get("exec_host", " -- ")
    if "s" in flags and found.get("comment"):
        line += f"\n   {found['comment']}"
    return line + "\n"


def _is_master() -> bool:
    return os.environ.get("FAKE_PBS_QSTAT") == "master"


def _json(rows: dict[str, Attributes], kind: str) -> str:
    """Print JSON: that of 23.06, defects included, or with FAKE_PBS_QSTAT=master that of the next release."""
    head: dict[str, object] = {"timestamp": str(int(time.time())), "pbs_version": VERSION, "pbs_server": SERVER}
    if rows:
        head[kind] = {name: _nested(found) for name, found in rows.items()}
    if _is_master():
        return _object(head, "", "\t", ":\t", _quoted) + "\n"
    return _object(head, "", "    ", ":", _bare) + ("\n" if rows else "")


def _nested(found: Attributes) -> dict[str, object]:
    nested: dict[str, object] = {}
    # in 23.06 the value after a name has at least one letter, even if that is the comma after an empty value
    first = "" if _is_master() else r"(?:\\.|[^\\])"
    for name, value in found.items():
        group, _, member = name.partition(".")
        if name == "Variable_List":
            pairs = re.findall(rf"([^=,]+)=({first}(?:\\.|[^,\\])*)(?:,|$)", value, re.DOTALL)
            nested[name] = dict(pairs)
        elif member:
            members = nested.setdefault(group, {})
            if isinstance(members, dict):
                members[member] = value
        else:
            nested[name] = value
    return nested


def _object(members: Mapping[str, object], margin: str, step: str, colon: str, scalar: Scalar) -> str:
    inner = margin + step
    lines = [
        f'{inner}"{name}"{colon}'
        + (_object(one, inner, step, colon, scalar) if isinstance(one, dict) else scalar(name, str(one)))
        for name, one in members.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{margin}}}"


def _bare(name: str, text: str) -> str:
    """Print a value as 23.06 does: whatever looks like a number is bare, and not every backslash is escaped."""
    if _NUMBER.fullmatch(text):
        return text
    text = re.sub(r'(?<!\\)"', r"\"", text.replace("\\,", ",")).replace("\n", "\\n").replace("\t", "\\t")
    return f'"{text}"'


def _quoted(name: str, text: str) -> str:
    """Print a value as the next release does: names are text, variables may be anything."""
    if name not in ("Job_Name", "Account_Name", "project"):
        if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text):
            return f"{float(text):.15g}"
        if text in ("true", "false"):
            return text
    return json.dumps(text if name == "Submit_arguments" else text.replace("\\,", ","), ensure_ascii=False)


def _write(text: str) -> None:
    """Print; 23.06 shows letters that are not ASCII as a caret and something else."""
    content = text.encode("utf-8", "surrogateescape")
    if not _is_master():
        content = re.sub(rb"[\x80-\xff]", lambda found: bytes([0x5E, (found[0][0] + 64) & 0xFF]), content)
    sys.stdout.buffer.write(content)
    sys.stdout.flush()


# --- queues and the server ---------------------------------------------------------------------------------


def _queues(server: OpenPbs, names: list[str], problems: list[Failed]) -> Rows:
    rows: Rows = []
    for name in names or list(server.queues):
        if name in server.queues:
            rows.append((name, _queue(server, name)))
        else:
            problems.append(Failed(170, f"qstat: Unknown queue {name}\n"))
    return rows


def _state_count(server: OpenPbs, queue: str = "") -> tuple[int, str]:
    letters = []
    for job in server.jobs():
        if queue in ("", job.queue):
            target = whole(server, job)
            letters.append(server.array_letter(job) if target.is_array else server.letter(job, target.tasks[0]))
    alive = [letter for letter in letters if letter != "F"]
    counts = {name: alive.count(letter) for name, letter in _STATES.items()}
    order = ("Transit", "Queued", "Held", "Waiting", "Running", "Exiting", "Begun")
    return len(alive), " ".join(f"{name}:{counts.get(name, 0)}" for name in order) + " "


def _assigned(server: OpenPbs, queue: str = "") -> Attributes:
    active = [task for task in server.tasks(live=True) if task.state in (RUNNING, SUSPENDED, EXITING)]
    jobs = [server.job_of(task) for task in active]
    slots = [job.slots for job in jobs if queue in ("", job.queue)]
    return {"resources_assigned.ncpus": str(sum(slots)), "resources_assigned.nodect": str(len(slots))}


def _queue(server: OpenPbs, name: str) -> Attributes:
    queue = server.queues[name]
    total, count = _state_count(server, name)
    found = {"queue_type": "Execution", "total_jobs": str(total), "state_count": count}
    if queue.max_walltime:
        found["resources_max.walltime"] = clock(queue.max_walltime)
    if queue.walltime:
        found["resources_default.walltime"] = clock(queue.walltime)
    found |= _assigned(server, name) if not queue.max_walltime else {}
    return found | {"enabled": str(queue.enabled), "started": str(queue.started)}


def _queue_line(name: str, found: Attributes) -> str:
    flags = [{"True": "yes", "False": "no"}[found[key]] for key in ("enabled", "started")]
    total, *counts = _counts(found).split()[1:]
    numbers = " ".join(f"{number:>5}" for number in counts)
    return f"{name:<16} {0:>5} {total:>5} {flags[0]:>3} {flags[1]:>3} {numbers} Exe*\n"


def _counts(found: Attributes) -> str:
    counts = dict(pair.split(":") for pair in found["state_count"].split())
    order = ("Queued", "Running", "Held", "Waiting", "Transit", "Exiting")
    return " ".join(f"{number:>5}" for number in ["0", found["total_jobs"], *(counts[name] for name in order)])


def _server(server: OpenPbs) -> Attributes:
    total, count = _state_count(server)
    return {
        "server_state": "Active",
        "server_host": "localhost",
        "scheduling": "True",
        "total_jobs": str(total),
        "state_count": count,
        "acl_roots": "root@*",
        "managers": "root@*",
        "default_queue": server.default_queue,
        "log_events": "2047",
        "mailer": "/usr/sbin/sendmail",
        "mail_from": "adm",
        "query_other_jobs": "True",
        "resources_default.ncpus": "1",
        "default_chunk.ncpus": "1",
        **_assigned(server),
        "scheduler_iteration": "2",
        "flatuid": "True",
        "resv_enable": "True",
        "node_fail_requeue": "310",
        "max_array_size": "100000",
        "pbs_license_min": "0",
        "pbs_license_max": "2147483647",
        "pbs_license_linger_time": "31536000",
        "license_count": "Avail_Global:1000000 Avail_Local:1000000 Used:0 High_Use:0",
        "pbs_version": VERSION,
        "eligible_time_enable": "False",
        "job_history_enable": "True",
        "job_history_duration": "24:00:00",
        "max_concurrent_provision": "5",
        "max_job_sequence_id": "9999999",
    }
