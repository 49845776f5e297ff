"""The tables of a session, and how those of earlier versions become today's."""

from __future__ import annotations

import json
from collections.abc import Callable

from .database import Writer
from .run import State

#: Changes whenever older versions of batchlib could not read what newer ones write.
SCHEMA = 2
#: Tasks that are converted at a time.
_AT_ONCE = 1000

_META = "CREATE TABLE meta (key VARCHAR(40) PRIMARY KEY, value TEXT NOT NULL)"
#: What is to be run is stored once for all tasks that have it in common: an array's elements, and copies.
_DESCRIPTIONS = "CREATE TABLE descriptions (number INTEGER PRIMARY KEY, document TEXT NOT NULL)"
_TASKS = """
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY,
    id VARCHAR(40) NOT NULL UNIQUE,
    array_id VARCHAR(40),
    array_index INTEGER,
    revision INTEGER NOT NULL,
    description INTEGER NOT NULL REFERENCES descriptions (number),
    name TEXT NOT NULL,
    state VARCHAR(20) NOT NULL,
    reason TEXT,
    exitcode INTEGER,
    signal INTEGER,
    resource TEXT,
    jobid TEXT,
    native_state TEXT NOT NULL,
    info TEXT NOT NULL,
    output_dir TEXT,
    created_at DOUBLE PRECISION NOT NULL,
    submitted_at DOUBLE PRECISION,
    started_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION,
    collected BOOLEAN NOT NULL,
    freed BOOLEAN NOT NULL,
    outputs_wait BOOLEAN NOT NULL,
    run TEXT NOT NULL
)
"""
_INDEXES = (
    "CREATE INDEX tasks_by_array ON tasks (array_id)",
    "CREATE INDEX tasks_by_revision ON tasks (revision)",
    "CREATE INDEX tasks_by_state ON tasks (state)",
    "CREATE INDEX tasks_by_work ON tasks (resource, state, outputs_wait)",
)
#: What there is to know of a session as a whole. Numbers are never given twice, even when their tasks were removed.
_NOTES = {"revision": "0", "removed": "0", "last_id": "0", "last_number": "0", "last_description": "0"}


def create(writer: Writer) -> None:
    """Make the tables.

    Parameters
    ----------
    writer : Writer
        A transaction on a database without any.
    """
    for statement in (_META, _DESCRIPTIONS, _TASKS, *_INDEXES):
        writer.execute(statement)
    for key, value in {"schema": str(SCHEMA), **_NOTES}.items():
        writer.execute("INSERT INTO meta (key, value) VALUES (:key, :value)", {"key": key, "value": value})


def _from_1(writer: Writer) -> None:
    """Take the descriptions out of the tasks, where each had its own."""
    writer.execute("ALTER TABLE tasks RENAME TO old_tasks")
    for statement in (_DESCRIPTIONS, _TASKS, *_INDEXES):
        writer.execute(statement)
    same = """revision, name, state, reason, exitcode, signal, resource, jobid, native_state, info, output_dir,
        created_at, submitted_at, started_at, ended_at, collected, freed, run"""
    ended = ", ".join(f"'{state.value}'" for state in State if state.final)
    waits = f"state IN ({ended}) AND jobid IS NOT NULL AND NOT collected AND NOT freed"
    known: dict[str, int] = {}
    last = 0
    while found := writer.execute(
        "SELECT number, application FROM old_tasks WHERE number > :last ORDER BY number LIMIT :most",
        {"last": last, "most": _AT_ONCE},
    ):
        for number, text in found:
            document = json.loads(text)
            document.pop("output_dir", None)
            array = document.pop("array", None) or {}
            if array.get("max_running") is not None:
                document["max_running"] = array["max_running"]
            shared = json.dumps(document)
            if shared not in known:
                known[shared] = len(known) + 1
                writer.execute(
                    "INSERT INTO descriptions (number, document) VALUES (:number, :document)",
                    {"number": known[shared], "document": shared},
                )
            writer.execute(
                f"""INSERT INTO tasks (number, id, array_id, array_index, description, outputs_wait, {same})
                SELECT number, id, "array", :index, :description, {waits}, {same}
                FROM old_tasks WHERE number = :number""",
                {"index": array.get("index"), "description": known[shared], "number": number},
            )
            last = number
    writer.execute("DROP TABLE old_tasks")
    kept = {key for (key,) in writer.execute("SELECT key FROM meta")}
    notes = _NOTES | {"last_number": str(last), "last_description": str(len(known))}
    for key in notes.keys() - kept:
        writer.execute("INSERT INTO meta (key, value) VALUES (:key, :value)", {"key": key, "value": notes[key]})


#: How the tables of each earlier schema become those of the next one.
_STEPS: dict[int, Callable[[Writer], None]] = {1: _from_1}


def can_upgrade(schema: str | None) -> bool:
    """Tell whether tables can be converted to today's.

    Parameters
    ----------
    schema : str or None
        The number of theirs.
    """
    return schema is not None and schema.isdigit() and int(schema) in _STEPS


def upgrade(writer: Writer) -> None:
    """Convert tables of an earlier version, unless somebody else has just done so.

    Parameters
    ----------
    writer : Writer
        A transaction.
    """
    schema = int(writer.execute("SELECT value FROM meta WHERE key = 'schema'")[0][0])
    for number in range(schema, SCHEMA):
        _STEPS[number](writer)
    writer.execute("UPDATE meta SET value = :schema WHERE key = 'schema'", {"schema": str(SCHEMA)})
