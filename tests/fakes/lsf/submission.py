"""bsub."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time

from tests.fakes.lsf.options import (
    HOST,
    IBM,
    Failure,
    Options,
    UsageFailure,
    connect,
    parse_indices,
    parse_words,
    pause,
    raw,
    tries_left,
)
from tests.fakes.lsf.system import LSF, written
from tests.fakes.model import PLAIN, Job, Refused, setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_TAKES = "a b c C D e E Ep f F i is J Jd k L m M n o p P q R S sp s t u v w W"
_FLAGS = "B h H K N r V x"
if IBM:
    _TAKES += " app cwd env eo ext freq g G gpu network oo outdir sla T U We"
    _FLAGS += " rn hl ti"

#: The title of a job, which is also its name when it has none, is cut here.
_TITLE_LENGTH = 232
_LARGEST_INDEX = 1000
_SECTION = r"(?:select|order|rusage|span|same|cu|affinity)\[[^][]+\]"
_KNOWN = r"\s*(?:r15s|r1m|r15m|ut|pg|io|ls|it|tmp|swp|mem|maxmem|ncpus|type|model|hname|cs)\b[^][]*"
_REFUSED = {
    "unknown": "{queue}: No such queue",
    "disabled": "{queue}: Queue has been closed",
    "limit": "RUNLIMIT: Cannot exceed queue's hard limit(s)",
}
_UNITS = {"": 0, "K": 0, "KB": 0, "M": 1, "MB": 1, "G": 2, "GB": 2, "T": 3, "TB": 3}


def main(name: str, words: Sequence[str]) -> int:
    """Submit a job, and with -K wait for it."""
    options = parse_words("bsub", words, _TAKES.split(), _FLAGS.split())
    if "h" in options:
        raise UsageFailure("bsub")
    if "V" in options:
        return 0
    command, script = _command(options.rest), False
    if not command:
        command, script = sys.stdin.buffer.read().decode("latin-1"), True
        for option, values in directives(command).items():
            # the command line wins
            options.values.setdefault(option, values)
    try:
        if not command.strip():
            raise Failure("No command is specified")
        job = _checked(options, command, script)
        system = LSF()
        connect(system)
        _enter(system, job, options)
    except UsageFailure:
        raise
    except Failure as failure:
        raise Failure(f"{failure.text}. Job not submitted.") from None
    asked = "q" in options or "LSB_DEFAULTQUEUE" in os.environ
    if banner := os.environ.get("FAKE_LSF_BANNER"):
        print(raw(banner))
    print(f"Job <{job.number}> is submitted to {'' if asked else 'default '}queue <{job.queue}>.", flush=True)
    for option, what in (("b", "scheduled after"), ("t", "terminated by")):
        if option in options:
            print(f"Job will be {what} {written(_clock(options.get(option)))}", file=sys.stderr)
    if "K" in options:
        print("<<Waiting for dispatch ...>>", file=sys.stderr, flush=True)
        task = system.wait(job.number)[-1]
        print("<<Job is finished>>\r", file=sys.stderr)
        return task.exit_code or (128 + task.signal if task.signal else 0)
    return 0


def directives(script: str) -> dict[str, list[str]]:
    """Read the options in a script, anywhere in it; of an option in two lines, the first one counts."""
    found: dict[str, list[str]] = {}
    for match in re.finditer(r"^#BSUB\s+(.*)$" if IBM else r"^#[ \t]*BSUB[ \t]+(.*)$", script, re.MULTILINE):
        try:
            words = shlex.split(match[1].rstrip("\r"))
        except ValueError:
            raise Failure("Unmatched quotes in the job script") from None
        for option, values in parse_words("bsub", words, _TAKES.split(), _FLAGS.split()).values.items():
            if option == "R" or option not in found:
                found.setdefault(option, []).extend(values)
    return found


def _command(words: Sequence[str]) -> str:
    """Join the words of a command as bsub does."""
    quoted = [f'"{word}"' if re.search(r"\s", word) else word for word in words[1:]]
    return " ".join([*words[:1], *quoted])


def _checked(options: Options, command: str, script: bool) -> Job:
    """Make the job, as far as bsub itself checks it."""
    lines = command.rstrip("\n").split("\n")
    title = ";".join(lines)[:_TITLE_LENGTH]
    name, indices, most, spec = _array(options.get("J"))
    slots = re.fullmatch(r"(\d+)(?:,(\d+))?", options.get("n") or "1")
    if slots is None:
        raise Failure("Bad argument for option -n")
    if not int(slots[1]):
        raise Failure("The number of processors must be a positive integer")
    if "c" in options and not re.fullmatch(r"(\d+:)?\d+(/.*)?", options.get("c")):
        raise Failure(f"{options.get('c')}: Bad CPULIMIT specification")
    if len(options.values.get("R", ())) > 1 and not IBM:
        raise Failure("Invalid syntax; the -R option was used more than once.\n")
    if "s" in options and not options.get("s").isdigit():
        print("-s option is set", flush=True)
        raise Failure(f"{options.get('s')}: Illegal signal value")
    minutes = _minutes(options.get("W"))
    memory = _kilobytes(options.get("M"))
    job = Job(
        name=name or title,
        queue=(options.get("q") or os.environ.get("LSB_DEFAULTQUEUE") or LSF.default_queue).split()[0],
        slots=int(slots[1]),
        walltime=max(1, round(minutes * setting("FAKE_LSF_MINUTE", 60))) if minutes else 0,
        memory=memory * 1024,
        indices=indices,
        max_running=most,
        never="end" if "ti" in options else "stay",
    )
    out, err = options.get("oo") or options.get("o"), options.get("eo") or options.get("e")
    umask = os.umask(0)
    os.umask(umask)
    job.face = {
        "command": command,
        "script": script,
        "title": title,
        "named": bool(name),
        "spec": spec,
        "cwd": os.path.join(raw(os.getcwd()), options.get("cwd")) if "cwd" in options else raw(os.getcwd()),
        "home": raw(os.environ.get("HOME", "/")),
        "umask": umask,
        "env": _environment(options.get("env")),
        "project": options.get("P") or "default",
        "out": out,
        "err": err if err != out else "",
        "over_out": "oo" in options,
        "over_err": "eo" in options,
        "input": options.get("i") or options.get("is"),
        "notify": "N" in options,
        "resreq": " ".join(options.values.get("R", [])),
        "depends": options.get("w"),
        "held": "H" in options,
        "minutes": minutes,
        "memory": memory,
        "begin": _clock(options.get("b")) if "b" in options else 0.0,
    }
    return job


def _array(text: str) -> tuple[str, list[int], int, str]:
    """Read a name: without its indices, the indices, how many may run at a time, and how all that was written."""
    if len(text) > 255:
        raise Failure("Bad job name")
    match = re.fullmatch(r"(.*?)(\[(.*)\](?:%(\d+))?)", text)
    indices = parse_indices(match[3]) if match else []
    if match is None or not indices or indices[-1] > _LARGEST_INDEX:
        if IBM and "[" in text:
            large = indices and indices[-1] > _LARGEST_INDEX
            raise Failure("Job array index too large" if large else f"{text}: Bad job array index list")
        return text, [PLAIN], 0, ""
    return match[1], indices, int(match[4] or 0), match[2]


def _minutes(text: str) -> int:
    match = re.fullmatch(r"(?:(\d+):)?(\d+)(?:/\S+)?", text or "0")
    if match is None:
        raise Failure(f"{text}: Bad RUNLIMIT specification")
    return int(match[1] or 0) * 60 + int(match[2])


def _kilobytes(text: str) -> int:
    """Read a memory limit: in megabytes, or in IBM's LSF in the unit of lsf.conf."""
    match = re.fullmatch(r"(\d+)([KMGT]B?)?!?" if IBM else r"(\d+)", text or "0")
    if match is None:
        raise Failure(f"{text}: MEMLIMT value should be a positive integer")
    if not IBM:
        return int(match[1]) * 1024
    unit = match[2] or ""
    if not unit and "LSF_ENVDIR" in os.environ:
        with open(os.path.join(os.environ["LSF_ENVDIR"], "lsf.conf")) as file:
            found = re.search(r"^LSF_UNIT_FOR_LIMITS=(\w+)", file.read(), re.MULTILINE)
        unit = found[1] if found else ""
    return int(match[1]) * int(1024 ** _UNITS[unit])


def _environment(text: str) -> dict[str, str]:
    """Give the environment of the submission, changed by IBM's -env."""
    everything = {raw(name): raw(value) for name, value in os.environ.items()}
    if not text:
        return everything
    found = dict(everything) if "all" in text.split(",") else {}
    for part in text.split(","):
        name, given, value = part.strip().partition("=")
        if given or name in everything:
            found[name] = value if given else everything[name]
    return found


def _clock(text: str) -> float:
    """Read ``[[[year:]month:]day:]hour:minute``: the next time that this is."""
    now = time.localtime()
    if not re.fullmatch(r"\d+(:\d+){1,4}", text):
        raise Failure(f"{text}: Bad time specification")
    given = [int(part) for part in text.split(":")]
    parts = [*now[: 5 - len(given)], *given]
    when = time.mktime((*parts, 0, 0, 0, -1))  # type: ignore[arg-type]
    return when if when > time.time() or len(given) > 2 else when + 86400


def _enter(system: LSF, job: Job, options: Options) -> None:
    """Give the job to the server; without room for it, try again."""
    tries = 0
    while True:
        try:
            with system:
                job.number = system.next_number()
                _checked_by_server(system, job, options)
                hold = "u" if job.face["held"] else "s" if "stuck" in job.face else ""
                system.submit(job, hold=hold, begin=job.face["begin"])
            break
        except Refused as refused:
            if refused.why != "full":
                raise Failure(_REFUSED[refused.why].format(queue=job.queue)) from None
            tries += 1
            # as seen in logs of users; how it gives up in the end is not known
            what = f"User <{system.user}>: Pending job threshold reached."
            if not tries_left(tries):
                raise Failure(what[:-1]) from None
            print(f"{what} Retrying in 60 seconds...", file=sys.stderr)
            pause()
    if system.switch("unclear"):
        raise Failure("Failed in an LSF library call: Failed in sending/receiving a message: Connection reset by peer")


def _checked_by_server(system: LSF, job: Job, options: Options) -> None:
    """Check what only the server knows; a number is lost when it refuses."""
    queue = system.check_queue(job.queue, job.face["minutes"] * 60, len(job.indices))
    job.walltime = job.walltime or queue.walltime
    for host in options.get("m").split():
        if host.partition("+")[0] != HOST:
            raise Failure(f"{host}: Bad host name, host group name or cluster name")
    if "x" in options and not IBM:
        raise Failure(f"{job.queue}: Queue does not accept EXCLUSIVE jobs")
    if "sp" in options and not IBM:
        raise Failure("Job priority control undefined")
    wanted = job.face["resreq"]
    if wanted and not re.fullmatch(rf"\s*({_KNOWN})?({_SECTION}\s*)*", wanted):
        raise Failure("Bad resource requirement syntax")
    if not IBM and re.search(r"rusage\[[^]]*=\d+[KMGT]", wanted):
        raise Failure("Bad resource requirement syntax")
    per_host = re.search(r"span\[ptile=(\d+)\]", wanted)
    memory = re.search(r"mem>(\d+)", wanted)
    if per_host and int(per_host[1]) < job.slots:
        job.face["stuck"] = "Not enough job slot(s)"
    if memory and int(memory[1]) > 10_000_000:
        job.face["stuck"] = "Job's resource requirements not satisfied"
    if job.face["depends"]:
        condition = _Condition(system, job.face["depends"]).read()
        # without a delay for new jobs, volclava starts them before it looks at their conditions
        job.condition = condition if IBM or job.queue != "short" else ()


class _Condition:
    """Reads ``done(1) && (ended(2[3]) || exit("name"))``."""

    def __init__(self, system: LSF, text: str) -> None:
        self.system = system
        self.text = text
        self.words: list[str] = re.findall(r"&&|\|\||!|\(|\)|\"[^\"]*\"|[^\s()&|!]+", text)

    def read(self) -> Sequence[Any]:
        """Give the condition as the engine has it."""
        found = self._either()
        if self.words:
            raise self._bad()
        return found

    def _bad(self) -> Failure:
        return Failure(f"{self.text}: Dependency condition syntax error")

    def _next(self, wanted: str = "") -> str:
        if not self.words or (wanted and self.words[0] != wanted):
            raise self._bad()
        return self.words.pop(0)

    def _either(self) -> Sequence[Any]:
        parts = [self._both()]
        while self.words and self.words[0] == "||":
            self._next()
            parts.append(self._both())
        return ["or", *parts] if len(parts) > 1 else parts[0]

    def _both(self) -> Sequence[Any]:
        parts = [self._one()]
        while self.words and self.words[0] == "&&":
            self._next()
            parts.append(self._one())
        return ["and", *parts] if len(parts) > 1 else parts[0]

    def _one(self) -> Sequence[Any]:
        word = self._next()
        if word == "!":
            return ["not", self._one()]
        if word == "(":
            found = self._either()
            self._next(")")
            return found
        kinds = {"done": "ok", "ended": "any", "exit": "notok", "started": "started", "numended": "any"}
        if self.words and self.words[0] == "(" and word in kinds:
            self._next()
            # what follows the comma, a code or a number of elements, is met by the whole job here
            target = self._next().partition(",")[0]
            while self._next() != ")":
                continue
            return self._job(kinds[word], target)
        return self._job("ok", word)

    def _job(self, kind: str, target: str) -> Sequence[Any]:
        target = target.strip('"')
        match = re.fullmatch(r"(\d+)(?:\[(\d+)\])?", target)
        if match:
            if self.system.job(int(match[1])) is None:
                raise Failure(f"{target}: No matching job found")
            return [kind, int(match[1]), int(match[2]) if match[2] else None]
        named = [[kind, job.number, None] for job in self.system.jobs() if job.name == target]
        if not named and IBM:
            raise Failure(f"{target}: No matching job found")
        # volclava takes a name that nobody has for a condition that is met
        return ["and", *named]
