"""Parts of the commands that are functions from text to values."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchlib.cli.gsub import read_files, read_moment, read_outputs
from batchlib.cli.gtail import harmless, start_of_last_lines
from batchlib.cli.output import print_tasks, print_tasks_document, task_document
from batchlib.cli.selection import select_ids
from batchlib.cli.table import clean, table
from batchlib.errors import InvalidValue, TaskNotFound
from batchlib.run import State
from batchlib.session import Session
from batchlib.store import Row


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
    assert list(lines) == ["A     B", "漢字  x", "a b   y", "é     z"]
    assert clean("\x1b[2J\udcff\t.") == "?[2J? ."


def rows(number: int) -> list[Row]:
    """As many tasks, every third of which ended."""
    states = [State.QUEUED, State.RUNNING, State.DONE]
    return [
        Row(
            str(index), None, f"näme{index % 7}", states[index % 3], None, index % 2, None, "here", str(index * 11),
            "R", "one\ntwo", "/out", 1e9 + index, 1e9 + index / 3, 2e9, None, collected=index % 5 == 0, freed=False,
        )
        for index in range(1, number + 1)
    ]  # fmt: skip


@pytest.mark.parametrize("number", [0, 1, 2, 499, 500, 501, 1700])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_in_pieces_is_the_whole_one(
    number: int, indent: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: indent is not None)
    found = rows(number)
    counts: dict[str, int] = {}
    for row in found:
        counts[row.state.value] = counts.get(row.state.value, 0) + 1
    session = Session(tmp_path / "a]b")
    print_tasks_document(session, iter(found))
    document = {"session": session.name, "tasks": [task_document(row) for row in found], "counts": counts}
    assert capsys.readouterr().out == json.dumps(document, indent=indent) + "\n"


@pytest.mark.parametrize("number", [1, 499, 500, 1700])
def test_long_tables_line_up(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_tasks(iter(rows(number)))
    headers, *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(index) for index in range(1, number + 1)]
    assert {line.index("one two") for line in lines} == {headers.index("INFO")}
    assert summary.startswith(f"{number} task")


def test_no_tasks_are_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_tasks([])
    assert capsys.readouterr().out == "no tasks\n"
