"""Whether a person is there, and asking them."""

from __future__ import annotations

import atexit
import functools
import getpass
import os
import sys
import termios
import threading

#: Several connections may be made at a time; a person answers one question after the other.
_one_at_a_time = threading.Lock()


def has_person() -> bool:
    """Tell whether somebody sits at a terminal who can be asked."""
    if not sys.stderr.isatty():
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ask_person(question: str, show: bool) -> str:
    """Ask for a password or a code.

    Parameters
    ----------
    question : str
        The question.
    show : bool
        Whether the answer may be seen while it is typed.
    """
    with _one_at_a_time:
        _leave_as_found()
        if not show:
            return getpass.getpass(question)
        with open("/dev/tty", "r+", encoding="utf-8", buffering=1) as terminal:
            terminal.write(question)
            return terminal.readline().rstrip("\n")


@functools.cache
def _leave_as_found() -> None:
    """See that the terminal shows again what is typed when the process ends in the middle of a question.

    The thread that asks is stopped then without a word, so that it can't see to that itself.
    """
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    atexit.register(termios.tcsetattr, terminal, termios.TCSANOW, termios.tcgetattr(terminal))


def colours() -> bool:
    """Tell whether standard output takes colours."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()
