"""What batchlib's faces may ask of any site.

Operations take many jobs and answer for each: nothing is dropped, and one job that fails never spoils its
neighbours.
"""

from __future__ import annotations

import abc
import enum
import fnmatch
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import attrs

from ..application import Application
from ..array import ArraySpec
from ..errors import BatchlibError, JobNotFound, OperationRefused
from ..quantity import Duration, Memory
from ..run import NativeDependency, State

#: Called with jobs whose intent has to be safe on disk before the site hears of them.
Journal = Callable[[Sequence[Application]], None]


class Action(enum.Enum):
    """What can be done to a job."""

    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    SUSPEND = "suspend"
    RESUME = "resume"
    REQUEUE = "requeue"
    SIGNAL = "signal"


class Outcome(enum.Enum):
    """How a control operation went for one job."""

    #: the site did it, or accepted to do it
    DONE = "done"
    #: there was nothing to do: the job had ended
    ALREADY_ENDED = "already ended"
    #: the site does not know the job
    NOT_FOUND = "not found"
    #: the site does not permit it
    REFUSED = "refused"
    #: no answer: it may have been done
    UNKNOWN = "unknown"


@attrs.frozen
class Answer:
    """The answer to a control operation for one job.

    Parameters
    ----------
    outcome : Outcome
        How it went.
    error : BatchlibError, optional
        What exactly went wrong.
    """

    outcome: Outcome
    error: BatchlibError | None = None


@attrs.frozen
class Collected:
    """The outputs of one job that were fetched.

    Parameters
    ----------
    directory : str
        Where they are.
    files : tuple of str
        Their names below it.
    missing : tuple of str
        Outputs that were asked for and did not exist.
    """

    directory: str
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()


@attrs.frozen
class ResourceStatus:
    """How busy a resource is.

    Parameters
    ----------
    cores, free_cores : int, optional
        Cores in all, and free ones.
    own_queued, own_running : int
        The caller's jobs.
    queued, running : int, optional
        Everybody's jobs.
    """

    cores: int | None = None
    free_cores: int | None = None
    own_queued: int = 0
    own_running: int = 0
    queued: int | None = None
    running: int | None = None


@attrs.frozen
class JobInfo:
    """A job that a site has, ours or somebody else's.

    Parameters
    ----------
    jobid, name, owner, queue : str
        As the site names them.
    state : State
        What its native state means.
    native_state : str
        The site's own word.
    cores : int, optional
        Cores it has or waits for.
    submitted_at, started_at : float, optional
        Times, in seconds since the epoch.
    hosts : tuple of str
        Machines it runs on.
    """

    jobid: str
    name: str = ""
    owner: str = ""
    queue: str = ""
    state: State = State.UNDETERMINED
    native_state: str = ""
    cores: int | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    hosts: tuple[str, ...] = ()


@attrs.frozen
class JobFilter:
    """Which jobs to list; what is not given does not matter.

    Parameters
    ----------
    owners, queues, states, jobids : collection, optional
        Any of these.
    name : str
        Shell pattern for the name.
    """

    owners: Collection[str] | None = None
    queues: Collection[str] | None = None
    states: Collection[State] | None = None
    jobids: Collection[str] | None = None
    name: str = "*"

    def matches(self, job: JobInfo) -> bool:
        """Tell whether a job is one of these."""
        return (
            (self.owners is None or job.owner in self.owners)
            and (self.queues is None or job.queue in self.queues)
            and (self.states is None or job.state in self.states)
            and (self.jobids is None or job.jobid in self.jobids)
            and fnmatch.fnmatchcase(job.name, self.name)
        )


@attrs.frozen
class Queue:
    """A queue (a partition) of a site.

    Parameters
    ----------
    name : str
        Its name.
    open : bool
        Whether it takes jobs and starts them.
    default : bool
        Whether jobs go there that name none.
    max_walltime : Duration, optional
        Longest walltime there.
    running, queued : int, optional
        Jobs in it.
    """

    name: str
    open: bool = True
    default: bool = False
    max_walltime: Duration | None = None
    running: int | None = None
    queued: int | None = None


@attrs.frozen
class Machine:
    """A machine of a site.

    Parameters
    ----------
    name : str
        Its name.
    available : bool
        Whether jobs can run there.
    native_state : str
        The site's own word.
    cores, free_cores : int, optional
        Cores in all, and free ones.
    memory : Memory, optional
        Its memory.
    load : float, optional
        Its load average.
    """

    name: str
    available: bool = True
    native_state: str = ""
    cores: int | None = None
    free_cores: int | None = None
    memory: Memory | None = None
    load: float | None = None


class Backend(abc.ABC):
    """A site that runs jobs."""

    #: The resource's name in the configuration.
    name: str
    #: Kind of site, as in ``type = ...``.
    type: str

    @property
    def delay(self) -> float:
        """Seconds that a question to the site and its answer are under way, as far as that is known."""
        return 0.0

    @abc.abstractmethod
    def submit_jobs(
        self, apps: Sequence[Application], journal: Journal | None = None
    ) -> dict[Application, BatchlibError | None]:
        """Start work, exactly once.

        Parameters
        ----------
        apps : sequence of Application
            Jobs in state NEW.
        journal : callable, optional
            Makes the jobs' tokens durable; called before the site hears of them.

        Returns
        -------
        dict of Application to BatchlibError or None
            None for each job that was accepted. After a transient error the job is NEW again; after an
            unclear one it is SUBMITTING, and `recover_jobs` finds out.
        """

    @abc.abstractmethod
    def recover_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Find out what became of jobs in state SUBMITTING.

        Returns
        -------
        dict of Application to BatchlibError or None
            None for each job that is now known to be submitted (it has its id) or never to have been (it is
            NEW again); an unclear error for those that nothing can be said about yet.
        """

    @abc.abstractmethod
    def update_job_states(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Bring the state of live jobs up to date, with a number of requests that does not grow with them."""

    @abc.abstractmethod
    def control_jobs(
        self, apps: Sequence[Application], action: Action, signal: str = "", journal: Journal | None = None
    ) -> dict[Application, Answer]:
        """Do something to jobs; a refusal is told for each, an ended job is none.

        Parameters
        ----------
        apps : sequence of Application
            The jobs.
        action : Action
            What to do.
        signal : str
            For `Action.SIGNAL`: the signal's name, such as ``USR1``.
        journal : callable, optional
            Makes it durable that jobs are to be cancelled, before the site hears of it: not every batch system tells
            afterwards by whom a job was ended.
        """

    def cancel_jobs(self, apps: Sequence[Application], journal: Journal | None = None) -> dict[Application, Answer]:
        """End jobs, with all their processes; `journal` is as for `control_jobs`."""
        return self.control_jobs(apps, Action.CANCEL, journal=journal)

    def hold_jobs(self, apps: Sequence[Application]) -> dict[Application, Answer]:
        """Keep queued jobs from starting."""
        return self.control_jobs(apps, Action.HOLD)

    def release_jobs(self, apps: Sequence[Application]) -> dict[Application, Answer]:
        """Let held jobs start."""
        return self.control_jobs(apps, Action.RELEASE)

    def suspend_jobs(self, apps: Sequence[Application]) -> dict[Application, Answer]:
        """Stop running jobs for a while."""
        return self.control_jobs(apps, Action.SUSPEND)

    def resume_jobs(self, apps: Sequence[Application]) -> dict[Application, Answer]:
        """Let suspended jobs go on."""
        return self.control_jobs(apps, Action.RESUME)

    def requeue_jobs(self, apps: Sequence[Application]) -> dict[Application, Answer]:
        """Put running jobs back into the queue, to start from the beginning."""
        return self.control_jobs(apps, Action.REQUEUE)

    @abc.abstractmethod
    def collect_jobs(
        self,
        targets: Mapping[Application, str | os.PathLike[str]],
        overwrite: bool = False,
        changed_only: bool = True,
    ) -> dict[Application, Collected | BatchlibError]:
        """Fetch the outputs of many jobs, each into its own directory."""

    @abc.abstractmethod
    def read_output(self, app: Application, remote_filename: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read a part of a file in a job's sandbox; a negative offset counts from its end."""

    @abc.abstractmethod
    def free_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Remove the sandboxes of jobs that have ended."""

    @abc.abstractmethod
    def list_jobs(self, filter: JobFilter | None = None) -> list[JobInfo]:  # noqa: A002 - the contract's name
        """List jobs, other people's too."""

    @abc.abstractmethod
    def list_queues(self) -> list[Queue]:
        """List queues."""

    @abc.abstractmethod
    def list_machines(self) -> list[Machine]:
        """List machines."""

    @abc.abstractmethod
    def get_resource_status(self) -> ResourceStatus:
        """Tell how busy the site is."""

    @abc.abstractmethod
    def render(self, app: Application, array: ArraySpec | None = None) -> str:
        """Give the exact job script and command that submitting `app` would use, for people to read.

        Parameters
        ----------
        app : Application
            The job, or what all elements of the array have in common.
        array : ArraySpec, optional
            The elements' indices.
        """

    @abc.abstractmethod
    def validate(self, app: Application) -> None:
        """Check that the site can run `app`.

        Raises
        ------
        InvalidValue, UnsupportedOperation
            It can't; the message says what is wrong.
        """

    def validate_data(self, urls: Iterable[str]) -> bool:
        """Tell whether the site can stage all of these inputs or outputs: local files only."""
        return all("://" not in url or url.startswith("file://") for url in urls)

    @abc.abstractmethod
    def ping(self) -> None:
        """Ask the site for a sign of life.

        Raises
        ------
        TransportError, BackendError
            It gives none.
        """

    @abc.abstractmethod
    def version(self) -> str:
        """Give name and version of the site's batch system."""

    @abc.abstractmethod
    def supports(self, capability: str) -> bool:
        """Tell whether the site in front of us can do something, such as ``"hold"``."""

    def takes_dependency(self, waits_for: Sequence[NativeDependency]) -> bool:
        """Tell whether the site itself can wait for these jobs, if it can wait for any."""
        return True

    @abc.abstractmethod
    def close(self) -> None:
        """Release the connection; a later operation makes a new one."""

    # --- GC3Pie's names: the same for one job -----------------------------------------------------------

    def submit_job(self, app: Application) -> Application:
        """Submit one job; raises what went wrong."""
        _raise(self.submit_jobs([app]), app)
        return app

    def update_job_state(self, app: Application) -> State:
        """Bring the state of one job up to date and give it."""
        _raise(self.update_job_states([app]), app)
        return app.execution.state

    def cancel_job(self, app: Application) -> None:
        """End one job; raises when that is refused or the outcome is not known. An ended job is no error."""
        answer = self.cancel_jobs([app])[app]
        if answer.error is not None:
            raise answer.error
        if answer.outcome is Outcome.REFUSED:
            raise OperationRefused("the batch system refused to cancel the job", resource=self.name)
        if answer.outcome is Outcome.NOT_FOUND:
            raise JobNotFound(f"the batch system does not know the job {app.execution.jobid}", resource=self.name)

    def peek(
        self,
        app: Application,
        remote_filename: str,
        local_file: str | os.PathLike[str] | IO[bytes],
        offset: int = 0,
        size: int | None = None,
    ) -> None:
        """Copy a part of a file in a job's sandbox to a local file; a negative offset counts from its end."""
        data = self.read_output(app, remote_filename, offset, size)
        if isinstance(local_file, str | os.PathLike):
            Path(local_file).write_bytes(data)
        else:
            local_file.write(data)

    def get_results(
        self,
        app: Application,
        download_dir: str | os.PathLike[str],
        overwrite: bool = False,
        changed_only: bool = True,
    ) -> Collected:
        """Fetch the outputs of one job into a directory."""
        answer = self.collect_jobs({app: download_dir}, overwrite, changed_only)[app]
        if isinstance(answer, BatchlibError):
            raise answer
        return answer

    def free(self, app: Application) -> None:
        """Remove the sandbox of one job that has ended."""
        _raise(self.free_jobs([app]), app)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def _raise(answers: dict[Application, BatchlibError | None], app: Application) -> None:
    error = answers[app]
    if error is not None:
        raise error
