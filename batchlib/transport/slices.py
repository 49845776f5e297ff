"""How a big transfer is cut: which bytes of which file go through a channel next, and how many channels there are.

A channel carries at most a window of bytes in one round trip. OpenSSH's server takes 2 MiB at a time, so on a long
link one channel is slow whatever the bandwidth; several channels of one connection add up. Without a delay one
channel is as fast as the machines are, and more of them only compete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

MIB = 1 << 20
#: Files with more bytes travel in slices, others in the tar stream.
BIG = 8 * MIB
#: What slices begin at a multiple of, and what is compared when a transfer is resumed.
BLOCK = 4 * MIB
#: Bytes that a slice has at most: what is under way in a file system that is slow to take it.
LONGEST = 64 * MIB
#: Bytes that an OpenSSH server takes from us before it has to say that it wants more.
SERVER_WINDOW = 2 * MIB
#: Bytes per second that are aimed at in each direction.
AIM = 800 * MIB
#: Channels of one transfer at most: a connection has room for about ten programs, and not only for us.
MOST_CHANNELS = 6
#: Bytes that may be under way to us in one channel at most: a server's work grows with the bytes that wait in it.
WIDEST = 32 * MIB


@attrs.frozen
class Slice:
    """A part of one of several files.

    Parameters
    ----------
    file : int
        Which file, counted from 0.
    offset, size : int
        Where it begins, and its length, in bytes.
    """

    file: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The byte behind it."""
        return self.offset + self.size


def plan(missing: Sequence[Slice], channels: int) -> Iterator[Slice]:
    """Cut what has to be sent: long slices first and short ones last, so that all channels end at the same time.

    Parameters
    ----------
    missing : sequence of Slice
        What has to be sent; each begins at a multiple of `BLOCK`.
    channels : int
        How many take slices in turn.

    Yields
    ------
    Slice
        Parts of `missing`, in order, that cover it exactly; each begins at a multiple of `BLOCK`.
    """
    left = sum(part.size for part in missing)
    for part in missing:
        at = part.offset
        while at < part.end:
            fair = LONGEST if channels == 1 else left // (2 * channels) // BLOCK * BLOCK
            size = min(max(fair, BLOCK), LONGEST, part.end - at)
            yield Slice(part.file, at, size)
            at += size
            left -= size


def blocks(size: int) -> int:
    """Count the blocks of a file of `size` bytes."""
    return -(-size // BLOCK)


def missing_parts(file: int, size: int, there: Sequence[bool]) -> list[Slice]:
    """Put the blocks together that are not there.

    Parameters
    ----------
    file, size : int
        Which file, and its length in bytes.
    there : sequence of bool
        For each block from the first on whether it is there; those behind the last one are not.
    """
    found: list[Slice] = []
    start = 0
    for number in range(len(there) + 1):
        kept = number < len(there) and there[number]
        if kept or number == len(there):
            end = min(number * BLOCK, size) if kept else size
            if end > start:
                found.append(Slice(file, start, end - start))
            start = min((number + 1) * BLOCK, size)
    return found


def upload_channels(round_trip: float, size: int, room: int) -> int:
    """Choose how many channels an upload takes.

    Parameters
    ----------
    round_trip : float
        Seconds to the machine and back.
    size : int
        Bytes to send.
    room : int
        Programs that can be started there now.
    """
    return _channels(AIM * round_trip / SERVER_WINDOW, size, room)


def download_channels(round_trip: float, size: int, room: int) -> tuple[int, int]:
    """Choose how many channels a download takes, and the window of each in bytes.

    Parameters are those of `upload_channels`.
    """
    channels = _channels(AIM * round_trip / (2 * SERVER_WINDOW), size, room)
    return channels, window(round_trip / channels)


def window(round_trip: float) -> int:
    """Choose the bytes that may be under way to us in one channel: enough, and no more."""
    return min(max(int(AIM * round_trip), SERVER_WINDOW), WIDEST)


def _channels(wanted: float, size: int, room: int) -> int:
    # room for a shell and somebody else's program is left
    return max(1, min(round(wanted), MOST_CHANNELS, room - 1, blocks(size)))
