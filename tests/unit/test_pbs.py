"""The words of PBS and what they mean, and the command lines that ask for them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.application import Application
from batchlib.array import ArraySpec, parse_array
from batchlib.backends import pbs_text, programs
from batchlib.backends.base import Action, Outcome
from batchlib.backends.native import Job
from batchlib.backends.pbs import PbsBackend
from batchlib.backends.pbs_family import PbsFamily, listing
from batchlib.backends.torque import TorqueBackend
from batchlib.errors import (
    BackendError,
    CapacityReached,
    CommandNotFound,
    InvalidValue,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
    UnsupportedOperation,
)
from batchlib.quantity import Duration, Memory
from batchlib.run import NativeDependency, Reason, State
from batchlib.transport.local import LocalCarrier
from batchlib.transport.shell import Completed
from batchlib.transport.transport import Transport
from tests.unit.pbs_records import TOKEN

BACKENDS = [PbsBackend, TorqueBackend]


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Fri Nov 20 11:52:50 2026", 1795175570.0),
        ("Thu Jan  1 00:00:01 1970", 1.0),
        ("1795175570", 1795175570.0),
        ("", None),
        ("Fri Nov 20 11:52 2026", None),
        ("Fri Foo 20 11:52:50 2026", None),
        ("Fri Nov 20 11:52:50 0000", None),
        ("Fri Nov 20 11:52:50 2026 CET", None),
    ],
)
def test_times(text: str, seconds: float | None) -> None:
    assert pbs_text.parse_date(text) == seconds


@pytest.mark.parametrize(
    ("text", "duration"),
    [("00:01:05", "65 s"), ("120:00:00", "5 d"), ("90", "90 s"), ("01:30", "90 s"), ("3.25", "3.25 s")],
)
def test_durations(text: str, duration: str) -> None:
    assert pbs_text.parse_duration(text) == Duration(duration)


@pytest.mark.parametrize(
    ("text", "memory"),
    [("1392kb", "1392 KiB"), ("2gb", "2 GiB"), ("512b", "512 B"), ("3MB", "3 MiB"), ("1tb", "1 TiB")],
)
def test_amounts_of_memory(text: str, memory: str) -> None:
    assert pbs_text.parse_memory(text) == Memory(memory)


@pytest.mark.parametrize("text", ["", "--", "12", "kb", "1.5gb", "12kw", "²kb", "1:2:3:4", "a:b", ":", "-5"])
def test_what_is_neither_duration_nor_memory(text: str) -> None:
    assert pbs_text.parse_memory(text) is None
    assert text == "12" or pbs_text.parse_duration(text) is None


def test_hosts_and_cores() -> None:
    assert pbs_text.parse_hosts("node01/0*4+node02/1+node01/5") == ("node01", "node02")
    assert pbs_text.parse_hosts("frontend/0-3") == ("frontend",)
    assert pbs_text.parse_hosts("") == ()
    assert pbs_text.count_cores("frontend/0-3+node2/0,2") == 6
    assert pbs_text.count_cores("frontend/0+frontend/1") == 2
    assert pbs_text.count_cores("") is None
    assert pbs_text.count_cores("a/0-999999+b/0-999999") is None


def test_ids_of_arrays_and_their_elements() -> None:
    assert pbs_text.array_of("24[1].frontend") == "24[].frontend"
    assert pbs_text.array_of("24[].frontend") == "24[].frontend"
    assert pbs_text.array_of("24.frontend") == "24.frontend"
    assert pbs_text.element_of("24[].frontend", 17) == "24[17].frontend"


# --- states -------------------------------------------------------------------------------------------------------


def row(jobid: str = "1.frontend", backend: type[PbsFamily] = PbsBackend, **found: str) -> object:
    made = pbs_text.job_row(jobid, {"job_state": "F", **found}, backend.reasons, backend.killed)
    return made.state, made.reason, made.exitcode, made.signal


@pytest.mark.parametrize(
    ("letter", "state"),
    [
        ("Q", State.QUEUED),
        ("T", State.QUEUED),
        ("H", State.HELD),
        ("W", State.HELD),
        ("R", State.RUNNING),
        ("B", State.RUNNING),
        ("S", State.SUSPENDED),
        ("U", State.SUSPENDED),
        ("E", State.COMPLETING),
        ("M", State.UNDETERMINED),
        ("", State.UNDETERMINED),
        ("?", State.UNDETERMINED),
        ("running", State.UNDETERMINED),
    ],
)
def test_letters_of_live_states(letter: str, state: State) -> None:
    for backend in BACKENDS:
        # whatever an earlier run ended with
        assert row(backend=backend, job_state=letter, Exit_status="-11")[0] is state  # type: ignore[index]


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ({"job_state": "H", "Hold_Types": "u"}, State.HELD),
        ({"job_state": "H", "Hold_Types": "s"}, State.HELD),
        ({"job_state": "H", "Hold_Types": "os"}, State.HELD),
        ({"job_state": "H", "Hold_Types": "s", "depend": "afterok:1.f"}, State.QUEUED),
        ({"job_state": "H", "Hold_Types": "us", "depend": "afterok:1.f"}, State.HELD),
        ({"job_state": "H", "Hold_Types": "l"}, State.QUEUED),
        # an element of an array that is held
        ({"job_state": "Q", "Hold_Types": "u"}, State.HELD),
        ({"job_state": "Q", "Hold_Types": "n", "run_count": "2"}, State.REQUEUED),
        ({"job_state": "H", "Hold_Types": "u", "run_count": "1"}, State.REQUEUED_HELD),
        ({"job_state": "Q", "Hold_Types": "n", "run_count": "0"}, State.QUEUED),
    ],
)
def test_what_a_waiting_job_waits_for(found: dict[str, str], state: State) -> None:
    assert row(**found)[0] is state  # type: ignore[index]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (-1, Reason.START_FAILURE),
        (-2, Reason.START_FAILURE),
        (-3, Reason.START_FAILURE),
        (-4, Reason.NODE_FAILURE),
        (-10, Reason.START_FAILURE),
        (-24, Reason.CPU_TIME),
        (-25, Reason.CPU_TIME),
        (-26, Reason.MEMORY),
        (-27, Reason.MEMORY),
        (-28, Reason.CPU_TIME),
        (-29, Reason.WALLTIME),
        (-99, Reason.START_FAILURE),
    ],
)
def test_exit_statuses_of_pbs_itself(status: int, reason: Reason) -> None:
    assert row(run_count="1", Exit_status=str(status)) == (State.FAILED, reason, None, None)


def test_the_same_numbers_mean_something_else_to_torque() -> None:
    for status, reason in ((-10, Reason.MEMORY), (-11, Reason.WALLTIME), (-12, Reason.CPU_TIME)):
        found = row(backend=TorqueBackend, job_state="C", start_count="1", exit_status=str(status))
        assert found == (State.FAILED, reason, None, None)
    for status in (-8, -9, -27, -29):
        found = row(backend=TorqueBackend, job_state="C", start_count="1", exit_status=str(status))
        assert found == (State.FAILED, Reason.START_FAILURE, None, None)


@pytest.mark.parametrize(
    ("status", "exitcode", "signal"),
    [
        (1, 1, None),
        (128, 128, None),
        (129, None, 1),
        (137, None, 9),
        (192, None, 64),
        (193, 193, None),
        (255, 255, None),
        (257, None, 1),
        (271, None, 15),
    ],
)
def test_exit_codes_and_signals(status: int, exitcode: int | None, signal: int | None) -> None:
    reason = Reason.SIGNALLED if signal else Reason.EXITED
    assert row(run_count="1", substate="93", Exit_status=str(status)) == (State.FAILED, reason, exitcode, signal)


def test_a_hook_that_deleted_a_job() -> None:
    assert row(run_count="1", Exit_status="-17") == (State.CANCELLED, Reason.CANCELLED_BY_SYSTEM, None, None)


def test_a_deletion_that_came_too_late_and_one_that_did_not() -> None:
    assert row(substate="91", run_count="1", Exit_status="0")[0] is State.DONE  # type: ignore[index]
    assert row(substate="91", run_count="1", Exit_status="143") == (
        State.CANCELLED,
        Reason.CANCELLED_BY_SYSTEM,
        None,
        15,
    )


@pytest.mark.parametrize(("by", "reason"), [("me@host", Reason.CANCELLED_BY_USER), ("root@host", None)])
def test_who_deleted(by: str, reason: Reason | None) -> None:
    comment = f"Job run at Fri Nov 20 at 11:52 on (node01:ncpus=1) and terminated by {by}"
    found = row(substate="91", run_count="1", Exit_status="271", Job_Owner="me@host", comment=comment)
    assert found == (State.CANCELLED, reason or Reason.CANCELLED_BY_SYSTEM, None, 15)


def test_a_job_that_is_listed_twice_is_believed_nothing_of() -> None:
    own = "Job Id: 1.frontend\n    Job_Name = own\n    job_state = R\n"
    # somebody's variable that holds line ends
    forged = "Job Id: 2.frontend\n    job_state = R\n    Variable_List = A=\n"
    forged += "Job Id: 1.frontend\n    job_state = F\n    Exit_status = 0\n    run_count = 1\n"
    for text in (own + forged, forged + own):
        rows = pbs_text.job_rows(text, PbsBackend.reasons)
        assert rows["1.frontend"].state is State.UNDETERMINED
        assert rows["2.frontend"].state is State.RUNNING
    assert pbs_text.job_rows(own + own, PbsBackend.reasons)["1.frontend"].state is State.RUNNING


def test_a_comment_that_is_no_utf_8_can_be_stored() -> None:
    answer = Completed(0, b"Job Id: 1.f\n    job_state = Q\n    comment = Not Running: caf\xe9\n", b"")
    [row] = PbsBackend("lab").parse_queue(answer).values()
    assert row.native_state.encode() == b"Q (Not Running: caf?)"


names = st.sampled_from(
    ["job_state", "substate", "Exit_status", "exit_status", "comment", "Hold_Types", "depend", "ctime", "stime",
     "obittime", "run_count", "start_count", "array_index", "job_array_id", "exec_host", "exec_vnode", "Job_Name",
     "Job_Owner", "resources_used.cput", "resources_used.mem", "resources_used.walltime", "Resource_List.ncpus",
     "Resource_List.nodes", "enabled", "started", "state_count", "np", "state", "jobs", "status", "default_queue"]
)  # fmt: skip
values = st.sampled_from(
    ["F", "X", "C", "Q", "H", "0", "1", "271", "-29", "91", "92", "99999999999999999999", "²", "True", "us", "10kb",
     "Fri Nov 20 11:52:50 2026", "Fri Nov 99 99:99:99 9999", "00:00:05", "9" * 30, "node01/0*4+/+a", "n/0-9999999",
     "(", "1:ppn=²", "Queued:x", "a=b,loadave=9e9,physmem=kb"]
)  # fmt: skip
lines = st.one_of(
    st.sampled_from(
        ["Job Id: 1.f", "Job Id: 1[].f", "Job Id: 1[3].f", "Queue: q", "Server: f", "node01", "", "\tmore"]
    ),
    st.builds("    {} = {}".format, names, values | st.text(max_size=8)),
    st.builds("     {} = {}".format, names, values),
    st.text(max_size=12),
)


@given(st.text() | st.lists(lines, max_size=30).map("\n".join), st.integers(0, 255), st.booleans())
def test_no_text_breaks_a_parser(text: str, code: int, on_stderr: bool) -> None:
    data = text.encode("utf-8", "surrogatepass")
    answer = Completed(code, b"" if on_stderr else data, data if on_stderr else b"")
    jobs = [Job("1.f", TOKEN), Job("1[3].f", TOKEN)]
    for kind in BACKENDS:
        backend = kind("lab")
        for read in (
            backend.parse_queue,
            backend.parse_accounting,
            backend.parse_listing,
            backend.parse_queues,
            backend.parse_machines,
            lambda answer, backend=backend: backend.parse_lookup({"queue": answer, "history": answer}),
            lambda answer, backend=backend: backend.control_answers(Action.CANCEL, jobs, {"qdel": answer}),
        ):
            try:
                read(answer)
            except (SystemUnavailable, CommandNotFound):
                assert code
        assert backend.control_answer(Action.HOLD, jobs[0], answer).outcome is not None
        assert str(backend.submit_error(answer))
        if code == 0:
            for jobid, found in backend.parse_queue(answer).items():
                assert found.jobid == jobid
                assert not found.state.final or found.reason is not None


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Pretended PBS commands that write down how they were called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in PbsFamily.commands:
        program = directory / name
        told = f"printf '%s' {name}; printf ' <%s>' \"$@\"; echo"
        program.write_text(f"#!/bin/sh\n{{ {told}; }} >> {tmp_path}/calls\n")
        program.chmod(0o755)
    return tmp_path


def run(text: str, directory: Path) -> list[str]:
    path = f"{directory}/bin:{os.environ['PATH']}"
    subprocess.run("/bin/sh", input=text.encode(), env={"PATH": path}, check=True)
    calls = directory / "calls"
    told = calls.read_text().splitlines()
    calls.unlink()
    return told


def jobs(*ids: str) -> list[Job]:
    return [Job(jobid, TOKEN) for jobid in ids]


def test_many_jobs_are_listed_with_one_command_that_names_none(commands: Path) -> None:
    many = jobs(*(f"{number}.frontend" for number in range(5000)))
    for kind in BACKENDS:
        assert run(kind("lab").queue_command(many), commands) == ["qstat <-f>"]
        assert run(kind("lab").queue_command([]), commands) == ["qstat <-f>"]
    accounting = PbsBackend("lab").accounting_command(many)
    assert accounting is not None
    assert run(accounting, commands) == ["qstat <-x> <-f>"]


def test_few_jobs_are_named(commands: Path) -> None:
    few = jobs("1.frontend", "2.frontend")
    assert run(PbsBackend("lab").queue_command(few), commands) == ["qstat <-f> <1.frontend> <2.frontend>"]


def test_elements_are_listed_with_their_arrays(commands: Path) -> None:
    elements = jobs(*(f"7[{index}].frontend" for index in range(1000)), "8[1].frontend")
    listed = "<7[].frontend> <8[].frontend>"
    assert run(PbsBackend("lab").queue_command(elements), commands) == [f"qstat <-f> <-t> {listed}"]
    both = [*elements, *jobs("1.frontend")]
    accounting = PbsBackend("lab").accounting_command(both)
    assert accounting is not None
    assert run(accounting, commands) == [f"qstat <-x> <-f> <-t> {listed}", "qstat <-x> <-f> <1.frontend>"]
    arrays = jobs(*(f"{number}[1].frontend" for number in range(50)))
    assert run(TorqueBackend("lab").queue_command(arrays), commands) == ["qstat <-f> <-t>"]


def test_many_jobs_are_deleted_with_few_commands(commands: Path) -> None:
    many = jobs(*(f"{10_000_000 + number}[{number}].frontend" for number in range(20_000)))
    calls = run(PbsBackend("lab").control_commands(Action.CANCEL, many, "")["qdel"], commands)
    assert 1 <= len(calls) < 20
    named = [word for call in calls for word in call.removeprefix("qdel ").strip().split(" ")]
    assert named == [f"<{job.jobid}>" for job in many]


@pytest.mark.parametrize(
    ("action", "call"),
    [
        (Action.HOLD, "qhold <7.f>"),
        (Action.RELEASE, "qrls <7.f>"),
        (Action.SUSPEND, "qsig <-s> <suspend> <7[1].f>"),
        (Action.RESUME, "qsig <-s> <resume> <7[1].f>"),
        (Action.REQUEUE, "qrerun <7[1].f>"),
        (Action.SIGNAL, "qsig <-s> <USR1> <7[1].f>"),
    ],
)
def test_controls(commands: Path, action: Action, call: str) -> None:
    for kind in BACKENDS:
        jobid = "7.f" if action in (Action.HOLD, Action.RELEASE) else "7[1].f"
        [text] = kind("lab").control_commands(action, jobs(jobid), "USR1").values()
        assert run(text, commands) == [call]


def test_arrays_are_held_as_a_whole(commands: Path) -> None:
    listed = "".join(f"Job Id: 7[{index}].f\n    job_state = {letter}\n\n" for index, letter in enumerate("XQR", 1))
    backend = PbsBackend("lab", transport=Replay(Completed(0, listed.encode(), b"")))
    [text] = backend.control_commands(Action.HOLD, jobs("7[2].f", "7[3].f"), "").values()
    assert run(text, commands) == ["qhold <7[].f>"]
    assert backend.control_commands(Action.HOLD, jobs("7[2].f"), "") == {}
    found = backend.control_answers(Action.HOLD, jobs("7[2].f"), {})
    assert [answer.outcome for answer in found.values()] == [Outcome.REFUSED]
    answer = Completed(0, b"", b"")
    found = backend.control_answers(Action.HOLD, jobs("7[2].f", "7[3].f"), {"7[].f": answer})
    assert [answer.outcome for answer in found.values()] == [Outcome.DONE] * 2
    # those of Torque have holds of their own
    [text] = TorqueBackend("lab").control_commands(Action.RELEASE, jobs("7[2].f"), "").values()
    assert run(text, commands) == ["qrls <7[2].f>"]


def test_commands_may_be_called_otherwise(commands: Path) -> None:
    backend = PbsBackend("lab", qstat=f"PBS_SERVER=other {commands}/bin/qstat -W x", qsub="qsub -f")
    assert run(backend.queue_command([]), commands) == ["qstat <-W> <x> <-f>"]
    assert backend.submit_words(Application(["true"])) == ["qsub -f"]


def test_a_client_that_hangs_is_given_up(tmp_path: Path) -> None:
    hanging = tmp_path / "qstat"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    backend = PbsBackend("lab", qstat=str(hanging), timeout="1 s")
    answer = subprocess.run(["/bin/sh"], input=backend.queue_command([]).encode(), capture_output=True, check=False)
    with pytest.raises(SystemUnavailable):
        backend.parse_queue(Completed(answer.returncode, answer.stdout, answer.stderr))


def test_a_missing_command_is_said_to_be_missing() -> None:
    backend = PbsBackend("lab", qstat="/opt/nowhere/qstat")
    answer = subprocess.run(["/bin/sh"], input=backend.queue_command([]).encode(), capture_output=True, check=False)
    with pytest.raises(CommandNotFound, match="/opt/nowhere/qstat"):
        backend.parse_queue(Completed(answer.returncode, answer.stdout, answer.stderr))


def test_a_job_on_thousands_of_nodes_does_not_spoil_the_listing() -> None:
    hosts = "+".join(f"node{number:04d}/0*64" for number in range(5000))
    text = f"Job Id: 1.f\n    Job_Owner = me@f\n    job_state = R\n    run_count = 1\n    exec_host = {hosts}\n"
    listed = listing([f"printf '%s' '{text}'"], owned=True).replace('"$(id -un)"', "me")
    answer = subprocess.run(["/bin/sh"], input=listed.encode(), capture_output=True, check=False)
    [row] = PbsBackend("lab").parse_queue(Completed(answer.returncode, answer.stdout, answer.stderr)).values()
    assert (row.state, len(row.accounting.hosts)) == (State.RUNNING, 5000)


def test_the_worst_of_several_listings_counts() -> None:
    def code(*codes: int) -> int:
        text = listing([f"sh -c 'exit {one}'" for one in codes], owned=True)
        return subprocess.run(["/bin/sh"], input=text.encode(), check=False).returncode

    assert code(0, 0) == 0
    assert code(35, 153) == 0
    assert code(255, 0) == 255
    assert code(0, 111) == 111
    assert code(1, 35) == 1


# --- submission ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "jobid"),
    [
        ("123.frontend\n", "123.frontend"),
        ("24[].frontend", "24[].frontend"),
        ("0.frontend:16001\n", "0.frontend:16001"),
        ("Welcome to PBS 23.06.06!\n\n 7.pbs01.cluster.example.org\r\nbye\n", "7.pbs01.cluster.example.org"),
        ("23.06.06\n", None),
        ("24[1].frontend\n", None),
        ("qsub: 123.frontend\n", None),
        ("123\n", None),
        ("", None),
    ],
)
def test_the_id_in_the_answer(text: str, jobid: str | None) -> None:
    for kind in BACKENDS:
        assert kind("lab").jobid_in(text) == jobid


@pytest.mark.parametrize(
    ("said", "code", "error"),
    [
        ("qsub: Maximum number of jobs for user hpc already in queue short", 38, CapacityReached),
        ("qsub: would exceed complex's per-user limit of jobs in 'Q' state", 39, CapacityReached),
        ("qsub: cannot connect to server frontend (errno=15010)", 162, SystemUnavailable),
        ("pbs_iff: all reserved ports in use\nqsub: cannot connect to server f (errno=-1)", 255, SystemUnavailable),
        ("qsub: Request not allowed: Server shutting down", 214, SystemUnavailable),
        ("qsub: Error (15031) submitting job", 183, SubmissionUnclear),
        ("", 0, SubmissionUnclear),
        ("", 143, SubmissionUnclear),
        ("qsub: Unknown queue", 170, SubmissionRefused),
        ("qsub: Error (15002) submitting job", 154, SubmissionRefused),
        ("sh: 1: qsub: not found", 127, CommandNotFound),
    ],
)
def test_submissions_that_were_not_accepted(said: str, code: int, error: type[BackendError]) -> None:
    assert type(PbsBackend("lab").submit_error(Completed(code, b"", said.encode()))) is error


def header(*, array: ArraySpec | None = None, waits_for: Sequence[NativeDependency] = (), **keys: object) -> list[str]:
    app = Application(["true"], jobname="a job; rm -rf", **keys)  # type: ignore[arg-type]
    app.execution.waits_for = tuple(waits_for)
    text = PbsBackend("lab", queue="batch", account="proj").script(app, TOKEN, "/s p", array)
    return [line.removeprefix("#PBS ") for line in text.splitlines() if line.startswith("#PBS ")]


def test_what_is_asked_for_stands_in_the_header() -> None:
    found = header(
        requested_cores=4,
        requested_memory="10 GiB",
        requested_walltime="89.5 s",
        constraint="arch=linux:host=n1",
        exclusive=True,
        priority=-5,
        requested_gpus=2,
        rerunnable=True,
        hold=True,
        native=["-P physics"],
        mail_to="me@example.org",
        mail_on=["begin", "end"],
    )
    assert found == [
        f"-N a_job_rm_-rf.{TOKEN}",
        "-j oe",
        "-o .batchlib/log",
        "-r y",
        "-l select=1:ncpus=4:mem=10240mb:ngpus=2:arch=linux:host=n1",
        "-l place=excl",
        "-l walltime=90",
        "-q batch",
        "-A proj",
        "-p -5",
        "-m be",
        "-M me@example.org",
        "-h",
        "-P physics",
    ]


def test_without_wishes_nothing_is_asked_for() -> None:
    assert header()[3:] == ["-r n", "-l select=1:ncpus=1", "-q batch", "-A proj", "-m n"]


def test_mail_goes_to_the_user_unless_said_otherwise() -> None:
    assert "-m a" in header(mail_on=["fail"])
    assert "-m ae" in header(mail_to="me@example.org")


def test_several_nodes() -> None:
    found = header(requested_nodes=10, tasks_per_node=2, cores_per_task=3, requested_memory="10 GiB", exclusive=True)
    assert "-l select=10:ncpus=6:mpiprocs=2:ompthreads=3:mem=1024mb" in found
    assert "-l place=scatter:excl" in found
    found = header(requested_cores=4, requested_memory_per_core="2 GB")
    assert "-l select=1:ncpus=4:mem=7630mb" in found
    found = header(requested_nodes=2, requested_cores=4, requested_memory_per_core="1 GiB")
    assert "-l select=2:ncpus=4:mpiprocs=1:ompthreads=4:mem=4096mb" in found


def test_a_reservation_is_a_queue() -> None:
    assert "-q R17" in header(reservation="R17.frontend", queue="other")


def test_dependencies() -> None:
    waits_for = [NativeDependency("1.f", "ok"), NativeDependency("2.f", "notok"), NativeDependency("3.f", "ok")]
    assert "-W depend=afterok:1.f:3.f,afternotok:2.f" in header(waits_for=waits_for)
    assert PbsBackend("lab").takes_dependency(waits_for)
    assert not PbsBackend("lab").takes_dependency([*waits_for, NativeDependency("4[1].f", "any")])


def test_a_begin_is_told_in_a_time_zone_of_its_own() -> None:
    begin = time.time() + 5000
    words = PbsBackend("lab", extra_args="-P x").submit_words(Application(["true"], begin=begin))
    assert words[:3] == ["TZ=UTC0", "qsub", "-a"]
    told = time.strptime(words[3], "%Y%m%d%H%M.%S")
    assert 0 <= (time.mktime(told) - time.timezone) - begin < 1
    assert words[4:] == ["-P", "x"]
    assert PbsBackend("lab").submit_words(Application(["true"], begin=time.time() - 5)) == ["qsub"]


@pytest.mark.parametrize(
    ("text", "native"),
    [("1-10", "1-10"), ("0-20:5%3", "0-20:5%3"), ("3,4", "3-4"), ("2,4", "2-4:2"), ("5-9%1", "5-9%1")],
)
def test_arrays_are_one_range(text: str, native: str) -> None:
    assert PbsBackend("lab").takes_array(parse_array(text))
    found = header(array=parse_array(text))
    assert f"-J {native}" in found
    assert "-o ^array_index^/.batchlib/log" in found
    # no array is accepted with it
    assert not any(line.startswith("-r") for line in found)


@pytest.mark.parametrize("text", ["7", "1,3,4", "1-3,7"])
def test_other_arrays_become_single_jobs(text: str) -> None:
    assert not PbsBackend("lab").takes_array(parse_array(text))


@pytest.mark.parametrize(("rerunnable", "code"), [(False, 125), (True, 7)])
def test_an_element_that_pbs_starts_again_runs_again_only_if_it_may(
    tmp_path: Path, rerunnable: bool, code: int
) -> None:
    app = Application(["true"], rerunnable=rerunnable)
    text = PbsBackend("lab").script(app, TOKEN, str(tmp_path), parse_array("1-2"))
    sandbox = tmp_path / TOKEN / "2"
    (sandbox / ".batchlib").mkdir(parents=True)
    (sandbox / ".batchlib/command").write_text("exit 7\n")
    environment = {"PATH": os.environ["PATH"], "PBS_JOBID": "5[2].f", "PBS_ARRAY_INDEX": "2"}
    for expected in (7, code):
        ended = subprocess.run(["/bin/sh"], input=text.encode(), env=environment, capture_output=True, check=False)
        assert ended.returncode == expected, ended.stderr


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"qos": "high"}, UnsupportedOperation, "qos: PBS has none"),
        ({"deadline": 2e9}, UnsupportedOperation, "deadline: PBS can't be told"),
        ({"priority": 5000}, InvalidValue, "priority 5000: PBS has -1024 to 1023"),
        ({"constraint": "fast"}, InvalidValue, "constraint 'fast': write it such as 'arch=linux"),
        ({"constraint": "a=b+8:ncpus=4"}, InvalidValue, "constraint"),
    ],
)
def test_what_can_not_be_had_is_refused_before(keys: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PbsBackend("lab").validate(Application(["true"], **keys))  # type: ignore[arg-type]


def test_a_qos_of_the_resource_is_refused_too() -> None:
    with pytest.raises(UnsupportedOperation, match="qos"):
        PbsBackend("lab", qos="high").validate(Application(["true"]))


def test_directives_come_before_the_first_command() -> None:
    for kind in BACKENDS:
        app = Application(["sh", "-c", "line one\n#PBS -q other\nline two"], native=["-x"], queue="q")
        text = kind("lab", shell="/bin/bash -l").script(app, TOKEN, "/spool")
        script = text.splitlines()
        assert script[0] == "#!/bin/bash -l"
        directives = [number for number, line in enumerate(script) if line.startswith("#PBS") and "other" not in line]
        first = next(number for number, line in enumerate(script[1:], 1) if line and line[0] != "#")
        assert max(directives) < first


def test_nothing_of_an_outer_job_leaks_into_a_submission() -> None:
    for kind in BACKENDS:
        text = programs._scrub(kind.outer_variables, kind.kept_variables) + "\nenv"
        environment = {
            "PATH": os.environ["PATH"],
            "PBS_JOBID": "1.f",
            "PBS_O_WORKDIR": "/",
            "PBS_DPREFIX": "#X",
            "PBS_SERVER": "f",
            "HOME": "/",
        }
        left = subprocess.run(["/bin/sh", "-c", text], env=environment, capture_output=True, check=True, text=True)
        names = {line.partition("=")[0] for line in left.stdout.splitlines()}
        assert {"HOME", "PBS_SERVER"} <= names
        assert not names & {"PBS_JOBID", "PBS_O_WORKDIR", "PBS_DPREFIX"}


# --- history ------------------------------------------------------------------------------------------------------


class Replay(Transport):
    """A frontend that has one answer."""

    def __init__(self, answer: Completed) -> None:
        super().__init__(LocalCarrier())
        self.answer = answer
        self.asked = 0

    def run(self, program: str, **_options: object) -> Completed:
        self.asked += 1
        return self.answer


@pytest.mark.parametrize(
    ("attributes", "remembers"),
    [("    job_history_enable = True\n", True), ("    job_history_enable = False\n", False), ("", False)],
)
def test_without_a_history_other_jobs_are_not_waited_for(attributes: str, remembers: bool) -> None:
    transport = Replay(Completed(0, f"Server: f\n    server_state = Active\n{attributes}".encode(), b""))
    backend = PbsBackend("lab", transport=transport)
    for _ in range(3):
        assert backend.supports("dependency") is remembers
        assert backend.supports("accounting") is remembers
    assert transport.asked == 1
    assert (backend.accounting_command(jobs("1.f")) is not None) is remembers
    assert backend.supports("hold")
    assert not backend.supports("suspend")


def test_a_server_that_is_down_is_asked_again_for_its_history() -> None:
    transport = Replay(Completed(255, b"", b"qstat: cannot connect to server f (errno=15010)"))
    backend = PbsBackend("lab", transport=transport)
    assert not backend.supports("dependency")
    transport.answer = Completed(0, b"Server: f\n    job_history_enable = True\n", b"")
    assert backend.supports("dependency")


def test_a_server_without_history_is_not_asked_for_it_again() -> None:
    # qstat ends with 0 nevertheless
    answer = Completed(0, b"", b"qstat: PBS is not configured to maintain job history\n")
    backend = PbsBackend("lab")
    assert backend.parse_accounting(answer) == {}
    assert backend.accounting_command(jobs("1.f")) is None
    queue = Completed(0, f"Job Id: 1.f\n    Job_Name = a.{TOKEN}\n    job_state = Q\n".encode(), b"")
    assert backend.parse_lookup({"queue": queue, "history": answer}) == {f"a.{TOKEN}": "1.f"}


def test_a_name_is_looked_for_among_live_and_ended_jobs(commands: Path) -> None:
    backend = PbsBackend("lab")
    texts = backend.lookup_commands(["a.bxxx"])
    assert [run(text, commands) for text in texts.values()] == [["qstat <-f>"], ["qstat <-x> <-f>"]]
    queue = Completed(0, b"Job Id: 1.f\n    Job_Name = a\n    job_state = Q\n", b"")
    history = Completed(0, b"Job Id: 2[].f\n    Job_Name = b\n    job_state = F\n", b"")
    down = Completed(255, b"", b"")
    assert backend.parse_lookup({"queue": queue, "history": history}) == {"a": "1.f", "b": "2[].f"}
    for parts in ({"queue": down, "history": history}, {"queue": queue, "history": down}):
        with pytest.raises(SystemUnavailable):
            backend.parse_lookup(parts)


def test_versions() -> None:
    for kind, said, version in (
        (PbsBackend, b"pbs_version = 23.06.06\n", "PBS 23.06.06"),
        (PbsBackend, b"pbs_version = PBSPro_13.1.0\n", "PBS PBSPro_13.1.0"),
        (TorqueBackend, b"Version: 6.1.3\nCommit: \n", "Torque 6.1.3"),
        (TorqueBackend, b"version: 2.4.16\n", "Torque 2.4.16"),
        (TorqueBackend, b"", "Torque"),
    ):
        assert kind("lab", transport=Replay(Completed(0, said, b""))).version() == version


def test_several_complaints_of_qdel() -> None:
    text = (
        "Attention: news of today\n"
        "qdel: Unauthorized Request  1.f\n"
        "qdel: Unknown Job Id 2[3].f\n"
        "qdel: Job has finished 3.f\n"
        "qdel: Server could not connect to MOM 4.f\n"
    )
    found = PbsBackend("lab").control_answers(
        Action.CANCEL, jobs("1.f", "2[3].f", "3.f", "4.f", "5.f"), {"qdel": Completed(123, b"", text.encode())}
    )
    assert {jobid: answer.outcome for jobid, answer in found.items()} == {
        "1.f": Outcome.REFUSED,
        "2[3].f": Outcome.NOT_FOUND,
        "3.f": Outcome.ALREADY_ENDED,
        "4.f": Outcome.UNKNOWN,
    }
