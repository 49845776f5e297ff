"""Which tasks are meant: ids as people type them."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from ..errors import TaskNotFound

if TYPE_CHECKING:
    from ..session import Session

#: An id (3), an element of an array (5.2), or a range of either (3-7, 5.1-4).
_IDS = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:-([0-9]+))?")


def chosen_ids(session: Session, words: Sequence[str], every: bool = False) -> list[str]:
    """Find out which tasks are meant; without any word it has to be all.

    Parameters
    ----------
    session : Session
        The tasks.
    words : sequence of str
        Ids, lists and ranges of them, or ``-`` for standard input.
    every : bool
        All tasks of the session.

    Raises
    ------
    TaskNotFound
        One of them is not in the session.
    """
    if words and every:
        raise click.UsageError("either name tasks or say -A, not both")
    if not words and not every:
        raise click.UsageError("which tasks? Name their ids, or say -A for all")
    return session.ids() if every else select_ids(session.ids(), words)


def select_ids(known: Collection[str], words: Sequence[str]) -> list[str]:
    """Take lists and ranges of ids apart.

    Parameters
    ----------
    known : collection of str
        The ids that there are.
    words : sequence of str
        Such as ``3``, ``1,2``, ``3-7``, ``5.1-4``, ``-``. The id of an array means all its elements. Ids that are
        missing in a range are left out, unless all are.

    Raises
    ------
    click.UsageError
        Something is no id.
    TaskNotFound
        One of them is not among the known.
    """
    there = frozenset(known)
    places: dict[str, tuple[int, ...]] = {}
    found: dict[str, None] = {}
    missing: list[str] = []
    for word in _read_words(words):
        if word not in there and not places:
            places = {task: tuple(map(int, task.split("."))) for task in known}
        chosen = [word] if word in there else _in_range(word, places)
        if not chosen:
            missing.append(word)
        found.update(dict.fromkeys(chosen))
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise TaskNotFound(f"the session has no task {listed}")
    return list(found)


def _in_range(word: str, places: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Find the tasks that a word means: number, and index in an array, of each task are given."""
    match = _IDS.fullmatch(word)
    if match is None or (match[3] and int(match[3]) < int(match[2] or match[1])):
        raise click.UsageError(f"{word!r} is no task id: say such as 3, a range 3-7, a list 1,2, or - to read them")
    array, first, last = int(match[1]), int(match[2] or match[1]), int(match[3] or match[2] or match[1])
    if match[2]:
        return [task for task, at in places.items() if at[0] == array and len(at) == 2 and first <= at[1] <= last]
    return [task for task, at in places.items() if first <= at[0] <= last]


def _read_words(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        text = sys.stdin.read() if word == "-" else word
        yield from filter(None, re.split(r"[\s,]+", text))
