"""Parts of the commands that are functions from text to values."""

from __future__ import annotations

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchlib.cli.gsub import read_files, read_moment, read_outputs
from batchlib.cli.gtail import harmless, start_of_last_lines
from batchlib.cli.output import clean, table
from batchlib.cli.selection import select_ids
from batchlib.errors import InvalidValue, TaskNotFound


@settings(deadline=None)
@given(st.binary(max_size=400).map(lambda data: data.replace(b"\x00", b"\n")), st.integers(0, 12), st.integers(1, 9))
def test_last_lines_are_those_of_tail(data: bytes, lines: int, page: int) -> None:
    import batchlib.cli.gtail as gtail

    usual, gtail._PAGE = gtail._PAGE, page
    try:
        start = start_of_last_lines(lambda offset, size: data[offset : offset + size], len(data), lines)
    finally:
        gtail._PAGE = usual
    parts = data.split(b"\n")
    ended = [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    assert data[start:] == b"".join(ended[len(ended) - min(lines, len(ended)) :])


@settings(deadline=None)
@given(st.text(alphabet="a\x1b[]0;m\x07\\\r\n\tP\x9b", max_size=60), st.lists(st.integers(0, 60)))
def test_harmless_text_is_the_same_however_it_is_cut(text: str, cuts: list[int]) -> None:
    whole, rest = harmless(text)
    assert not set(whole) & set("\x1b\x07\r\x9b")
    shown, kept, last = "", "", 0
    for cut in [*sorted(cuts), len(text)]:
        piece, kept = harmless(kept + text[last : max(last, cut)])
        shown += piece
        last = max(last, cut)
    assert (shown, kept) == (whole, rest)


def test_ids() -> None:
    known = [str(number) for number in range(1, 11)]
    assert select_ids(known, ["3", "5-7,1", "3"]) == ["3", "5", "6", "7", "1"]
    assert select_ids(known, ["9-99999999999"]) == ["9", "10"]
    with pytest.raises(TaskNotFound, match="12"):
        select_ids(known, ["1", "12"])
    known = ["1", "2.1", "2.2", "2.3", "4"]
    assert select_ids(known, ["2"]) == ["2.1", "2.2", "2.3"]
    assert select_ids(known, ["2.2"]) == ["2.2"]
    assert select_ids(known, ["2.2-9", "1-2"]) == ["2.2", "2.3", "1", "2.1"]
    with pytest.raises(TaskNotFound, match=r"4\.1"):
        select_ids(known, ["4.1"])
    for wrong in ("x", "1-", "-1", "3-1", "1.", "\u0661"):
        with pytest.raises((click.UsageError, TaskNotFound)):
            select_ids(known, [wrong])


def test_files(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    open("a:b", "w").close()
    assert read_files(["a:b", "x/y", "x:y", "dir/"]) == [
        ("a:b", "a:b"), ("x/y", "y"), ("x", "y"), ("dir/", "dir"),
    ]  # fmt: skip
    assert read_outputs(["a", "a/b:c", "*"]) == [("a", "a"), ("a/b", "c"), ("*", "*")]


def test_moments() -> None:
    assert read_moment("2100-01-01T00:00:00Z") == 4102444800
    assert read_moment("2100-01-01T01:00:00+01:00") == 4102444800
    for wrong in ("+2", "later", "1999-12-31"):
        with pytest.raises(InvalidValue):
            read_moment(wrong)


def test_tables_line_up_whatever_they_hold() -> None:
    lines = table(("A", "B"), [("漢字", "x"), ("a\nb", "y"), ("é", "z")])
    assert lines == ["A     B", "漢字  x", "a b   y", "é     z"]
    assert clean("\x1b[2J\udcff\t.") == "?[2J? ."
