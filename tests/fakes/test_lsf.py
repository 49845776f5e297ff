"""The pretended LSF against a recording of a real system of its family, and against samples of IBM's LSF 10.

Recorded commands are run again, in their order. A question is asked until its answer is the recorded one, for a job
takes its time to get there; jobs sleep until the recording says that one has ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
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
#: What says that a job that slept has ended; the other DONE is the name of a column.
AWAKE = r'DONE (?! RUN)|"DONE"|Done successfully|exit code (?!1[34])'
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
        self.write(
            self.bin / "sleep",
            f"#!/bin/sh\n: > {self.spool}/asleep.$LSB_JOBID.$LSB_JOBINDEX\n"
            f"while [ ! -e {self.spool}/awake ]; do /bin/sleep 0.02; done\n",
        )
        self.environment = {
            "PATH": f"{HERE}/lsf/bin:{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LSF_ENVDIR": str(self.envdir),
            "FAKE_SPOOL": str(self.spool),
            "FAKE_USER": "hpc",
            "FAKE_KILL_DELAY": "0.5",
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
            timeout=PATIENCE,
            check=False,
        )
        return Record("", command, done.returncode, done.stdout.decode(), done.stderr.decode())

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

    def play(self, records: Sequence[Record], *, awake: str = AWAKE) -> None:
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
            if command.startswith(("bkill", "bstop", "brequeue")):
                self.settle()
            self.compare(record, command, patient=question is not None)

    def settle(self) -> None:
        """Wait until all jobs that run sleep: signals may do otherwise to those that are just starting."""
        db = sqlite3.connect(self.spool / "state.db", timeout=60)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            running = db.execute("SELECT number, MAX(idx, 0) FROM tasks WHERE state = 'running'").fetchall()
            if all((self.spool / f"asleep.{number}.{index}").exists() for number, index in running):
                break
            time.sleep(0.02)
        db.close()

    def compare(self, record: Record, command: str, *, patient: bool) -> None:
        """Run a command, until its answer is the recorded one if one may wait for that."""
        wanted = self.form(record)
        done = self.until(command, lambda done: self.form(done) == wanted) if patient else self.run(command)
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
            (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d", "CLOCK"),
            (r"CLOCK 20\d\d", "CLOCK YEAR"),
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
    "array-stop": {4, 6, 7},
    "kill-byname": {1},
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
        "dependency-honoured",
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


def test_conditions_are_overlooked_in_a_queue_without_delay(volclava: World) -> None:
    volclava.play(recorded("dependency-ignored-with-delay-0"), awake="$^")


def test_conditions_may_be_combined(volclava: World) -> None:
    first = volclava.submit("bsub 'sleep 1; exit 3'")
    second = volclava.submit("bsub -J named sleep 1")
    third = volclava.submit(f"bsub -w 'exit({first}) && (started({first}) || ! done(\"named\")) && {second}' true")
    assert volclava.out(f"bjobs -w {third}").splitlines()[1].split()[2] == "PEND"
    volclava.switch("awake")
    assert volclava.ended(third) == "DONE"


def test_a_job_that_is_requeued_runs_again(volclava: World) -> None:
    volclava.play(recorded("brequeue"), awake="$^")


def test_queues_may_be_closed_or_inactive(volclava: World) -> None:
    volclava.switch("closed-short")
    volclava.play(recorded("queue-closed"))
    volclava.switch("closed-short", on=False)
    volclava.switch("inactive-short")
    volclava.play(recorded("queue-inactive"))


def test_jobs_of_others_are_seen_but_not_touched(volclava: World) -> None:
    volclava.next_id(42)
    volclava.submit("bsub sleep 30", FAKE_USER="volclava")
    volclava.play(recorded("other-user"))


def test_a_killed_session_ends_by_its_signal(volclava: World) -> None:
    submission, *after = recorded("external-kill")
    volclava.play([submission])
    started = volclava.until("bhist -l 1162", lambda done: "Pid <" in done.stdout and "Pid <0>" not in done.stdout)
    pid = re.search(r"Starting \(Pid (\d+)\)", started.stdout)
    assert pid is not None
    # not before the script itself runs: what is killed earlier prints nothing
    volclava.until("ps -o args= -s " + pid[1], lambda done: "sleep 300" in done.stdout)
    os.killpg(int(pid[1]), signal.SIGKILL)
    volclava.play(after, awake="$^")


def test_an_unreachable_host_does_what_it_is_told_after_all(volclava: World) -> None:
    volclava.play(recorded("state-unkwn", only="^bsub"))
    volclava.switch("unreachable")
    volclava.play(recorded("state-unkwn", only="^bkill"))
    assert volclava.ended("1169") == "EXIT"


# --- limits ----------------------------------------------------------------------------------------------------


def test_at_its_run_limit_a_job_gets_sigusr2_and_no_more(volclava: World) -> None:
    assert volclava.out("bsub -W 1 -J rl -o rl.%J.out sleep 200") == "Job <1> is submitted to default queue <normal>.\n"
    volclava.submit(
        "bsub -W 0:01 'trap \"echo got USR2; touch usr2\" USR2; while [ ! -e usr2 ]; do /bin/sleep 0.05; done; true'"
    )
    assert [volclava.ended("1"), volclava.ended("2")] == ["EXIT", "DONE"]
    text = volclava.normal(volclava.out("bjobs -l 1"))
    assert "\n\n RUNLIMIT                \n 1.0 min                 \n" in text
    assert "\nCLOCK: Exited with exit code 140. The CPU time used is 0.0 seconds.\n" in text
    assert "TERM_" not in text
    assert "\n\nExited with exit code 140.\n\n" in (volclava.cwd / "rl.1.out").read_text()


def test_over_its_memory_limit_a_job_looks_like_a_killed_one(make: Callable[..., World]) -> None:
    volclava = make(FAKE_KILL_DELAY="5")
    # a signal just before a sleep is noticed after it, so these are short
    text = "import time\nmuch = b'1' * 10**8\nwhile True:\n    time.sleep(0.05)\n"
    volclava.write(volclava.cwd / "mem.py", text)
    job = volclava.submit(f"bsub -M 50 {sys.executable} mem.py")
    assert volclava.ended(job) == "EXIT"
    text = volclava.out(f"bjobs -l {job}")
    assert " MEMLIMIT\n  51200 K\n" in text
    assert "Exited with exit code 130." in text


def test_without_room_for_more_jobs_bsub_tries_again(make: Callable[..., World]) -> None:
    volclava = make(FAKE_MAX_QUEUED="1")
    volclava.submit("bsub sleep 1")
    refused = volclava.run("bsub true", LSB_NTRIES="2")
    again = "User <hpc>: Pending job threshold reached. Retrying in 60 seconds...\n"
    assert (refused.exit, refused.stdout) == (255, "")
    assert refused.stderr == f"{again}User <hpc>: Pending job threshold reached. Job not submitted.\n"


# --- trouble ---------------------------------------------------------------------------------------------------


def test_without_lsb_ntries_a_client_waits_for_the_daemon(volclava: World) -> None:
    job = volclava.submit("bsub -J waits sleep 1")
    volclava.switch("down")
    waiting = subprocess.Popen(
        ["bjobs", job], env=volclava.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert waiting.stderr is not None
    assert waiting.stdout is not None
    try:
        lines = [waiting.stderr.readline() for _ in range(3)]
        assert lines == ["batch system daemon not responding ... still trying\n"] * 3
        volclava.switch("down", on=False)
        out, _ = waiting.communicate(timeout=PATIENCE)
    finally:
        waiting.kill()
        waiting.communicate()
    assert out.splitlines()[1].split()[:3] == [job, "hpc", "RUN"]


def test_with_lsb_ntries_a_client_gives_up(volclava: World) -> None:
    volclava.play(recorded("submit-command", only="bsub -q short -J cmdjob|cat"))
    volclava.switch("down")
    volclava.play(recorded("mbatchd-down", only="LSB_NTRIES|^bhist|^lsid"))
    volclava.switch("down", on=False)
    volclava.switch("lim-down")
    volclava.play(recorded("lim-down", only="LSB_NTRIES|^lsid"))


def test_what_ends_while_the_daemons_are_down_loses_its_status(volclava: World) -> None:
    volclava.play(recorded("daemon-down"))
    volclava.switch("sbatchd-down")
    volclava.switch("awake")
    volclava.play(recorded("mbatchd-back", only="^bjobs -l|^cat"))


def test_of_a_forgotten_job_only_bhist_knows(volclava: World) -> None:
    records = recorded("clean-period", only="cp|153|bjobs -a|bhist -a")
    volclava.play(records[:2])
    volclava.environment["FAKE_HISTORY"] = "0.01"
    volclava.play(records[2:])
    # after the log was switched, one has to ask for old logs
    (volclava.spool / "lsb.events").rename(volclava.spool / "lsb.events.1")
    assert volclava.run("bhist -l 153")[2:4] == (255, "No matching job found\n")
    assert "Exited with exit code 3." in volclava.out("bhist -n 0 -l 153")


def test_a_submission_may_be_accepted_and_yet_fail(volclava: World) -> None:
    volclava.switch("unclear")
    done = volclava.run("bsub -J unsure sleep 1")
    assert (done.exit, done.stdout) == (255, "")
    assert "Connection reset by peer. Job not submitted." in done.stderr
    assert volclava.out("bjobs -w -J unsure").splitlines()[1].split()[2] == "RUN"


def test_bhist_needs_its_configuration(volclava: World) -> None:
    job = volclava.submit("bsub true")
    del volclava.environment["LSF_ENVDIR"]
    assert volclava.run("bjobs -a").exit == 0
    assert volclava.run(f"bhist {job}")[2:] == (255, "", "ls_readconfenv: Unable to open file lsf.conf\n")
    lost = volclava.run("bjobs", LSF_ENVDIR="/nonexistent")
    assert lost[2:] == (255, "", "lsb_init: Failed in an LSF library call: Unable to open file lsf.conf\n")


# --- what a job sees -------------------------------------------------------------------------------------------


def test_a_job_gets_the_environment_of_its_submission(volclava: World) -> None:
    volclava.write(
        volclava.cwd / "env.sh", "#!/bin/sh\n#BSUB -J env[3-4]\n#BSUB -n 2\nexec > env.$LSB_JOBINDEX\nenv\npwd\n"
    )
    job = volclava.submit("bsub -o /dev/null < env.sh", MINE="x y\nz", LSB_JOBID="outer")
    volclava.until(f"bjobs {job}", lambda done: done.stdout.count("DONE") == 2)
    text = (volclava.cwd / "env.4").read_text()
    host = "frontend"
    for line in (
        "MINE=x y\nz",
        f"LSB_JOBID={job}",
        "LSB_JOBINDEX=4",
        "LSB_JOBNAME=env[4]",
        f"LSB_HOSTS={host} {host}",
        f"LSB_MCPU_HOSTS={host} 2 ",
        "LSB_QUEUE=normal",
        f"LSB_SUB_HOST={host}",
        "LSB_OUTPUTFILE=/dev/null",
        str(volclava.cwd),
    ):
        assert f"\n{line}\n" in f"\n{text}"


# --- IBM's LSF 10 ----------------------------------------------------------------------------------------------


def rows(world: World, fields: str, jobs: str) -> list[str]:
    """List fields of jobs as IBM's users do."""
    return world.out(f"bjobs -a -noheader -o \"{fields} delimiter='^'\" {jobs}").splitlines()


def test_ibm_says_why_jobs_ended(ibm: World) -> None:
    bad = ibm.submit("bsub -J bad 'exit 42'")
    late = ibm.submit("bsub -J late -W 1 sleep 9")
    killed = ibm.submit("bsub -J killed -n 2 sleep 9")
    never = ibm.submit("bsub -J never -H sleep 9")
    fields = "id stat exit_code exit_reason slots exec_host name"
    assert rows(ibm, fields, f"{killed} {never}") == [
        f"{killed}^RUN^-^-^2^2*frontend^killed",
        f"{never}^PSUSP^-^-^1^-^never",
    ]
    assert ibm.out(f"bkill {killed} {never}").count("is being terminated\n") == 2
    for job in (bad, late, killed, never):
        assert ibm.ended(job) == "EXIT"
    ibm.switch("awake")
    good = ibm.submit("bsub -J good true")
    assert ibm.ended(good) == "DONE"
    assert sorted(rows(ibm, fields, f"{bad} {late} {killed} {never} {good}")) == sorted(
        [
            f"{bad}^EXIT^42^-^1^frontend^bad",
            # a bare signal, whereas the report has 140
            f"{late}^EXIT^12^TERM_RUNLIMIT: job killed after reaching LSF run time limit^1^frontend^late",
            f"{killed}^EXIT^130^TERM_OWNER: job killed by owner^2^2*frontend^killed",
            f"{never}^EXIT^-^TERM_OWNER: job killed by owner^1^-^never",
            f"{good}^DONE^-^-^1^frontend^good",
        ]
    )
    long = ibm.normal(ibm.out(f"bjobs -l {late}"))
    assert "\nCLOCK: Exited with exit code 140. The CPU time used is 0.0 seconds.\n" in long
    assert "\nCLOCK: Completed <exit>; TERM_RUNLIMIT: job killed after reaching LSF run time limit.\n" in long
    assert "\n RUNLIMIT\n 1.0 min of frontend\n" in long


def test_ibm_wraps_long_listings_wherever_the_margin_is(ibm: World) -> None:
    job = ibm.submit("bsub -J a-name-of-some-length -o a-file-with-a-long-name.%J.%I.out 'echo a command; exit 1'")
    assert ibm.ended(job) == "EXIT"
    lines = ibm.out(f"bjobs -l {job}").splitlines()
    assert lines[0] == ""
    assert max(map(len, lines)) == 79
    events = [line for line in lines if len(line) == 79]
    assert len(events) >= 3
    whole = re.sub(r"\n {21}", "", "\n".join(lines))
    assert re.search(r"Project <default>, ?Status <EXIT>, Queue <normal>, Command <echo a command; exit 1>\n", whole)
    assert "Output File <a-file-with-a-long-name.%J.%I.out>;\n" in whole
    assert "Started 1 Task(s) on Host(s) <frontend>, Allocated 1 Slot(s) on Host(s) <frontend>, Execution Home" in whole
    history = re.sub(r"\n {21}", "", ibm.out(f"bhist -l {job}"))
    assert ": Exited with exit code 1. The CPU time used is 0.0 seconds;\n\n" in history
    assert ": Completed <exit>;\n" in history


def test_ibm_writes_json(ibm: World) -> None:
    job = ibm.submit("bsub -J js[2-3] -o /dev/null 'exit $LSB_JOBINDEX'")
    ibm.until(f"bjobs {job}", lambda done: done.stdout.count("EXIT") == 2)
    text = ibm.out(f"bjobs -a -o 'jobid jobindex stat exit_code exit_reason output_file' -json {job} 99")
    assert '"OUTPUT_FILE":"\\/dev\\/null"' in text
    same = {"JOBID": job, "STAT": "EXIT", "EXIT_REASON": "", "OUTPUT_FILE": "/dev/null"}
    assert json.loads(text) == {
        "COMMAND": "bjobs",
        "JOBS": 3,
        "RECORDS": [
            same | {"JOBINDEX": "2", "EXIT_CODE": "2"},
            same | {"JOBINDEX": "3", "EXIT_CODE": "3"},
            {"JOBID": "99", "ERROR": "Job <99> is not found"},
        ],
    }
    alone = ibm.run("bjobs -o jobid -json 99")
    assert (alone.exit, json.loads(alone.stdout)["RECORDS"]) == (
        255,
        [{"JOBID": "99", "ERROR": "Job <99> is not found"}],
    )
    assert json.loads(ibm.out("bjobs -o jobid -json")) == {"COMMAND": "bjobs", "JOBS": 0, "RECORDS": []}


def test_ibm_finds_nothing_without_a_failure_unless_it_is_told_to(ibm: World) -> None:
    assert ibm.run("bjobs")[2:] == (0, "", "No unfinished job found\n")
    assert ibm.run("bjobs -a").exit == 0
    assert ibm.run("bjobs", LSB_BJOBS_CONSISTENT_EXIT_CODE="Y").exit == 255
    assert ibm.run("bjobs 9")[2:] == (255, "", "Job <9> is not found\n")


def test_ibm_fills_columns_when_there_is_no_delimiter(ibm: World) -> None:
    job = ibm.submit("bsub -J a-rather-long-name sleep 1")
    lines = ibm.out(f"bjobs -o 'jobid:4 stat queue job_name' {job}").splitlines()
    assert lines == ["*BID STAT  QUEUE      JOB_NAME", f"{job:<4} RUN   normal     *long-name"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("-J 'big[1-1001]' true", "Job array index too large. Job not submitted.\n"),
        ("-J 'bad[a]' true", "bad[a]: Bad job array index list. Job not submitted.\n"),
        ("-q nosuch true", "nosuch: No such queue. Job not submitted.\n"),
        ("-w 'done(nosuchname)' true", "nosuchname: No matching job found. Job not submitted.\n"),
    ],
)
def test_ibm_refuses(ibm: World, command: str, said: str) -> None:
    assert ibm.run(f"bsub {command}")[2:] == (255, "", said)


def test_ibm_reads_options_that_its_family_takes_for_others(ibm: World) -> None:
    (ibm.cwd / "sub").mkdir()
    (ibm.cwd / "sub/out").write_text("old\n")
    ibm.write(
        ibm.cwd / "ibm.sh",
        "#!/bin/sh\n#BSUB -J 'all of it'\n#BSUB -cwd sub\n#BSUB -oo out\n#BSUB -eo err\n#BSUB -env \"all, ADDED=yes\"\n"
        "#BSUB -R rusage[mem=1GB] -R span[hosts=1]\n#BSUB -app some -rn -x -sp 5 -G group -U reserved\n# BSUB -n 99\n"
        "echo $ADDED; echo oops >&2\n",
    )
    job = ibm.submit("bsub < ibm.sh", FAKE_LSF_BANNER="Generic job.")
    assert ibm.ended(job) == "DONE"
    assert rows(ibm, "slots job_name", job) == ["1^all of it"]
    report = (ibm.cwd / "sub/out").read_text()
    assert report.startswith("yes\n\n" + "-" * 60 + "\nSender: LSF System <lsfadmin@frontend>\n")
    assert f"Subject: Job {job}: <all of it> in cluster <cluster1> Done\n" in report
    assert "\nThe output (if any) is above this job summary.\n" in report
    assert (ibm.cwd / "sub/err").read_text() == "oops\n"


def test_ibm_counts_memory_in_the_unit_of_its_configuration(ibm: World) -> None:
    jobs = [ibm.submit(f"bsub -H -M {amount} true") for amount in ("2048", "2GB")]
    ibm.write(ibm.envdir / "lsf.conf", "LSF_UNIT_FOR_LIMITS=GB\n")
    jobs.append(ibm.submit("bsub -H -M 2 true"))
    found = [re.search(r" MEMLIMIT\n +(\d+ M)\n", ibm.out(f"bjobs -l {job}")) for job in jobs]
    assert [match and match[1] for match in found] == ["2 M", "2048 M", "2048 M"]


def test_ibm_talks_before_it_answers(ibm: World) -> None:
    ibm.switch("down")
    refused = ibm.run("bsub true", LSB_NTRIES="2")
    assert refused.stdout == "Cannot connect to LSF. Please wait ...\n"
    assert (refused.exit, refused.stderr) == (255, "Connection refused by server. Job not submitted.\n")
    ibm.switch("down", on=False)
    assert ibm.out("bsub true", FAKE_LSF_BANNER="Generic job.").startswith("Generic job.\nJob <1> is submitted to ")


def test_ibm_ends_an_array_with_one_answer(ibm: World) -> None:
    job = ibm.submit("bsub -J 'arr[1-3]%2' sleep 9")
    assert ibm.out(f"bkill {job}") == f"Job <{job}> is being terminated\n"
    ibm.until(f"bjobs {job}", lambda done: done.stdout.count("EXIT") == 3)
    assert ibm.run(f"bkill {job}")[2:] == (255, "", f"Job <{job}>: Job has already finished\n")
