"""The servers that the live tests run against do what real ones do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

from tests.servers.processes import stat_of, wait_until
from tests.servers.sge import GridEngine
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd


def final_state(cluster: SlurmCluster, job: str) -> str:
    """Wait until accounting knows the end of a job, and return its state and exit code."""
    query = f"sacct --noheader --parsable2 --allocations --jobs {job} --format State,ExitCode,End"

    def answer() -> list[str]:
        return cluster.as_user(query).stdout.strip().split("|")

    wait_until(f"job {job} to end", lambda: answer()[-1] not in ("", "Unknown"), 60)
    return " ".join(answer()[:2])


def test_job_submitted_over_ssh_ends_and_is_accounted(slurm: SlurmCluster, sshd: Sshd) -> None:
    done = sshd.ssh("sbatch --parsable --output job.out", stdin="#!/bin/sh\nid -un\n")
    assert done.stderr == ""
    assert final_state(slurm, done.stdout.strip()) == "COMPLETED 0:0"
    assert sshd.ssh("cat job.out; rm job.out").stdout == "hpc\n"


def test_failing_job_keeps_its_exit_code(slurm: SlurmCluster) -> None:
    done = slurm.as_user("sbatch --parsable --output /dev/null --wrap 'exit 3'")
    assert final_state(slurm, done.stdout.strip()) == "FAILED 3:0"


def test_unknown_account_is_refused(slurm: SlurmCluster) -> None:
    done = slurm.as_user("sbatch --account nosuch --wrap true")
    assert done.returncode == 1
    assert "Invalid account" in done.stderr


def test_job_out_of_memory_is_ended(slurm: SlurmCluster) -> None:
    if not slurm.memory_limits:
        pytest.skip("needs the memory controller of control groups, version 1")
    hungry = "sbatch --parsable --output /dev/null --mem 50 --wrap 'head -c 200M /dev/zero | tail'"
    job = slurm.as_user(hungry).stdout.strip()
    assert final_state(slurm, job).startswith("OUT_OF_MEMORY")


def test_cluster_without_accounting_says_so(slurm_without_accounting: SlurmCluster) -> None:
    done = slurm_without_accounting.as_user("sacct")
    assert (done.returncode, done.stderr) == (1, "Slurm accounting storage is disabled\n")
    done = slurm_without_accounting.as_user("srun echo here")
    assert (done.returncode, done.stdout) == (0, "here\n")


def test_clusters_do_not_share_jobs(slurm: SlurmCluster, slurm_without_accounting: SlurmCluster) -> None:
    job = slurm.as_user("sbatch --parsable --hold --wrap true").stdout.strip()
    query = "squeue --noheader --format %i"
    assert slurm.as_user(query).stdout.split() == [job]
    assert slurm_without_accounting.as_user(query).stdout.split() == []
    slurm.cancel_all()
    assert slurm.as_user(query).stdout.split() == []


def test_controller_keeps_its_jobs_over_a_restart(slurm: SlurmCluster) -> None:
    job = slurm.as_user("sbatch --parsable --hold --wrap true").stdout.strip()
    slurm.daemon("slurmctld").stop()
    assert slurm.as_user("scontrol ping").returncode == 1
    slurm.daemon("slurmctld").start()
    assert slurm.as_user(f"squeue --noheader --format %i --jobs {job}").stdout.strip() == job
    slurm.wait_for_nodes()
    slurm.cancel_all()


def test_killed_node_comes_back(slurm: SlurmCluster) -> None:
    slurm.daemon("slurmd.node02").kill()
    assert not slurm.daemon("slurmd.node02").running
    slurm.daemon("slurmd.node02").start()
    slurm.wait_for_nodes()
    assert slurm.as_user("srun --nodelist node02 echo here").stdout == "here\n"


def test_second_start_ends_what_a_killed_run_left(slurm_without_accounting: SlurmCluster) -> None:
    cluster = slurm_without_accounting
    cluster.as_user("sbatch --output /dev/null --wrap 'sleep 1000'")
    before = cluster.daemon("slurmctld").pid
    assert before is not None
    again = SlurmCluster(cluster.directory, accounting=False)
    again.start()
    assert stat_of(before) is None
    assert again.daemon("slurmctld").running
    again.stop()
    cluster.start()


def test_grid_engine_job_submitted_over_ssh_is_accounted(
    grid_engine: GridEngine, make_sshd: Callable[..., Sshd]
) -> None:
    front_end = make_sshd(set_env=grid_engine.env)
    done = front_end.ssh("qsub -terse -o /dev/null -j y", stdin="exit 3\n")
    assert done.stderr == ""
    query = f"qacct -j {done.stdout.strip()}"
    wait_until("the job to end", lambda: grid_engine.as_user(query).returncode == 0, 30)
    assert re.search(r"^exit_status +3 *$", front_end.ssh(query).stdout, re.MULTILINE)


def test_grid_engine_jobs_are_all_cancelled(grid_engine: GridEngine) -> None:
    assert grid_engine.as_user("qsub -t 1-3 -o /dev/null -j y", stdin="sleep 1000\n").returncode == 0
    assert grid_engine.as_user("qsub -h", stdin="true\n").returncode == 0
    grid_engine.cancel_all()
    assert grid_engine.as_user("qstat").stdout == ""


def test_dropped_connection_ends_the_client(make_sshd: Callable[..., Sshd]) -> None:
    server = make_sshd()
    argv = ["ssh", "-F", str(server.config), server.name, "echo ready; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        assert len(server.connections()) == 1
        server.drop()
        assert client.wait(10) == 255
    assert server.connections() == []
    assert server.ssh("echo back").stdout == "back\n"


def test_paused_server_answers_after_it_goes_on(make_sshd: Callable[..., Sshd]) -> None:
    server = make_sshd()
    server.pause()
    with pytest.raises(subprocess.TimeoutExpired):
        server.ssh("true", seconds=0.5)
    server.cont()
    assert server.ssh("true").returncode == 0


def test_changed_host_key_is_refused(make_sshd: Callable[..., Sshd]) -> None:
    server = make_sshd(host_key_type="ecdsa")
    assert server.ssh("true").returncode == 0
    before = server.fingerprint
    server.change_host_key()
    assert server.fingerprint != before
    done = server.ssh("true")
    assert done.returncode == 255
    assert "HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_options_win_over_the_defaults(make_sshd: Callable[..., Sshd]) -> None:
    server = make_sshd(options={"MaxSessions": "1", "ForceCommand": "echo forced"}, set_env={"GREETING": "a b"})
    assert server.ssh("true").stdout == "forced\n"
    assert make_sshd(set_env={"GREETING": "a b"}).ssh('echo "$GREETING"').stdout == "a b\n"


def test_front_end_is_reached_through_the_gateway(sshd: Sshd, gateway: Sshd) -> None:
    jump = f"ssh -F {gateway.config} -W %h:%p {gateway.name}"
    argv = ["ssh", "-F", str(sshd.config), "-o", f"ProxyCommand={jump}", sshd.name, "echo $SSH_CONNECTION"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split()[3] == str(sshd.port)
    assert "Accepted publickey" in (gateway.directory / "log" / "sshd.log").read_text()
