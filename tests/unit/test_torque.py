"""What is Torque's own: its header, its arrays, and what it refuses."""

from __future__ import annotations

import pytest

from batchlib.application import Application
from batchlib.array import ArraySpec, parse_array
from batchlib.backends.native import Job
from batchlib.backends.torque import TorqueBackend
from batchlib.errors import (
    BackendError,
    CapacityReached,
    InvalidValue,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
    UnsupportedOperation,
)
from batchlib.run import NativeDependency
from batchlib.transport.shell import Completed
from tests.unit.pbs_records import TOKEN


def header(*, array: ArraySpec | None = None, **keys: object) -> list[str]:
    app = Application(["true"], jobname="a job; rm -rf", **keys)  # type: ignore[arg-type]
    text = TorqueBackend("lab", queue="batch", account="proj").script(app, TOKEN, "/s p", array)
    return [line.removeprefix("#PBS ") for line in text.splitlines() if line.startswith("#PBS ")]


def test_what_is_asked_for_stands_in_the_header() -> None:
    found = header(
        requested_cores=4,
        requested_memory="10 GiB",
        requested_walltime="89.5 s",
        constraint="fast:big-mem",
        reservation="res.1",
        exclusive=True,
        priority=1023,
        requested_gpus=2,
        rerunnable=True,
        hold=True,
        native=["-l qos=high"],
        mail_to="me@example.org",
    )
    assert found == [
        f"-N a_job_rm_-rf.{TOKEN}",
        "-j oe",
        "-o .batchlib/log",
        "-r y",
        "-l nodes=1:ppn=4:gpus=2:fast:big-mem",
        "-l mem=10240mb",
        "-l walltime=90",
        "-q batch",
        "-A proj",
        "-W x=advres:res.1",
        "-n",
        "-p 1023",
        "-m ae",
        "-M me@example.org",
        "-h",
        "-l qos=high",
    ]


def test_without_wishes_nothing_is_asked_for() -> None:
    assert header()[3:] == ["-r n", "-l nodes=1:ppn=1", "-q batch", "-A proj", "-m n"]


def test_memory_is_that_of_the_whole_job() -> None:
    found = header(requested_nodes=10, tasks_per_node=2, cores_per_task=3, requested_memory_per_core="100 MiB")
    assert "-l nodes=10:ppn=6" in found
    assert "-l mem=6000mb" in found


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("1-10", "1-10"),
        ("1-10%3", "1-10%3"),
        ("0,3,7-8", "0,3,7-8"),
        # there are no steps
        ("0-20:5%2", "0,5,10,15,20%2"),
        ("7", "7"),
    ],
)
def test_arrays(text: str, native: str) -> None:
    assert TorqueBackend("lab").takes_array(parse_array(text))
    found = header(array=parse_array(text))
    assert f"-t {native}" in found
    # elements need not be run again, unlike those of OpenPBS
    assert "-r n" in found


def test_a_list_that_does_not_fit_into_a_line_becomes_single_jobs() -> None:
    assert not TorqueBackend("lab").takes_array(parse_array("0-2000:2"))


def test_elements_know_their_index() -> None:
    text = TorqueBackend("lab").script(Application(["true"]), TOKEN, "/spool", parse_array("1-2"))
    assert f'batchlib_sandbox=/spool/{TOKEN}/"$PBS_ARRAYID"\n' in text


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"qos": "high"}, UnsupportedOperation, "qos: Torque has none.*native option"),
        ({"deadline": 2e9}, UnsupportedOperation, "deadline: Torque can't be told"),
        ({"priority": -1025}, InvalidValue, "priority -1025: Torque has -1024 to 1023"),
        ({"constraint": "a+b"}, InvalidValue, "constraint 'a\\+b': write it such as 'fast:bigmem'"),
    ],
)
def test_what_can_not_be_had_is_refused_before(keys: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TorqueBackend("lab").validate(Application(["true"], **keys))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "code", "error"),
    [
        (
            "qsub: submit error (Maximum number of jobs already in queue for user MSG=total number of current user's "
            "jobs exceeds the queue limit: user me@f, queue q)",
            229,
            CapacityReached,
        ),
        ("Cannot connect to specified server host 'f'.\nqsub: cannot connect to server f (errno=111)", 111,
         SystemUnavailable),
        ("qsub: submit error (Server busy. Not available threads)", 230, SystemUnavailable),
        # the job that was to be waited for has ended and is forgotten: the next look tells more
        ("qsub: submit error (Invalid Job Dependency)", 208, SystemUnavailable),
        ("qsub: submit error (Premature End of File)", 220, SubmissionUnclear),
        ("qsub: submit error (Bad Job Array Request)", 235, SubmissionRefused),
        ("qsub: submit error (Unknown queue MSG=requested queue not found)", 172, SubmissionRefused),
    ],
)  # fmt: skip
def test_submissions_that_were_not_accepted(said: str, code: int, error: type[BackendError]) -> None:
    assert type(TorqueBackend("lab").submit_error(Completed(code, b"", said.encode()))) is error


def test_there_is_no_history_beyond_the_queue() -> None:
    backend = TorqueBackend("lab")
    assert backend.accounting_command([Job("1.f", TOKEN)]) is None
    assert backend.supports("accounting")
    assert backend.supports("dependency")
    assert backend.takes_dependency([NativeDependency("1.f", "ok")])
    assert not backend.takes_dependency([NativeDependency("1[3].f", "ok")])
