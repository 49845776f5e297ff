"""What is shown while tasks run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine import Engine
    from ..run import State
    from .common import Invocation


class Problems:
    """Tells of resources that do not answer: once when it begins, and once when it is over.

    Parameters
    ----------
    invocation : Invocation
        How to tell.
    engine : Engine
        Who knows.
    """

    def __init__(self, invocation: Invocation, engine: Engine) -> None:
        self._invocation = invocation
        self._engine = engine
        self._told: dict[str, str] = {}

    def tell(self) -> None:
        """Tell what is new."""
        now = {name: str(error) for name, error in self._engine.problems.items()}
        for name, text in now.items():
            if self._told.get(name) != text:
                self._invocation.say(f"{text}; trying again")
        for name in self._told.keys() - now.keys():
            self._invocation.say(f"{name} answers again")
        self._told = now


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[Mapping[State, int]], None]]:
    """Show a bar on standard error while the context lasts, if that is a terminal.

    Yields
    ------
    callable
        To be told how many tasks are in each state.
    """
    if not sys.stderr.isatty():
        yield lambda counts: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .output import counts_line

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)

        def advance(counts: Mapping[State, int]) -> None:
            ended = sum(count for state, count in counts.items() if state.final)
            listed = counts_line(counts).partition(": ")[2]
            progress.update(task, total=sum(counts.values()), completed=ended, description=listed)

        yield advance
