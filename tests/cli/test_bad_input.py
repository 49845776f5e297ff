"""Whatever is wrong is told in one clear sentence, and nothing is left behind."""

from __future__ import annotations

import shlex

import pytest

from .conftest import CONFIGURATION, Said, User

#: Options of gsub that are refused before anything is connected to, what it says, and its exit status.
WRONG: list[tuple[str, str, int]] = [
    ("-i missing -- true", "the input file missing does not exist", 1),
    ("--stdin missing -- true", "the input file missing does not exist", 1),
    ("-r heer -- true", "there is no resource 'heer'; did you mean 'here'?", 1),
    ("-r off -- true", "'off' is not enabled", 1),
    ("-c 9 -- true", "cores: 9 asked for, 8 is the most here", 1),
    ("-m '3 GB' -- true", "memory: 3 GB asked for", 1),
    ("-w '3 hours' -- true", "walltime: ", 1),
    ("-w 10 -- true", "'10' is no duration: write it with its unit", 2),
    ("-w 01:30 -- true", "hours and minutes or minutes and seconds", 2),
    ("-m 2 -- true", "'2' is no amount of memory", 2),
    ("-m 1GB --memory 1GB -- true", "not both", 1),
    ("-n 0 -- true", "0 is not in the range", 2),
    ("-e NAME -- true", "'NAME' is no NAME=VALUE", 2),
    ("-e A-B=1 -- true", "'A-B' is no name for an environment variable", 1),
    ("-o ../out -- true", "'../out' leads out of the sandbox", 1),
    ("-d file/below -- true", "file is no directory", 1),
    ("--begin tomorrow -- true", "'tomorrow' is no time", 2),
    ("--begin 2001-01-01 -- true", "over already", 2),
    ("--mail-on never -- true", "'never' is none of begin, end, fail", 2),
    ("-q 'a;b' -- true", "queue 'a;b' holds characters", 1),
    ("--native oops -- true", "has to start with a dash", 1),
    ("--no-such-option -- true", "no such option", 2),
    ("", "Say the command", 2),
    ("-s 'a b' -- true", "'a b' is no name for a session", 1),
    ("-s file/session -- true", "can't be used: Not a directory", 1),
    ("-s /proc/session -- true", "can't be used", 1),
    ("--config missing.conf -- true", "cannot read the configuration file missing.conf", 1),
]
#: The same for what is found out when the resource is asked.
REFUSED: list[tuple[str, str, int]] = [
    ("-r down -- true", "cannot connect to 127.0.0.1, port 1: Connection refused", 1),
    ("-r nobody -n 3 -- true", "the host no-such-host.invalid is not known: ", 3),
    ("-r blocked -- true", "Not a directory; name another one as 'spooldir'", 1),
    ("-r unwritable -- true", "name another one as 'spooldir'", 1),
    ("-r bare -- true", "'/nonexistent' is not found", 1),
    ("-s file/session -- true", "can't be used: Not a directory", 1),
    ("-r heer -- true", "did you mean 'here'?", 1),
    ("-i missing -- true", "the input file missing does not exist", 1),
]


def one_sentence(said: Said, program: str) -> str:
    """Check that a command failed politely, and give what it said."""
    assert said.status != 0
    assert said.out == ""
    assert said.err.startswith(f"{program}: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


@pytest.fixture(autouse=True)
def trouble(user: User) -> None:
    """Resources with all kinds of trouble."""
    (user.work / "file").write_text("in the way")
    user.config.write_text(
        f"""{CONFIGURATION}
[resource/off]
type = shell
enabled = no
[resource/down]
type = shell
transport = ssh
frontend = 127.0.0.1
port = 1
[resource/nobody]
type = slurm
transport = ssh
frontend = no-such-host.invalid
[resource/blocked]
type = shell
spooldir = {user.work}/file/spool
[resource/unwritable]
type = shell
spooldir = /proc/spool
[resource/bare]
type = slurm
sbatch = /nonexistent
"""
    )


def nothing_left(user: User) -> bool:
    """Tell whether there is no trace of a task anywhere."""
    return user.remembered == 0 and user.sandboxes == [] and [path.name for path in user.work.iterdir()] == ["file"]


@pytest.mark.parametrize(("options", "sentence", "status"), WRONG, ids=[case[0] for case in WRONG])
def test_gsub_checks_all_options_first(user: User, options: str, sentence: str, status: int) -> None:
    said = user.call("gsub", *shlex.split(options))
    assert sentence in one_sentence(said, "gsub")
    assert said.status == status
    assert nothing_left(user)
    assert not list(user.home.rglob("session.db"))


@pytest.mark.parametrize(("options", "sentence", "status"), REFUSED, ids=[case[0] for case in REFUSED])
def test_gsub_keeps_nothing_that_is_refused(user: User, options: str, sentence: str, status: int) -> None:
    said = user.run("gsub", *shlex.split(options))
    assert sentence in one_sentence(said, "gsub")
    assert said.status == status
    assert nothing_left(user)


@pytest.mark.parametrize(
    ("command", "sentence", "status"),
    [
        ("gstat 7", "the session has no task 7", 1),
        ("gstat seven", "'seven' is no task id", 2),
        ("gstat 7-3", "'7-3' is no task id", 2),
        ("gstat -l AFLOAT", "'AFLOAT' is no state; there are: NEW, ", 2),
        ("gstat -n -w", "not both", 2),
        ("gstat -s nowhere", "there is no session 'nowhere'", 1),
        ("gget", "which tasks?", 2),
        ("gget -A 1", "not both", 2),
        ("gkill 1-3", "the session has no task 1-3", 1),
        ("gclean 1,2", "the session has no task 1, 2", 1),
        ("ginfo 1", "the session has no task 1", 1),
        ("gtail", "missing argument", 2),
        ("gtail -n 1 -c 1 1", "not both", 2),
        ("gwait --timeout soon", "'soon' is no duration", 2),
        ("gservers heer", "did you mean 'here'?", 1),
        ("gsession", "missing command", 2),
        ("gsession delete nowhere", "there is no session 'nowhere'", 1),
        ("gsession info -s one two", "named twice", 2),
        ("batchlib doctor heer", "did you mean 'here'?", 1),
    ],
)
def test_other_commands_refuse(user: User, command: str, sentence: str, status: int) -> None:
    program, *arguments = command.split()
    said = user.call(program, *arguments)
    assert sentence in one_sentence(said, program)
    assert said.status == status


def test_a_traceback_is_for_those_who_ask(user: User) -> None:
    user.config.write_text("[resource]\n")
    one_sentence(user.run("gsub", "--", "true"), "gsub")
    said = user.run("gsub", "-v", "--", "true")
    assert "Traceback" in said.err
    assert "ConfigurationError" in said.err


def test_a_defect_is_told_as_such(user: User) -> None:
    # a library that is broken stands for whatever nobody thought of
    (user.work / "sqlite3.py").write_text("raise ZeroDivisionError('oops')\n")
    user.environment["PYTHONPATH"] = f"{user.work}:{user.environment['PYTHONPATH']}"
    said = user.run("gstat")
    assert said.status == 125
    assert "unexpected ZeroDivisionError: oops" in one_sentence(said, "gstat")
    assert "report" in said.err


def test_a_session_that_is_no_database_is_told(user: User) -> None:
    directory = user.home / ".local/share/batchlib/sessions/default"
    directory.mkdir(parents=True)
    (directory / "session.db").write_text("not a database " * 100)
    assert "can't be opened" in one_sentence(user.run("gstat"), "gstat")


def test_warnings_are_one_line(user: User) -> None:
    user.config.write_text("[resource/here]\ntype = shell\nprologue_contents = true\n")
    said = user.run("gsub", "--dry-run", "--", "true")
    assert said.status == 0
    assert said.err == "gsub: warning: prologue_contents is spelt prologue_content\n"


def test_output_directories_that_can_not_be_made_spoil_nothing(user: User) -> None:
    assert user.run("gsub", "-n", "2", "--", "echo", "hello").status == 0
    (user.work / "1").write_text("in the way")
    waited = user.run("gwait")
    assert waited.status >= 1
    fetched = user.run("gget", "1", "2")
    assert fetched.status == 1
    assert "1: the directory" in fetched.err
    assert (user.work / "2/stdout.txt").read_text() == "hello\n"
    # what was not fetched is not thrown away
    refused = user.run("gclean", "1")
    assert refused.status == 1
    assert "its outputs were not fetched" in refused.err
    assert user.run("gget", "-d", "elsewhere", "1").status == 0
    assert (user.work / "elsewhere/stdout.txt").read_text() == "hello\n"
    assert user.run("gclean", "1", "2").status == 0
