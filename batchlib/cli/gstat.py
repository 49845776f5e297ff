"""``gstat``: how tasks are doing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from .common import Invocation, checked, command, ids_argument, run
from .selection import select_ids

if TYPE_CHECKING:
    from rich.live import Live

    from ..run import State
    from ..session import Session
    from ..store import Row

#: Seconds to wait for a process that holds the session's lock, before its last known states will do.
_PATIENCE = 2.0

_EXAMPLE = """
gstat                   all tasks of the session
gstat 3-7 12            some of them
gstat -l failed,lost    only those in these states
gstat -w                watch until all have ended
gstat --json | jq '.tasks[] | select(.exitcode != 0)'
"""


def read_states(text: str) -> frozenset[State]:
    """Read names of states and of groups of states."""
    from ..errors import InvalidValue
    from ..run import State

    named: dict[str, Collection[State]] = {state.value: [state] for state in State}
    named["LIVE"] = [state for state in State if state.live]
    named["ENDED"] = [state for state in State if state.final]
    found: set[State] = set()
    for word in text.upper().replace(",", " ").split():
        if word not in named:
            raise InvalidValue(f"{word!r} is no state; there are: {', '.join(named)}")
        found.update(named[word])
    return frozenset(found)


@command("gstat", example=_EXAMPLE)
@ids_argument
@click.option(
    "-l", "--state", "states", metavar="STATES", callback=checked(read_states), help="Show only tasks in these states."
)
@click.option("-n", "--no-update", is_flag=True, help="Ask no cluster; show what was known last.")
@click.option("-w", "--watch", is_flag=True, help="Go on, redrawing the table, until all tasks have ended.")
def gstat(
    invocation: Invocation, words: Sequence[str], states: frozenset[State] | None, no_update: bool, watch: bool
) -> None:
    """Show how tasks are doing.

    Their clusters are asked, new tasks that may start are submitted, and the tasks given by ID (default: all of the
    session) are listed. STATES are names such as RUNNING or FAILED, or LIVE or ENDED, separated by commas.
    """
    if watch and no_update:
        raise click.UsageError("either -n or -w, not both")
    with invocation.open_session() as session:
        ids = select_ids(session.ids(), words) if words else None
        try:
            if watch:
                watch_tasks(invocation, session, ids, states)
            elif not no_update:
                update(invocation, session, ids)
        finally:
            # whoever has seen enough has not seen it in vain
            show(invocation, session, session.store.rows(ids, states))


def update(invocation: Invocation, session: Session, ids: Collection[str] | None) -> None:
    """Run one cycle for tasks, telling of resources that do not answer, and of whoever holds the lock."""
    if not _any_active(session, ids):
        # nothing can change: no need to read a configuration
        return
    from ..errors import SessionLocked

    with invocation.engine(session) as engine:
        try:
            engine.progress(ids, patience=_PATIENCE)
        except SessionLocked as error:
            invocation.say(f"{error}; these are the last known states")
        for problem in engine.problems.values():
            invocation.say(f"{problem}; its tasks are shown as last known")


def _any_active(session: Session, ids: Collection[str] | None) -> bool:
    return any(not state.final for state in session.counts(ids))


def show(invocation: Invocation, session: Session, rows: Iterable[Row]) -> None:
    """Print tasks, as a table or as a document."""
    from .output import print_tasks, print_tasks_document

    if invocation.as_json:
        print_tasks_document(session, rows)
    else:
        print_tasks(rows)


def watch_tasks(
    invocation: Invocation, session: Session, ids: Collection[str] | None, states: frozenset[State] | None
) -> None:
    """Run cycles until all tasks have ended; on a terminal, show them meanwhile."""
    from .progress import Problems

    with invocation.engine(session) as engine, _screen(invocation) as draw:
        problems = Problems(invocation, engine)

        def tell(counts: Mapping[State, int]) -> None:
            problems.tell()
            if draw is not None:
                draw(session.store.rows(ids, states), counts)

        engine.run(ids=ids, tell=tell)


@contextlib.contextmanager
def _screen(invocation: Invocation) -> Iterator[_Draw | None]:
    """Give a function that redraws the table in place; None where there is no terminal."""
    if invocation.as_json or not sys.stdout.isatty():
        yield None
        return
    from rich.live import Live

    # what stays on the screen at the end is the whole table, which is printed afterwards
    with Live(auto_refresh=False, transient=True) as live:
        yield _Draw(live)


class _Draw:
    """Redraws the table in place.

    Parameters
    ----------
    live : rich.live.Live
        The place.
    """

    def __init__(self, live: Live) -> None:
        self._live = live

    def __call__(self, rows: Iterable[Row], counts: Mapping[State, int]) -> None:
        """Draw as many tasks as there is room for, those that have not ended before the others."""
        import shutil

        from rich.text import Text

        from .output import counts_line, task_table

        room = max(1, shutil.get_terminal_size().lines - 4)
        # of each kind no more than can be shown, in the order in which they were added
        first: dict[bool, list[tuple[int, Row]]] = {False: [], True: []}
        total = 0
        for total, row in enumerate(rows, 1):
            if len(first[row.state.final]) < room:
                first[row.state.final].append((total, row))
        chosen = sorted([*first[False], *first[True]][:room])
        table = "\n".join(task_table(row for _, row in chosen))
        more = f"\n... and {total - room} more" if total > room else ""
        self._live.update(Text.from_ansi(f"{table}{more}\n{counts_line(counts)}"), refresh=True)


def main() -> None:
    """Run the command."""
    run(gstat)


if __name__ == "__main__":
    main()
