"""Grid Engine's words and what they mean, and the command lines that ask for them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib import sandbox
from batchlib.application import Application, ArrayElement
from batchlib.array import ArraySpec, parse_array
from batchlib.backends import programs, sge_text
from batchlib.backends.base import Action, Outcome
from batchlib.backends.native import Job
from batchlib.backends.sge import SgeBackend, name_pattern
from batchlib.errors import (
    CommandNotFound,
    InvalidValue,
    SubmissionUnclear,
    SystemUnavailable,
    UnsupportedOperation,
)
from batchlib.run import NativeDependency, Reason, State
from batchlib.transport.shell import Completed

TOKEN = "b" * 16
#: States by their letters, as in sge_status(5) and in the table of native states.
STATES = {
    State.QUEUED: ["qw"],
    State.HELD: ["hqw", "Eqw", "Ehqw", "EhRqw"],
    State.REQUEUED: ["Rq", "Rqw"],
    State.REQUEUED_HELD: ["hRwq", "hRq"],
    State.STARTING: ["t", "Rt", "dt", "dRt"],
    State.RUNNING: ["r", "hr", "Rr", "dr", "dRr"],
    State.SUSPENDED: ["s", "ts", "S", "tS", "T", "tT", "Rs", "Rts", "RS", "RtS", "RT", "RtT", "ds", "dS", "dT", "dRs"],
    State.ENDED_NO_STATUS: ["z"],
    State.UNDETERMINED: ["", "d", "h", "x", "rx", "RUNNING", " ", "qw ", "é"],
}


@pytest.mark.parametrize(("state", "letters"), [(state, one) for state, found in STATES.items() for one in found])
def test_native_states(state: State, letters: str) -> None:
    assert sge_text.native_state(letters) is state


@pytest.mark.parametrize(
    ("failed", "status", "meaning"),
    [
        (0, 0, (State.DONE, Reason.EXITED, 0, None)),
        (0, 137, (State.FAILED, Reason.EXITED, 137, None)),
        (15, 0, (State.DONE, Reason.EXITED, 0, None)),  # the epilog failed, after the job
        (13, 4, (State.FAILED, Reason.EXITED, 4, None)),
        (30, 100, (State.FAILED, Reason.EXITED, 100, None)),
        (100, 143, (State.FAILED, Reason.SIGNALLED, None, 15)),
        (17, 137, (State.FAILED, Reason.SIGNALLED, None, 9)),
        (100, 0, (State.FAILED, Reason.NODE_FAILURE, None, None)),
        (19, 0, (State.FAILED, Reason.NODE_FAILURE, None, None)),
        (37, 137, (State.FAILED, Reason.WALLTIME, None, 9)),
        (25, 99, (State.REQUEUED, None, None, None)),
        (24, 0, (State.REQUEUED, None, None, None)),
        *[
            (number, 0, (State.FAILED, Reason.START_FAILURE, None, None))
            for number in (1, 8, 10, 11, 21, 26, 27, 28, 36)
        ],
        (99, 0, (State.UNDETERMINED, None, None, None)),
        (None, 0, (State.UNDETERMINED, None, None, None)),
        (0, None, (State.UNDETERMINED, None, None, None)),
    ],
)
def test_how_it_ended(
    failed: int | None, status: int | None, meaning: tuple[State, Reason | None, int | None, int | None]
) -> None:
    assert sge_text.how_it_ended(failed, status) == meaning


@pytest.mark.parametrize(
    ("category", "used", "reason"),
    [
        ("-l h_rt=60,h_vmem=1G -pe smp 2", {"ru_wallclock": "61s", "cpu": "1.0s"}, Reason.WALLTIME),
        ("-l h_rt=60,h_vmem=1G -pe smp 2", {"ru_wallclock": "12s", "cpu": "1.0s"}, Reason.MEMORY),
        ("-u me -l h_cpu=5,h_rt=60", {"ru_wallclock": "12", "cpu": "5.1"}, Reason.CPU_TIME),
        ("NONE", {"ru_wallclock": "12s", "cpu": "5.1s"}, Reason.WALLTIME),  # a limit of the queue
        ("-l h_rt=INFINITY", {}, Reason.WALLTIME),
    ],
)
def test_which_limit(category: str, used: dict[str, str], reason: Reason) -> None:
    assert sge_text.limit_reason({"category": category, **used}) is reason


def test_no_range_is_too_long_to_be_looked_up() -> None:
    entry = "<job_list><JB_job_number>4</JB_job_number><state>qw</state><tasks>1-999999999:2,77-77:1</tasks></job_list>"
    rows = sge_text.Rows(sge_text.parse_jobs(entry), {})
    assert rows["4.999999999"].state is State.QUEUED
    assert rows["4.77"].jobid == "4.77"
    assert len(rows) == 500_000_001
    for absent in ("4", "4.2", "4.", "4.x", "5.1", "", "."):
        assert absent not in rows
    [job] = sge_text.parse_listing(entry)
    assert job.jobid == "4.1-999999999:2,77-77:1"


names = st.sampled_from(
    ["JB_job_number", "state", "tasks", "JB_name", "JAT_start_time", "queue_name", "slots", "job_list", "name", "total"]
)
values = st.sampled_from(
    ["1", "4", "²", "9" * 5000, "qw", "Eqw", "r", "z", "3-1", "1-9:0", "1-9999999999", "a@b", "2026-11-20T11:47:06",
     "2026-13-20T11:47:06", "&amp;&#x0;&#xD800;", "<", ""]
)  # fmt: skip
elements = st.tuples(names, values | st.text(max_size=5)).map(lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>")
listings = st.lists(
    st.lists(elements, max_size=6).map(lambda found: f"<job_list state='x'>{''.join(found)}</job_list>")
)
keys = st.sampled_from(
    ["jobname", "jobnumber", "taskid", "failed", "exit_status", "start_time", "cpu", "maxvmem", "category", "slots"]
)
facts = st.sampled_from(
    ["1", "²", "9" * 5000, "-/-", "37  : x", "100 : assumedly after job", "137   (Killed)", "1.5s", "1e400", "-1s",
     "9.9TB", "Fri Nov 20 11:47:06 2026", "Fri Nov 99 11:47:06 2026", "11/20/2026 11:47:07.123", "-l h_rt=x,h_cpu=1",
     f"a.{TOKEN}", "undefined", "٣"]
)  # fmt: skip
blocks = st.lists(st.tuples(keys, facts | st.text(max_size=5)).map(" ".join), max_size=8).map("\n".join)
accounts = st.lists(blocks, max_size=4).map(("\n" + "=" * 62 + "\n").join)


@given(st.text() | listings.map("".join))
def test_no_text_breaks_the_parsers_of_listings(text: str) -> None:
    rows = sge_text.Rows(sge_text.parse_jobs(text), sge_text.parse_reasons(text))
    for jobid, _ in zip(rows, range(50), strict=False):
        assert rows[jobid].jobid == jobid
    sge_text.parse_queues(text)
    sge_text.parse_machines(text)


@given(st.text() | accounts)
def test_no_text_breaks_the_parser_of_records(text: str) -> None:
    for row in sge_text.parse_records(text):
        assert row.exitcode is None or row.signal is None
        assert row.state is not State.DONE or row.exitcode == 0


@given(st.text(max_size=10) | st.from_regex(r"\A[0-9,:-]{0,20}\Z"))
def test_no_text_breaks_the_parser_of_indices(text: str) -> None:
    assert all(indices.step > 0 for indices in sge_text.parse_tasks(text))


@given(
    st.binary() | st.from_regex(rb'\A(hpc has deleted |denied: |job |task |"?[0-9.]{1,5}"?| |\n|qmaster){0,20}\Z'),
    st.binary(max_size=20),
    st.integers(0, 255),
)
def test_no_answer_is_more_than_an_answer_or_an_error(out: bytes, err: bytes, code: int) -> None:
    backend, answer = SgeBackend("lab"), Completed(code, out, err)
    for parse in (backend.parse_queue, backend.parse_listing, backend.parse_machines, backend.parse_accounting):
        with contextlib.suppress(SystemUnavailable, CommandNotFound):
            parse(answer)
    jobs = [Job(jobid, TOKEN) for jobid in ("1", "2.3", "45")]
    try:
        answers = backend.control_answers(Action.HOLD, jobs, {"control": answer, "started": Completed(0, b"", b"")})
    except CommandNotFound:
        assert code == 127
    else:
        assert set(answers) == {"1", "2.3", "45"}
    assert str(backend.submit_error(answer))


def test_an_answer_that_was_cut_is_none() -> None:
    whole = b"<?xml version='1.0'?>\n<job_info>\n<queue_info>\n</queue_info>\n<job_info>\n</job_info>\n</job_info>\n"
    assert dict(SgeBackend("lab").parse_queue(Completed(0, b"Welcome!\n" + whole, b"noise"))) == {}
    for cut in (b"", whole[:60], b"Welcome!\n"):
        with pytest.raises(SystemUnavailable):
            SgeBackend("lab").parse_queue(Completed(0, cut, b""))
    with pytest.raises(CommandNotFound):
        SgeBackend("lab").parse_queue(Completed(127, b"", b"qstat: not found"))


def test_other_peoples_names_do_not_matter() -> None:
    # qstat prints the first of these so
    text = "".join(
        f"<job_list><JB_job_number>{number}</JB_job_number><JB_name>{name}</JB_name><state>r</state></job_list>"
        for number, name in enumerate(["x%lt;y&gt;&amp;z", "\x01\x02", "&bogus;", "</job>", "a.b"])
    )
    found = {job.number: job.fields.get("JB_name") for job in sge_text.parse_jobs(text)}
    assert found == {"0": "x%lt;y>&z", "1": "\x01\x02", "2": "&bogus;", "3": None, "4": "a.b"}


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Pretended commands that write down how they were called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("qstat", "qacct", "qdel", "qhold", "qrls", "qmod", "qhost", "qconf", "qsub"):
        pretend(tmp_path, name, "")
    return tmp_path


def pretend(directory: Path, name: str, text: str) -> None:
    program = directory / "bin" / name
    told = f"{{ printf '%s' {name}; printf ' <%s>' \"$@\"; echo; }} >> {directory}/calls"
    program.write_text(f"#!/bin/sh\n{told}\n{text}\n")
    program.chmod(0o755)


def run(text: str, directory: Path, **variables: str) -> Completed:
    environment = {"PATH": f"{directory}/bin:{os.environ['PATH']}", **variables}
    done = subprocess.run("/bin/sh", input=text.encode(), env=environment, capture_output=True, check=False)
    return Completed(done.returncode, done.stdout, done.stderr)


def calls(text: str, directory: Path) -> list[str]:
    assert run(text, directory).exitcode == 0
    return (directory / "calls").read_text().splitlines()


def user() -> str:
    return subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()


def test_one_listing_for_all_jobs(commands: Path) -> None:
    jobs = [Job(str(number), TOKEN) for number in range(5000)]
    assert calls(SgeBackend("lab").queue_command(jobs), commands) == [f"qstat <-xml> <-s> <prs> <-u> <{user()}>"]


def test_one_more_question_for_the_jobs_in_error(commands: Path) -> None:
    entry = "<job_list state='pending'>\\n  <JB_job_number>%d</JB_job_number>\\n  <state>%s</state>\\n</job_list>\\n"
    states = [(7, "Eqw"), (8, "qw"), (9, "Ehqw"), (9, "Eqw")]
    printed = "".join(entry % pair for pair in states) + "</job_info>\\n"
    told = "job_number:   7\\nuid:   5\\nerror reason          1:      11/20/2026 11:54:04 [1:2]: error: no luck\\n"
    pretend(commands, "qstat", f"case $1 in -j) printf '{told}' ;; *) printf '{printed}' ;; esac")
    program = SgeBackend("lab").queue_command([])
    answer = run(program, commands)
    rows = SgeBackend("lab").parse_queue(answer)
    assert {jobid: row.native_state for jobid, row in rows.items()} == {"7": "Eqw (no luck)", "8": "qw", "9": "Eqw"}
    assert (commands / "calls").read_text().splitlines()[1:] == ["qstat <-j> <7,9>"]


def test_the_reason_is_not_worth_the_listing(commands: Path) -> None:
    printed = "<job_list><JB_job_number>7</JB_job_number>\\n<state>Eqw</state></job_list></job_info>\\n"
    pretend(commands, "qstat", f"case $1 in -j) exit 1 ;; *) printf '{printed}' ;; esac")
    answer = run(SgeBackend("lab").queue_command([]), commands)
    assert SgeBackend("lab").parse_queue(answer)["7"].state is State.HELD


def test_a_client_that_hangs_is_given_up(commands: Path) -> None:
    pretend(commands, "qstat", "exec sleep 100")
    backend = SgeBackend("lab", timeout="2 s")
    answer = run(backend.queue_command([]), commands)
    with pytest.raises(SystemUnavailable):
        backend.parse_queue(answer)
    pretend(commands, "qdel", "exec sleep 100")
    backend._spool = str(commands)
    parts = {name: run(text, commands) for name, text in backend.control_commands(Action.CANCEL, JOBS[:1], "").items()}
    assert backend.control_answers(Action.CANCEL, JOBS[:1], parts)["12"].outcome is Outcome.UNKNOWN


def test_a_submission_that_hangs_is_unclear(commands: Path) -> None:
    pretend(commands, "qsub", "exec sleep 100")
    backend = SgeBackend("lab", timeout="2 s")
    answer = submitted(backend, commands)
    assert isinstance(backend.submit_error(answer), SubmissionUnclear)
    assert (commands / "spool" / TOKEN).exists(), "it may have been accepted all the same"


def submitted(backend: SgeBackend, commands: Path, **variables: str) -> Completed:
    """What a pretended qsub answers."""
    (commands / "spool" / TOKEN / ".batchlib").mkdir(parents=True)
    program = programs.submit(
        str(commands / "spool"),
        [(TOKEN, " ".join(backend.submit_words(Application(["true"]))))],
        outer=backend.outer_variables,
        kept=backend.kept_variables,
        give_up=backend.transient_submit,
        limit=backend.limit,
    )
    text = program.text.replace("tar -xpf -", "true")
    return program.split(run(text, commands, **variables))[TOKEN]


def test_the_variables_of_an_outer_job_stay_behind(commands: Path) -> None:
    pretend(commands, "qsub", "env")
    outer = {"JOB_ID": "7", "SGE_TASK_ID": "3", "SGE_O_HOME": "/x", "NSLOTS": "2", "PE_HOSTFILE": "/y"}
    kept = {"SGE_ROOT": "/opt/sge", "SGE_CELL": "lab", "SGE_QMASTER_PORT": "6444", "JOBS": "4"}
    told = submitted(SgeBackend("lab"), commands, **outer, **kept).out.splitlines()
    assert {f"{name}={value}" for name, value in kept.items()} <= set(told)
    assert not {line.partition("=")[0] for line in told} & outer.keys()


JOBS = [Job("12", TOKEN), Job("57.6", f"{TOKEN[:-1]}c/6")]


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (Action.CANCEL, ["qdel <12> <57.6>"]),
        (Action.HOLD, ["qhold <12> <57.6>"]),
        (Action.RELEASE, ["qrls <12> <57.6>", "qmod <-cj> <12> <57.6>"]),
        (Action.SUSPEND, ["qmod <-sj> <12> <57.6>"]),
        (Action.RESUME, ["qmod <-usj> <12> <57.6>"]),
        (Action.REQUEUE, ["qmod <-rj> <12> <57.6>"]),
    ],
)
def test_control(commands: Path, action: Action, told: list[str]) -> None:
    backend = SgeBackend("lab")
    backend._spool = str(commands)
    (commands / JOBS[1].token / ".batchlib").mkdir(parents=True)
    (commands / JOBS[1].token / ".batchlib/owner").touch()
    parts = backend.control_commands(action, JOBS, "")
    assert calls(parts["control"], commands) == told
    assert run(parts["started"], commands).out.split() == [JOBS[1].token]


def test_no_signals() -> None:
    with pytest.raises(UnsupportedOperation, match="sge can't signal jobs"):
        SgeBackend("lab").control_commands(Action.SIGNAL, JOBS, "USR1")
    assert not SgeBackend("lab").supports("signal")


def test_dependencies_are_left_to_the_engine() -> None:
    # a job that waits for another one starts after any end of it
    assert not SgeBackend("lab").supports("dependency")
    assert SgeBackend("lab").native_dependency([NativeDependency("1", "ok")]) == ""


def test_queues_and_machines(commands: Path) -> None:
    summary = "<cluster_queue_summary><name>%s</name><used>2</used><total>16</total><temp_disabled>%d</temp_disabled>"
    summary += "<manual_intervention>0</manual_intervention></cluster_queue_summary>"
    xml = f"<job_info>{summary % ('all.q', 0)}{summary % ('off.q', 16)}</job_info>"
    pretend(commands, "qstat", f"echo '{xml}'")
    pretend(
        commands, "qconf", "printf 'qname all.q\\nslots 16\\nh_rt 24:00:00,[@big=48:00:00]\\nqname off.q\\nh_rt 60\\n'"
    )
    answer = run(SgeBackend("lab").queues_command(), commands)
    found = {queue.name: (queue.open, str(queue.max_walltime)) for queue in SgeBackend("lab").parse_queues(answer)}
    assert found == {"all.q": (True, "1 d"), "off.q": (False, "1 min")}
    host = "<host name='%s'><hostvalue name='num_proc'>8</hostvalue><hostvalue name='load_avg'>%s</hostvalue>"
    host += "<hostvalue name='mem_total'>23.5G</hostvalue>%s</host>"
    queue = "<queue name='{0}'><queuevalue qname='{0}' name='slots_used'>{1}</queuevalue>"
    queue += "<queuevalue qname='{0}' name='slots'>{2}</queuevalue>"
    queue += "<queuevalue qname='{0}' name='state_string'>{3}</queuevalue></queue>"
    hosts = [
        ("global", "-", ""),
        ("n1", "0.52", queue.format("all.q", 3, 16, "") + queue.format("big.q", 2, 8, "d")),
        ("n2", "-", queue.format("all.q", 0, 16, "au")),
        ("n3", "1.0", ""),
    ]
    text = "<qhost>" + "".join(host % one for one in hosts) + "</qhost>"
    machines = SgeBackend("lab").parse_machines(Completed(0, text.encode(), b""))
    assert [(one.name, one.available, one.native_state, one.cores, one.free_cores) for one in machines] == [
        ("n1", True, "d", 16, 11),
        ("n2", False, "au", 16, 16),
        ("n3", False, "", 8, None),
    ]


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobname", "start"),
    [("1abc", "j1abc."), ("_7", "j7."), ("a b/c", "a_b_c."), ("ü", TOKEN), ("", TOKEN), ("x:@*", "x.")],
)
def test_names_start_with_no_digit(jobname: str, start: str) -> None:
    name = SgeBackend("lab").unique_name(jobname, TOKEN)
    assert name.startswith(start)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name)
    assert sandbox.token_in(name) == TOKEN


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_a_pattern_covers_its_names(numbers: list[int]) -> None:
    tokens = [sandbox.new_token() for _ in numbers]
    pattern = name_pattern(tokens)
    for token in tokens:
        assert fnmatchcase(f"readable.{token}", pattern)
        assert fnmatchcase(token, pattern)
    assert not fnmatchcase(f"{tokens[0]}x", pattern)
    if len(tokens) == 1:
        assert not fnmatchcase(f"a.{sandbox.new_token()}", pattern)


def test_accounting_is_asked_for_many_jobs_at_a_time(commands: Path) -> None:
    tokens = [sandbox.new_token() for _ in range(100)]
    jobs = [Job(str(number), token) for number, token in enumerate(tokens)]
    jobs += [Job(f"500.{index}", f"{tokens[0]}/{index}") for index in range(50)]
    backend = SgeBackend("lab")
    text = backend.accounting_command(jobs)
    assert text is not None
    asked = calls(text, commands)
    assert len(asked) == 4, "an array is one job"
    patterns = [call.removeprefix("qacct <-j> <").removesuffix(">") for call in asked]
    assert all(any(fnmatchcase(f"x.{token}", pattern) for pattern in patterns) for token in tokens)


def test_records_of_jobs_that_were_not_asked_for() -> None:
    other = sandbox.new_token()
    record = "=" * 62 + "\njobname      a.{}\njobnumber    {}\ntaskid       {}\nfailed       0\nexit_status  {}\n"
    listed = f"7 {TOKEN}\n8.2 {TOKEN}/2\n"
    out = "".join(
        record.format(*row)
        for row in [
            (TOKEN, 7, "undefined", 1),
            (other, 7, "undefined", 2),
            (TOKEN, 8, 2, 3),
            (TOKEN, 8, 3, 4),
            (other, 9, 1, 5),
        ]
    )
    rows = SgeBackend("lab").parse_accounting(Completed(1, (listed + out).encode(), b"error: job name *b not found\n"))
    assert {jobid: row.exitcode for jobid, row in rows.items()} == {"7": 1, "8.2": 3}


def test_a_site_without_qacct_has_no_accounting() -> None:
    assert SgeBackend("lab").parse_accounting(Completed(127, b"7 b\n", b"sh: 1: qacct: not found\n")) == {}


def test_a_name_that_is_looked_up_is_found_in_either_place() -> None:
    backend = SgeBackend("lab")
    queued = f"<job_list><JB_job_number>12</JB_job_number><JB_name>a.{TOKEN}</JB_name><state>qw</state>"
    queue = Completed(0, f"{queued}<tasks>1-3:1</tasks></job_list></job_info>".encode(), b"")
    record = f"{'=' * 62}\njobname    b.{TOKEN}\njobnumber  13\ntaskid     2\nfailed 0\nexit_status 0\n"
    ended = Completed(0, record.encode(), b"")
    nothing = Completed(1, b"", b"error: job name *[b] not found\n")
    down = Completed(1, b"", b"error: commlib error: got select error (Connection refused)\n")
    assert backend.parse_lookup({"queue": queue, "accounting": ended}) == {f"a.{TOKEN}": "12", f"b.{TOKEN}": "13"}
    assert backend.parse_lookup({"queue": queue, "accounting": nothing}) == {f"a.{TOKEN}": "12"}
    missing = Completed(127, b"", b"qacct: not found")
    assert backend.parse_lookup({"queue": queue, "accounting": missing}) == {f"a.{TOKEN}": "12"}
    for bad in ({"queue": down, "accounting": ended}, {"queue": queue, "accounting": down}):
        with pytest.raises(SystemUnavailable):
            backend.parse_lookup(bad)


@pytest.mark.parametrize(
    ("text", "jobid"),
    [
        ("12\n", "12"),
        ("Welcome!\n\n 12\r\nBye\n", "12"),
        ("3.1-10:2\n", "3"),
        ('Your job 1 ("a (b)") has been submitted\n', "1"),
        ('Your job-array 3.1-10:1 ("arr.sh") has been submitted\n', "3"),
        ("3.1\n", None),
        ("job 12\n", None),
        ("12 jobs are running\n", None),
        ("", None),
    ],
)
def test_the_id_in_the_answer(text: str, jobid: str | None) -> None:
    assert SgeBackend("lab").jobid_in(text) == jobid


# --- arrays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "native"),
    [("1-10", "1-10:1"), ("2-10:4", "2-10:4"), ("3,5,7%2", "3-7:2 -tc 2"), ("5", "5-5:1"), ("8-9%1", "8-9:1 -tc 1")],
)
def test_arrays(indices: str, native: str) -> None:
    spec = parse_array(indices)
    assert SgeBackend("lab").takes_array(spec)
    assert SgeBackend("lab").native_array(spec) == native


@pytest.mark.parametrize("indices", ["0-3", "1,2,4", "1-3,7"])
def test_arrays_that_become_single_jobs(indices: str) -> None:
    assert not SgeBackend("lab").takes_array(parse_array(indices))


def test_an_array_in_the_script() -> None:
    app = Application(["true"], array=ArrayElement("a", 2))
    text = SgeBackend("lab").script(app, TOKEN, "/spool", ArraySpec((2, 4, 6), 2))
    assert "#$batchlib -t 2-6:2 -tc 2\n#$batchlib -o $TASK_ID/.batchlib/log\n" in text
    assert f'batchlib_sandbox=/spool/{TOKEN}/"$SGE_TASK_ID"\n' in text
    assert 'batchlib_jobid="$JOB_ID.$SGE_TASK_ID"\n' in text
    backend = SgeBackend("lab")
    assert backend.element_jobid("57", 6) == "57.6"
    assert backend.array_jobid("57.6") == "57"


# --- what is asked for --------------------------------------------------------------------------------------------


def header(settings: dict[str, object] | None = None, **keys: object) -> list[str]:
    app = Application(["true"], jobname="1 job; rm -rf", **keys)  # type: ignore[arg-type]
    text = SgeBackend("lab", **(settings or {})).render(app)
    return [line.removeprefix("#$batchlib ") for line in text.splitlines() if line.startswith("#$batchlib ")]


def test_what_every_job_says() -> None:
    assert header({"shell": "/bin/bash -l"}) == [
        "-N j1_job_rm_-rf.TOKEN",
        "-S /bin/bash",
        "-cwd -j y",
        "-o .batchlib/log",
        "-r n",
    ]


@pytest.mark.parametrize(
    ("settings", "keys", "lines"),
    [
        ({"parallel_environment": "smp"}, {"requested_cores": 4}, ["-pe smp 4"]),
        ({"parallel_environment": "smp"}, {"tasks_per_node": 2, "cores_per_task": 3}, ["-pe smp 6"]),
        ({"parallel_environment": "smp"}, {"requested_nodes": 1, "cores_per_task": 3}, ["-pe smp 3"]),
        ({}, {"requested_cores": 4, "native": ["-pe mpi 4"]}, ["-pe mpi 4"]),
        ({}, {"requested_nodes": 2, "tasks_per_node": 4, "native": ["-pe mpi 8"]}, ["-pe mpi 8"]),
        ({}, {"requested_memory": "100 MB"}, ["-l h_vmem=96M", "-l mem_free=96M"]),
        ({"memory_resources": "mf"}, {"requested_memory_per_core": "1 GiB"}, ["-l mf=1024M"]),
        (
            {"parallel_environment": "smp"},
            {"requested_cores": 4, "requested_memory": "10 GiB"},
            ["-l h_vmem=2560M", "-l mem_free=2560M"],
        ),
        (
            {"parallel_environment": "smp"},
            {"requested_cores": 4, "requested_memory_per_core": "1 GiB"},
            ["-l h_vmem=1024M"],
        ),
        ({}, {"requested_gpus": 2}, ["-l gpu=2"]),
        ({"gpu_resource": "ngpus"}, {"requested_gpus": 1}, ["-l ngpus=1"]),
        ({}, {"requested_walltime": "100 ms"}, ["-l h_rt=1"]),
        ({}, {"requested_walltime": "1h30m"}, ["-l h_rt=5400"]),
        ({"queue": "all.q"}, {}, ["-q all.q"]),
        ({"queue": "all.q"}, {"queue": "big.q@@fat"}, ["-q big.q@@fat"]),
        ({"account": "proj1"}, {}, ["-A proj1"]),
        ({}, {"reservation": "7"}, ["-ar 7"]),
        ({}, {"constraint": "hostname=n1|n2"}, ["-l hostname=n1|n2"]),
        ({}, {"exclusive": True}, ["-l exclusive=true"]),
        ({}, {"priority": -5}, ["-p -5"]),
        ({}, {"priority": 0}, ["-p 0"]),
        ({}, {"rerunnable": True}, ["-r y"]),
        ({}, {"mail_to": "me@b.example"}, ["-M me@b.example", "-m ea"]),
        ({}, {"mail_to": "me@b.example", "mail_on": ["begin", "fail"]}, ["-M me@b.example", "-m ba"]),
        ({}, {"hold": True}, ["-h"]),
        ({}, {"native": ["-notify", "-P proj"]}, ["-notify", "-P proj"]),
    ],
)
def test_what_is_asked_for(settings: dict[str, object], keys: dict[str, object], lines: list[str]) -> None:
    found = header(settings, **keys)
    assert set(lines) <= set(found)
    assert sum(line.startswith("-pe") for line in found) <= 1


@pytest.mark.parametrize(
    ("settings", "keys", "error", "message"),
    [
        ({}, {"requested_cores": 2}, InvalidValue, "'parallel_environment' in the configuration"),
        (
            {"parallel_environment": "smp"},
            {"requested_nodes": 2},
            UnsupportedOperation,
            "requested_nodes: on Grid Engine",
        ),
        ({}, {"qos": "high"}, UnsupportedOperation, "qos: Grid Engine has no quality of service"),
        ({"qos": "high"}, {}, UnsupportedOperation, "qos: Grid Engine has no quality of service"),
        ({}, {"deadline": time.time() + 100}, UnsupportedOperation, "deadline: Grid Engine ends no job"),
        ({}, {"priority": 1025}, InvalidValue, "priority 1025: Grid Engine's go from -1023 to 1024"),
        ({"memory_resources": ""}, {"requested_memory": "1 GB"}, InvalidValue, "memory_resources"),
        ({"max_walltime": "1 h"}, {"requested_walltime": "2 h"}, InvalidValue, "2 h asked for"),
    ],
)
def test_what_it_can_not_do(
    settings: dict[str, object], keys: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        header(settings, **keys)


def test_gpus_of_jobs_with_several_slots() -> None:
    with pytest.warns(UserWarning, match="2 GPUs are asked for each of 4 slots"):
        found = header({"parallel_environment": "smp"}, requested_gpus=2, requested_cores=4)
    assert "-l gpu=2" in found


def test_options_on_the_command_line(commands: Path) -> None:
    words = SgeBackend("lab", extra_args="-P proj -v 'A=a b'").submit_words(Application(["true"]))
    assert calls(f"limit=\n$limit {' '.join(words)}", commands) == [
        "qsub <-terse> <-C> <#$batchlib> <-P> <proj> <-v> <A=a b>"
    ]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_a_time_to_begin_is_that_of_the_frontends_zone(commands: Path, zone: str) -> None:
    moment = time.time() + 1000
    words = SgeBackend("lab").submit_words(Application(["true"], begin=moment))
    [call] = calls(f"export TZ={zone}\n{' '.join(words)}", commands)
    match = re.search(r"<-a> <(\d{12}\.\d\d)>", call)
    assert match
    script = f"import time; print(time.mktime(time.strptime('{match[1]}', '%Y%m%d%H%M.%S')))"
    told = subprocess.run(
        ["python3", "-c", script], env={"TZ": zone, "PATH": os.environ["PATH"]}, check=True, capture_output=True
    )
    assert abs(float(told.stdout) - moment) < 100
    assert "-a" not in SgeBackend("lab").submit_words(Application(["true"], begin=time.time() - 5))


def test_directives_in_an_argument_are_none() -> None:
    app = Application(["sh", "-c", "line one\n#$ -q bad.q\n#$ -t 1-9\nline two"], native=["-notify"])
    lines = SgeBackend("lab").render(app).splitlines()
    assert lines[1] == "#!/bin/sh"
    assert "-C '#$batchlib'" in lines[0]
    first_command = next(number for number, line in enumerate(lines[1:], 1) if not line.startswith("#"))
    assert max(number for number, line in enumerate(lines) if line.startswith("#$batchlib")) < first_command


@pytest.mark.parametrize(("code", "given"), [(0, 0), (3, 3), (98, 98), (99, 1), (100, 1), (101, 101), (137, 137)])
def test_exit_codes_that_are_orders(tmp_path: Path, code: int, given: int) -> None:
    app = Application(["sh", "-c", f"exit {code}"])
    (tmp_path / TOKEN / ".batchlib").mkdir(parents=True)
    script = SgeBackend("lab").script(app, TOKEN, str(tmp_path))
    done = subprocess.run(
        ["/bin/sh"], input=script, env={"PATH": os.environ["PATH"], "JOB_ID": "7"}, text=True, check=False
    )
    assert done.returncode == given
    status = sandbox.parse_status((tmp_path / TOKEN / ".batchlib/status").read_text())
    assert status is not None
    assert status.exitcode == code
