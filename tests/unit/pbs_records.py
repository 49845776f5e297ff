"""Recordings of PBS commands, and what the recordings of OpenPBS and Torque are read with."""

from __future__ import annotations

import re

import pytest

from batchlib.backends import pbs_text
from batchlib.backends.base import Action
from batchlib.backends.native import Job
from batchlib.backends.pbs_family import PbsFamily
from batchlib.backends.verdict import JobRow, Verdict, judge
from batchlib.errors import BackendError, SystemUnavailable
from batchlib.run import Run, State
from tests.life import End
from tests.unit.recorded import Record

TOKEN = "b" * 16


class PbsRecord(Record):
    """One command and its answer."""

    @property
    def words(self) -> list[str]:
        """The words of the PBS command among those of the record, without what comes before and after it."""
        for part in re.split(r" [|&;]+ |; |\n", self.command):
            words = re.sub(r"^(\[as \w+\] |[A-Z_]+=\S* |/opt/pbs/bin/)*", "", part).split()
            if words and re.fullmatch(r"q[a-z]+|pbsnodes", words[0]):
                return words
        return self.command.split()

    @property
    def options(self) -> str:
        """The letters of its options."""
        return "".join(re.findall(r"(?<=-)[A-Za-z1]+", " ".join(word for word in self.words[1:] if word[0] == "-")))


def rows(backend: PbsFamily, entry: PbsRecord) -> dict[str, JobRow]:
    """What a record's text says of jobs, whatever its exit code."""
    return pbs_text.job_rows(entry.answer.out, backend.reasons, backend.killed)


def read_listing(backend: PbsFamily, entry: PbsRecord) -> None:
    """Read a listing of jobs: all that are in it, and nothing of tables and other formats."""
    answer = entry.answer
    ids = re.findall(r"^Job Id: (\S+)$", answer.out, re.MULTILINE)
    found = rows(backend, entry)
    assert list(found) == list(dict.fromkeys(ids))
    for jobid, row in found.items():
        assert row.jobid == jobid
        assert row.state is not State.UNDETERMINED or "job_state = " not in answer.out or "[]" in jobid
        assert not row.state.final or row.reason is not None
    try:
        assert backend.parse_queue(answer) == found
    except SystemUnavailable:
        assert answer.exitcode != 0
    else:
        assert answer.exitcode == 0


def read_submission(backend: PbsFamily, entry: PbsRecord) -> None:
    """Read the answer of qsub."""
    told = re.search(r"^[0-9]+(\[\])?\.frontend$", entry.answer.out, re.MULTILINE)
    assert backend.jobid_in(entry.answer.out) == (told[0] if told else None)
    if not told:
        assert isinstance(backend.submit_error(entry.answer), BackendError)


def read_deletion(backend: PbsFamily, entry: PbsRecord) -> None:
    """Read the answer of qdel."""
    ids = [word.strip("'") for word in entry.words[1:] if word[0] != "-"]
    jobs = [Job(jobid, TOKEN) for jobid in ids if jobid]
    try:
        found = backend.control_answers(Action.CANCEL, jobs, {"qdel": entry.answer})
    except SystemUnavailable:
        assert entry.answer.exitcode
    else:
        assert bool(found) is (entry.answer.exitcode != 0)


def read_control(backend: PbsFamily, entry: PbsRecord) -> None:
    """Read the answer of another control command."""
    jobid = entry.words[-1].strip("'")
    answer = backend.control_answer(Action.SIGNAL, Job(jobid, TOKEN), entry.answer)
    assert (answer.error is not None or answer.outcome.value == "already ended") is (entry.answer.exitcode != 0)


def read_nodes(backend: PbsFamily, entry: PbsRecord) -> None:
    """Read what pbsnodes said."""
    if entry.answer.exitcode:
        with pytest.raises(SystemUnavailable):
            backend.parse_machines(entry.answer)
    else:
        backend.parse_machines(entry.answer)


def end(row: JobRow) -> End:
    """What a row says of a job's end."""
    return row.state, row.reason, row.exitcode, row.signal


def believed(queue: JobRow | None, accounting: JobRow | None = None, **known: object) -> Verdict:
    """What is concluded long after the job was last seen, without a status file."""
    run = Run(state=State.QUEUED, unseen_since=0.0, **known)  # type: ignore[arg-type]
    return judge(run, queue, accounting, None, now=1000.0, patience=15.0)
