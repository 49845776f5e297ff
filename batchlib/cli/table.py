"""Tables for people: columns as wide as they need, however many lines there are."""

from __future__ import annotations

import itertools
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

#: Lines that are looked at together.
_PAGE = 500
#: Between cells while the widths of the columns are not known yet; no cell holds what can't be printed.
_SEPARATOR = "\0"


def clean(text: str) -> str:
    """Give text as one line that moves no cursor: what comes from a cluster may hold anything."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    cut: Mapping[int, int] | None = None,
    coloured: int = 0,
    colour: Callable[[str], str | None] | None = None,
) -> Iterator[str]:
    """Lay out a table: columns as wide as they need, on a terminal lines no longer than it is wide.

    Parameters
    ----------
    headers : sequence of str
        Their heads.
    rows : iterable of sequence of str
        The cells. All are read before the first line is given, and kept as little more than their text.
    cut : mapping of int to int
        Most characters that columns get on a terminal.
    coloured : int
        A column whose cells have colours.
    colour : callable, optional
        Gives the colour of such a cell, as in a terminal's escape sequences; default is none.

    Yields
    ------
    str
        The lines.
    """
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    limits = cut if cut is not None and terminal is not None else {}
    widths = [0] * len(headers)
    lines: list[str] = []
    all_ascii = True
    remaining = itertools.chain([headers], rows)
    while page := list(itertools.islice(remaining, _PAGE)):
        columns = [_printable(column, limits.get(at)) for at, column in enumerate(zip(*page, strict=True))]
        widths = [max(width, *map(_width, column)) for width, column in zip(widths, columns, strict=True)]
        texts = [_SEPARATOR.join(cells) for cells in zip(*columns, strict=True)]
        all_ascii = all_ascii and "".join(texts).isascii()
        lines += texts
    widths[-1] = 0
    pad = _pad_ascii(widths) if all_ascii else _pad_any(widths)
    for number, text in enumerate(lines):
        cells = text.split(_SEPARATOR)
        line = _fit(pad(cells), terminal)
        code = colour(cells[coloured]) if colour is not None and number else None
        if code:
            before = zip(cells[:coloured], widths, strict=False)
            start = sum(len(cell) + max(0, width - _width(cell)) + 2 for cell, width in before)
            end = start + len(cells[coloured])
            line = f"{line[:start]}\x1b[{code}m{line[start:end]}\x1b[0m{line[end:]}"
        yield line


def _printable(cells: Sequence[str], limit: int | None) -> Sequence[str]:
    """Give the cells of a column as they are printed."""
    if limit is None and "".join(cells).isprintable():
        return cells
    return [_fit(clean(cell), limit) for cell in cells]


def _pad_ascii(widths: Sequence[int]) -> Callable[[Sequence[str]], str]:
    template = "  ".join(f"%-{width}s" for width in widths)
    return lambda cells: (template % tuple(cells)).rstrip()


def _pad_any(widths: Sequence[int]) -> Callable[[Sequence[str]], str]:
    def pad(cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    return pad


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
