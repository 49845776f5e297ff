"""How big transfers are cut: every byte once, and never more channels than there is room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib.transport import slices
from batchlib.transport.slices import BLOCK, MIB, Slice

sizes = st.integers(0, 40 * BLOCK) | st.integers(0, 1 << 40)


def covered(parts: list[Slice]) -> dict[int, list[tuple[int, int]]]:
    """For each file the ranges that are covered, neighbours joined; nothing may be covered twice."""
    found: dict[int, list[tuple[int, int]]] = {}
    for part in sorted(parts, key=lambda part: (part.file, part.offset)):
        ranges = found.setdefault(part.file, [])
        assert part.size > 0
        if ranges and ranges[-1][1] == part.offset:
            ranges[-1] = (ranges[-1][0], part.end)
        else:
            assert not ranges or ranges[-1][1] < part.offset
            ranges.append((part.offset, part.end))
    return found


@given(st.lists(st.integers(0, 40 * BLOCK), max_size=5), st.integers(1, 8))
def test_slices_cover_files_exactly(files: list[int], channels: int) -> None:
    whole = [Slice(number, 0, size) for number, size in enumerate(files) if size]
    found = list(slices.plan(whole, channels))
    assert covered(found) == {part.file: [(0, part.size)] for part in whole}
    assert all(part.offset % BLOCK == 0 and part.size <= slices.LONGEST for part in found)


@given(st.integers(1, 40 * BLOCK), st.lists(st.booleans(), max_size=40), st.integers(1, 8))
def test_slices_cover_exactly_what_is_missing(size: int, there: list[bool], channels: int) -> None:
    missing = slices.missing_parts(3, size, there)
    found = {
        number
        for part in slices.plan(missing, channels)
        for number in range(part.offset // BLOCK, slices.blocks(part.end))
    }
    kept = {number for number, same in enumerate(there) if same}
    assert found == set(range(slices.blocks(size))) - kept
    assert covered(missing) == covered(list(slices.plan(missing, channels)))


def test_the_last_slices_are_short_where_several_channels_share_the_work() -> None:
    found = list(slices.plan([Slice(0, 0, 1024 * MIB)], 6))
    assert found[0].size == slices.LONGEST
    assert [part.size for part in found[-6:]] == [BLOCK] * 6


def test_a_size_that_is_a_lie_costs_no_memory() -> None:
    parts = slices.plan([Slice(0, 0, (1 << 63) - 1)], 6)
    assert [next(parts).size for _ in range(3)] == [slices.LONGEST] * 3


@given(st.floats(0, 10), sizes, st.integers(0, 20))
def test_channels_leave_room_for_others(round_trip: float, size: int, room: int) -> None:
    downloads, window = slices.download_channels(round_trip, size, room)
    for channels in (slices.upload_channels(round_trip, size, room), downloads):
        assert 1 <= channels <= max(1, min(room - 1, slices.MOST_CHANNELS, slices.blocks(size)))
    assert slices.SERVER_WINDOW <= window <= slices.WIDEST


@pytest.mark.parametrize(
    ("milliseconds", "up", "down", "window"), [(0, 1, 1, 2), (1, 1, 1, 2), (20, 6, 4, 4), (100, 6, 6, 13)]
)
def test_longer_links_get_more_channels_and_wider_windows(milliseconds: int, up: int, down: int, window: int) -> None:
    size = 1024 * MIB
    assert slices.upload_channels(milliseconds / 1000, size, 8) == up
    channels, bytes_under_way = slices.download_channels(milliseconds / 1000, size, 8)
    assert (channels, round(bytes_under_way / MIB)) == (down, window)
