"""What a user does from the first command to the last."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import User, poll

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_from_submission_to_cleaning(user: User) -> None:
    (user.work / "letters").write_text("abc")
    program = "cat letters; echo to stderr >&2; echo $COLOUR > made; while [ ! -f go ]; do sleep 0.1; done; echo end"
    said = user.run(
        "gsub", "-N", "work", "-n", "2", "-d", "out", "-i", "letters", "-o", "made", "-e", "COLOUR=deep blue",
        "--", "sh", "-c", program,
    )  # fmt: skip
    assert (said.status, said.out, said.err) == (0, "1\n2\n", "")

    user.wait_for("1", "RUNNING")
    user.wait_for("2", "RUNNING")
    listed = user.run("gstat", "--json")
    assert (listed.status, listed.err) == (0, "")
    assert listed.document["session"] == "default"
    assert listed.document["counts"] == {"RUNNING": 2}
    task = listed.tasks["1"]
    assert task["name"] == "work"
    assert task["resource"] == "here"
    assert task["jobid"]
    assert TIME.fullmatch(task["submitted_at"])
    assert TIME.fullmatch(task["started_at"])
    assert task["ended_at"] is None
    assert task["exitcode"] is None
    assert task["output_dir"] == str(user.work / "out/1")

    following = user.start("gtail", "-f", "1")
    for sandbox in user.spool.glob("b*"):
        (sandbox / "go").touch()
    waited = user.run("gwait", "1-2")
    assert (waited.status, waited.out, waited.err) == (0, "", "")
    assert following.communicate(timeout=30) == ("abcend\n", "")
    for number in "12":
        directory = user.work / "out" / number
        assert sorted(path.name for path in directory.iterdir()) == ["made", "stderr.txt", "stdout.txt"]
        assert (directory / "stdout.txt").read_text() == "abcend\n"
        assert (directory / "stderr.txt").read_text() == "to stderr\n"
        assert (directory / "made").read_text() == "deep blue\n"
    ended = user.task("2")
    assert (ended["state"], ended["reason"], ended["exitcode"], ended["signal"]) == ("DONE", "exited", 0, None)
    assert ended["collected"] is True

    fetched = user.run("gget", "--json", "-d", "again", "1")
    assert fetched.status == 0
    assert fetched.tasks["1"]["directory"] == str(user.work / "again")
    assert sorted(fetched.tasks["1"]["files"]) == ["made", "stderr.txt", "stdout.txt"]
    assert (user.work / "again/made").read_text() == "deep blue\n"

    cleaned = user.run("gclean", "-A")
    assert (cleaned.status, cleaned.out) == (0, "2 tasks removed\n")
    assert user.sandboxes == []
    assert user.call("gstat", "--json").document["tasks"] == []
    assert (user.work / "out/2/stdout.txt").exists()


def test_following_shows_each_byte_once(user: User) -> None:
    program = "for i in $(seq 2000); do echo line $i; [ $((i % 500)) != 0 ] || sleep 0.4; done; printf x"
    task = user.submit("--", "sh", "-c", program)
    with (user.work / "seen").open("wb") as seen:
        following = user.start("gtail", "-f", "-n", "100000", task, stdout=seen)
        assert following.wait(60) == 0
    expected = "".join(f"line {number}\n" for number in range(1, 2001)) + "x"
    assert (user.work / "seen").read_text() == expected
    # what was followed is no less to be had afterwards, in the sandbox and in the copy
    assert user.run("gtail", "-n", "2", task).out == "line 2000\nx"
    assert user.run("gwait").status == 0
    assert user.run("gtail", "-n", "3", task).out == "line 1999\nline 2000\nx"
    assert user.run("gtail", "-c", "4", task).out == "000\nx"[-4:]
    assert user.run("gtail", "-n", "0", task).out == ""
    assert user.run("gtail", "--json", "-n", "1", task).document["text"] == "x"


def test_following_from_before_the_start_to_the_end(user: User) -> None:
    task = user.submit("--", "sh", "-c", "sleep 1; echo out; echo err >&2")
    assert user.run("gtail", "-f", "-e", task).out == "err\n"
    # nobody else looked: gtail must have found out by itself, and gstat does so for the record
    assert user.task(task)["state"] == "DONE"


def test_tail_of_the_local_copy_when_the_sandbox_is_gone(user: User) -> None:
    task = user.submit("-W", "--join", "--stdout", "log", "--", "sh", "-c", "echo one; echo two >&2")
    for sandbox in user.spool.glob("b*"):
        sandbox.rename(user.home / sandbox.name)
    assert user.call("gtail", task).out == "one\ntwo\n"
    assert user.call("gtail", "-e", task).out == "one\ntwo\n"


def test_wait_fetches_and_counts_failures(user: User) -> None:
    said = user.run("gsub", "-W", "-n", "3", "-o", "result", "--", "sh", "-c", "echo said; exit 5")
    assert (said.status, said.out) == (3, "1\n2\n3\n")
    assert said.err.count("FAILED (exit code 5)") == 3
    assert said.err.count("missing outputs: result") == 3
    assert (user.work / "2/stdout.txt").read_text() == "said\n"
    task = user.task("1")
    assert (task["state"], task["exitcode"]) == ("FAILED", 5)
    assert user.run("gstat").status == 0
    # a death by signal is told apart
    task_id = user.run("gsub", "-W", "--json", "--", "sh", "-c", "kill -9 $$").document["tasks"][0]["id"]
    task = user.task(task_id)
    assert (task["state"], task["reason"], task["signal"], task["exitcode"]) == ("FAILED", "signalled", 9, None)
    assert "SIGKILL" in user.run("gstat", task_id).out


def test_wait_gives_up_after_the_timeout(user: User) -> None:
    task = user.submit("--", "sleep", "60")
    said = user.call("gwait", task, "--timeout", "1s")
    assert said.status == 1
    assert "has not ended" in said.err


def test_a_running_task_can_be_looked_into(user: User) -> None:
    task = user.submit("-o", "later", "--", "sh", "-c", "echo so far; exec sleep 60")
    user.wait_for(task, "RUNNING")
    poll(lambda: user.call("gtail", task).out)
    said = user.call("gget", "-d", "peek", task)
    assert said.status == 0
    assert "missing: later" in said.err
    assert (user.work / "peek/stdout.txt").read_text() == "so far\n"
    assert user.task(task)["collected"] is False


def test_ids_come_from_standard_input_lists_and_ranges(user: User) -> None:
    ids = user.call("gsub", "-n", "6", "--", "true").out
    assert user.run("gwait", "-", typed=ids).status == 0
    assert list(user.call("gstat", "-n", "--json", "2-4", "6,1").tasks) == ["1", "2", "3", "4", "6"]
    assert user.run("gclean", "-", typed="3\n 4\n").out == "2 tasks removed\n"
    # a range goes over what is gone, an id does not
    assert list(user.call("gstat", "-n", "--json", "1-5").tasks) == ["1", "2", "5"]
    assert user.call("gstat", "-n", "3").status == 1
    assert user.run("gkill", "-", typed="").status == 0
    # ids are never given to another task
    assert user.call("gsub", "-n", "2", "--", "true").out == "7\n8\n"


def test_states_can_be_chosen(user: User) -> None:
    user.call("gsub", "-W", "--", "true")
    user.call("gsub", "-W", "--", "false")
    assert list(user.call("gstat", "--json", "-l", "failed,lost").tasks) == ["2"]
    assert list(user.call("gstat", "--json", "-l", "ended").tasks) == ["1", "2"]
    assert user.call("gstat", "-l", "RUNNING").out == "no tasks\n"


def test_a_failed_task_is_run_again(user: User) -> None:
    counter = user.work / "counter"
    program = f"echo x >> {counter}; [ $(wc -l < {counter}) = 3 ]"
    assert user.call("gsub", "-W", "--retries", "2", "--", "sh", "-c", program).status == 0
    assert counter.read_text() == "x\nx\nx\n"


def test_arguments_and_variables_arrive_as_they_are(user: User) -> None:
    odd = ["$HOME", "a b", "*", "quo'te", 'dou"ble', "--json", "-n", "back\\slash", "new\nline", ""]
    said = user.call("gsub", "-W", "-e", "ODD=$PATH 'x' \"y\"", "printf", "%s|", *odd)
    assert said.status == 0, said.err
    assert (user.work / "1/stdout.txt").read_text() == "|".join(odd) + "|"
    user.call("gsub", "-W", "-e", "ODD=$PATH 'x'", "--", "sh", "-c", 'printf %s "$ODD"')
    assert (user.work / "2/stdout.txt").read_text() == "$PATH 'x'"


def test_standard_input_and_programs_are_sent(user: User) -> None:
    (user.work / "numbers").write_text("3\n1\n2\n")
    (user.work / "tool").write_text("#!/bin/sh\nsort\n")
    options = ("--stdin", "numbers", "-i", "tool:bin/tool", "--stdout", "sorted")
    said = user.call("gsub", "-W", *options, "--", "./bin/tool")
    assert (said.status, said.err) == (0, "")
    assert (user.work / "1/sorted").read_text() == "1\n2\n3\n"


def test_a_program_that_is_not_sent_is_remarked_upon(user: User) -> None:
    (user.work / "tool").write_text("#!/bin/sh\n")
    assert "-i tool:tool" in user.call("gsub", "--dry-run", "--", "./tool").err
    assert user.call("gsub", "--dry-run", "-i", "tool", "--", "./tool").err == ""


def test_dry_run_shows_the_script_and_does_nothing(user: User) -> None:
    user.config.write_text("[resource/cluster]\ntype = slurm\ntransport = ssh\nfrontend = no-such-host.invalid\n")
    said = user.call("gsub", "--dry-run", "-c", "3", "-w", "90 min", "-q", "long", "--hold", "--", "./simulate")
    assert (said.status, said.err) == (0, "")
    for line in ("--time=90", "--partition=long", "--hold", "./simulate"):
        assert line in said.out
    assert not (user.home / ".local").exists()
    assert user.call("gsub", "--dry-run", "--json", "--", "true").document["resource"] == "cluster"


def test_info_tells_everything(user: User) -> None:
    user.call("gsub", "-W", "-N", "odd job", "-m", "1 GB", "-w", "1 hour", "-e", "A=b", "--", "echo", "two words")
    said = user.call("ginfo", "--json", "-v", "1")
    task = said.tasks["1"]
    assert task["command"] == "echo 'two words'"
    assert task["requested"]["memory_per_core"] == "1 GB"
    assert task["environment"] == {"A": "b"}
    assert task["sandbox"].startswith("$HOME/.batchlib/b")
    assert task["accounting"]["hosts"]
    assert task["history"][0]["text"] == "submitting to here"
    assert "'two words'" in task["script"]
    text = user.call("ginfo", "1").out
    for part in ("state: DONE", "name: odd job", "command: echo 'two words'", "history:"):
        assert part in text
    assert "script:" not in text


def test_sessions_are_apart(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    user.submit("-s", "one", "--", "true")
    user.submit("-s", str(user.work / "two"), "--", "true")
    monkeypatch.setenv("BATCHLIB_SESSION", "one")
    assert user.call("gstat", "--json", "-n").document["session"] == "one"
    listed = user.call("gsession", "list", "--json").document["sessions"]
    assert [session["name"] for session in listed] == ["one"]
    assert user.call("gwait").status == 0
    assert user.call("gstat", "-n", "--json", "-s", "./two").document["counts"] == {"QUEUED": 1}
    assert user.call("gwait", "-s", "./two").status == 0


def test_session_commands(user: User) -> None:
    user.call("gsub", "-W", "--", "true")
    user.submit("--", "sleep", "60")
    log = user.call("gsession", "log").out.splitlines()
    assert log[0].endswith("  1  submitting to here")
    times = [line[:19] for line in log]
    assert times == sorted(times)
    info = user.call("gsession", "info", "--json").document
    assert sum(info["counts"].values()) == 2
    assert info["driven_by"] is None
    kept = user.call("gsession", "delete")
    assert kept.status == 1
    assert "2: it has not ended" in kept.err
    assert user.call("gsession", "abort").out == "2: done\n"
    assert user.call("gsession", "run").status == 1
    assert user.task("2", "-n")["state"] == "CANCELLED"
    assert user.call("gsession", "delete", "-f", "default").status == 0
    assert user.sandboxes == []
    assert user.call("gsession", "list").out == "no sessions\n"
    assert (user.work / "1/stdout.txt").exists()


def test_run_once_is_one_cycle(user: User) -> None:
    task = user.submit("--", "sleep", "60")
    assert user.run("gsession", "run", "--once").status == 0
    assert user.task(task, "-n")["state"] == "RUNNING"


def test_servers(user: User) -> None:
    with user.config.open("a") as file:
        file.write("[resource/down]\ntype = shell\ntransport = ssh\nfrontend = 127.0.0.1\nport = 1\n")
        file.write("[resource/off]\ntype = shell\nenabled = no\n")
    user.submit("-c", "3", "--", "sleep", "60")
    said = user.run("gservers", "--json")
    assert said.status == 1
    here, down, off = said.document["resources"]
    assert (here["cores"], here["free_cores"], here["own_running"], here["error"]) == (64, 61, 1, None)
    assert "Connection refused" in down["error"]
    assert (off["enabled"], off["error"]) == (False, None)
    table = user.run("gservers")
    assert "here" in table.out
    assert table.err.startswith("gservers: down: ")
    assert user.call("gservers", "here").status == 0


def test_configuration_is_shown_without_secrets(user: User) -> None:
    user.config.write_text(
        "[auth/a]\ntype = ssh\nusername = me\npassword_command = pass show cluster\n"
        "[resource/cluster]\ntype = slurm\ntransport = ssh\nauth = a\nfrontend = login.example.org\n"
        "prologue_content = export API_TOKEN=abc123\nqueue = batch # the big one\n"
    )
    said = user.call("batchlib", "config")
    assert said.status == 0
    assert f"# {user.config}: read" in said.out
    assert "/etc/batchlib/batchlib.conf" in said.out
    assert "queue = batch\n" in said.out
    assert "abc123" not in said.out
    assert "pass show" not in said.out
    document = user.call("batchlib", "config", "--json").document
    assert document["resources"]["cluster"]["username"] == "me"
    assert document["resources"]["cluster"]["password_command"] == "(hidden)"
    user.config.write_text("[resource/cluster]\ntype = slurm\nqeue = batch\n")
    wrong = user.call("batchlib", "config")
    assert wrong.status == 1
    assert "'qeue'; did you mean 'queue'?" in wrong.err


def test_without_any_configuration_there_is_this_machine(user: User) -> None:
    user.config.unlink()
    assert user.call("gsub", "-W", "--", "true").status == 0
    assert user.task("1")["resource"] == "localhost"


@pytest.mark.parametrize("program", ["gstat", "ginfo"])
def test_a_reader_that_goes_away_is_no_error(user: User, program: str) -> None:
    assert user.call("gsub", "-W", "-n", "40", "--", "true").status == 0
    process = user.start(program, *(["-A"] if program == "ginfo" else ["-n"]))
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_output_that_can_not_be_written_is_an_error(user: User) -> None:
    with open("/dev/full", "w") as full:
        said = user.run("gstat", "--json", stdout=full)
    assert (said.status, said.err) == (1, "gstat: the output can't be written: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(user: User, closed: str) -> None:
    user.config.write_text("[resource/here]\ntype = shell\nprologue_contents = true\n")
    command = f'exec "$0" -m batchlib.cli.gsub --dry-run true {closed}'
    said = subprocess.run(["sh", "-c", command, sys.executable], env=user.environment, capture_output=True, text=True)
    assert said.returncode == 0
    # what belongs on one stream does not turn up on the other
    assert "warning" not in said.stdout
    assert said.stderr in ("", "gsub: warning: prologue_contents is spelt prologue_content\n")
