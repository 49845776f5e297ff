"""Control: cancel, hold, release, suspend, resume, requeue, signal; one request for any number of jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..application import Application
from ..errors import (
    BatchlibError,
    InvalidValue,
    JobNotFound,
    OperationRefused,
    SubmissionUnclear,
    SystemUnavailable,
    UnsupportedOperation,
)
from ..run import Reason, State
from .base import Action, Answer, Journal, Outcome

if TYPE_CHECKING:
    from .batch import BatchSystem
    from .native import Job, NativeSystem

_SIGNAL = re.compile(r"[A-Z][A-Z0-9+-]{1,15}")


def control(
    system: BatchSystem, apps: Sequence[Application], action: Action, signal: str = "", journal: Journal | None = None
) -> dict[Application, Answer]:
    """Do something to jobs.

    Parameters
    ----------
    system : BatchSystem
        Where they are.
    apps : sequence of Application
        The jobs.
    action : Action
        What to do.
    signal : str
        For `Action.SIGNAL`: the signal's name, such as ``USR1``.
    journal : callable, optional
        Makes it durable that jobs are to be cancelled.
    """
    signal = signal.upper().removeprefix("SIG")
    if action is Action.SIGNAL and not _SIGNAL.fullmatch(signal):
        raise InvalidValue(f"{signal!r} is no name of a signal: say one such as USR1")
    answers: dict[Application, Answer] = {}
    jobs: dict[Application, Job] = {}
    for app in apps:
        early = _without_asking(system, app, action)
        if early is not None:
            answers[app] = early
        else:
            jobs[app] = system.job(app)
    if jobs:
        asked_before = {app for app in jobs if app.execution.cancel_requested}
        if action is Action.CANCEL:
            for app in jobs:
                app.execution.cancel_requested = True
            if journal is not None:
                journal(list(jobs))
        found = _ask(system, list(jobs.values()), action, signal)
        for app, job in jobs.items():
            answers[app] = found.get(job.jobid, Answer(Outcome.DONE))
            if answers[app].outcome is Outcome.NOT_FOUND and app in asked_before:
                # not every batch system remembers a job that it was told to end
                answers[app] = Answer(Outcome.ALREADY_ENDED)
            _record(app, action, answers[app], asked_before=app in asked_before)
    return answers


def _ask(system: BatchSystem, jobs: Sequence[Job], action: Action, signal: str) -> Mapping[str, Answer]:
    try:
        commands = system.control_commands(action, jobs, signal)
        return system.control_answers(action, jobs, system.ask_all(commands))
    except UnsupportedOperation as error:
        return {job.jobid: Answer(Outcome.REFUSED, error) for job in jobs}
    except BatchlibError as error:
        told = system.tell(error)
        return {job.jobid: Answer(Outcome.UNKNOWN, told) for job in jobs}


def _without_asking(system: BatchSystem, app: Application, action: Action) -> Answer | None:
    """Answer for a job that the batch system does not have."""
    run = app.execution
    if run.state.final:
        return Answer(Outcome.ALREADY_ENDED)
    if run.state is State.NEW:
        return _on_new(system, app, action)
    if run.jobid is None:
        error = SubmissionUnclear("it is not known yet whether the job was accepted; try again", resource=system.name)
        return Answer(Outcome.UNKNOWN, error)
    return None


def _on_new(system: BatchSystem, app: Application, action: Action) -> Answer:
    if action is Action.CANCEL:
        app.execution.reason = Reason.CANCELLED_BY_USER
        app.set_state(State.CANCELLED, "cancelled before it was submitted")
        return Answer(Outcome.DONE)
    error = OperationRefused(f"it was not submitted yet, so there is nothing to {action.value}", resource=system.name)
    return Answer(Outcome.REFUSED, error)


def _record(app: Application, action: Action, answer: Answer, *, asked_before: bool) -> None:
    if action is Action.CANCEL and answer.outcome in (Outcome.REFUSED, Outcome.NOT_FOUND):
        app.execution.cancel_requested = asked_before
    app.execution.note(f"{action.value}: {answer.error or answer.outcome.value}")


def refused(message: str, system: NativeSystem) -> Answer:
    """Make the answer of a batch system that does not permit something."""
    return Answer(Outcome.REFUSED, OperationRefused(message, resource=system.name))


def not_found(message: str, system: NativeSystem) -> Answer:
    """Make the answer of a batch system that does not know a job."""
    return Answer(Outcome.NOT_FOUND, JobNotFound(message, resource=system.name))


def unknown(message: str, system: NativeSystem) -> Answer:
    """Make the answer when nobody can say what became of the request."""
    return Answer(Outcome.UNKNOWN, SystemUnavailable(message, resource=system.name))
