"""What a real OpenPBS 23.06.06 printed, byte for byte, through the parsers that read it in earnest.

Every record is either read by what reads that command's answers, or is of a command that the backend never runs;
the counts show that none is passed over.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping

import attrs
import pytest

from batchlib.backends import pbs_text
from batchlib.backends.base import Action, JobInfo, Outcome
from batchlib.backends.native import Job
from batchlib.backends.pbs import PbsBackend
from batchlib.backends.pbs_family import listing
from batchlib.errors import CapacityReached, SubmissionRefused, SystemUnavailable
from batchlib.quantity import Duration, Memory
from batchlib.run import NativeDependency, Reason, State
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

RECORDS = load("openpbs-23.06.06.jsonl", PbsRecord)
NEWER = load("openpbs-master-cd7ab5eda-qstat.jsonl", PbsRecord)
#: Records of commands that the backend never runs, by the first word.
NOT_OURS = {"cat": 49, "ls": 39, "qselect": 10, "[as": 7, "qalter": 6, "qmove": 4, "tracejob": 2, "qmsg": 1}


def backend() -> PbsBackend:
    return PbsBackend("lab")


def read_qstat(entry: PbsRecord) -> None:
    if "Q" in entry.options:
        if entry.answer.exitcode == 0 and entry.options == "Qf":
            assert [queue.name for queue in backend().parse_queues(entry.answer)] == ["workq", "short"]
    elif "B" not in entry.options and "version" not in entry.options:
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
    for entry in [*RECORDS, *NEWER]:
        word = entry.words[0]
        if reader := READERS.get(word):
            reader(entry)
            handled[word] += 1
        else:
            left[word] += 1
    assert handled == {
        "qstat": 443 + 18, "qsub": 283, "qdel": 30, "qsig": 20, "qhold": 8, "qrls": 8, "qrerun": 3, "pbsnodes": 6
    }  # fmt: skip
    assert left == NOT_OURS
    assert handled.total() + left.total() == len(RECORDS) + len(NEWER) == 919 + 18


def records(scenario: str, command: str = ".*") -> list[PbsRecord]:
    return pick(RECORDS, scenario, command)


# --- by state -----------------------------------------------------------------------------------------------------

#: What the rows of a live job mean.
LIVE: Mapping[str, State] = {
    "queued-never-qstat": State.QUEUED,
    "queued-busy-qstat": State.QUEUED,
    "hold-qstat-f-released": State.QUEUED,
    "queue-stopped-f": State.QUEUED,
    "queue-maxrun-f": State.QUEUED,
    "momdown-qstat-f": State.QUEUED,
    # held by the system until other jobs have ended: nobody has to release it
    "array-depend-qstat": State.QUEUED,
    "depend-child-qstat-f": State.QUEUED,
    "hold-qstat-f": State.HELD,
    "hold-qstat-us": State.HELD,
    "wait-qstat-f": State.HELD,
    "stagein-missing2-f": State.HELD,
    # started again and again, until the server gave up
    "prologue-requeue-xf": State.REQUEUED_HELD,
    "mixed-qstat-f": State.RUNNING,
    "depend-parent-qstat-f": State.RUNNING,
    "hold-running-qstat-f": State.RUNNING,
    "sig-resume-qstat-f": State.RUNNING,
    "epilogue-qstat-f": State.RUNNING,
    "server-restart-f": State.RUNNING,
    # these have exit statuses: of runs before
    "qrerun-qstat": State.RUNNING,
    "mom-restart-f": State.RUNNING,
    "array-x-exit-parent": State.RUNNING,
    "sig-suspend-qstat-f": State.SUSPENDED,
    "sig-admin-suspend-qstat": State.SUSPENDED,
    "state-E-f": State.COMPLETING,
}

EXITED_0: End = (State.DONE, Reason.EXITED, 0, None)
OMITTED: End = (State.OMITTED, Reason.DEPENDENCY, None, None)


def exited(code: int) -> End:
    return State.FAILED, Reason.EXITED, code, None


def signalled(number: int) -> End:
    return State.FAILED, Reason.SIGNALLED, None, number


def failed(reason: Reason) -> End:
    return State.FAILED, reason, None, None


def cancelled(reason: Reason, signal: int | None = None) -> End:
    return State.CANCELLED, reason, None, signal


#: What is believed of a job that has ended.
ENDED: Mapping[str, End] = {
    "submit-directives-qstat": EXITED_0,
    "exit-exit0-xf": EXITED_0,
    "exit-exit256-xf": EXITED_0,
    "exit-exit3-xf": exited(3),
    "exit-exit255-xf": exited(255),
    "exit-false-xf": exited(1),
    "exit-notfound-xf": exited(127),
    "exit-syntax-xf": exited(2),
    "exit-execexit-xf": exited(7),
    "exit-execnotfound-xf": exited(254),
    "exit-execnotexec-xf": exited(254),
    "submit-S-missing-result": exited(254),
    # 128 + N, as the login shell tells it
    "exit-kill9self-xf": signalled(9),
    "exit-killTermself-xf": signalled(15),
    "exit-segv-xf": signalled(11),
    "cput-xf": signalled(9),
    # 256 + N, as PBS tells it
    "exit-killparent-xf": signalled(9),
    "exit-execkill-xf": signalled(9),
    "exit-pbskill-xf": signalled(9),
    "sig-TERM-xf": signalled(15),
    "sig-USR1-result": signalled(10),
    "walltime-xf": failed(Reason.WALLTIME),
    "walltime-script-xf": failed(Reason.WALLTIME),
    "mem-enforced-xf": failed(Reason.MEMORY),
    "mem-unenforced-xf": EXITED_0,
    "pvmem-xf": exited(1),
    "nohome-xf": failed(Reason.START_FAILURE),
    "prologue-abort-xf": failed(Reason.START_FAILURE),
    "epilogue-fails-xf": EXITED_0,
    # deleted while its epilogue ran: it had ended by itself
    "epilogue-xf": EXITED_0,
    "qdel-queued-xf": cancelled(Reason.CANCELLED_BY_SYSTEM),
    # only its comment tells who
    "qdel-running-xf": cancelled(Reason.CANCELLED_BY_USER, 15),
    "exit-trapterm-xf": cancelled(Reason.CANCELLED_BY_SYSTEM, 15),
    "qdel-after-42-xf": cancelled(Reason.CANCELLED_BY_SYSTEM, 15),
    "momdown-qdel-force-x": cancelled(Reason.CANCELLED_BY_SYSTEM),
    "depend-on-finished-or-unknown-xf": OMITTED,
    "depend-fail-result": OMITTED,
    "out-nosuchdir-xf": EXITED_0,
    "out-unwritable-xf": EXITED_0,
    "qrerun-xf": EXITED_0,
    "server-restart-xf": EXITED_0,
    "server-restart2-xf": exited(3),
    "serverkill-xf": EXITED_0,
    "mom-restart-xf": EXITED_0,
    "array-x-exit-sub0-f": exited(2),
    "array-x-exit-sub0-xf": exited(2),
    "array-x-exit-sub1-g": exited(3),
    "array-qdel-queued-subjob-f": cancelled(Reason.CANCELLED_BY_SYSTEM),
}
#: Scenarios with several jobs, of which those that could run did.
MIXED = {"depend-on-finished-or-unknown-xf", "depend-fail-result"}


@pytest.mark.parametrize("scenario", LIVE)
def test_live_jobs(scenario: str) -> None:
    found = {row.state for entry in records(scenario) for row in rows(backend(), entry).values()}
    assert found == {LIVE[scenario]}
    for entry in records(scenario):
        for row in rows(backend(), entry).values():
            # whatever the listing of ended jobs holds of it
            assert believed(row, row).state is LIVE[scenario]


@pytest.mark.parametrize("scenario", ENDED)
def test_ended_jobs(scenario: str) -> None:
    found = [row for entry in records(scenario, ".*-.*f.*") for row in rows(backend(), entry).values()]
    assert found
    if scenario in MIXED:
        assert {end(row) for row in found} == {ENDED[scenario], EXITED_0}
        return
    assert {end(row) for row in found} == {ENDED[scenario]}
    for row in found:
        verdict = believed(None, row)
        assert (verdict.state, verdict.reason) == ENDED[scenario][:2]
        assert (verdict.exitcode, verdict.signal) == ENDED[scenario][2:]
        assert verdict.native_state.startswith(("F", "X"))


def test_a_job_that_we_cancelled_was_cancelled_by_the_user() -> None:
    for scenario in ("qdel-queued-xf", "qdel-running-xf", "exit-trapterm-xf", "momdown-qdel-force-x"):
        [row] = rows(backend(), records(scenario, ".*-xf.*")[0]).values()
        verdict = believed(None, row, cancel_requested=True)
        assert (verdict.state, verdict.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)


def test_a_job_that_vanished_for_its_dependencies_is_omitted() -> None:
    waits_for = (NativeDependency("53.frontend", "ok"),)
    for entry in records("depend-fail-result", "qstat -xf 5[46].*"):
        [row] = rows(backend(), entry).values()
        assert believed(None, row, waits_for=waits_for).state is State.OMITTED


def test_elements_of_an_array_have_ends_of_their_own() -> None:
    [entry] = records("array-qdel-queued-subjob-final-full")
    found = rows(backend(), entry)
    assert {jobid: end(row) for jobid, row in found.items()} == {
        "3136[].frontend": exited(1),
        "3136[1].frontend": exited(7),
        "3136[2].frontend": exited(7),
        # never ran, though it is shown with the exit status of the array, and its time of start
        "3136[3].frontend": cancelled(Reason.CANCELLED_BY_SYSTEM),
    }
    assert found["3136[3].frontend"].accounting.started is None
    assert found["3136[1].frontend"].accounting.started is not None


def test_elements_that_have_not_begun_are_shown_with_what_their_array_did() -> None:
    [entry] = records("array-qstat-f", "qstat -tf '24.*'")
    found = {row.jobid: row for row in rows(backend(), entry).values()}
    assert [found[f"24[{index}].frontend"].state for index in range(1, 11)] == (
        [State.DONE] * 3 + [State.RUNNING] * 3 + [State.QUEUED] * 4
    )
    assert found["24[7].frontend"].accounting.started is None


def test_an_array_that_ended_well_may_have_elements_that_did_not() -> None:
    [entry] = records("array-finished-f", "qstat -xtf '24.*'")
    found = rows(backend(), entry)
    assert end(found["24[].frontend"]) == EXITED_0
    assert end(found["24[4].frontend"]) == exited(4)


# --- reading --------------------------------------------------------------------------------------------------


def test_folded_lines_and_values_with_line_ends() -> None:
    [entry] = records("qstat-states", "qstat -f 20.frontend")
    [unfolded] = records("qstat-states", "qstat -f -w 20.frontend")
    [(_, folded)] = pbs_text.parse_blocks(entry.answer.out)
    [(_, wide)] = pbs_text.parse_blocks(unfolded.answer.out)
    moving = {name for name in folded if name.startswith(("resources_used", "mtime"))}
    assert {name: value for name, value in folded.items() if name not in moving} == {
        name: value for name, value in wide.items() if name not in moving
    }
    assert folded["Variable_List"].endswith("PBS_O_QUEUE=workq,PBS_O_HOST=localhost")
    [(_, broken)] = pbs_text.parse_blocks(records("v-qstat", "qstat -xf 178.*")[0].answer.out)
    assert "A=l1\nl2,PBS_O_QUEUE=workq" in broken["Variable_List"]
    assert broken["Exit_status"] == "0"


def test_odd_names_are_kept_as_they_are() -> None:
    names = [row.name for entry in records("json-odd-text") for row in rows(backend(), entry).values()]
    assert names[:3] == ["123", "0123", "1e5"]
    assert {"1e400", "inf", "nan", "0x10", "1.", ".5", "+5", "1.10"} <= set(names)


def test_what_a_job_used() -> None:
    [entry] = records("qdel-running-xf", "qstat -xf 20.frontend")
    [row] = rows(backend(), entry).values()
    used = row.accounting
    assert used.wall_time == Duration("15 s")
    assert used.cpu_time == Duration.of(0, "s")
    assert used.max_memory == Memory("1392 KiB")
    assert (used.cores, used.hosts, used.runs) == (1, ("node01",), 1)
    assert (used.submitted, used.started, used.ended) == (1795175570.0, 1795175570.0, 1795175586.0)
    assert used.native["substate"] == "91"


def test_a_job_that_was_run_twice() -> None:
    [entry] = records("qrerun-xf")
    [row] = rows(backend(), entry).values()
    assert row.accounting.runs == 2


# --- no answer is no evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["qstat", "qstat 210.frontend", "qstat -f -F json 210.frontend", "qstat -x", "qstat -B"]
)
def test_a_listing_that_failed_is_no_empty_listing(command: str) -> None:
    [entry] = records("server-down", re.escape(command))
    with pytest.raises(SystemUnavailable, match="qstat does not answer: Connection refused"):
        backend().parse_queue(entry.answer)


@pytest.mark.parametrize("scenario", ["server-wrong-host", "server-wrong-port", "no-conf"])
def test_a_client_that_finds_no_server_is_no_empty_listing(scenario: str) -> None:
    for entry in records(scenario, ".*qstat.*"):
        with pytest.raises(SystemUnavailable):
            backend().parse_queue(entry.answer)


def replay(entry: PbsRecord, *, owned: bool) -> Completed:
    """Run the program that lists jobs with a command that prints what was recorded, and exits as it did."""
    out = entry.answer.out.replace("'", "'\\''")
    err = entry.answer.err.replace("'", "'\\''")
    command = f"sh -c 'printf %s \"$1\"; printf %s \"$2\" >&2; exit {entry.answer.exitcode}' sh '{out}' '{err}'"
    text = listing([command], owned=owned).replace('"$(id -un)"', "hpc")
    answer = subprocess.run(["/bin/sh"], input=text.encode(), capture_output=True, check=False)
    return Completed(answer.returncode, answer.stdout, answer.stderr)


@pytest.mark.parametrize(
    ("scenario", "command"),
    [
        ("array-finished-f", "qstat -xtf '24.*'"),
        ("array-qstat-f", "qstat -tf '24.*'"),
        ("v-qstat", "qstat -xf 178.*"),
        ("qdel-running-xf", "qstat -xf 20.frontend"),
        ("mixed-qstat-f", ".*"),
        ("array-finished-f", "qstat -xf '24.4.'"),
    ],
)
def test_what_is_left_out_before_it_is_sent_changes_nothing(scenario: str, command: str) -> None:
    [entry] = records(scenario, command)
    whole = rows(backend(), entry)
    answer = replay(entry, owned=True)
    assert backend().parse_queue(answer) == whole
    assert len(answer.out) < 0.7 * len(entry.answer.out)
    assert "Variable_List" not in answer.out


def test_other_peoples_jobs_are_left_out_unless_asked_for() -> None:
    [entry] = records("qdel-running-xf", "qstat -xf 20.frontend")
    other = attrs.evolve(
        entry, answer=Completed(0, entry.answer.stdout.replace(b"hpc@", b"hp@") + entry.answer.stdout, b"")
    )
    text = other.answer.out.replace("Job Id: 20.frontend", "Job Id: 19.frontend", 1)
    other = attrs.evolve(other, answer=Completed(0, text.encode(), b""))
    assert list(backend().parse_queue(replay(other, owned=True))) == ["20.frontend"]
    assert list(backend().parse_queue(replay(other, owned=False))) == ["19.frontend", "20.frontend"]


@pytest.mark.parametrize(
    ("scenario", "command", "known"),
    [
        ("mixed-qstat-f", ".*", ["23.frontend"]),
        ("finished-qstat-f", ".*", []),
        ("unknown-id", "qstat -f 999999.frontend", []),
    ],
)
def test_ids_that_are_unknown_or_have_ended_are_left_out(scenario: str, command: str, known: list[str]) -> None:
    [entry] = records(scenario, command)
    assert list(backend().parse_queue(replay(entry, owned=True))) == known


@pytest.mark.parametrize(
    ("scenario", "command"), [("server-down", "qstat"), ("illegal-id", "qstat 12a.b"), ("illegal-id", "qstat 'abc'")]
)
def test_a_server_that_does_not_answer_is_noticed_behind_the_filter(scenario: str, command: str) -> None:
    [entry] = records(scenario, re.escape(command))
    with pytest.raises(SystemUnavailable):
        backend().parse_queue(replay(entry, owned=True))


# --- submission ---------------------------------------------------------------------------------------------------


def submissions() -> list[PbsRecord]:
    return [entry for entry in RECORDS if entry.words[0] == "qsub" and "--version" not in entry.command]


def test_what_no_id_was_printed_for() -> None:
    kinds: Counter[str] = Counter()
    for entry in submissions():
        answer = entry.answer
        if re.search(r"^\d+(\[\])?\.frontend", answer.out, re.MULTILINE):
            continue
        error = backend().submit_error(answer)
        kinds[type(error).__name__] += 1
        if entry.scenario in ("server-down", "server-wrong-host"):
            assert isinstance(error, SystemUnavailable)
        elif entry.scenario == "queue-limit2":
            assert isinstance(error, CapacityReached)
        elif answer.exitcode:
            assert isinstance(error, SubmissionRefused), entry
            assert error.stderr == answer.err
    assert kinds == {"SubmissionRefused": 58, "SystemUnavailable": 2, "CapacityReached": 1, "SubmissionUnclear": 1}


def test_a_job_whose_end_was_waited_for_was_accepted_all_the_same() -> None:
    for scenario, code in (("submit-block-3", 3), ("submit-block-kill", 137)):
        [entry] = records(scenario)
        assert entry.answer.exitcode == code
        assert backend().jobid_in(entry.answer.out) == entry.answer.out.strip()


# --- control ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "command", "jobid", "outcome"),
    [
        ("qdel-queued", "qdel 22.*", "22.frontend", None),
        ("qdel-twice", ".*", "22.frontend", Outcome.ALREADY_ENDED),
        ("finished-qdel", ".*", "21.frontend", Outcome.ALREADY_ENDED),
        ("array-qdel-finished-subjob", ".*", "24[1].frontend", Outcome.ALREADY_ENDED),
        # its epilogue runs
        ("epilogue-qdel", ".*", "202.frontend", Outcome.ALREADY_ENDED),
        ("qdel-other-user", ".*", "20.frontend", Outcome.REFUSED),
        ("qdel-mixed", ".*", "999999.frontend", Outcome.NOT_FOUND),
        ("qdel-mixed", ".*", "21.frontend", None),
        ("array-qdel-nosuch", ".*", "24[77].frontend", Outcome.NOT_FOUND),
        ("other-server", "qdel.*", "1.otherserver", Outcome.NOT_FOUND),
        ("momdown-qdel-running", ".*", "208.frontend", Outcome.UNKNOWN),
    ],
)
def test_deleting(scenario: str, command: str, jobid: str, outcome: Outcome | None) -> None:
    [entry] = records(scenario, command)
    jobs = [Job(jobid, TOKEN), Job("999999.frontend", TOKEN)]
    found = backend().control_answers(Action.CANCEL, jobs, {"qdel": entry.answer})
    assert (found[jobid].outcome if jobid in found else None) is outcome


def test_a_server_that_is_down_deleted_nothing() -> None:
    [entry] = records("server-down", "qdel.*")
    with pytest.raises(SystemUnavailable, match="qdel does not answer"):
        backend().control_answers(Action.CANCEL, [Job("210.frontend", TOKEN)], {"qdel": entry.answer})


@pytest.mark.parametrize(
    ("scenario", "command", "outcome"),
    [
        ("hold-qhold", ".*", Outcome.DONE),
        ("hold-running-qhold", ".*", Outcome.DONE),
        ("hold-qrls-notheld", ".*", Outcome.DONE),
        ("hold-system-hold-by-user", ".*", Outcome.REFUSED),
        ("sig-user-suspend", ".*", Outcome.REFUSED),
        ("sig-suspend-again", ".*", Outcome.REFUSED),
        ("sig-resume-user", ".*", Outcome.REFUSED),
        ("sig-bad", ".*", Outcome.REFUSED),
        ("sig-queued-qsig", ".*", Outcome.REFUSED),
        ("sig-finished", ".*", Outcome.ALREADY_ENDED),
        ("array-hold-sub", ".*", Outcome.ALREADY_ENDED),
        ("qrerun-user", ".*", Outcome.REFUSED),
        ("qrerun-root", ".*", Outcome.DONE),
        ("unknown-id", "qhold.*", Outcome.NOT_FOUND),
        ("unknown-id", "qrls.*", Outcome.NOT_FOUND),
        ("unknown-id", "qsig.*", Outcome.NOT_FOUND),
        ("server-down", "qhold.*", Outcome.UNKNOWN),
        ("server-down", "qrls.*", Outcome.UNKNOWN),
        ("server-down", "qsig.*", Outcome.UNKNOWN),
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
        ("workq", True, True, None),
        ("short", True, False, Duration("10 min")),
    ]
    assert [(queue.running, queue.queued) for queue in found] == [(0, 0), (0, 0)]


def test_machines() -> None:
    [entry] = records("info", "pbsnodes -a")
    [node] = backend().parse_machines(entry.answer)
    assert (node.name, node.available, node.native_state) == ("node01", True, "free")
    assert (node.cores, node.free_cores, node.memory) == (16, 16, Memory("24684092 KiB"))
    [entry] = records("momdown-pbsnodes")
    [node] = backend().parse_machines(entry.answer)
    assert (node.available, node.native_state, node.free_cores) == (False, "down", 15)


def test_jobs_of_everybody() -> None:
    [entry] = records("array-qstat-f", "qstat -tf '24.*'")
    jobs = backend().parse_listing(entry.answer)
    assert [job.jobid for job in jobs] == [f"24[{index}].frontend" for index in range(4, 11)]
    assert jobs[0] == JobInfo(
        "24[4].frontend",
        "arr",
        "hpc",
        "workq",
        State.RUNNING,
        "R (Job run at Fri Nov 20 at 11:53 on (node01:ncpus=1))",
        1,
        1795175628.0,
        1795175631.0,
        ("node01",),
    )


def test_whether_there_is_a_history_is_the_servers_word() -> None:
    [entry] = records("info", "qstat -Bf")
    [(_, server)] = pbs_text.parse_blocks(entry.answer.out, "Server")
    assert server["job_history_enable"] == "True"
    assert server["state_count"].endswith("Begun:0 ")
