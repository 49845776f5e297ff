"""What a real Torque 6.1.3 printed, byte for byte, through the parsers that read it in earnest.

Every record is either read by what reads that command's answers, or is of a command that the backend never runs;
the counts show that none is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from batchlib.backends import pbs_text
from batchlib.backends.base import Action, Outcome
from batchlib.backends.native import Job
from batchlib.backends.torque import TorqueBackend
from batchlib.errors import SubmissionRefused, SystemUnavailable
from batchlib.quantity import Duration, Memory
from batchlib.run import Reason, State
from batchlib.transport.shell import Completed
from tests.life import End
from tests.unit.pbs_records import (
    TOKEN,
    PbsRecord,
    believed,
    end,
    read_control,
    read_deletion,
    read_listing,
    read_nodes,
    read_submission,
    rows,
)
from tests.unit.recorded import load, pick

RECORDS = load("torque-6.1.3.jsonl", PbsRecord)
#: Records of commands that the backend never runs, by the first word.
NOT_OURS = {"cat": 28, "ls": 14, "qselect": 5, "[as": 3, "qalter": 1, "qmove": 1}


def backend() -> TorqueBackend:
    return TorqueBackend("lab")


def read_qstat(entry: PbsRecord) -> None:
    if entry.options == "Qf":
        assert [queue.name for queue in backend().parse_queues(entry.answer)] == ["short", "workq"]
    elif not set(entry.options) & set("QB") and "version" not in entry.options:
        read_listing(backend(), entry)


READERS: Mapping[str, Callable[[PbsRecord], None]] = {
    "qstat": read_qstat,
    "qsub": lambda entry: read_submission(backend(), entry),
    "qdel": lambda entry: read_deletion(backend(), entry),
    "qhold": lambda entry: read_control(backend(), entry),
    "qrls": lambda entry: read_control(backend(), entry),
    "qsig": lambda entry: read_control(backend(), entry),
    "qrerun": lambda entry: read_control(backend(), entry),
    "pbsnodes": lambda entry: read_nodes(backend(), entry),
}


def test_every_record_is_read_or_of_a_command_that_is_not_ours() -> None:
    handled: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for entry in RECORDS:
        word = entry.words[0]
        if reader := READERS.get(word):
            reader(entry)
            handled[word] += 1
        else:
            left[word] += 1
    assert handled == {
        "qstat": 168, "qsub": 114, "qdel": 20, "qsig": 6, "pbsnodes": 5, "qhold": 4, "qrls": 3, "qrerun": 1
    }  # fmt: skip
    assert left == NOT_OURS
    assert handled.total() + left.total() == len(RECORDS) == 373


def records(scenario: str, command: str = ".*") -> list[PbsRecord]:
    return pick(RECORDS, scenario, command)


# --- by state -----------------------------------------------------------------------------------------------------

#: What the rows of a live job mean.
LIVE: Mapping[str, State] = {
    "queued-busy-f": State.QUEUED,
    # held by the system until another job has ended: nobody has to release it
    "depend-f": State.QUEUED,
    # started, but its machine was down
    "momdown-f": State.REQUEUED,
    "hold-f": State.HELD,
    "wait-f": State.HELD,
    "mixed-qstat-f": State.RUNNING,
    "sig-hold-running-f": State.RUNNING,
    "qrerun-f": State.RUNNING,
    "sig-suspend-f": State.SUSPENDED,
}

EXITED_0: End = (State.DONE, Reason.EXITED, 0, None)
KILLED: End = (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM, None, 15)
NEVER_RAN: End = (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM, None, None)


def exited(code: int) -> End:
    return State.FAILED, Reason.EXITED, code, None


def signalled(number: int) -> End:
    return State.FAILED, Reason.SIGNALLED, None, number


def failed(reason: Reason) -> End:
    return State.FAILED, reason, None, None


#: What is believed of a job that has ended.
ENDED: Mapping[str, End] = {
    "submit-directives-qstat": EXITED_0,
    "submit-crlf-result": EXITED_0,
    "submit-S-missing-result": exited(254),
    "exit-exit0-f": EXITED_0,
    "exit-exit3-f": exited(3),
    "exit-exit255-f": exited(255),
    "exit-notfound-f": exited(127),
    "exit-kill9self-f": signalled(9),
    "exit-killTermself-f": signalled(15),
    "exit-segv-f": signalled(11),
    # whoever did it, and whatever the signal was
    "qdel-running-f": KILLED,
    "exit-trapterm-f": KILLED,
    "exit-qsig-KILL-f": KILLED,
    "qdel-queued-f": NEVER_RAN,
    "limit-wall-f": failed(Reason.WALLTIME),
    "limit-wall2-f": failed(Reason.WALLTIME),
    "limit-cput-f": failed(Reason.CPU_TIME),
    # limits of the process: the command sees them itself
    "limit-mem-f": exited(1),
    "limit-vmem-f": exited(1),
    "limit-pvmem-f": exited(1),
    "out-nosuchdir-f": EXITED_0,
    "keep-completed-f": exited(3),
}


@pytest.mark.parametrize("scenario", LIVE)
def test_live_jobs(scenario: str) -> None:
    found = [row for entry in records(scenario) for row in rows(backend(), entry).values()]
    assert {row.state for row in found} == {LIVE[scenario]}
    assert {believed(row).state for row in found} == {LIVE[scenario]}


@pytest.mark.parametrize("scenario", ENDED)
def test_ended_jobs(scenario: str) -> None:
    found = [row for entry in records(scenario, ".*-f.*") for row in rows(backend(), entry).values()]
    assert {end(row) for row in found} == {ENDED[scenario]}
    for row in found:
        verdict = believed(row)
        assert (verdict.state, verdict.reason, verdict.exitcode, verdict.signal) == ENDED[scenario]
        assert verdict.native_state.startswith("C")


def test_a_job_that_we_cancelled_was_cancelled_by_the_user() -> None:
    for scenario in ("qdel-running-f", "qdel-queued-f"):
        [row] = rows(backend(), records(scenario)[0]).values()
        verdict = believed(row, cancel_requested=True)
        assert (verdict.state, verdict.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)


def test_dependencies() -> None:
    found = [end(row) for entry in records("depend-result") for row in rows(backend(), entry).values()]
    # afterok, afternotok and afterany a job that ended with 3
    assert found == [(State.OMITTED, Reason.DEPENDENCY, None, None), EXITED_0, EXITED_0]


def test_elements_of_an_array_have_states_and_ends_of_their_own() -> None:
    [entry] = records("array-qstat-f", "qstat -t -f '30.*'")
    begun = rows(backend(), entry)
    # the last ones are held by the limit of three at a time
    assert [row.state for row in begun.values()] == [State.DONE] * 3 + [State.RUNNING] * 3 + [State.QUEUED] * 4
    [entry] = records("array-finished-f")
    ended = rows(backend(), entry)
    assert [end(row) for row in ended.values()] == [
        EXITED_0, EXITED_0, EXITED_0, exited(4), EXITED_0, KILLED, NEVER_RAN, EXITED_0, NEVER_RAN, EXITED_0
    ]  # fmt: skip
    assert list(ended) == [f"30[{index}].frontend" for index in range(1, 11)]


def test_the_name_of_an_element_is_that_of_its_array() -> None:
    [entry] = records("array-finished-f")
    assert {row.name for row in rows(backend(), entry).values()} == {"arr"}


def test_an_array_itself_tells_no_end() -> None:
    [entry] = records("array-finished-parent-f")
    assert rows(backend(), entry)["30[].frontend"].state is State.UNDETERMINED


def test_what_a_job_used() -> None:
    [entry] = records("qdel-running-f")
    [row] = rows(backend(), entry).values()
    used = row.accounting
    assert (used.wall_time, used.max_memory) == (Duration("8 s"), Memory("0 B"))
    assert (used.cores, used.hosts, used.runs) == (1, ("frontend",), 1)
    assert (used.submitted, used.started, used.ended) == (1795178679.0, 1795178679.0, 1795178687.0)


def test_folded_lines() -> None:
    [entry] = records("qstat-states", "qstat -f 15.frontend")
    [unfolded] = records("qstat-states", "qstat -f1 15.frontend")
    assert pbs_text.parse_blocks(entry.answer.out) == pbs_text.parse_blocks(unfolded.answer.out)


# --- no answer is no evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "command"),
    [("server-down", "qstat"), ("server-down", "qstat 108.frontend"), ("trqauthd-down", "qstat")],
)
def test_a_listing_that_failed_is_no_empty_listing(scenario: str, command: str) -> None:
    [entry] = records(scenario, command)
    with pytest.raises(SystemUnavailable, match="qstat does not answer"):
        backend().parse_queue(entry.answer)


# --- submission ---------------------------------------------------------------------------------------------------


def test_what_no_id_was_printed_for() -> None:
    kinds: Counter[str] = Counter()
    for entry in RECORDS:
        if entry.words[0] != "qsub" or re.search(r"^\d+(\[\])?\.frontend|^Version", entry.answer.out, re.MULTILINE):
            continue
        error = backend().submit_error(entry.answer)
        kinds[type(error).__name__] += 1
        if entry.scenario in ("server-down", "trqauthd-down", "depend-unknown"):
            # one that depends on a job that is forgotten is asked for again: that job's own state tells more
            assert isinstance(error, SystemUnavailable)
        elif entry.answer.exitcode:
            assert isinstance(error, SubmissionRefused), entry
    assert kinds == {"SubmissionRefused": 27, "SystemUnavailable": 3, "SubmissionUnclear": 1}


# --- control ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "command", "jobid", "outcome"),
    [
        ("qdel-queued", ".*", "19.frontend", None),
        ("qdel-running", ".*", "15.frontend", None),
        ("qdel-completed", ".*", "15.frontend", Outcome.ALREADY_ENDED),
        ("qdel-other-user", ".*", "15.frontend", Outcome.REFUSED),
        ("unknown-id", "qdel.*", "999999", Outcome.NOT_FOUND),
        ("array-qdel-nosuch", ".*", "30[77]", Outcome.NOT_FOUND),
        ("keep-completed-expired-qdel", ".*", "108.frontend", Outcome.NOT_FOUND),
    ],
)
def test_deleting(scenario: str, command: str, jobid: str, outcome: Outcome | None) -> None:
    [entry] = records(scenario, command)
    found = backend().control_answers(Action.CANCEL, [Job(jobid, TOKEN)], {"qdel": entry.answer})
    assert (found[jobid].outcome if jobid in found else None) is outcome


def test_a_server_that_is_down_deleted_nothing() -> None:
    [entry] = records("server-down", "qdel.*")
    with pytest.raises(SystemUnavailable, match="qdel does not answer"):
        backend().control_answers(Action.CANCEL, [Job("108.frontend", TOKEN)], {"qdel": entry.answer})


@pytest.mark.parametrize(
    ("scenario", "command", "outcome"),
    [
        ("hold-qrls", ".*", Outcome.DONE),
        ("sig-hold-running", ".*", Outcome.DONE),
        ("sig-user-suspend", ".*", Outcome.REFUSED),
        ("sig-resume", ".*", Outcome.REFUSED),
        ("qrerun", ".*", Outcome.REFUSED),
        # these say nothing but by their exit code
        ("unknown-id", "qhold.*", Outcome.NOT_FOUND),
        ("unknown-id", "qrls.*", Outcome.NOT_FOUND),
        ("unknown-id", "qsig.*", Outcome.NOT_FOUND),
        ("server-down", "qhold.*", Outcome.UNKNOWN),
    ],
)
def test_controlling(scenario: str, command: str, outcome: Outcome) -> None:
    [entry] = records(scenario, command)
    answer = backend().control_answer(Action.HOLD, Job("1.frontend", TOKEN), entry.answer)
    assert answer.outcome is outcome
    assert (answer.error is None) is (outcome in (Outcome.DONE, Outcome.ALREADY_ENDED))


# --- monitoring ---------------------------------------------------------------------------------------------------


def test_queues_and_their_limits() -> None:
    [queues] = records("info", "qstat -Qf")
    [server] = records("info", "qstat -Bf")
    found = backend().parse_queues(Completed(0, queues.answer.stdout + server.answer.stdout, b""))
    assert [(queue.name, queue.open, queue.default, queue.max_walltime) for queue in found] == [
        ("short", True, False, Duration("10 min")),
        ("workq", True, True, None),
    ]


def test_machines() -> None:
    [entry] = records("info", "pbsnodes -a")
    [node] = backend().parse_machines(entry.answer)
    assert (node.name, node.available, node.native_state) == ("frontend", True, "free")
    assert (node.cores, node.free_cores, node.memory, node.load) == (16, 16, Memory("24684092 KiB"), 17.3)
    [entry] = records("momdown-pbsnodes")
    [node] = backend().parse_machines(entry.answer)
    assert (node.available, node.native_state) == (False, "down")


def test_jobs_of_everybody() -> None:
    [entry] = records("qstat-states", "qstat -f")
    # those that have ended are in the listing, too
    found = {job.jobid: (job.state, job.owner, job.queue, job.cores) for job in backend().parse_listing(entry.answer)}
    assert found == {
        "15.frontend": (State.RUNNING, "hpc", "workq", 1),
        "16.frontend": (State.QUEUED, "hpc", "workq", 16),
        "19.frontend": (State.QUEUED, "hpc", "workq", None),
    }
