"""A real Slurm of which one command misbehaves as such commands have been seen to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from tests.faults.harness import Site, finish, settle, start
from tests.servers.processes import wait_until
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd

#: Strikes at the first so many calls, however many there are at a time.
STRIKE = """#!/bin/sh
for number in {numbers}; do
  if mkdir {directory}/struck-$number 2>/dev/null; then
    {fault}
  fi
done
exec {command} "$@"
"""

Wrap = Callable[..., Site]


@pytest.fixture
def wrap(slurm_site: Site, slurm: SlurmCluster) -> Iterator[Wrap]:
    """Give a function that makes a site where a command misbehaves the first few times."""
    directory = slurm_site.home / f"commands-{os.getpid()}"
    directory.mkdir()
    directory.chmod(0o777)

    def make(fault: str, *commands: str, times: int = 1) -> Site:
        numbers = " ".join(str(number) for number in range(times))
        for command in commands:
            marks = directory / f"{command}-marks"
            marks.mkdir(mode=0o777)
            marks.chmod(0o777)
            real = shutil.which(command)
            text = STRIKE.format(numbers=numbers, directory=marks, command=real, fault=fault.format(command=real))
            (directory / command).write_text(text)
            (directory / command).chmod(0o755)
        return attrs.evolve(
            slurm_site, resource={**slurm_site.resource, **{name: str(directory / name) for name in commands}}
        )

    yield make
    shutil.rmtree(directory)


def struck(site: Site, command: str) -> int:
    """Tell how often a command misbehaved."""
    return len(list(Path(f"{site.resource[command]}-marks").iterdir()))


def live_through(site: Site, prefix: str) -> None:
    trial = settle(site, prefix)
    assert trial.complaints == []
    assert (trial.lost, trial.doubled, trial.leaked) == (0, 0, 0)


def test_sbatch_queues_a_job_and_says_that_it_timed_out(wrap: Wrap) -> None:
    fault = '{command} "$@" >/dev/null; echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1'
    site = wrap(fault, "sbatch", times=2)
    live_through(site, "timedout")
    assert struck(site, "sbatch") == 2


def test_listing_and_accounting_answer_nothing_at_all_twice(wrap: Wrap) -> None:
    site = wrap("exit 0", "squeue", "sacct", times=2)
    live_through(site, "empty")
    assert struck(site, "squeue") == 2


def test_listing_and_accounting_fail_four_times_in_a_row(wrap: Wrap) -> None:
    fault = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    site = wrap(fault, "squeue", "sacct", times=4)
    live_through(site, "failing")
    assert struck(site, "squeue") == 4


def test_a_client_is_killed_while_sbatch_runs(wrap: Wrap) -> None:
    site = wrap("sleep 2", "sbatch")
    with start(site, "killed") as client:
        wait_until("sbatch to be called", lambda: struck(site, "sbatch") == 1, 60)
        client.kill()
        assert finish(client) == "it died of signal 9"
    live_through(site, "killed")


def test_a_client_dies_while_sbatch_waits_for_a_controller_that_hangs(slurm_site: Site, slurm: SlurmCluster) -> None:
    with start(slurm_site, "hanging") as client:
        spool = slurm_site.home / "hanging/spool"
        with slurm.daemon("slurmctld").paused():
            wait_until("sbatch to be called", lambda: any(spool.glob("*/.batchlib/*")), 60)
            client.kill()
            finish(client)
    live_through(slurm_site, "hanging")


def test_the_ssh_server_dies_while_sbatch_runs(wrap: Wrap, sshd: Sshd) -> None:
    site = wrap("sleep 2", "sbatch")
    with start(site, "cutoff") as client:
        wait_until("sbatch to be called", lambda: struck(site, "sbatch") == 1, 60)
        sshd.drop()
        assert not isinstance(finish(client), str)
    live_through(site, "cutoff")


def test_the_reason_of_another_job_holds_blanks_and_commas(slurm_site: Site, slurm: SlurmCluster) -> None:
    # this one waits with such a reason, and its name is no better
    other = "sbatch -H --wrap true -J 'a, b | c  (d)' -o /dev/null --comment 'x, y|z'"
    jobid = slurm.as_user(other).stdout.split()[-1]
    waiting = slurm.as_user("sbatch -o /dev/null --nodelist=node01 --exclusive -N 2 --wrap true").stdout.split()[-1]
    try:
        live_through(slurm_site, "odd")
    finally:
        slurm.as_user(f"scancel {jobid} {waiting}")
