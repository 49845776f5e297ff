"""Submission, exactly once.

A job's intent (its token) is durable before the frontend hears of it. The frontend notes in the sandbox that it is
about to ask the batch system, and what that answered. So after a crash, a cut link or a time-out it can be found out
whether a job was accepted: from its sandbox, or by its unique name in queue and accounting. Only what was certainly
not accepted is given up and submitted again, with a new sandbox under a new token; the old one is removed first, so
that a job that is accepted late has nothing left to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from .. import sandbox
from ..application import Application, check_inputs
from ..errors import (
    BatchlibError,
    ConnectionFailed,
    DataStagingError,
    InvalidOperation,
    Kind,
    SubmissionUnclear,
    SystemUnavailable,
    TransportError,
)
from ..run import State
from ..transport.archive import Entry, pack
from ..transport.shell import Completed
from . import programs
from .base import Journal

if TYPE_CHECKING:
    from .batch import BatchSystem

T = TypeVar("T")

#: Jobs looked up by name with one command line.
_LOOKUPS_AT_ONCE = 500
#: Seconds after a submission of unknown outcome before "nobody knows it" is believed: longer than any batch
#: system's own time-out for a request (Slurm's and OpenPBS's clients give up after 10 to 60 s).
_GRACE = 90.0

Answers = dict[Application, BatchlibError | None]


def submit(system: BatchSystem, apps: Sequence[Application], journal: Journal | None = None) -> Answers:
    """Submit new jobs.

    Parameters
    ----------
    system : BatchSystem
        Where to.
    apps : sequence of Application
        The jobs.
    journal : callable, optional
        Makes their tokens durable.
    """
    answers: Answers = {app: DataStagingError(what) for app, what in check_inputs(apps).items()}
    for app in apps:
        if app not in answers:
            try:
                _check_new(app)
                system.validate(app)
            except BatchlibError as error:
                answers[app] = error
    ready = [app for app in apps if app not in answers]
    if not ready:
        return answers
    try:
        spool = system.spool
    except BatchlibError as error:
        return answers | dict.fromkeys(ready, system.tell(error))
    for app in ready:
        _begin(system, app)
    if journal is not None:
        journal(ready)
    return answers | _send(system, ready, spool)


def _check_new(app: Application) -> None:
    if app.execution.state is not State.NEW:
        raise InvalidOperation(f"only a new job can be submitted; this one is {app.execution.state.value}")


def _begin(system: BatchSystem, app: Application) -> None:
    run = app.execution
    run.token = run.token or sandbox.new_token()
    run.resource = system.name
    run.attempts += 1
    run.submission_started = True
    run.freed = run.collected = False
    app.set_state(State.SUBMITTING, f"submitting to {system.name}")


def _send(system: BatchSystem, apps: Sequence[Application], spool: str) -> Answers:
    """Send all sandboxes and submit all jobs, in one stream."""
    program = programs.submit(
        spool,
        [(system.token(app), " ".join(system.submit_words(app))) for app in apps],
        outer=system.outer_variables,
        kept=system.kept_variables,
        give_up=(*system.capacity_submit, *system.transient_submit, *system.unclear_submit),
        prelude=system.submit_prelude(),
    )
    scripts = [(app, system.script(app, system.token(app), spool)) for app in apps]
    packing = _Packing(system)
    try:
        answer = system.transport.send(
            program.text, pack(packing.entries(scripts)), idle_timeout=system.settings.timeout
        )
    except DataStagingError as error:
        # everything is unpacked before anything is submitted, so nothing was: leave out the job with the bad input
        return _without(system, apps, packing.current, error, spool)
    except ConnectionFailed as error:
        return {app: _revert(app, system.tell(error)) for app in apps}
    except TransportError as error:
        unclear = SubmissionUnclear(
            f"the connection broke in the middle of a submission ({error.message})", resource=system.name
        )
        return dict.fromkeys(apps, unclear)
    if answer.exitcode in (programs.UNPACKING_FAILED, programs.NO_SPOOL):
        reason = sandbox.check_room(answer.err) or DataStagingError(
            f"the inputs could not be written to {spool}: {answer.err.strip()[-300:]}"
        )
        reason.resource = system.name
        _discard(system, apps)
        return {app: _revert(app, reason) for app in apps}
    return _answers(system, apps, program.split(answer))


class _Packing:
    """Lists what goes into the sandboxes, and knows whose turn it is."""

    def __init__(self, system: BatchSystem) -> None:
        self.system = system
        self.current: Application | None = None

    def entries(self, scripts: Sequence[tuple[Application, str]]) -> Iterator[Entry]:
        for app, script in scripts:
            self.current = app
            yield from sandbox.entries(app, self.system.token(app), script)


def _without(
    system: BatchSystem, apps: Sequence[Application], bad: Application | None, error: BatchlibError, spool: str
) -> Answers:
    """Submit all but one."""
    _discard(system, apps)
    if bad is None:
        return {app: _revert(app, error) for app in apps}
    rest = [app for app in apps if app is not bad]
    answers: Answers = {bad: _revert(bad, error)}
    return answers | (_send(system, rest, spool) if rest else {})


def _answers(system: BatchSystem, apps: Sequence[Application], parts: dict[str, Completed]) -> Answers:
    """Take in what the submit command said for each job."""
    answers: Answers = {}
    for app in apps:
        if system.token(app) in parts:
            answers[app] = _submitted(system, app, parts[system.token(app)])
    # the program stops asking when it is of no use: what stopped it holds for those that were not asked
    why = next((answer for answer in reversed(answers.values()) if answer is not None), None)
    if why is None or why.kind is not Kind.TRANSIENT:
        why = SystemUnavailable("the batch system does not answer now, so it was not asked", resource=system.name)
    return answers | {app: _revert(app, why) for app in apps if app not in answers}


def _submitted(system: BatchSystem, app: Application, answer: Completed) -> BatchlibError | None:
    """Take in the answer of the submit command for one job."""
    jobid = system.jobid_in(answer.out) if answer.exitcode == 0 else None
    if jobid is not None:
        _adopt(system, app, jobid)
        return None
    error = system.submit_error(answer)
    return error if error.kind is Kind.UNCLEAR else _revert(app, error)


def _adopt(system: BatchSystem, app: Application, jobid: str) -> None:
    app.execution.jobid = jobid
    app.execution.unseen_since = None
    app.set_state(State.QUEUED, f"accepted by {system.name} as {jobid}")


def _revert(app: Application, error: BatchlibError) -> BatchlibError:
    """Note that a job was not submitted: it is new again, under its old token."""
    app.execution.submission_started = False
    app.set_state(State.NEW, f"not submitted: {error}")
    return error


def recover(system: BatchSystem, apps: Sequence[Application]) -> Answers:
    """Find out what became of submissions without an answer.

    Parameters
    ----------
    system : BatchSystem
        Where they were sent.
    apps : sequence of Application
        Jobs in state SUBMITTING.
    """
    answers: Answers = {}
    try:
        traces = programs.parse_recover(system.ask(programs.recover(system.spool, map(system.token, apps))))
        never: list[Application] = []
        open_: dict[str, Application] = {}
        for app in apps:
            trace = traces.get(system.token(app), programs.Trace())
            jobid = trace.owner or (system.jobid_in(trace.answer) if trace.exitcode == 0 else None)
            if jobid:
                _adopt(system, app, jobid)
                answers[app] = None
            elif not trace.asked:
                never.append(app)
            else:
                open_[sandbox.unique_name(app.jobname, system.token(app), system.name_length)] = app
        found: dict[str, str] = {}
        for some in _chunks(list(open_), _LOOKUPS_AT_ONCE):
            found |= system.parse_lookup(system.ask_all(system.lookup_commands(some)))
        for name, app in open_.items():
            trace = traces[system.token(app)]
            if name in found:
                _adopt(system, app, found[name])
                answers[app] = None
            elif trace.submitter_alive or trace.age < _GRACE:
                answers[app] = SubmissionUnclear("the batch system may still accept the job", resource=system.name)
            else:
                never.append(app)
        answers |= _abandon(system, never)
    except BatchlibError as error:
        return answers | {app: system.tell(error) for app in apps if app not in answers}
    return answers


def _abandon(system: BatchSystem, apps: Sequence[Application]) -> Answers:
    """Give up sandboxes whose jobs were not accepted, unless one turns out to have started just now."""
    if not apps:
        return {}
    answers: Answers = {}
    gone = programs.parse_abandon(system.ask(programs.abandon(system.spool, map(system.token, apps))))
    for app in apps:
        if system.token(app) in gone:
            _revert(app, SubmissionUnclear("it was never accepted"))
            app.execution.token = None
            answers[app] = None
        else:
            answers[app] = SubmissionUnclear("the job may just have started", resource=system.name)
    return answers


def _discard(system: BatchSystem, apps: Sequence[Application]) -> None:
    """Remove sandboxes of jobs that were not submitted."""
    try:
        system.ask(sandbox.remove_program(programs.quote(system.spool), map(system.token, apps)))
    except TransportError:
        # what is left lies in the spool directory under a token that is used again by the next try
        return


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))
