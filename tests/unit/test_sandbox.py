"""The job's directory on the cluster: its name, what goes in, what comes out, and what its status file tells."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlib import sandbox
from batchlib.application import Application
from batchlib.errors import InvalidValue
from batchlib.sandbox import Status, parse_status, statuses
from batchlib.transport.archive import Entry, pack
from batchlib.transport.unpacking import unpack

TOKEN = "bcdfghjkmnpqrstv"


# --- names --------------------------------------------------------------------------------------------------------


def test_tokens_are_unique_and_plain() -> None:
    tokens = {sandbox.new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    for token in tokens:
        assert re.fullmatch(r"b[a-z2-9]{15}", token)
        assert sandbox.check_token(token) == token


@pytest.mark.parametrize(
    "token", ["", ".", "..", "/", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"../{TOKEN}", f"{TOKEN}\n", "x" * 16]
)
def test_names_that_we_did_not_make_are_refused(token: str) -> None:
    with pytest.raises(InvalidValue):
        sandbox.check_token(token)


@given(st.text(max_size=80), st.integers(16, 100))
def test_names_in_the_queue_are_safe_and_end_in_the_token(jobname: str, length: int) -> None:
    name = sandbox.unique_name(jobname, TOKEN, length)
    assert re.fullmatch(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*\.)?" + TOKEN, name)
    assert len(name) <= length


def test_names_in_the_queue_can_be_read() -> None:
    assert sandbox.unique_name("my job #7", TOKEN, 60) == f"my_job_7.{TOKEN}"
    assert sandbox.unique_name("a" * 100, TOKEN, 30) == f"{'a' * 13}.{TOKEN}"
    assert sandbox.unique_name("a" * 100, TOKEN, 16) == TOKEN
    assert sandbox.unique_name("☃", TOKEN, 60) == TOKEN


# --- what goes in -------------------------------------------------------------------------------------------------


def test_all_that_a_job_needs(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").write_text("x")
    (tmp_path / "in").write_text("stdin")
    app = Application(
        "./bin/run",
        inputs={str(tmp_path / "run"): "bin/run", str(tmp_path / "data"): "deep/er/data"},
        stdin=tmp_path / "in",
        stdout="logs/out",
        stderr="logs/err",
    )
    entries = [*sandbox.root_entries(TOKEN, "script"), *sandbox.input_entries(app, TOKEN)]
    assert len({entry.name for entry in entries}) == len(entries), "nothing is sent twice"
    target = tmp_path / "spool"
    unpack(pack(entries), lambda name: target / name)
    box = target / TOKEN
    assert (box / ".batchlib/script").read_text() == "script"
    assert (box / ".batchlib/script").stat().st_mode & 0o777 == 0o700
    assert (box / ".batchlib/stdin").read_text() == "stdin"
    assert (box / "bin/run").stat().st_mode & 0o700 == 0o700
    assert (box / "deep/er/data/x").read_text() == "x"
    assert (box / "logs").is_dir()


def test_only_the_command_is_made_executable(tmp_path: Path) -> None:
    for name in ("run", "other"):
        (tmp_path / name).touch(mode=0o644)
    paths = [str(tmp_path / "run"), str(tmp_path / "other")]
    for command, executable in (("./run", True), ("run", False), ("/run", False), ("./other/run", False)):
        entries = {entry.name: entry for entry in sandbox.input_entries(Application([command], inputs=paths), TOKEN)}
        mode = entries[f"{TOKEN}/run"].mode
        assert (mode is not None and mode & 0o100 == 0o100) is executable
        assert entries[f"{TOKEN}/other"] == Entry(f"{TOKEN}/other", tmp_path / "other")


# --- what comes out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "places"),
    [
        ([], {"stdout.txt": "stdout.txt", "stderr.txt": "stderr.txt", "other": None, "stdout.txt.bak": None}),
        (["a"], {"a": "a", "a/b": "a/b", "ab": None, "b/a": None}),
        (["./d/"], {"d": "d", "d/e/f": "d/e/f", "dd": None}),
        ([("a", "x/y")], {"a": "x/y", "a/b": "x/y/b", "x/y": None}),
        ([("d", ".")], {"d/e": "./e", "d": "."}),
        ([("d", "all"), ("d/e", "one")], {"d/x": "all/x", "d/e": "one", "d/e/f": "one/f", "d/ef": "all/ef"}),
        ([("stdout.txt", "log")], {"stdout.txt": "log"}),
        ("*", {"a": "a", "a/b": "a/b", "stdout.txt": "stdout.txt"}),
        (["*", ("a", "b")], {"a": "b", "a/x": "b/x", "c": "c"}),
        ([("*", "all")], {"a/x": "all/a/x"}),
    ],
)
def test_where_outputs_go(outputs: object, places: dict[str, str | None]) -> None:
    app = Application("x", outputs=outputs)  # type: ignore[arg-type]
    assert {member: sandbox.local_name(app, member) for member in places} == places
    for ours in (".batchlib", ".batchlib/status"):
        assert sandbox.local_name(app, ours) is None
    assert (sandbox.local_name(app, ".batchlibrary") is None) is ("*" not in app.outputs)


def test_outputs_that_did_not_come() -> None:
    app = Application("x", outputs=["a", "d/", ("e", "f"), "*", "g"])
    assert sandbox.missing(app, ["a", "d/x", "stdout.txt", "gg"]) == ["e", "g"]
    assert sandbox.missing(app, ["a", "d", "e", "g/h"]) == []


def test_joined_output_is_one_file() -> None:
    assert sandbox.wanted_outputs(Application("x", join=True)) == {"stdout.txt": "stdout.txt"}


# --- status files -------------------------------------------------------------------------------------------------

COMPLETE = (
    "code=3\nsignalled=no\ncaught=TERM\nphase=command\nstarted=5\nended=9\n"
    "host=n1\njobid=7\ntimes=\n0m0.01s 0m0.01s\n0m1.20s 1m0.30s\ncomplete=yes\n"
)


def test_a_status_file() -> None:
    status = parse_status(COMPLETE)
    assert status is not None
    assert (status.exitcode, status.signal, status.caught, status.phase) == (3, None, "TERM", "command")
    assert (status.host, status.started, status.ended) == ("n1", 5, 9)
    assert status.cpu_time is not None
    assert status.cpu_time.seconds == 61.5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("code=3\nsignalled=no", "code=137\nsignalled=yes"), (None, 9)),
        (("code=3\nsignalled=no", "code=137\nsignalled=no"), (137, None)),
        (("code=3\nsignalled=no", "code=3\nsignalled=yes"), (3, None)),
        (("0m1.20s 1m0.30s", ""), (3, None)),
        (("host=n1", "host=n1\x85complete=no"), (3, None)),
    ],
)
def test_signals_and_codes(change: tuple[str, str], expected: tuple[int | None, int | None]) -> None:
    status = parse_status(COMPLETE.replace(*change))
    assert status is not None
    assert (status.exitcode, status.signal) == expected


@pytest.mark.parametrize(
    "change",
    [("complete=yes\n", ""), ("complete=yes", "complete=no"), ("code=3", "code="), ("code=3", "code=²"),
     ("code=3", "code=300"), ("code=3", "code=-1"), ("code=3\n", ""), ("code=3", "code=" + "9" * 5000)],
)  # fmt: skip
def test_what_is_not_complete_is_no_status(change: tuple[str, str]) -> None:
    assert parse_status(COMPLETE.replace(*change)) is None


def test_every_part_of_a_status_file_is_no_status() -> None:
    for length in range(len(COMPLETE) - 1):
        assert parse_status(COMPLETE[:length]) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0m1.20s 0m0.30s", 1.5),
        ("0m1,20s 0m0,30s", 1.5),
        ("1m1s 0m0s", 61),
        ("0m1.20s", None),
        ("nonsense", None),
        (f"{'9' * 400}m1s 0m1s", None),
    ],
)
def test_processor_time(text: str, seconds: float | None) -> None:
    status = parse_status(COMPLETE.replace("0m1.20s 1m0.30s", text))
    assert status is not None
    assert (status.cpu_time.seconds if status.cpu_time else None) == seconds


lines = st.sampled_from(
    ["code=", "code=0", "signalled=yes", "complete=yes", "times=", "0m1s 0m1s", "=", "@", TOKEN, "9" * 30, "²"]
)


@given(st.text() | st.lists(lines | st.text(max_size=5)).map("\n".join))
def test_no_text_breaks_the_parsers(text: str) -> None:
    status = parse_status(text)
    if status is not None:
        assert (status.exitcode is None) is (status.signal is not None)
        assert status.signal is None or 0 < status.signal < 128
    for token, found in statuses(text).items():
        assert sandbox.check_token(token)
        assert isinstance(found, Status)


# --- programs -----------------------------------------------------------------------------------------------------


def run(text: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def make(spool: Path, *tokens: str) -> None:
    for token in tokens:
        (spool / token / ".batchlib").mkdir(parents=True)


def test_status_files_of_many_jobs_are_read_at_once(tmp_path: Path) -> None:
    spool = tmp_path / "spo ol"
    tokens = [sandbox.new_token() for _ in range(4)]
    make(spool, *tokens[:3])
    (spool / tokens[0] / ".batchlib/status").write_text(COMPLETE)
    (spool / tokens[1] / ".batchlib/status").write_text(COMPLETE.replace("code=3", "code=4"))
    answer = run(sandbox.status_program(shlex.quote(str(spool)), tokens))
    assert answer.returncode == 0
    assert {token: status.exitcode for token, status in statuses(answer.stdout).items()} == {tokens[0]: 3, tokens[1]: 4}
    assert run(sandbox.status_program(str(tmp_path / "none"), tokens)).returncode


def test_sandboxes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    gone, kept, missing = (sandbox.new_token() for _ in range(3))
    make(spool, gone, kept)
    (tmp_path / "precious").mkdir()
    (spool / gone / "link").symlink_to(tmp_path / "precious")
    (spool / gone / "-rf").touch()
    answer = run(sandbox.remove_program(str(spool), [gone, missing]))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert [path.name for path in spool.iterdir()] == [kept]
    assert (tmp_path / "precious").exists()


def test_the_directory_of_an_array_goes_with_its_last_element(tmp_path: Path) -> None:
    root = sandbox.new_token()
    make(tmp_path, root, f"{root}/1", f"{root}/12")
    assert run(sandbox.remove_program(str(tmp_path), [f"{root}/1"])).returncode == 0
    assert (tmp_path / root / "12").is_dir()
    assert run(sandbox.remove_program(str(tmp_path), [f"{root}/12"])).returncode == 0
    assert not (tmp_path / root).exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_what_a_job_made_read_only_is_removed_and_what_can_not_be_is_told() -> None:
    # not below the directory of the tests, which nobody else may enter
    with tempfile.TemporaryDirectory() as directory:
        spool = Path(directory)
        locked, foreign = sandbox.new_token(), sandbox.new_token()
        make(spool, locked, foreign)
        for path in (spool, spool / locked, spool / locked / ".batchlib"):
            os.chown(path, 65534, 65534)
        (spool / locked / ".batchlib/file").touch()
        (spool / locked / ".batchlib").chmod(0o500)
        (spool / locked).chmod(0o500)
        (spool / foreign / "file").touch()
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        assert run(sandbox.remove_program(directory, [locked]), **nobody).returncode == 0
        answer = run(sandbox.remove_program(directory, [foreign]), **nobody)
        assert answer.returncode != 0
        assert "not permitted" in answer.stderr or "denied" in answer.stderr
        assert [path.name for path in spool.iterdir()] == [foreign]
