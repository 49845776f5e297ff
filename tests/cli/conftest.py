"""A user with a home directory of their own, who types commands."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

#: Seconds after which a command that does not end is an error.
PATIENCE = 60

#: More cores than there are, so that tests don't wait for each other's.
CONFIGURATION = """
[resource/here]
type = shell
max_cores = 64
max_cores_per_job = 8
max_walltime = 2 hours
max_memory_per_core = 2 GB
"""


@attrs.frozen
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document that is all of standard output."""
        return json.loads(self.out)

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks of that document, by id."""
        return {task["id"]: task for task in self.document["tasks"]}


class User:
    """Somebody at a shell, in a home directory that nobody else uses."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.work = directory / "work"
        self.config = self.home / ".config/batchlib/batchlib.conf"
        self.config.parent.mkdir(parents=True)
        self.config.write_text(CONFIGURATION)
        self.work.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("BATCHLIB", "XDG", "SSH_"))},
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_DATA_HOME": str(self.home / ".local/share"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        for name in ("VIRTUAL_ENV", "NO_COLOR", "COLUMNS"):
            self.environment.pop(name, None)
        self.started: list[subprocess.Popen[str]] = []

    @property
    def remembered(self) -> int:
        """How many tasks there are in all sessions."""
        return sum(count_rows(database) for database in self.home.parent.rglob("session.db"))

    @property
    def spool(self) -> Path:
        return self.home / ".batchlib"

    @property
    def sandboxes(self) -> list[str]:
        """What tasks have left in the spool directory."""
        if not self.spool.exists():
            return []
        # the backend's own notes are no task's
        files = {str(path.relative_to(self.spool)) for path in self.spool.rglob("*")}
        return sorted(files - {".free", ".running", ".lock"})

    def start(self, program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command."""
        module = "main" if program == "batchlib" else program
        command = [sys.executable, "-m", f"batchlib.cli.{module}", *arguments]
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # in a session of its own, there is no terminal that it could ask for a password
        given |= {"cwd": self.work, "env": self.environment, "text": True, "start_new_session": True, **options}
        process: subprocess.Popen[str] = subprocess.Popen(command, **given)
        self.started.append(process)
        return process

    def run(self, program: str, *arguments: str, typed: str | None = None, **options: Any) -> Said:
        """Run a command to its end."""
        if typed is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(program, *arguments, **options)
        out, err = process.communicate(typed, timeout=PATIENCE)
        return Said(process.returncode, out or "", err or "")

    def take_over(self, patch: pytest.MonkeyPatch) -> None:
        """Make this process theirs until the end of the test; `call`, `submit` and `task` need that."""
        for name in [name for name in os.environ if name not in self.environment]:
            patch.delenv(name)
        for name, value in self.environment.items():
            patch.setenv(name, value)
        patch.chdir(self.work)
        # what a command sets for its process is undone after the test
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setattr(logging, "lastResort", logging.lastResort)

    def call(self, program: str, *arguments: str) -> Said:
        """Run a command in this process: less true to life than `run`, but much faster."""
        module = importlib.import_module(f"batchlib.cli.{'main' if program == 'batchlib' else program}")
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", [program, *arguments])
            with pytest.raises(SystemExit) as end:
                module.main()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        return Said(int(end.value.code or 0), *texts)

    def submit(self, *arguments: str) -> str:
        """Submit tasks and give their ids, one a line."""
        said = self.call("gsub", *arguments)
        assert said.status == 0, said.err
        return said.out.strip()

    def task(self, task: str, *options: str) -> Any:
        """Ask how a task is doing."""
        return self.call("gstat", "--json", *options, task).tasks[task]

    def wait_for(self, task: str, *states: str) -> Any:
        """Wait until a task is in one of some states."""
        return poll(lambda: found if (found := self.task(task))["state"] in states else None)

    def end(self) -> None:
        """Leave nothing running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for note in self.spool.glob(".running/*"):
            # each job leads a process group; the note is NUMBER.START@HOST, and the number may be another's by now
            number, start = note.read_text().partition("@")[0].split(".")
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                if fields[19] == start:
                    os.killpg(int(number), signal.SIGKILL)


def count_rows(database: Path) -> int:
    """Count the tasks in a session's database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM tasks").fetchone()[0])


def poll(look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Look again and again until there is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.05)
    return found


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """Somebody with a fresh home directory; this process is theirs as well."""
    somebody = User(tmp_path)
    somebody.take_over(monkeypatch)
    yield somebody
    somebody.end()
