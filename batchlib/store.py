"""A session's tasks in a database: one row each, readable columns beside two JSON documents. No pickles.

Any database that SQLAlchemy speaks will do; the default is one SQLite file. What a listing shows is in columns, so
that a hundred thousand tasks can be listed without reading a single document.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sql

from .application import Application
from .errors import SessionError, TaskNotFound
from .quantity import Duration, Memory, Quantity
from .run import Reason, Run, State

if TYPE_CHECKING:
    from cattrs import Converter

#: Changes whenever older versions of batchlib could not read what newer ones write.
SCHEMA = 1
#: Seconds to wait for another process that is writing.
_BUSY = 60
#: Ids in one query; databases limit the number of parameters.
_IDS_AT_ONCE = 500

_metadata = sql.MetaData()
_meta = sql.Table(
    "meta",
    _metadata,
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("value", sql.String, nullable=False),
)
_tasks = sql.Table(
    "tasks",
    _metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("id", sql.String, unique=True),
    sql.Column("array", sql.String, index=True),
    sql.Column("revision", sql.Integer, nullable=False, index=True),
    sql.Column("name", sql.String, nullable=False),
    sql.Column("state", sql.String, nullable=False, index=True),
    sql.Column("reason", sql.String),
    sql.Column("exitcode", sql.Integer),
    sql.Column("signal", sql.Integer),
    sql.Column("resource", sql.String),
    sql.Column("jobid", sql.String),
    sql.Column("native_state", sql.String, nullable=False),
    sql.Column("info", sql.String, nullable=False),
    sql.Column("output_dir", sql.String),
    sql.Column("created_at", sql.Float, nullable=False),
    sql.Column("submitted_at", sql.Float),
    sql.Column("started_at", sql.Float),
    sql.Column("ended_at", sql.Float),
    sql.Column("collected", sql.Boolean, nullable=False),
    sql.Column("freed", sql.Boolean, nullable=False),
    sql.Column("application", sql.Text, nullable=False),
    sql.Column("run", sql.Text, nullable=False),
    sqlite_autoincrement=True,
)


@attrs.frozen
class Row:
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


_FINAL = [state.value for state in State if state.final]
_OUTPUTS_WAIT = sql.and_(
    _tasks.c.state.in_(_FINAL), _tasks.c.jobid.is_not(None), sql.not_(_tasks.c.collected), sql.not_(_tasks.c.freed)
)
_ROW_COLUMNS = [_tasks.c[field.name] for field in attrs.fields(Row)]


@cache
def _converter() -> Converter:
    # imported late: listings need no documents
    from cattrs import Converter

    converter = Converter(omit_if_default=True)
    for kind in (Memory, Duration):
        converter.register_unstructure_hook(kind, str)
        converter.register_structure_hook(kind, _read_quantity)
    return converter


def _read_quantity(value: str, kind: type[Quantity]) -> Quantity:
    return kind(value)


def application_document(app: Application) -> str:
    """Give the description of a task as JSON, without what became of it."""
    document = _converter().unstructure(app)
    document.pop("execution", None)
    document.pop("task_id", None)
    return json.dumps(document)


def run_document(run: Run) -> str:
    """Give what became of a task as JSON."""
    return json.dumps(_converter().unstructure(run))


class Store:
    """The tasks of one session.

    Parameters
    ----------
    url : str
        Where they are, as SQLAlchemy writes it: ``sqlite:////path/to/session.db``.

    Raises
    ------
    SessionError
        The database can't be opened, or was made by another version.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = sql.create_engine(url, connect_args={"timeout": _BUSY} if url.startswith("sqlite") else {})
        with self._guarded("opened"):
            found = self._schema()
        if found != str(SCHEMA):
            self.close()
            raise SessionError(f"{url} was written by another version of batchlib (schema {found}, this is {SCHEMA})")

    def _schema(self) -> str | None:
        """Give the number of the schema, making the tables first where there are none."""
        with self._engine.connect() as connection:
            if sql.inspect(connection).has_table(_meta.name):
                return connection.scalar(sql.select(_meta.c.value).where(_meta.c.key == "schema"))
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "sqlite":
                # the write lock, at once: of two processes that find no tables only one must make them
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            _metadata.create_all(connection)
            found: str | None = connection.scalar(sql.select(_meta.c.value).where(_meta.c.key == "schema"))
            if found is None:
                found = str(SCHEMA)
                first = {"schema": found, "revision": "0"}
                connection.execute(_meta.insert(), [{"key": key, "value": value} for key, value in first.items()])
            return found

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def add(self, apps: Sequence[Application], directory: str, *, as_array: bool = False) -> None:
        """Add tasks and give them their ids.

        Parameters
        ----------
        apps : sequence of Application
            Tasks without an id.
        directory : str
            Where those without an `output_dir` get one, named after the id.
        as_array : bool
            They are the elements of one array: their ids are its id, a dot, and their index.
        """
        with self._guarded("written"), self._engine.begin() as connection:
            revision = self._next_revision(connection)
            last = int(connection.scalar(sql.select(_meta.c.value).where(_meta.c.key == "last_id")) or 0)
            now = time.time()
            rows = []
            for app in apps:
                if as_array and app.array is not None:
                    app.array = attrs.evolve(app.array, name=str(last + 1))
                    app.task_id = f"{last + 1}.{app.array.index}"
                else:
                    last += 1
                    app.task_id = str(last)
                if app.output_dir is None:
                    app.output_dir = os.path.join(directory, app.task_id)
                rows.append({"created_at": now, "application": application_document(app), **_columns(app, revision)})
            if rows:
                connection.execute(_tasks.insert(), rows)
                _set(connection, "last_id", str(last + 1 if as_array else last))

    def save(self, apps: Iterable[Application]) -> None:
        """Write what became of tasks, all or none."""
        with self._guarded("written"), self._engine.begin() as connection:
            revision = self._next_revision(connection)
            rows = [{"key": app.task_id, **_columns(app, revision)} for app in apps]
            if rows:
                names = [name for name in rows[0] if name not in ("key", "id")]
                statement = (
                    _tasks.update()
                    .where(_tasks.c.id == sql.bindparam("key"))
                    .values({name: sql.bindparam(name) for name in names})
                )
                for row in rows:
                    del row["id"]
                connection.execute(statement, rows)

    def rewrite(self, apps: Iterable[Application]) -> None:
        """Write changed descriptions of tasks."""
        with self._guarded("written"), self._engine.begin() as connection:
            for app in apps:
                connection.execute(
                    _tasks.update()
                    .where(_tasks.c.id == app.task_id)
                    .values(application=application_document(app), output_dir=app.output_dir, name=app.jobname)
                )

    def load(
        self, ids: Collection[str] | None = None, states: Collection[State] | None = None, since: int = -1
    ) -> dict[str, tuple[Application, int]]:
        """Read tasks.

        Parameters
        ----------
        ids : collection of str, optional
            Which; default is all.
        states : collection of State, optional
            Only those in one of these.
        since : int
            Only those written after this revision.

        Returns
        -------
        dict of str to (Application, int)
            Tasks and their revisions by id, in the order in which they were added.

        Raises
        ------
        TaskNotFound
            One of `ids` is not there.
        """
        columns = [_tasks.c.id, _tasks.c.array, _tasks.c.revision, _tasks.c.application, _tasks.c.run]
        found = {}
        for row in self._select(columns, ids, states, since):
            app = _converter().structure(json.loads(row.application), Application)
            app.task_id = row.id
            app.execution = _converter().structure(json.loads(row.run), Run)
            found[row.id] = (app, row.revision)
        return found

    def rows(self, ids: Collection[str] | None = None, states: Collection[State] | None = None) -> Iterator[Row]:
        """List tasks without reading their documents; parameters and errors as for `load`."""
        for row in self._select(_ROW_COLUMNS, ids, states):
            values = row._asdict()
            values["state"] = State(values["state"])
            values["reason"] = Reason(values["reason"]) if values["reason"] else None
            yield Row(**values)

    def ids(self) -> list[str]:
        """List the ids of all tasks, in the order in which they were added."""
        with self._guarded("read"), self._engine.connect() as connection:
            return list(connection.scalars(sql.select(_tasks.c.id).order_by(_tasks.c.number)))

    def counts(self) -> dict[State, int]:
        """Count tasks by state."""
        query = sql.select(_tasks.c.state, sql.func.count()).group_by(_tasks.c.state)
        with self._guarded("read"), self._engine.connect() as connection:
            return {State(state): count for state, count in connection.execute(query)}

    def tally(self, ids: Collection[str] | None = None) -> list[Tally]:
        """Count tasks by resource, state and whether their outputs are to be fetched.

        Parameters
        ----------
        ids : collection of str, optional
            Which tasks; default is all.
        """
        keys = (_tasks.c.resource, _tasks.c.state, _OUTPUTS_WAIT.label("waits"))
        query = sql.select(*keys, sql.func.count()).group_by(*keys)
        counts: dict[tuple[str | None, str, bool], int] = {}
        with self._guarded("read"), self._engine.connect() as connection:
            for part in _restricted(query, ids):
                for resource, state, waits, count in connection.execute(part):
                    key = (resource, state, bool(waits))
                    counts[key] = counts.get(key, 0) + count
        return [Tally(resource, State(state), waits, count) for (resource, state, waits), count in counts.items()]

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
        chosen = State if states is None else states
        open_ones = _tasks.c.state.in_([state.value for state in chosen if not state.final])
        query = (
            sql.select(_tasks.c.id)
            .where(_tasks.c.resource == resource if resource is not None else _tasks.c.resource.is_(None))
            .where(sql.or_(open_ones, _OUTPUTS_WAIT) if outputs else open_ones)
            .order_by(_tasks.c.number)
        )
        with self._guarded("read"), self._engine.connect() as connection:
            return [task_id for part in _restricted(query, ids) for task_id in connection.scalars(part)]

    def remove(self, ids: Collection[str]) -> None:
        """Forget tasks."""
        with self._guarded("written"), self._engine.begin() as connection:
            for some in _chunks(list(ids)):
                connection.execute(_tasks.delete().where(_tasks.c.id.in_(some)))

    def note(self, key: str, value: str | None = None) -> str | None:
        """Read a note about the session, after writing it when a value is given."""
        with self._guarded("written" if value is not None else "read"), self._engine.begin() as connection:
            if value is not None:
                _set(connection, key, value)
            found: str | None = connection.scalar(sql.select(_meta.c.value).where(_meta.c.key == key))
            return found

    def revision(self) -> int:
        """Give the number of the last change."""
        return int(self.note("revision") or 0)

    def _select(
        self,
        columns: Sequence[sql.ColumnElement[Any]],
        ids: Collection[str] | None,
        states: Collection[State] | None,
        since: int = -1,
    ) -> Iterator[sql.Row[Any]]:
        query = sql.select(*columns).order_by(_tasks.c.number)
        if states is not None:
            query = query.where(_tasks.c.state.in_([state.value for state in states]))
        if since >= 0:
            query = query.where(_tasks.c.revision > since)
        missing = set(ids or ())
        with self._guarded("read"), self._engine.connect() as connection:
            for part in _restricted(query, ids):
                for row in connection.execute(part):
                    missing -= {row.id, row.array}
                    yield row
        if missing and states is None and since < 0:
            listed = ", ".join(sorted(missing)[:5]) + (", ..." if len(missing) > 5 else "")
            raise TaskNotFound(f"the session has no task {listed}")

    def _next_revision(self, connection: sql.Connection) -> int:
        # writing first takes the write lock, so that two processes can't get the same number
        connection.execute(
            _meta.update()
            .where(_meta.c.key == "revision")
            .values(value=sql.cast(sql.cast(_meta.c.value, sql.Integer) + 1, sql.String))
        )
        return int(connection.scalar(sql.select(_meta.c.value).where(_meta.c.key == "revision")) or 0)

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except sql.exc.SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error)
            raise SessionError(f"the session's database {self.url} can't be {what}: {reason}") from error


def _columns(app: Application, revision: int) -> dict[str, Any]:
    run = app.execution
    return {
        "id": app.task_id,
        "array": app.array.name if app.array is not None else None,
        "revision": revision,
        "name": app.jobname,
        "state": run.state.value,
        "reason": run.reason.value if run.reason else None,
        "exitcode": run.exitcode,
        "signal": run.signal,
        "resource": run.resource,
        "jobid": run.jobid,
        "native_state": run.native_state,
        "info": run.info,
        "output_dir": app.output_dir,
        "submitted_at": run.submitted_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "collected": run.collected,
        "freed": run.freed,
        "run": run_document(run),
    }


def _restricted(query: sql.Select[Any], ids: Collection[str] | None) -> Iterator[sql.Select[Any]]:
    """Restrict a query to some tasks; with many of them it becomes several."""
    if ids is None:
        yield query
        return
    for some in _chunks(list(ids)):
        # the id of an array means all its elements
        yield query.where(sql.or_(_tasks.c.id.in_(some), _tasks.c.array.in_(some)))


def _set(connection: sql.Connection, key: str, value: str) -> None:
    connection.execute(_meta.delete().where(_meta.c.key == key))
    connection.execute(_meta.insert().values(key=key, value=value))


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    return (ids[at : at + _IDS_AT_ONCE] for at in range(0, len(ids), _IDS_AT_ONCE))
