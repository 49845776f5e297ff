"""The clusters that faults are tried on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Site
from tests.live.conftest import over_ssh
from tests.servers.cluster import Cluster
from tests.servers.sge import GridEngine
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd


def make_site(kind: str, cluster: Cluster, frontend: Sshd, home: Path, books: Callable[[], list[str]]) -> Site:
    """Make the site of a cluster, whose user owns what lies in its home."""

    def own(path: Path) -> None:
        os.chown(path, cluster.account.pw_uid, cluster.account.pw_gid)

    home.mkdir(exist_ok=True)
    own(home)
    keys = {"type": kind, "accounting_delay": "10 s", **over_ssh(frontend)}
    return Site({key: str(value) for key, value in keys.items()}, home, books, own)


@pytest.fixture
def slurm_site(slurm: SlurmCluster, sshd: Sshd, server_directory: Path) -> Site:
    def books() -> list[str]:
        fields = "JobName,JobID"
        told = slurm.command("sacct", "-n", "-P", "-X", "-a", "-S", "now-1days", "-o", fields, seconds=120)
        # whatever a name holds; the elements of an array are one job
        jobs = {
            (name, jobid.partition("_")[0]) for name, _, jobid in (line.rpartition("|") for line in told.splitlines())
        }
        return [name for name, _ in jobs]

    return make_site("slurm", slurm, sshd, server_directory / "faults-slurm", books)


@pytest.fixture
def sge_site(grid_engine: GridEngine, server_directory: Path) -> Iterator[Site]:
    def books() -> list[str]:
        lines = (grid_engine.directory / "root/default/common/accounting").read_text().splitlines()
        fields = [line.split(":") for line in lines if not line.startswith("#")]
        # name and number of each job; an array's elements are one
        return [name for name, _ in sorted({(line[4], line[5]) for line in fields})]

    directory = server_directory / "faults-sge-frontend"
    with Sshd(directory, user=grid_engine.account.pw_name, set_env=grid_engine.env) as frontend:
        yield make_site("sge", grid_engine, frontend, server_directory / "faults-sge", books)
