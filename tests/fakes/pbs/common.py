"""What the pretended OpenPBS and Torque have in common: options, texts, and how a job is run."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

from tests.fakes.engine import Engine
from tests.fakes.model import PLAIN, RUNNING, Launch, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import NoReturn, TypeVar

    from typing_extensions import Self

    from tests.fakes.model import Job, Task

    T = TypeVar("T")

#: The server's name, and that of the host from which everything is submitted.
SERVER = "frontend"
SUBMIT_HOST = "localhost"
_SIZES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


class Failed(Exception):
    """A command ends with a message and an exit code; the message has its line end."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def leave(code: int, message: str = "") -> NoReturn:
    """End the command."""
    sys.stdout.flush()
    sys.stderr.write(message)
    sys.stderr.flush()
    raise SystemExit(code)


def options(words: Sequence[str], letters: str) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Read options as GNU getopt does; gives them, the other words, and the letters that are no options."""
    found: list[tuple[str, str]] = []
    others: list[str] = []
    invalid: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return found, [*others, *rest], invalid
        if not word.startswith("-") or word == "-":
            others.append(word)
            continue
        cluster = word[1:]
        while cluster:
            letter, cluster = cluster[0], cluster[1:]
            at = letters.find(letter) if letter != ":" else -1
            if at < 0:
                invalid.append(letter)
            elif letters[at + 1 : at + 2] != ":":
                found.append((letter, ""))
            elif cluster or rest:
                found.append((letter, cluster or rest.pop(0)))
                cluster = ""
            else:
                invalid.append(letter)
    return found, others, invalid


def directives(script: str, prefix: str) -> list[str]:
    """Give what follows the prefix in the lines before a script's first command."""
    found = []
    for line in script.splitlines():
        if line.startswith(prefix) and (prefix == "" or line[len(prefix) :][:1] in (" ", "\t", "")):
            found.append(line[len(prefix) :].strip())
        elif line.strip() and not line.startswith(("#", ":")):
            break
    return found


def words(line: str) -> list[str]:
    """Split a directive at blanks, except within quotes."""
    return [re.sub(r"[\"']", "", word) for word in re.findall(r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'])+", line)]


def duration(text: str) -> int | None:
    """Read ``[[hours:]minutes:]seconds``; None for what is none."""
    if not re.fullmatch(r"\d+(:\d+){0,2}(\.\d+)?", text):
        return None
    seconds = 0
    for part in text.partition(".")[0].split(":"):
        seconds = seconds * 60 + int(part)
    return seconds


def clock(seconds: float) -> str:
    """Print a duration."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def size(text: str) -> int | None:
    """Read an amount of memory in bytes; None for what is none."""
    match = re.fullmatch(r"(\d+)([kmgtp]?)[bw]?", text, re.IGNORECASE)
    return int(match[1]) << 10 * _SIZES[match[2].lower()] if match else None


def date(when: float) -> str:
    """Print a time as qstat does, in the local time zone."""
    return time.ctime(when)


def fold(name: str, value: str, limit: int) -> str:
    """Print an attribute, folded as ``qstat -f`` does it: at commas where possible (measured on all records)."""
    out = f"    {name} = "
    column, first = len(out), True
    for part in re.split(r"(?<=,)", value):
        piece = part.rstrip(",") if part.endswith(",") else part
        if column + len(piece) < limit:
            out, column = out + piece, column + len(piece)
        else:
            if not first:
                out, column = out + "\n\t", 9
            for letter in piece:
                out, column = out + letter, column + 1
                if column > limit:
                    out, column = out + "\n\t", 8
        first = False
        out += part[len(piece) :]
    return out + "\n"


def begin_time(text: str) -> float:
    """Read ``[[CC]YY]MMDDhhmm[.SS]``."""
    if not text:
        return 0.0
    stamp, _, seconds = text.partition(".")
    stamp = time.strftime("%Y%m%d%H%M")[: 12 - len(stamp)] + stamp
    return time.mktime(time.strptime(stamp, "%Y%m%d%H%M")) + int(seconds or 0)


def signal_number(name: str) -> int | None:
    """Give the number of a signal by its name or number; None for what is none."""
    name = name.upper().removeprefix("SIG")
    if name.isdigit():
        return int(name)
    if name == "NULL":
        return 0
    found = getattr(signal, f"SIG{name}", None)
    return int(found) if found is not None else None


def submitter_variables(names: str) -> list[list[str]]:
    """Give the variables that a job gets to know of its submitter."""
    return [[f"PBS_O_{name}", os.environ[name]] for name in names.split() if name in os.environ]


def absolute(path: str, directory: str) -> str:
    """Give the path of an output file, without the host that may stand before it."""
    return os.path.join(directory, re.sub(r"^[\w.-]+:(?=/)", "", path))


class PbsServer(Engine):
    """A server of the PBS family."""

    #: The job's first process of a script is a login shell that is fed the script's path.
    job_exec_failed = ""
    path = "/usr/local/bin:/usr/bin:/bin"

    def __enter__(self) -> Self:
        self._found: dict[str, object] = {}
        return super().__enter__()

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Find something out only once in a transaction."""
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]  # type: ignore[return-value]

    def tasks_of(self, job: Job) -> list[Task]:
        """Give the tasks of a job; all jobs' tasks are read at once."""
        return self.once("tasks", self.grouped).get(job.number, [])

    def grouped(self) -> dict[int, list[Task]]:
        """Read the tasks of all jobs."""
        groups: dict[int, list[Task]] = {}
        for task in self.tasks():
            groups.setdefault(task.number, []).append(task)
        return groups

    def free(self) -> int:
        """Count the cores that nobody uses."""
        tasks = [task for group in self.once("tasks", self.grouped).values() for task in group]
        return self.slots - sum(self.job_of(task).slots for task in tasks if task.state == RUNNING)

    def job_id(self, job: Job, index: int | None = None) -> str:
        """Give a job's id; that of an array without an index, or of one of its elements."""
        if not job.is_array:
            return f"{job.number}.{SERVER}"
        return f"{job.number}[{'' if index is None else index}].{SERVER}"

    def output_path(self, job: Job, task: Task, stream: str) -> str:
        """Give the final path of the output (``o``) or error (``e``) stream."""
        raise NotImplementedError

    def variables(self, job: Job, task: Task) -> dict[str, str]:
        """Give the variables of a task that only this system sets."""
        raise NotImplementedError

    def work_directory(self, job: Job, task: Task) -> str:
        """Give the directory in which a task starts."""
        return str(job.face["home"])

    def write_script(self, number: int, text: bytes) -> str:
        """Keep the script of a job; gives its path."""
        path = self.file(f"{number}.{SERVER}.SC")
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o700)) as file:
            file.write(text)
        return path

    def launch(self, job: Job, task: Task) -> Launch:
        face = job.face
        home = str(face["home"])
        if not os.path.isdir(home):
            raise StartFailed(-2)
        jobid = self.job_id(job, task.index)
        shell = str(face["shell"])
        env = {name: str(value) for name, value in face["variables"]}
        env |= {
            "HOME": home,
            "LOGNAME": job.owner,
            "USER": job.owner,
            "SHELL": shell,
            "PATH": self.path,
            "ENVIRONMENT": "BATCH",
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": jobid,
            "PBS_QUEUE": job.queue,
            "PBS_JOBNAME": job.name,
            "PBS_MOMPORT": "15003",
            "PBS_NODENUM": "0",
            "PBS_TASKNUM": "1",
            **self.variables(job, task),
        }
        streams = {stream: self.stream(job, task, stream) for stream in "oe"}
        joined = str(face["join"])
        first = streams[joined[0]] if joined in ("oe", "eo") else streams["o"]
        program = list(face.get("argv") or ())
        return Launch(
            program or [f"-{os.path.basename(shell)}"],
            env,
            executable=program[0] if program else shell,
            cwd=self.work_directory(job, task),
            umask=int(face["umask"]),
            stdin=b"" if program else f"{face['script']}\n".encode(),
            stdout=first,
            stderr="" if joined in ("oe", "eo") else streams["e"],
            rlimits=face["rlimits"],
            exec_failed=self.job_exec_failed,
        )

    def stream(self, job: Job, task: Task, stream: str) -> str:
        """Give the path that a task's stream is written to while it runs."""
        keep = str(job.face["keep"])
        if stream not in keep:
            return self.file(f"{self.job_id(job, task.index)}.{'OU' if stream == 'o' else 'ER'}")
        if "d" in keep:
            return self.output_path(job, task, stream)
        name = os.path.basename(self.output_path(job, task, stream))
        return os.path.join(self.work_directory(job, task), name)

    def finish(self, job: Job, task: Task, launch: Launch) -> None:
        joined = str(job.face["join"])
        if task.reason in ("walltime", "memory"):
            used = int(task.ended - task.started) if task.reason == "walltime" else f"{task.rss}kb"
            limit = job.walltime if task.reason == "walltime" else f"{job.memory // 1024}kb"
            what = "walltime" if task.reason == "walltime" else "mem"
            with open(launch.stderr or launch.stdout, "a") as file:
                file.write(f"=>> PBS: job killed: {what} {used} exceeded limit {limit}\n")
        for stream in joined[0] if joined in ("oe", "eo") else "oe":
            if stream not in str(job.face["keep"]) and stream not in str(job.face.get("remove", "")):
                self.deliver(self.stream(job, task, stream), self.output_path(job, task, stream))

    def deliver(self, source: str, target: str) -> None:
        """Copy an output file to its final place; nobody is told when that fails."""
        with open(source, "rb") as file:
            content = file.read()
        mode = os.stat(source).st_mode & 0o777
        os.umask(0)
        try:
            with open(target, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(content)
        except OSError:
            undelivered = os.path.join(self.spool, "undelivered")
            os.makedirs(undelivered, exist_ok=True)
            os.replace(source, os.path.join(undelivered, os.path.basename(source)))
        else:
            os.unlink(source)

    def exit_status(self, task: Task) -> int | None:
        """Give the status of a task that was killed by nobody but a signal; None when it never ran."""
        if task.exit_code is None:
            return None
        return 256 + task.signal if task.signal else task.exit_code


def parse_indices(text: str) -> list[int] | None:
    """Read ``3``, ``1-4`` or ``1-9:2``; None for anything else."""
    match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", text)
    if match is None or match[3] == "0":
        return None
    return list(range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1)))


def print_ranges(indices: Iterable[int]) -> str:
    """Print indices as PBS does: ``7-10``, ``8,10``; a dash for none."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] + 1 == index:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "-"


def plain_index(index: int) -> int | None:
    """Give the index of an array's element, None for a plain job."""
    return None if index == PLAIN else index
