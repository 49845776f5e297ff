"""OpenPBS and PBS Professional.

Facts were measured on OpenPBS 23.06.06; the wording of messages is that of its sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..application import Application
from ..array import ArraySpec
from ..errors import BatchlibError
from ..quantity import whole_number
from ..run import Reason
from ..transport.shell import Completed
from . import pbs_text
from .base import Action, Answer, Machine
from .control import refused
from .native import Job
from .pbs_family import PbsFamily, listing, shape
from .verdict import JobRow

#: What qstat says, with exit code 0, where ended jobs are not remembered.
_NO_HISTORY = "not configured to maintain job history"


class PbsBackend(PbsFamily):
    """A cluster of OpenPBS or PBS Professional. Parameters are those of `BatchSystem`.

    An account becomes ``-A``; a project (``-P``) goes into `extra_args` or into an application's native options.
    A reservation is the queue that PBS makes for it.
    """

    type = "pbs"
    product = "PBS"
    template = "pbs.sh.j2"
    index_expression = '"$PBS_ARRAY_INDEX"'
    outer_variables = "PBS_*|NCPUS"
    kept_variables = (
        "PBS_CONF_FILE|PBS_EXEC|PBS_HOME|PBS_SERVER|PBS_PRIMARY|PBS_SECONDARY|PBS_LEAF_NAME|PBS_*_SERVICE_PORT|"
        "PBS_AUTH_METHOD|PBS_ENCRYPT_METHOD|PBS_SUPPORTED_AUTH_METHODS|PBS_SCP|PBS_RCP|PBS_TMPDIR"
    )
    capacity_submit = ("Maximum number of jobs", "would exceed")
    transient_submit = (
        "cannot connect to server",
        "connect to cluster",
        "Server shutting down",
        "Server connection table full",
        "No free connections",
        "Resource temporarily unavailable",
    )
    # the answer to a request that the server may have carried out was cut off
    unclear_submit = ("(15031)", "Batch protocol error", "End of File", "Premature end")
    unsupported: ClassVar[Mapping[str, str]] = {
        "qos": "PBS has none; name a queue that has what you want",
        "deadline": "PBS can't be told when a job has to be ended; ask for a walltime",
    }
    # not "signal": qsig reaches the login shell that PBS runs the script with, too; that dies, and the job with it
    capabilities = frozenset({"accounting", "array", "dependency", "hold", "monitoring"})
    # -1 to -7, -10, -13, -21 to -23 and -30 are troubles at the start of a job
    reasons: ClassVar[Mapping[int, Reason]] = {
        -4: Reason.NODE_FAILURE,
        -5: Reason.NODE_FAILURE,
        -6: Reason.NODE_FAILURE,
        -14: Reason.NODE_FAILURE,
        -17: Reason.CANCELLED_BY_SYSTEM,
        -19: Reason.CANCELLED_BY_SYSTEM,
        -20: Reason.NODE_FAILURE,
        -24: Reason.CPU_TIME,
        -25: Reason.CPU_TIME,
        -26: Reason.MEMORY,
        -27: Reason.MEMORY,
        -28: Reason.CPU_TIME,
        -29: Reason.WALLTIME,
        -31: Reason.MEMORY,
    }

    #: Whether the server remembers ended jobs; None while unknown.
    _history: bool | None = None

    def validate(self, app: Application) -> None:
        """Check that the resource can run `app`."""
        super().validate(app)
        if app.constraint is not None:
            pbs_text.check_words(
                app.constraint, r"[A-Za-z]\w*=[^:+=]+(:[A-Za-z]\w*=[^:+=]+)*", "constraint", "'arch=linux:host=node1'"
            )

    def header_values(self, app: Application) -> dict[str, object]:
        """Give the chunks of the request, how they are placed, and the queue of a reservation."""
        reserved = (app.reservation or "").partition(".")[0]
        return {
            **super().header_values(app),
            "select": select(app),
            "place": ":".join([*(["scatter"] if app.requested_nodes else []), *(["excl"] if app.exclusive else [])]),
            "queue": reserved or app.queue or self.settings.queue,
        }

    def takes_array(self, array: ArraySpec) -> bool:
        """Take what can be written as one range; there are neither lists of indices nor arrays of one element."""
        return (
            len(array.indices) > 1 and len({b - a for a, b in zip(array.indices, array.indices[1:], strict=False)}) == 1
        )

    def native_array(self, array: ArraySpec) -> str:
        """Write the elements as a range."""
        first, second, last = array.indices[0], array.indices[1], array.indices[-1]
        step = f":{second - first}" if second - first > 1 else ""
        return f"{first}-{last}{step}" + (f"%{array.max_running}" if array.max_running else "")

    def supports(self, capability: str) -> bool:
        """Tell whether the batch system can do something.

        Without a history of ended jobs it tells nothing of their ends, and takes one that waits for a job which has
        just ended for one that can never run.
        """
        if capability in ("accounting", "dependency"):
            return self._remembers()
        return super().supports(capability)

    def _remembers(self) -> bool:
        if self._history is None:
            try:
                answer = self.check_listing(self.ask(self.patient("qstat -B -f")), "qstat")
            except BatchlibError:
                # not known now: asked again the next time
                return False
            for _, found in pbs_text.parse_blocks(answer.out, "Server"):
                self._history = found.get("job_history_enable") == "True"
        return bool(self._history)

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """List jobs that have ended, too."""
        if self._history is False:
            return None
        return listing(self.listings("qstat -x -f", jobs), owned=True)

    def parse_accounting(self, answer: Completed) -> dict[str, JobRow]:
        """Read qstat's listing, unless the server does not remember ended jobs."""
        if _NO_HISTORY in answer.err:
            self._history = False
            return {}
        return self.parse_queue(answer)

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look for jobs by name among those that live, and among those that have ended."""
        history = listing([self.patient("qstat -x -f")], owned=True)
        return {**super().lookup_commands(names), "history": history}

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read both listings; there may be no history."""
        if _NO_HISTORY in parts["history"].err:
            parts = {"queue": parts["queue"]}
        return super().parse_lookup(parts)

    def control_commands(self, action: Action, jobs: Sequence[Job], signal: str) -> dict[str, str]:
        """Hold and release arrays as a whole, as PBS does; a part of one is not asked for."""
        if action not in (Action.HOLD, Action.RELEASE):
            return super().control_commands(action, jobs, signal)
        elements = [job for job in jobs if self.array_jobid(job.jobid) != job.jobid]
        targets = [job for job in jobs if job not in elements] + self._whole_arrays(elements)
        return {target.jobid: self.control_command(action, target, signal) for target in targets}

    def control_answers(
        self, action: Action, jobs: Sequence[Job], parts: Mapping[str, Completed]
    ) -> Mapping[str, Answer]:
        """Read the answers; an array's is that of its elements."""
        if action not in (Action.HOLD, Action.RELEASE):
            return super().control_answers(action, jobs, parts)
        answers = {}
        for job in jobs:
            part = parts.get(job.jobid) or parts.get(self.array_jobid(job.jobid))
            message = f"{action.value}: PBS does it with all elements of an array that have not ended, or with none"
            answers[job.jobid] = (
                self.control_answer(action, job, self.check_command(part)) if part else refused(message, self)
            )
        return answers

    def _whole_arrays(self, elements: Sequence[Job]) -> list[Job]:
        """Give the arrays of which all elements that have not ended are among these."""
        if not elements:
            return []
        rows = self.parse_queue(self.ask(self.queue_command(elements)))
        others = {jobid for jobid, row in rows.items() if not row.state.final} - {job.jobid for job in elements}
        torn = {self.array_jobid(jobid) for jobid in others if self.array_jobid(jobid) != jobid}
        arrays = {self.array_jobid(job.jobid): job.token for job in elements}
        return [Job(array, token) for array, token in arrays.items() if array not in torn]

    def machine(self, name: str, found: pbs_text.Attributes, available: bool) -> Machine:
        """Give the meaning of one node's attributes."""
        cores = whole_number(found.get("resources_available.ncpus"))
        used = whole_number(found.get("resources_assigned.ncpus")) or 0
        return Machine(
            name,
            available,
            found.get("state", ""),
            cores,
            max(0, cores - used) if cores is not None else None,
            pbs_text.parse_memory(found.get("resources_available.mem", "")),
        )


def select(app: Application) -> str:
    """Write what a job asks for as chunks, each on one node.

    Parameters
    ----------
    app : Application
        The job.
    """
    wanted = shape(app)
    parts = [str(wanted.nodes), f"ncpus={wanted.cores}"]
    if app.requested_nodes or app.tasks_per_node:
        parts += [f"mpiprocs={wanted.tasks}", f"ompthreads={wanted.threads}"]
    if wanted.memory is not None:
        parts.append(f"mem={wanted.memory.ceil('MiB')}mb")
    if app.requested_gpus:
        parts.append(f"ngpus={app.requested_gpus}")
    if app.constraint:
        parts.append(app.constraint)
    return ":".join(parts)
