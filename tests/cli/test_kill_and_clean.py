"""Cancelling tasks, and removing them."""

from __future__ import annotations

import os
from pathlib import Path

from .conftest import User, poll


def test_kill_tells_for_each_task_how_it_went(user: User) -> None:
    user.config.write_text("[resource/here]\ntype = shell\nmax_cores = 2\n")
    ended = user.run("gsub", "-W", "--", "true").out.strip()
    running = user.submit("--", "sh", "-c", "echo $$ > pid; exec sleep 1000")
    user.submit("--", "sleep", "1000")
    pid = int(poll(lambda: [file.read_text() for file in user.spool.glob("*/pid")])[0])
    # there is no room for a third: it stays in the session, and is submitted when there is
    third = user.run("gsub", "--", "true")
    assert (third.status, third.out) == (0, "4\n")
    assert "submitted by the next gstat or gwait" in third.err
    assert user.task("4", "-n")["state"] == "NEW"

    said = user.run("gkill", "--json", ended, running, "4")
    assert said.status == 0
    assert [task["outcome"] for task in said.document["tasks"]] == ["already ended", "done", "done"]
    task = user.wait_for(running, "CANCELLED")
    assert task["reason"] == "cancelled-by-user"
    assert not Path(f"/proc/{pid}").exists()
    assert user.task("4")["state"] == "CANCELLED"
    assert user.run("gkill", "-A").out == "1: already ended\n2: already ended\n3: done\n4: already ended\n"


def test_kill_of_what_can_not_be_reached_is_unknown(user: User) -> None:
    task = user.submit("--", "sleep", "1000")
    settings = user.config.read_text()
    user.config.write_text("[resource/here]\ntype = shell\ntransport = ssh\nfrontend = 127.0.0.1\nport = 1\n")
    said = user.call("gkill", task)
    assert said.status == 1
    assert said.out.startswith("1: unknown (here: cannot connect to 127.0.0.1")
    shown = user.call("gstat")
    assert shown.status == 0
    assert "shown as last known" in shown.err
    assert "QUEUED" in shown.out
    user.config.write_text("[resource/other]\ntype = shell\n")
    assert "there is no resource 'here'" in user.call("gkill", task).out
    assert "there is no resource 'here'" in user.call("gstat").err
    user.config.write_text(settings)
    assert user.call("gkill", task).out == "1: done\n"


def test_clean_spares_what_somebody_may_want(user: User) -> None:
    fetched = user.run("gsub", "-W", "--", "echo", "done").out.strip()
    waiting = user.submit("--", "true")
    user.wait_for(waiting, "DONE")
    running = user.submit("--", "sleep", "1000")
    left = user.run("gclean", "--json", fetched, waiting, running)
    assert left.status == 2
    assert left.document["removed"] == [fetched]
    assert f"{waiting}: its outputs were not fetched" in left.err
    assert f"{running}: it has not ended" in left.err
    every = user.run("gclean", "-A")
    assert every.status == 1
    assert "left alone, as they have not ended: 1 task" in every.err
    assert user.run("gclean", "-A", "-f").out == "2 tasks removed\n"
    assert user.sandboxes == []
    assert (user.work / fetched / "stdout.txt").read_text() == "done\n"
    assert not (user.work / waiting).exists()


def test_clean_of_a_task_that_was_never_submitted(user: User) -> None:
    user.config.write_text("[resource/here]\ntype = shell\nmax_cores = 1\n")
    user.submit("--", "sleep", "1000")
    user.submit("--", "true")
    assert user.call("gclean", "2").status == 1
    assert user.call("gclean", "-f", "2").status == 0
    assert list(user.call("gstat", "-n", "--json").tasks) == ["1"]


def test_what_was_fetched_or_cleaned_is_not_fetched_again(user: User) -> None:
    user.call("gsub", "-n", "2", "-W", "--", "echo", "new")
    (user.work / "1/stdout.txt").write_text("changed")
    assert user.call("gget", "-A").out == ""
    assert (user.work / "1/stdout.txt").read_text() == "changed"
    os.utime(user.work / "2/stdout.txt", (0, 0))
    assert user.call("gget", "-f", "1", "2").status == 0
    assert (user.work / "1/stdout.txt").read_text() == "new\n"


def test_missing_outputs_are_named(user: User) -> None:
    user.submit("-o", "made", "-o", "forgotten", "--", "touch", "made")
    user.wait_for("1", "DONE")
    said = user.call("gget", "--json", "1")
    assert said.status == 1
    assert said.err == "gget: 1: missing: forgotten\n"
    assert said.tasks["1"]["missing"] == ["forgotten"]
    assert "made" in said.tasks["1"]["files"]
