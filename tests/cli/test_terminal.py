"""What commands do on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time
from pathlib import Path

from .conftest import PATIENCE, User

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(user: User, program: str, *arguments: str, columns: int = 120, **options: object) -> tuple[int, str]:
    """Run a command on a terminal of its own; give its exit status and what appeared."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    user.environment["TERM"] = "xterm"
    process = user.start(program, *arguments, stdin=theirs, stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    return process.wait(10), shown.decode().replace("\r\n", "\n")


def test_a_table_has_colours_and_fits(user: User) -> None:
    user.call("gsub", "-W", "-N", "a name that is longer than any column should be", "--", "true")
    status, shown = on_terminal(user, "gstat", columns=70)
    assert status == 0
    assert "\x1b[32mDONE\x1b[0m" in shown
    plain = ESCAPE.sub("", shown).splitlines()
    assert max(map(len, plain)) <= 70
    assert "…" in plain[1]
    user.environment["NO_COLOR"] = "1"
    assert "\x1b" not in on_terminal(user, "gstat")[1]
    # none of that where nobody looks
    said = user.call("gstat")
    assert "\x1b" not in said.out
    assert "a name that is longer than any column should be" in said.out


def test_the_hint_after_a_submission_is_for_people(user: User) -> None:
    status, shown = on_terminal(user, "gsub", "-n", "2", "--", "true")
    assert status == 0
    assert shown.startswith("1\n2\ngsub: 'gstat 1-2'")
    assert user.call("gsub", "--", "true").err == ""


def test_watching_until_the_end(user: User) -> None:
    task = user.submit("--", "sleep", "6")
    status, shown = on_terminal(user, "gstat", "-w")
    assert status == 0
    assert "RUNNING" in shown
    last = ESCAPE.sub("", shown).splitlines()
    assert last[-1] == "1 task: 1 DONE"
    assert last[-2].split()[:3] == [task, "sleep", "DONE"]
    # without a terminal there is one table, at the end
    assert user.call("gstat", "-w").out.count("STATE") == 1


def test_waiting_shows_a_bar(user: User) -> None:
    status, shown = on_terminal(user, "gsub", "-W", "--", "sleep", "0.5")
    assert status == 0
    assert "1/1" in shown
    assert "━" in shown


def test_output_of_tasks_moves_no_cursor(user: User) -> None:
    text = "plain\\ttab\\033[2Jcleared\\033]0;title\\007 bell\\007\\b\\r\\nnext \\303\\251\\n"
    user.call("gsub", "-W", "-N", "odd\x1b[2Jname", "--", "printf", text)
    raw = user.run("gtail", "1", text=False)
    status, shown = on_terminal(user, "gtail", "1")
    assert status == 0
    assert shown.replace(" " * 3, "\t") == "plain\ttabcleared bell\nnext é\n"
    assert raw.out == b"plain\ttab\x1b[2Jcleared\x1b]0;title\x07 bell\x07\b\r\nnext \xc3\xa9\n"
    assert "\x1b" not in user.call("gstat").out


def test_a_password_is_asked_for_only_where_somebody_can_answer(user: User, tmp_path: Path) -> None:
    from tests.fakes.frontend import Frontend

    remote = tmp_path / "remote"
    remote.mkdir()
    with Frontend(remote, password="open sesame") as frontend:
        (user.home / "known").write_text(frontend.known_hosts_line)
        user.config.write_text(
            f"[resource/far]\ntype = shell\ntransport = ssh\nfrontend = {frontend.host}\nport = {frontend.port}\n"
            f"username = {frontend.user}\nssh_config = none\nknown_hosts = {user.home}/known\n"
        )
        nobody = user.call("gsub", "--", "true")
        assert nobody.status == 1
        assert "password" in nobody.err
        assert user.call("gstat", "--json").document["tasks"] == []
        assert answer_prompt(user, "open sesame", "gsub", "-N", "asked", "--", "true") == 0
        assert user.call("gstat", "-n", "--json").document["tasks"][0]["name"] == "asked"


def answer_prompt(user: User, answer: str, program: str, *arguments: str) -> int:
    """Run a command on a terminal that controls it, and type an answer when it asks for something."""
    import sys

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(user.work)
        os.execve(sys.executable, [sys.executable, "-m", f"batchlib.cli.{program}", *arguments], user.environment)
    shown = b""
    typed = False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
        if not typed and b"assword" in shown:
            os.write(terminal, f"{answer}\n".encode())
            typed = True
    os.close(terminal)
    assert answer.encode() not in shown
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


TRANSFER = """
from batchlib import events
from batchlib.cli import progress
progress._MOMENT = -1
with progress.progress_bar():
    for done in range(0, 101):
        events.transfer_advanced.send("site", name="big file", done=done * 10**6, total=10**8)
"""


def test_a_long_transfer_shows_a_bar_that_goes() -> None:
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", TRANSFER])
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 65536):
            shown += chunk
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lines = ESCAPE.sub("", shown.decode()).replace("\r", "\n").split("\n")
    assert any("big file: " in line and " of 100.0 MB, " in line for line in lines)
    assert not lines[-1].strip()


ASK_AND_END = """
import sys, termios, threading
from batchlib.cli.terminal import ask_person
threading.Thread(target=ask_person, args=("Password: ", False), daemon=True).start()
while termios.tcgetattr(0)[3] & termios.ECHO:
    pass
sys.exit(130)
"""


def test_a_question_that_is_cut_short_leaves_the_terminal_as_it_was() -> None:
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", ASK_AND_END])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert termios.tcgetattr(terminal)[3] & termios.ECHO
    os.close(terminal)
