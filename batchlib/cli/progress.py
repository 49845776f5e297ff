"""What is shown while tasks run."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..events import transfer_advanced

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ..engine import Engine
    from ..run import State
    from .common import Invocation


#: Seconds that a transfer may take without a bar.
_MOMENT = 0.5


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
    """Show on standard error, if that is a terminal, how tasks and transfers come along while the context lasts.

    Yields
    ------
    callable
        To be told how many tasks are in each state.
    """
    if not sys.stderr.isatty():
        yield lambda counts: None
        return
    with contextlib.ExitStack() as stack:
        bars = _Bars(stack)
        with transfer_advanced.connected_to(bars.transfer):
            yield bars.tasks


class _Bars:
    """Bars on the terminal; nothing is drawn before there is something to show: somebody may be asked for a password.

    Parameters
    ----------
    stack : contextlib.ExitStack
        Removes them at its end.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._began: dict[object, float] = {}
        self._bars: dict[object, TaskID] = {}
        self._lock = threading.Lock()

    def tasks(self, counts: Mapping[State, int]) -> None:
        """Show how many tasks are in each state."""
        from .output import counts_line

        ended, total = sum(count for state, count in counts.items() if state.final), sum(counts.values())
        self._show("tasks", ended, total, f"{ended}/{total} {counts_line(counts).partition(': ')[2]}")

    def transfer(self, sender: object, *, name: str, done: int, total: int | None) -> None:
        """Show a transfer that takes longer than a moment; this runs in the thread that transfers."""
        key = (id(sender), name)
        seconds = time.monotonic() - self._began.setdefault(key, time.monotonic())
        if done == total:
            self._began.pop(key, None)
            with self._lock:
                if key in self._bars:
                    self._progress.remove_task(self._bars.pop(key))
        elif seconds > _MOMENT:
            from rich.filesize import decimal

            from .table import clean

            whole = f" of {decimal(total)}" if total else ""
            self._show(key, done, total, f"{clean(name)}: {decimal(done)}{whole}, {decimal(int(done / seconds))}/s")

    def _show(self, key: object, done: int, total: int | None, text: str) -> None:
        with self._lock:
            if key not in self._bars:
                self._bars[key] = self._progress.add_task(text, total=total)
            self._progress.update(self._bars[key], completed=done, total=total, description=text)

    @functools.cached_property
    def _progress(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
        return self._stack.enter_context(Progress(*columns, console=Console(stderr=True)))
