"""``gclean``: remove tasks that have ended, and what they left on the cluster."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .common import Invocation, all_option, command, ids_argument, run
from .selection import chosen_ids

_EXAMPLE = """
gclean 3-7
gclean -A               all tasks that have ended and whose outputs were fetched
gclean -f 12            whatever it is doing
"""


@command("gclean", example=_EXAMPLE)
@ids_argument
@all_option("Remove all tasks that have ended; with -f, really all.")
@click.option("-f", "--force", is_flag=True, help="Cancel tasks that have not ended, and give up unfetched outputs.")
def gclean(invocation: Invocation, words: Sequence[str], every: bool, force: bool) -> int:
    """Remove tasks from the session, and their directories from the cluster.

    Outputs that were fetched stay where they are. A task that has not ended, or whose outputs were not fetched, is
    left alone unless --force is given. The exit status is the number of tasks that were named and not removed.
    """
    from .control import clean_away, refresh
    from .output import count

    with invocation.open_session() as session:
        ids = chosen_ids(session, words, every)
        with invocation.engine(session) as engine, invocation.driving(session, ids):
            apps = session.load(ids)
            live = 0
            if every and not force:
                refresh(engine, apps)
                session.save(apps)
                ended = [app for app in apps if app.execution.state.final]
                live = len(apps) - len(ended)
                apps = ended
            problems = clean_away(engine, session, apps, force=force)
    for app, problem in problems.items():
        invocation.say(f"{app.task_id}: {problem}")
    if live:
        invocation.say(f"left alone, as they have not ended: {count(live, 'task')}")
    removed = [app.task_id for app in apps if app not in problems]
    if invocation.as_json:
        from .output import print_json

        left = [{"id": app.task_id, "error": problem} for app, problem in problems.items()]
        print_json({"session": session.name, "removed": removed, "left": left})
    else:
        print(f"{count(len(removed), 'task')} removed")
    return len(problems)


def main() -> None:
    """Run the command."""
    run(gclean)


if __name__ == "__main__":
    main()
