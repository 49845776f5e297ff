"""Programs through ``/bin/sh`` with marks around their answers.

An answer counts only when its end mark arrived: a lost connection can't be taken for an empty answer, and
whatever start files, banners or other people's text print can't be taken for ours. The mark is a random
token made for each shell.

Programs travel on the shell's standard input, preceded by their length, so that neither their size (a remote
command line ends at 131,071 bytes) nor the user's login shell matters: the command line itself holds nothing
that csh, fish or zsh would read differently.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator

import attrs

from ..errors import ConnectionLost, TransportError, TransportTimeout
from .base import STDERR, STDOUT, Carrier, Pipe

#: Bytes of output after which a program is given up: no batch system answers that much.
MAX_OUTPUT = 1 << 30
#: Bytes that surely fit into the pipes between us and the shell, so that writing can't block.
_INLINE = 16 * 1024
#: Bytes of a stream's standard error that are kept.
_STDERR_TAIL = 64 * 1024
#: Seconds after which a stream looks whether it has been given up.
_LOOK = 1.0

#: Bytes of a stream that travel as one piece: of the first one, so that the program has something to do soon, and of
#: the longest ones; and bytes that are written at a time. Progress is seen after each.
_FIRST_PIECE = 128 << 10
_PIECE = 4 << 20
_SLICE = 256 << 10

# What travels on a shell's standard input may be cut off at any byte. A program ends with the token, and is not run
# without it. Its input is followed by a line, or comes in pieces with their lengths, of which the last one is empty;
# where that is missing, the whole process group is killed before the program can take the end of its input for all
# of it. ``head -c`` takes exactly that many bytes; ``read`` reads byte by byte; the loop itself is an argument, so the
# shell never reads ahead on the stream.
_PROGRAM = "p=$(head -c $n); case $p in *$t) ;; *) exit 1;; esac; "
# The loop of a long-lived shell: number, length of the program, length of its input; then both.
_LOOP = (
    "exec /bin/sh -c '"
    't={token}; printf "%s %s\\n" $t $$; printf "%s\\n" $t >&2; '
    'while IFS=" " read -r i n m; do ' + _PROGRAM + 'if [ $m = 0 ]; then ( eval "$p" ) </dev/null; '
    "else {{ head -c $m; read -r e || kill -s KILL -- -$$; }} | "
    '{{ ( eval "$p" ); r=$?; cat >/dev/null; exit $r; }}; fi; r=$?; '
    'printf "\\n%s %s %s\\n" $t $i $r; printf "\\n%s %s\\n" $t $i >&2; done\''
)
# One program whose input is the rest of the stream, in pieces or, for a program that knows how much it is to read, as
# it is. Its end is told on standard error, the standard output carries nothing but data.
_ONCE = (
    "exec /bin/sh -c '"
    't={token}; printf "%s pid %s\\n" $t $$ >&2; printf "%s\\n" $t; '
    'IFS=" " read -r n; ' + _PROGRAM + '{pieces}( eval "$p" ); printf "\\n%s %s\\n" $t $? >&2\''
)
_PIECES = '{ while read -r n; do case $n in 0) exit 0;; esac; head -c "$n" || exit 0; done; kill -s KILL -- -$$; } | '


@attrs.frozen
class Completed:
    """What a program answered.

    Parameters
    ----------
    exitcode : int
        Its exit code as the shell saw it: 128 + N for a death by signal N.
    stdout, stderr : bytes
        What it printed.
    """

    exitcode: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Standard output as text; bytes that are not UTF-8 survive as surrogates."""
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "replace")


class Shell:
    """One long-lived ``/bin/sh`` on a machine; one program at a time.

    Parameters
    ----------
    carrier : Carrier
        How to reach the machine.
    timeout : float
        Seconds to wait for the shell's first sign of life.
    """

    def __init__(self, carrier: Carrier, timeout: float) -> None:
        self._name = carrier.name
        self._token = secrets.token_hex(16)
        self._pipe = carrier.open(_LOOP.format(token=self._token))
        self._number = 0
        self._buffers = {STDOUT: bytearray(), STDERR: bytearray()}
        self.usable = True
        token = self._token.encode()
        try:
            # whatever start files printed comes before the token and is dropped
            (_noise, pid), _ = self._until(token + b" ", token + b"\n", timeout)
        except BaseException:
            self.close()
            raise
        self.pid = int(pid)

    def run(self, program: str, data: bytes, timeout: float, *, idle: bool = False) -> Completed:
        """Run `program` and return its answer.

        Parameters
        ----------
        program : str
            Shell text.
        data : bytes
            Its standard input.
        timeout : float
            Seconds that it may take.
        idle : bool
            These seconds start anew whenever something comes.

        Raises
        ------
        TransportTimeout
            It did not end in time; the shell is no longer usable, the program may still be running.
        ConnectionLost
            The connection broke; the program may have run.
        """
        self._number += 1
        text = _sealed(program, self._token)
        message = b"%d %d %d\n%b%b" % (self._number, len(text), len(data), text, data + b"\n" if data else b"")
        token = f"\n{self._token} {self._number}".encode()
        try:
            if len(message) <= _INLINE:
                self._pipe.write(message)
                answer = self._until(token + b" ", token + b"\n", timeout, idle)
            else:
                with _Writer(self._pipe, [message], close_stdin=False):
                    answer = self._until(token + b" ", token + b"\n", timeout, idle)
        except BaseException:
            self.close()
            raise
        (out, code), (err, _) = answer
        return Completed(int(code), out, err)

    def alive(self) -> bool:
        """Tell whether the shell is still there, as far as can be seen without asking it anything."""
        try:
            got = self._pipe.read(0)
        except TransportError:
            return False
        if got is None:
            return True
        stream, chunk = got
        self._buffers[stream] += chunk
        return bool(chunk)

    def close(self) -> None:
        """End the shell."""
        self.usable = False
        self._pipe.close()

    def _until(
        self, out_mark: bytes, err_mark: bytes, timeout: float, idle: bool = False
    ) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
        """Wait for both marks; give what came before each and the rest of the mark's own line."""
        marks = {STDOUT: out_mark, STDERR: err_mark}
        found: dict[int, tuple[bytes, bytes]] = {}
        searched = {STDOUT: 0, STDERR: 0}
        deadline = time.monotonic() + timeout
        while True:
            for stream in marks.keys() - found.keys():
                answer = _take(self._buffers[stream], marks[stream], searched[stream])
                if answer:
                    found[stream] = answer
                else:
                    searched[stream] = max(0, len(self._buffers[stream]) - len(marks[stream]))
            if len(found) == 2:
                return found[STDOUT], found[STDERR]
            if self._receive(deadline) and idle:
                deadline = time.monotonic() + timeout

    def _receive(self, deadline: float) -> bool:
        """Take in what comes next; tell whether anything did."""
        left = deadline - time.monotonic()
        got = self._pipe.read(left) if left > 0 else None
        if got is None:
            if deadline - time.monotonic() <= 0:
                raise TransportTimeout(f"no answer from {self._name} in time")
            return False
        stream, chunk = got
        if not chunk:
            said = bytes(self._buffers[STDERR][-300:]).decode("utf-8", "replace").strip()
            raise ConnectionLost(f"the shell on {self._name} ended unexpectedly{': ' + said if said else ''}")
        self._buffers[stream] += chunk
        if len(self._buffers[stream]) > MAX_OUTPUT:
            raise TransportError(f"a program on {self._name} printed more than {MAX_OUTPUT >> 20} MiB; given up")
        return True


class Stream:
    """One program on a pipe of its own, for data of any length in either direction.

    Use as a context manager: leaving it gives up what has not ended.

    Parameters
    ----------
    carrier : Carrier
        How to reach the machine.
    program : str
        Shell text to run.
    idle_timeout : float
        Seconds without any progress after which the transfer is given up.
    bare : bool
        The program's input has no end that it could be told of: it knows itself how much it has to read, and what
        to do when less comes.
    window : int, optional
        Bytes that may be under way to us, where the carrier can choose that.
    given_up : threading.Event, optional
        Ends the transfer when somebody sets it.
    """

    def __init__(
        self,
        carrier: Carrier,
        program: str,
        idle_timeout: float,
        *,
        bare: bool = False,
        window: int | None = None,
        given_up: threading.Event | None = None,
    ) -> None:
        self._name = carrier.name
        self._idle_timeout = idle_timeout
        self._bare = bare
        self._given_up = given_up or threading.Event()
        token = secrets.token_hex(16)
        self._mark = token.encode()
        self._pipe = carrier.open(_ONCE.format(token=token, pieces="" if bare else _PIECES), window=window)
        text = _sealed(program, token)
        self._head = b"%d\n%b" % (len(text), text)
        self._stderr = bytearray()
        self._noise: bytearray | None = bytearray()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pipe.close()

    def exchange(self, chunks: Iterable[bytes] = ()) -> Generator[bytes, None, None]:
        """Send `chunks` as the program's input and yield its output as it comes.

        Raises
        ------
        TransportTimeout
            Nothing moved for `idle_timeout` seconds.
        ConnectionLost
            It was given up.
        """
        content = chunks if self._bare else _pieces(chunks)
        with _Writer(self._pipe, itertools.chain([self._head], content), close_stdin=True) as writer:
            yield from self.output(writer.advanced)

    def write(self, data: bytes) -> None:
        """Send a little to a bare program whose `output` is read by the same thread.

        Raises
        ------
        ConnectionLost
            It no longer reads.
        """
        self._pipe.write(self._head + data)
        self._head = b""

    def output(self, advanced: Callable[[], bool] = lambda: False) -> Generator[bytes, None, None]:
        """Yield the program's output as it comes.

        Parameters
        ----------
        advanced : callable
            Tells whether there was any progress in the other direction since it was asked last.

        Raises
        ------
        TransportTimeout, ConnectionLost
            As for `exchange`.
        """
        ended: set[int] = set()
        moved = time.monotonic()
        while len(ended) < 2:
            got = self._pipe.read(min(_LOOK, self._idle_timeout))
            if self._given_up.is_set():
                raise ConnectionLost(f"the transfer from or to {self._name} was given up")
            if got is None:
                if advanced():
                    moved = time.monotonic()
                elif time.monotonic() - moved >= self._idle_timeout:
                    raise TransportTimeout(
                        f"no progress on the connection to {self._name} for {self._idle_timeout:g} s"
                    )
                continue
            stream, data = got
            if not data:
                ended.add(stream)
            elif stream == STDERR:
                self._stderr += data
                if len(self._stderr) > 2 * _STDERR_TAIL:
                    del self._stderr[:-_STDERR_TAIL]
            else:
                clean = self._without_noise(data)
                if clean:
                    yield clean
            moved = time.monotonic()

    def result(self) -> Completed:
        """Exit code and standard error of the program, once `exchange` came to its end."""
        before, found, after = bytes(self._stderr).rpartition(b"\n" + self._mark + b" ")
        code = after.split(b"\n", 1)[0]
        if not found or not code.isdigit():
            said = self._after_noise(bytes(self._stderr))[-300:].decode("utf-8", "replace").strip()
            raise ConnectionLost(f"the connection to {self._name} broke in a transfer{': ' + said if said else ''}")
        return Completed(int(code), b"", self._after_noise(before))

    def _after_noise(self, said: bytes) -> bytes:
        """Drop the first mark, and what start files printed before it."""
        noise_end = said.find(self._mark)
        return said[said.find(b"\n", noise_end) + 1 :] if noise_end >= 0 else said

    def _without_noise(self, data: bytes) -> bytes:
        """Drop what start files printed before the first mark."""
        if self._noise is None:
            return data
        self._noise += data
        start = self._noise.find(self._mark + b"\n")
        if start < 0:
            del self._noise[: -len(self._mark)]
            return b""
        rest = bytes(self._noise[start + len(self._mark) + 1 :])
        self._noise = None
        return rest


class _Writer(threading.Thread):
    """Feed a pipe beside the thread that reads it, so that neither direction can block the other.

    Use as a context manager: an error of the reading side closes the pipe and so ends the writer.
    """

    def __init__(self, pipe: Pipe, chunks: Iterable[bytes], *, close_stdin: bool) -> None:
        super().__init__(name="batchlib-writer", daemon=True)
        self._pipe = pipe
        self._chunks = chunks
        self._close_stdin = close_stdin
        self._written = 0
        self._seen = -1
        self._error: BaseException | None = None

    def __enter__(self) -> _Writer:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._pipe.close()
        self.join()
        # an error of the data's source is worth more than what the program said about the broken end
        if self._error is not None and not isinstance(error, GeneratorExit):
            raise self._error

    def run(self) -> None:
        """Write all chunks."""
        try:
            for chunk in self._chunks:
                self._pipe.write(chunk)
                self._written += len(chunk)
            if self._close_stdin:
                self._pipe.close_stdin()
        except ConnectionLost:
            # a program may end before it has read all: its exit code tells
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the reading thread
            self._error = error
            self._pipe.close()

    def advanced(self) -> bool:
        """Tell whether anything was written since this was asked last."""
        before, self._seen = self._seen, self._written
        return self._seen != before


def _sealed(program: str, token: str) -> bytes:
    """Give a program with the comment at its end that shows that it is all there."""
    return f"{program}\n#{token}".encode("utf-8", "surrogateescape")


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Put chunks together to pieces with their lengths in front, the last one of which is empty."""
    parts: list[bytes] = []
    size = 0
    enough = _FIRST_PIECE
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= enough:
            yield from _slices(size, parts)
            parts, size = [], 0
            enough = min(2 * enough, _PIECE)
    if size:
        yield from _slices(size, parts)
    yield b"0\n"


def _slices(size: int, parts: Iterable[bytes]) -> Iterator[bytes]:
    piece = b"".join([b"%d\n" % size, *parts])
    return (piece[at : at + _SLICE] for at in range(0, len(piece), _SLICE))


def _take(buffer: bytearray, mark: bytes, start: int) -> tuple[bytes, bytes] | None:
    """Cut everything up to and including the line of `mark` out of `buffer`.

    Returns what stood before the mark and the rest of the mark's line, or None while that is incomplete.
    """
    at = buffer.find(mark, start)
    if at < 0:
        return None
    if mark.endswith(b"\n"):
        end = at + len(mark)
        rest = b""
    else:
        end = buffer.find(b"\n", at + len(mark)) + 1
        if end == 0:
            return None
        rest = bytes(buffer[at + len(mark) : end - 1])
    before = bytes(buffer[:at])
    del buffer[:end]
    return before, rest
