"""A paramiko packetizer that reads and writes its socket in large pieces, and the buffer of a channel."""

from __future__ import annotations

import collections
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer
from paramiko.ssh_exception import SSHException

_RECEIVE_SIZE = 256 * 1024
#: Bytes that a packet may have; OpenSSH's largest ones have 256 KiB.
_LARGEST_PACKET = 1 << 20

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    class _Pipe(BufferedPipe[bytes]):
        _lock: threading.Lock
        _cv: threading.Condition
        _event: threading.Event | None
        _closed: bool

    class _Packetizer(Packetizer):  # what the published types leave out
        _Packetizer__remainder: bytes
        _Packetizer__write_lock: threading.RLock
        _Packetizer__aead_in: bool
        _Packetizer__compress_engine_in: object
        _Packetizer__block_engine_in: Any
        _Packetizer__iv_in: bytes
        _Packetizer__mac_size_in: int
        _Packetizer__sequence_number_in: int
        _Packetizer__received_bytes: int
        _Packetizer__received_packets: int
        _Packetizer__received_bytes_overflow: int
        _Packetizer__received_packets_overflow: int
        _Packetizer__need_rekey: bool
        _initial_kex_done: bool

        def _inc_iv_counter(self, iv: bytes) -> bytes: ...
        def _trigger_rekey(self) -> None: ...
        def _read_timeout(self, timeout: float) -> bytes: ...
else:
    _Pipe, _Packetizer = BufferedPipe, Packetizer


@attrs.frozen
class Batch:
    """Messages that are sent at once.

    Parameters
    ----------
    messages : tuple of Message
        The messages.
    """

    messages: tuple[Message, ...]


class ChunkPipe(_Pipe):
    """paramiko's pipe between its thread and ours, but one that does not move bytes about."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: collections.deque[bytes] = collections.deque()
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Add what came."""
        with self._lock:
            self._chunks.append(data)
            self._size += len(data)
            if self._event is not None:
                self._event.set()
            self._cv.notify_all()

    def read_ready(self) -> bool:
        """Tell whether there is something."""
        return self._size > 0

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Take at most `nbytes`, waiting for the first one."""
        with self._lock:
            if not self._cv.wait_for(lambda: self._size or self._closed, timeout):
                raise PipeTimeout
            taken = []
            room = nbytes
            while self._chunks and room:
                chunk = self._chunks.popleft()
                if len(chunk) > room:
                    self._chunks.appendleft(chunk[room:])
                    chunk = chunk[:room]
                taken.append(chunk)
                room -= len(chunk)
            self._size -= nbytes - room
            if self._event is not None and not self._size and not self._closed:
                self._event.clear()
        return b"".join(taken)

    def empty(self) -> bytes:
        """Take all there is."""
        return self.read(self._size, 0.0) if self._size else b""

    def __len__(self) -> int:
        return self._size


class BufferedPacketizer(_Packetizer):
    """Receives up to 256 KiB at a time instead of two or three small pieces for each packet, and sends as much.

    With AES-GCM, which we prefer, bytes are copied as seldom as may be; that is what the time of a transfer goes to.

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
        # what was received and not yet read lies between the two
        self._space = memoryview(bytearray(2 * _RECEIVE_SIZE))
        self._start = self._end = 0
        self._held: list[bytes] | None = None
        self.last_received = time.monotonic()
        self.stall_timeout = 30.0
        self.peer_closed = False
        self.greeting: list[str] = []

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Read exactly `n` bytes."""
        return bytes(self._take(n, check_rekey))

    def _take(self, size: int, check_rekey: bool = False) -> memoryview:
        """Read exactly `size` bytes, which are there until the next call."""
        if self._end - self._start < size:
            self._fill(size, check_rekey)
        start = self._start
        self._start += size
        return self._space[start : self._start]

    def _fill(self, wanted: int, check_rekey: bool) -> None:
        """Receive until there are `wanted` unread bytes."""
        unread = bytes(self._space[self._start : self._end]) + self._Packetizer__remainder
        self._Packetizer__remainder = b""
        if max(wanted, len(unread)) + _RECEIVE_SIZE > len(self._space):
            self._space = memoryview(bytearray(max(wanted, len(unread)) + _RECEIVE_SIZE))
        self._space[: len(unread)] = unread
        self._start, self._end = 0, len(unread)
        while self._end < wanted:
            received = self._receive(self._space[self._end : self._end + _RECEIVE_SIZE])
            self._end += received
            if not received and check_rekey and self._end == 0 and self.need_rekey():
                raise NeedRekeyException

    def _receive(self, space: memoryview) -> int:
        """Receive what comes next; nothing when nothing came for a moment."""
        try:
            if isinstance(self._sock, socket.socket):
                size = self._sock.recv_into(space)
            else:
                data = self._sock.recv(len(space))
                size = len(data)
                space[:size] = data
        except (TimeoutError, BlockingIOError):
            if self.closed:
                raise EOFError from None
            return 0
        except OSError:
            if self.closed:
                raise EOFError from None
            raise
        if not size:
            raise EOFError
        self.last_received = time.monotonic()
        return size

    def read_message(self) -> tuple[int, Message]:
        """Read the next message."""
        if not self._Packetizer__aead_in or self._Packetizer__compress_engine_in is not None:
            return super().read_message()
        head = self.read_all(4, check_rekey=True)
        size = int.from_bytes(head, "big")
        if size > _LARGEST_PACKET:
            raise SSHException(f"the server announces a packet of {size} bytes")
        sealed = self._take(size + self._Packetizer__mac_size_in)
        packet = self._Packetizer__block_engine_in.decrypt(self._Packetizer__iv_in, sealed, head)
        self._Packetizer__iv_in = self._inc_iv_counter(self._Packetizer__iv_in)
        message = Message(packet[2 : size - packet[0]])
        message.seqno = self._Packetizer__sequence_number_in
        self._Packetizer__sequence_number_in = (self._Packetizer__sequence_number_in + 1) & 0xFFFFFFFF
        if not self._Packetizer__sequence_number_in and not self._initial_kex_done:
            raise SSHException("the sequence number rolled over during the first key exchange")
        self._count_received(size + 4 + self._Packetizer__mac_size_in)
        return packet[1], message

    def _count_received(self, size: int) -> None:
        """See when it is time for new keys, as paramiko does."""
        self._Packetizer__received_bytes += size
        self._Packetizer__received_packets += 1
        if self._Packetizer__need_rekey:
            self._Packetizer__received_bytes_overflow += size
            self._Packetizer__received_packets_overflow += 1
            if (
                self._Packetizer__received_bytes_overflow >= self.REKEY_BYTES_OVERFLOW_MAX
                or self._Packetizer__received_packets_overflow >= self.REKEY_PACKETS_OVERFLOW_MAX
            ):
                raise SSHException("the server does not answer our wish for new keys")
        elif (
            self._Packetizer__received_bytes >= self.REKEY_BYTES
            or self._Packetizer__received_packets >= self.REKEY_PACKETS
        ):
            self._Packetizer__received_bytes_overflow = self._Packetizer__received_packets_overflow = 0
            self._trigger_rekey()

    def send_message(self, data: Message | Batch) -> None:
        """Send a message, or several with as few calls of the system as may be."""
        if isinstance(data, Message):
            super().send_message(data)
            return
        with self._Packetizer__write_lock:
            self._held = []
            try:
                for message in data.messages:
                    super().send_message(message)
            finally:
                held, self._held = self._held, None
            self.write_all(b"".join(held))

    def write_all(self, out: ReadableBuffer) -> None:
        """Send all of `out`; a forked child must not, the stream belongs to its parent."""
        if os.getpid() != self._pid:
            raise EOFError
        if self._held is not None:
            self._held.append(bytes(out))
            return
        data = memoryview(out)
        deadline = time.monotonic() + self.stall_timeout
        while data:
            try:
                # another connection's channel, below one through a jump host, takes nothing but bytes
                sent = self._sock.send(data if isinstance(self._sock, socket.socket) else bytes(data[:_RECEIVE_SIZE]))
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
