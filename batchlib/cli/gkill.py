"""``gkill``: cancel tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .common import Invocation, all_option, command, ids_argument, run
from .selection import chosen_ids

if TYPE_CHECKING:
    from ..session import Session

_EXAMPLE = """
gkill 3-7
gkill -A
"""


@command("gkill", example=_EXAMPLE)
@ids_argument
@all_option("Cancel all tasks of the session.")
def gkill(invocation: Invocation, words: Sequence[str], every: bool) -> int:
    """Cancel tasks: running, queued, or not submitted yet.

    For each the answer is told: done, already ended, not found (the batch system does not know it), refused (it
    does not permit it), or unknown (it gave no answer). The exit status is the number of the last three.
    """
    with invocation.open_session() as session:
        return kill(invocation, session, chosen_ids(session, words, every))


def kill(invocation: Invocation, session: Session, ids: Collection[str]) -> int:
    """Cancel tasks and print the answers; give the number of those that went wrong."""
    from ..backends.base import Outcome
    from .control import cancel
    from .output import print_json

    with invocation.engine(session) as engine, invocation.driving(session):
        apps = session.load(ids)
        answers = cancel(engine, apps)
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


def main() -> None:
    """Run the command."""
    run(gkill)


if __name__ == "__main__":
    main()
