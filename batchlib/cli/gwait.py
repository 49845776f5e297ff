"""``gwait``: wait until tasks have ended, and fetch their outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from .common import Invocation, all_option, checked, command, duration, ids_argument, run
from .selection import select_ids

if TYPE_CHECKING:
    from ..engine import Engine
    from ..quantity import Duration
    from ..run import State
    from ..session import Session

_EXAMPLE = """
gwait                          all tasks of the session
gwait 3-7 --timeout '2 hours'
gsub -n 10 -- ./simulate | gwait -
"""


@command("gwait", example=_EXAMPLE)
@ids_argument
@all_option("Wait for all tasks of the session; so does naming none.")
@click.option(
    "--timeout", metavar="DURATION", callback=checked(duration), help="Stop waiting after so long: '2 hours', 90s."
)
def gwait(invocation: Invocation, words: Sequence[str], every: bool, timeout: Duration | None) -> int:
    """Wait until tasks have ended, and fetch their outputs.

    New tasks that may start are submitted meanwhile. The exit status is the number of tasks that did not end well:
    that failed, were cancelled or lost, or had not ended when the time was over.
    """
    if words and every:
        raise click.UsageError("either name tasks or say -A, not both")
    with invocation.open_session() as session:
        ids = select_ids(session.ids(), words) if words else None
        with invocation.engine(session, fetch=True) as engine:
            failed = wait_for(invocation, session, engine, ids, None if timeout is None else timeout.seconds)
        if invocation.as_json:
            from .output import print_tasks_document

            print_tasks_document(session, session.store.rows(ids))
    return failed


def wait_for(
    invocation: Invocation,
    session: Session,
    engine: Engine,
    ids: Collection[str] | None,
    timeout: float | None = None,
) -> int:
    """Run cycles until tasks have ended; tell which did not end well, and give their number.

    Parameters
    ----------
    invocation : Invocation
        How to tell.
    session, engine : Session, Engine
        The tasks, and what drives them.
    ids : collection of str or None
        Which; None for all.
    timeout : float, optional
        Seconds after which to stop.
    """
    from ..run import State
    from .output import describe
    from .progress import Problems, progress_bar

    with progress_bar() as advance:
        problems = Problems(invocation, engine)

        def tell(counts: Mapping[State, int]) -> None:
            problems.tell()
            advance(counts)

        engine.run(ids=ids, timeout=timeout, tell=tell)
    for task, what in engine.unfetched.items():
        invocation.say(f"{task}: {what}")
    failed = 0
    for row in session.store.rows(ids):
        if row.state is not State.DONE:
            invocation.say(describe(row))
            failed += 1
        elif row.id in engine.unfetched:
            # it ended well, but its outputs are not here
            failed += 1
    return failed


def main() -> None:
    """Run the command."""
    run(gwait)


if __name__ == "__main__":
    main()
