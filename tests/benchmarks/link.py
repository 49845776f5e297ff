"""A link with a delay in front of a server: what goes in at one end comes out at the other a while later.

It runs in a process of its own, so that it does not compete with what is measured for one interpreter. A link
delays, and does nothing else: no bytes are lost and the bandwidth is that of the machine.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

_PIECE = 1 << 20
#: Bytes on their way in one direction, as much as a fast link of some 300 ms holds.
_ON_THE_WAY = 256 << 20


@contextlib.contextmanager
def delayed_link(host: str, port: int, milliseconds: float) -> Iterator[int]:
    """Put a link in front of a server.

    Parameters
    ----------
    host, port : str, int
        The server.
    milliseconds : float
        Time that a question and its answer take together; half of it in each direction. Without any delay there is
        no link at all.

    Yields
    ------
    int
        The port to connect to, on ``127.0.0.1``.
    """
    if not milliseconds:
        yield port
        return
    command = [sys.executable, "-m", "tests.benchmarks.link", host, str(port), str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the link has no output")
            yield int(process.stdout.readline())
        finally:
            process.terminate()


class _Direction:
    """Copies from one socket to another, each piece `delay` seconds after it came."""

    def __init__(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        self._source, self._target, self._delay = source, target, delay
        self._pieces: collections.deque[tuple[float, bytes]] = collections.deque()
        self._size = 0
        self._changed = threading.Condition()
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                piece = self._source.recv(_PIECE)
            except OSError:
                piece = b""
            with self._changed:
                self._changed.wait_for(lambda: self._size < _ON_THE_WAY)
                self._pieces.append((time.monotonic() + self._delay, piece))
                self._size += len(piece)
                self._changed.notify_all()
            if not piece:
                return

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces)
                due, piece = self._pieces.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):
                if piece:
                    self._target.sendall(piece)
                else:
                    self._target.shutdown(socket.SHUT_WR)
            with self._changed:
                self._size -= len(piece)
                self._changed.notify_all()
            if not piece:
                return


def main() -> None:
    """Serve until killed; print the port first."""
    host, port, milliseconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            upstream = socket.create_connection((host, port))
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Direction(client, upstream, milliseconds / 2000)
            _Direction(upstream, client, milliseconds / 2000)


if __name__ == "__main__":
    main()
