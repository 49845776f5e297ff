"""A session's tasks in a database: one row each, readable columns beside two JSON documents. No pickles.

What a listing shows is in columns, so that a hundred thousand tasks can be listed without reading a single document.
What is to be run is stored once for all tasks that have it in common. Long answers are read in pages, so that nobody
who writes has to wait for whoever looks at them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from .application import Application, ArrayElement, twin
from .array import fill
from .database import Database, open_database
from .documents import description_document
from .errors import SessionError, TaskNotFound
from .records import Descriptions, Reader, columns_of, count_up
from .run import Reason, Run, State
from .schema import SCHEMA, can_upgrade, create, upgrade
from .statements import INSERT, PAGE, UPDATE, chunks, one_of, restrictions


class Row(NamedTuple):
    """What a listing shows of a task.

    Parameters
    ----------
    id : str
        Its name in the session.
    array : str, optional
        Id of the array that it is an element of.
    name, state, reason, exitcode, signal, resource, jobid, native_state, info, output_dir
        As in `Run` and `Application`.
    created_at, submitted_at, started_at, ended_at : float, optional
        Times, in seconds since the epoch.
    collected, freed : bool
        Whether its outputs were fetched and its sandbox was removed.
    """

    id: str
    array: str | None
    name: str
    state: State
    reason: Reason | None
    exitcode: int | None
    signal: int | None
    resource: str | None
    jobid: str | None
    native_state: str
    info: str
    output_dir: str | None
    created_at: float
    submitted_at: float | None
    started_at: float | None
    ended_at: float | None
    collected: bool
    freed: bool


@attrs.frozen
class Tally:
    """How many tasks of one resource are in one state.

    Parameters
    ----------
    resource : str or None
        The resource; None for tasks that have none yet.
    state : State
        The state.
    outputs_wait : bool
        Whether they have ended and have outputs on the cluster that were not fetched.
    count : int
        Their number.
    """

    resource: str | None
    state: State
    outputs_wait: bool
    count: int


def by_state(tally: Iterable[Tally]) -> dict[State, int]:
    """Add up how many tasks are in each state, whatever their resource."""
    counts: dict[State, int] = {}
    for part in tally:
        counts[part.state] = counts.get(part.state, 0) + part.count
    return counts


_STATES = {state.value: state for state in State}
_REASONS: dict[str | None, Reason | None] = {None: None, **{reason.value: reason for reason in Reason}}
_LISTED = ", ".join(["id", "array_id", *Row._fields[2:]])


class Store:
    """The tasks of one session.

    Parameters
    ----------
    url : str
        Where they are, as SQLAlchemy writes it: ``sqlite:////path/to/session.db``.
    alone : callable, optional
        Gives a context in which nobody else drives the tasks: tables of an earlier version are converted in there.

    Raises
    ------
    SessionError
        The database can't be opened, or was made by a later version.
    """

    def __init__(
        self, url: str, alone: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    ) -> None:
        self._database: Database = open_database(url)
        try:
            self._prepare(url, alone)
        except BaseException:
            self.close()
            raise

    def _prepare(self, url: str, alone: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        """Make the tables where there are none, and convert old ones."""
        if not self._database.has_table("meta"):
            with self._database.writing() as writer:
                # of two processes that find no tables only one must make them
                if not writer.has_table("meta"):
                    create(writer)
        found = self.note("schema")
        if can_upgrade(found):
            with alone(), self._database.writing() as writer:
                upgrade(writer)
        elif found != str(SCHEMA):
            raise SessionError(f"{url} was written by another version of batchlib (schema {found}, this is {SCHEMA})")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # --- writing -------------------------------------------------------------------------------------------

    def add(self, apps: Sequence[Application], directory: str) -> int:
        """Add tasks and give them their ids.

        Parameters
        ----------
        apps : sequence of Application
            Tasks without an id.
        directory : str
            Where those without an `output_dir` get one, named after the id.

        Returns
        -------
        int
            Their revision.
        """
        with self._database.writing() as writer:
            revision = count_up(writer, "revision")
            number, last = count_up(writer, "last_number", len(apps)), count_up(writer, "last_id", len(apps))
            describe = Descriptions(writer)
            now = time.time()
            rows = []
            for place, app in enumerate(apps, 1 - len(apps)):
                task = str(last + place)
                array, index = (app.array.name, app.array.index) if app.array is not None else (None, None)
                rows.append(
                    {
                        **columns_of(app, revision),
                        "number": number + place,
                        "id": task,
                        "array_id": array,
                        "array_index": index,
                        "description": describe(description_document(app)),
                        "name": app.jobname,
                        "output_dir": os.path.join(directory, task) if app.output_dir is None else app.output_dir,
                        "created_at": now,
                    }
                )
            describe.write()
            if rows:
                writer.execute_many(INSERT, rows)
        for app, row in zip(apps, rows, strict=True):
            app.task_id = row["id"]
            app.output_dir = row["output_dir"]
        return revision

    def add_array(self, app: Application, indices: Sequence[int], max_running: int | None, directory: str) -> list[str]:
        """Add the elements of an array; their ids are its id, a dot, and their index.

        Parameters
        ----------
        app : Application
            The description of all of them.
        indices : sequence of int
            Their indices.
        max_running : int, optional
            How many of them may run at a time.
        directory : str
            Where they get an `output_dir`, named after the id, if it has none.

        Returns
        -------
        list of str
            Their ids.
        """
        with self._database.writing() as writer:
            number, array = count_up(writer, "last_number", len(indices)), str(count_up(writer, "last_id"))
            describe = Descriptions(writer)
            first = twin(app, Run(resource=app.execution.resource))
            first.array = ArrayElement(array, indices[0], max_running)
            shared = {
                **columns_of(first, count_up(writer, "revision")),
                "description": describe(description_document(first)),
                "name": app.jobname,
                "array_id": array,
                "created_at": time.time(),
            }
            describe.write()
            ids = [f"{array}.{index}" for index in indices]
            rows = [
                {
                    **shared,
                    "number": number + place,
                    "id": task_id,
                    "array_index": index,
                    "output_dir": os.path.join(directory, task_id)
                    if app.output_dir is None
                    else fill(app.output_dir, index),
                }
                for place, (index, task_id) in enumerate(zip(indices, ids, strict=True), 1 - len(indices))
            ]
            writer.execute_many(INSERT, rows)
        return ids

    def save(self, apps: Iterable[Application]) -> int:
        """Write what became of tasks, all or none; give their revision."""
        with self._database.writing() as writer:
            revision = count_up(writer, "revision")
            rows = [columns_of(app, revision) for app in apps]
            if rows:
                writer.execute_many(UPDATE, rows)
        return revision

    def remove(self, ids: Collection[str]) -> None:
        """Forget tasks."""
        if not ids:
            return
        with self._database.writing() as writer:
            revision = count_up(writer, "revision")
            writer.execute("UPDATE meta SET value = :revision WHERE key = 'removed'", {"revision": str(revision)})
            for some in chunks(list(ids)):
                condition, parameters = one_of("id", some)
                writer.execute(f"DELETE FROM tasks WHERE {condition}", parameters)
            writer.execute("DELETE FROM descriptions WHERE number NOT IN (SELECT description FROM tasks)")

    def note(self, key: str, value: str | None = None) -> str | None:
        """Read a note about the session, after writing it when a value is given."""
        if value is not None:
            with self._database.writing() as writer:
                writer.execute("DELETE FROM meta WHERE key = :key", {"key": key})
                writer.execute("INSERT INTO meta (key, value) VALUES (:key, :value)", {"key": key, "value": value})
            return value
        found = self._database.read("SELECT value FROM meta WHERE key = :key", {"key": key})
        return str(found[0][0]) if found else None

    # --- reading -------------------------------------------------------------------------------------------

    def revision(self) -> int:
        """Give the number of the last change."""
        return self.revisions()[0]

    def revisions(self) -> tuple[int, int]:
        """Give the numbers of the last change, and of the last one that removed tasks."""
        query = "SELECT key, value FROM meta WHERE key IN ('revision', 'removed')"
        found: dict[str, str] = dict(self._database.read(query))
        return int(found["revision"]), int(found["removed"])

    def changed(self, since: int) -> list[tuple[str, int]]:
        """List tasks that were written after a revision, each with its own one."""
        query = "SELECT id, revision FROM tasks WHERE revision > :since ORDER BY number"
        return [(task, revision) for task, revision in self._database.read(query, {"since": since})]

    def load(
        self,
        ids: Collection[str] | None = None,
        states: Collection[State] | None = None,
        known: Mapping[str, int] | None = None,
    ) -> Iterator[tuple[str, int, Application | None]]:
        """Read tasks.

        Parameters
        ----------
        ids : collection of str, optional
            Which; default is all. The id of an array means all its elements.
        states : collection of State, optional
            Only those in one of these.
        known : mapping of str to int, optional
            Revisions of tasks that need not be read again unless they have changed since.

        Yields
        ------
        str, int, Application or None
            Id, revision, and the task, in the order in which they were added; None for one that is known already.

        Raises
        ------
        TaskNotFound
            One of `ids` is not there, and was not just passed over.
        """
        known = {} if known is None else known
        reader = Reader(self._database)
        for page in self._pages("id, array_id, number, revision", ids, states):
            apps = reader.read([number for task, _, number, revision in page if known.get(task) != revision])
            for task, _, number, revision in page:
                if known.get(task) == revision:
                    yield task, revision, None
                elif number in apps:
                    yield task, revision, apps[number]

    def rows(self, ids: Collection[str] | None = None, states: Collection[State] | None = None) -> Iterator[Row]:
        """List tasks without reading their documents; parameters and errors as for `load`."""
        make = Row._make
        for page in self._pages(_LISTED, ids, states):
            for found in page:
                state, reason, *rest, collected, freed = found[3:]
                yield make((*found[:3], _STATES[state], _REASONS[reason], *rest, bool(collected), bool(freed)))

    def ids(self) -> list[str]:
        """List the ids of all tasks, in the order in which they were added."""
        return [task for (task,) in self._database.read("SELECT id FROM tasks ORDER BY number")]

    def counts(self, ids: Collection[str] | None = None) -> dict[State, int]:
        """Count tasks by state: all, or some."""
        return by_state(self.tally(ids))

    def tally(self, ids: Collection[str] | None = None) -> list[Tally]:
        """Count tasks by resource, state and whether their outputs are to be fetched.

        Parameters
        ----------
        ids : collection of str, optional
            Which tasks; default is all.
        """
        keys = "resource, state, outputs_wait"
        counts: dict[tuple[str | None, str, bool], int] = {}
        for condition, parameters in restrictions(ids):
            query = f"SELECT {keys}, count(*) FROM tasks WHERE {condition} GROUP BY {keys}"
            for resource, state, waits, count in self._database.read(query, parameters):
                key = (resource, state, bool(waits))
                counts[key] = counts.get(key, 0) + count
        return [Tally(resource, _STATES[state], waits, count) for (resource, state, waits), count in counts.items()]

    def unfinished(
        self,
        resource: str | None,
        ids: Collection[str] | None = None,
        states: Collection[State] | None = None,
        *,
        outputs: bool = False,
    ) -> list[str]:
        """List the ids of tasks of one resource about which something is to be done.

        Parameters
        ----------
        resource : str or None
            The resource; None for tasks that have none yet.
        ids : collection of str, optional
            Only these; default is all.
        states : collection of State, optional
            Only those in one of these; default is all that have not ended.
        outputs : bool
            Beside those that have not ended, those whose outputs are to be fetched.
        """
        where, parameters = one_of("state", [state.value for state in states or State if not state.final])
        if outputs:
            where = f"({where} OR outputs_wait)"
        where += " AND resource IS NULL" if resource is None else " AND resource = :resource"
        found: list[tuple[int, str]] = []
        for condition, more in restrictions(ids):
            query = f"SELECT number, id FROM tasks WHERE {where} AND {condition}"
            found += self._database.read(query, {"resource": resource, **parameters, **more})
        return [task for _, task in sorted(found)]

    def _pages(
        self, columns: str, ids: Collection[str] | None, states: Collection[State] | None
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Read columns of tasks, the first two of which have to be ``id`` and ``array_id``."""
        where, parameters = ("1 = 1", {}) if states is None else one_of("state", [state.value for state in states])
        missing = set(ids or ())
        for condition, more in self._ranges() if ids is None else restrictions(ids):
            query = f"SELECT {columns} FROM tasks WHERE {where} AND {condition} ORDER BY number"
            page = self._database.read(query, {**parameters, **more})
            for task, array, *_ in page if missing else ():
                missing -= {task, array}
            yield page
        if missing and states is None:
            listed = ", ".join(sorted(missing)[:5]) + (", ..." if len(missing) > 5 else "")
            raise TaskNotFound(f"the session has no task {listed}")

    def _ranges(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give conditions that are met by one page of tasks after the other."""
        last = self._database.read("SELECT max(number) FROM tasks")[0][0] or 0
        for first in range(0, last, PAGE):
            yield "number > :first AND number <= :last", {"first": first, "last": first + PAGE}
