"""A paramiko packetizer that reads its socket in large pieces."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from paramiko.packet import NeedRekeyException, Packetizer

_RECEIVE_SIZE = 256 * 1024

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    class _Packetizer(Packetizer):  # what the published types leave out
        _Packetizer__remainder: bytes

        def _read_timeout(self, timeout: float) -> bytes: ...
else:
    _Packetizer = Packetizer


class BufferedPacketizer(_Packetizer):
    """Receives up to 256 KiB at a time instead of two or three small pieces for each packet.

    Attributes
    ----------
    last_received : float
        When the server sent something last, on the monotonic clock.
    peer_closed : bool
        Whether the server closed the connection before it greeted us.
    greeting : list of str
        Lines that it sent until then.
    stall_timeout : float
        Seconds after which a server that takes nothing from us is given up.
    """

    # the server asks for new keys when it is time; asking ourselves can end the connection (paramiko issue 822)
    REKEY_BYTES = REKEY_PACKETS = 2**40

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._sock = sock
        self._pid = os.getpid()
        self._buffer = b""
        self._position = 0
        self.last_received = time.monotonic()
        self.stall_timeout = 30.0
        self.peer_closed = False
        self.greeting: list[str] = []

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Read exactly `n` bytes."""
        end = self._position + n
        if end > len(self._buffer):
            self._fill(n, check_rekey)
            end = n
        data = self._buffer[self._position : end]
        self._position = end
        return data

    def _fill(self, wanted: int, check_rekey: bool) -> None:
        """Receive until the buffer starts with `wanted` unread bytes."""
        parts = [self._buffer[self._position :], self._Packetizer__remainder]
        self._Packetizer__remainder = b""
        have = sum(map(len, parts))
        while have < wanted:
            data = self._receive()
            if data:
                parts.append(data)
                have += len(data)
            elif check_rekey and have == 0 and self.need_rekey():
                raise NeedRekeyException
        self._buffer = b"".join(parts)
        self._position = 0

    def _receive(self) -> bytes:
        """Give what comes next, or nothing when nothing came for a moment."""
        try:
            data = self._sock.recv(_RECEIVE_SIZE)
        except (TimeoutError, BlockingIOError):
            if self.closed:
                raise EOFError from None
            return b""
        except OSError:
            if self.closed:
                raise EOFError from None
            raise
        if not data:
            raise EOFError
        self.last_received = time.monotonic()
        return data

    def write_all(self, out: ReadableBuffer) -> None:
        """Send all of `out`; a forked child must not, the stream belongs to its parent."""
        if os.getpid() != self._pid:
            raise EOFError
        data = bytes(out)
        deadline = time.monotonic() + self.stall_timeout
        while data:
            try:
                sent = self._sock.send(data)
            except (TimeoutError, BlockingIOError):
                sent = 0
            except OSError:
                self.peer_closed = not self.greeting
                raise EOFError from None
            if sent:
                deadline = time.monotonic() + self.stall_timeout
                data = data[sent:]
            elif self.closed:
                raise EOFError
            elif time.monotonic() > deadline:
                self.close()
                raise EOFError

    def start_handshake(self, timeout: float) -> None:
        """Leave the clock to the thread that connects: paramiko's own timer would delay the program's end."""

    def readline(self, timeout: float) -> str:
        """Read a line of the server's greeting."""
        line = super().readline(timeout)
        self.greeting.append(line)
        return line

    def _read_timeout(self, timeout: float) -> bytes:
        try:
            return super()._read_timeout(timeout)
        except TimeoutError:
            raise
        except (EOFError, OSError):
            self.peer_closed = True
            raise
