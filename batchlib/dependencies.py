"""When a task that waits for others may start."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .application import Application
from .run import NativeDependency, State

if TYPE_CHECKING:
    from .store import Row

#: Tasks that a batch system is told to wait for; with more of them, the engine waits.
_MOST_NATIVE = 50


class Standing(enum.Enum):
    """What dependencies mean for a task now."""

    READY = "ready"
    WAITS = "waits"
    #: can't be met any more
    NEVER = "never"


def parents(apps: Iterable[Application]) -> set[str]:
    """List the ids of all tasks that some tasks wait for."""
    return {task_id for app in apps for dependency in app.after for task_id in dependency.ids}


def by_id(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Map ids to tasks; the id of an array to all its elements."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
        if row.array:
            found.setdefault(row.array, []).append(row)
    return found


def standing(app: Application, tasks: Mapping[str, Sequence[Row]]) -> Standing:
    """Judge whether a task may start.

    Parameters
    ----------
    app : Application
        The task.
    tasks : mapping of str to sequence of Row
        What `by_id` gives for all that it waits for. A task that was removed from the session never ends.
    """
    found = Standing.READY
    for dependency in app.after:
        for task_id in dependency.ids:
            for one in [_meets(row.state, dependency.on) for row in tasks.get(task_id, ())] or [Standing.NEVER]:
                if one is Standing.NEVER:
                    return one
                if one is Standing.WAITS:
                    found = one
    return found


def _meets(state: State, on: str) -> Standing:
    if not state.final:
        return Standing.WAITS
    good = {"ok": state is State.DONE, "notok": state is not State.DONE, "any": True}[on]
    return Standing.READY if good else Standing.NEVER


def native(app: Application, tasks: Mapping[str, Sequence[Row]], resource: str) -> tuple[NativeDependency, ...] | None:
    """Give what the resource's batch system can be told to wait for, or None when it can't know.

    Parameters
    ----------
    app : Application
        A task that waits.
    tasks : mapping of str to sequence of Row
        As for `standing`.
    resource : str
        Where the task is to run.
    """
    found: list[NativeDependency] = []
    for dependency in app.after:
        for task_id in dependency.ids:
            for row in tasks.get(task_id, ()):
                if row.state.final:
                    continue
                if row.jobid is None or row.resource != resource or not row.state.live:
                    return None
                found.append(NativeDependency(row.jobid, dependency.on))
    return tuple(found) if 0 < len(found) <= _MOST_NATIVE else None
