"""A paramiko transport that does not kill its own connection.

Stock paramiko 5.1 loses connections in two ways. OpenSSH drops a connection on which data or an end-of-file
comes for a channel after its CLOSE; paramiko's transport thread answers the server's CLOSE while another thread
is about to send (paramiko issues 1115 and 1705). And a CLOSE that has to be answered during a key exchange
blocks the very thread that must finish the exchange (issue 822).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, cast

import paramiko
from paramiko.channel import Channel
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FAILURE,
    cMSG_CHANNEL_REQUEST,
    cMSG_CHANNEL_WINDOW_ADJUST,
    cMSG_GLOBAL_REQUEST,
)
from paramiko.message import Message
from paramiko.transport import ChannelMap

from .paramiko_packets import Batch, BufferedPacketizer, ChunkPipe

# A library that is not asked to says nothing; and paramiko logs tracebacks of what is reported as an error anyway.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
#: paramiko's own log of our connections; silent unless a level is set.
LOG_NAME = "batchlib.transport.ssh.paramiko"
if logging.getLogger(LOG_NAME).level == logging.NOTSET:
    logging.getLogger(LOG_NAME).setLevel(logging.CRITICAL)

#: What a message with data of a channel begins with.
_DATA = bytes([MSG_CHANNEL_DATA])

if TYPE_CHECKING:
    # what the published types leave out
    class _Channel(Channel):
        def _close_internal(self) -> tuple[Message | None, Message | None]: ...
        def _send_eof(self) -> Message | None: ...
        def _wait_for_send_window(self, size: int) -> int: ...
        def _check_add_window(self, n: int) -> int: ...
        def _event_pending(self) -> None: ...

    class _Transport(paramiko.Transport):
        _channel_handler_table: ClassVar[dict[int, Callable[[Channel, Message], None]]]
        _preferred_ciphers: tuple[str, ...]
        _preferred_keys: tuple[str, ...]

        def _filter_algorithm(self, type_: str) -> tuple[str, ...]: ...
        def _parse_channel_open_failure(self, m: Message) -> None: ...
        def _parse_disconnect(self, m: Message) -> None: ...
        def _parse_newkeys(self, m: Message) -> None: ...
        def _send_message(self, data: Message | Batch) -> None: ...
        def _send_user_message(self, data: Message | Batch) -> None: ...
        def _unlink_channel(self, chanid: int) -> None: ...

else:
    _Channel, _Transport = Channel, paramiko.Transport


class SafeChannel(_Channel):
    """A channel on which nothing of ours can follow our CLOSE.

    Deciding to send and sending are one step under `_sending`. Closing never waits for that lock: it leaves its
    messages to the thread that holds it.
    """

    transport: SafeTransport
    #: Why the server refused to open the channel.
    refusal: paramiko.ChannelException | None
    _sending: threading.Lock
    _last_words: collections.deque[Message]

    def make_safe(self) -> None:
        """Set up what a channel made by paramiko lacks."""
        self.refusal = None
        self.in_buffer = ChunkPipe()
        self._sending = threading.Lock()
        self._last_words = collections.deque()

    def start(self, command: bytes, timeout: float) -> None:
        """Ask the server to run a command.

        Raises
        ------
        TimeoutError
            It did not answer in time.
        paramiko.SSHException
            It refused, or the connection broke.
        """
        message = Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string("exec")
        message.add_boolean(True)
        message.add_string(command)
        self._event_pending()
        self._emit(lambda: () if self.closed else (message,))
        if not self.event.wait(timeout):
            raise TimeoutError
        if not self.event_ready:
            raise paramiko.SSHException("the server did not start the command")

    def notify(self, event: threading.Event) -> None:
        """Have `event` set whenever there is something to read or the channel ends."""
        self.in_buffer.set_event(event)
        self.in_stderr_buffer.set_event(event)

    def shutdown(self, how: int) -> None:
        """Shut down reading (0), writing (1) or both (2)."""
        if how in (0, 2):
            self.eof_received = 1
        if how in (1, 2):
            self._emit(lambda: () if self.closed else (self._send_eof(),))

    def close(self) -> None:
        """Give the channel up; the server is told as soon as nobody is in the middle of sending."""
        with self.lock:
            if not self.active or self.closed:
                return
            self._say_last(self._close_internal())
        self._flush()

    def __del__(self) -> None:
        # Sending from the garbage collector, in whatever thread it runs, can dead-lock (paramiko issue 2075).
        pass

    def send_much(self, data: memoryview) -> int:
        """Send as much of `data` as the server takes now, waiting for it to take anything.

        Returns
        -------
        int
            Bytes sent; 0 when the channel takes no more.
        """
        return self._send_parts(data, lambda: Message(_DATA + self.remote_chanid.to_bytes(4, "big")))

    def _send(self, s: bytes, m: Message) -> int:
        return self._send_parts(memoryview(s)[: self.out_max_packet_size - 64], lambda: m)

    def _send_parts(self, data: memoryview, head: Callable[[], Message]) -> int:
        while True:
            with self.lock:
                if self.closed:
                    raise OSError(errno.EPIPE, "the channel is closed")
                # only wait for room here and give it back: taking it is one step with sending
                taken = self._wait_for_send_window(1)
                self.out_window_size += taken
            sent = 0

            def build() -> Iterable[Message]:
                nonlocal sent
                messages = []
                while sent < len(data) and not self.closed and not self.eof_sent and self.out_window_size:
                    size = self._wait_for_send_window(len(data) - sent)
                    message = head()
                    message.packet.seek(0, os.SEEK_END)
                    message.add_string(bytes(data[sent : sent + size]))
                    messages.append(message)
                    sent += size
                return messages

            self._emit(build)
            if sent or self.eof_sent:
                return sent

    def _check_add_window(self, n: int) -> int:
        def build() -> Iterable[Message]:
            if self.closed or self.eof_received or not self.active:
                return ()
            self.in_window_sofar += n
            if self.in_window_sofar <= self.in_window_threshold:
                return ()
            message = Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(self.remote_chanid)
            message.add_int(self.in_window_sofar)
            self.in_window_sofar = 0
            return (message,)

        # without it the server sends no more: that matters to a live connection only
        with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
            self._emit(build)
        return 0

    def _emit(self, build: Callable[[], Iterable[Message | None]]) -> None:
        """Send what `build`, called with the channel's lock held, finds right to send now."""
        with self._sending:
            with self.lock:
                messages = build()
            present = tuple(message for message in messages if message is not None)
            if len(present) > 1:
                self.transport._send_user_message(Batch(present))
            elif present:
                self.transport._send_user_message(present[0])
        self._flush()

    def _say_last(self, messages: Iterable[Message | None]) -> None:
        self._last_words.extend(message for message in messages if message is not None)

    def _flush(self) -> None:
        while self._last_words and self._sending.acquire(blocking=False):
            try:
                while self._last_words:
                    self.transport._send_user_message(self._last_words.popleft())
            finally:
                self._sending.release()

    def closed_by_server(self) -> None:
        """Answer the server's CLOSE, in the transport's thread."""
        with self.lock:
            self._say_last(self._close_internal())
            self.transport._unlink_channel(self.chanid)
        self._flush()

    def request_refused(self) -> None:
        """Give the channel up because the server refused what was asked, in the transport's thread."""
        with self.lock:
            self._say_last(self._close_internal())
        self._flush()


def _on_close(channel: Channel, message: Message) -> None:
    if isinstance(channel, SafeChannel):
        channel.closed_by_server()


def _on_failure(channel: Channel, message: Message) -> None:
    if isinstance(channel, SafeChannel):
        channel.request_refused()


class _SafeChannels(ChannelMap):
    """Turns each channel that paramiko makes into a safe one, and knows which one a thread is opening."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    @property
    def latest(self) -> SafeChannel | None:
        """The channel that the calling thread is about to open."""
        return getattr(self._local, "channel", None)

    def forget_latest(self) -> None:
        """Let go of it, and of what it holds."""
        self._local.__dict__.clear()

    def put(self, chanid: int, chan: Channel) -> None:
        """Take in a channel that was just made."""
        chan.__class__ = SafeChannel
        safe = cast(SafeChannel, chan)
        safe.make_safe()
        self._local.channel = safe
        super().put(chanid, safe)


class SafeTransport(_Transport):
    """A client's transport with safe channels and modern algorithms, which never asks for new keys by itself.

    Parameters
    ----------
    sock : socket or Channel
        The connection to the server.
    timeout : float
        Seconds for the server's greeting, for new keys, and for opening a channel.
    stall_timeout : float
        Seconds after which a server that takes nothing from us is given up.
    """

    _channel_handler_table: ClassVar[dict[int, Callable[[Channel, Message], None]]] = {
        # the table holds functions of Channel itself: a method of a subclass is not called through it
        **_Transport._channel_handler_table,
        MSG_CHANNEL_CLOSE: _on_close,
        MSG_CHANNEL_FAILURE: _on_failure,
    }
    # paramiko has the fastest ones last: GCM needs no Python code for each block and no HMAC
    _preferred_ciphers = (
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
    )

    packetizer: BufferedPacketizer

    def __init__(self, sock: socket.socket | Channel, timeout: float, stall_timeout: float) -> None:
        super().__init__(
            sock,
            packetizer_class=BufferedPacketizer,
            disabled_algorithms={"macs": ["hmac-sha1", "hmac-sha1-96", "hmac-md5", "hmac-md5-96"]},
        )
        self.set_log_channel(LOG_NAME)
        self.packetizer.stall_timeout = stall_timeout
        self.banner_timeout = self.channel_timeout = timeout
        self.clear_to_send_timeout = timeout
        #: What the server said when it closed the connection.
        self.farewell = ""
        self._channels: _SafeChannels = _SafeChannels()
        self._after_key_exchange: collections.deque[Message | Batch] = collections.deque()

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Host key algorithms in the order of our liking; no certificates, which nothing here can check."""
        return self._filter_algorithm("keys")

    def prefer_host_keys(self, algorithms: Iterable[str]) -> None:
        """Ask for host keys of these kinds first."""
        first = [name for name in algorithms if name in self._preferred_keys]
        self._preferred_keys = tuple(dict.fromkeys([*first, *self._preferred_keys]))

    def open_safely(
        self, kind: str, destination: tuple[str, int] | None, window: int | None, timeout: float
    ) -> SafeChannel:
        """Open a channel.

        Raises
        ------
        paramiko.ChannelException
            The server refused it; other channels are not concerned.
        paramiko.SSHException, EOFError, OSError
            The connection broke, or there was no answer in time.
        """
        source = ("127.0.0.1", 0) if destination else None
        try:
            channel = self.open_channel(kind, destination, source, window_size=window, timeout=timeout)
        except paramiko.SSHException:
            # the exception may be that of another thread's channel
            latest = self._channels.latest
            if latest is not None and latest.refusal is not None:
                raise latest.refusal from None
            raise
        finally:
            self._channels.forget_latest()
        return cast(SafeChannel, channel)

    def send_probe(self) -> None:
        """Ask the server for a sign of life; whatever it sends will do."""
        message = Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        self._send_user_message(message)

    def _parse_channel_open_failure(self, m: Message) -> None:
        channel = self._channels.get(m.get_int())
        if isinstance(channel, SafeChannel):
            channel.refusal = paramiko.ChannelException(m.get_int(), m.get_text())
        m.rewind()
        super()._parse_channel_open_failure(m)

    def _parse_disconnect(self, m: Message) -> None:
        m.get_int()
        self.farewell = m.get_text()
        m.rewind()
        super()._parse_disconnect(m)

    def _send_user_message(self, data: Message | Batch) -> None:
        if threading.current_thread() is not self:
            super()._send_user_message(data)
            return
        # this thread must not wait for the end of a key exchange that only it can bring about
        with self.clear_to_send_lock:
            if self.clear_to_send.is_set():
                self._send_message(data)
            else:
                self._after_key_exchange.append(data)

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)
        while self._after_key_exchange and self.clear_to_send.is_set():
            self._send_user_message(self._after_key_exchange.popleft())
