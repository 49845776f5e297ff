"""Batch systems: all that is the same for each of them, written once.

A batch system is a subclass that makes command lines and reads answers (`NativeSystem`); when to connect, what to ask
in one go, what to retry and what to believe is here.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import sandbox
from ..application import RESERVED, Application
from ..array import ArraySpec, expand_array
from ..errors import (
    BackendError,
    BatchlibError,
    CapacityReached,
    CommandNotFound,
    InvalidOperation,
    InvalidValue,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
    UnsupportedOperation,
)
from ..run import State
from ..transport.shell import Completed
from . import control, outputs, programs, submission
from .base import (
    Action,
    Answer,
    Collected,
    JobFilter,
    JobInfo,
    Journal,
    Machine,
    Queue,
    ResourceStatus,
)
from .native import Job, NativeSystem
from .script import render_command, render_script
from .verdict import JobRow, gather, judge


class BatchSystem(NativeSystem):
    """A batch system on a frontend: the base of all of them. Parameters are those of `NativeSystem`."""

    # --- submission ----------------------------------------------------------------------------------------

    def validate(self, app: Application) -> None:
        """Check that the resource can run `app`."""
        app.validate()
        settings = self.settings
        for field, sentence in self.unsupported.items():
            if getattr(app, field) or getattr(settings, field, None):
                raise UnsupportedOperation(f"{field}: {sentence}", resource=self.name)
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

    def render(self, app: Application, array: ArraySpec | None = None) -> str:
        """Give the job script and the command that submits it: see `Backend.render`."""
        token = app.execution.token or "TOKEN"
        spool = self._spool or self.settings.spooldir
        element = app if array is None else expand_array(app, array)[0]
        self.validate(element)
        whole = array if array is not None and "array" in self.capabilities and self.takes_array(array) else None
        command = " ".join([*self.submit_words(element), f"{RESERVED}/script"])
        text = f"# cd {spool}/{token} && {command}\n{self.script(element, token, spool, whole)}"
        if whole is not None:
            text += f"\n# {token}/{element.array.index if element.array else ''}/{RESERVED}/command:\n"
            text += render_command(element)
        return text

    def script(self, app: Application, token: str, spool: str, array: ArraySpec | None = None) -> str:
        """Make the text of a job script.

        Parameters
        ----------
        app : Application
            The job, or one element of the array.
        token : str
            The directory that it is submitted from.
        spool : str
            The spool directory.
        array : ArraySpec, optional
            The elements of the array.
        """
        common = {"token": token, "waits_for": self.native_dependency(app.execution.waits_for)}
        return render_script(
            app,
            self.settings,
            template=self.settings.header_template or self.template_text(),
            name=self.unique_name(app.jobname, token),
            sandbox=f"{spool}/{token}",
            jobid_expression=self.array_jobid_expression if array else self.jobid_expression,
            index_expression=self.index_expression if array else "",
            reserved_codes=self.reserved_codes,
            values={**common, "array": self.native_array(array) if array else "", **self.header_values(app)},
        )

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
        if answer.exitcode in (0, *programs.KILLED) or any(sign in said for sign in self.unclear_submit):
            return SubmissionUnclear(f"it is not known whether the job was accepted: {said}", **details)
        if any(sign in said for sign in self.capacity_submit):
            return CapacityReached(f"there is no room for more jobs now: {said}", **details)
        if any(sign in said for sign in self.transient_submit):
            return SystemUnavailable(f"the batch system does not answer now: {said}", **details)
        return SubmissionRefused(f"the job was refused: {said}", **details)

    def _command_not_found(self, said: str, details: Mapping[str, Any]) -> CommandNotFound:
        return CommandNotFound(
            f"the command {details['command']!r} is not found on {self.transport.name} ({said}); "
            f"give its path in the configuration, as '{self.submit_command} = /path/to/it'",
            **details,
        )

    def submit_jobs(
        self, apps: Sequence[Application], journal: Journal | None = None
    ) -> dict[Application, BatchlibError | None]:
        """Start work, exactly once: see `Backend.submit_jobs`."""
        return submission.submit(self, apps, journal)

    def recover_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Find out what became of jobs in state SUBMITTING: see `Backend.recover_jobs`."""
        return submission.recover(self, apps)

    @staticmethod
    def token(app: Application) -> str:
        """Give the name of a job's sandbox.

        Raises
        ------
        InvalidValue
            It has none, or one that we did not make.
        """
        return sandbox.check_token(app.execution.token or "")

    def job(self, app: Application) -> Job:
        """Give what the batch system's commands need of a submitted job."""
        return Job(app.execution.jobid or "", self.token(app))

    # --- states --------------------------------------------------------------------------------------------

    def update_job_states(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Bring states up to date: one listing, and one more request when something ended."""
        live = [app for app in apps if app.execution.jobid and app.execution.state.live]
        answers: dict[Application, BatchlibError | None] = dict.fromkeys(apps)
        if not live:
            return answers
        jobs = {app: self.job(app) for app in live}
        try:
            rows, statuses, records = self._look(list(jobs.values()))
        except BatchlibError as error:
            # no answer is no evidence: states stay as they are
            return answers | dict.fromkeys(live, self.tell(error))
        before, self._judged = self._judged, {}
        for app, job in jobs.items():
            row = rows.get(job.jobid)
            known = before.get(job.jobid)
            if known is None or known[0] is not row or known[1] is not app.execution or known[2] is not known[1].state:
                row = _row_of(rows, job)
                self._update(app, row, _row_of(records, job), statuses.get(job.token))
            if row is not None and not row.state.final:
                self._judged[job.jobid] = (row, app.execution, app.execution.state)
        return answers

    def _look(
        self, jobs: Sequence[Job]
    ) -> tuple[Mapping[str, JobRow], Mapping[str, sandbox.Status], Mapping[str, JobRow]]:
        """Ask for the listing; then, for jobs that it does not show as live, for status files and accounting records.

        Of a few jobs the status files are looked at together with the listing, and the accounting where there are any.
        """
        few = len(jobs) <= self.few
        sections = programs.Sections()
        sections.add("queue", self.queue_command(jobs))
        accounting = few and self._ask_evidence(sections, jobs, only_with_status=True)
        parts = sections.split(self.ask(sections.text))
        rows = self.parse_queue(programs.section(parts, "queue"))
        same = {jobid for jobid, (row, _run, _state) in self._judged.items() if rows.get(jobid) is row}
        gone = [job for job in jobs if job.jobid not in same and not _is_live(_row_of(rows, job))]
        if not gone:
            return rows, {}, {}
        if not few or (accounting and "accounting" not in parts):
            sections = programs.Sections()
            self._ask_evidence(sections, gone)
            parts = sections.split(self.ask(sections.text))
        records: Mapping[str, JobRow] = {}
        if "accounting" in parts:
            # accounting that is down or late is no evidence; the status files may be
            with contextlib.suppress(SystemUnavailable):
                records = self.parse_accounting(parts["accounting"])
        statuses = sandbox.statuses(programs.section(parts, "status").out)
        # of the others it says nothing: one that was started again has the status of its last run for a while
        statuses = {job.token: statuses[job.token] for job in gone if job.token in statuses}
        return rows, statuses, {job.jobid: records[job.jobid] for job in gone if job.jobid in records}

    def _ask_evidence(
        self, sections: programs.Sections, jobs: Sequence[Job], *, only_with_status: bool = False
    ) -> bool:
        """Add what asks for status files and accounting records; tell whether there is any accounting to ask."""
        status = sandbox.status_program(programs.quote(self.spool), [job.token for job in jobs])
        sections.text += f"found=$(\n{status})\n"
        sections.add("status", "printf '%s\\n' \"$found\"")
        command = self.accounting_command(jobs)
        if command is not None:
            sections.text += 'if [ -n "$found" ]; then\n' if only_with_status else "if :; then\n"
            sections.add("accounting", command)
            sections.text += "fi\n"
        return command is not None

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
        run.native_state = verdict.native_state
        run.accounting = gather(record, row, status, run.accounting)
        if verdict.state.final:
            run.reason, run.exitcode, run.signal = verdict.reason, verdict.exitcode, verdict.signal
            run.unseen_since = None
        app.set_state(verdict.state, verdict.note if verdict.state is not run.state else "")

    # --- control -------------------------------------------------------------------------------------------

    def control_jobs(
        self, apps: Sequence[Application], action: Action, signal: str = "", journal: Journal | None = None
    ) -> dict[Application, Answer]:
        """Do something to jobs: see `Backend.control_jobs`."""
        return control.control(self, apps, action, signal, journal)

    # --- monitoring ----------------------------------------------------------------------------------------

    def list_jobs(self, filter: JobFilter | None = None) -> list[JobInfo]:  # noqa: A002 - the contract's name
        """List jobs, other people's too."""
        jobs = self.parse_listing(self.ask(self.listing_command()))
        return [job for job in jobs if filter is None or filter.matches(job)]

    def list_queues(self) -> list[Queue]:
        """List queues."""
        return self.parse_queues(self.ask(self.queues_command()))

    def list_machines(self) -> list[Machine]:
        """List machines."""
        return self.parse_machines(self.ask(self.machines_command()))

    def get_resource_status(self) -> ResourceStatus:
        """Tell how busy the site is, from the listings of jobs and machines, in one round trip."""
        asked = {"jobs": self.listing_command(), "machines": self.machines_command(), "user": "id -un"}
        parts = self.ask_all(asked)
        jobs = self.parse_listing(parts["jobs"])
        machines = [machine for machine in self.parse_machines(parts["machines"]) if machine.available]
        own = [job for job in jobs if job.owner == parts["user"].out.strip()]
        free = [machine.free_cores for machine in machines if machine.free_cores is not None]
        return ResourceStatus(
            cores=sum(machine.cores or 0 for machine in machines),
            free_cores=sum(free) if free else None,
            own_queued=_count(own, State.QUEUED, State.HELD),
            own_running=_count(own, State.RUNNING),
            queued=_count(jobs, State.QUEUED, State.HELD),
            running=_count(jobs, State.RUNNING),
        )

    # --- output --------------------------------------------------------------------------------------------

    def read_output(self, app: Application, remote_filename: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read a part of a file in a job's sandbox."""
        if app.execution.token is None or app.execution.freed:
            raise InvalidOperation("the job has no sandbox to read from")
        return self.transport.read(f"{self.spool}/{self.token(app)}/{remote_filename}", offset, size)

    def collect_jobs(
        self,
        targets: Mapping[Application, str | os.PathLike[str]],
        overwrite: bool = False,
        changed_only: bool = True,
    ) -> dict[Application, Collected | BatchlibError]:
        """Fetch outputs, of all jobs in one stream: see `Backend.collect_jobs`."""
        return outputs.collect(self, targets, overwrite, changed_only)

    def free_jobs(self, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
        """Remove the sandboxes of jobs that have ended; removing twice is harmless."""
        return outputs.free(self, apps)

    def get_prologue_script(self, app: Application) -> str:
        """Give the shell text that runs before the command."""
        return self.settings.script_parts("prologue", app.application_name)

    def get_epilogue_script(self, app: Application) -> str:
        """Give the shell text that runs after the command."""
        return self.settings.script_parts("epilogue", app.application_name)


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


def _count(jobs: Iterable[JobInfo], *states: State) -> int:
    return sum(job.state in states for job in jobs)


def _row_of(rows: Mapping[str, JobRow], job: Job) -> JobRow | None:
    """Find a job by its id, unless the batch system has given that id to another of ours since."""
    row = rows.get(job.jobid)
    if row is None or sandbox.token_in(row.name) in ("", sandbox.root_of(job.token)):
        return row
    return None


def _is_live(row: JobRow | None) -> bool:
    return row is not None and not row.state.final
