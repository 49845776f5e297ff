"""What OpenPBS and Torque have in common: the commands, and how they answer."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import ClassVar

import attrs

from ..application import Application
from ..errors import InvalidValue
from ..quantity import Memory, whole_number
from ..run import NativeDependency, Reason
from ..transport.shell import Completed
from . import control, pbs_text
from .base import Action, Answer, JobInfo, Machine, Outcome, Queue
from .batch import BatchSystem
from .native import Job
from .programs import quote
from .verdict import JobRow

#: Ids that a listing names at most: OpenPBS opens a connection for each and runs out of ports, for all users of the
#: frontend, with about 500 in a minute. With more of them everything is listed, in one connection.
_FEW = 3
#: The part of a request's time that one of its commands may take.
_PATIENCE = 0.75
_PRIORITIES = range(-1024, 1024)
_MAIL = {"begin": "b", "end": "e", "fail": "a"}
#: States of nodes that run jobs, or could.
_USABLE = frozenset(
    {"free", "busy", "job-busy", "job-exclusive", "job-sharing", "resv-exclusive", "reserve", "time-shared"}
)
#: Reads a listing of jobs and prints what is wanted of it, with a `user` of that user's jobs only; ends as the listing
#: did. It formats nothing: mawk does so up to 8 KB, and the hosts of a large job are more.
_TRIM = r"""
function put() { if (mine || user == "") print text; text = ""; mine = 0 }
BEGIN { user = ENVIRON["batchlib_user"]; ORS = "" }
/^Job Id: / { put(); text = $0 "\n"; keep = 0; next }
/^exit [0-9]+$/ { code = $2; next }
/^    [A-Za-z_0-9.]+ = / { keep = index(names, " " $1 " "); if ($1 == "Job_Owner") mine = index($3, user "@") == 1 }
keep { text = text $0 "\n" }
END { put(); exit code }"""

_COMMANDS = {
    Action.HOLD: "qhold",
    Action.RELEASE: "qrls",
    Action.SUSPEND: "qsig -s suspend",
    Action.RESUME: "qsig -s resume",
    Action.REQUEUE: "qrerun",
}


class PbsFamily(BatchSystem):
    """A batch system with the commands of PBS. Parameters are those of `BatchSystem`."""

    commands: ClassVar[Mapping[str, str]] = {
        name: name for name in ("qsub", "qstat", "qdel", "qhold", "qrls", "qsig", "qrerun", "pbsnodes")
    }
    submit_command = "qsub"
    jobid_pattern = r"(?P<jobid>[0-9]+(?:\[\])?\.[\w.:-]*[A-Za-z][\w.:-]*)$"
    jobid_expression = '"$PBS_JOBID"'
    array_jobid_expression = '"$PBS_JOBID"'
    #: Product name, for people.
    product: ClassVar[str]
    #: What the negative exit statuses mean that are not about the start of a job.
    reasons: ClassVar[Mapping[int, Reason]]
    #: Exit status of jobs that were deleted while they ran, where nothing else tells of it.
    killed: ClassVar[int | None] = None

    # --- submission ----------------------------------------------------------------------------------------

    def validate(self, app: Application) -> None:
        """Check that the resource can run `app`."""
        super().validate(app)
        if app.priority is not None and app.priority not in _PRIORITIES:
            raise InvalidValue(f"priority {app.priority}: {self.product} has -1024 to 1023", resource=self.name)

    def header_values(self, app: Application) -> dict[str, object]:
        """Give what both headers need; without a word on mail there shall be none."""
        default = "ae" if app.mail_to else "n"
        return {"mail_letters": "".join(_MAIL[when] for when in app.mail_on) or default}

    def submit_words(self, app: Application) -> list[str]:
        """Call qsub; it reads the time of a begin in its own time zone."""
        words = super().submit_words(app)
        if app.begin is None or app.begin <= time.time():
            return words
        begin = time.strftime("%Y%m%d%H%M.%S", time.gmtime(math.ceil(app.begin)))
        return ["TZ=UTC0", words[0], "-a", begin, *words[1:]]

    def element_jobid(self, jobid: str, index: int) -> str:
        """Give the native id of an array's element."""
        return pbs_text.element_of(jobid, index)

    def array_jobid(self, jobid: str) -> str:
        """Give the native id of the array that an element belongs to."""
        return pbs_text.array_of(jobid)

    def takes_dependency(self, waits_for: Sequence[NativeDependency]) -> bool:
        """Wait for single jobs only: OpenPBS refuses elements, and an array's own exit status may be wrong."""
        return super().takes_dependency(waits_for) and not any("[" in one.jobid for one in waits_for)

    def native_dependency(self, waits_for: Sequence[NativeDependency]) -> str:
        """Write dependencies as qsub wants them."""
        return pbs_text.dependency([(one.on, one.jobid) for one in waits_for])

    # --- states --------------------------------------------------------------------------------------------

    def patient(self, command: str) -> str:
        """Give a native command that does not hang for ever, as shell words."""
        name, _, options = command.partition(" ")
        words = f"{self.command(name)} {options}".rstrip()
        return patient(words, self.settings.timeout * _PATIENCE)

    def listings(self, qstat: str, jobs: Sequence[Job]) -> list[str]:
        """Make the commands that list at least these jobs, elements of arrays one by one.

        Parameters
        ----------
        qstat : str
            The command, with options.
        jobs : sequence of Job
            The jobs.
        """
        command = self.patient(qstat)
        ids = dict.fromkeys(self.array_jobid(job.jobid) for job in jobs)
        arrays = [quote(jobid) for jobid in ids if "[]" in jobid]
        single = [quote(jobid) for jobid in ids if "[]" not in jobid]
        if len(arrays) > _FEW:
            return [f"{command} -t"]
        listings = [f"{command} -t {' '.join(arrays)}"] if arrays else []
        if single or not arrays:
            listings.append(" ".join([command, *single]) if len(single) <= _FEW else command)
        return listings

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """List the user's jobs, all of them with one command unless there are few."""
        return listing(self.listings("qstat -f", jobs), owned=True)

    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read qstat's listing."""
        return pbs_text.job_rows(self.check_listing(answer, "qstat").out, self.reasons, self.killed)

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look for jobs by name among all of the user's."""
        return {"queue": listing([self.patient("qstat -f")], owned=True)}

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read the listings."""
        found = {}
        for answer in parts.values():
            rows = pbs_text.job_rows(self.check_listing(answer, "qstat").out, self.reasons, self.killed)
            found.update({row.name: jobid for jobid, row in rows.items()})
        return found

    # --- control -------------------------------------------------------------------------------------------

    def control_commands(self, action: Action, jobs: Sequence[Job], signal: str) -> dict[str, str]:
        """Delete with one qdel, or as many as the command line's length demands; all else job by job."""
        if action is not Action.CANCEL:
            return super().control_commands(action, jobs, signal)
        listed = "\n".join(job.jobid for job in jobs)
        return {"qdel": f"xargs {self.patient('qdel')} <<'.'\n{listed}\n."}

    def control_command(self, action: Action, job: Job, signal: str) -> str:
        """Make the command for one job. Suspending, resuming and requeueing are for operators."""
        command = f"qsig -s {signal}" if action is Action.SIGNAL else _COMMANDS[action]
        return f"{self.patient(command)} {quote(job.jobid)}"

    def control_answers(
        self, action: Action, jobs: Sequence[Job], parts: Mapping[str, Completed]
    ) -> Mapping[str, Answer]:
        """Read the answers; qdel says nothing of the jobs that it deleted."""
        if action is not Action.CANCEL:
            return super().control_answers(action, jobs, parts)
        answer = self.check_command(parts["qdel"])
        said = pbs_text.complaints(answer.err)
        if answer.exitcode != 0 and not said.keys() & {job.jobid for job in jobs}:
            raise self.unavailable("qdel", answer)
        return {job.jobid: self._answer(action, said[job.jobid], answer.exitcode) for job in jobs if job.jobid in said}

    def control_answer(self, action: Action, job: Job, answer: Completed) -> Answer:
        """Read the answer for one job."""
        if answer.exitcode == 0:
            return Answer(Outcome.DONE)
        return self._answer(action, answer.err.strip(), answer.exitcode)

    def _answer(self, action: Action, said: str, exitcode: int) -> Answer:
        outcome = pbs_text.outcome(said, exitcode, cancelling=action is Action.CANCEL)
        message = f"{action.value}: {said or f'exit code {exitcode}'}"
        if outcome is Outcome.REFUSED:
            return control.refused(message, self)
        if outcome is Outcome.NOT_FOUND:
            return control.not_found(message, self)
        return control.unknown(message, self) if outcome is None else Answer(outcome)

    # --- monitoring ----------------------------------------------------------------------------------------

    def version_command(self) -> str:
        """Ask qstat, which answers without its server."""
        return f"{self.command('qstat')} --version 2>&1"

    def version(self) -> str:
        """Give name and version of the batch system."""
        match = re.search(r"(?:pbs_version *=|[Vv]ersion:) *(\S+)", super().version())
        return f"{self.product} {match[1]}" if match else self.product

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        self.check_listing(self.ask(self.patient("qstat -B")), "qstat")

    def listing_command(self) -> str:
        """List everybody's jobs, arrays by element."""
        return listing([f"{self.patient('qstat -f')} -t"], owned=False)

    def parse_listing(self, answer: Completed) -> list[JobInfo]:
        """Read qstat's listing; jobs that it remembers although they have ended are left out."""
        jobs = []
        for jobid, found in pbs_text.parse_blocks(self.check_listing(answer, "qstat").out):
            row = pbs_text.job_row(jobid, found, self.reasons, self.killed)
            if "[]" not in jobid and not row.state.final:
                jobs.append(
                    JobInfo(
                        jobid,
                        row.name,
                        found.get("Job_Owner", "").partition("@")[0],
                        found.get("queue", ""),
                        row.state,
                        row.native_state,
                        row.accounting.cores or pbs_text.requested_cores(found),
                        row.accounting.submitted,
                        row.accounting.started,
                        row.accounting.hosts,
                    )
                )
        return jobs

    def queues_command(self) -> str:
        """List queues, and ask the server which of them is the default."""
        return f"{self.patient('qstat -Q -f')} && {self.patient('qstat -B -f')}"

    def parse_queues(self, answer: Completed) -> list[Queue]:
        """Read both listings."""
        text = self.check_listing(answer, "qstat").out
        defaults = {found.get("default_queue") for _, found in pbs_text.parse_blocks(text, "Server")}
        queues = []
        for name, found in pbs_text.parse_blocks(text, "Queue"):
            counts = dict(part.partition(":")[::2] for part in found.get("state_count", "").split())
            queues.append(
                Queue(
                    name,
                    found.get("enabled") == "True" and found.get("started") == "True",
                    name in defaults,
                    pbs_text.parse_duration(found.get("resources_max.walltime", "")),
                    whole_number(counts.get("Running")),
                    whole_number(counts.get("Queued")),
                )
            )
        return queues

    def machines_command(self) -> str:
        """List nodes."""
        return self.patient("pbsnodes -a")

    def parse_machines(self, answer: Completed) -> list[Machine]:
        """Read pbsnodes' listing."""
        nodes = pbs_text.parse_nodes(self.check_listing(answer, "pbsnodes").out)
        return [self.machine(name, found, _usable(found.get("state", ""))) for name, found in nodes]

    def machine(self, name: str, found: pbs_text.Attributes, available: bool) -> Machine:
        """Give the meaning of one node's attributes."""
        raise NotImplementedError


@attrs.frozen
class Shape:
    """What a job asks for on each of its nodes.

    Parameters
    ----------
    nodes : int
        How many.
    tasks, threads : int
        Tasks on each node, and cores for each task.
    memory : Memory, optional
        Memory on each node.
    """

    nodes: int
    tasks: int
    threads: int
    memory: Memory | None

    @property
    def cores(self) -> int:
        """Cores on each node."""
        return self.tasks * self.threads


def shape(app: Application) -> Shape:
    """Tell what a job asks for on each of its nodes: without a number of nodes or tasks, all on one."""
    nodes, tasks, threads = app.requested_nodes or 1, app.tasks_per_node or 1, app.total_cores
    if app.requested_nodes or app.tasks_per_node:
        threads = app.cores_per_task or app.requested_cores
    memory = None
    if app.requested_memory is not None:
        memory = app.requested_memory * Fraction(1, nodes)
    elif app.requested_memory_per_core is not None:
        memory = app.requested_memory_per_core * (tasks * threads)
    return Shape(nodes, tasks, threads, memory)


def _usable(state: str) -> bool:
    return bool(state) and _USABLE.issuperset(state.replace(" ", "").split(","))


def patient(command: str, seconds: float) -> str:
    """Make shell words that give a query up after some time, where the frontend has a program for that.

    Parameters
    ----------
    command : str
        Shell words. A client of OpenPBS may hang for two minutes.
    seconds : float
        How long it may take.
    """
    return f"$(command -v timeout >/dev/null && echo timeout {seconds:.0f} env) {command}"


def listing(commands: Iterable[str], *, owned: bool) -> str:
    """Make the shell text that lists jobs, without what nobody reads of them.

    Parameters
    ----------
    commands : iterable of str
        Shell words of the listings. Ids that are unknown (exit code 153) or have ended (35) are left out by them.
    owned : bool
        Whether to leave other people's jobs out.
    """
    user = '"$(id -un)"' if owned else "''"
    names = " ".join(["", *pbs_text.WANTED, ""])
    text = f"""batchlib_user={user}; export batchlib_user
trim() {{ awk -v names={quote(names)} {quote(_TRIM)}; }}
code=0
"""
    for command in commands:
        text += f"""{{ {command}; printf '\\nexit %s\\n' "$?"; }} | trim
said=$?; case $said in 0|35|153) ;; *) code=$said ;; esac
"""
    return text + 'exit "$code"'
