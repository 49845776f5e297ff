"""Databases: SQLite by Python's own module, any other by SQLAlchemy.

Statements are texts that all of them understand, with named parameters (``:name``). SQLite takes those as they are, so
that no command has to wait until a large library is loaded; SQLAlchemy turns them into what its drivers want.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .errors import SessionError

if TYPE_CHECKING:
    import sqlalchemy as sql

#: Seconds to wait for another process that is writing.
_BUSY = 60.0
_FILE = "sqlite:///"

Parameters = Mapping[str, Any]
Found = list[tuple[Any, ...]]


class Writer(Protocol):
    """What can be done inside a transaction."""

    def execute(self, statement: str, parameters: Parameters = ...) -> Found:
        """Execute a statement, and give the rows that it found."""

    def execute_many(self, statement: str, rows: Sequence[Parameters]) -> None:
        """Execute a statement for each of several rows."""

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""


class Database(Protocol):
    """A place for tables; all its errors are `SessionError`. Threads may use it at the same time."""

    def read(self, statement: str, parameters: Parameters = ...) -> Found:
        """Give all that a query finds; when this returns, nobody who writes is held up any more."""

    def writing(self) -> contextlib.AbstractContextManager[Writer]:
        """Give a transaction: on disk when the context is left, or, after an exception, as if it had never begun."""

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""

    def close(self) -> None:
        """Close it."""


def open_database(url: str) -> Database:
    """Open a database.

    Parameters
    ----------
    url : str
        Where it is, as SQLAlchemy writes it: ``sqlite:////path/to/session.db``, ``postgresql://host/name``.

    Raises
    ------
    SessionError
        It can't be opened.
    """
    return SqliteFile(url, url.removeprefix(_FILE)) if url.startswith(_FILE) else AnyDatabase(url)


class SqliteFile:
    """An SQLite file.

    Parameters
    ----------
    url : str
        Its name in messages.
    path : str
        Where it is.
    """

    def __init__(self, url: str, path: str) -> None:
        self._url = url
        self._one_at_a_time = threading.RLock()
        with self._guarded("opened"):
            # transactions begin where we say so, not where the module thinks they should
            self._connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            # a write-ahead log would be faster still, but needs shared memory, which network file systems don't have;
            # an emptied journal is synchronised, a removed one might come back after a power cut and undo a commit
            self._connection.execute("PRAGMA journal_mode = TRUNCATE").fetchall()
            self._connection.execute("PRAGMA synchronous = FULL")

    def read(self, statement: str, parameters: Parameters = {}) -> Found:  # noqa: B006 - nobody changes it
        """Give all that a query finds."""
        with self._guarded("read"):
            return self.execute(statement, parameters)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Give a transaction; it waits for the write lock at once, so that what it reads stays true."""
        with self._guarded("written"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, parameters: Parameters = {}) -> Found:  # noqa: B006
        """Execute a statement, and give the rows that it found."""
        return self._connection.execute(statement, parameters).fetchall()

    def execute_many(self, statement: str, rows: Iterable[Parameters]) -> None:
        """Execute a statement for each of several rows."""
        self._connection.executemany(statement, rows)

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        return bool(self.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name", {"name": name}))

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        with self._one_at_a_time:
            try:
                yield
            except sqlite3.Error as error:
                raise _trouble(self._url, what, error) from error


class AnyDatabase:
    """A database that SQLAlchemy knows.

    Parameters
    ----------
    url : str
        Where it is.
    """

    def __init__(self, url: str) -> None:
        # imported late: it takes longer than most commands
        import sqlalchemy

        self._sql = sqlalchemy
        self._url = url
        with self._guarded("opened"):
            self._engine = sqlalchemy.create_engine(url)

    def read(self, statement: str, parameters: Parameters = {}) -> Found:  # noqa: B006
        """Give all that a query finds."""
        with self._guarded("read"), self._engine.connect() as connection:
            return _Transaction(connection).execute(statement, parameters)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Give a transaction."""
        with self._guarded("written"), self._engine.begin() as connection:
            yield _Transaction(connection)

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        with self._guarded("read"), self._engine.connect() as connection:
            return _Transaction(connection).has_table(name)

    def close(self) -> None:
        """Close it."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._sql.exc.SQLAlchemyError as error:
            raise _trouble(self._url, what, getattr(error, "orig", None) or error) from error


class _Transaction:
    """A transaction of SQLAlchemy's.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Where it is going on.
    """

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Parameters = {}) -> Found:  # noqa: B006
        """Execute a statement, and give the rows that it found."""
        from sqlalchemy import text

        result = self._connection.execute(text(statement), dict(parameters))
        return [tuple(row) for row in result] if result.returns_rows else []

    def execute_many(self, statement: str, rows: Iterable[Parameters]) -> None:
        """Execute a statement for each of several rows."""
        from sqlalchemy import text

        self._connection.execute(text(statement), [dict(row) for row in rows])

    def has_table(self, name: str) -> bool:
        """Tell whether a table exists."""
        from sqlalchemy import inspect

        return inspect(self._connection).has_table(name)


def _trouble(url: str, what: str, error: object) -> SessionError:
    return SessionError(f"the session's database {url} can't be {what}: {error}")
