"""Helpers to talk to a program through a pipe."""

from __future__ import annotations

import threading
import time

import attrs

from batchlib.errors import ConnectionLost
from batchlib.transport.base import STDERR, STDOUT, Carrier, Pipe


@attrs.frozen
class Answer:
    """What a program printed, and how it ended: None when its end mark is missing, as after a loss."""

    out: bytes
    err: bytes
    code: int | None


def run(carrier: Carrier, command: str, data: bytes = b"", *, seconds: float = 60) -> Answer:
    """Run a command, feed it, and collect all it says."""
    pipe = carrier.open(f"exec /bin/sh -c '{command}; echo END $? >&2'")
    try:
        return finish(pipe, data, seconds=seconds)
    finally:
        pipe.close()


def finish(pipe: Pipe, data: bytes = b"", *, seconds: float = 60) -> Answer:
    """Feed a program and collect all it says from here on."""
    feeder = threading.Thread(target=_feed, args=(pipe, data), daemon=True)
    feeder.start()
    said = {STDOUT: bytearray(), STDERR: bytearray()}
    ended: set[int] = set()
    deadline = time.monotonic() + seconds
    while len(ended) < 2:
        got = pipe.read(max(0.0, deadline - time.monotonic()))
        if got is None:
            raise TimeoutError(f"nothing more came; so far {said[STDOUT][-200:]!r}, {said[STDERR][-200:]!r}")
        stream, chunk = got
        if chunk:
            said[stream] += chunk
        else:
            assert stream not in ended, "the end of a stream is told once"
            ended.add(stream)
    feeder.join(seconds)
    assert not feeder.is_alive(), "a writer hangs after the end of its program"
    err, mark, code = bytes(said[STDERR]).rpartition(b"END ")
    if mark and code.strip().isdigit():
        return Answer(bytes(said[STDOUT]), err, int(code))
    return Answer(bytes(said[STDOUT]), bytes(said[STDERR]), None)


def _feed(pipe: Pipe, data: bytes) -> None:
    try:
        pipe.write(data)
        pipe.close_stdin()
    except ConnectionLost:
        return


def wait_for_output(pipe: Pipe, wanted: bytes, *, seconds: float = 30) -> bytes:
    """Read until a program has printed something."""
    said = b""
    deadline = time.monotonic() + seconds
    while wanted not in said:
        got = pipe.read(max(0.0, deadline - time.monotonic()))
        if got is None or not got[1]:
            raise TimeoutError(f"{wanted!r} did not come, only {said!r}")
        said += got[1]
    return said
