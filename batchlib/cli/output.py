"""What commands print: tables and JSON documents of tasks."""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..run import Reason, State
from .terminal import colours

if TYPE_CHECKING:
    from ..session import Session
    from ..store import Row

_COLOURS = {
    State.DONE: "32",
    State.FAILED: "31",
    State.LOST: "31",
    State.CANCELLED: "35",
    State.OMITTED: "35",
    State.RUNNING: "36",
    State.QUEUED: "33",
}
_TASK_HEADERS = ("ID", "NAME", "STATE", "EXIT", "RESOURCE", "JOB", "SUBMITTED", "RAN", "INFO")
_STATE_COLUMN = _TASK_HEADERS.index("STATE")


def clean(text: str) -> str:
    """Give text as one line that moves no cursor: what comes from a cluster may hold anything."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def print_json(document: object) -> None:
    """Print a document: indented for people, quickly for programs."""
    print(json.dumps(document, indent=2 if sys.stdout.isatty() else None))


def json_time(seconds: float | None) -> str | None:
    """Give a time as ISO 8601 in UTC."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def local_time(seconds: float | None) -> str:
    """Give a time as people write it, in their time zone."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def short_time(seconds: float | None) -> str:
    """Give a time for a table: the clock for today, the date for other days."""
    if seconds is None:
        return ""
    moment = datetime.datetime.fromtimestamp(seconds)
    return moment.strftime("%H:%M:%S" if moment.date() == datetime.date.today() else "%b %d %H:%M")


def elapsed(row: Row, now: float) -> str:
    """Tell how long a task ran, or has run until now."""
    if row.started_at is None:
        return ""
    end = row.ended_at if row.state.final else now
    return "" if end is None else str(datetime.timedelta(seconds=round(max(0.0, end - row.started_at))))


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


def tasks_document(session: Session, rows: Sequence[Row]) -> dict[str, object]:
    """Give the document that lists tasks."""
    counts = {state.value: number for state, number in count_states(rows).items()}
    return {"session": session.name, "tasks": [task_document(row) for row in rows], "counts": counts}


def count_states(rows: Iterable[Row]) -> dict[State, int]:
    """Count tasks by state."""
    counts: dict[State, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return counts


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


def task_table(rows: Sequence[Row]) -> str:
    """Make the table of tasks."""
    now = time.time()
    cells = [
        (
            row.id,
            row.name,
            row.state.value,
            ending(row),
            row.resource or "",
            row.jobid or "",
            short_time(row.submitted_at),
            elapsed(row, now),
            "" if row.info == row.state.value else row.info,
        )
        for row in rows
    ]
    codes = [_COLOURS.get(row.state, "") for row in rows] if colours() else ()
    return "\n".join(table(_TASK_HEADERS, cells, cut={1: 24, 5: 24}, codes=codes, coloured=_STATE_COLUMN))


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    cut: Mapping[int, int] | None = None,
    codes: Sequence[str] = (),
    coloured: int = 0,
) -> list[str]:
    """Lay out a table: columns as wide as they need, on a terminal lines no longer than it is wide.

    Parameters
    ----------
    headers : sequence of str
        Their heads.
    rows : iterable of sequence of str
        The cells.
    cut : mapping of int to int
        Most characters that columns get on a terminal.
    codes : sequence of str
        For each row the colour, as in a terminal's escape sequences, of one of its cells; empty for none.
    coloured : int
        The column of that cell.
    """
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    limits = cut if cut is not None and terminal is not None else {}
    lines = [[_fit(clean(cell), limits.get(at)) for at, cell in enumerate(row)] for row in (headers, *rows)]
    last = len(headers) - 1
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)][:last]
    laid = []
    for cells, code in zip(lines, ("", *codes, *[""] * len(lines)), strict=False):
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=False)]
        line = _fit("  ".join([*padded, cells[last]]).rstrip(), terminal)
        if code:
            start = sum(len(cell) + 2 for cell in padded[:coloured])
            end = start + len(cells[coloured])
            line = f"{line[:start]}\x1b[{code}m{line[start:end]}\x1b[0m{line[end:]}"
        laid.append(line)
    return laid


def _width(text: str) -> int:
    """Count the columns that text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fit(text: str, width: int | None) -> str:
    """Shorten text to a width."""
    if width is None or _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[: max(0, len(text) - max(1, (_width(text) - width) // 2))]
    return text + "…"


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
