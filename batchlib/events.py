"""Signals that tell what happens, for whoever cares to listen.

Connect with ``signal.connect(function)``; see the documentation of blinker. A receiver runs in the thread
in which the thing happened, after it was recorded; what it raises propagates to the caller.
"""

from __future__ import annotations

import threading
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


class Progress:
    """Tells listeners of `transfer_advanced` how far a transfer is; several threads may do so.

    Parameters
    ----------
    sender : object
        Who transfers.
    name : str
        What is transferred.
    total : int, optional
        How many bytes it has.
    """

    def __init__(self, sender: object, name: str, total: int | None = None) -> None:
        self._sender = sender
        self._name = name
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, size: int) -> None:
        """Tell that `size` more bytes went by."""
        with self._lock:
            self._done += size
            if size and transfer_advanced.receivers:
                transfer_advanced.send(self._sender, name=self._name, done=self._done, total=self._total)

    def end(self) -> None:
        """Tell that this was all."""
        if transfer_advanced.receivers:
            transfer_advanced.send(self._sender, name=self._name, done=self._done, total=self._done)

    def counted(self, chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
        """Pass `chunks` on and tell of each."""
        for chunk in chunks:
            yield chunk
            self.advance(len(chunk))
