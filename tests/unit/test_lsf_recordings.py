"""What a real volclava 2.2 printed, byte for byte, through the parsers that read it in earnest.

Every record of the recording is either read by what reads that command's answers, or is of a command that the
backend never runs; the counts show that none is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest

from batchlib.backends import lsf_history, lsf_text
from batchlib.backends.base import Action, Outcome
from batchlib.backends.lsf import LsfBackend
from batchlib.backends.native import Job
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

#: A day after the recording was made.
NOW = 1795262400.0
#: Records of commands that the backend never runs, by the first word.
NOT_OURS = {
    "cat": 49, "bpeek": 15, "ls": 11, "bmod": 6, "env": 5, "tail": 3, "bacct": 2, "lshosts": 2, "lsload": 2, "ps": 2,
    "busers": 1, "bswitch": 1, "grep": 1, "LSB_NTRIES=1": 1, "kill": 1, "pgrep": 1,
}  # fmt: skip


class LsfRecord(Record):
    """One command and its answer."""

    @property
    def words(self) -> list[str]:
        """The native command of the record that the backend uses too and what follows; else all of its words."""
        for part in re.split(r"&&|;", self.command):
            text = re.sub(r"^\s*(?:(?:env -i|timeout \d+|[A-Z_]+=(?:\"[^\"]*\"|\S+)) +)*", "", part)
            words = re.sub(r"^/opt/lsf/bin/", "", text).split()
            if words[:1] and words[0] in READERS:
                return words
        return self.command.split()

    @property
    def word(self) -> str:
        return self.words[0]


def lsf(answer: Completed) -> LsfBackend:
    return LsfBackend("lab", transport=Replay(answer))


# --- by command ---------------------------------------------------------------------------------------------------


def rows_in(entry: LsfRecord) -> list[JobRow]:
    found = [lsf_text.job_row(fields, NOW) for fields in lsf_text.parse_rows(entry.answer.out)]
    return [row for row in found if row is not None]


def read_bjobs(entry: LsfRecord) -> None:
    answer = entry.answer
    is_table = answer.out.startswith("JOBID   USER ") or "tail" in entry.words
    try:
        found = lsf(answer).parse_queue(answer)
    except SystemUnavailable:
        # another form than ours, a complaint, or nobody to answer
        assert not is_table or answer.exitcode
    else:
        assert is_table == bool(found)
    if is_table:
        rows = rows_in(entry)
        assert len(rows) == len(re.findall(r"^\d+ ", answer.out, re.MULTILINE)), "a line was passed over"
        assert all(row.state is not State.UNDETERMINED for row in rows)


def read_bhist(entry: LsfRecord) -> None:
    text = entry.answer.out
    found = lsf_history.parse_history(text, now=NOW)
    if "-l" in entry.words and text.startswith("\nJob <"):
        heads = re.findall(r"^Job <([\d\[\]]+)>", text, re.MULTILINE)
        ended = [head for head in heads if re.search(r": (Done|Exited|sbatchd startup; kill)", text)]
        assert set(found) == (set() if entry.scenario in ("brequeue", "wide") else set(ended))
    elif "l" not in "".join(entry.words):
        count = len(re.findall(r"^\d+(?:\[\d+\])? ", text, re.MULTILINE))
        names = lsf_history.parse_names(text)
        assert bool(names) == bool(count)
    lsf(entry.answer).parse_accounting(attrs.evolve(entry.answer, exitcode=0))


def read_bsub(entry: LsfRecord) -> None:
    backend = lsf(entry.answer)
    told = re.search(r"^Job <(\d+)> is submitted", entry.answer.out, re.MULTILINE)
    assert backend.jobid_in(entry.answer.out) == (told[1] if told else None)
    if not told:
        assert isinstance(backend.submit_error(entry.answer), BackendError)


def outcomes(entry: LsfRecord) -> dict[str, Outcome]:
    """What was said of each job that the answer names."""
    jobs = [
        Job(jobid, "b" * 16) for jobid in re.findall(r"^Job <([\d\[\]]+)>", entry.answer.out + entry.answer.err, re.M)
    ]
    answers = lsf(entry.answer).control_answers(Action.CANCEL, jobs, {"all": entry.answer})
    return {jobid: answer.outcome for jobid, answer in answers.items()}


def read_control(entry: LsfRecord) -> None:
    found = outcomes(entry)
    if entry.answer.exitcode == 0:
        assert set(found.values()) == {Outcome.DONE}


def read_machines(entry: LsfRecord) -> None:
    backend = lsf(entry.answer)
    if entry.answer.exitcode:
        with pytest.raises(SystemUnavailable):
            backend.parse_machines(entry.answer)
    else:
        hosts = re.findall(r"^frontend ", entry.answer.out, re.MULTILINE)
        assert len(backend.parse_machines(entry.answer)) == len(hosts)


def read_queues(entry: LsfRecord) -> None:
    backend = lsf(entry.answer)
    if entry.answer.exitcode:
        with pytest.raises(SystemUnavailable):
            backend.parse_queues(entry.answer)
    else:
        names = re.findall(r"^QUEUE: (\S+)", entry.answer.out, re.MULTILINE)
        assert [queue.name for queue in backend.parse_queues(entry.answer)] == names


def read_site(entry: LsfRecord) -> None:
    assert lsf_text.parse_site(entry.answer.out) is None
    if entry.word == "lsid":
        assert lsf(entry.answer).version() == "volclava project 2.2, Nov 20 2026"


READERS: Mapping[str, Callable[[LsfRecord], None]] = {
    "bjobs": read_bjobs,
    "bhist": read_bhist,
    "bsub": read_bsub,
    "bkill": read_control,
    "bstop": read_control,
    "bresume": read_control,
    "brequeue": read_control,
    "bhosts": read_machines,
    "bqueues": read_queues,
    "bparams": read_site,
    "lsid": read_site,
}

RECORDS = load("volclava-2.2.0-beta.jsonl", LsfRecord)


def test_every_record_is_read_or_of_a_command_that_is_not_ours() -> None:
    handled: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for entry in RECORDS:
        if reader := READERS.get(entry.word):
            reader(entry)
            handled[entry.word] += 1
        else:
            left[entry.word] += 1
    assert handled == {
        "bjobs": 302, "bsub": 203, "bhist": 59, "bkill": 37, "bstop": 9, "bresume": 7, "bhosts": 7, "bqueues": 6,
        "lsid": 4, "brequeue": 3, "bparams": 2,
    }  # fmt: skip
    assert left == NOT_OURS
    assert handled.total() + left.total() == len(RECORDS) == 742


def records(command: str, scenario: str | None = None) -> list[LsfRecord]:
    """Those whose command matches, in a scenario or all."""
    return [
        entry
        for entry in RECORDS
        if re.fullmatch(command, entry.command, re.DOTALL) and scenario in (None, entry.scenario)
    ]


# --- by state -----------------------------------------------------------------------------------------------------

#: The states in which the jobs of a scenario were seen, one after the other.
COURSES: Mapping[str, list[str]] = {
    "stop-resume": ["USUSP", "USUSP", "SSUSP", "RUN", "RUN"],
    "hold": ["PSUSP", "DONE"],
    "stop-pending": ["EXIT"],
    "kill-ignored": ["RUN"],
    "brequeue": ["RUN", "RUN"],
    "pend-resources": ["PEND"],
    "other-user": ["RUN"] * 3,
}
STATES = {
    "PEND": State.QUEUED,
    "PSUSP": State.HELD,
    "RUN": State.RUNNING,
    "USUSP": State.SUSPENDED,
    "SSUSP": State.SUSPENDED,
    "DONE": State.DONE,
    "EXIT": State.FAILED,
}


@pytest.mark.parametrize("scenario", COURSES)
def test_states_that_were_seen(scenario: str) -> None:
    rows = [row for entry in RECORDS if entry.scenario == scenario and entry.word == "bjobs" for row in rows_in(entry)]
    assert [row.native_state for row in rows] == COURSES[scenario]
    assert all(row.state is STATES[row.native_state] for row in rows)


def test_elements_of_an_array_have_the_index_in_their_name_only() -> None:
    [entry] = records('bjobs -w "25\\[2-4\\]"')
    assert {row.jobid: (row.name, row.state, row.accounting.hosts) for row in rows_in(entry)} == {
        "25[2]": ("arr", State.RUNNING, ("frontend",)),
        "25[3]": ("arr", State.RUNNING, ("frontend",)),
        "25[4]": ("arr", State.QUEUED, ()),
    }
    ended = {row.jobid: row.state for row in rows_in(records("bjobs -a 25")[0])}
    assert ended == {f"25[{n}]": State.DONE if n < 7 else State.FAILED for n in range(1, 11)}
    held = {row.jobid: row.native_state for row in rows_in(records("bjobs 1161", "array-stop")[-1])}
    assert held == {"1161[1]": "SSUSP", "1161[2]": "USUSP", "1161[3]": "RUN"}


def test_a_missing_host_shifts_no_column() -> None:
    rows = {row.jobid: row for row in rows_in(records("bjobs 25")[0])}
    assert rows["25[4]"].name == rows["25[3]"].name == "arr"
    assert rows["25[4]"].accounting.hosts == ()


def test_what_was_to_be_an_array_and_became_a_plain_job() -> None:
    for jobid, name in (("26", "big[1-1001]"), ("27", "bad[1-"), ("28", "bad[a]"), ("29", "bad[0-3]")):
        [entry] = records(f"bjobs -a -w {jobid}")
        [row] = rows_in(entry)
        assert (row.jobid, row.name) == (jobid, name)
        [check] = records(f"bjobs -A {jobid}")
        assert "is not found" in check.answer.err


def test_names_with_blanks_and_hostile_names() -> None:
    [entry] = records("bjobs -w", "wide")
    names = [row.name for row in rows_in(entry)]
    assert names[:3] == ["a_very_long_job_name_that_goes_beyond_the_column", "name with spaces", "b%J=c"]
    assert names[4:] == ["very_long_array_name"] * 2
    [entry] = records("bjobs -w 1164")
    [row] = rows_in(entry)
    assert (row.state, row.name) == (State.RUNNING, "x>, Status <DONE>, y")


def test_slots_on_one_host() -> None:
    [entry] = records("bjobs -w 1172")
    [row] = rows_in(entry)
    assert (row.accounting.hosts, row.accounting.cores) == (("frontend",), 3)


def test_what_a_job_used() -> None:
    [row] = rows_in(records("bjobs -W 1595")[0])
    used = row.accounting
    assert (str(used.cpu_time), used.max_memory, str(used.wall_time)) == ("0.01 s", None, "0 s")
    assert used.submitted == used.started == used.ended == 1795177234.0
    [running] = rows_in(records("bjobs -W 95")[0])
    assert running.accounting.cpu_time is None
    assert running.accounting.ended is None
    never = {row.jobid: row.accounting for row in rows_in(records("bjobs -W -a .*")[0])}["117"]
    assert (never.started, never.wall_time, never.hosts) == (None, None, ())
    assert never.ended == 1795175997.0


# --- ends ---------------------------------------------------------------------------------------------------------

HISTORY = {
    jobid: row
    for entry in RECORDS
    if entry.word == "bhist"
    for jobid, row in lsf_history.parse_history(entry.answer.out, now=NOW).items()
}

DONE = (State.DONE, Reason.EXITED, 0, None)
CANCELLED = (State.CANCELLED, Reason.CANCELLED_BY_USER)


def failed(
    reason: Reason, exitcode: int | None = None, signal: int | None = None
) -> tuple[State, Reason, int | None, int | None]:
    return State.FAILED, reason, exitcode, signal


#: How jobs ended, by their ids.
ENDS: Mapping[str, tuple[State, Reason | None, int | None, int | None]] = {
    "2": DONE,
    "3": failed(Reason.EXITED, 3),
    "9": DONE,
    "10": failed(Reason.EXITED, 3),
    "11": failed(Reason.EXITED, 127),
    "12": failed(Reason.EXITED, 126),
    "13": failed(Reason.SIGNALLED, signal=2),
    "14": failed(Reason.EXITED, 255),
    "18": failed(Reason.SIGNALLED, signal=9),
    "22": failed(Reason.SIGNALLED, signal=9),
    "23": failed(Reason.SIGNALLED, signal=11),
    "24": failed(Reason.SIGNALLED, signal=15),
    "25[7]": failed(Reason.EXITED, 1),
    "25[9]": (*CANCELLED, None, None),
    "31": (*CANCELLED, None, 2),
    "32": DONE,
    "33": (*CANCELLED, None, None),
    "34": failed(Reason.SIGNALLED, signal=15),
    "35": failed(Reason.SIGNALLED, signal=10),
    "36": (*CANCELLED, None, 2),
    "38": (*CANCELLED, None, 9),
    "44": DONE,
    "55": failed(Reason.WALLTIME, signal=12),
    # it trapped the signal, ran for twice its limit, and was let go
    "56": DONE,
    "59": DONE,
    # by the limit on memory: that it was, only shows in what it used
    "83": failed(Reason.SIGNALLED, signal=2),
    # nobody was there to see its end
    "152": failed(Reason.EXITED),
    "153": failed(Reason.EXITED, 3),
    # without the line that says who killed it, as all elements of arrays
    "1160[1]": failed(Reason.SIGNALLED, signal=2),
    "1162": failed(Reason.SIGNALLED, signal=9),
    "1169": (*CANCELLED, None, None),
}


def believed(queue: JobRow | None, accounting: JobRow | None, **known: Any) -> Verdict:
    """What is concluded long after the job was last seen."""
    run = Run(state=State.RUNNING, unseen_since=0.0, **known)
    return judge(run, queue, accounting, None, now=1000.0, patience=15.0)


@pytest.mark.parametrize("jobid", ENDS)
def test_how_a_job_ended(jobid: str) -> None:
    listed = {row.jobid: row for entry in RECORDS if entry.word == "bjobs" for row in rows_in(entry)}
    ended = listed[jobid] if jobid in listed and listed[jobid].state.final else None
    for queue in (ended, None):
        verdict = believed(queue, HISTORY[jobid])
        assert (verdict.state, verdict.reason, verdict.exitcode, verdict.signal) == ENDS[jobid]
        assert verdict.native_state


def test_an_end_without_its_reason_is_waited_for() -> None:
    [row] = rows_in(records("bjobs -a 10")[0])
    run = Run(state=State.RUNNING, unseen_since=0.0)
    assert judge(run, row, None, None, now=1.0, patience=15.0).state is State.ENDED_NO_STATUS
    ours = attrs.evolve(run, cancel_requested=True)
    verdict = judge(ours, row, None, None, now=20.0, patience=15.0)
    assert (verdict.state, verdict.reason) == CANCELLED


def test_done_is_not_believed_at_once() -> None:
    # a shell killed by a signal: LSF calls that DONE
    [row] = rows_in(records("bjobs -a 15", "killed-by-signal-9-self")[0])
    assert row.state is State.DONE
    run = Run(state=State.RUNNING, unseen_since=0.0)
    assert judge(run, row, HISTORY["15"], None, now=1.0, patience=15.0).state is State.ENDED_NO_STATUS


def test_memory_shows_in_what_a_job_used() -> None:
    [form] = records('bjobs -o "jobid stat mem swap cpu_used" 83')
    _, _, memory, swap, cpu = form.answer.out.splitlines()[1].split()
    line = (
        f"83      hpc     EXIT  short      frontend    frontend    ml         11/20-11:58:39 default    {cpu} {memory} "
        f"{swap} -  11/20-11:58:39 11/20-11:59:08"
    )
    [history] = [entry for entry in RECORDS if entry.scenario == "mem-limit-mb" and entry.word == "bhist"]
    answer = Completed(0, f"{line}\n{history.answer.out}".encode(), b"")
    row = lsf(answer).parse_accounting(answer)["83"]
    assert (row.state, row.reason, row.signal) == (State.FAILED, Reason.MEMORY, 2)
    assert str(row.accounting.max_memory) == "228400 KiB"


def test_a_history_without_an_end_is_none() -> None:
    [entry] = [entry for entry in RECORDS if entry.scenario == "brequeue" and entry.word == "bhist"]
    assert "Exited with exit code 130" in entry.answer.out
    assert lsf_history.parse_history(entry.answer.out) == {}


def test_times_of_a_history() -> None:
    used = HISTORY["56"].accounting
    assert (used.submitted, used.started, used.ended) == (1795175385.0, 1795175385.0, 1795175585.0)
    assert (str(used.wall_time), str(used.cpu_time), used.runs) == ("200 s", "0.3 s", 1)


def test_names_in_a_history() -> None:
    [entry] = records("bhist -w")
    assert lsf_history.parse_names(entry.answer.out) == {
        "a_very_long_job_name_that_goes_beyond_the_column": "95",
        "name": "96",
        "b%J=c": "97",
        "very_long_array_name": "98",
        "sleep": "99",
    }


# --- no answer is no evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["bjobs", "bjobs -a", "bjobs -u all", "bjobs -p", "bjobs -d", "bjobs -W -a"])
def test_no_jobs_is_an_answer(command: str) -> None:
    for entry in records(command):
        if not entry.answer.out:
            assert lsf(entry.answer).parse_queue(entry.answer) == {}


@pytest.mark.parametrize(
    ("command", "scenario"),
    [
        (".*bjobs -a", "mbatchd-down"),
        ("LSB_NTRIES=0 bjobs", "mbatchd-down"),
        ("LSB_NTRIES=1 bjobs", "lim-down"),
        ("timeout 20 bjobs", "lim-down"),
        ("env -i LSF_ENVDIR=/nonexistent .*", "env-missing"),
        ("bjobs -noheader .*", "customized"),
    ],
)
def test_a_listing_that_failed_is_no_empty_listing(command: str, scenario: str) -> None:
    entries = records(command, scenario)
    assert entries
    for entry in entries:
        with pytest.raises(SystemUnavailable, match="bjobs does not answer"):
            lsf(entry.answer).parse_queue(entry.answer)


def test_complaints_before_an_answer_do_not_matter() -> None:
    [entry] = records("bjobs 152", "mbatchd-killed-respawn")
    assert "still trying" in entry.answer.err
    assert lsf(entry.answer).parse_queue(entry.answer)["152"].state is State.RUNNING


def test_a_missing_command_is_said_to_be_missing() -> None:
    [entry] = records("bacct.*", "tool-commands")
    with pytest.raises(CommandNotFound, match="bacct: command not found"):
        lsf(entry.answer).parse_queue(entry.answer)


def test_history_that_can_not_be_read_is_no_answer() -> None:
    [entry] = records("env -i /opt/lsf/bin/bhist.*")
    with pytest.raises(SystemUnavailable, match=r"bhist does not answer: .*lsf\.conf.*setup = \. /PATH/TO/profile"):
        lsf(entry.answer).parse_accounting(entry.answer)
    empty = records("bhist -l 9999")[0].answer
    assert lsf(empty).parse_accounting(empty) == {}
    listing = records("bjobs")[0].answer
    assert lsf(empty).parse_lookup({"queue": listing, "history": empty}) == {}
    for parts in ({"queue": listing, "history": entry.answer}, {"queue": entry.answer, "history": empty}):
        with pytest.raises(SystemUnavailable):
            lsf(empty).parse_lookup(parts)


# --- submission ---------------------------------------------------------------------------------------------------


def test_jobs_that_were_accepted() -> None:
    accepted = [entry for entry in RECORDS if entry.word == "bsub" and "is submitted to" in entry.answer.out]
    found = [lsf(entry.answer).jobid_in(entry.answer.out) for entry in accepted if "-pack" not in entry.words]
    assert len(found) == 154
    assert None not in found


def test_what_no_id_was_printed_for() -> None:
    kinds: Counter[Kind] = Counter()
    for entry in RECORDS:
        if entry.word != "bsub" or lsf(entry.answer).jobid_in(entry.answer.out):
            continue
        error = lsf(entry.answer).submit_error(entry.answer)
        if entry.scenario in ("mbatchd-down", "lim-down"):
            assert isinstance(error, SystemUnavailable), entry
        elif entry.answer.exitcode == 0:
            # several jobs at once, in another form than ours: to be looked for, never to be tried again
            assert isinstance(error, SubmissionUnclear), entry
        else:
            assert isinstance(error, SubmissionRefused), entry
        kinds[error.kind] += 1
        assert (entry.answer.err.strip() or entry.answer.out.strip())[-1000:] in str(error)
    assert kinds == {Kind.PERMANENT: 44, Kind.UNCLEAR: 3, Kind.TRANSIENT: 2}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("User <a>: Pending job threshold reached. Job not submitted.", CapacityReached),
        ("No job Id can be used now. Job not submitted.", CapacityReached),
        ("LSF is down. Please wait ...", SystemUnavailable),
        ("Cannot connect to LSF. Please wait ...", SystemUnavailable),
        ("Request from non-LSF host rejected. Job not submitted.", SystemUnavailable),
        ("batch system daemon not responding ... still trying", SystemUnavailable),
        (
            "Failed in an LSF library call: Failed in sending/receiving a message: Connection reset by peer. "
            "Job not submitted.",
            SubmissionUnclear,
        ),
        ("Contacting batch daemon: Communication timeout. Job not submitted.", SubmissionUnclear),
        ("Job array index too large. Job not submitted.", SubmissionRefused),
    ],
)
def test_what_other_sites_were_seen_to_say(text: str, kind: type[BackendError]) -> None:
    assert type(lsf(Completed(255, b"", b"")).submit_error(Completed(255, b"", text.encode()))) is kind


# --- control ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "scenario", "expected"),
    [
        ("bkill 6 9999", None, {"6": Outcome.ALREADY_ENDED, "9999": Outcome.NOT_FOUND}),
        ('bkill "25\\[8,10\\]"', None, {"25[8]": Outcome.DONE, "25[10]": Outcome.DONE}),
        ("bkill 42", "other-user", {"42": Outcome.REFUSED}),
        ("bstop 42", "other-user", {"42": Outcome.REFUSED}),
        ("bkill 1160", "array-kill", {"1160": Outcome.DONE}),
        ("bstop 1161", "array-stop", {"1161": Outcome.DONE}),
        ("bresume 1161", "array-stop", {"1161": Outcome.DONE}),
        ("bkill 1169", "state-unkwn", {"1169": Outcome.DONE}),
        ("brequeue 138", "brequeue", {"138": Outcome.DONE}),
        ("brequeue 9999", "unknown-job", {"9999": Outcome.NOT_FOUND}),
        ("bkill -s USR1 35", "kill-signal", {"35": Outcome.DONE}),
        ("bkill 153", "clean-period", {"153": Outcome.NOT_FOUND}),
        (".*bkill 1", "mbatchd-down", {"1": Outcome.UNKNOWN}),
        (".*/brequeue 1595", "env-missing-each", {"1595": Outcome.ALREADY_ENDED}),
    ],
)
def test_what_became_of_a_request(command: str, scenario: str | None, expected: dict[str, Outcome]) -> None:
    assert outcomes(records(command, scenario)[0]) == expected


def test_a_job_that_nothing_was_said_of_is_unknown() -> None:
    answer = records("bkill 6 9999")[0].answer
    found = lsf(answer).control_answers(Action.CANCEL, [Job("7", "b" * 16)], {"all": answer})
    assert found["7"].outcome is Outcome.UNKNOWN


def test_a_signal_that_does_not_exist_is_refused() -> None:
    answer = records("bkill -s FOO 34")[0].answer
    found = lsf(answer).control_answers(Action.SIGNAL, [Job("34", "b" * 16)], {"all": answer})
    assert found["34"].outcome is Outcome.REFUSED


# --- the site -----------------------------------------------------------------------------------------------------


def test_queues_and_machines() -> None:
    queues = lsf(Completed(0, b"", b"")).parse_queues(records("bqueues -l")[0].answer)
    assert [(queue.name, queue.open, queue.default, str(queue.max_walltime)) for queue in queues] == [
        ("short", True, False, "10 min"),
        ("normal", True, True, "None"),
    ]
    parts = [records(command)[0].answer.out for command in ("bhosts", "lshosts", "lsload")]
    [machine] = lsf_text.parse_machines("".join(parts))
    assert (machine.name, machine.available, machine.native_state) == ("frontend", True, "ok")
    assert (machine.cores, machine.free_cores, str(machine.memory), machine.load) == (16, 16, "24105 MiB", 5.9)


def test_largest_array_of_the_site() -> None:
    [entry] = records("bparams -l")
    program = lsf(entry.answer)
    size = re.search(r"^ *MAX_JOB_ARRAY_SIZE *= *([0-9]*)", entry.answer.out, re.MULTILINE)
    assert size is not None
    found = lsf_text.parse_site(f"version={program.version()}\narray={size[1]}\n")
    assert found == lsf_text.Site(ibm=False, unit="", array_size=1000)
