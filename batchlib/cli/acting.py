"""What ``gkill``, ``ghold``, ``grls``, ``gsuspend`` and ``gresume`` share: act on tasks, and tell how it went."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..backends.base import Action, Outcome
from ..session import Session
from .common import Invocation
from .control import act
from .output import print_json
from .selection import chosen_ids


def act_on(invocation: Invocation, words: Sequence[str], every: bool, action: str) -> int:
    """Do something to the tasks that were named on the command line; give the number of those that went wrong.

    Parameters
    ----------
    invocation : Invocation
        The command.
    words : sequence of str
        Ids as they were typed.
    every : bool
        All tasks.
    action : str
        Name of an `Action`.
    """
    with invocation.open_session() as session:
        return act_and_tell(invocation, session, chosen_ids(session, words, every), Action[action])


def act_and_tell(invocation: Invocation, session: Session, ids: Collection[str], action: Action) -> int:
    """Do something to tasks and print the answers; give the number of those that went wrong."""
    with invocation.engine(session) as engine, invocation.driving(session, ids):
        apps = session.load(ids)
        answers = act(engine, apps, action)
        session.save(app for app in apps if answers[app].outcome is not Outcome.ALREADY_ENDED)
    told = []
    failures = 0
    for app in apps:
        answer = answers[app]
        failures += answer.outcome not in (Outcome.DONE, Outcome.ALREADY_ENDED)
        error = str(answer.error) if answer.error else None
        told.append({"id": app.task_id, "outcome": answer.outcome.value, "error": error})
        if not invocation.as_json:
            print(f"{app.task_id}: {answer.outcome.value}{f' ({error})' if error else ''}")
    if invocation.as_json:
        print_json({"session": session.name, "tasks": told})
    return failures
