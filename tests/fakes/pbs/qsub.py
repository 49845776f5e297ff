"""The pretended qsub of OpenPBS."""

from __future__ import annotations

import os
import pwd
import re
import resource
import sys

from tests.fakes.model import Job, Refused, Task
from tests.fakes.pbs.common import (
    SERVER,
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
from tests.fakes.pbs.server import NODE, NODE_MEMORY, VERSION, OpenPbs

_OPTIONS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"
_USAGE = """usage: qsub [-a date_time] [-A account_string] [-c interval]
	[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
	[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
	[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
	[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
	[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""
_SIZES = {"mem", "vmem", "pmem", "pvmem", "file"}
_DURATIONS = {"walltime", "cput", "pcput"}
_NUMBERS = {"ncpus", "mpiprocs", "ompthreads", "nice"}
_KNOWN = _SIZES | _DURATIONS | _NUMBERS | {"select", "place", "nodes", "host", "vnode", "arch", "software"}
_KINDS = {"after": "started", "afterok": "ok", "afternotok": "notok", "afterany": "any"}
_VALUES = {
    "j": r"oe|eo|n",
    "k": r"n|[doe]+",
    "m": r"n|[abej]+",
    "p": r"[+-]?\d+",
    "r": r"[yn]",
    "R": r"[oe]+",
    "N": r"[A-Za-z0-9+\-._]{1,230}",
    "a": r"\d{8,12}(\.\d\d)?",
    "c": r"[nsu]|[cw](=\d+)?",
}


class Options:
    """What the options of a submission say; later ones win, and those of the command line come last."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.values: dict[str, str] = {}
        self.resources: dict[str, str] = {}
        self.attributes: dict[str, str] = {}

    def take(self, letter: str, value: str) -> None:
        """Take one option; a bad value raises Failed, and is told with the usage."""
        if letter in "hfIVXz":
            self.flags.add(letter)
        elif letter == "l":
            self._resources(value)
        elif letter == "W":
            self._attributes(value)
        elif letter == "J":
            self._array(value)
        else:
            self._check(letter, value)
            self.values[letter] = value

    def _check(self, letter: str, value: str) -> None:
        if letter == "N" and len(value) > 230:
            raise Failed(2, "qsub: Job name is too long \n")
        good = re.fullmatch(_VALUES.get(letter, r"(?s).+"), value)
        if not good or (letter == "p" and not -1024 <= int(value) <= 1023):
            raise Failed(2, f"qsub: illegal -{letter} value\n{_USAGE}")

    def _resources(self, value: str) -> None:
        # commas separate resources, but not within those of a chunk
        for item in re.split(r",(?=\w+(?:=|$|,))", value):
            name, equals, text = item.partition("=")
            if not name or not equals or not text or item.startswith("-"):
                raise Failed(2, _USAGE)
            self.resources[name] = text

    def _attributes(self, value: str) -> None:
        for item in re.split(r",(?=\w+=)", value):
            name, equals, text = item.partition("=")
            if not equals or (name == "depend" and not all(map(_dependency, text.split(",")))):
                raise Failed(2, f"qsub: illegal -W value\n{_USAGE}")
            self.attributes[name] = text

    def _array(self, value: str) -> None:
        match = re.fullmatch(r"((\d+)-(\d+)(?::[1-9]\d*)?)(?:%(\d+))?", value)
        if match is None or int(match[2]) >= int(match[3]):
            raise Failed(2, f"qsub: illegal -J value\n{_USAGE}")
        self.values["J"] = match[1]
        if match[4]:
            self.attributes.setdefault("max_run_subjobs", match[4])


def _dependency(text: str) -> list[tuple[str, str]] | None:
    """Read ``afterok:1:2``: pairs of kind and id; None for what is none."""
    kind, *ids = text.split(":")
    if kind not in _KINDS or not ids or not all(re.fullmatch(r"\d+(\[\d*\])?(\.\w+)?(@\w+)?", one) for one in ids):
        return None
    return [(kind, one.split("@")[0].split(".")[0]) for one in ids]


def _read_options(arguments: list[str]) -> tuple[Options, list[str], bytes, str]:
    """Give the options of command line and script, the program to run without a script, the script and its name."""
    found, others, invalid = options(arguments, _OPTIONS)
    for letter in invalid:
        sys.stderr.write(f"qsub: invalid option -- '{letter}'\n")
    after = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    program = after if after and others[-len(after) :] == after else []
    scripts = others[: len(others) - len(program)]
    if invalid or len(scripts) > (0 if program else 1):
        leave(2, _USAGE)
    given = Options()
    script = b""
    if not program:
        script = _read_script(scripts[0] if scripts else "-")
        prefix = dict(found).get("C", "#PBS")
        for line in directives(script.decode("utf-8", "surrogateescape"), prefix):
            _directive(given, line)
    for letter, value in found:
        try:
            given.take(letter, value)
        except Failed as failed:
            leave(failed.code, failed.message)
    return given, program, script, os.path.basename(scripts[0]) if scripts and scripts[0] != "-" else "STDIN"


def _directive(given: Options, line: str) -> None:
    found, _, invalid = options(words(line), _OPTIONS)
    try:
        for letter, value in found:
            given.take(letter, value)
    except Failed as failed:
        leave(failed.code, failed.message)
    if invalid:
        leave(1, "".join(f"qsub: invalid option -- '{one}'\n" for one in invalid) + f"qsub: directive error: {line} \n")


def _read_script(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    if not os.path.exists(path):
        leave(1, "qsub: script file:: No such file or directory\n")
    if not os.path.isfile(path):
        leave(1, "qsub: script not a file\n")
    with open(path, "rb") as file:
        return file.read()


def _variables(given: Options) -> list[list[str]]:
    """Read -v: items are separated by commas, unless quoted by quotes or a backslash; a lone quote is an error."""
    text = given.values.get("v", "")
    item = re.compile(r"""((?:[^,'"\\]|\\.|'[^']*'|"[^"]*")*)(?:,|$)""", re.DOTALL)
    found, at = [], 0
    while at < len(text):
        match = item.match(text, at)
        if match is None or match[1].startswith("="):
            leave(1, "qsub: cannot send environment with the job\n")
        name, equals, value = match[1].partition("=")
        value = re.sub(r"""(['"])(.*?)\1""", r"\2", value, flags=re.DOTALL).replace("\\,", ",").replace("\\", "\\\\")
        if equals:
            found.append([name, value])
        elif name in os.environ:
            found.append([name, os.environ[name]])
        at = match.end()
    return found


def _resources(given: Options, walltime: int) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Check the resources that were asked for; gives them, completed, and the chunks."""
    asked = dict(given.resources)
    if "select" in asked:
        for name in asked:
            if name in ("ncpus", "mem", "nodes", "mpiprocs", "ompthreads"):
                raise Failed(5, f'"-lresource=" cannot be used with "select" or "place", resource is: {name}')
    elif "place" in asked and "nodes" not in asked:
        raise Failed(7, 'Cannot have "place" without "select"')
    for name, value in asked.items():
        if name not in _KNOWN:
            raise Failed(187, f"Unknown resource Resource_List.{name}")
        if not _is_good(name, value):
            raise Failed(166, f"Illegal attribute or resource value Resource_List.{name}")
    place = "free" if "select" in asked else "pack"
    if "nodes" in asked:
        count, *details = asked["nodes"].split(":")
        cores = next((one[4:] for one in details if one.startswith("ppn=")), "1")
        asked["select"] = f"{count}:ncpus={cores}:mpiprocs={cores}"
        place = "scatter"
    elif "select" not in asked:
        parts = {name: asked[name] for name in ("mem", "vmem") if name in asked} | {"ncpus": asked.get("ncpus", "1")}
        asked["select"] = "1:" + ":".join(f"{name}={value}" for name, value in sorted(parts.items()))
    chunks = _chunks(asked["select"])
    asked |= {"place": asked.get("place", place), "nodect": str(len(chunks))}
    asked["ncpus"] = str(sum(int(chunk["ncpus"]) for chunk in chunks))
    if any("mpiprocs" in chunk for chunk in chunks):
        asked["mpiprocs"] = str(sum(int(chunk.get("mpiprocs", 0)) for chunk in chunks))
    memory = [size(chunk["mem"]) or 0 for chunk in chunks if "mem" in chunk]
    if memory and "mem" not in asked:
        asked["mem"] = chunks[0]["mem"] if len(memory) == 1 else f"{sum(memory) // 1024}kb"
    if walltime:
        asked["walltime"] = clock(walltime)
    return asked, chunks


def _is_good(name: str, value: str) -> bool:
    if name in _SIZES:
        return size(value) is not None
    if name in _DURATIONS:
        return duration(value) is not None
    if name == "select":
        return all(re.fullmatch(r"(\d+(:|$))?(\w+=[^:]+(:|$))*", chunk) and chunk for chunk in value.split("+"))
    return value.isdigit() if name in _NUMBERS else True


def _chunks(select: str) -> list[dict[str, str]]:
    chunks = []
    for text in select.split("+"):
        parts = text.split(":")
        count = int(parts.pop(0)) if parts[0].isdigit() else 1
        if count == 0:
            raise Failed(166, "Illegal attribute or resource value")
        chunk = {name: value for name, _, value in (part.partition("=") for part in parts)}
        for name, value in chunk.items():
            if name not in _KNOWN:
                raise Failed(187, f"Unknown resource: {name}")
            if not _is_good(name, value):
                raise Failed(166, "Illegal attribute or resource value")
        chunk.setdefault("ncpus", "1")
        chunks += [chunk] * count
    return chunks


def _impossible(chunks: list[dict[str, str]], place: str, slots: int) -> str:
    """Say why the job can never run, or nothing."""
    cores = sum(int(chunk["ncpus"]) for chunk in chunks)
    if place.startswith("scatter") and len(chunks) > 1:
        return "Not enough total nodes available"
    for chunk in chunks:
        if chunk.get("host", NODE) not in (NODE, "localhost"):
            return f"Insufficient amount of resource: host ({chunk['host']} != localhost)"
        if (size(chunk.get("mem", "0")) or 0) > (size(NODE_MEMORY) or 0):
            return f"Insufficient amount of resource: mem (R: {chunk['mem']} A: {NODE_MEMORY} T: {NODE_MEMORY})"
    return f"Insufficient amount of resource: ncpus (R: {cores} A: {slots} T: {slots})" if cores > slots else ""


def _vnode(chunks: list[dict[str, str]]) -> str:
    """Print what the job gets of which node."""
    printed = []
    for chunk in chunks:
        parts = [f"{name}={(size(value) or 0) // 1024}kb" if name == "mem" else f"{name}={value}"
                 for name, value in chunk.items() if name in ("ncpus", "mem")]  # fmt: skip
        printed.append(f"({':'.join([NODE, *parts])})")
    return "+".join(printed)


def _condition(server: OpenPbs, depend: str) -> tuple[list[object], list[list[object]], list[list[str]]]:
    """Make the condition, the list of parents, and what is shown of -W depend."""
    parts: list[object] = []
    parents: list[list[object]] = []
    shown = []
    for text in filter(None, depend.split(",")):
        for kind, one in _dependency(text) or []:
            number, _, index = one.rstrip("]").partition("[")
            parts.append([_KINDS[kind], int(number), int(index) if index else None])
            parents.append([_KINDS[kind], int(number)])
            shown.append([kind, f"{one}.{SERVER}"])
    return (["and", *parts] if parts else []), parents, shown


def _make_job(server: OpenPbs, given: Options, arguments: list[str], program: list[str], default: str) -> Job:
    """Check a submission against the server's limits and make the job."""
    values, attributes = given.values, given.attributes
    unknown = set(attributes) - {"depend", "sandbox", "umask", "block", "max_run_subjobs"}
    if unknown:
        raise Failed(154, "Error (15002) submitting job")
    if values.get("u", server.user) != server.user:
        raise Failed(175, "Bad UID for job execution")
    queue = values.get("q", server.default_queue).split("@")[0]
    limits = server.queues.get(queue)
    walltime = duration(given.resources.get("walltime", "")) or (limits.walltime if limits else 0)
    resources, chunks = _resources(given, walltime)
    indices = parse_indices(values["J"]) or [] if "J" in values else None
    if indices and len(indices) > 100_000:
        raise Failed(3, "Array job exceeds server or queue size limit")
    try:
        server.check_queue(queue, walltime, len(indices or [1]))
    except Refused as refused:
        raise _refusal(refused.why, server.user, queue) from None
    impossible = _impossible(chunks, resources["place"], server.slots)
    condition, parents, shown = _condition(server, attributes.get("depend", ""))
    home, workdir = os.environ.get("HOME", "/"), os.environ.get("PWD", os.getcwd())
    workdir = workdir if os.path.exists(workdir) and os.path.samefile(workdir, ".") else os.getcwd()
    own = _variables(given)
    shown_variables = [
        *submitter_variables("HOME LANG LOGNAME PATH MAIL SHELL TZ"),
        ["PBS_O_WORKDIR", workdir],
        ["PBS_O_SYSTEM", "Linux"],
        *own,
    ]
    submitter = [[name, value] for name, value in os.environ.items()] if "V" in given.flags else []
    cput = duration(resources.get("cput", ""))
    space = size(resources.get("pvmem", ""))
    job = Job(
        name=values.get("N", default),
        queue=queue,
        slots=sum(int(chunk["ncpus"]) for chunk in chunks) if not impossible else 1_000_000,
        walltime=walltime,
        memory=(size(resources.get("mem", "0")) or 0) if "mem" in os.environ.get("FAKE_ENFORCE", "") else 0,
        max_running=int(attributes.get("max_run_subjobs", 0)) if indices else 0,
        condition=condition,
    )
    if indices:
        job.indices = indices
    job.face = {
        "home": home,
        "workdir": workdir,
        "arguments": " ".join(filter(None, arguments)),
        "indices": values.get("J", ""),
        "argv": program,
        "shell": values.get("S") or pwd.getpwuid(os.getuid()).pw_shell,
        "shown_variables": shown_variables,
        "variables": [*submitter, *shown_variables, ["PBS_O_QUEUE", queue], ["PBS_O_HOST", "localhost"]],
        "paths": {one: absolute(values[one], workdir) for one in "oe" if one in values},
        "join": values.get("j", "n"),
        "keep": values.get("k", "").replace("n", ""),
        "remove": values.get("R", ""),
        "mail": values.get("m", "a"),
        "mail_users": values.get("M", ""),
        "priority": values.get("p", "0"),
        "rerunable": str(values.get("r") != "n"),
        "account": values.get("A", ""),
        "shell_path": values.get("S", ""),
        "project": values.get("P", "_pbs_project_default"),
        "sandbox": attributes.get("sandbox") == "PRIVATE",
        "umask": int(attributes.get("umask", "077"), 8),
        "resources": resources,
        "vnode": _vnode(chunks),
        "chunks": [int(chunk["ncpus"]) for chunk in chunks],
        "impossible": impossible,
        "depend": shown,
        "parents": parents,
        "script": "",
        "rlimits": [
            *([(resource.RLIMIT_CPU, cput)] if cput else []),
            *([(resource.RLIMIT_AS, space)] if space else []),
        ],
    }
    return job


def _refusal(why: str, user: str, queue: str) -> Failed:
    return {
        "unknown": Failed(170, "Unknown queue"),
        "disabled": Failed(173, "Queue is not enabled"),
        "limit": Failed(188, "Job violates queue and/or server resource limits"),
        "full": Failed(38, f"Maximum number of jobs for user {user} already in queue {queue}"),
    }[why]


def main(arguments: list[str]) -> int:
    """Submit a job."""
    if arguments == ["--version"]:
        print(f"pbs_version = {VERSION}")
        return 0
    given, program, script, default = _read_options(arguments)
    if "J" in given.values and given.values.get("r") == "n":
        leave(2, f"qsub:  cannot submit non-rerunable Array Job\n{_USAGE}")
    if "I" in given.flags:
        leave(1, "qsub:\tstandard input and output must be a terminal for\n\tinteractive job submission\n")
    server = OpenPbs()
    if not server.reachable():
        leave(162, f"Connection refused\nqsub: cannot connect to server {SERVER[:7]} (errno=15010)\n")
    try:
        with server:
            number = server.next_number()
            job = _make_job(server, given, arguments, program, default)
            job.number = number
            if not program:
                job.face["script"] = server.write_script(number, script)
            server.submit(job, hold="u" if "h" in given.flags else "", begin=begin_time(given.values.get("a", "")))
    except Failed as failed:
        leave(failed.code, f"qsub: {failed.message}\n")
    if server.switch("unclear"):
        # the number is that of a protocol error in pbs_error.h: the connection ended before the answer
        leave(183, "qsub: Error (15031) submitting job\n")
    if "z" not in given.flags:
        print(server.job_id(job), flush=True)
    if given.attributes.get("block") == "true":
        return _status(server, server.wait(number))
    return 0


def _status(server: OpenPbs, tasks: list[Task]) -> int:
    return max((server.exit_status(task) or 0) & 255 for task in tasks)
