"""What several commands do to tasks: bring up to date, end, and clean away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..backends.base import Action, Answer, Backend, Outcome
from ..errors import BatchlibError, ConfigurationError
from ..run import State
from ..side_by_side import for_each

if TYPE_CHECKING:
    from ..application import Application
    from ..engine import Engine
    from ..session import Session

T = TypeVar("T")

#: Seconds that tasks may take to end once they were told to: batch systems give processes 5 to 30 s.
_PATIENCE = 90.0
_PAUSES = (0.2, 0.5, 1.0, 2.0)


def by_resource(engine: Engine, apps: Iterable[Application]) -> dict[str, list[Application]]:
    """Group tasks by the names of their resources."""
    groups: dict[str, list[Application]] = {}
    for app in apps:
        groups.setdefault(engine.resource_of(app), []).append(app)
    return groups


def for_each_resource(
    engine: Engine, apps: Iterable[Application], work: Callable[[Backend, list[Application]], Mapping[Application, T]]
) -> tuple[dict[Application, T], dict[Application, ConfigurationError]]:
    """Do something for tasks, resource by resource, side by side.

    Parameters
    ----------
    engine : Engine
        Knows the resources.
    apps : iterable of Application
        Any tasks.
    work : callable
        Takes a backend and its tasks, and gives an answer for each.

    Returns
    -------
    tuple of (dict of Application to T, dict of Application to ConfigurationError)
        The answers; and for tasks of resources that are not configured, why there is none.
    """
    groups = by_resource(engine, apps)
    answers: dict[Application, T] = {}
    unknown: dict[Application, ConfigurationError] = {}
    backends: dict[str, Backend] = {}
    for name, group in groups.items():
        try:
            backends[name] = engine.backend(name)
        except ConfigurationError as error:
            unknown |= dict.fromkeys(group, error)
    for_each(backends, lambda name: answers.update(work(backends[name], groups[name])))
    return answers, unknown


def refresh(engine: Engine, apps: Iterable[Application]) -> dict[Application, BatchlibError]:
    """Bring the states of live tasks up to date; give those for which that went wrong. Nothing is saved.

    Parameters
    ----------
    engine : Engine
        Knows the resources.
    apps : iterable of Application
        Any tasks.
    """

    def look(backend: Backend, group: list[Application]) -> dict[Application, BatchlibError | None]:
        answers = _recover(backend, group)
        return answers | backend.update_job_states([app for app in group if answers.get(app) is None])

    answers, unknown = for_each_resource(engine, (app for app in apps if app.execution.state.live), look)
    return unknown | {app: error for app, error in answers.items() if error is not None}


def act(engine: Engine, apps: Iterable[Application], action: Action) -> dict[Application, Answer]:
    """Do something to tasks, one request a resource. Nothing is saved.

    Parameters
    ----------
    engine : Engine
        Knows the resources.
    apps : iterable of Application
        Any tasks; those that have ended are none of an error.
    action : Action
        What to do.
    """

    def control(backend: Backend, group: list[Application]) -> dict[Application, Answer]:
        _recover(backend, group)
        return backend.control_jobs(group, action, journal=engine.session.save)

    answers, unknown = for_each_resource(engine, apps, control)
    for app, error in unknown.items():
        ended = app.execution.state.final
        answers[app] = Answer(Outcome.ALREADY_ENDED) if ended else Answer(Outcome.UNKNOWN, error)
    return answers


def _recover(backend: Backend, apps: Iterable[Application]) -> dict[Application, BatchlibError | None]:
    """Find out about tasks whose submission was cut short."""
    unclear = [app for app in apps if app.execution.state is State.SUBMITTING]
    return backend.recover_jobs(unclear) if unclear else {}


def clean_away(engine: Engine, session: Session, apps: Sequence[Application], *, force: bool) -> dict[Application, str]:
    """Remove tasks' sandboxes, and then the tasks from their session. The session's lock has to be held.

    Parameters
    ----------
    engine : Engine
        Knows the resources.
    session : Session
        The session.
    apps : sequence of Application
        Its tasks.
    force : bool
        Cancel tasks that have not ended, and give up outputs that were not fetched.

    Returns
    -------
    dict of Application to str
        For each task that stays, the reason.
    """
    problems: dict[Application, str] = {app: str(error) for app, error in refresh(engine, apps).items()}
    if force:
        problems |= _end(engine, session, [app for app in apps if not app.execution.state.final])
    session.save(apps)
    ready = []
    for app in apps:
        if not app.execution.state.final:
            problems.setdefault(app, f"it has not ended ({app.execution.state.value}): wait, or say -f to cancel it")
        elif app.execution.outputs_wait and not force:
            problems[app] = "its outputs were not fetched: gget first, or say -f to give them up"
        else:
            ready.append(app)
            problems.pop(app, None)
    freed, unknown = for_each_resource(engine, ready, lambda backend, group: backend.free_jobs(group))
    problems |= {app: f"its sandbox can't be removed: {error}" for app, error in freed.items() if error is not None}
    if not force:
        for app, what in unknown.items():
            if app.execution.token and not app.execution.freed:
                problems[app] = f"{what}; say -f to forget what lies there"
    session.remove(app for app in ready if app not in problems)
    return problems


def _end(engine: Engine, session: Session, apps: Sequence[Application]) -> dict[Application, str]:
    """Cancel tasks and wait until they have ended; tell of those that have not."""
    if not apps:
        return {}
    problems = {}
    for app, answer in act(engine, apps, Action.CANCEL).items():
        if answer.outcome in (Outcome.REFUSED, Outcome.UNKNOWN):
            problems[app] = f"it could not be cancelled: {answer.error or answer.outcome.value}"
    session.save(apps)
    deadline = time.monotonic() + _PATIENCE
    for pause in (*_PAUSES, *[_PAUSES[-1]] * 1000):
        waiting = [app for app in apps if app not in problems and not app.execution.state.final]
        problems |= {app: str(error) for app, error in refresh(engine, waiting).items()}
        if all(app.execution.state.final for app in waiting) or time.monotonic() > deadline:
            break
        time.sleep(pause)
    for app in apps:
        if not app.execution.state.final:
            problems.setdefault(app, "it was cancelled and is still ending: try again later")
    return problems
