"""The pretended qsub of Torque."""

from __future__ import annotations

import os
import pwd
import re
import resource
import sys

from tests.fakes.model import Job, Refused
from tests.fakes.pbs.common import (
    SERVER,
    SUBMIT_HOST,
    Failed,
    absolute,
    begin_time,
    clock,
    directives,
    duration,
    leave,
    options,
    parse_indices,
    size,
    submitter_variables,
    words,
)
from tests.fakes.torque.server import VERSION, Torque, read_variables, unreachable

_OPTIONS = "a:A:b:c:C:d:D:e:fF:hIj:J:k:K:l:m:M:nN:o:p:P:q:r:S:t:T:u:v:Vw:W:xXz"
_USAGE = """usage: qsub [-a date_time] [-A account_string] [-b secs]
    [-c [ none | { enabled | periodic | shutdown |
    depth=<int> | dir=<path> | interval=<minutes>}... ]
    [-C directive_prefix] [-d path] [-D path]
    [-e path] [-h] [-I] [-j oe|eo|n] [-k {oe}] [-K <kill delay seconds>] 
    [-l resource_list] [-m n|{abe}] [-M user_list] [-N jobname] [-o path] 
    [-p priority] [-P proxy_user [-J <jobid]] [-q queue] [-r y|n] 
    [-S path] [-t number_to_submit] [-T type]  [-u user_list] [-w] path
    [-W additional_attributes] [-v variable_list] [-V ] [-x] [-X] [-z] [script]

"""  # noqa: W291
_INFEASIBLE = (
    "Job exceeds queue resource limits MSG=cannot locate feasible nodes "
    "(nodes file is empty, all systems are busy, or no nodes have the requested feature)"
)
_SIZES = {"mem", "vmem", "pmem", "pvmem", "file"}
_DURATIONS = {"walltime", "cput", "pcput"}
_KNOWN = _SIZES | _DURATIONS | {"nodes", "procs", "ncpus", "select", "nice", "software", "arch", "host", "place"}
_KINDS = {"after": "started", "afterok": "ok", "afternotok": "notok", "afterany": "any"}
_VALUES = {
    "j": r"oe|eo|n",
    "k": r"n|[oe]+",
    "m": r"n|[abe]+",
    "p": r"[+-]?\d+",
    "r": r"[yn]",
    "N": r"[!-~]{0,236}",
    "a": r"\d{8,12}(\.\d\d)?",
}
_HINTS = {"r": " (y/n)"}


class Options:
    """What the options of a submission say; later ones win, and those of the command line come last."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.values: dict[str, str] = {}
        self.resources: dict[str, str] = {}
        self.attributes: dict[str, str] = {}

    def take(self, letter: str, value: str) -> None:
        """Take one option; a bad value ends the command with the usage."""
        if letter in "fhInVxXz":
            self.flags.add(letter)
        elif letter == "l":
            for item in value.split(","):
                name, _, text = item.partition("=")
                self.resources[name] = text
        elif letter == "W":
            for item in re.split(r",(?=\w+=)", value):
                name, _, text = item.partition("=")
                self.attributes[name] = text
        else:
            good = re.fullmatch(_VALUES.get(letter, r"(?s).*"), value)
            if not good or (letter == "p" and not -1024 <= int(value) <= 1023):
                leave(2, f"[qsub: illegal -{letter} value{_HINTS.get(letter, '')}]\n\n{_USAGE}")
            self.values[letter] = value


def _take(given: Options, found: list[tuple[str, str]], invalid: list[str]) -> None:
    if "-" in invalid:
        leave(2, f"[a single - is not a valid option]\n\n{_USAGE}")
    if invalid:
        leave(2, f"qsub: invalid option -- '{invalid[0]}'\n{_USAGE}")
    for letter, value in found:
        given.take(letter, value)


def _read_script(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    if not os.path.exists(path):
        leave(1, f"qsub: script file '{path}' cannot be loaded - No such file or directory\n")
    if not os.path.isfile(path):
        leave(1, "qsub: script not a file\n")
    with open(path, "rb") as file:
        return file.read()


def _variable_list(given: Options, queue: str, workdir: str) -> list[str]:
    """Make the list of variables: a comma or a line's end always ends a value, whatever is quoted."""
    items = [f"{name}={value}" for name, value in submitter_variables("HOME LOGNAME PATH MAIL SHELL TZ LANG")]
    if "d" in given.values:
        items.append(f"PBS_O_INITDIR={given.values['d']}")
    for item in filter(None, given.values.get("v", "").split(",")):
        if "=" not in item:
            # what is neither an assignment nor the name of a variable becomes something else altogether
            item = f"{item}={os.environ[item]}" if item in os.environ else "name="
        text = re.sub(r"([\"'])", r"\\\1", re.sub(r"\\(?!$)", "", item)).replace("\n", ",")
        if items[-1].endswith("\\"):
            items[-1] += f",{text}"
        else:
            items.append(text)
    if "V" in given.flags:
        items += [f"{name}={value}" for name, value in os.environ.items() if not re.search(r"[,\\\n]", value)]
    server = [f"PBS_O_HOST={SERVER}", f"PBS_O_SERVER={SERVER}"]
    return [f"PBS_O_QUEUE={queue}", *items, f"PBS_O_WORKDIR={workdir}", *server]


def _resources(given: Options, walltime: int) -> dict[str, str]:
    """Check the resources that were asked for, and add the queue's."""
    asked = dict(given.resources)
    for name, value in asked.items():
        if name not in _KNOWN:
            raise Failed(189, f"Unknown resource type  Resource_List.{name}")
        good = size(value) if name in _SIZES else duration(value) if name in _DURATIONS else 0
        if good is None:
            raise Failed(168, f"Illegal attribute or resource value for Resource_List.{name}")
    if walltime:
        asked["walltime"] = clock(walltime)
    if not asked.keys() & {"nodes", "procs", "ncpus"}:
        asked["nodes"] = "1"
    if "nodes" in asked:
        asked["nodect"] = "1"
    return asked


def _slots(resources: dict[str, str], most: int) -> int:
    """Count the cores; a node that does not exist is refused, other impossible wishes wait for ever."""
    nodes = resources.get("nodes", "")
    if not nodes:
        wanted = int(resources.get("procs") or resources.get("ncpus") or 1)
        return wanted if wanted <= most else 1_000_000
    match = re.fullmatch(rf"(?:1|{SERVER})(?::ppn=(\d+))?", nodes)
    if match is None or int(match[1] or 1) > most:
        raise Failed(190, _INFEASIBLE)
    return int(match[1] or 1)


def _indices(request: str) -> tuple[list[int], int]:
    spec, _, limit = request.partition("%")
    found: list[int] = []
    for part in spec.split(","):
        indices = parse_indices(part)
        if not indices:
            raise Failed(235, "Bad Job Array Request")
        found += indices
    return sorted(set(found)), int(limit) if limit.isdigit() else 0


def _dependencies(server: Torque, depend: str) -> tuple[list[object], list[list[str]]]:
    """Make the condition of -W depend, and what is shown of it."""
    parts: list[object] = []
    shown = []
    for text in filter(None, depend.split(",")):
        kind, *ids = text.split(":")
        for one in ids:
            match = re.fullmatch(r"(\d+)(\[\d*\])?(\..*)?", one)
            if kind not in _KINDS or match is None or server.job(int(match[1])) is None:
                raise Failed(208, "Invalid Job Dependency")
            parts.append([_KINDS[kind], int(match[1]), None])
            shown.append([kind, f"{match[1]}{match[2] or ''}.{SERVER}"])
    return (["and", *parts] if parts else []), shown


def _make_job(server: Torque, given: Options, arguments: list[str], default: str) -> Job:
    """Check a submission against the server's limits and make the job."""
    values, attributes = given.values, given.attributes
    if set(attributes) - {"depend", "umask", "group_list", "x"}:
        raise Failed(154, "Undefined attribute  MSG=detected presence of an unknown attribute")
    if values.get("u", server.user) != server.user:
        raise Failed(177, f"Bad UID for job execution MSG=root user {values['u']} not allowed")
    queue = values.get("q", server.default_queue).split("@")[0]
    limits = server.queues.get(queue)
    walltime = duration(given.resources.get("walltime", "")) or (limits.walltime if limits else 0)
    indices, limit = _indices(values["t"]) if "t" in values else ([], 0)
    try:
        server.check_queue(queue, walltime, len(indices or [1]))
    except Refused as refused:
        raise _refusal(refused.why, server.user, queue) from None
    resources = _resources(given, walltime)
    slots = _slots(resources, server.slots)
    condition, shown = _dependencies(server, attributes.get("depend", ""))
    workdir = values.get("w") or values.get("d") or os.getcwd()
    cput = duration(resources.get("cput", "")) or 0
    space = min(filter(None, (size(resources.get(name, "")) for name in ("mem", "vmem", "pmem", "pvmem"))), default=0)
    listed = _variable_list(given, queue, workdir)
    job = Job(
        name=values.get("N", default) or "none",
        queue=queue,
        slots=slots,
        walltime=walltime,
        max_running=limit,
        condition=condition,
    )
    if indices:
        job.indices = indices
    job.face = {
        "home": os.environ.get("HOME", "/"),
        "workdir": workdir,
        "initdir": values.get("d", ""),
        "arguments": " ".join(arguments),
        "job_arguments": values.get("F", ""),
        "request": values.get("t", ""),
        "shell": values.get("S") or pwd.getpwuid(os.getuid()).pw_shell,
        "shell_path": values.get("S", ""),
        "variable_list": listed,
        "variables": read_variables(listed),
        "paths": {one: absolute(values[one], workdir) for one in "oe" if one in values},
        "join": values.get("j", "n"),
        "keep": values.get("k", "").replace("n", ""),
        "mail": values.get("m", "a"),
        "mail_users": values.get("M", ""),
        "priority": values.get("p", "0"),
        "rerunable": str(values.get("r") != "n"),
        "account": values.get("A", ""),
        "umask": int(attributes.get("umask", "077"), 8),
        "resources": resources,
        "cput": cput,
        "depend": shown,
        "rlimits": [
            *([(resource.RLIMIT_CPU, cput)] if cput else []),
            *([(resource.RLIMIT_AS, space)] if space else []),
        ],
    }
    return job


def _refusal(why: str, user: str, queue: str) -> Failed:
    disabled = f"Queue is not enabled MSG=queue is disabled: user {user}@{SUBMIT_HOST}, queue {queue}"
    full = "Maximum number of jobs already in queue MSG=total number of current user's jobs exceeds the queue limit"
    return {
        "unknown": Failed(172, "Unknown queue MSG=requested queue not found"),
        "disabled": Failed(175, disabled),
        "limit": Failed(190, "Job exceeds queue resource limits MSG=cannot satisfy queue max walltime requirement"),
        "full": Failed(198, full),
    }[why]


def main(arguments: list[str]) -> int:
    """Submit a job."""
    if arguments == ["--version"]:
        print(f"Version: {VERSION}\nCommit: ")
        return 0
    given = Options()
    found, scripts, invalid = options(arguments, _OPTIONS)
    if "-" in invalid:
        _take(given, [], invalid)
    # what follows two dashes is no command here: its last word is taken for the script
    path = scripts[-1] if scripts else "-"
    script = _read_script(path).replace(b"\r\n", b"\n")
    for line in directives(script.decode("utf-8", "surrogateescape"), dict(found).get("C", "#PBS")):
        _take(given, options(words(line), _OPTIONS)[0], options(words(line), _OPTIONS)[2])
    _take(given, found, invalid)
    server = Torque()
    unreachable(server, "qsub")
    try:
        with server:
            number = server.next_number()
            job = _make_job(server, given, arguments, "STDIN" if path == "-" else os.path.basename(path))
            job.number = number
            job.face["script"] = f"{server.write_script(number, script)} {given.values.get('F', '')}".strip()
            server.submit(job, hold="u" if "h" in given.flags else "", begin=begin_time(given.values.get("a", "")))
    except Failed as failed:
        leave(failed.code, f"qsub: submit error ({failed.message})\n")
    if server.switch("unclear"):
        # text and number of PBSE_PROTOCOL in Torque's table of errors, where numbers are two above OpenPBS's
        leave(185, "qsub: submit error (Batch protocol error)\n")
    if "z" not in given.flags:
        print(server.job_id(job))
    return 0
