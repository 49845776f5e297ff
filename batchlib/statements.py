"""The texts of statements, and their parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

#: Tasks in one query; databases limit the number of parameters.
PAGE = 500

#: Columns that change with what became of a task.
CHANGING = (
    "revision", "state", "reason", "exitcode", "signal", "resource", "jobid", "native_state", "info", "output_dir",
    "submitted_at", "started_at", "ended_at", "collected", "freed", "outputs_wait", "run",
)  # fmt: skip
ADDED = ("number", "id", "array_id", "array_index", "description", "name", "created_at", *CHANGING)
INSERT = f"INSERT INTO tasks ({', '.join(ADDED)}) VALUES ({', '.join(f':{name}' for name in ADDED)})"
UPDATE = f"UPDATE tasks SET {', '.join(f'{name} = :{name}' for name in CHANGING)} WHERE id = :id"


def one_of(column: str, values: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """Give the condition that a column has one of some values, and its parameters."""
    if not values:
        return "1 = 0", {}
    parameters = {f"{column}{place}": value for place, value in enumerate(values)}
    return f"{column} IN ({', '.join(f':{name}' for name in parameters)})", parameters


def restrictions(ids: Collection[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the conditions that tasks are among some, in pieces that a query can have."""
    if ids is None:
        yield "1 = 1", {}
        return
    for some in chunks(list(ids)):
        # the id of an array means all its elements
        condition, parameters = one_of("id", some)
        yield f"({condition} OR {condition.replace('id IN', 'array_id IN')})", parameters


def chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Divide a list into pieces that a query can have."""
    return (items[at : at + PAGE] for at in range(0, len(items), PAGE))
