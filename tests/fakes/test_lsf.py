"""The pretended LSF against a recording of a real system of its family, and against samples of IBM's LSF 10.

Recorded commands are run again, in their order. A question is asked until its answer is the recorded one, for a job
takes its time to get there; jobs sleep until the recording says that one has ended.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.engine import stop_everything

HERE = Path(__file__).parent
RECORDING = HERE.parent / "recordings/volclava-2.2.0-beta.jsonl"
#: Commands that are not pretended, and what shows the recorder's machine.
NOT_OURS = re.compile(
    r"\b(bpeek|bmod|bswitch|lshosts|lsload|busers|bacct|ps|pgrep)\b|^ls -l|\.lsbatch|^bhist (-h|-w)?$"
)
QUESTION = re.compile(r"(\S+=\S+ )*(bjobs|bhist|bqueues|bhosts|cat|ls|tail|grep)\b")
#: Seconds after which an answer will not come any more.
PATIENCE = 20.0


class Record(NamedTuple):
    """A command and what it answered."""

    scenario: str
    command: str
    exit: int
    stdout: str
    stderr: str


def _records() -> list[Record]:
    lines = RECORDING.read_text(encoding="utf-8").splitlines()
    return [Record(**{name: row[name] for name in Record._fields}) for row in map(json.loads, lines)]


RECORDS = _records()
SCRIPTS = {
    "script1.sh": next(record.stdout for record in RECORDS if record.command == "cat script1.sh"),
    "quotes.sh": next(record.stdout for record in RECORDS if record.command == "cat quotes.sh"),
    "prog.sh": '#!/bin/sh\necho prog args: "$@"\nexit 3\n',
    "k9.sh": "#!/bin/bash\n#BSUB -J k9s\n#BSUB -o k9s.%J.out\necho a\nkill -9 $$\n",
    "k11.sh": "#!/bin/bash\n#BSUB -J k11s\n#BSUB -o k11s.%J.out\necho a\nkill -SEGV $$\n",
    "k15.sh": "#!/bin/bash\n#BSUB -J k15s\n#BSUB -o k15s.%J.out\necho a\nkill -TERM $$\n",
    "trap.sh": '#!/bin/bash\n#BSUB -J trp\n#BSUB -o trp.%J.out\ntrap "echo got TERM; exit 5" TERM\n'
    'trap "echo got INT; exit 6" INT\necho start\nfor i in $(seq 60); do sleep 1; done\n',
    "trapign.sh": '#!/bin/bash\n#BSUB -J tri\n#BSUB -o tri.%J.out\ntrap "" TERM INT\necho start\n'
    "for i in $(seq 90); do sleep 1; done\n",
    "long.sh": "#!/bin/bash\n#BSUB -J ext\n#BSUB -o ext.%J.out\necho start; sleep 300; echo end\n",
    "badopt.sh": "#!/bin/bash\n#BSUB -Q x\ntrue\n",
    "crlf.sh": "#!/bin/bash\r\n#BSUB -J crlf\r\n#BSUB -q short\r\n#BSUB -o crlf.out\r\necho hi\r\n",
    "nosheb.sh": "#BSUB -J nosheb\n#BSUB -q short\n#BSUB -o nosheb.%J.out\n"
    'echo "shell=$0 flags=$-"; readlink /proc/$$/exe; exit 9\n',
    "late.sh": "#!/bin/bash\n#BSUB -q short\n#BSUB -o late.%J.out\necho x\n#BSUB -J late\n#BSUB -n 2\n",
    "noeol.sh": "#!/bin/bash\n#BSUB -q short\n#BSUB -o noeol.%J.out\necho last line without newline",
    "argscript.sh": "#!/bin/bash\n#BSUB -q nosuch\nexit 2\n",
}


class World:
    """A pretended cluster, and a home directory to work in."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.spool = directory / "spool"
        self.home = directory / "home"
        self.cwd = self.home / "rec"
        self.bin = directory / "bin"
        self.envdir = directory / "etc"
        for made in (self.spool, self.cwd, self.bin, self.envdir):
            made.mkdir(parents=True)
        (self.envdir / "lsf.conf").touch()
        for name, text in SCRIPTS.items():
            self.write(self.cwd / name, text)
        # what sleeps in a job, sleeps until the test has time pass
        self.write(self.bin / "sleep", f"#!/bin/sh\nwhile [ ! -e {self.spool}/awake ]; do /bin/sleep 0.02; done\n")
        self.environment = {
            "PATH": f"{HERE}/lsf/bin:{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LSF_ENVDIR": str(self.envdir),
            "FAKE_SPOOL": str(self.spool),
            "FAKE_USER": "hpc",
            "FAKE_KILL_DELAY": "0.1",
            "FAKE_LSF_HOST": "frontend",
            "FAKE_LSF_RESUME": "0.5",
            "FAKE_LSF_MINUTE": "0.3",
            "FAKE_LSF_RETRY": "0.1",
            **settings,
        }

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.write_text(text, newline="")
        path.chmod(0o755)

    def switch(self, name: str, on: bool = True) -> None:
        """Set a switch of the batch system; ``awake`` lets what sleeps go on."""
        if on:
            (self.spool / name).touch()
        else:
            (self.spool / name).unlink(missing_ok=True)

    def run(self, command: str, **settings: str) -> Record:
        """Run a shell command."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.cwd,
            env={**self.environment, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        return Record("", command, done.returncode, done.stdout, done.stderr)

    def out(self, command: str, **settings: str) -> str:
        """Run a command that has nothing to complain about, and give what it says."""
        done = self.run(command, **settings)
        assert (done.exit, done.stderr) == (0, "")
        return done.stdout

    def until(self, command: str, good: Callable[[Record], bool]) -> Record:
        """Run a command until its answer is a good one; gives the last answer."""
        deadline = time.monotonic() + PATIENCE
        while not good(done := self.run(command)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return done

    def submit(self, command: str, **settings: str) -> str:
        """Submit a job, and give its id."""
        match = re.search(r"^Job <(\d+)> is submitted", self.out(command, **settings), re.MULTILINE)
        assert match is not None
        return match[1]

    def ended(self, jobid: str) -> str:
        """Wait for the end of a job, and give its state."""
        done = self.until(f"bjobs -w '{jobid}' | tail -1", lambda done: done.stdout.split()[2] in ("DONE", "EXIT"))
        return done.stdout.split()[2]

    def play(self, records: Sequence[Record], *, awake: str = r"\b(DONE|Done successfully|exit code)\b") -> None:
        """Run recorded commands and compare; what sleeps goes on when an answer has `awake` in it."""
        assert records
        for record in records:
            command = record.command.replace("/home/hpc/work", str(self.cwd))
            numbered = re.search(r"^Job <(\d+)> is submitted", record.stdout)
            if numbered:
                self.next_id(int(numbered[1]))
                self.switch("awake", on=" -K " in command)
            question = QUESTION.match(command)
            if (question and re.search(awake, self.normal(record.stdout))) or (
                command.startswith("cat") and not record.exit
            ):
                self.switch("awake")
            wanted = self.form(record)
            done = (
                self.until(command, lambda done, wanted=wanted: self.form(done) == wanted)
                if question
                else self.run(command)
            )
            assert self.form(done) == wanted

    def next_id(self, number: int) -> None:
        """Give the next job this id."""
        if not (self.spool / "state.db").exists():
            self.out("bqueues")
        db = sqlite3.connect(self.spool / "state.db", timeout=60)
        with db:
            db.execute("REPLACE INTO counters VALUES ('job', ?)", (number - 1,))
        db.close()

    def form(self, record: Record) -> tuple[int, str, str]:
        """Give what must be the same in recording and pretence."""
        return record.exit, self.normal(record.stdout), self.normal(record.stderr)

    def normal(self, text: str) -> str:
        """Take from a text what differs from run to run."""
        text = text.replace("\n" + " " * 21, "")
        for pattern, replacement in (
            (rf"{re.escape(str(self.cwd))}|/home/hpc/(rec|work)", "/CWD"),
            (rf"{re.escape(str(self.home))}|/home/hpc", "/HOME"),
            (r"/\S+/\d{10}\.(\d+)", r"JOBFILE.\1"),
            (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d( 20\d\d)?", r"CLOCK\1"),
            (r"\b20\d\d\b", "YEAR"),
            (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d\b", "TIME"),
            (r"\d\d/\d\d-\d\d:\d\d:\d\d", "STAMP"),
            (r"Pid <?\d+>?", "PID"),
            (r"%J\.\d+ut", "%J.GARBAGEut"),
            (r"\d+\.\d+ sec", "0.0 sec"),
            (r"000:00:0\d\.\d\d", "000:00:00.00"),
            (r" \(core dumped\)", ""),
        ):
            text = re.sub(pattern, replacement, text)
        # the seconds in bhist's tables, not their columns
        table = r"(?m)^(  |[\d\[\]]+ +hpc .*? )(\d+ +){7}$"
        return re.sub(table, lambda row: re.sub(r"\b\d+( +)(?=\d|$)", _blank, row[0]), text)


def _blank(number: re.Match[str]) -> str:
    return "0" + " " * (len(number[0]) - 1)


#: What is left out of scenarios, by position: it shows other jobs of the recorder's, an order of rows that is not
#: pretended, options that are not, or what is over too soon here.
OMITTED = {
    "submit-stdin": {8, 9},
    "stop-resume": {11},
    "script-quotes": {3},
    "option-support": {20, 39, 40, 47, 48, 49, 50},
    "customized": {3, 4},
    "customized-unsupported": {19},
    "wide": {5, 6, 11, 14, 15},
    "dependency-array2": {5},
    "array-kill": {3},
}


def recorded(*scenarios: str, only: str = "") -> list[Record]:
    """Give the records of scenarios that are pretended."""
    found = []
    for at, record in enumerate(RECORDS):
        if record.scenario in scenarios and re.search(only, record.command) and not NOT_OURS.search(record.command):
            first = next(number for number, other in enumerate(RECORDS) if other.scenario == record.scenario)
            if at - first not in OMITTED.get(record.scenario, ()):
                found.append(record)
    return found


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make a cluster with these settings."""
    made: list[World] = []

    def make_one(**settings: str) -> World:
        made.append(World(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield make_one
    for world in made:
        if (world.spool / "state.db").exists():
            stop_everything(str(world.spool))
        log = world.spool / "log"
        assert not log.exists() or log.read_text() == ""


@pytest.fixture
def volclava(make: Callable[..., World]) -> World:
    """A cluster of the family that the recording is of."""
    return make()


@pytest.fixture
def ibm(make: Callable[..., World]) -> World:
    """A cluster with IBM's LSF."""
    return make(FAKE_LSF="ibm")


# --- the recording ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenarios",
    [
        "submit-stdin",
        "submit-command",
        "submit-empty submit-badoption script-bad-directive unknown-queue unknown-host resreq-bad run-limit-bad"
        " run-limit-over-queue mem-limit-suffix dependency-unknown dependency-syntax long-name",
        "unknown-job unknown-user unknown-name bad-jobid kill-none",
        "exit-0 exit-3",
        "exit-127",
        "killed-by-signal-9-self killed-by-signal-child",
        "killed-by-signal-script",
        "array",
        "array-too-large array-bad array-step",
        "array-kill array-stop",
        "stop-resume",
        "hold stop-pending",
        "kill-signal kill-force",
        "kill-trapped kill-ignored",
        "kill-all kill-byname",
        "dependency-honoured dependency-ignored-with-delay-0",
        "dependency-invalid dependency-ended2 dependency-exit2 dependency-array2",
        "resreq pend-resources pend-toomany",
        "wide customized customized-unsupported",
        "option-support option-mangled",
        "sync-K",
        "output-append output-dir-missing error-only output-N output-e output-while-running",
        "hostile-name utf8-name",
        "script-no-shebang script-quotes script-precedence script-as-argument script-crlf script-no-eol stdin-file"
        " script-late-directive",
        "tool-commands",
    ],
)
def test_recorded_commands_get_the_recorded_answers(volclava: World, scenarios: str) -> None:
    volclava.play(recorded(*scenarios.split()))
