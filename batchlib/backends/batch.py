"""Batch systems: all that is the same for each of them, written once.

A batch system is a subclass that makes command lines and reads answers; when to connect, what to ask in one go,
what to retry and what to believe is here.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import attrs

from .. import events, sandbox
from ..application import EVERYTHING, RESERVED, Application, check_inputs
from ..config import ResourceSettings, resource_settings
from ..errors import (
    BackendError,
    BatchlibError,
    CapacityReached,
    CommandNotFound,
    ConnectionFailed,
    DataStagingError,
    InvalidOperation,
    InvalidValue,
    JobNotFound,
    Kind,
    OperationRefused,
    SpoolDirectoryError,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
    TransportError,
)
from ..quantity import Duration
from ..run import Accounting, Reason, Run, State

from ..transport.archive import pack, unpack
from ..transport.shell import Completed
from ..transport.transport import Transport, remote_file_error
from . import programs
from .base import Answer, Backend, Collected, Journal, Outcome, single
from .connection import connect
from .script import render_script
from .verdict import JobRow, judge

T = TypeVar("T")

#: Jobs looked up by name with one command line.
_LOOKUPS_AT_ONCE = 500
#: Names of files fetched with one command line.
_NAMES_AT_ONCE = 4000
#: Seconds after a submission of unknown outcome before "nobody knows it" is believed: longer than any
#: batch system's own time-out for a request (Slurm's and OpenPBS's clients give up after 10 to 60 s).
_SUBMISSION_GRACE = 90.0


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


class BatchSystem(Backend):
    """A batch system on a frontend.

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
    #: Template of the header of job scripts.
    template: ClassVar[str]
    #: The answer to a submission; the group ``jobid`` is the native id.
    jobid_pattern: ClassVar[str]
    #: Shell expression for the native id, inside the job.
    jobid_expression: ClassVar[str]
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
    #: What it can do.
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, *, transport: str | Transport = "local", **keys: Any) -> None:
        kind = keys.pop("type", self.type)
        keys["transport"] = transport if isinstance(transport, str) else "local"
        settings = resource_settings(name, {"type": kind, **keys}, commands=self.commands)
        self._configure(settings, transport if isinstance(transport, Transport) else None)

    @classmethod
    def from_settings(cls, settings: ResourceSettings, transport: Transport | None = None) -> BatchSystem:
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
        #: Seconds that the frontend's clock is ahead of ours.
        self.clock_skew = 0.0

    # --- what a batch system gives -------------------------------------------------------------------------

    @abc.abstractmethod
    def queue_command(self, jobs: Sequence[Job]) -> str:
        """Make the shell text that lists at least these jobs, as far as the queue knows them."""

    @abc.abstractmethod
    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read the listing.

        Raises
        ------
        SystemUnavailable
            It is no answer.
        """

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """Make the shell text that asks the accounting; None where there is none."""
        return None

    def parse_accounting(self, answer: Completed) -> dict[str, JobRow]:
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

    @abc.abstractmethod
    def cancel_command(self, jobs: Sequence[Job]) -> str:
        """Make the shell text that ends jobs."""

    @abc.abstractmethod
    def parse_cancel(self, answer: Completed, jobs: Sequence[Job]) -> dict[str, Answer]:
        """Read its answer, by native id."""

    @abc.abstractmethod
    def version_command(self) -> str:
        """Make the shell text that prints name and version of the batch system."""

    def submit_words(self, app: Application) -> list[str]:
        """Give what stands before the script's name on the submit command line."""
        return [self.command(self.submit_command), *map(programs.quote, self.settings.extra_args)]

    def submit_prelude(self) -> str:
        """Give shell text to run once before a batch of submissions."""
        return ""

    def header_values(self, app: Application) -> dict[str, object]:
        """Give values for the header template beyond the common ones."""
        return {}

    # --- life ----------------------------------------------------------------------------------------------

    @property
    def transport(self) -> Transport:
        """The connection to the frontend, made at its first use."""
        if self._transport is None:
            self._transport = connect(self.settings)
        return self._transport

    @property
    def spool(self) -> str:
        """Absolute path of the spool directory, made when it is missing."""
        if self._spool is None:
            self._greet()
        return self._spool or ""

    def _greet(self) -> None:
        """Make the spool directory and learn who and where we are."""
        before = time.time()
        answer = self._ask(programs.greet(self.settings.spooldir))
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

    def close(self) -> None:
        """Release the connection; a later operation makes a new one."""
        if self._transport is not None:
            self._transport.close()

    def ping(self) -> None:
        """Ask the batch system for a sign of life."""
        self.parse_queue(self._ask(self.queue_command([])))

    def version(self) -> str:
        """Give name and version of the batch system."""
        answer = self._ask(self.version_command())
        self._check_command(answer)
        return answer.out.strip()

    def supports(self, capability: str) -> bool:
        """Tell whether the batch system can do something."""
        return capability in self.capabilities

    # --- submission ----------------------------------------------------------------------------------------

    def validate(self, app: Application) -> None:
        """Check that the resource can run `app`."""
        app.validate()
        settings = self.settings
        limits: list[tuple[str, Any, Any]] = [
            ("cores", app.total_cores, settings.max_cores_per_job or settings.max_cores),
            ("walltime", app.requested_walltime, settings.max_walltime),
        ]
        if settings.max_memory_per_core is not None:
            limits.append(("memory", app.total_memory, settings.max_memory_per_core * app.total_cores))
        for what, asked, limit in limits:
            if asked is not None and limit is not None and asked > limit:
                raise InvalidValue(f"{what}: {asked} asked for, {limit} is the most here", resource=self.name)
        wanted = app.requested_architecture
        if wanted and settings.architecture and wanted not in settings.architecture:
            raise InvalidValue(
                f"architecture {wanted} asked for, only {', '.join(settings.architecture)} here", resource=self.name
            )

    def render(self, app: Application) -> str:
        """Give the job script and the command that submits it."""
        self.validate(app)
        token = app.execution.token or "TOKEN"
        spool = self._spool or self.settings.spooldir
        command = " ".join([*self.submit_words(app), f"{RESERVED}/script"])
        return f"# cd {spool}/{token} && {command}\n{self._script(app, token, spool)}"

    def _script(self, app: Application, token: str, spool: str) -> str:
        return render_script(
            app,
            self.settings,
            template=self.template,
            name=sandbox.unique_name(app.jobname, token, self.name_length),
            sandbox=f"{spool}/{token}",
            jobid_expression=self.jobid_expression,
            values={"token": token, **self.header_values(app)},
        )

    def submit_jobs(
        self, apps: Sequence[Application], journal: Journal | None = None
    ) -> dict[Application, BatchlibError | None]:
        """Start work, exactly once: see `Backend.submit_jobs`."""
        answers: dict[Application, BatchlibError | None] = {}
        for app, what in check_inputs(apps).items():
            answers[app] = DataStagingError(what)
        for app in apps:
            if app not in answers:
                try:
                    _check_new(app)
                    self.validate(app)
                except BatchlibError as error:
                    answers[app] = error
        ready = [app for app in apps if app not in answers]
        if ready:
            try:
                spool = self.spool
            except BatchlibError as error:
                return answers | dict.fromkeys(ready, self._tell(error))
            for app in ready:
                self._begin(app)
            if journal is not None:
                journal(ready)
            answers |= self._send(ready, spool)
        return answers

    def _begin(self, app: Application) -> None:
        run = app.execution
        run.token = run.token or sandbox.new_token()
        run.resource = self.name
        run.attempts += 1
        run.submission_started = True
        run.freed = run.collected = False
        app.set_state(State.SUBMITTING, f"submitting to {self.name}")

    def _send(self, apps: Sequence[Application], spool: str) -> dict[Application, BatchlibError | None]:
        """Send all sandboxes and submit all jobs, in one stream."""
        program = programs.submit(
            spool,
            [(_token(app), " ".join(self.submit_words(app))) for app in apps],
            outer=self.outer_variables,
            kept=self.kept_variables,
            give_up=(*self.capacity_submit, *self.transient_submit, *self.unclear_submit),
            prelude=self.submit_prelude(),
        )
        answers: dict[Application, BatchlibError | None] = {}
        scripts = {app: self._script(app, _token(app), spool) for app in apps}
        try:
            entries = (entry for app in apps for entry in sandbox.entries(app, _token(app), scripts[app]))
            answer = self.transport.send(program.text, pack(entries), idle_timeout=self.settings.timeout)
        except DataStagingError as error:
            # the stream was cut before its end: the program unpacks first, so nothing was submitted
            self._discard(spool, apps)
            return {app: self._revert(app, error) for app in apps}
        except ConnectionFailed as error:
            return {app: self._revert(app, self._tell(error)) for app in apps}
        except TransportError as error:
            unclear = SubmissionUnclear(
                f"the connection broke in the middle of a submission ({error.message})", resource=self.name
            )
            return dict.fromkeys(apps, unclear)
        if answer.exitcode == programs.UNPACKING_FAILED:
            reason = sandbox.check_room(answer.err) or DataStagingError(
                f"the inputs could not be written to {spool}: {answer.err.strip()[-300:]}"
            )
            reason.resource = self.name
            return {app: self._revert(app, reason) for app in apps}
        parts = program.split(answer)
        for app in apps:
            if _token(app) in parts:
                answers[app] = self._submitted(app, parts[_token(app)])
        # the program stops asking when it is of no use: what stopped it holds for those that were not asked
        why = next((answer for answer in reversed(answers.values()) if answer is not None), None)
        if why is None or why.kind is not Kind.TRANSIENT:
            why = SystemUnavailable("the batch system does not answer now, so it was not asked", resource=self.name)
        return answers | {app: self._revert(app, why) for app in apps if app not in answers}

    def _submitted(self, app: Application, answer: Completed) -> BatchlibError | None:
        """Take in the answer of the submit command for one job."""
        jobid = self.jobid_in(answer.out) if answer.exitcode == 0 else None
        if jobid is not None:
            self._adopt(app, jobid)
            return None
        error = self.submit_error(answer)
        return error if error.kind is Kind.UNCLEAR else self._revert(app, error)

    def _adopt(self, app: Application, jobid: str) -> None:
        app.execution.jobid = jobid
        app.execution.unseen_since = None
        app.set_state(State.QUEUED, f"accepted by {self.name} as {jobid}")

    def _revert(self, app: Application, error: BatchlibError) -> BatchlibError:
        """Note that a job was not submitted: it is new again, under its old token."""
        app.execution.submission_started = False
        app.set_state(State.NEW, f"not submitted: {error}")
        return error

    def jobid_in(self, text: str) -> str | None:
        """Find the native id in the submit command's answer, or None."""
        try:
            return self.get_jobid_from_submit_output(text, self.jobid_pattern)
        except BackendError:
            return None

    @staticmethod
    def get_jobid_from_submit_output(output: str, regexp: str | re.Pattern[str]) -> str:
        """Find the native id in the submit command's answer, among whatever banners surround it.

        Parameters
        ----------
        output : str
            What the command printed.
        regexp : str or pattern
            Matched against each line; its group ``jobid`` is the id.

        Raises
        ------
        BackendError
            No line matches.
        """
        pattern = re.compile(regexp)
        for line in output.splitlines():
            match = pattern.match(line.strip())
            if match:
                return match["jobid"]
        raise BackendError(f"no job id in what the submit command printed: {output.strip()[:300]!r}")

    def submit_error(self, answer: Completed) -> BatchlibError:
        """Classify what the submit command said when it gave no job id."""
        said = (answer.err.strip() or answer.out.strip() or f"exit code {answer.exitcode}")[-1000:]
        details: dict[str, Any] = {
            "resource": self.name,
            "command": self.command(self.submit_command),
            "exitcode": answer.exitcode,
            "stderr": answer.err,
        }
        if answer.exitcode in (126, 127):
            return self._command_not_found(said, details)
        if answer.exitcode == 0 or any(sign in said for sign in self.unclear_submit):
            return SubmissionUnclear(f"it is not known whether the job was accepted: {said}", **details)
        if any(sign in said for sign in self.capacity_submit):
            return CapacityReached(f"there is no room for more jobs now: {said}", **details)
        if any(sign in said for sign in self.transient_submit):
            return SystemUnavailable(f"the batch system does not answer now: {said}", **details)
        return SubmissionRefused(f"the job was refused: {said}", **details)

    def _command_not_found(self, said: str, details: Mapping[str, Any]) -> CommandNotFound:
        return CommandNotFound(
            f"the command {details['command']!r} is not found on {self.transport.name} ({said}); "
            f"give its path in the configuration, as '{str(details['command']).split()[0]} = /path/to/it'",
            **details,
        )

    def _discard(self, spool: str, apps: Iterable[Application]) -> None:
        # best effort: what is left is found by its token, and overwritten by the next try
        with contextlib.suppress(TransportError):
            self.transport.run(sandbox.remove_program(programs.quote(spool), map(_token, apps)))

    # --- recovery ------------------------------------------------------------------------------------------

    def recover_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Find out what became of jobs in state SUBMITTING: see `Backend.recover_jobs`."""
        answers: dict[Application, BatchlibError | None] = {}
        try:
            program = programs.recover(self.spool, [_token(app) for app in apps])
            traces = programs.parse_recover(self._ask(program))
            asked = [app for app in apps if not self._recover_from_sandbox(app, traces.get(_token(app)), answers)]
            if not asked:
                return answers
            names = {app: sandbox.unique_name(app.jobname, _token(app), self.name_length) for app in asked}
            found: dict[str, str] = {}
            for some in _chunks(list(names.values()), _LOOKUPS_AT_ONCE):
                found |= self.parse_lookup(self._ask_all(self.lookup_commands(some)))
        except BatchlibError as error:
            return answers | {app: self._tell(error) for app in apps if app not in answers}
        for app, name in names.items():
            trace = traces.get(_token(app), programs.Trace())
            if name in found:
                self._adopt(app, found[name])
                answers[app] = None
            elif trace.submitter_alive or trace.age < _SUBMISSION_GRACE:
                answers[app] = SubmissionUnclear("the batch system may still accept the job", resource=self.name)
            else:
                self._revert(app, SubmissionUnclear("neither queue nor accounting know it: it was never accepted"))
                answers[app] = None
        return answers

    def _recover_from_sandbox(
        self,
        app: Application,
        trace: programs.Trace | None,
        answers: dict[Application, BatchlibError | None],
    ) -> bool:
        """Settle one job by what its sandbox tells, if that is enough."""
        jobid = None
        if trace is not None:
            jobid = trace.owner or (self.jobid_in(trace.answer) if trace.exitcode == 0 else None)
        if jobid:
            self._adopt(app, jobid)
            answers[app] = None
            return True
        if trace is None or not trace.asked:
            self._revert(app, SubmissionUnclear("the batch system was never asked"))
            answers[app] = None
            return True
        return False

    # --- states --------------------------------------------------------------------------------------------

    def update_job_states(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Bring states up to date: one listing, and one more request when something ended."""
        live = [app for app in apps if app.execution.jobid and app.execution.state.live]
        answers: dict[Application, BatchlibError | None] = dict.fromkeys(apps)
        if not live:
            return answers
        jobs = {app: Job(app.execution.jobid or "", _token(app)) for app in live}
        try:
            rows = self.parse_queue(self._ask(self.queue_command(list(jobs.values()))))
            gone = [app for app in live if not _is_live(rows.get(jobs[app].jobid))]
            statuses, records = self._evidence([jobs[app] for app in gone]) if gone else ({}, {})
        except BatchlibError as error:
            # no answer is no evidence: states stay as they are
            return answers | dict.fromkeys(live, self._tell(error))
        for app in live:
            job = jobs[app]
            self._update(app, rows.get(job.jobid), records.get(job.jobid), statuses.get(job.token))
        return answers

    def _evidence(self, jobs: Sequence[Job]) -> tuple[dict[str, sandbox.Status], dict[str, JobRow]]:
        """Ask for the status files and accounting records of jobs that the queue does not show as live."""
        asked = {"status": sandbox.status_program(programs.quote(self.spool), [job.token for job in jobs])}
        command = self.accounting_command(jobs)
        if command is not None:
            asked["accounting"] = command
        parts = self._ask_all(asked)
        records: dict[str, JobRow] = {}
        if "accounting" in parts:
            # accounting that is down or late is no evidence; the status files may be
            with contextlib.suppress(SystemUnavailable):
                records = self.parse_accounting(parts["accounting"])
        return sandbox.statuses(parts["status"].out), records

    def _update(
        self, app: Application, row: JobRow | None, record: JobRow | None, status: sandbox.Status | None
    ) -> None:
        run = app.execution
        now = time.time()
        if _is_live(row):
            run.unseen_since = None
        elif run.unseen_since is None:
            run.unseen_since = now
        verdict = judge(
            run,
            row,
            record,
            status,
            now=now,
            patience=self.settings.accounting_delay,
            walltime=app.requested_walltime,
        )
        if verdict is None:
            return
        run.native_state = verdict.native_state
        self._account(run, row, record, status)
        if verdict.state.final:
            run.reason, run.exitcode, run.signal = verdict.reason, verdict.exitcode, verdict.signal
            run.unseen_since = None
        app.set_state(verdict.state, verdict.note if verdict.state is not run.state else "")

    def _account(self, run: Run, row: JobRow | None, record: JobRow | None, status: sandbox.Status | None) -> None:
        """Gather what is known of a job's use of the machine: the accounting first, then the listing, then the script."""
        sources = [source.accounting for source in (record, row) if source is not None]
        if status is not None:
            wall = None
            if status.started is not None and status.ended is not None and status.ended >= status.started:
                wall = Duration.of(status.ended - status.started, "s")
            own = Accounting(
                cpu_time=status.cpu_time,
                wall_time=wall,
                hosts=(status.host,) if status.host else (),
                started=status.started,
                ended=status.ended,
            )
            sources.append(own)
        run.accounting = functools.reduce(_filled, [*sources, run.accounting])

    # --- control -------------------------------------------------------------------------------------------

    def cancel_jobs(self, apps: Sequence[Application]) -> dict[Application, Answer]:
        """End jobs: see `Backend.cancel_jobs`. A refusal is told, an ended job is none."""
        answers: dict[Application, Answer] = {}
        jobs: dict[Application, Job] = {}
        for app in apps:
            run = app.execution
            if run.state.final:
                answers[app] = Answer(Outcome.ALREADY_ENDED)
            elif run.state is State.NEW:
                run.reason = Reason.CANCELLED_BY_USER
                app.set_state(State.CANCELLED, "cancelled before it was submitted")
                answers[app] = Answer(Outcome.DONE)
            elif run.jobid is None:
                error = SubmissionUnclear(
                    "it is not known yet whether the job was accepted; try again", resource=self.name
                )
                answers[app] = Answer(Outcome.UNKNOWN, error)
            else:
                run.cancel_requested = True
                jobs[app] = Job(run.jobid, _token(app))
        if not jobs:
            return answers
        try:
            found = self.parse_cancel(self._ask(self.cancel_command(list(jobs.values()))), list(jobs.values()))
        except BatchlibError as error:
            told = self._tell(error)
            return answers | {app: Answer(Outcome.UNKNOWN, told) for app in jobs}
        for app, job in jobs.items():
            answers[app] = found.get(job.jobid, Answer(Outcome.DONE))
            if answers[app].outcome is Outcome.REFUSED:
                app.execution.cancel_requested = False
            app.execution.note(f"cancel: {answers[app].outcome.value}")
        return answers

    # --- output --------------------------------------------------------------------------------------------

    def read_output(self, app: Application, remote_filename: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read a part of a file in a job's sandbox."""
        if app.execution.token is None or app.execution.freed:
            raise InvalidOperation("the job has no sandbox to read from")
        return self.transport.read(f"{self.spool}/{_token(app)}/{remote_filename}", offset, size)

    def collect_jobs(
        self,
        targets: Mapping[Application, str | os.PathLike[str]],
        overwrite: bool = False,
        changed_only: bool = True,
    ) -> dict[Application, Collected | BatchlibError]:
        """Fetch outputs, of all jobs in one stream: see `Backend.collect_jobs`."""
        answers: dict[Application, Collected | BatchlibError] = {}
        names: dict[Application, list[str]] = {}
        for app in targets:
            token = app.execution.token
            if token is None or app.execution.freed:
                answers[app] = InvalidOperation("the job has no sandbox to fetch from")
            else:
                wanted = sandbox.wanted_outputs(app)
                names[app] = [token] if EVERYTHING in wanted else [f"{token}/{name}" for name in wanted]
        try:
            for batch in _batches(names, _NAMES_AT_ONCE):
                came = self._fetch(batch, targets, overwrite, changed_only)
                for app in batch:
                    files = came[_token(app)]
                    answers[app] = Collected(
                        os.fspath(targets[app]), tuple(sorted(files)), tuple(sandbox.missing(app, files))
                    )
                    app.execution.collected = app.execution.state.final
        except BatchlibError as error:
            told = self._tell(error)
            answers |= {app: told for app in names if app not in answers}
        return answers

    def _fetch(
        self,
        names: Mapping[Application, Sequence[str]],
        targets: Mapping[Application, str | os.PathLike[str]],
        overwrite: bool,
        changed_only: bool,
    ) -> dict[str, list[str]]:
        """Unpack the files of some jobs; give the names that came, by sandbox."""
        by_token = {_token(app): app for app in names}
        came: dict[str, list[str]] = {token: [] for token in by_token}

        def place(member: str) -> Path | None:
            token, _, inner = member.partition("/")
            app = by_token.get(token)
            local = sandbox.local_name(app, inner) if app is not None and inner else None
            if app is None or local is None:
                return None
            came[token].append(inner)
            return Path(targets[app], local)

        def wanted(path: Path, size: int, mtime: float) -> bool:
            info = path.stat()
            return overwrite or (changed_only and (info.st_size != size or int(info.st_mtime) != int(mtime)))

        for target in targets.values():
            try:
                Path(target).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataStagingError(f"cannot make the output directory {target}: {error.strerror}") from error
        program = programs.collect(self.spool, [name for found in names.values() for name in found])
        with self.transport.receive(program, idle_timeout=self.settings.timeout) as incoming:
            try:
                unpack(
                    events.counted(self.transport, incoming, name=f"outputs of {len(names)} jobs"), place, wanted=wanted
                )
            finally:
                # tar's exit code tells of files that are missing, which we see ourselves; but it has to have ended
                for _rest in incoming:
                    pass
                if incoming.result.exitcode == programs.NO_SPOOL:
                    raise SpoolDirectoryError(f"the spool directory {self.spool} is gone", resource=self.name)
        return came

    def free_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Remove the sandboxes of jobs that have ended; removing twice is harmless."""
        answers: dict[Application, BatchlibError | None] = {}
        ready = []
        for app in apps:
            run = app.execution
            if run.state.live:
                answers[app] = InvalidOperation("the job has not ended: cancel it first")
            elif run.token is None or run.freed:
                answers[app] = None
            else:
                ready.append(app)
        if not ready:
            return answers
        try:
            program = sandbox.remove_program(programs.quote(self.spool), map(_token, ready))
            answer = self._ask(program)
            if answer.exitcode:
                raise remote_file_error("cannot remove the sandboxes", answer)
        except BatchlibError as error:
            return answers | dict.fromkeys(ready, self._tell(error))
        for app in ready:
            app.execution.freed = True
            app.execution.note("sandbox removed")
        return answers | dict.fromkeys(ready)

    # --- GC3Pie's names: one job at a time -----------------------------------------------------------------

    def submit_job(self, app: Application) -> Application:
        """Submit one job; raises what went wrong."""
        single(self.submit_jobs([app]), app)
        return app

    def update_job_state(self, app: Application) -> State:
        """Bring the state of one job up to date and give it."""
        single(self.update_job_states([app]), app)
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
        single(self.free_jobs([app]), app)

    def get_prologue_script(self, app: Application) -> str:
        """Give the shell text that runs before the command."""
        return self.settings.script_parts("prologue", app.application_name)

    def get_epilogue_script(self, app: Application) -> str:
        """Give the shell text that runs after the command."""
        return self.settings.script_parts("epilogue", app.application_name)

    # --- asking --------------------------------------------------------------------------------------------

    def _ask(self, program: str, timeout: float | None = None) -> Completed:
        """Run a query on the frontend, in English and UTC."""
        return self.transport.run(programs.CLEAN + program, timeout=timeout or self.settings.timeout)

    def _ask_all(self, asked: Mapping[str, str]) -> dict[str, Completed]:
        """Run several queries in one round trip."""
        sections = programs.Sections()
        for name, text in asked.items():
            sections.add(name, text)
        parts = sections.split(self._ask(sections.text))
        return {name: programs.section(parts, name) for name in asked}

    def _check_command(self, answer: Completed) -> Completed:
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

    def _tell(self, error: BatchlibError) -> BatchlibError:
        """Put the resource's name to an error, and tell listeners when it is down."""
        error.resource = error.resource or self.name
        if isinstance(error, TransportError | SystemUnavailable):
            events.resource_down.send(self, error=error)
        return error


def generic_filename_mapping(jobname: str, jobid: str, file_name: str) -> str:
    """Give the name of a job's output file in its sandbox: what was asked for, whatever the batch system does.

    Parameters
    ----------
    jobname, jobid : str
        Native name and id of the job.
    file_name : str
        Name that the application asked for.
    """
    return file_name


def _token(app: Application) -> str:
    return sandbox.check_token(app.execution.token or "")


def _check_new(app: Application) -> None:
    if app.execution.state is not State.NEW:
        raise InvalidOperation(f"only a new job can be submitted; this one is {app.execution.state.value}")


def _is_live(row: JobRow | None) -> bool:
    return row is not None and not row.state.final


def _filled(used: Accounting, better: Accounting) -> Accounting:
    """Give `used` with what is unknown in it taken from `better`."""
    known = {}
    for field in attrs.fields(Accounting):
        value = getattr(used, field.name)
        known[field.name] = getattr(better, field.name) if value in (None, (), {}) else value
    return Accounting(**known)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _batches(names: Mapping[Application, Sequence[str]], size: int) -> Iterator[dict[Application, Sequence[str]]]:
    """Cut jobs into batches that name at most `size` files."""
    batch: dict[Application, Sequence[str]] = {}
    count = 0
    for app, found in names.items():
        if batch and count + len(found) > size:
            yield batch
            batch, count = {}, 0
        batch[app] = found
        count += len(found)
    if batch:
        yield batch
