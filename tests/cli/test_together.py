"""Several processes on one session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from .conftest import User, poll

HOLD = """
import sys
from batchlib import Session
with Session() as session, session.driving():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_every_task_is_known_once(user: User) -> None:
    ran = user.work / "ran"
    program = f"echo $BATCHLIB_TOKEN >> {ran}"
    gsubs = [user.start("gsub", "-n", "4", "--", "sh", "-c", program) for _ in range(3)]
    watching = [user.start("gstat") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in gsubs]
    assert [process.returncode for process in gsubs] == [0, 0, 0], said
    ids = sorted(int(task) for out, _err in said for task in out.split())
    assert ids == list(range(1, 13))
    for process in watching:
        process.communicate(timeout=60)
        assert process.returncode == 0
    gwaits = [user.start("gwait"), user.start("gwait")]
    for process in gwaits:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    assert len(ran.read_text().split()) == len(set(ran.read_text().split())) == 12
    assert sorted(path.name for path in user.work.iterdir() if path.is_dir()) == sorted(map(str, ids))


def test_a_lock_that_somebody_else_holds(user: User) -> None:
    task = user.submit("--", "sh", "-c", "exit 0")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=user.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    user.started.append(holder)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"

    shown = user.run("gstat", "--json")
    assert shown.status == 0
    assert shown.tasks[task]["state"] == "QUEUED"
    assert f"process {holder.pid} on " in shown.err
    assert "last known" in shown.err
    assert f"process {holder.pid} on " in user.call("gsession", "info").out
    assert user.run("gsession", "run", "--once").status == 0
    # who has to write waits for its turn
    kill = user.start("gkill", task)
    assert kill.stderr is not None
    assert "waiting" in kill.stderr.readline()
    holder.stdin.close()
    assert kill.wait(30) == 0


def test_an_interrupted_wait_loses_nothing(user: User) -> None:
    go = user.work / "go"
    process = user.start("gsub", "-W", "--", "sh", "-c", f"while [ ! -f {go} ]; do sleep 0.1; done")
    assert process.stdout is not None
    task = process.stdout.readline().strip()
    os.kill(process.pid, signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "gsub: interrupted\n")
    go.touch()
    assert user.run("gwait", task).status == 0


def test_a_killed_submission_is_taken_up_again(user: User) -> None:
    ran = user.work / "ran"
    process = user.start("gsub", "-n", "5", "--", "sh", "-c", f"echo x >> {ran}")
    poll(lambda: user.sandboxes or process.poll() is not None)
    process.kill()
    process.wait()
    assert user.run("gwait").status == 0
    assert user.call("gstat", "--json").document["counts"] == {"DONE": 5}
    assert ran.read_text() == "x\n" * 5
