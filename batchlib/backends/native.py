"""What a batch system gives: its commands, and what their answers mean.

A batch system's module fills these in; what is done with them is in `batch`.
"""

from __future__ import annotations

import abc
import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from .. import events, sandbox
from ..application import Application
from ..array import ArraySpec
from ..config import resource_settings
from ..errors import (
    BatchlibError,
    CommandNotFound,
    SpoolDirectoryError,
    SystemUnavailable,
    TransportError,
    UnsupportedOperation,
)
from ..run import NativeDependency, Run, State
from ..settings import ResourceSettings
from ..transport.posix import remote_file_error
from ..transport.shell import Completed
from ..transport.transport import Transport
from . import control, programs
from .base import (
    Action,
    Answer,
    Backend,
    JobInfo,
    Machine,
    Outcome,
    Queue,
)
from .connection import connect
from .script import template_text
from .verdict import JobRow

if TYPE_CHECKING:
    from typing_extensions import Self


@attrs.frozen
class Job:
    """A submitted job as a batch system's commands need it.

    Parameters
    ----------
    jobid : str
        The native id.
    token : str
        The sandbox's name.
    """

    jobid: str
    token: str


class NativeSystem(Backend):
    """A frontend, and the native commands of its batch system.

    Parameters
    ----------
    name : str
        The resource's name.
    transport : str or Transport
        ``local``, ``ssh``, or a transport to use.
    **keys
        All other keys of a ``[resource/NAME]`` section: ``frontend``, ``spooldir``, ``queue``, ...

    Raises
    ------
    InvalidValue
        A key is unknown or has a value that can't be used.
    """

    #: Native commands and what they are called unless the configuration says otherwise.
    commands: ClassVar[Mapping[str, str]] = {}
    #: The native submit command among them.
    submit_command: ClassVar[str]
    #: Template of the header of job scripts: a file in the folder ``templates`` beside the module of the class.
    template: ClassVar[str]
    #: The answer to a submission; the group ``jobid`` is the native id.
    jobid_pattern: ClassVar[str]
    #: Shell expression for the native id, inside the job.
    jobid_expression: ClassVar[str]
    #: The same for an element of an array, and for its index.
    array_jobid_expression: ClassVar[str] = ""
    index_expression: ClassVar[str] = ""
    #: Variables of an outer job that must not leak into a submission: a shell pattern, and its exceptions.
    outer_variables: ClassVar[str] = ""
    kept_variables: ClassVar[str] = ""
    #: Characters that a job's name may have.
    name_length: ClassVar[int] = 60
    #: What a submit command says when a limit on the number of jobs is reached, when the batch system can't be
    #: asked now, and when it may have accepted the job.
    capacity_submit: ClassVar[tuple[str, ...]] = ()
    transient_submit: ClassVar[tuple[str, ...]] = ()
    unclear_submit: ClassVar[tuple[str, ...]] = ()
    #: Whether native commands wait too long for a server that hangs: longer than a request may take.
    clients_hang: ClassVar[bool] = False
    #: Submit commands that run at a time unless the configuration says otherwise.
    submit_commands: ClassVar[int] = 1
    #: Jobs of which the status files may be looked at each time that the queue is. Their accounting is then asked for
    #: all of them as soon as one has a status, so it has to be cheap.
    few: ClassVar[int] = 0
    #: Exit codes of a job script that tell the batch system to do something: it ends with 1 instead of these.
    reserved_codes: ClassVar[tuple[int, ...]] = ()
    #: What an application may ask for and the batch system has nothing like: a sentence for each such field.
    unsupported: ClassVar[Mapping[str, str]] = {}
    #: What it can do.
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, *, transport: str | Transport = "local", **keys: Any) -> None:
        kind = keys.pop("type", self.type)
        keys["transport"] = transport if isinstance(transport, str) else "local"
        settings = resource_settings(name, {"type": kind, **keys}, commands=self.commands)
        self._configure(settings, transport if isinstance(transport, Transport) else None)

    @classmethod
    def from_settings(cls, settings: ResourceSettings, transport: Transport | None = None) -> Self:
        """Make a backend from checked settings."""
        made = cls.__new__(cls)
        made._configure(settings, transport)
        return made

    def _configure(self, settings: ResourceSettings, transport: Transport | None) -> None:
        self.name = settings.name
        self.settings = settings
        self._transport = transport
        self._spool: str | None = None
        self._user = ""
        self._uid = ""
        #: Rows of live jobs that were judged the last time, with what they were judged for and to be: where none of
        #: the three has changed, there is nothing to judge.
        self._judged: dict[str, tuple[JobRow, Run, State]] = {}
        #: Seconds that the frontend's clock is ahead of ours.
        self.clock_skew = 0.0

    # --- what a batch system gives -------------------------------------------------------------------------

    @abc.abstractmethod
    def queue_command(self, jobs: Sequence[Job]) -> str:
        """Make the shell text that lists at least these jobs, as far as the queue knows them."""

    @abc.abstractmethod
    def parse_queue(self, answer: Completed) -> Mapping[str, JobRow]:
        """Read the listing.

        Raises
        ------
        SystemUnavailable
            It is no answer.
        """

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """Make the shell text that asks the accounting; None where there is none."""
        return None

    def parse_accounting(self, answer: Completed) -> Mapping[str, JobRow]:
        """Read the accounting's answer.

        Raises
        ------
        SystemUnavailable
            It is no answer.
        """
        return {}

    @abc.abstractmethod
    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Make the shell texts that look for jobs by their unique names, in queue and accounting."""

    @abc.abstractmethod
    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read their answers: native ids by name.

        Raises
        ------
        SystemUnavailable
            Not everything could be asked, so that a job that is missing proves nothing.
        """

    def control_command(self, action: Action, job: Job, signal: str) -> str:
        """Make the shell text that does something to one job.

        Raises
        ------
        UnsupportedOperation
            The batch system has nothing like it.
        """
        raise UnsupportedOperation(f"{self.type} can't {action.value} jobs", resource=self.name)

    def control_answer(self, action: Action, job: Job, answer: Completed) -> Answer:
        """Read its answer."""
        return Answer(Outcome.DONE) if answer.exitcode == 0 else control.unknown(answer.err.strip(), self)

    def control_commands(self, action: Action, jobs: Sequence[Job], signal: str) -> dict[str, str]:
        """Make the shell texts that do something to many jobs, by a name for each: here one for each job."""
        return {job.jobid: self.control_command(action, job, signal) for job in jobs}

    def control_answers(
        self, action: Action, jobs: Sequence[Job], parts: Mapping[str, Completed]
    ) -> Mapping[str, Answer]:
        """Read their answers: an answer for each native id; those that are left out went well."""
        for answer in parts.values():
            self.check_command(answer)
        return {job.jobid: self.control_answer(action, job, parts[job.jobid]) for job in jobs}

    @abc.abstractmethod
    def version_command(self) -> str:
        """Make the shell text that prints name and version of the batch system."""

    def submit_words(self, app: Application) -> list[str]:
        """Give what stands before the script's name on the submit command line."""
        return [self.command(self.submit_command), *map(programs.quote, self.settings.extra_args)]

    def native_array(self, array: ArraySpec) -> str:
        """Write the elements of an array as the batch system wants them."""
        return str(array)

    def takes_array(self, array: ArraySpec) -> bool:
        """Tell whether these elements can be submitted as one array; if not, they become single jobs."""
        return True

    def element_jobid(self, jobid: str, index: int) -> str:
        """Give the native id of an array's element."""
        return f"{jobid}_{index}"

    def array_jobid(self, jobid: str) -> str:
        """Give the native id of the array that an element belongs to."""
        return jobid.partition("_")[0]

    def native_dependency(self, waits_for: Sequence[NativeDependency]) -> str:
        """Write dependencies as the batch system wants them; empty without any."""
        return ""

    def unique_name(self, jobname: str, token: str) -> str:
        """Make the name under which a job is queued."""
        return sandbox.unique_name(jobname, token, self.name_length)

    @classmethod
    def template_text(cls) -> str:
        """Give the text of the header's template: the file `template` in the folder beside the class's own module."""
        module = inspect.getfile(next(base for base in cls.__mro__ if "template" in vars(base)))
        return template_text(Path(module).parent, cls.template)

    @property
    def submissions_at_a_time(self) -> int:
        """Submit commands that run at a time on the frontend."""
        return self.settings.submissions_at_a_time or self.submit_commands

    def submit_prelude(self) -> str:
        """Give shell text to run once before a batch of submissions."""
        return ""

    def header_values(self, app: Application) -> dict[str, object]:
        """Give values for the header template beyond the common ones."""
        return {}

    def listing_command(self) -> str:
        """Make the shell text that lists everybody's jobs in the queue."""
        raise UnsupportedOperation(f"{self.type} can't list jobs", resource=self.name)

    def parse_listing(self, answer: Completed) -> list[JobInfo]:
        """Read its answer."""
        return []

    def queues_command(self) -> str:
        """Make the shell text that lists the queues."""
        raise UnsupportedOperation(f"{self.type} has no queues", resource=self.name)

    def parse_queues(self, answer: Completed) -> list[Queue]:
        """Read its answer."""
        return []

    def machines_command(self) -> str:
        """Make the shell text that lists the machines."""
        raise UnsupportedOperation(f"{self.type} can't list machines", resource=self.name)

    def parse_machines(self, answer: Completed) -> list[Machine]:
        """Read its answer."""
        return []

    # --- life ----------------------------------------------------------------------------------------------

    @property
    def transport(self) -> Transport:
        """The connection to the frontend, made at its first use."""
        if self._transport is None:
            self._transport = connect(self.settings)
        return self._transport

    @property
    def delay(self) -> float:
        """Seconds that a question to the frontend and its answer are under way, as far as that is known."""
        return self._transport.round_trip if self._transport is not None else 0.0

    @property
    def spool(self) -> str:
        """Absolute path of the spool directory, made when it is missing."""
        if self._spool is None:
            self._greet()
        return self._spool or ""

    def _greet(self) -> None:
        """Make the spool directory and learn who and where we are."""
        before = time.time()
        answer = self.ask(programs.greet(self.settings.spooldir))
        found = dict(line.partition("=")[::2] for line in answer.out.splitlines())
        if answer.exitcode or not found.get("spool", "").startswith("/"):
            problem = remote_file_error(
                f"the spool directory {self.settings.spooldir} on {self.transport.name} can't be used", answer
            )
            raise SpoolDirectoryError(
                f"{problem.message}; name another one as 'spooldir'",
                resource=self.name,
                exitcode=answer.exitcode,
                stderr=answer.err,
            )
        self._spool = found["spool"]
        self._user = found.get("user", "")
        self._uid = found.get("uid", "")
        if found.get("time", "").isdigit():
            self.clock_skew = int(found["time"]) - (before + time.time()) / 2

    def command(self, name: str) -> str:
        """Give a native command as shell words, as configured."""
        return self.settings.commands.get(name) or self.commands[name]

    @property
    def limit(self) -> str:
        """Shell text that sets ``$limit``, to stand before native commands that may hang."""
        return programs.limit(self.settings.timeout / 2)

    def close(self) -> None:
        """Release the connection; a later operation makes a new one."""
        if self._transport is not None:
            self._transport.close()

    def ping(self) -> None:
        """Ask the batch system for a sign of life."""
        self.parse_queue(self.ask(self.queue_command([])))

    def version(self) -> str:
        """Give name and version of the batch system."""
        answer = self.ask(self.version_command())
        self.check_command(answer)
        return answer.out.strip()

    def supports(self, capability: str) -> bool:
        """Tell whether the batch system can do something."""
        return capability in self.capabilities

    # --- asking --------------------------------------------------------------------------------------------

    def ask(self, program: str, timeout: float | None = None) -> Completed:
        """Run a query on the frontend, in English and UTC."""
        return self.transport.run(programs.CLEAN + program, timeout=timeout or self.settings.timeout)

    def ask_all(self, asked: Mapping[str, str]) -> dict[str, Completed]:
        """Run several queries in one round trip."""
        sections = programs.Sections()
        for name, text in asked.items():
            sections.add(name, text)
        parts = sections.split(self.ask(sections.text))
        return {name: programs.section(parts, name) for name in asked}

    def check_command(self, answer: Completed) -> Completed:
        """Raise when a native command is missing."""
        if answer.exitcode == 127:
            raise CommandNotFound(
                f"a command is missing on {self.transport.name}: {answer.err.strip()[-300:]}; "
                "give its path in the configuration",
                resource=self.name,
                exitcode=127,
                stderr=answer.err,
            )
        return answer

    def check_listing(self, answer: Completed, command: str, complete: bool = True) -> Completed:
        """Raise unless a native command succeeded and its listing is `complete`: no answer is no empty answer."""
        if self.check_command(answer).exitcode != 0 or not complete:
            raise self.unavailable(command, answer)
        return answer

    def unavailable(self, command: str, answer: Completed) -> SystemUnavailable:
        """Make the error of a native command that gave no answer."""
        said = (answer.err.strip() or answer.out.strip() or f"exit code {answer.exitcode}")[-500:]
        return SystemUnavailable(
            f"{command} does not answer: {said}",
            resource=self.name,
            command=command,
            exitcode=answer.exitcode,
            stderr=answer.err,
        )

    def tell(self, error: BatchlibError) -> BatchlibError:
        """Put the resource's name to an error, and tell listeners when it is down."""
        error.resource = error.resource or self.name
        if isinstance(error, TransportError | SystemUnavailable):
            events.resource_down.send(self, error=error)
        return error
