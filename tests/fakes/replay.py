"""Recorded commands, run on pretended batch systems, and the form of what they print."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from tests.fakes.engine import stop_everything

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "recordings"
#: Seconds to wait for a state that was recorded.
PATIENCE = 20.0

#: Members of the resources that a job used.
_USED = ("cput", "mem", "vmem", "walltime")
_DATE = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d (\d\d:\d\d:\d\d \d{4}|at \d\d:\d\d)")


#: Exit code, standard output taken apart, standard error.
Form = tuple[int, object, str]


class Record(TypedDict):
    """A command that was run on a real system, and what it answered."""

    scenario: str
    command: str
    stdout: str
    stderr: str
    exit: int


def recordings(name: str) -> list[Record]:
    """Read recordings, in the order in which they were made."""
    with open(RECORDINGS / f"{name}.jsonl") as file:
        return [json.loads(line) for line in file]


def unordered(record: Record) -> Record:
    """Sort the lines of files that were listed in no order."""
    if "grep -r" not in record["command"]:
        return record
    lines = sorted(record["stdout"].splitlines(keepends=True))
    return {**record, "command": f"{{ {record['command']}; }} | LC_ALL=C sort", "stdout": "".join(lines), "exit": 0}


class Site:
    """A pretended batch system, and a user's home and work directory there.

    Parameters
    ----------
    spool : Path
        Directory for the batch system's state.
    binaries : Path
        Where the commands are.
    home, work : str
        The home directory of the recordings, and the work directory below it. Those here have the same lengths, so
        that long lines are folded at the same places.
    environment : mapping of str to str
        More variables for the commands.
    """

    def __init__(
        self, spool: Path, binaries: Path, home: str, work: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.spool = spool
        self.real_home = home
        self.home = _directory(len(home))
        self.work = self.home / work
        self.work.mkdir(parents=True)
        self.environment = {
            "PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin",
            "FAKE_SPOOL": str(self.spool),
            "FAKE_USER": "hpc",
            "FAKE_KILL_DELAY": "0.2",
            "HOME": str(self.home),
            "LOGNAME": "hpc",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            **(environment or {}),
        }
        self.run("qstat")

    def close(self) -> None:
        """End all jobs."""
        stop_everything(str(self.spool))
        shutil.rmtree(self.home)

    def run(self, command: str, directory: str = "", **more: str) -> Record:
        """Run a shell command in the work directory, or in a directory there."""
        if command.startswith("[as "):
            user, _, command = command.removeprefix("[as ").partition("] ")
            more = {"FAKE_USER": user, **({"FAKE_MANAGER": "yes"} if user == "root" else {}), **more}
        done = subprocess.run(
            ["/bin/bash", "-c", command.replace(self.real_home, str(self.home))],
            cwd=self.work / directory,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        out, err = (text.decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr))
        return {"scenario": "", "command": command, "stdout": out, "stderr": err, "exit": done.returncode}

    def next_number(self, number: int) -> None:
        """Let the next job have this number, as it had when it was recorded."""
        with sqlite3.connect(self.spool / "state.db", timeout=30) as db:
            db.execute("REPLACE INTO counters VALUES ('job', ?)", (number - 1,))
        db.close()

    def replay(self, record: Record, ignored: Iterable[str] = (), directory: str = "") -> None:
        """Run a recorded command until it answers as it did then; fails when it never does."""
        submitted = re.match(r"(\d+)(\[\])?\.frontend\s*$", record["stdout"])
        if submitted and "qsub" in record["command"]:
            self.next_number(int(submitted[1]))
        expected = self.form(record, ignored)
        for final in patience():
            answer = self.form(self.run(record["command"], directory), ignored)
            if answer == expected:
                return
            if submitted or final:
                raise AssertionError(difference(record["command"], expected, answer))

    def form(self, record: Record, ignored: Iterable[str] = ()) -> Form:
        """Give the exit code and the form of standard output and error."""
        return record["exit"], self._form(record["stdout"], set(ignored)), self._neutral(record["stderr"])

    def _form(self, text: str, ignored: set[str]) -> object:
        text = self._neutral(text)
        if text.startswith("{"):
            try:
                return _flat(json.loads(text), ignored)
            except ValueError:
                # not every answer that looks like JSON is JSON
                pairs = re.findall(r'(?m)^ +"(\w+)":(.*)$', text)
                return [_measured(name, value) for name, value in pairs if name not in {*ignored, *_USED}]
        if text.startswith("<?xml"):
            pairs = re.findall(r"<(\w+)>([^<]*)</\1>", text)
            return [_measured(name, value) for name, value in pairs if name not in ignored]
        if re.match(r"(Job Id|Server|Queue): ", text):
            return _attributes(text, ignored)
        # processor time in the short listing, the session in the other one
        text = re.sub(r"(?m)^(\S.* )(?:00:00:\d\d|       0) (?=[A-Z] )", r"\1TIME ", text)
        return re.sub(r"(?m)^(\d+\S*\.\w+ +\w+ +\w+ +\S+) +(?:\d+|--) ( +\d+ +\d+ )", r"\1 SESSION \2", text)

    def _neutral(self, text: str) -> str:
        text = text.replace(str(self.home), self.real_home).replace(str(self.spool / "files"), "SPOOL")
        text = re.sub(r"/opt/\w+/spool/mom_priv/jobs", "SPOOL", text)
        text = re.sub(r"\broot root\b", "hpc hpc", text)
        text = re.sub(r"PBS_O_PATH=[^,]*", "PBS_O_PATH=...", text.replace("\n\t", "") if "PBS_O" in text else text)
        return re.sub(r"([ls-][rwxs-]{9} \d+ \w+ +\w+ +\d+) \w+ \d+ [\d:]+", r"\1", _DATE.sub("DATE", text))


def difference(command: str, expected: Form, answer: Form) -> str:
    """Tell what was expected and what came, as far as it differs."""
    lines = [command]
    for wanted, got in zip(expected, answer, strict=True):
        if isinstance(wanted, list) and isinstance(got, list):
            wanted, got = [one for one in wanted if one not in got], [one for one in got if one not in wanted]
        if wanted != got:
            lines += [f"expected {wanted!r}", f"got      {got!r}"]
    return "\n".join(lines)


def _directory(length: int) -> Path:
    """Make a directory whose path has this length."""
    while True:
        path = Path("/tmp") / secrets.token_hex(length)[: length - len("/tmp/")]
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path


def _attributes(text: str, ignored: set[str]) -> list[tuple[str, str]]:
    """Give names and values of a long listing, without what was measured."""
    # a value goes on in lines that are neither indented nor empty
    pattern = r"(?m)^(Job Id|Server|Queue|    [\w.]+)(?: =|:) ?((?:.*)(?:\n(?!    \w|Job Id|\n).+)*)"
    pairs = re.findall(pattern, text.replace("\n\t", ""))
    return [_measured(name.strip(), value) for name, value in pairs if name.strip().split(".")[0] not in ignored]


def _flat(found: Mapping[str, object], ignored: set[str], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in found.items():
        if name in ignored:
            continue
        if isinstance(value, dict):
            pairs += _flat(value, ignored, f"{prefix}{name}/")
        else:
            pairs.append(_measured(prefix + name, str(value)))
    return pairs


def _measured(name: str, value: str) -> tuple[str, str]:
    """Leave out values that are never the same twice."""
    if re.search(r"resources_used|session_id|timestamp|PBS_O_PATH|total_runtime|Remaining", name):
        return name, "..."
    return name, "..." if name.endswith("time") and value.isdigit() else value


def patience() -> Iterator[bool]:
    """Wait longer and longer between tries; tells whether a try is the last one."""
    deadline = time.monotonic() + PATIENCE
    pause = 0.02
    while time.monotonic() < deadline:
        yield False
        time.sleep(pause)
        pause = min(2 * pause, 0.25)
    yield True


def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    for final in patience():
        if condition():
            return
        assert not final, "waited in vain"
