"""Running programs on a machine, through a few long-lived shells and one-shot streams."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from ..errors import ConnectionFailed, TransportError, TransportTimeout
from .base import Carrier
from .shell import Completed, Shell, Stream

if TYPE_CHECKING:
    from typing_extensions import Self

#: Seconds that a program may take when the caller does not say.
DEFAULT_TIMEOUT = 120.0
#: Long-lived shells kept open at a time; a frontend grants about ten sessions to a connection.
_MAX_SHELLS = 2
#: Bytes of input that go through a shell that is there already: a stream of its own costs two round trips more.
_SMALL = 1 << 20


class Programs:
    """Run programs on one machine through a few long-lived shells. Safe to use from several threads.

    Parameters
    ----------
    carrier : Carrier
        How the machine is reached.
    setup : str, optional
        Shell text that every program finds run before it, such as sourcing a site's profile.
    timeout : float
        Default seconds that a program may take.

    Attributes
    ----------
    round_trips : int
        Programs and streams sent so far: each waits at least once for the machine's answer.
    """

    def __init__(self, carrier: Carrier, *, setup: str = "", timeout: float = DEFAULT_TIMEOUT) -> None:
        self.carrier = carrier
        self.timeout = timeout
        self.round_trips = 0
        self._fastest = 0.0
        self._setup = setup + "\n" if setup else ""
        self._idle: list[Shell] = []
        self._room = threading.BoundedSemaphore(_MAX_SHELLS)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Where programs run: ``localhost`` or ``user@host``."""
        return self.carrier.name

    @property
    def round_trip(self) -> float:
        """Seconds to the machine and back: what the carrier knows, or as long as the fastest program took."""
        return self.carrier.round_trip or self._fastest

    def run(self, program: str, *, data: bytes = b"", timeout: float | None = None) -> Completed:
        """Run shell text on the machine and wait for its answer.

        Parameters
        ----------
        program : str
            Text for a POSIX shell, of any length.
        data : bytes
            The program's standard input; empty without it.
        timeout : float, optional
            Seconds it may take; default is the transport's.

        Returns
        -------
        Completed
            Exit code and both outputs. A non-zero exit code is not an error here.

        Raises
        ------
        ConnectionFailed
            The machine could not be reached; nothing was run.
        ConnectionLost, TransportTimeout
            The program may or may not have run. What was still running was asked to end.
        """
        timeout = self.timeout if timeout is None else timeout
        self.round_trips += 1
        with self._shell(timeout) as shell:
            started = time.monotonic()
            try:
                answer = shell.run(self._setup + program, data, timeout)
            except TransportTimeout:
                self._end(shell)
                raise
            took = time.monotonic() - started
            self._fastest = min(self._fastest or took, took)
            return answer

    def send(
        self,
        program: str,
        chunks: Iterable[bytes],
        *,
        idle_timeout: float | None = None,
        given_up: threading.Event | None = None,
    ) -> Completed:
        """Run shell text with a stream of any length as its input.

        A short one travels through a shell that is open and idle.

        Parameters
        ----------
        program : str
            Text for a POSIX shell.
        chunks : iterable of bytes
            The input.
        idle_timeout : float, optional
            Seconds without progress after which it is given up.
        given_up : threading.Event, optional
            Ends a long one when somebody sets it.

        Returns
        -------
        Completed
            Exit code and both outputs.
        """
        chunks = iter(chunks)
        start = _up_to(_SMALL, chunks) if self._idle else b""
        if self._idle and len(start) < _SMALL:
            self.round_trips += 1
            timeout = self.timeout if idle_timeout is None else idle_timeout
            with self._shell(timeout) as shell:
                return shell.run(self._setup + program, start, timeout, idle=True)
        with self.stream(program, idle_timeout=idle_timeout, given_up=given_up) as stream:
            output = b"".join(stream.exchange(itertools.chain([start], chunks)))
            end = stream.result()
        return Completed(end.exitcode, output, end.stderr)

    @contextlib.contextmanager
    def receive(self, program: str, *, data: bytes = b"", idle_timeout: float | None = None) -> Iterator[Incoming]:
        """Run shell text and read its output as a stream.

        Parameters
        ----------
        program : str
            Text for a POSIX shell.
        data : bytes
            Its standard input.
        idle_timeout : float, optional
            Seconds without progress after which it is given up.

        Yields
        ------
        Incoming
            Iterate over it for the output; its `result` is there once that has ended.
        """
        with self.stream(program, idle_timeout=idle_timeout) as stream:
            incoming = Incoming(stream, data)
            try:
                yield incoming
            finally:
                incoming.chunks.close()

    def stream(
        self,
        program: str,
        *,
        bare: bool = False,
        window: int | None = None,
        given_up: threading.Event | None = None,
        idle_timeout: float | None = None,
    ) -> Stream:
        """Start shell text on a pipe of its own; `Stream` explains the parameters."""
        self.round_trips += 1
        idle_timeout = self.timeout if idle_timeout is None else idle_timeout
        if self.carrier.room < 1:
            # a shell that nobody uses just now must not keep those out who could not start without its place
            with self._lock:
                idle = [self._idle.pop()] if self._idle else []
            for shell in idle:
                shell.close()
        return Stream(self.carrier, self._setup + program, idle_timeout, bare=bare, window=window, given_up=given_up)

    def close(self) -> None:
        """End the shells and release the connection; the next call connects again."""
        with self._lock:
            shells, self._idle = self._idle, []
        for shell in shells:
            shell.close()
        self.carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _shell(self, timeout: float) -> Iterator[Shell]:
        """Lend a shell that nobody else uses meanwhile."""
        with self._room:
            with self._lock:
                shell = self._idle.pop() if self._idle else None
            if shell is not None and not shell.alive():
                # it died while nobody used it: nothing was asked of it, a new one may be
                shell.close()
                shell = None
            if shell is None:
                shell = self._connect(timeout)
            try:
                yield shell
            finally:
                if shell.usable:
                    with self._lock:
                        self._idle.append(shell)

    def _connect(self, timeout: float) -> Shell:
        try:
            return Shell(self.carrier, timeout)
        except ConnectionFailed:
            raise
        except TransportError as error:
            # nothing of the caller's was sent yet
            raise ConnectionFailed(f"cannot start a shell on {self.name}: {error.message}") from error

    def _end(self, shell: Shell) -> None:
        """Ask what a shell left running to end, through another shell."""
        group = shell.pid
        program = f"kill -s TERM -- -{group}; sleep 1; kill -s KILL -- -{group}"
        # the time-out is what the caller must hear of, whether or not this works
        with contextlib.suppress(TransportError), contextlib.closing(Shell(self.carrier, 10)) as other:
            other.run(program, b"", 10)


def _up_to(size: int, chunks: Iterator[bytes]) -> bytes:
    """Take chunks until there are `size` bytes, or no more."""
    taken = bytearray()
    while len(taken) < size and (chunk := next(chunks, None)) is not None:
        taken += chunk
    return bytes(taken)


class Incoming:
    """The output of a program as it comes."""

    def __init__(self, stream: Stream, data: bytes) -> None:
        self._stream = stream
        self.chunks = stream.exchange([data] if data else [])

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks

    @property
    def result(self) -> Completed:
        """Exit code and standard error, once the output was read to its end."""
        return self._stream.result()


def together(work: Callable[[threading.Event], object], count: int) -> None:
    """Do the same in several threads; when it fails in one, the others are told to give up.

    Parameters
    ----------
    work : callable
        Gets what `Programs.stream` calls `given_up`.
    count : int
        How many threads; one is the caller's own.
    """
    given_up = threading.Event()
    if count == 1:
        work(given_up)
        return
    with ThreadPoolExecutor(count, "batchlib-streams") as pool:
        tasks = [pool.submit(work, given_up) for _ in range(count)]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            given_up.set()
            raise
