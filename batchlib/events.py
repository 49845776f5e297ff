"""Signals that tell what happens, for whoever cares to listen.

Connect with ``signal.connect(function)``; see the documentation of blinker. A receiver runs in the thread
in which the thing happened, after it was recorded; what it raises propagates to the caller.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

from blinker import Signal

#: A run changed its state. Sender: the `Application`. Keywords: ``before`` and ``after`` (`State`).
run_changed = Signal()

#: A transfer advanced. Sender: the `Transport`.
#: Keywords: ``name`` (str), ``done`` (bytes), ``total`` (bytes, or None when unknown). At its end both are the same.
transfer_advanced = Signal()

#: A resource stopped answering. Sender: the backend. Keyword: ``error``.
resource_down = Signal()

#: A resource answers again. Sender: the backend.
resource_up = Signal()


def counted(
    sender: object, chunks: Iterable[bytes], *, name: str, total: int | None = None
) -> Generator[bytes, None, None]:
    """Pass `chunks` on, telling listeners of `transfer_advanced` how many bytes went by."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if transfer_advanced.receivers:
            transfer_advanced.send(sender, name=name, done=done, total=total)
    if transfer_advanced.receivers:
        transfer_advanced.send(sender, name=name, done=done, total=done)
