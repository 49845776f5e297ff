"""A shared connection of the system's ``ssh``, and the programs that run through it."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from ..errors import ConnectionFailed
from .base import STDERR, Pipe
from .child import ChildPipe, start_child
from .gate import Gate, NoRoom
from .openssh_master import connects, find_master, mux_options
from .openssh_options import said
from .ssh import SshSettings
from .ssh_config import resolve

#: In the log of an ssh that uses a shared connection: its session is open, the command is sent.
_OPENED = b"master session id"
#: The server allows no more sessions.
_NO_ROOM = "refused by peer"


class Connection:
    """A shared connection of OpenSSH's to one host.

    Parameters
    ----------
    settings : SshSettings
        Where and how to connect.
    person : bool
        Whether somebody sits at a terminal whom ``ssh`` may ask.

    Raises
    ------
    ConnectionFailed
        It could not be made; the subclasses tell more.
    """

    def __init__(self, settings: SshSettings, *, person: bool) -> None:
        self.settings = settings
        self.resolved = resolve(settings)
        self.target = self.resolved.target
        self._gate = Gate(settings.sessions)
        self._broken = False
        self._master = find_master(settings, self.resolved, person=person)

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return not self._broken and self._master.alive

    @property
    def round_trip(self) -> float:
        """Not known: how long a session takes to open is mostly the time that a process takes to start."""
        return 0.0

    @property
    def room(self) -> int:
        """How many programs can be started now without waiting for others to end."""
        return self._gate.room

    def open(self, command: str, window: int | None = None) -> Pipe:
        """Start a program; OpenSSH's windows can't be chosen.

        Raises
        ------
        ConnectionFailed
            No session could be opened; nothing was started.
        """
        words: list[str | bytes] = ["--", self.resolved.alias, command.encode("utf-8", "surrogateescape")]
        return self._gate.open(
            lambda: self._start(words, self._gate.leave),
            lambda: self.alive,
            target=self.target,
            wait=self.settings.session_wait,
            patience=self.settings.timeout,
        )

    def open_tcp(self, host: str, port: int) -> Pipe:
        """Connect to a TCP service from the machine.

        Raises
        ------
        ConnectionFailed
            The service, or the machine itself, can't be reached.
        """
        service = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            # servers don't count these as sessions
            return self._start(["-W", service, "--", self.resolved.alias], lambda: None)
        except NoRoom as error:
            raise ConnectionFailed(f"{self.target} can't connect to {host}, port {port}") from error

    def close(self) -> None:
        """Let go of the master, which ends all programs' pipes if it is our own."""
        self._broken = True
        self._master.close()

    def _start(self, words: Sequence[str | bytes], leave: Callable[[], None]) -> Pipe:
        """Start an ssh that uses the connection, or raise `NoRoom`; `leave` is called at its end."""
        directory = self._master.make_directory()
        try:
            journal = _Journal(str(directory / "journal"))
            try:
                process = self._popen(words, journal.path)
            except BaseException:
                journal.close()
                raise
            pipe = _SessionPipe(process, self.target, journal, leave, self._farewell)
            try:
                self._await_session(journal, process)
            except BaseException:
                pipe.abandon()
                raise
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return pipe

    def _popen(self, words: Sequence[str | bytes], journal: str) -> subprocess.Popen[bytes]:
        # what it says itself goes to the journal, so that it can't be taken for the program's words
        options = [*mux_options(self._master.path), "-o", "LogLevel=DEBUG1", "-E", journal]
        return start_child([shutil.which("ssh") or "ssh", *options, *words], "ssh")

    def _await_session(self, journal: _Journal, process: subprocess.Popen[bytes]) -> None:
        """Wait until the session is open and the program asked for."""
        deadline = time.monotonic() + self.settings.timeout
        while _OPENED not in journal.heard:
            if not journal.listen(process, deadline - time.monotonic()):
                raise ConnectionFailed(f"{self.target} did not open a session within {self.settings.timeout:g} s")
            if journal.ended and _OPENED not in journal.heard:
                raise self._no_session(journal.heard.decode("utf-8", "replace"))

    def _no_session(self, heard: str) -> Exception:
        words = said(heard)
        if any(_NO_ROOM in word for word in words):
            return NoRoom("it opens no session")
        if connects(self._master.path):
            return ConnectionFailed(f"{self.target} opened no session: ssh said: {words[0] if words else 'nothing'}")
        self._broken = True
        return ConnectionFailed(f"the connection to {self.target} is gone{_after(self._master.last_words())}")

    def _farewell(self) -> bytes:
        """Say what is known of the end of the connection; nothing while it is alive."""
        if self.alive:
            return b""
        return f"the connection is gone{_after(self._master.last_words())}\n".encode()


def _after(words: str) -> str:
    return f": {words}" if words else ""


class _Journal:
    """What an ssh that uses a shared connection says itself: it knows only files to write that to, so it is a FIFO."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.heard = b""
        self.ended = False
        os.mkfifo(path, 0o600)
        # opened first, and without waiting for somebody who writes
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def listen(self, process: subprocess.Popen[bytes], timeout: float) -> bool:
        """Wait for words, or for the end of the process; False when there was neither in time."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if process.stdout is not None:
            # its end only: what comes there is the program's
            poll.register(process.stdout, 0)
        events = poll.poll(max(0.0, timeout) * 1000)
        while events:
            try:
                chunk = os.read(self._reader, 4096)
            except BlockingIOError:
                break
            if not chunk:
                break
            self.heard += chunk
        self.ended = any(event & (select.POLLHUP | select.POLLERR) for _descriptor, event in events)
        return bool(events)

    def close(self) -> None:
        """Close our end; ssh may no longer write to it."""
        os.close(self._reader)


class _SessionPipe(ChildPipe):
    """The streams of a program in a session of a shared connection.

    Parameters
    ----------
    process : subprocess.Popen
        The process of ``ssh`` that uses the connection.
    name : str
        Where the program runs.
    journal : _Journal
        What that says itself; it is kept open for as long as ssh may write to it.
    leave : callable
        Makes room for another session.
    farewell : callable
        Gives what is known when the streams have ended.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        name: str,
        journal: _Journal,
        leave: Callable[[], None],
        farewell: Callable[[], bytes],
    ) -> None:
        super().__init__(process, name, grace=0.0)
        self._journal = journal
        self._leave = leave
        self._farewell = farewell
        self._told = False
        self._closing = threading.Lock()

    def read(self, timeout: float) -> tuple[int, bytes] | None:
        """Wait for output; on standard error, the end of a connection is told before the end of the stream."""
        if self._told:
            self._told = False
            return STDERR, b""
        got = super().read(timeout)
        if got == (STDERR, b"") and os.getpid() == self._pid and (words := self._farewell()):
            self._told = True
            return STDERR, words
        return got

    def close(self) -> None:
        """Give up the pipe at once."""
        if os.getpid() == self._pid and self._closing.acquire(blocking=False):
            self.abandon()
            self._leave()

    def abandon(self) -> None:
        """End ssh, keeping the room that the session has."""
        super().close()
        self._journal.close()
