"""What a real Son of Grid Engine 8.1.9 printed, byte for byte, through the parsers that read it in earnest.

Every record of the recording is either read by what reads that command's answers, or is of a command that the
backend never runs; the counts show that none is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

import attrs
import pytest

from batchlib.backends.base import Action, Outcome
from batchlib.backends.native import Job
from batchlib.backends.sge import SgeBackend
from batchlib.backends.sge_text import native_state, parse_jobs, parse_listing, parse_reasons, parse_records
from batchlib.backends.verdict import JobRow, Verdict, judge
from batchlib.errors import (
    BackendError,
    CapacityReached,
    CommandNotFound,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
)
from batchlib.run import Reason, Run, State
from batchlib.transport.shell import Completed
from tests.unit.recorded import Record, load

TOKEN = "b" * 16
#: Records of commands that the backend never runs, by the first word.
NOT_OURS = {
    "qconf": 13, "qhost": 5, "qselect": 4, "qalter": 8, "qresub": 1, "qrsh": 1, "qping": 2, "cat": 6, "awk": 1,
    "grep": 1, "qstat -j -xml": 10, "qstat -f": 7, "qstat -f -xml": 2, "qstat -explain": 1, "qstat -g c": 1,
}  # fmt: skip


class SgeRecord(Record):
    """One command and its answer."""

    @property
    def word(self) -> str:
        """The kind of command that it is."""
        match = re.search(r"\bq[a-z]+\b", self.command)
        if match is None:
            return self.command.split()[0]
        name, words = match[0], set(re.split(r"[;|)]", self.command[match.end() :])[0].split())
        xml = " -xml" if "-xml" in words else ""
        if "-help" in words:
            return "qstat -help"
        if name == "qstat":
            kind = next((option for option in ("-j", "-f", "-explain") if option in words), "")
            kind = "-g c" if {"-g", "c"} <= words else kind
            return " ".join(filter(None, [name, kind])) + xml
        return name + xml if name == "qhost" else name


RECORDS = load("sge-8.1.9.jsonl", SgeRecord)


def records(command: str, scenario: str = ".*") -> list[SgeRecord]:
    """Those whose command and scenario match."""
    return [
        entry
        for entry in RECORDS
        if re.fullmatch(command, entry.command, re.DOTALL) and re.fullmatch(scenario, entry.scenario)
    ]


def sge() -> SgeBackend:
    return SgeBackend("lab")


# --- by command ---------------------------------------------------------------------------------------------------


def read_listing(entry: SgeRecord) -> None:
    if entry.answer.exitcode:
        with pytest.raises(SystemUnavailable, match="qstat does not answer"):
            sge().parse_queue(entry.answer)
        return
    rows = sge().parse_queue(entry.answer)
    jobs = parse_jobs(entry.answer.out)
    assert len(jobs) == entry.answer.out.count("<job_list"), "an entry was passed over"
    assert {job.number for job in jobs if job.fields["state"] != "z"} == {jobid.partition(".")[0] for jobid in rows}
    assert len(rows) == len(list(rows))
    assert all(row.jobid == jobid and row.state is not State.UNDETERMINED for jobid, row in rows.items())
    assert len(sge().parse_listing(entry.answer)) == sum(len(list(job.ids())) for job in jobs)


def read_plain_listing(entry: SgeRecord) -> None:
    # the letters are those of the XML form
    states = re.findall(r"^ *\d+ \d\.\d+ \S+ +\S+ +(\S+) +\d\d/\d\d/\d{4}", entry.answer.out, re.MULTILINE)
    assert all(native_state(letters) is not State.UNDETERMINED for letters in states)
    with pytest.raises(SystemUnavailable):
        sge().parse_queue(entry.answer)


def read_reasons(entry: SgeRecord) -> None:
    assert len(parse_reasons(entry.answer.out)) == entry.answer.out.count("\nerror reason")


def read_records(entry: SgeRecord) -> None:
    found = parse_records(entry.answer.out)
    if "|" not in entry.command:
        assert len(found) == len(re.findall(r"^jobnumber ", entry.answer.out, re.MULTILINE))
        assert all(row.state is not State.UNDETERMINED for row in found)
    try:
        assert sge().parse_accounting(entry.answer) == {}, "none of these jobs was asked about"
    except SystemUnavailable:
        assert "error:" in entry.answer.err


def read_submission(entry: SgeRecord) -> None:
    backend, answer = sge(), entry.answer
    told = re.search(r"^(?:Your job(?:-array)? )?(\d+)\b", answer.out, re.MULTILINE)
    if "cut -c" in entry.command:
        told = None
    assert backend.jobid_in(answer.out) == (told[1] if told else None)
    if not told:
        assert isinstance(backend.submit_error(answer), BackendError)


def read_control(entry: SgeRecord) -> None:
    ids = dict.fromkeys(re.findall(r"\d+(?:\.\d+)?", entry.command))
    found = control(entry, Action.CANCEL, *ids)
    assert set(found) == set(ids)
    for number in re.findall(r"hpc has (?:deleted|registered the) job (\d+)", entry.answer.out):
        assert found.get(number, Outcome.DONE) is Outcome.DONE


def read_queues(entry: SgeRecord) -> None:
    [queue] = sge().parse_queues(entry.answer)
    assert (queue.name, queue.open, queue.max_walltime) == ("all.q", True, None)


def read_machines(entry: SgeRecord) -> None:
    [machine] = sge().parse_machines(entry.answer)
    assert (machine.name, machine.cores, machine.load, str(machine.memory)) == ("localhost", 2, 4.07, "24064 MiB")


def read_version(entry: SgeRecord) -> None:
    assert entry.answer.out == "SGE 8.1.9\n"


READERS: Mapping[str, Callable[[SgeRecord], None]] = {
    "qstat -xml": read_listing,
    "qstat": read_plain_listing,
    "qstat -j": read_reasons,
    "qacct": read_records,
    "qsub": read_submission,
    "qdel": read_control,
    "qhold": read_control,
    "qrls": read_control,
    "qmod": read_control,
    "qstat -g c -xml": read_queues,
    "qhost -xml": read_machines,
    "qstat -help": read_version,
}


def test_every_record_is_read_or_of_a_command_that_is_not_ours() -> None:
    handled: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for entry in RECORDS:
        if reader := READERS.get(entry.word):
            reader(entry)
            handled[entry.word] += 1
        else:
            left[entry.word] += 1
    assert left == NOT_OURS
    assert handled == {
        "qsub": 92, "qstat": 67, "qacct": 80, "qstat -j": 32, "qdel": 29, "qmod": 21, "qstat -xml": 19, "qrls": 10,
        "qhold": 8, "qstat -g c -xml": 1, "qhost -xml": 1, "qstat -help": 2,
    }  # fmt: skip
    assert handled.total() + left.total() == len(RECORDS) == 425


# --- by state -----------------------------------------------------------------------------------------------------

#: How the jobs of a scenario ended: state, reason, exit code, signal.
ENDED: Mapping[str, tuple[State, Reason, int | None, int | None]] = {
    "finished": (State.DONE, Reason.EXITED, 0, None),
    "exit 0": (State.DONE, Reason.EXITED, 0, None),
    "exit code 3": (State.FAILED, Reason.EXITED, 3, None),
    "exit code 255": (State.FAILED, Reason.EXITED, 255, None),
    "command not found in script (exit 127)": (State.FAILED, Reason.EXITED, 127, None),
    "exec permission denied in script (exit 126)": (State.FAILED, Reason.EXITED, 126, None),
    "script kills itself with SIGKILL": (State.FAILED, Reason.SIGNALLED, None, 9),
    "script kills itself with SIGTERM": (State.FAILED, Reason.SIGNALLED, None, 15),
    "script kills itself with SIGSEGV": (State.FAILED, Reason.SIGNALLED, None, 11),
    "script kills itself with SIGINT": (State.FAILED, Reason.SIGNALLED, None, 2),
    "script kills itself with SIGABRT": (State.FAILED, Reason.SIGNALLED, None, 6),
    "exit code 137 without a signal": (State.FAILED, Reason.EXITED, 137, None),
    "exit code 143 without a signal": (State.FAILED, Reason.EXITED, 143, None),
    "h_rt exceeded (2 s)": (State.FAILED, Reason.WALLTIME, None, 9),
    "s_rt exceeded (2 s), SIGUSR1 not caught": (State.FAILED, Reason.SIGNALLED, None, 10),
    "s_rt=2, h_rt=6, SIGUSR1 caught": (State.FAILED, Reason.EXITED, 12, None),
    "h_cpu exceeded (1 s)": (State.FAILED, Reason.CPU_TIME, None, 9),
    # a limit of each process, which the program took as it liked
    "h_vmem exceeded: python allocates 300M with a limit of 100M": (State.FAILED, Reason.EXITED, 1, None),
    "h_vmem exceeded by several processes together": (State.FAILED, Reason.MEMORY, None, 9),
    "h_rss=50M is not enforced, 300M allocated": (State.DONE, Reason.EXITED, 0, None),
    "h_fsize exceeded": (State.FAILED, Reason.EXITED, 153, None),
    "-b y: command does not exist": (State.FAILED, Reason.EXITED, 127, None),
    "-S /bin/bash": (State.DONE, Reason.EXITED, 0, None),
    "PE job, smp 4": (State.DONE, Reason.EXITED, 0, None),
    "gpu=1, h_rt, account string, project none": (State.DONE, Reason.EXITED, 0, None),
    "qdel with -notify and SIGUSR2 caught (exit 5)": (State.FAILED, Reason.EXITED, 5, None),
    "running job deleted": (State.FAILED, Reason.SIGNALLED, None, 9),
    "exit code 100, job in Eqw": (State.FAILED, Reason.EXITED, 100, None),
    "Eqw, working directory does not exist": (State.FAILED, Reason.START_FAILURE, None, None),
    "Eqw, stdout path does not exist": (State.FAILED, Reason.START_FAILURE, None, None),
    "Eqw, stdout path not writable": (State.FAILED, Reason.START_FAILURE, None, None),
    "Eqw, shell does not exist": (State.FAILED, Reason.START_FAILURE, None, None),
    "Eqw, stdin file does not exist": (State.FAILED, Reason.START_FAILURE, None, None),
    "Eqw job, error cleared, then deleted while qw": (State.FAILED, Reason.START_FAILURE, None, None),
    "prolog failed": (State.FAILED, Reason.START_FAILURE, None, None),
    "job that ended while execd was down (then qdel)": (State.DONE, Reason.EXITED, 0, None),
}


def believed(queue: JobRow | None, accounting: JobRow | None, cancelled: bool = False) -> Verdict:
    """What is concluded long after the job was last seen."""
    run = Run(state=State.RUNNING, unseen_since=0.0, cancel_requested=cancelled)
    return judge(run, queue, accounting, None, now=1000.0, patience=15.0)


def accounted(scenario: str) -> JobRow:
    """The last record of a scenario."""
    [entry] = records(r"qacct -j \S+", re.escape(f"qacct -j: {scenario}"))
    return parse_records(entry.answer.out)[-1]


@pytest.mark.parametrize("scenario", ENDED)
def test_how_it_ended(scenario: str) -> None:
    verdict = believed(None, accounted(scenario))
    assert (verdict.state, verdict.reason, verdict.exitcode, verdict.signal) == ENDED[scenario]


@pytest.mark.parametrize("scenario", ["running job deleted", "Eqw, shell does not exist"])
def test_what_was_cancelled_is_not_tried_again(scenario: str) -> None:
    verdict = believed(None, accounted(scenario), cancelled=True)
    assert (verdict.state, verdict.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)


def listed(command: str, scenario: str) -> dict[str, State]:
    [entry] = records(command, scenario)
    return {jobid: row.state for jobid, row in sge().parse_queue(entry.answer).items()}


def test_running_and_pending_elements_of_arrays() -> None:
    states = listed("qstat -xml", "qstat -xml: running, pending array tasks, others")
    assert states.items() >= {
        "1": State.RUNNING, "3.4": State.STARTING, "3.6": State.STARTING, "3.7": State.QUEUED, "3.10": State.QUEUED,
        "4.8": State.QUEUED,
    }.items()  # fmt: skip
    assert "3" not in states
    assert "3.11" not in states


def test_held_jobs_and_elements() -> None:
    assert listed("qstat -xml", "qstat -xml: user hold") == {"64": State.RUNNING, "65": State.HELD}
    assert listed("qstat -xml", "qstat -xml: array partly released") == {
        "67.1": State.RUNNING, "67.2": State.STARTING, "67.3": State.HELD, "67.4": State.HELD,
    }  # fmt: skip


def test_suspended_job() -> None:
    assert listed("qstat -xml", "qstat -xml: suspended") == {"72": State.SUSPENDED}


@pytest.mark.parametrize(
    ("scenario", "letters", "state"),
    [
        ("qstat: rescheduled \\(Rq\\)", "Rq", State.REQUEUED),
        ("qstat: rescheduled, running again", "Rr", State.RUNNING),
        ("qstat: running and held \\(hr\\)", "hr", State.RUNNING),
        ("qstat: right after qdel of running job", "dr", State.RUNNING),
        ("not a submit host: qstat", "dt", State.STARTING),
        ("qstat: queue suspended \\(S\\)", "S", State.SUSPENDED),
        ("qstat: error state Eqw", "Eqw", State.HELD),
        ("qstat: system hold", "hqw", State.HELD),
    ],
)
def test_letters(scenario: str, letters: str, state: State) -> None:
    [entry] = records("qstat", scenario)
    assert re.search(rf"^ *\d+ \d\.\d+ \S+ +\S+ +{letters} ", entry.answer.out, re.MULTILINE)
    assert native_state(letters) is state


def test_a_job_in_error_is_held_whatever_the_accounting_says() -> None:
    [entry] = records("qstat -xml", "qstat -xml: error state Eqw")
    [why] = records("qstat -j 110", "qstat -j: Eqw, .*")
    answer = Completed(0, entry.answer.stdout + why.answer.stdout, b"")
    row = sge().parse_queue(answer)["110"]
    reason = 'can\'t open output file "/nosuch/dir/x.out": No such file or directory'
    assert (row.state, row.native_state) == (State.HELD, f"Eqw ({reason})")
    record_of_it = accounted("Eqw, stdout path does not exist")
    assert record_of_it.accounting.native["exit_status"] == "0"
    verdict = believed(row, record_of_it)
    assert verdict.state is State.HELD
    assert reason in verdict.native_state


def test_the_reason_of_one_element() -> None:
    [entry] = records("qstat -xml", "qstat -xml: array, one task in error")
    [why] = records("qstat -j 115")
    row = sge().parse_queue(Completed(0, entry.answer.stdout + why.answer.stdout, b""))["115.3"]
    assert row.state is State.HELD
    assert row.native_state.startswith("Eqw (can't open output file ")


def test_times_are_in_utc() -> None:
    [entry] = records("qacct -j 1", "qacct -j: finished")
    [row] = parse_records(entry.answer.out)
    used = row.accounting
    assert (used.submitted, used.started, used.ended) == (1795175226.0, 1795175226.0, 1795175235.0)
    [entry] = records("qstat -xml", "qstat -xml: running, pending array tasks, others")
    assert sge().parse_queue(entry.answer)["1"].accounting.started == 1795175226.0


def test_what_a_job_used() -> None:
    used = accounted("h_vmem exceeded by several processes together").accounting
    assert str(used.cpu_time) == "0.07 s"
    assert used.max_memory is not None
    assert round(used.max_memory.amount("MiB"), 3) == 205.793
    assert used.hosts == ("localhost",)
    assert accounted("PE job, smp 4").accounting.cores == 4
    never = accounted("Eqw, shell does not exist").accounting
    assert (never.started, never.ended, never.cpu_time, never.wall_time, never.hosts) == (None, None, None, None, ())


# --- accounting of jobs that were asked about ---------------------------------------------------------------------


def asked(listed: str, *answers: Record, old: str = "") -> dict[str, JobRow]:
    """Read records as if their jobs had names of ours, except for those with the name `old`."""
    out = b"".join(entry.answer.stdout for entry in answers).decode()
    out = re.sub(r"(?m)^(jobname +)(?!" + (old or "$") + r")\S+", rf"\1readable.{TOKEN}", out)
    return sge().parse_accounting(Completed(0, f"{listed}\n{out}".encode(), b""))


def test_all_elements_of_an_array() -> None:
    [entry] = records("qacct -j 3", "qacct -j: finished array")
    rows = asked("\n".join(f"3.{index} {TOKEN}/{index}" for index in range(1, 12)), entry)
    assert {jobid: row.exitcode for jobid, row in rows.items()} == {f"3.{index}": 0 for index in range(1, 11)}


def test_an_id_that_was_given_again() -> None:
    [older] = records("qacct -j 80")
    [newer] = records("qacct -j 79")
    newer = attrs.evolve(newer, answer=Completed(0, newer.answer.stdout.replace(b"  79 ", b"  80 "), b""))
    assert asked(f"80 {TOKEN}", older, newer)["80"].exitcode == 0
    # the newer job is somebody else's
    newer = attrs.evolve(newer, answer=Completed(0, re.sub(rb"(jobname +)\S+", rb"\1old.b2", newer.answer.stdout), b""))
    assert asked(f"80 {TOKEN}", older, newer, old="old")["80"].exitcode == 3
    assert asked(f"81 {TOKEN}", older) == {}
    assert asked("80 bcccccccccccccccc", older) == {}


def test_a_job_that_was_rescheduled_has_run_twice() -> None:
    [again] = records("qacct -j 74")
    assert asked(f"74 {TOKEN}", again) == {}, "it waits, runs, or was deleted: nothing tells how it ended"
    [ended] = records("qacct -j 80")
    ended = attrs.evolve(ended, answer=Completed(0, ended.answer.stdout.replace(b"  80 ", b"  74 "), b""))
    row = asked(f"74 {TOKEN}", again, ended)["74"]
    assert (row.exitcode, row.accounting.runs) == (3, 2)


def test_nothing_found_is_an_answer() -> None:
    backend = sge()
    for entry in [
        *records("qacct -j 1", ".*does not exist yet.*"),
        *records("qacct -j 134"),
        *records("qacct -j nosuchname"),
        *records("qacct -j '\\[12\\]'"),
    ]:
        assert entry.answer.exitcode == 1
        assert backend.parse_accounting(entry.answer) == {}


def test_a_missing_cell_is_none() -> None:
    [entry] = records("SGE_CELL=nocell qacct -j 1")
    with pytest.raises(SystemUnavailable, match=r"cell directory .* doesn't exist"):
        sge().parse_accounting(entry.answer)


# --- no answer is no evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "scenario"),
    [
        ("qstat -xml", "qmaster down: .*"),
        ("qstat -j 146 -xml", "qmaster down: .*"),
        ("qstat -j 9999 -xml", ".*"),
        ("qstat", "qmaster hangs.*"),
        (".*qstat", "act_qmaster missing"),
        (".*qstat", "host_aliases missing.*"),
        (".*/qstat", "raw binary without SGE_ROOT"),
        ("qstat", "qstat: no jobs"),
    ],
)
def test_what_is_no_listing(command: str, scenario: str) -> None:
    [entry] = records(command, scenario)
    with pytest.raises(SystemUnavailable, match="qstat does not answer"):
        sge().parse_queue(entry.answer)


def test_no_jobs_is_a_listing() -> None:
    [entry] = records("qstat -xml", "qstat -xml: no jobs")
    assert dict(sge().parse_queue(entry.answer)) == {}


# --- submission ---------------------------------------------------------------------------------------------------


def submissions() -> list[SgeRecord]:
    return [
        entry for entry in RECORDS if entry.word == "qsub" and ";" not in entry.command and "|" not in entry.command
    ]


def test_ids() -> None:
    found = {entry.command: sge().jobid_in(entry.answer.out) for entry in submissions()}
    assert found["qsub sleep.sh 8"] == "1"
    assert found["qsub -terse sleep.sh 8"] == "2"
    assert found["qsub -t 1-10 -tc 3 arr.sh"] == "3"
    assert found["qsub -terse -t 1-10 -tc 3 arr.sh"] == "4"
    assert found["qsub -terse -t 2-10:4 arr.sh"] == "5"
    assert found["qsub -terse -t 5 arr.sh"] == "6"


def test_refused_for_now_or_for_good() -> None:
    found: Counter[type[BackendError]] = Counter()
    for entry in submissions():
        answer = entry.answer
        if answer.exitcode == 0 or sge().jobid_in(answer.out):
            continue
        error = type(sge().submit_error(answer))
        if re.match("(qmaster (down|hangs)|act_qmaster|host_aliases)", entry.scenario):
            assert error is SystemUnavailable, entry
        elif "Error reading answer list" in answer.err:
            # what qsub makes of names with a blank, which ours never have; otherwise nobody could tell
            assert error is SubmissionUnclear
        else:
            assert error is SubmissionRefused, entry
        found[error] += 1
    assert found == {SubmissionRefused: 39, SystemUnavailable: 6, SubmissionUnclear: 2}


def test_limits_on_the_number_of_jobs() -> None:
    for text in (
        "Unable to run job: job rejected: only 1 jobs are allowed per user (current job count: 1)\nExiting.\n",
        "Unable to run job: job rejected: only 1 jobs are allowed per cluster\nExiting.\n",
    ):
        assert isinstance(sge().submit_error(Completed(25, b"", text.encode())), CapacityReached)


def test_a_missing_qsub() -> None:
    assert isinstance(sge().submit_error(Completed(127, b"", b"sh: 1: qsub: not found\n")), CommandNotFound)


# --- control ------------------------------------------------------------------------------------------------------


def control(entry: SgeRecord, action: Action, *ids: str, started: bool = False) -> dict[str, Outcome]:
    # xargs makes one exit code of all that are not fatal
    code = 123 if 0 < entry.answer.exitcode < 126 else entry.answer.exitcode
    answer = Completed(code, entry.answer.stdout, entry.answer.stderr)
    parts = {"control": answer, "started": Completed(0, f"{TOKEN}\n".encode() if started else b"", b"")}
    answers = sge().control_answers(action, [Job(jobid, TOKEN) for jobid in ids], parts)
    for told in answers.values():
        assert (told.error is None) is (told.outcome in (Outcome.DONE, Outcome.ALREADY_ENDED))
    return {jobid: told.outcome for jobid, told in answers.items()}


@pytest.mark.parametrize(
    ("command", "action", "outcomes"),
    [
        ("qdel 55", Action.CANCEL, {"55": Outcome.DONE}),
        ("qdel 57.6", Action.CANCEL, {"57.6": Outcome.DONE}),
        ("qdel 57.77", Action.CANCEL, {"57.77": Outcome.NOT_FOUND}),
        ("qdel 57", Action.CANCEL, {"57.1": Outcome.DONE, "57.2": Outcome.DONE}),
        ("qdel 59 99999 60", Action.CANCEL, {"59": Outcome.DONE, "99999": Outcome.NOT_FOUND, "60": Outcome.DONE}),
        ("qdel 99999", Action.CANCEL, {"99999.1": Outcome.NOT_FOUND, "99999.2": Outcome.NOT_FOUND}),
        ("qdel 63", Action.CANCEL, {"63": Outcome.REFUSED}),
        ("qdel 146", Action.CANCEL, {"146": Outcome.UNKNOWN}),
        ("qdel 1", Action.CANCEL, {"1": Outcome.REFUSED}),
        ("qdel 110", Action.CANCEL, {"110": Outcome.DONE}),
        ("qhold 65", Action.HOLD, {"65": Outcome.DONE}),
        ("qhold 63", Action.HOLD, {"63": Outcome.REFUSED}),
        ("qhold 99999", Action.HOLD, {"99999": Outcome.NOT_FOUND}),
        ("qhold 147", Action.HOLD, {"147": Outcome.UNKNOWN}),
        ("qhold -h o 66", Action.HOLD, {"66": Outcome.REFUSED}),
        ("qrls 67.1-2", Action.RELEASE, {"67.1": Outcome.DONE, "67.2": Outcome.DONE}),
        ("qrls 69", Action.RELEASE, {"69": Outcome.DONE}),
        ("qrls 147", Action.RELEASE, {"147": Outcome.UNKNOWN}),
        ("qmod -usj 72", Action.RESUME, {"72": Outcome.DONE}),
        ("qmod -sj 99999", Action.SUSPEND, {"99999": Outcome.NOT_FOUND}),
        ("qmod -sj 73", Action.SUSPEND, {"73": Outcome.REFUSED}),
        ("qmod -sj 146", Action.SUSPEND, {"146": Outcome.UNKNOWN}),
        ("qmod -rj 72", Action.REQUEUE, {"72": Outcome.REFUSED}),
        ("qmod -rj 74", Action.REQUEUE, {"74": Outcome.DONE}),
    ],
)
def test_outcomes(command: str, action: Action, outcomes: dict[str, Outcome]) -> None:
    for entry in records(command):
        assert control(entry, action, *outcomes) == outcomes


def test_suspending_again_and_somebody_elses_job() -> None:
    found = [control(entry, Action.SUSPEND, "72")["72"] for entry in records("qmod -sj 72")]
    assert found == [Outcome.DONE, Outcome.DONE, Outcome.REFUSED]


def test_a_job_that_qmaster_forgot_has_ended_if_it_ever_started() -> None:
    [entry] = records("qdel 99999")
    assert control(entry, Action.CANCEL, "99999", started=True) == {"99999": Outcome.ALREADY_ENDED}


def test_everybodys_jobs() -> None:
    [entry] = records("qstat -u '\\*' -xml")
    jobs = {job.jobid: job for job in parse_listing(entry.answer.out)}
    assert (jobs["1"].name, jobs["1"].owner, jobs["1"].queue) == ("sleep.sh", "hpc", "all.q")
    assert (jobs["1"].state, jobs["1"].native_state, jobs["1"].cores) == (State.RUNNING, "r", 1)
    assert jobs["1"].hosts == ("localhost",)
    assert jobs["4.10"].state is State.QUEUED
    assert jobs["4.10"].submitted_at == 1795175227.0
