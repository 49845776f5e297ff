"""The commands on a real Slurm cluster, through a real SSH server."""

from __future__ import annotations

import pytest

from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd

from .conftest import User

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def cluster(user: User, sshd: Sshd, slurm: SlurmCluster) -> None:
    """The cluster in the user's configuration."""
    user.config.write_text(
        f"""[resource/cluster]
type = slurm
transport = ssh
frontend = {sshd.name}
ssh_config = {sshd.config}
accounting_delay = 30
"""
    )


def test_a_job_from_submission_to_cleaning(user: User) -> None:
    task = user.run("gsub", "-w", "5 min", "--", "sh", "-c", "echo one; sleep 2; echo two; exit 3").out.strip()
    assert task == "1"
    assert user.run("gtail", "-f", task).out == "one\ntwo\n"
    assert user.run("gwait", task).status == 1
    shown = user.task(task)
    assert (shown["state"], shown["exitcode"]) == ("FAILED", 3)
    assert (user.work / task / "stdout.txt").read_text() == "one\ntwo\n"
    assert user.run("gclean", task).status == 0


def test_a_partition_that_does_not_exist_is_refused(user: User) -> None:
    said = user.run("gsub", "-q", "nowhere", "-n", "2", "--", "true")
    assert said.status == 2
    assert "invalid partition specified: nowhere" in said.err
    assert said.out == ""
    assert user.remembered == 0


def test_a_queued_job_is_cancelled(user: User) -> None:
    task = user.submit("--hold", "--", "true")
    assert user.task(task)["state"] == "HELD"
    assert user.run("gkill", task).out == f"{task}: done\n"
    assert user.wait_for(task, "CANCELLED")["reason"] == "cancelled-by-user"
    assert user.run("gclean", "-f", task).status == 0


def test_doctor_and_servers(user: User) -> None:
    said = user.run("batchlib", "doctor", "cluster")
    assert said.status == 0, said.out
    for check in ("authentication", "sbatch", "batch system", "accounting"):
        assert f"ok: {check}: " in said.out
    with user.config.open("a") as file:
        file.write("queue = nowhere\n")
    wrong = user.run("batchlib", "doctor", "cluster")
    assert wrong.status == 1
    assert "wrong: queue: there is no queue nowhere — choose one of: " in wrong.out
    server = user.run("gservers", "--json").document["resources"][0]
    assert server["cores"] > 0
