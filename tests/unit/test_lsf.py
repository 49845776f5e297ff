"""LSF's words and what they mean, and the command lines that ask for them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib import Application
from batchlib.array import parse_array
from batchlib.backends import lsf_history, lsf_text
from batchlib.backends.base import Action, Outcome
from batchlib.backends.lsf import LsfBackend
from batchlib.backends.native import Job
from batchlib.backends.verdict import JobRow
from batchlib.errors import (
    BackendError,
    CommandNotFound,
    InvalidValue,
    SubmissionUnclear,
    SystemUnavailable,
    UnsupportedOperation,
)
from batchlib.run import NativeDependency, Reason, State
from batchlib.transport.shell import Completed

#: 2026-11-20 16:00 UTC.
NOW = 1795190400.0
TOKEN = "b" * 16


def free(**values: str) -> str:
    """A row in IBM's free form."""
    common = {"jobid": "12", "jobindex": "0", "stat": "RUN", "job_name": "name"}
    return "^".join((common | values).get(field, "-") for field in lsf_text.FIELDS)


def row_of(line: str) -> JobRow:
    [fields] = lsf_text.parse_rows(line)
    row = lsf_text.job_row(fields, NOW)
    assert row is not None
    return row


# --- states -------------------------------------------------------------------------------------------------------

STATES = [
    ("PEND", State.QUEUED),
    ("PSUSP", State.HELD),
    ("WAIT", State.STARTING),
    ("PROV", State.STARTING),
    ("RUN", State.RUNNING),
    ("USUSP", State.SUSPENDED),
    ("SSUSP", State.SUSPENDED),
    ("DONE", State.DONE),
    ("PDONE", State.DONE),
    ("EXIT", State.FAILED),
    ("UNKWN", State.UNDETERMINED),
    ("FOO", State.UNDETERMINED),
]


@pytest.mark.parametrize(("native", "state"), STATES)
def test_native_states(native: str, state: State) -> None:
    line = f"12      hpc     {native:<5} normal     frontend       -        name Nov 20 11:45"
    for row in (row_of(line), row_of(free(stat=native))):
        assert (row.jobid, row.name, row.state, row.native_state, row.reason) == ("12", "name", state, native, None)


@pytest.mark.parametrize("native", ["ZOMBI", "PERR"])
def test_states_that_tell_nothing_are_no_rows(native: str) -> None:
    answer = Completed(0, free(stat=native).encode(), b"")
    assert LsfBackend("lab").parse_queue(answer) == {}
    nothing = Completed(255, b"No matching job found\n", b"")
    assert LsfBackend("lab").parse_lookup({"queue": answer, "history": nothing}) == {"name": "12"}


TERMINATIONS = [
    ("TERM_RUNLIMIT: job killed after reaching LSF run time limit", State.FAILED, Reason.WALLTIME),
    ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", State.FAILED, Reason.MEMORY),
    ("TERM_SWAP: job killed after reaching LSF swap usage limit", State.FAILED, Reason.MEMORY),
    ("TERM_CPULIMIT: job killed after reaching LSF CPU usage limit", State.FAILED, Reason.CPU_TIME),
    ("TERM_DEADLINE: job killed after deadline expires", State.FAILED, Reason.DEADLINE),
    ("TERM_PREEMPT: job killed after preemption", State.FAILED, Reason.PREEMPTED),
    ("TERM_OWNER: job killed by owner", State.CANCELLED, Reason.CANCELLED_BY_USER),
    ("TERM_ADMIN: job killed by root or LSF administrator", State.CANCELLED, Reason.CANCELLED_BY_SYSTEM),
    ("TERM_FORCE_OWNER: job killed by owner without time for cleanup", State.CANCELLED, Reason.CANCELLED_BY_SYSTEM),
    ("TERM_FORCE_ADMIN: job killed by root", State.CANCELLED, Reason.CANCELLED_BY_SYSTEM),
    ("TERM_PRE_EXEC_FAIL: job killed", State.FAILED, Reason.START_FAILURE),
    ("TERM_ZOMBIE: job exited while LSF was not available", State.FAILED, Reason.NODE_FAILURE),
    ("TERM_ORPHAN_SYSTEM: orphaned job", State.OMITTED, Reason.DEPENDENCY),
    ("TERM_REQUEUE_OWNER: job killed and requeued by owner", State.REQUEUED, None),
    ("TERM_EXTERNAL_SIGNAL: job killed by a signal external to LSF", State.FAILED, Reason.SIGNALLED),
    ("TERM_UNHEARD_OF: job killed", State.FAILED, Reason.SIGNALLED),
]


@pytest.mark.parametrize(("why", "state", "reason"), TERMINATIONS)
def test_why_ibms_lsf_ended_a_job(why: str, state: State, reason: Reason | None) -> None:
    row = row_of(free(stat="EXIT", exit_code="140", exit_reason=why))
    assert (row.state, row.reason, row.exitcode) == (state, reason, None)
    assert row.native_state == f"EXIT ({why})"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("3", (Reason.EXITED, 3, None)),
        ("128", (Reason.EXITED, 128, None)),
        ("137", (Reason.SIGNALLED, None, 9)),
        ("140", (Reason.SIGNALLED, None, 12)),
        ("255", (Reason.EXITED, 255, None)),
        ("-", (None, None, None)),
        ("", (None, None, None)),
    ],
)
def test_exit_codes(code: str, expected: tuple[Reason | None, int | None, int | None]) -> None:
    row = row_of(free(stat="EXIT", exit_code=code))
    assert (row.reason, row.exitcode, row.signal) == expected


# --- rows ---------------------------------------------------------------------------------------------------------


def test_what_ibms_free_form_tells() -> None:
    row = row_of(
        free(
            jobindex="7",
            stat="EXIT",
            exit_code="12",
            exit_reason="TERM_RUNLIMIT: job killed after reaching LSF run time limit",
            exec_host="12*b681e480bd:4*b68ac74822",
            slots="16",
            cpu_used="2.1 second(s)",
            run_time="16038 second(s)",
            max_mem="5.2 Gbytes",
            job_name="odd^name[7]",
        )
    )
    assert (row.jobid, row.name, row.reason, row.signal) == ("12[7]", "odd^name", Reason.WALLTIME, None)
    used = row.accounting
    assert (used.hosts, used.cores) == (("b681e480bd", "b68ac74822"), 16)
    assert (str(used.cpu_time), str(used.wall_time)) == ("2.1 s", "16038 s")
    assert used.max_memory is not None
    assert used.max_memory.ceil("MiB") == 5325
    # to the minute only: the job's own status knows better
    assert used.started is used.ended is None


def test_what_an_older_lsf_prints_wide() -> None:
    text = (
        "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME  PROJ_NAME CPU_USED MEM SWAP "
        "PIDS START_TIME FINISH_TIME\n"
        "473713  gloessa EXIT  pub.1h     brutus2     a6128       TM-T       10/19-17:10:27 default    000:00:00.12 "
        "5208   206312 23177,23178,23182,23259 10/19-17:11:02 10/19-17:14:49\n"
    )
    row = row_of(text)
    used = row.accounting
    assert (row.jobid, row.name, row.state) == ("473713", "TM-T", State.FAILED)
    assert (str(used.cpu_time), str(used.max_memory), str(used.wall_time)) == ("0.12 s", "5208 KiB", "227 s")
    assert used.started == 1792429862.0


def test_a_plain_job_whose_name_looks_like_an_elements() -> None:
    assert row_of(free(job_name="x[3]")).jobid == "12"
    assert row_of(free(jobid="12[3]", jobindex="3", job_name="x[3]")).jobid == "12[3]"


def test_what_lsf_says_while_it_starts_is_no_row() -> None:
    backend = LsfBackend("lab")
    text = (
        f"LSF is down. Please wait ...\nCannot connect to LSF. Please wait ...\n{free()}\r\n\nWelcome | all ^ of you\n"
    )
    assert list(backend.parse_queue(Completed(0, text.encode(), b""))) == ["12"]
    with pytest.raises(SystemUnavailable):
        backend.parse_queue(Completed(0, b"LSF is down. Please wait ...\n", b""))


@pytest.mark.parametrize("code", [0, 254, 255])
@pytest.mark.parametrize(
    "text", ["No unfinished job found", "No job found", "lsb_readjobinfo: End of file", "No matching job found"]
)
def test_no_jobs_whatever_the_exit_code(code: int, text: str) -> None:
    assert LsfBackend("lab").parse_queue(Completed(code, b"", text.encode())) == {}


def test_silence_is_no_empty_listing() -> None:
    for code in (0, 137, 255):
        with pytest.raises(SystemUnavailable, match="bjobs does not answer"):
            LsfBackend("lab").parse_queue(Completed(code, b"", b""))
    with pytest.raises(SystemUnavailable):
        # cut off in the middle
        LsfBackend("lab").parse_queue(Completed(137, free().encode(), b""))


def test_other_peoples_jobs() -> None:
    text = (
        "12 somebody RUN q front 4*n1:2*n2 a name with blanks[9] Oct 19 17:10\n"
        "13 me PEND q front  -  mine Nov 20 15:59\n"
    )
    first, second = LsfBackend("lab").parse_listing(Completed(0, text.encode(), b""))
    assert (first.jobid, first.name, first.owner, first.queue) == ("12[9]", "a name with blanks", "somebody", "q")
    assert (first.state, first.hosts, first.cores) == (State.RUNNING, ("n1", "n2"), 6)
    assert first.submitted_at == 1792429800.0
    assert (second.jobid, second.state, second.hosts, second.cores) == ("13", State.QUEUED, (), None)


# --- history ------------------------------------------------------------------------------------------------------

MEMORY_KILL = """
Job <4711>, Job Name <greedy.bccccccccccccccc>, User <jharvard>, Project <defau
                     lt>, Command <#!/bin/bash;#BSUB -J greedy>
Mon Mar  4 09:00:00: Submitted from host <rhrcscli1>, to Queue <long>, CWD <$HO
                     ME>, 12 Task(s), Requested Resources <rusage[mem=48]>;

 MEMLIMIT
     48 G
Mon Mar  4 09:00:10: Dispatched 12 Task(s) on Host(s) <12*rhrcsnod19>, Allocate
                     d 12 Slot(s) on Host(s) <12*rhrcsnod19>, Effective RES_REQ
                      <select[type == any] order[r15s:pg] rusage[mem=48.00] >;
Mon Mar  4 09:00:10: Starting (Pid 658);
Mon Mar  4 17:52:01: Exited with exit code 1. The CPU time used is 31911.0 seco
                     nds;

Mon Mar  4 17:52:01: Completed <exit>; TERM_MEMLIMIT: job killed after reaching
                      LSF memory usage limit;

 MEMORY USAGE:
 MAX MEM: 48 Gbytes;  AVG MEM: 1.3 Gbytes

Summary of time in seconds spent in various states by  Mon Mar  4 17:52:01
  PEND     PSUSP    RUN      USUSP    SSUSP    UNKWN    TOTAL
  10       0        31911    0        0        0        31921
"""

LONG_WITH_YEAR = """
Job <2073>, Job Name <GRunApplication.0>, User <markmon>, Project <default>, St
                          atus <EXIT>, Queue <normal>, Command <sh -c inputfile
                          .txt>
Mon Aug  4 12:28:51 2014: Submitted from host <pa64.dri.edu>, CWD <$HOME/.gc3pi
                          e_jobs/lrms_job.5gDDxlxcty>, Requested Resources <rusage[mem=2000]>;
Mon Aug  4 12:28:51 2014: Started on <pa54.dri.edu>, Execution Home </home/mark
                          mon>;
Mon Aug  4 12:28:51 2014: Exited with exit code 127. The CPU time used is 0.1 s
                          econds.
Mon Aug  4 12:28:51 2014: Completed <exit>.
"""

ACCOUNTING = """
Job <3224113>, User <rmurri>, Project <default>, Status <EXIT>, Queue <pub.1h>,
                     Command <sleep 300>, Share group charged </lsf_biol_all/ls
                     f_aeber/rmurri>
Fri Oct  5 17:49:35: Submitted from host <brutus4>, CWD <$HOME>, Output File <l
                     sf.o%J>;
Fri Oct  5 17:50:35: Dispatched to <a3191>;
Fri Oct  5 17:51:30: Completed <exit>; TERM_OWNER: job killed by owner.
"""


def test_a_memory_kill_in_the_history() -> None:
    [row] = lsf_history.parse_history(MEMORY_KILL, now=NOW).values()
    assert (row.jobid, row.name) == ("4711", "greedy.bccccccccccccccc")
    assert (row.state, row.reason, row.exitcode, row.signal) == (State.FAILED, Reason.MEMORY, None, None)
    assert row.native_state == "EXIT (TERM_MEMLIMIT)"
    used = row.accounting
    assert (used.hosts, used.cores, str(used.max_memory)) == (("rhrcsnod19",), 12, "48 GiB")
    assert (str(used.cpu_time), str(used.wall_time)) == ("31911 s", "31911 s")


def test_lines_may_be_broken_within_any_word() -> None:
    text = lsf_history.unwrap(LONG_WITH_YEAR)
    assert "Status <EXIT>, Queue <normal>, Command <sh -c inputfile.txt>\n" in text
    assert "The CPU time used is 0.1 seconds.\n" in text
    [row] = lsf_history.parse_history(LONG_WITH_YEAR, now=NOW).values()
    assert (row.reason, row.exitcode, row.accounting.ended) == (Reason.EXITED, 127, 1407155331.0)
    # 22 blanks: the 22nd is part of the text
    assert "<12*rhrcsnod19>, Effective RES_REQ <select[" in lsf_history.unwrap(MEMORY_KILL)


def test_who_ended_it() -> None:
    [row] = lsf_history.parse_history(ACCOUNTING, now=NOW).values()
    assert (row.state, row.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    kill = "Fri Oct  5 17:51:00: Signal <KILL> requested by user or administrator <{}>;\n"
    exited = ACCOUNTING.replace("Completed <exit>; TERM_OWNER: job killed by owner.", "Exited with exit code 130. The")
    for who, reason in (("rmurri", Reason.CANCELLED_BY_USER), ("root", Reason.CANCELLED_BY_SYSTEM)):
        text = exited.replace("Fri Oct  5 17:51:30", kill.format(who) + "Fri Oct  5 17:51:30")
        [row] = lsf_history.parse_history(text, now=NOW).values()
        assert (row.state, row.reason, row.signal) == (State.CANCELLED, reason, 2)


def test_only_the_last_run_counts() -> None:
    text = ACCOUNTING.replace(
        "Fri Oct  5 17:51:30",
        "Fri Oct  5 17:50:40: Signal <KILL> requested by user or administrator <root>;\n"
        "Fri Oct  5 17:50:41: Exited with exit code 130. The CPU time used is 5.0 seconds;\n"
        "Fri Oct  5 17:50:45: Pending: Job has been requeued;\n"
        "Fri Oct  5 17:51:00: Dispatched to <a7>;\n"
        "Fri Oct  5 17:51:30: Done successfully. The CPU time used is 0.1 seconds;\n"
        "Fri Oct  5 17:51:30",
    ).replace("Completed <exit>; TERM_OWNER: job killed by owner.", "Post job process done successfully;")
    [row] = lsf_history.parse_history(text, now=NOW).values()
    assert (row.state, row.accounting.hosts, row.accounting.runs) == (State.DONE, ("a7",), 2)
    assert (str(row.accounting.wall_time), str(row.accounting.cpu_time)) == ("30 s", "0.1 s")


@pytest.mark.parametrize(
    ("limit", "reason"), [("0.9", Reason.WALLTIME), ("1.0", Reason.SIGNALLED), ("", Reason.WALLTIME)]
)
def test_sigusr2_is_the_run_limit_when_it_was_reached_or_is_the_queues(limit: str, reason: Reason) -> None:
    text = ACCOUNTING.replace("Completed <exit>; TERM_OWNER: job killed by owner.", "Exited by signal 12. The CPU")
    text = text.replace(
        "Fri Oct  5 17:50:35", f"\n RUNLIMIT                \n {limit} min of a3191\nFri Oct  5 17:50:35"
    )
    [row] = lsf_history.parse_history(text, now=NOW).values()
    assert (row.reason, row.signal) == (reason, 12)


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("Nov 20 11:45", "2026-11-20 11:45:00"),
        ("Nov 20 11:45 L", "2026-11-20 11:45:00"),
        ("Fri Nov 20 11:45:56", "2026-11-20 11:45:56"),
        ("Mon Aug  4 12:28:51 2014", "2014-08-04 12:28:51"),
        ("11/20-12:20:34", "2026-11-20 12:20:34"),
        # in the future, but for clocks that differ: last year's
        ("Dec 31 23:59", "2025-12-31 23:59:00"),
        ("Nov 20 17:00", "2026-11-20 17:00:00"),
        ("Feb 29 12:00", "2024-02-29 12:00:00"),
        ("-", None),
        ("", None),
        ("Foo 20 11:45", None),
        ("Nov 31 11:45", None),
        ("Nov 20 24:45", None),
        ("13/40-99:99:99", None),
        ("Nov 20 11:45 0000", None),
    ],
)
def test_times(text: str, when: str | None) -> None:
    found = lsf_text.parse_time(text, NOW)
    assert (None if found is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found))) == when


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-", ((), 0)),
        ("", ((), 0)),
        ("a", (("a",), 1)),
        ("a:a:b", (("a", "b"), 3)),
        ("12*a:b", (("a", "b"), 13)),
        ("a.example.org:2*b-1", (("a.example.org", "b-1"), 3)),
    ],
)
def test_hosts(text: str, expected: tuple[tuple[str, ...], int]) -> None:
    assert lsf_text.parse_hosts(text) == expected


@pytest.mark.parametrize(
    ("text", "memory"),
    [("41 Mbytes", "41 MiB"), ("3.5 Gbytes", "3584 MiB"), ("522 MBytes", "522 MiB"), ("24105M", "24105 MiB"),
     ("5208", "5208 B"), ("0", "None"), ("-", "None"), ("", "None"), ("x M", "None")],
)  # fmt: skip
def test_memory(text: str, memory: str) -> None:
    assert str(lsf_text.parse_memory(text)) == memory


@pytest.mark.parametrize(
    ("text", "duration"),
    [("0.1 second(s)", "0.1 s"), ("16038 second(s)", "16038 s"), ("00:00:01", "1 s"), ("000:01:00.16", "60.16 s"),
     ("000:00:-2.00", "None"), ("-", "None"), ("", "None")],
)  # fmt: skip
def test_durations(text: str, duration: str) -> None:
    assert str(lsf_text.parse_duration(text)) == duration


words = st.sampled_from(
    ["12", "25[3]", "hpc", "EXIT", "RUN", "Nov 20 11:45", "11/20-12:20:34", "9" * 5000, "²", "-", "^", "name[3]",
     "12*a", "0.1 second(s)", "000:00:-2.00", "Feb 29 00:00", "TERM_OWNER: x", "Job <12>, User <a>, ",
     "Mon Aug  4 12:28:51: ",
     "Dispatched to <a>", "Exited with exit code 999", "Completed <exit>", "RUNLIMIT\n 1.0 min", "\n", "\x85",
     "QUEUE: a",
     "HOST_NAME STATUS", "PRIO NICE STATUS", "MAX MEM: 9 G", "MEMLIMIT\n 1 K", "Done successfully", "JOBID USER STAT "]
)  # fmt: skip
texts = st.text() | st.lists(words | st.text(max_size=8), max_size=25).map(" ".join)


@given(texts | st.lists(words | st.text(max_size=8), max_size=20).map("^".join))
def test_no_text_breaks_a_parser(text: str) -> None:
    for fields in lsf_text.parse_rows(text):
        row = lsf_text.job_row(fields, NOW)
        assert row is None or row.jobid == lsf_text.key_of(fields)
        assert lsf_text.job_info(fields, NOW).jobid
    for jobid, row in lsf_history.parse_history(text, now=NOW).items():
        assert row.jobid == jobid
        assert row.state.final or row.state is State.REQUEUED
    lsf_history.parse_names(text)
    lsf_text.parse_queues(text)
    lsf_text.parse_machines(text)
    lsf_text.parse_site(text)


@given(st.binary(), st.binary(), st.integers(0, 255))
def test_no_answer_is_more_than_an_answer_or_an_error(out: bytes, err: bytes, code: int) -> None:
    backend = LsfBackend("lab")
    answer = Completed(code, out, err)
    parsers: list[Callable[[Completed], object]] = [
        backend.parse_queue,
        backend.parse_listing,
        backend.parse_queues,
        backend.parse_machines,
        backend.parse_accounting,
    ]
    for parse in parsers:
        with contextlib.suppress(SystemUnavailable, CommandNotFound):
            parse(answer)
    assert isinstance(backend.submit_error(answer), BackendError)
    job = Job("12", TOKEN)
    if code != 127:
        assert list(backend.control_answers(Action.CANCEL, [job], {"all": answer})) == ["12"]


# --- commands -----------------------------------------------------------------------------------------------------


class Commands:
    """Pretended LSF commands that write down how they were called, and do as they are told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in ("bsub", "bjobs", "bhist", "bkill", "bstop", "bresume", "brequeue", "lsid", "bparams"):
            self.behave(name, "")

    def behave(self, name: str, text: str) -> None:
        told = f"{{ printf '%s' {name}; printf ' <%s>' \"$@\"; echo \" $LSB_NTRIES\"; }} >> {self.directory}/calls"
        (self.bin / name).write_text(f"#!/bin/sh\n{told}\n{text}\n")
        (self.bin / name).chmod(0o755)

    def run(self, text: str, **variables: str) -> Completed:
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.directory), **variables}
        done = subprocess.run("/bin/sh", input=text.encode(), env=environment, capture_output=True, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)

    @property
    def calls(self) -> list[str]:
        file = self.directory / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def free_form() -> str:
    return f'<-noheader> <-o> <{" ".join(lsf_text.FIELDS)} delimiter="^">'


def test_what_bjobs_can_do_is_found_out_once(commands: Commands) -> None:
    backend = LsfBackend("lab")
    wide = "JOBID   USER    STAT  QUEUE\n12 hpc RUN normal frontend frontend name Nov 20 11:45"
    commands.behave(
        "bjobs",
        f"case \"$*\" in *noheader*) echo \"bjobs: invalid option -- 'n'\" >&2; exit 255 ;; esac\necho '{wide}'",
    )
    answer = commands.run(backend.queue_command([]))
    assert commands.calls == [f"bjobs {free_form()} <0> 1", "bjobs <-a> <-w> 1"]
    assert list(backend.parse_queue(answer)) == ["12"]
    commands.run(backend.queue_command([]))
    assert commands.calls == ["bjobs <-a> <-w> 1"]


def test_the_free_form_is_used_where_there_is_one(commands: Commands) -> None:
    backend = LsfBackend("lab")
    commands.behave("bjobs", f"echo '{free()}'")
    answer = commands.run(backend.queue_command([]), LSB_BJOBS_FORMAT="stat")
    assert commands.calls == [f"bjobs {free_form()} <0> 1", f"bjobs <-a> {free_form()} 1"]
    assert list(backend.parse_queue(answer)) == ["12"]
    commands.run(backend.listing_command())
    assert commands.calls == [f"bjobs <-u> <all> {free_form()} 1"]


def test_one_listing_for_all_jobs(commands: Commands) -> None:
    jobs = [Job(str(number), TOKEN) for number in range(5000)]
    assert len(LsfBackend("lab").queue_command(jobs)) < 1000


def test_a_listing_that_hangs_is_ended(commands: Commands) -> None:
    commands.behave("bjobs", "sleep 600")
    backend = LsfBackend("lab", timeout="4 s")
    backend._free_form = False
    answer = commands.run(backend.queue_command([]))
    with pytest.raises(SystemUnavailable):
        backend.parse_queue(answer)


def test_history_is_asked_of_nothing_that_told_its_own_end(commands: Commands, tmp_path: Path) -> None:
    backend = LsfBackend("lab")
    backend._spool = str(tmp_path)
    jobs = []
    for jobid, letter, status in (
        ("1", "c", "code=0\nsignalled=no\ncaught=\nphase=command\n"),
        ("2", "d", "code=130\nsignalled=yes\ncaught=INT\nphase=command\n"),
        ("3[7]", "f", ""),
    ):
        token = TOKEN[:-1] + letter
        (tmp_path / token / ".batchlib").mkdir(parents=True)
        if status:
            (tmp_path / token / ".batchlib/status").write_text(status)
        jobs.append(Job(jobid, token))
    backend._free_form = True
    (tmp_path / "37").touch()
    commands.run(f"cd {tmp_path}\n{backend.accounting_command(jobs)}")
    assert commands.calls == ["bhist <-n> <0> <-l> <2> <3[7]> 1"]
    commands.run(backend.accounting_command(jobs[:1]) or "")
    assert commands.calls == []
    backend._free_form = None
    commands.run(backend.accounting_command(jobs[:1]) or "")
    assert commands.calls == ["bjobs <-a> <-W> 1"]


def test_names_that_are_looked_up_are_quoted(commands: Commands) -> None:
    backend = LsfBackend("lab")
    name = "$(touch`x)'.bxxx"
    commands.behave("bhist", f"echo; echo {shlex.quote(f'7[2] hpc {name}[2] 0')}; echo '8 hpc other 0'")
    texts = backend.lookup_commands([name, "a.bxxx"])
    answer = commands.run(texts["history"])
    assert commands.calls == ["bhist <-n> <0> <-a> <-w> 1"]
    assert answer.out == "7[2] hpc $(touch`x)'.bxxx[2] 0\n"
    queue = Completed(0, free(jobid="9", jobindex="4", job_name="a.bxxx[4]").encode(), b"")
    assert backend.parse_lookup({"queue": queue, "history": answer}) == {"$(touch`x)'.bxxx": "7", "a.bxxx": "9"}


def test_lookup_without_any_history(commands: Commands) -> None:
    backend = LsfBackend("lab")
    queue = Completed(255, b"", b"No job found\n")
    commands.behave("bhist", "echo 'No matching job found'; exit 255")
    assert (
        backend.parse_lookup({"queue": queue, "history": commands.run(backend.lookup_commands(["a"])["history"])}) == {}
    )
    (commands.bin / "bhist").unlink()
    assert (
        backend.parse_lookup({"queue": queue, "history": commands.run(backend.lookup_commands(["a"])["history"])}) == {}
    )
    commands.behave("bhist", "echo 'ls_readconfenv: Unable to open file lsf.conf' >&2; exit 255")
    with pytest.raises(SystemUnavailable, match=r"lsf\.conf"):
        backend.parse_lookup({"queue": queue, "history": commands.run(backend.lookup_commands(["a"])["history"])})


@pytest.mark.parametrize(
    ("action", "call"),
    [
        (Action.CANCEL, "bkill"),
        (Action.RELEASE, "bresume"),
        (Action.RESUME, "bresume"),
        (Action.REQUEUE, "brequeue"),
        (Action.SIGNAL, "bkill <-s> <USR1>"),
    ],
)
def test_many_jobs_at_a_time(commands: Commands, action: Action, call: str) -> None:
    jobs = [Job(f"25[{number}]", TOKEN) for number in range(1, 2501)]
    commands.run(LsfBackend("lab").control_commands(action, jobs, "USR1")["all"])
    calls = commands.calls
    assert len(calls) == 3
    assert all(line.startswith(f"{call} <25[") and line.endswith(" 1") for line in calls)
    assert re.findall(r"<(25\[\d+\])>", "".join(calls)) == [job.jobid for job in jobs]


@pytest.mark.parametrize(
    ("action", "states"),
    [
        (Action.HOLD, {"PEND": True, "PSUSP": True, "RUN": False, "USUSP": False, "DONE": True}),
        (Action.SUSPEND, {"PEND": False, "PSUSP": False, "RUN": True, "SSUSP": True, "EXIT": True}),
    ],
)
def test_bstop_is_used_as_it_was_meant(commands: Commands, action: Action, states: dict[str, bool]) -> None:
    backend = LsfBackend("lab")
    for state, meant in states.items():
        commands.behave("bjobs", f"echo '12 RUNNER {state} PENDING frontend host name Nov 20 11:45'")
        commands.behave("bstop", 'echo "Job <$1> is being stopped"')
        job = Job("12", TOKEN)
        answer = commands.run(backend.control_commands(action, [job], "")["all"])
        assert ("bstop <12> 1" in commands.calls) is meant
        outcome = backend.control_answers(action, [job], {"all": answer})["12"].outcome
        assert outcome is (Outcome.DONE if meant else Outcome.REFUSED), state


# --- the site -----------------------------------------------------------------------------------------------------


class Local(LsfBackend):
    """Asks pretended commands."""

    commands_here: Commands

    def ask(self, program: str, timeout: float | None = None) -> Completed:
        return self.commands_here.run(program, LSF_ENVDIR=str(self.commands_here.directory))


def local(commands: Commands, version: str, conf: str = "", **keys: Any) -> Local:
    commands.behave("lsid", f"echo; echo '{version}'; echo; echo 'My cluster name is x'; exit 255")
    commands.behave(
        "bparams", "[ \"$1\" = -l ] || exit 255; echo 'The maximum:'; echo '    MAX_JOB_ARRAY_SIZE = 500 (elements)'"
    )
    (commands.directory / "lsf.conf").write_text(f"LSF_LOG=x\n{conf}\n")
    backend = Local("lab", **keys)
    backend.commands_here = commands
    return backend


@pytest.mark.parametrize(
    ("version", "ibm"),
    [
        ("volclava project 2.2, Nov 20 2026", False),
        ("openlava project 3.3.3", False),
        ("IBM Spectrum LSF Standard 10.1.0.6, May 25 2018", True),
        ("Platform LSF 9.1.3.0, Jul 04 2014", True),
        ("Platform LSF HPC 7 Update 6, Sep 04 2009", True),
    ],
)
def test_which_lsf_it_is(commands: Commands, version: str, ibm: bool) -> None:
    backend = local(commands, version, "LSF_UNIT_FOR_LIMITS = gb # all of us")
    assert backend.version() == version
    assert backend.supports("dependency") is ibm
    assert backend._site == lsf_text.Site(ibm, "GB", 500)
    assert len(commands.calls) == 4
    backend.supports("dependency")
    assert commands.calls == []
    assert backend.supports("array")
    assert not backend.supports("flying")


def test_a_site_that_does_not_answer_is_asked_again(commands: Commands) -> None:
    backend = local(commands, "")
    commands.behave("lsid", "exit 255")
    assert not backend.supports("dependency")
    app = Application(["true"], requested_memory="1 GB")
    assert isinstance(backend.submit_jobs([app])[app], SystemUnavailable)
    assert app.execution.state is State.NEW
    backend = local(commands, "Platform LSF 9.1.3.0")
    assert backend.supports("dependency")


# --- submission ---------------------------------------------------------------------------------------------------


def header(backend: LsfBackend | None = None, **keys: Any) -> list[str]:
    app = Application(["true"], jobname="a job; rm -rf", **keys)
    text = (backend or LsfBackend("lab", queue="batch", account="proj", memory_unit="MB")).render(app)
    return [line.removeprefix("#BSUB ") for line in text.splitlines() if line.startswith("#BSUB ")]


def test_what_is_asked_for_stands_in_the_header() -> None:
    found = header(
        requested_cores=4,
        requested_memory="10 GiB",
        requested_walltime="61 s",
        constraint="bigmem&&!gpu",
        exclusive=True,
        priority=5,
        requested_gpus=2,
        reservation="user_7",
        rerunnable=True,
        mail_to="me@example.org",
        mail_on=["begin", "end"],
        hold=True,
        native=["-app big", "-Jd desc"],
    )
    assert found[0].startswith('-J "a_job_rm_-rf.')
    assert found[0].endswith('"')
    assert len(found[0]) <= 60 + len('-J ""')
    assert found[1:] == [
        "-o /dev/null",
        "-n 4",
        '-R "select[bigmem&&!gpu] rusage[mem=10240] span[hosts=1]"',
        "-M 10240",
        "-W 2",
        "-q batch",
        "-P proj",
        '-gpu "num=2"',
        "-U user_7",
        "-x",
        "-sp 5",
        "-r",
        "-u me@example.org",
        "-B",
        "-N",
        "-H",
        "-app big",
        "-Jd desc",
    ]


def test_a_job_that_asks_for_nothing() -> None:
    assert header(LsfBackend("lab"))[1:] == ["-o /dev/null", "-n 1"]


def test_several_nodes() -> None:
    found = header(requested_nodes=10, tasks_per_node=2, cores_per_task=3, requested_memory_per_core="100 MiB")
    assert "-n 60" in found
    assert '-R "rusage[mem=600] span[ptile=6]"' in found
    assert "-M 600" in found
    found = header(requested_nodes=2, requested_cores=4, requested_memory="1 GiB")
    assert "-n 8" in found
    assert '-R "rusage[mem=512] span[ptile=4]"' in found


@pytest.mark.parametrize(
    ("version", "conf", "keys", "limit", "reserved"),
    [
        ("volclava project 2.2", "", {}, "1536", "1536"),
        ("IBM Spectrum LSF 10.1.0.6", "", {}, "1572864", "1536"),
        ("IBM Spectrum LSF 10.1.0.6", "LSF_UNIT_FOR_LIMITS=GB", {}, "2", "2"),
        ("IBM Spectrum LSF 10.1.0.6", 'LSF_UNIT_FOR_LIMITS="MB"', {}, "1536", "1536"),
        ("IBM Spectrum LSF 10.1.0.6", "LSF_UNIT_FOR_LIMITS=GB", {"memory_unit": "kb"}, "1572864", "1572864"),
        ("volclava project 2.2", "", {"memory_unit": "GB"}, "2", "2"),
    ],
)
def test_memory_in_the_sites_unit(
    commands: Commands, version: str, conf: str, keys: dict[str, str], limit: str, reserved: str
) -> None:
    backend = local(commands, version, conf, **keys)
    backend._learn()
    found = header(backend, requested_memory="1.5 GiB")
    assert f"-M {limit}" in found
    assert f'-R "rusage[mem={reserved}]"' in found


def test_a_dry_run_asks_nobody_and_says_what_it_took_for_granted(commands: Commands) -> None:
    backend = local(commands, "volclava project 2.2")
    with pytest.warns(UserWarning, match="memory_unit"):
        assert "-M 1024" in header(backend, requested_memory="1 GiB")
    assert commands.calls == []
    with pytest.raises(InvalidValue, match="no unit of memory"):
        LsfBackend("lab", memory_unit="bytes")


def test_what_lsf_can_not_do_is_refused(commands: Commands) -> None:
    backend = local(commands, "volclava project 2.2")
    backend._learn()
    for keys in ({"qos": "high"}, {"requested_gpus": 1}, {"reservation": "r"}):
        with pytest.raises(UnsupportedOperation, match=next(iter(keys))):
            header(backend, **keys)
    with pytest.raises(InvalidValue, match="priority"):
        header(backend, priority=0)
    with pytest.raises(InvalidValue, match="constraint"):
        header(backend, constraint="a] span[hosts=1")
    with pytest.warns(UserWarning, match="mail_on"):
        assert "-N" in header(backend, mail_to="a@b", mail_on=["fail"])
    assert "-N" not in header(backend, mail_to="a@b", mail_on=["begin"])


def submission(backend: LsfBackend, app: Application, directory: Path, array: str = "") -> str:
    """Make a sandbox with its script, and the shell text that submits it there."""
    (directory / TOKEN / ".batchlib").mkdir(parents=True)
    script = backend.script(app, TOKEN, str(directory), parse_array(array) if array else None)
    (directory / TOKEN / ".batchlib/script").write_text(script)
    return (
        f"cd {shlex.quote(str(directory / TOKEN))}\n{' '.join(backend.submit_words(app))} .batchlib/script </dev/null"
    )


def test_bsub_reads_no_more_than_the_header(commands: Commands, tmp_path: Path) -> None:
    spool = tmp_path / "spo ol'"
    commands.behave("bsub", f"cat > {tmp_path}/given; echo 'Job <7> is submitted to default queue <normal>.'")
    app = Application(
        ["sh", "-c", "echo one\n#BSUB -H\n# BSUB -q other\necho two"], environment={"A": "x\n#BSUB -n 7"}, native=["-x"]
    )
    backend = LsfBackend("lab", bsub="bsub -a 'b c'", prologue_content="#BSUB -w 'done(1)'\ntrue")
    answer = commands.run(submission(backend, app, spool))
    assert backend.jobid_in(answer.out) == "7"
    assert commands.calls == ["bsub <-a> <b c> 1"]
    given = (tmp_path / "given").read_text()
    assert given.startswith("#!/bin/sh\n#BSUB -J ")
    assert [line for line in given.splitlines() if re.match(r"#\s*BSUB", line)][-1] == "#BSUB -x"
    # what LSF runs from its own copy starts the script from its place, which writes its log there
    (tmp_path / "copy").write_text(given)
    done = commands.run(f"sh {tmp_path}/copy", LSB_JOBID="7", LSB_NTRIES="1")
    assert (done.exitcode, done.out, done.err) == (0, "", "")
    assert (spool / TOKEN / "stdout.txt").read_text() == "one\ntwo\n"
    assert (spool / TOKEN / ".batchlib/owner").read_text() == "7\n"
    assert (spool / TOKEN / ".batchlib/log").read_text() == ""


def test_an_element_finds_its_own_sandbox(commands: Commands, tmp_path: Path) -> None:
    commands.behave("bsub", f"cat > {tmp_path}/given; echo 'Job <7> is submitted to queue <normal>.'")
    app = Application(["true"])
    text = submission(LsfBackend("lab", prologue_content='echo "tries: $LSB_NTRIES"'), app, tmp_path, "1-3%2")
    commands.run(text)
    assert re.search(r'^#BSUB -J "true\.b{16}\[1-3\]%2"$', (tmp_path / "given").read_text(), re.MULTILINE)
    element = tmp_path / TOKEN / "3/.batchlib"
    element.mkdir(parents=True)
    (element / "command").write_text("echo $LSB_JOBINDEX > out.txt\n")
    done = commands.run(f"sh {tmp_path}/given", LSB_JOBID="7", LSB_JOBINDEX="3", LSB_NTRIES="1")
    assert done.exitcode == 0
    assert (tmp_path / TOKEN / "3/out.txt").read_text() == "3\n"
    assert (element / "owner").read_text() == "7[3]\n"
    assert (element / "log").read_text() == "tries: \n"
    # what was to be an array and is none has index 0, and no sandbox
    assert commands.run(f"sh {tmp_path}/given", LSB_JOBID="7", LSB_JOBINDEX="0").exitcode != 0


def element_of_array() -> Application:
    from batchlib.array import expand_array

    return expand_array(Application(["true"]), parse_array("1-3"), "array")[0]


def test_an_array_that_became_a_plain_job_is_killed(commands: Commands, tmp_path: Path) -> None:
    commands.behave("bsub", "cat >/dev/null; echo Banner; echo 'Job <26> is submitted to default queue <normal>.'")
    commands.behave("bjobs", "echo 'Job array <26> is not found' >&2; exit 255")
    backend = LsfBackend("lab")
    answer = commands.run(submission(backend, element_of_array(), tmp_path / "one", "1-3"))
    assert answer.exitcode == 1
    assert commands.calls == [
        "bsub <> 1",
        "bjobs <-A> <26> 1",
        "bkill <26> 1",
    ]
    assert "max_array_size" in str(backend.submit_error(answer))


@pytest.mark.parametrize("said", ["echo '26 name 3'", "echo 'Connection refused by server' >&2; exit 255"])
def test_an_array_that_is_one_or_may_be(commands: Commands, tmp_path: Path, said: str) -> None:
    commands.behave("bsub", "cat >/dev/null; echo Banner; echo 'Job <26> is submitted to default queue <normal>.'")
    commands.behave("bjobs", said)
    backend = LsfBackend("lab")
    answer = commands.run(submission(backend, element_of_array(), tmp_path / "one", "1-3"))
    assert (answer.exitcode, backend.jobid_in(answer.out)) == (0, "26")
    # an element that goes alone is none
    assert commands.run(submission(backend, element_of_array(), tmp_path / "two")).exitcode == 0
    assert len(commands.calls) == 3


def test_a_refused_array_is_said_to_be_refused(commands: Commands, tmp_path: Path) -> None:
    commands.behave("bsub", "cat >/dev/null; echo 'q: No such queue. Job not submitted.' >&2; exit 255")
    answer = commands.run(submission(LsfBackend("lab"), element_of_array(), tmp_path, "1-3"))
    assert (answer.exitcode, answer.err) == (255, "q: No such queue. Job not submitted.\n")
    assert len(commands.calls) == 1


def test_a_bsub_that_was_killed_may_have_been_heard() -> None:
    assert isinstance(LsfBackend("lab").submit_error(Completed(137, b"", b"")), SubmissionUnclear)
    assert isinstance(LsfBackend("lab").submit_error(Completed(127, b"", b"bsub: not found")), CommandNotFound)


def test_times_are_those_of_the_frontends_clock(commands: Commands, tmp_path: Path) -> None:
    commands.behave("bsub", "cat >/dev/null")
    noon = (time.time() // 86400 + 2) * 86400 + 12 * 3600
    app = Application(["true"], begin=noon + 61, deadline=noon + 3661)
    text = submission(LsfBackend("lab"), app, tmp_path)
    for zone, hours in (("UTC", 0), ("XXX-05:30", 5.5)):
        commands.run(text, TZ=zone)
        [call] = commands.calls
        began, ended = (time.strftime("%m:%d:%H:%M", time.gmtime(noon + hours * 3600 + s)) for s in (120, 3660))
        assert call == f"bsub <-b> <{began}> <-t> <{ended}> 1"
    # over before bsub is called: not a year too late
    commands.run(text.replace(str(int(noon) + 120), "1000"), TZ="UTC")
    [call] = commands.calls
    match = re.match(r"bsub <-b> <(\S+)> ", call)
    assert match is not None
    soon = [time.strftime("%m:%d:%H:%M", time.gmtime(time.time() + seconds)) for seconds in range(58, 122)]
    assert match[1] in soon
    assert "-b" not in " ".join(LsfBackend("lab").submit_words(Application(["true"], begin=1000.0)))


@pytest.mark.parametrize(
    ("spec", "taken"),
    [
        ("1-10", True),
        ("1-1000", True),
        ("1,3,7-9%2", True),
        ("1-1001", False),
        ("0-9", False),
        ("999-1001", False),
        (",".join(str(n * n) for n in range(1, 31)), True),
        (",".join(str(2 * n + (n % 5 == 0)) for n in range(1, 100)), False),
    ],
)
def test_arrays_that_lsf_takes(spec: str, taken: bool) -> None:
    assert LsfBackend("lab").takes_array(parse_array(spec)) is taken


def test_how_many_elements_the_site_takes(commands: Commands) -> None:
    backend = local(commands, "volclava project 2.2")
    backend._learn()
    assert backend.takes_array(parse_array("1-500"))
    assert not backend.takes_array(parse_array("1-501"))
    assert LsfBackend("lab", max_array_size=5000).takes_array(parse_array("1-5000"))


def test_ids_of_elements() -> None:
    backend = LsfBackend("lab")
    assert backend.element_jobid("25", 3) == "25[3]"
    assert backend.array_jobid("25[3]") == backend.array_jobid("25") == "25"


def test_dependencies() -> None:
    waits_for = [NativeDependency("1", "ok"), NativeDependency("25[3]", "any"), NativeDependency("7", "notok")]
    text = LsfBackend("lab").native_dependency(waits_for)
    assert text == "done(1) && ended(25[3]) && exit(7)"
    app = Application(["true"])
    app.execution.waits_for = tuple(waits_for)
    assert f'#BSUB -w "{text}"\n#BSUB -ti\n' in LsfBackend("lab").render(app)


@pytest.mark.parametrize(
    ("text", "jobid"),
    [
        ("Job <12> is submitted to queue <normal>.\n", "12"),
        ("Job <12> is submitted to default queue <normal>.\n", "12"),
        ("Generic job.\nJob <473713> is submitted to queue <pub.1h>.\r\nBye\n", "473713"),
        ("Line#1 Job <354> is submitted to queue <short>.\n", None),
        ("Job <12> is submitted\n", None),
        ("", None),
    ],
)
def test_the_id_in_the_answer(text: str, jobid: str | None) -> None:
    assert LsfBackend("lab").jobid_in(text) == jobid


def test_the_outer_jobs_variables_do_not_leak() -> None:
    outer, kept = LsfBackend.outer_variables, LsfBackend.kept_variables
    text = f'for name; do case $name in {kept}) ;; {outer}) echo "$name" ;; esac; done'
    names = ["LSB_JOBID", "LSB_JOBINDEX", "LSB_HOSTS", "LSB_QUEUE", "LS_JOBPID", "LSFUSER", "LSF_EAUTH_SERVER"]
    stay = ["LSF_ENVDIR", "LSF_SERVERDIR", "LSF_BINDIR", "LSB_DEFAULTQUEUE", "LSOF", "PATH"]
    done = subprocess.run(["sh", "-c", text, "sh", *names, *stay], capture_output=True, text=True, check=True)
    assert done.stdout.split() == names
