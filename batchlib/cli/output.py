"""What commands print: tables and JSON documents of tasks."""

from __future__ import annotations

import datetime
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from ..run import Reason, State
from .table import table
from .terminal import colours

if TYPE_CHECKING:
    from ..session import Session
    from ..store import Row

T = TypeVar("T")

#: Tasks that are printed at a time.
_PAGE = 500
#: Times whose texts are kept: many tasks have the same.
_REMEMBERED = 10_000
_COLOURS = {
    "DONE": "32",
    "FAILED": "31",
    "LOST": "31",
    "CANCELLED": "35",
    "OMITTED": "35",
    "RUNNING": "36",
    "QUEUED": "33",
}
_TASK_HEADERS = ("ID", "NAME", "STATE", "EXIT", "RESOURCE", "JOB", "SUBMITTED", "RAN", "INFO")
_STATE_COLUMN = _TASK_HEADERS.index("STATE")


def print_json(document: object) -> None:
    """Print a document: indented for people, quickly for programs."""
    print(json.dumps(document, indent=2 if sys.stdout.isatty() else None))


def json_time(seconds: float | None) -> str | None:
    """Give a time as ISO 8601 in UTC."""
    return None if seconds is None else _utc(int(seconds))


@lru_cache(maxsize=_REMEMBERED)
def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def local_time(seconds: float | None) -> str:
    """Give a time as people write it, in their time zone."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@lru_cache(maxsize=_REMEMBERED)
def _moment(seconds: int, today: datetime.date) -> str:
    """Give a time for a table: the clock for today, the date for other days."""
    moment = datetime.datetime.fromtimestamp(seconds)
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%b %d %H:%M")


def elapsed(row: Row, now: float) -> str:
    """Tell how long a task ran, or has run until now."""
    if row.started_at is None:
        return ""
    end = row.ended_at if row.state.final else now
    return "" if end is None else _clock(round(max(0.0, end - row.started_at)))


@lru_cache(maxsize=_REMEMBERED)
def _clock(seconds: int) -> str:
    return str(datetime.timedelta(seconds=seconds))


def ending(row: Row) -> str:
    """Tell in a word how a task ended: its exit code, its signal, or the reason."""
    if row.reason not in (None, Reason.EXITED, Reason.SIGNALLED):
        return str(row.reason.value)
    if row.signal is not None:
        try:
            return signal.Signals(row.signal).name
        except ValueError:
            return f"signal {row.signal}"
    return "" if row.exitcode is None else str(row.exitcode)


def task_document(row: Row) -> dict[str, object]:
    """Give what a listing shows of a task, for JSON."""
    return {
        "id": row.id,
        "array": row.array,
        "name": row.name,
        "state": row.state.value,
        "reason": row.reason.value if row.reason else None,
        "exitcode": row.exitcode,
        "signal": row.signal,
        "resource": row.resource,
        "jobid": row.jobid,
        "native_state": row.native_state,
        "info": row.info,
        "created_at": json_time(row.created_at),
        "submitted_at": json_time(row.submitted_at),
        "started_at": json_time(row.started_at),
        "ended_at": json_time(row.ended_at),
        "output_dir": row.output_dir,
        "collected": row.collected,
        "freed": row.freed,
    }


def print_tasks_document(session: Session, rows: Iterable[Row]) -> None:
    """Print the document that lists tasks, without ever having all of it in memory.

    Parameters
    ----------
    session : Session
        Whose tasks they are.
    rows : iterable of Row
        The tasks.
    """
    indent = 2 if sys.stdout.isatty() else None
    counts: dict[State, int] = {}
    head = json.dumps({"session": session.name, "tasks": []}, indent=indent)
    print(head.rpartition("]")[0], end="")
    separator = ""
    for some in _pages(counted(rows, counts)):
        text = json.dumps([task_document(row) for row in some], indent=indent)
        print(separator + (text[1:-1] if indent is None else text[1:-2].replace("\n", "\n  ")), end="")
        separator = ", " if indent is None else ","
    tail = json.dumps({"counts": {state.value: number for state, number in counts.items()}}, indent=indent)
    if indent is None:
        print(f"], {tail[1:]}")
    else:
        print(("\n  ]," if counts else "],") + tail[1:])


def counted(rows: Iterable[Row], counts: dict[State, int]) -> Iterator[Row]:
    """Pass tasks on, and count them by state on the way."""
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
        yield row


def _pages(items: Iterable[T]) -> Iterator[list[T]]:
    """Divide what is to be printed into handy pieces."""
    remaining = iter(items)
    while page := list(itertools.islice(remaining, _PAGE)):
        yield page


def counts_line(counts: Mapping[State, int]) -> str:
    """Give the numbers of tasks in each state as one line, in the order of a task's life."""
    total = sum(counts.values())
    if not total:
        return "no tasks"
    listed = ", ".join(f"{counts[state]} {state.value}" for state in State if state in counts)
    return f"{count(total, 'task')}: {listed}"


def count(number: int, what: str) -> str:
    """Give a number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def task_table(rows: Iterable[Row]) -> Iterator[str]:
    """Lay out the table of tasks, line by line."""
    now = time.time()
    today = datetime.date.today()
    cells = (
        (
            row.id,
            row.name,
            row.state.value,
            ending(row),
            row.resource or "",
            row.jobid or "",
            "" if row.submitted_at is None else _moment(int(row.submitted_at), today),
            elapsed(row, now),
            "" if row.info == row.state.value else row.info,
        )
        for row in rows
    )
    return table(
        _TASK_HEADERS, cells, cut={1: 24, 5: 24}, coloured=_STATE_COLUMN, colour=_COLOURS.get if colours() else None
    )


def print_tasks(rows: Iterable[Row]) -> None:
    """Print the table of tasks, if there are any, and how many are in each state."""
    counts: dict[State, int] = {}
    lines = task_table(counted(rows, counts))
    headers = next(lines)
    if counts:
        print(headers)
        for some in _pages(lines):
            print("\n".join(some))
    print(counts_line(counts))


def describe(row: Row) -> str:
    """Tell in a line what became of a task."""
    how = ending(row)
    name = f"{row.id} ({row.name})" if row.name else row.id
    if not row.state.final:
        return f"{name}: has not ended ({row.state.value})"
    if row.reason in (Reason.SUBMISSION_FAILED, Reason.STAGING_FAILED):
        return f"{name}: {row.state.value} ({how}): {row.info}"
    word = f"exit code {how}" if how.isdigit() else how
    return f"{name}: {row.state.value}" + (f" ({word})" if word else "")
