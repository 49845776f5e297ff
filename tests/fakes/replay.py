"""Recorded commands, run on pretended batch systems, and the form of what they print."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from tests.fakes.engine import stop_everything

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "recordings"
#: Seconds to wait for a state that was recorded.
PATIENCE = 10.0

_DATE = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d (\d\d:\d\d:\d\d \d{4}|at \d\d:\d\d)")


class Record(TypedDict):
    """A command that was run on a real system, and what it answered."""

    scenario: str
    command: str
    stdout: str
    stderr: str
    exit: int


def recordings(name: str) -> dict[str, list[Record]]:
    """Read recordings, by scenario."""
    found: dict[str, list[Record]] = {}
    with open(RECORDINGS / f"{name}.jsonl") as file:
        for line in file:
            record: Record = json.loads(line)
            found.setdefault(record["scenario"], []).append(record)
    return found


class Site:
    """A pretended batch system, and a user's home and work directory there.

    Parameters
    ----------
    directory : Path
        An empty directory.
    binaries : Path
        Where the commands are.
    real_work, real_home : str
        The work directory and the home directory of the recordings.
    environment : mapping of str to str
        More variables for the commands.
    """

    def __init__(
        self, directory: Path, binaries: Path, real_work: str, real_home: str, environment: Mapping[str, str] = {}
    ) -> None:
        self.home = directory / "home"
        self.work = directory / "work"
        self.spool = directory / "spool"
        self.home.mkdir()
        self.work.mkdir()
        self.places = {str(self.work): real_work, str(self.home): real_home, str(self.spool / "files"): "SPOOL"}
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
            **environment,
        }
        self.run("qstat")

    def close(self) -> None:
        """End all jobs."""
        stop_everything(str(self.spool))

    def run(self, command: str, **more: str) -> Record:
        """Run a shell command in the work directory."""
        if command.startswith("[as "):
            user, _, command = command.removeprefix("[as ").partition("] ")
            more = {"FAKE_USER": user, **({"FAKE_MANAGER": "yes"} if user == "root" else {}), **more}
        done = subprocess.run(
            ["/bin/bash", "-c", command.replace("/home/hpc/pbs/w", str(self.work))],
            cwd=self.work,
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

    def replay(self, record: Record, ignored: Iterable[str] = ()) -> None:
        """Run a recorded command until it answers as it did then; fails when it never does."""
        submitted = re.match(r"(\d+)(\[\])?\.frontend\s*$", record["stdout"])
        if submitted and "qsub" in record["command"]:
            self.next_number(int(submitted[1]))
        deadline = time.monotonic() + PATIENCE
        expected = self.form(record, ignored)
        while True:
            answer = self.form(self.run(record["command"]), ignored)
            if answer == expected or submitted or time.monotonic() > deadline:
                assert answer == expected, f"{record['command']} answered otherwise"
                return
            time.sleep(0.05)

    def form(self, record: Record, ignored: Iterable[str] = ()) -> tuple[int, object, str]:
        """Give the exit code and the form of standard output and error."""
        return record["exit"], self._form(record["stdout"], ignored), self._neutral(record["stderr"])

    def _form(self, text: str, ignored: Iterable[str]) -> object:
        if text.startswith("{"):
            try:
                return _flat(json.loads(self._neutral(text)), set(ignored))
            except ValueError:
                return self._neutral(text)
        if re.match(r"(Job Id|Server|Queue): ", text):
            return _attributes(self._neutral(text), set(ignored))
        return re.sub(r"(?m)^(\S.* )(?:00:00:\d\d|       0) (?=[A-Z] )", r"\1TIME ", self._neutral(text))

    def _neutral(self, text: str) -> str:
        for here, there in self.places.items():
            text = text.replace(here, there)
        text = re.sub(r"/opt/\w+/spool/mom_priv/jobs", "SPOOL", text)
        text = re.sub(r"\broot root\b", "hpc hpc", text)
        return re.sub(r"([ls-][rwxs-]{9} \d+ \w+ +\w+ +\d+) \w+ \d+ [\d:]+", r"\1", _DATE.sub("DATE", text))


def _attributes(text: str, ignored: set[str]) -> list[tuple[str, str]]:
    """Give names and values of a long listing, without what was measured."""
    text = text.replace("\n\t", "")
    pairs = re.findall(r"(?m)^(Job Id|Server|Queue|    [\w.]+)(?: =|:) ?((?:.*)(?:\n(?!    \w|Job Id|\n).+)*)", text)
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
    if re.search(r"resources_used|session_id|(?<!R)timestamp|PBS_O_PATH", name):
        return name, "..."
    return name, re.sub(r"PBS_O_PATH=[^,]*", "PBS_O_PATH=...", value)


def environment_of(prefix: str) -> dict[str, str]:
    """Give the variables of this process whose names begin so."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}
