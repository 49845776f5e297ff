"""What a real Slurm 22.05.8 printed, byte for byte, through the parsers that read it in earnest.

Every record of the recording is either read by what reads that command's answers, or is of a command that the
backend never runs; the counts show that none is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import pytest

from batchlib.backends.base import Action, Outcome
from batchlib.backends.slurm import SlurmBackend
from batchlib.backends.slurm_text import parse_accounting, parse_queue_line
from batchlib.backends.verdict import JobRow, Verdict, judge
from batchlib.errors import (
    BackendError,
    CapacityReached,
    CommandNotFound,
    Kind,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
)
from batchlib.run import Reason, Run, State
from batchlib.transport.shell import Completed
from tests.unit.recorded import Record, Replay, load

#: Numeric id of the user whose jobs they are.
UID = "1002"
#: Records of commands that the backend never runs, by the first word.
NOT_OURS = {
    "scontrol": 234, "sinfo": 11, "ssh": 10, "sstat": 8, "sacctmgr": 6, "cat": 6, "a": 6, "cp": 2, "sdiag": 2,
    "which": 1, "echo": 1, "tail": 1, "rm": 1, "sed": 1, "for": 1, "ls": 1, "pgrep": 1,
}  # fmt: skip


class SlurmRecord(Record):
    """One command and its answer."""

    @property
    def word(self) -> str:
        """The native command of the record that the backend uses too, or else its first word."""
        first = ""
        for part in re.split(r"&&|;|\|\|", self.command):
            words = re.sub(r"^[\s(]*((?:[A-Z_]+=\S+|timeout \d+)\s+)*", "", part).split()
            word = " ".join(words[:2]) if words[:1] == ["scontrol"] and words[1:] == ["ping"] else (words or [""])[0]
            if word in READERS:
                return word
            first = first or word.partition("=")[0]
        return first if first != "cd" else words[0]


def slurm(answer: Completed) -> SlurmBackend:
    return SlurmBackend("lab", transport=Replay(answer))


# --- by command ---------------------------------------------------------------------------------------------------


def queue_fields(command: str) -> tuple[str, ...]:
    """The fields that a squeue command asked for, by their letters; the backend's own where it asked for none."""
    if match := re.search(r"squeue.* -o ['\"]?([^'\"]+)", command):
        return tuple(re.findall(r"%+([A-Za-z])", match[1]))
    if match := re.search(r" -O '([^']+)'", command):
        letters = {"JobArrayID": "i", "State": "T", "StateCompact": "t", "Reason": "r"}
        return tuple(letters.get(name, name) for name in re.findall(r"(\w+):", match[1]))
    return tuple("iTSNVrj")


def queue_rows(entry: SlurmRecord) -> list[JobRow]:
    fields = queue_fields(entry.command)
    return [row for row in (parse_queue_line(line, fields) for line in entry.answer.out.split("\n")) if row]


def accounting_rows(entry: SlurmRecord) -> dict[str, JobRow]:
    match = re.search(r" -o ([\w,]+)", entry.command)
    return parse_accounting(entry.answer.out, UID, *([match[1].split(",")] if match else []))


def read_squeue(entry: SlurmRecord) -> None:
    answer = entry.answer
    try:
        slurm(answer).parse_queue(answer)
    except BackendError:
        assert answer.exitcode or "error" in answer.err
    else:
        assert answer.exitcode == 0
    rows = queue_rows(entry)
    asked = re.search(r" -[oO] [\"']+(%+i\||JobArrayID)", entry.command)
    if asked:
        arrays = len(re.findall(r"^\d+_\[", answer.out, re.MULTILINE))
        assert len(rows) + arrays == len(answer.out.splitlines()), "a line was passed over"
    assert all(re.fullmatch(r"\d+(_\d+)?", row.jobid) for row in rows)
    if (asked and "%t" in entry.command) or "%T" in entry.command:
        assert all(row.state is not State.UNDETERMINED for row in rows)


def read_sacct(entry: SlurmRecord) -> None:
    answer = entry.answer
    try:
        slurm(answer).parse_accounting(answer)
    except SystemUnavailable:
        assert answer.exitcode
    rows = accounting_rows(entry)
    if " -o JobID,State" in entry.command and " -P" in entry.command:
        ids = {line.split("|")[0].partition(".")[0] for line in answer.out.splitlines() if "_[" not in line}
        assert set(rows) == ids, "a line was passed over"


def read_sbatch(entry: SlurmRecord) -> None:
    backend = slurm(entry.answer)
    told = re.search(r"^Submitted batch job (\d+)", entry.answer.out, re.MULTILINE)
    assert backend.jobid_in(entry.answer.out) == (told[1] if told else None)
    if not told:
        assert isinstance(backend.submit_error(entry.answer), BackendError)


def read_scancel(entry: SlurmRecord) -> None:
    try:
        found = slurm(entry.answer).control_answers(Action.CANCEL, [], {"scancel": entry.answer})
    except SystemUnavailable:
        assert entry.answer.exitcode
    else:
        assert entry.answer.exitcode == 0 or found


def read_ping(entry: SlurmRecord) -> None:
    backend = slurm(entry.answer)
    if entry.answer.exitcode:
        with pytest.raises(SystemUnavailable, match="DOWN"):
            backend.ping()
    else:
        backend.ping()


READERS: Mapping[str, Callable[[SlurmRecord], None]] = {
    "squeue": read_squeue,
    "sacct": read_sacct,
    "sbatch": read_sbatch,
    "scancel": read_scancel,
    "scontrol ping": read_ping,
}

RECORDS = load("slurm-22.05.jsonl", SlurmRecord)


def test_every_record_is_read_or_of_a_command_that_is_not_ours() -> None:
    handled: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for entry in RECORDS:
        if reader := READERS.get(entry.word):
            reader(entry)
            handled[entry.word] += 1
        else:
            left[entry.word] += 1
    assert handled == {"squeue": 538, "sacct": 261, "sbatch": 102, "scancel": 37, "scontrol ping": 2}
    assert left == NOT_OURS
    assert handled.total() + left.total() == len(RECORDS) == 1233


def records(command: str, scenario: str | None = None) -> list[SlurmRecord]:
    """Those whose command matches, in a scenario or all."""
    return [
        entry
        for entry in RECORDS
        if re.fullmatch(command, entry.command, re.DOTALL) and scenario in (None, entry.scenario)
    ]


# --- by state -----------------------------------------------------------------------------------------------------

QUEUE = r"squeue -h -t all -j \S+ -o '%i\|%t\|%T\|%r'"
ACCOUNTING = r"sacct -n -P -X -j \S+ -o JobID,JobIDRaw,JobName,User.*"

WAITING = (State.QUEUED, None)
HELD = (State.HELD, None)
RUNNING = (State.RUNNING, None)
COMPLETING = (State.COMPLETING, None)
EXITED_0 = (State.DONE, Reason.EXITED, 0, None)


def failed(
    reason: Reason, exitcode: int | None = None, signal: int | None = None
) -> tuple[State, Reason, int | None, int | None]:
    return State.FAILED, reason, exitcode, signal


#: What squeue's row means while the job lives, and what is believed once it has ended.
LIVE: Mapping[str, tuple[State, Reason | None]] = {
    "RUNNING": RUNNING,
    "PENDING (Resources)": WAITING,
    "PENDING (Priority)": WAITING,
    "PENDING (BeginTime)": WAITING,
    "PENDING (Dependency)": WAITING,
    "PENDING (PartitionTimeLimit)": WAITING,
    "PENDING (PartitionDown)": WAITING,
    "PENDING (PartitionInactive)": WAITING,
    "PENDING (AssocMaxJobsLimit)": WAITING,
    "PENDING (AssocGrpCpuLimit)": WAITING,
    "PENDING (AssocMaxWallDurationPerJobLimit)": WAITING,
    "PENDING (ReqNodeNotAvail)": WAITING,
    "PENDING (ReqNodeNotAvail or Nodes DRAINED)": WAITING,
    "unknown dependency: accepted, then": WAITING,
    "too many nodes: accepted, then": WAITING,
    "too many cpus: accepted, then": WAITING,
    "released": WAITING,
    "held at submission (JobHeldUser)": HELD,
    "held by user": HELD,
    "held by admin (JobHeldAdmin)": HELD,
    "hold a running job": RUNNING,
    "resumed": RUNNING,
    "STOPPED then CONT": RUNNING,
    "requeued and running again": RUNNING,
    "array running": RUNNING,
    "array limit %N running": RUNNING,
    "SUSPENDED": (State.SUSPENDED, None),
    "STOPPED (scancel -s STOP)": (State.SUSPENDED, None),
    "COMPLETING (exit 0)": COMPLETING,
    "COMPLETING (exit 3)": COMPLETING,
    "COMPLETING (scancel)": COMPLETING,
    "CANCELLED, SIGTERM ignored (KillWait=3)": COMPLETING,
    "TIMEOUT, TERM ignored": COMPLETING,
    "requeued": COMPLETING,
    "requeuehold (JobHeldUser)": (State.REQUEUED_HELD, None),
    "SPECIAL_EXIT": (State.REQUEUED_HELD, None),
    # these had run, or failed with their node, and wait to run again: what the accounting says is of the run before
    "requeued, 1 s later": WAITING,
    "requeue of a finished job": WAITING,
    "NODE_FAIL then requeued": WAITING,
    "preempted by requeue": WAITING,
}
ENDED: Mapping[str, tuple[State, Reason | None, int | None, int | None]] = {
    "COMPLETED": EXITED_0,
    "COMPLETED with failing steps (DerivedExitCode)": EXITED_0,
    "requeued and COMPLETED": EXITED_0,
    "slurmctld was down when the job ended, now up again": EXITED_0,
    "array limit finished": EXITED_0,
    "FAILED exit 3": failed(Reason.EXITED, 3),
    "FAILED bad interpreter": failed(Reason.EXITED, 2),
    "FAILED command not found 127": failed(Reason.EXITED, 127),
    "after MinJobAge (purged from slurmctld)": failed(Reason.EXITED, 3),
    # sacct loses 128 of these, which is why the job's own status file is believed first
    "FAILED exit 137": failed(Reason.EXITED, 137 - 128),
    "FAILED exit 255": failed(Reason.EXITED, 255 - 128),
    "FAILED child killed by SIGSEGV (139)": failed(Reason.EXITED, 139 - 128),
    # squeue calls these JobLaunchFailure, as it does those that could not be launched
    "FAILED killed by signal 9": failed(Reason.SIGNALLED, signal=9),
    "scancel --signal=USR1 --full without handler": failed(Reason.SIGNALLED, signal=10),
    "OUT_OF_MEMORY (JobAcctGatherParams=OverMemoryKill)": failed(Reason.SIGNALLED, signal=9),
    "FAILED unwritable output": failed(Reason.START_FAILURE),
    "FAILED output dir missing": failed(Reason.START_FAILURE),
    "workdir missing": failed(Reason.START_FAILURE),
    "CANCELLED while pending": (State.CANCELLED, Reason.CANCELLED_BY_USER, None, None),
    "CANCELLED while running": (State.CANCELLED, Reason.CANCELLED_BY_USER, None, None),
    "CANCELLED by root": (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM, None, None),
    "kill-on-invalid-dep": (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM, None, None),
    "PENDING (DependencyNeverSatisfied)": (State.OMITTED, Reason.DEPENDENCY, None, None),
    "TIMEOUT": failed(Reason.WALLTIME),
    "TIMEOUT, TERM ignored (later)": failed(Reason.WALLTIME),
    "OUT_OF_MEMORY (cgroup v1, ConstrainRAMSpace)": failed(Reason.MEMORY),
    "OUT_OF_MEMORY in a child, script exits 0 (cgroup v1)": failed(Reason.MEMORY),
    "DEADLINE": failed(Reason.DEADLINE),
    "NODE_FAIL (--no-requeue)": failed(Reason.NODE_FAILURE),
    "NODE_FAIL (slurmd died)": failed(Reason.NODE_FAILURE),
    "PREEMPTED": failed(Reason.PREEMPTED),
}
#: Arrays that nothing but compressed or cut ids are seen of, or whose elements differ.
ARRAYS = {
    "array pending",
    "array limit %N pending",
    "array with gaps pending",
    "array with a long task list pending",
    "array with an irregular task list pending",
    "array finished",
}


def snapshots() -> Iterable[tuple[str, list[JobRow], dict[str, JobRow]]]:
    """What squeue and sacct said at the same time, by scenario."""
    for scenario in dict.fromkeys(entry.scenario for entry in records(QUEUE)):
        pairs = zip(records(QUEUE, scenario), records(ACCOUNTING, scenario), strict=True)
        for queue, accounting in pairs:
            yield scenario, queue_rows(queue), accounting_rows(accounting)


SNAPSHOTS = list(snapshots())


def test_each_scenario_has_its_state() -> None:
    assert {scenario for scenario, _, _ in SNAPSHOTS} == LIVE.keys() | ENDED.keys() | ARRAYS
    assert not LIVE.keys() & ENDED.keys()
    assert len(SNAPSHOTS) == 78


def believed(queue: JobRow | None, accounting: JobRow | None, **known: Any) -> Verdict:
    """What is concluded long after the job was last seen."""
    run = Run(state=State.RUNNING, unseen_since=0.0, **known)
    return judge(run, queue, accounting, None, now=1000.0, patience=15.0)


@pytest.mark.parametrize(("scenario", "rows", "recorded"), SNAPSHOTS, ids=[scenario for scenario, _, _ in SNAPSHOTS])
def test_state_and_reason(scenario: str, rows: list[JobRow], recorded: dict[str, JobRow]) -> None:
    if scenario in LIVE:
        assert {(row.state, row.reason) for row in rows} == {LIVE[scenario]}
        # whatever the accounting holds of an earlier run, or does not hold yet
        assert {believed(row, recorded.get(row.jobid)).state for row in rows} == {LIVE[scenario][0]}
    elif scenario in ENDED:
        verdicts = [believed(row, recorded.get(row.jobid)) for row in rows]
        if scenario != "PENDING (DependencyNeverSatisfied)":
            # long after, when squeue has forgotten it
            verdicts += [believed(None, row) for row in recorded.values()]
        found = {(verdict.state, verdict.reason, verdict.exitcode, verdict.signal) for verdict in verdicts}
        assert found == {ENDED[scenario]}
        assert all(verdict.native_state for verdict in verdicts)


def test_who_cancelled_is_not_known_before_the_accounting_says_so() -> None:
    [(_, rows, recorded)] = [snapshot for snapshot in SNAPSHOTS if snapshot[0] == "CANCELLED while running"]
    run = Run(state=State.RUNNING, unseen_since=0.0)
    early = judge(run, rows[0], None, None, now=1.0, patience=15.0)
    assert early.state is State.ENDED_NO_STATUS
    later = judge(run, rows[0], recorded[rows[0].jobid], None, now=2.0, patience=15.0)
    assert (later.state, later.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    ours = judge(attrs.evolve(run, cancel_requested=True), rows[0], None, None, now=1.0, patience=15.0)
    assert (ours.state, ours.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)


def test_a_launch_failure_is_not_believed_before_the_accounting_says_so() -> None:
    [(_, rows, recorded)] = [snapshot for snapshot in SNAPSHOTS if snapshot[0] == "FAILED killed by signal 9"]
    run = Run(state=State.RUNNING, unseen_since=0.0)
    assert judge(run, rows[0], None, None, now=1.0, patience=15.0).state is State.ENDED_NO_STATUS
    verdict = judge(run, rows[0], recorded[rows[0].jobid], None, now=2.0, patience=15.0)
    assert (verdict.reason, verdict.signal) == (Reason.SIGNALLED, 9)


def test_a_requeued_job_waits_again() -> None:
    for scenario in ("requeued, 1 s later", "NODE_FAIL then requeued", "preempted by requeue"):
        [(_, rows, recorded)] = [snapshot for snapshot in SNAPSHOTS if snapshot[0] == scenario]
        verdict = believed(rows[0], recorded[rows[0].jobid], timestamps={State.RUNNING: 1.0})
        assert verdict.state is State.REQUEUED


def test_elements_of_an_array() -> None:
    [(_, _, recorded)] = [snapshot for snapshot in SNAPSHOTS if snapshot[0] == "array finished"]
    assert {jobid: (row.state, row.exitcode) for jobid, row in recorded.items()} == {
        "60_0": (State.DONE, 0),
        "60_1": (State.DONE, 0),
        "60_2": (State.DONE, 0),
        "60_3": (State.FAILED, 5),
        "60_4": (State.DONE, 0),
        "60_7": (State.CANCELLED, None),
        "60_8": (State.RUNNING, None),
        "60_9": (State.DONE, 0),
    }
    single = {row.jobid: row.state for row in queue_rows(records(r"squeue.*-h -r -j 60 -o.*")[0])}
    assert single == {f"60_{index}": State.QUEUED for index in range(10)}


@pytest.mark.parametrize("scenario", sorted(ARRAYS - {"array finished"}))
def test_compressed_and_cut_ids_are_no_rows(scenario: str) -> None:
    for name, rows, recorded in SNAPSHOTS:
        if name == scenario:
            assert rows == []
            assert recorded == {}


def test_a_terminal_row_without_its_end_is_not_believed() -> None:
    [entry] = records("sacct -n -P -X --name=nodbd.*")
    assert entry.answer.out.startswith("123|FAILED|0:0|")
    [row] = accounting_rows(entry).values()
    assert row.state is State.UNDETERMINED
    assert believed(None, row).state is State.LOST


def test_a_job_cancelled_while_pending_never_started() -> None:
    for entry in records(ACCOUNTING, "CANCELLED while pending"):
        [row] = accounting_rows(entry).values()
        assert row.accounting.started is None
        assert row.accounting.ended is not None
        assert row.accounting.hosts == ()


def test_both_runs_of_a_requeued_job_are_one_job() -> None:
    [entry] = records("sacct.* -D .*", "requeued and COMPLETED")
    [row] = accounting_rows(entry).values()
    assert (row.jobid, row.state) == ("50", State.DONE)


def test_times_are_read_in_both_forms() -> None:
    [epoch] = records("SLURM_TIME_FORMAT=%s sacct.*")
    [plain] = records("sacct -n -P -X -j 20 -o JobID,Submit,Start,End")
    for entry in (epoch, plain):
        used = accounting_rows(entry)["20"].accounting
        assert (used.submitted, used.started, used.ended) == (1795178184.0,) * 3


def test_what_a_job_used() -> None:
    [entry] = records(r"sacct -n -P -o JobID,JobIDRaw,State.*", "COMPLETED")
    used = accounting_rows(entry)["21"].accounting
    assert str(used.max_memory) == "2812 KiB"
    assert str(used.cpu_time) == "0.002 s"
    assert used.cores == 1
    [entry] = records(ACCOUNTING, "COMPLETED")
    used = accounting_rows(entry)["21"].accounting
    assert str(used.wall_time) == "2 s"
    assert used.hosts == ("node02",)


def test_the_name_may_hold_the_separator() -> None:
    [entry] = records(r"sacct.*JobName,State,ExitCode,Comment,SubmitLine")
    line = next(line for line in entry.answer.out.splitlines() if line.startswith("10|"))
    name = line.removeprefix("10|10|").partition("|COMPLETED")[0]
    assert name == "a b|c,üñ"
    assert parse_queue_line(f"10|RUNNING|0|node01|0|None|{name}") == parse_queue_line(
        "10|RUNNING|0|node01|0|None|a b|c,üñ"
    )
    row = parse_queue_line(f"10|RUNNING|0|node01|0|None|{name}")
    assert row is not None
    assert row.name == name


def test_reasons_with_blanks_and_commas_are_kept() -> None:
    [row] = queue_rows(records(QUEUE, "PENDING (ReqNodeNotAvail)")[0])
    assert row.native_state == "PENDING (ReqNodeNotAvail, UnavailableNodes:node02)"


# --- no answer is no evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "scenario"),
    [
        ("squeue -h", "slurmctld down"),
        (".*squeue -h.*", "slurm.conf missing"),
        (".*squeue -h.*", "DNS: wrong controller host"),
        ("squeue -h", "munged down"),
        ("squeue -h -u nosuchuser", None),
        ("squeue -h -t FOO", None),
    ],
)
def test_a_listing_that_failed_is_no_empty_listing(command: str, scenario: str | None) -> None:
    [entry] = records(command, scenario)
    with pytest.raises(SystemUnavailable, match="squeue does not answer"):
        slurm(entry.answer).parse_queue(entry.answer)


def test_a_missing_squeue_is_said_to_be_missing() -> None:
    [entry] = records("PATH=/nowhere squeue -h")
    with pytest.raises(CommandNotFound, match="squeue: command not found"):
        slurm(entry.answer).parse_queue(entry.answer)


@pytest.mark.parametrize("scenario", ["slurmdbd down", "slurmdbd hangs"])
def test_accounting_that_is_down_is_no_answer(scenario: str) -> None:
    entry = records("sacct .*", scenario)[0]
    with pytest.raises(SystemUnavailable, match="sacct does not answer"):
        slurm(entry.answer).parse_accounting(entry.answer)


def test_accounting_that_is_switched_off_is_not_asked_again() -> None:
    entry = records("sacct -n -P .*", "accounting disabled (accounting_storage/none)")[0]
    backend = slurm(entry.answer)
    assert backend.accounting_command([]) is not None
    assert backend.parse_accounting(entry.answer) == {}
    assert backend.accounting_command([]) is None


# --- submission ---------------------------------------------------------------------------------------------------

#: How a submission ended that was not accepted, by what it was tried with; all others were refused for good.
NOT_NOW: Mapping[str, type[BackendError]] = {
    "slurmctld down": SystemUnavailable,
    "munged down": SystemUnavailable,
    "error: MaxSubmitJobs reached": CapacityReached,
    "slurmctld hangs (MessageTimeout=10)": SubmissionUnclear,
    "error: MaxJobCount reached": SystemUnavailable,
    "command not found": CommandNotFound,
}


def submissions() -> list[SlurmRecord]:
    return [entry for entry in RECORDS if entry.word == "sbatch"]


def test_jobs_that_were_accepted() -> None:
    accepted = [entry for entry in submissions() if "Submitted batch job" in entry.answer.out]
    assert len(accepted) == 48
    for entry in accepted:
        jobid = slurm(entry.answer).jobid_in(entry.answer.out)
        assert jobid is not None
        assert re.search(rf"Submitted batch job {jobid}\b", entry.answer.out)


def test_a_job_on_a_named_cluster_was_accepted() -> None:
    [entry] = records(r"cd ~/w && sbatch -M lab --wrap=.*")
    assert slurm(entry.answer).jobid_in(entry.answer.out) == "3"


def test_what_no_id_was_printed_for() -> None:
    kinds: Counter[Kind] = Counter()
    for entry in submissions():
        answer = entry.answer
        if "Submitted batch job" in answer.out or re.search(r"sbatch (-V|--json)", entry.command):
            continue
        if answer.exitcode == 128 + 15:
            continue
        error = slurm(answer).submit_error(answer)
        if answer.exitcode == 0:
            # accepted without telling, or in another form than ours: to be looked for, never to be tried again
            assert isinstance(error, SubmissionUnclear), entry
        else:
            assert type(error) is NOT_NOW.get(entry.scenario, SubmissionRefused), entry
        kinds[error.kind] += 1
        assert error.stderr == answer.err
        assert answer.err.strip()[-1000:] in str(error)
    assert kinds == {Kind.PERMANENT: 37, Kind.TRANSIENT: 5, Kind.UNCLEAR: 8}


def test_a_submission_that_was_killed_may_have_been_accepted() -> None:
    # this one had been: the job ran under another client's eyes
    [entry] = records("sbatch -J orphan .*")
    assert isinstance(slurm(entry.answer).submit_error(entry.answer), SubmissionUnclear)


# --- cancelling ---------------------------------------------------------------------------------------------------


def cancelled(command: str, scenario: str) -> dict[str, Outcome]:
    entry = records(command, scenario)[0]
    return {
        jobid: answer.outcome
        for jobid, answer in slurm(entry.answer).control_answers(Action.CANCEL, [], {"scancel": entry.answer}).items()
    }


def test_somebody_elses_job_is_a_refusal() -> None:
    assert cancelled("scancel .*", "error: another user's job") == {"108": Outcome.REFUSED}


def test_a_job_that_had_ended_is_no_error() -> None:
    assert cancelled("scancel 95", "error: finished job") == {}
    entry = records("scancel -v 95", "error: finished job")[0]
    answer = slurm(entry.answer).control_answers(Action.CANCEL, [], {"scancel": entry.answer})["95"]
    assert (answer.outcome, answer.error) == (Outcome.ALREADY_ENDED, None)


@pytest.mark.parametrize("scenario", ["slurmctld down", "slurmctld hangs (MessageTimeout=10)"])
def test_a_controller_that_does_not_answer_may_have_done_it(scenario: str) -> None:
    entry = records("scancel .*", scenario)[0]
    answer = slurm(entry.answer).control_answers(Action.CANCEL, [], {"scancel": entry.answer})["121"]
    assert answer.outcome is Outcome.UNKNOWN
    assert isinstance(answer.error, SystemUnavailable)


def test_without_authentication_nothing_can_be_cancelled() -> None:
    entry = records("scancel .*", "munged down")[0]
    [(jobid, answer)] = slurm(entry.answer).control_answers(Action.CANCEL, [], {"scancel": entry.answer}).items()
    assert (jobid, answer.outcome) == ("150", Outcome.UNKNOWN)
    assert isinstance(answer.error, SystemUnavailable)
