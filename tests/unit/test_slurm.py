"""Slurm's words and what they mean, and the command lines that ask for them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.application import Application
from batchlib.backends.base import Action, Outcome
from batchlib.backends.native import Job
from batchlib.backends.slurm import SlurmBackend
from batchlib.backends.slurm_text import (
    expand_hosts,
    native_state,
    parse_accounting,
    parse_exit_code,
    parse_queue_line,
    pending_state,
)
from batchlib.errors import CommandNotFound, SubmissionRefused, SubmissionUnclear, SystemUnavailable
from batchlib.run import Reason, Run, State
from batchlib.sandbox import new_token
from batchlib.transport.shell import Completed

#: Table of native states: long name, short name, meaning.
STATES = [
    ("PENDING", "PD", State.QUEUED, None),
    ("CONFIGURING", "CF", State.STARTING, None),
    ("RUNNING", "R", State.RUNNING, None),
    ("RESIZING", "RS", State.RUNNING, None),
    ("SIGNALING", "SI", State.RUNNING, None),
    ("SUSPENDED", "S", State.SUSPENDED, None),
    ("STOPPED", "ST", State.SUSPENDED, None),
    ("COMPLETING", "CG", State.COMPLETING, None),
    ("STAGE_OUT", "SO", State.COMPLETING, None),
    ("COMPLETED", "CD", State.DONE, Reason.EXITED),
    ("FAILED", "F", State.FAILED, Reason.EXITED),
    ("CANCELLED", "CA", State.CANCELLED, Reason.CANCELLED_BY_SYSTEM),
    ("TIMEOUT", "TO", State.FAILED, Reason.WALLTIME),
    ("OUT_OF_MEMORY", "OOM", State.FAILED, Reason.MEMORY),
    ("NODE_FAIL", "NF", State.FAILED, Reason.NODE_FAILURE),
    ("BOOT_FAIL", "BF", State.FAILED, Reason.START_FAILURE),
    ("PREEMPTED", "PR", State.FAILED, Reason.PREEMPTED),
    ("DEADLINE", "DL", State.FAILED, Reason.DEADLINE),
    ("REQUEUED", "RQ", State.REQUEUED, None),
    ("REQUEUE_FED", "RF", State.REQUEUED, None),
    ("REQUEUE_HOLD", "RH", State.REQUEUED_HELD, None),
    ("RESV_DEL_HOLD", "RD", State.REQUEUED_HELD, None),
    ("SPECIAL_EXIT", "SE", State.REQUEUED_HELD, None),
    ("REVOKED", "RV", State.UNDETERMINED, None),
]


@pytest.mark.parametrize(("name", "short", "state", "reason"), STATES)
def test_native_states(name: str, short: str, state: State, reason: Reason | None) -> None:
    for text in (name, short, name + "+", f" {name} ", f"{name} by 1002"):
        assert native_state(text) == (state, reason)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("CANCELLED+", State.CANCELLED),
        ("OUT_OF_ME+", State.FAILED),
        ("COMPLETIN+", State.COMPLETING),
        ("NODE_FAI+", State.FAILED),
        ("COMPLE+", State.UNDETERMINED),  # COMPLETED or COMPLETING
        ("REQUEUE+", State.UNDETERMINED),
        ("", State.UNDETERMINED),
        ("  ", State.UNDETERMINED),
        ("+", State.UNDETERMINED),
        ("EXPLODED", State.UNDETERMINED),
        ("completed", State.UNDETERMINED),
        ("COMPLETED,", State.UNDETERMINED),
        ("F+", State.FAILED),
    ],
)
def test_cut_and_unknown_states(text: str, state: State) -> None:
    assert native_state(text)[0] is state


@given(
    st.text()
    | st.sampled_from([name for name, _, _, _ in STATES]).flatmap(lambda name: st.text(max_size=3).map(name.__add__))
)
def test_no_text_breaks_the_meaning_of_states(text: str) -> None:
    state, reason = native_state(text)
    assert state.final is (reason is not None)
    assert isinstance(pending_state(text), State)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("Resources", State.QUEUED),
        ("None", State.QUEUED),
        ("JobHeldUser", State.HELD),
        ("JobHeldAdmin", State.HELD),
        ("Resources,JobHeldUser", State.HELD),
        ("job requeued in held state", State.REQUEUED_HELD),
        ("job_requeued_in_held_state", State.REQUEUED_HELD),
        ("DependencyNeverSatisfied", State.OMITTED),
        ("Dependency", State.QUEUED),
        ("launch failed requeued held", State.REQUEUED_HELD),
        ("JobHoldMaxRequeue", State.REQUEUED_HELD),
        ("launch_failed_requeued_held", State.REQUEUED_HELD),
        ("BadConstraints", State.QUEUED),
    ],
)
def test_why_a_job_is_pending(reason: str, state: State) -> None:
    assert pending_state(reason) is state
    row = parse_queue_line(f"7|PENDING|N/A||1795178184|{reason}|name")
    assert row is not None
    assert row.state is state
    assert row.accounting.started is None


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("0:0", (0, None, None)),
        ("3:0", (3, None, None)),
        ("0:9", (None, 9, Reason.SIGNALLED)),
        ("0:15", (None, 15, Reason.SIGNALLED)),
        ("0:53", (None, None, Reason.START_FAILURE)),
        ("0:125", (None, None, Reason.MEMORY)),
        ("", (None, None, None)),
        ("3", (None, None, None)),
        (":", (None, None, None)),
        ("a:b", (None, None, None)),
        ("²:0", (None, None, None)),
        ("9" * 5000 + ":0", (None, None, None)),
    ],
)
def test_exit_codes(text: str, meaning: tuple[int | None, int | None, Reason | None]) -> None:
    assert parse_exit_code(text) == meaning


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("node1", ["node1"]),
        ("node[01-03,7],login", ["node01", "node02", "node03", "node7", "login"]),
        ("node[08-11]", ["node08", "node09", "node10", "node11"]),
        ("n[1-2]-ib", ["n1-ib", "n2-ib"]),
        ("a1,b2", ["a1", "b2"]),
        ("(null)", []),
        ("None assigned", []),
        ("N/A", []),
        # not to be read, but not to be lost either
        ("r[0-1]n[0-1]", ["r[0-1]n[0-1]"]),
        ("node[3-1]", ["node[3-1]"]),
        ("node[1-]", ["node[1-]"]),
        ("node[-]", ["node[-]"]),
        ("node[0-99999999]", ["node[0-99999999]"]),
        ("node[" + "9" * 5000 + "]", ["node[" + "9" * 5000 + "]"]),
    ],
)
def test_host_expressions(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@given(st.text() | st.from_regex(r"\A[a-z0-9,\[\]-]{0,30}\Z"))
def test_no_host_expression_breaks_the_parser(text: str) -> None:
    assert all(expand_hosts(text)) or not text


words = st.sampled_from(
    ["1", "12_3", "12_[3-4]", "13+0", "COMPLETED", "CANCELLED by 1002", "PD", "Unknown", "None", "N/A", "1795178184",
     "2026-11-20T12:36:24", "²", "٣", "9" * 5000, "1-02:03:04", "00:00.002", "2812K", "16?", "node[1-3]", "1.batch",
     "0:0", "", "\x85"]
)  # fmt: skip
lines = st.lists(words | st.text(max_size=10), max_size=20).map("|".join)


@given(st.text() | lines)
def test_no_line_breaks_the_queue_parser(line: str) -> None:
    row = parse_queue_line(line)
    assert row is None or row.jobid


@given(st.text() | st.lists(lines, max_size=5).map("\n".join), st.text(max_size=4))
def test_no_text_breaks_the_accounting_parser(text: str, uid: str) -> None:
    for jobid, row in parse_accounting(text, uid).items():
        assert jobid == row.jobid
        assert not row.state.final or row.accounting.ended is not None


@given(st.text() | st.lists(words, max_size=3).map(":".join))
def test_no_text_breaks_the_exit_code_parser(text: str) -> None:
    exitcode, signal, _reason = parse_exit_code(text)
    assert exitcode is None or signal is None


@given(st.binary(), st.binary(), st.integers(0, 255))
def test_no_answer_is_more_than_an_answer_or_an_error(out: bytes, err: bytes, code: int) -> None:
    backend = SlurmBackend("lab")
    answer = Completed(code, out, err)
    for parse in (
        backend.parse_queue,
        backend.parse_accounting,
        lambda answer: backend.control_answers(Action.CANCEL, [], {"scancel": answer}),
    ):
        try:
            parse(answer)
        except (SystemUnavailable, CommandNotFound):
            assert code or b"error" in err or b"fatal" in err
    error = backend.submit_error(answer)
    assert str(error)


# --- rows ---------------------------------------------------------------------------------------------------------


def queue(text: str, err: str = "", code: int = 0) -> dict[str, State]:
    answer = Completed(code, text.encode(), err.encode())
    return {jobid: row.state for jobid, row in SlurmBackend("lab").parse_queue(answer).items()}


def test_banners_and_windows_line_ends_do_not_matter() -> None:
    assert queue(
        "*** Welcome | to the cluster ***\n\n12|RUNNING|1|n1|1|None|a\r\n123|PENDING|N/A||1|Priority|b\n"
        "  JOBID STATE\n9|\n|RUNNING|||||\n12_[1-3]|PENDING|N/A||1|Priority|c\n"
    ) == {"12": State.RUNNING, "123": State.QUEUED, "9": State.UNDETERMINED}


def test_what_a_profile_prints_is_no_error_of_squeue() -> None:
    noise = "bash: error: module 'x' is gone\nperl: warning: no locale\nmy error: nothing\n"
    assert queue("12|RUNNING|1|n1|1|None|a\n", noise) == {"12": State.RUNNING}
    for complaint in (
        "squeue: error: Invalid user: x\n",
        "slurm_load_jobs error: Socket timed out\n",
        "squeue: fatal: no\n",
    ):
        with pytest.raises(SystemUnavailable, match="squeue does not answer"):
            queue("12|RUNNING|1|n1|1|None|a\n", noise + complaint)


def test_a_line_separator_within_a_name_makes_no_new_line() -> None:
    assert queue("12|RUNNING|1|n1|1|None|a\u202813|COMPLETED|1|n|1|None|x\x0b14|COMPLETED|\n") == {"12": State.RUNNING}


def test_ids_match_as_a_whole() -> None:
    rows = queue("123|COMPLETED|1|n1|1|None|a\n12|RUNNING|1|n1|1|None|b\n1|PENDING|N/A||1|None|c\n")
    assert rows == {"123": State.DONE, "12": State.RUNNING, "1": State.QUEUED}


def test_who_cancelled() -> None:
    def reason(native: str, owner: str, uid: str) -> Reason | None:
        line = f"7|{native}|0:0|me|{owner}|1|None|5|0|00:00:00||1|None assigned|name"
        return parse_accounting(line, uid)["7"].reason

    assert reason("CANCELLED by 1002", "1002", "") is Reason.CANCELLED_BY_USER
    assert reason("CANCELLED by 1002", "", "1002") is Reason.CANCELLED_BY_USER
    assert reason("CANCELLED by 0", "1002", "1002") is Reason.CANCELLED_BY_SYSTEM
    assert reason("CANCELLED by 10021", "1002", "1002") is Reason.CANCELLED_BY_SYSTEM
    assert reason("CANCELLED", "1002", "1002") is Reason.CANCELLED_BY_SYSTEM


def test_memory_is_that_of_the_greediest_step() -> None:
    text = "".join(
        f"7{step}|COMPLETED|0:0|me|1|1|2|5|3|00:01.5|{rss}|4|node[1-2]|name\n"
        for step, rss in (("", ""), (".batch", "2812K"), (".0", "1.50M"), (".1", "3M"), (".2", "?"), (".extern", "0"))
    )
    [row] = parse_accounting(text).values()
    assert str(row.accounting.max_memory) == "3 MiB"
    assert row.accounting.hosts == ("node1", "node2")
    assert str(row.accounting.cpu_time) == "1.5 s"
    assert row.accounting.wall_time is not None
    assert row.accounting.wall_time.seconds == 3


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Pretended Slurm commands that write down how they were called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("squeue", "sacct", "scancel"):
        program = directory / name
        told = f"printf '%s' {name}; printf ' <%s>' \"$@\"; echo \" $SLURM_TIME_FORMAT\""
        program.write_text(f"#!/bin/sh\n{{ {told}; }} >> {tmp_path}/calls\n")
        program.chmod(0o755)
    return tmp_path


def run(text: str, directory: Path) -> list[str]:
    path = f"{directory}/bin:{os.environ['PATH']}"
    subprocess.run("/bin/sh", input=text.encode(), env={"PATH": path}, check=True)
    calls = directory / "calls"
    lines = calls.read_text().splitlines()
    calls.unlink()
    return lines


def test_one_listing_for_all_jobs(commands: Path) -> None:
    jobs = [Job(str(number), "b" * 16) for number in range(5000)]
    [call] = run(SlurmBackend("lab").queue_command(jobs), commands)
    user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    assert call == f"squeue <-h> <-r> <-t> <all> <-u> <{user}> <-o> <%i|%T|%S|%N|%V|%r|%j> %s"


def test_accounting_is_asked_for_many_jobs_at_a_time(commands: Path) -> None:
    jobs = [Job(str(number), "b" * 16) for number in range(4500)]
    command = SlurmBackend("lab").accounting_command(jobs)
    assert command is not None
    calls = run(command, commands)
    assert len(calls) == 3
    assert all(call.startswith("sacct <-n> <-P> <-o> <JobID,State,ExitCode,") for call in calls)
    asked = [call.partition(" <-j> <")[2].partition(">")[0].split(",") for call in calls]
    assert [jobid for ids in asked for jobid in ids] == [job.jobid for job in jobs]


def test_cancelling_many_jobs(commands: Path) -> None:
    jobs = [Job(str(10_000_000 + number), "b" * 16) for number in range(20_000)]
    calls = run(SlurmBackend("lab").control_commands(Action.CANCEL, jobs, "")["scancel"], commands)
    assert 1 <= len(calls) < 20
    named = [word for call in calls for word in call.removeprefix("scancel ").strip().split(" ")]
    assert named == [f"<{job.jobid}>" for job in jobs]


def test_names_that_are_looked_up_are_quoted(commands: Path) -> None:
    for text in SlurmBackend("lab").lookup_commands(["a.bxxx", "$(touch x)'.bxxx"]).values():
        [call] = run(text, commands)
        assert "a.bxxx,$(touch x)'.bxxx" in call


def test_a_name_that_is_looked_up_is_found_in_either_place() -> None:
    backend = SlurmBackend("lab")
    parts = {"queue": Completed(0, b"12|a\nnonsense\n|b\n", b""), "accounting": Completed(0, b"13|c|d\n12|a\n", b"")}
    assert backend.parse_lookup(parts) == {"a": "12", "c|d": "13"}
    off = Completed(1, b"", b"Slurm accounting storage is disabled\n")
    assert backend.parse_lookup({**parts, "accounting": off}) == {"a": "12"}
    for name, bad in (("queue", Completed(1, b"", b"")), ("accounting", Completed(1, b"", b"sacct: error: no\n"))):
        with pytest.raises(SystemUnavailable):
            backend.parse_lookup({**parts, name: bad})


def test_commands_may_be_called_otherwise() -> None:
    backend = SlurmBackend("lab", squeue="/opt/slurm/bin/squeue -M big", sbatch="sbatch --clusters big")
    assert "/opt/slurm/bin/squeue -M big -h" in backend.queue_command([])
    assert backend.submit_words(Application(["true"]))[0] == "sbatch --clusters big"


# --- answers to submissions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "jobid"),
    [
        ("Submitted batch job 12\n", "12"),
        ("Submitted batch job 12 on cluster big\n", "12"),
        ("Welcome!\n\n  Submitted batch job 12\r\nBye\n", "12"),
        ("Submitted batch job 12_3\n", None),
        ("I say: Submitted batch job 12\n", None),
        ("12\n", None),
        ("", None),
    ],
)
def test_the_id_in_the_answer(text: str, jobid: str | None) -> None:
    assert SlurmBackend("lab").jobid_in(text) == jobid


def test_silence_is_no_refusal() -> None:
    backend = SlurmBackend("lab")
    assert isinstance(backend.submit_error(Completed(0, b"", b"")), SubmissionUnclear)
    assert isinstance(backend.submit_error(Completed(1, b"", b"sbatch: error: no such luck")), SubmissionRefused)
    missing = backend.submit_error(Completed(127, b"", b"sh: 1: sbatch: not found"))
    assert isinstance(missing, CommandNotFound)
    assert "'sbatch = /path/to/it'" in str(missing)


def test_several_complaints_of_scancel() -> None:
    text = (
        "scancel: error: Kill job error on job id 1: Access/permission denied\n"
        "scancel: error: Kill job error on job id 2_3: Invalid job id specified\n"
        "scancel: error: Kill job error on job id 4: Job/step already completing or completed\n"
        "scancel: error: Kill job error on job id 5: Unable to contact slurm controller (connect failure)\n"
    )
    found = SlurmBackend("lab").control_answers(Action.CANCEL, [], {"scancel": Completed(123, b"", text.encode())})
    assert {jobid: answer.outcome for jobid, answer in found.items()} == {
        "1": Outcome.REFUSED,
        "2_3": Outcome.NOT_FOUND,
        "4": Outcome.ALREADY_ENDED,
        "5": Outcome.UNKNOWN,
    }
    assert all((answer.error is None) is (jobid == "4") for jobid, answer in found.items())
    with pytest.raises(CommandNotFound):
        SlurmBackend("lab").control_answers(
            Action.CANCEL, [], {"scancel": Completed(127, b"", b"xargs: scancel: No such file or directory")}
        )


# --- the header ---------------------------------------------------------------------------------------------------


def header(**keys: object) -> list[str]:
    app = Application(["true"], jobname="a job; rm -rf", **keys)  # type: ignore[arg-type]
    text = SlurmBackend("lab", queue="batch", account="proj").render(app)
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_what_is_asked_for_stands_in_the_header() -> None:
    found = header(
        requested_cores=4,
        requested_memory="10 GiB",
        requested_walltime="30 s",
        qos="high",
        reservation="res",
        constraint="a&b",
        exclusive=True,
        priority=5,
        requested_gpus=2,
        rerunnable=True,
        hold=True,
        native=["--nice=3"],
        begin=time.time() + 1000,
        deadline=time.time() - 1,
    )
    assert found[0].startswith("--job-name=a_job_rm_-rf.")
    expected = ["--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--mem=10240M", "--time=1", "--partition=batch"]
    expected += [
        "--account=proj",
        "--qos=high",
        "--reservation=res",
        '--constraint="a&b"',
        "--exclusive",
        "--priority=5",
    ]
    expected += ["--gres=gpu:2", "--requeue", "--hold", "--nice=3"]
    assert not set(expected) - set(found)
    assert any(line.startswith("--begin=now+") for line in found)
    assert not any(line.startswith("--deadline") for line in found)


def test_several_nodes_share_the_memory_without_rounding_it_up() -> None:
    found = header(requested_nodes=10, tasks_per_node=2, cores_per_task=3, requested_memory="10 GiB")
    assert {"--nodes=10", "--ntasks-per-node=2", "--cpus-per-task=3", "--mem=1024M"} <= set(found)


def test_the_script_starts_with_its_interpreter() -> None:
    backend = SlurmBackend("lab", shell="/bin/bash -l")
    text = backend.render(Application(["sh", "-c", "line one\n#SBATCH --exclusive\nline two"], native=["-x", "-y"]))
    lines = text.splitlines()
    assert lines[1] == "#!/bin/bash -l"
    directives = [
        number for number, line in enumerate(lines) if line.startswith("#SBATCH ") and "exclusive" not in line
    ]
    first_command = next(number for number, line in enumerate(lines[1:], 1) if not line.startswith("#"))
    assert max(directives) < first_command


# --- listings that change little ------------------------------------------------------------------------------------


def test_what_did_not_change_is_not_judged_again_and_what_did_is(tmp_path: Path) -> None:
    listing, squeue = tmp_path / "listing", tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\ncat {listing}\n")
    squeue.chmod(0o755)
    backend = SlurmBackend("lab", spooldir=str(tmp_path / "spool"), squeue=str(squeue))
    apps = []
    for number in range(150):
        app = Application(["true"])
        app.execution.jobid, app.execution.token = str(number), new_token()
        app.set_state(State.QUEUED)
        apps.append(app)

    def look(**changed: str) -> list[State]:
        listing.write_text(
            "".join(f"{n}|{changed.get(f'n{n}', 'PENDING')}|N/A||1795178184|None|name\n" for n in range(150))
        )
        assert not any(backend.update_job_states(apps).values())
        return [app.execution.state for app in apps]

    assert set(look()) == {State.QUEUED}
    rows = [entry[0] for entry in backend._judged.values()]
    assert look(n7="RUNNING")[6:9] == [State.QUEUED, State.RUNNING, State.QUEUED]
    now = [entry[0] for entry in backend._judged.values()]
    assert [n for n in range(150) if now[n] is not rows[n]] == [7]
    # somebody else changed what is believed: the listing is right, although it is the same as before
    apps[3].execution.state = State.HELD
    apps[4].execution = Run(State.HELD, jobid="4", token=apps[4].execution.token)
    assert look(n7="RUNNING")[3:8] == [State.QUEUED] * 4 + [State.RUNNING]
    assert look()[7] is State.REQUEUED
    backend.close()


def test_a_job_whose_answer_was_lost_is_not_taken_for_one_that_was_not_submitted(tmp_path: Path) -> None:
    sbatch = tmp_path / "sbatch"
    # as on a file system that is full: what was said is nowhere, but for what the sandbox tells
    sbatch.write_text("#!/bin/sh\nrm -f ../.asking.*.out\necho Submitted batch job 7\n")
    sbatch.chmod(0o755)
    backend = SlurmBackend("lab", spooldir=str(tmp_path / "spool"), sbatch=str(sbatch))
    app = Application(["true"])
    assert isinstance(backend.submit_jobs([app])[app], SubmissionUnclear)
    assert app.execution.state is State.SUBMITTING
    assert backend.recover_jobs([app]) == {app: None}
    assert (app.execution.state, app.execution.jobid) == (State.QUEUED, "7")
    backend.close()
