"""Every backend, locally and over SSH, on real servers where they can be had, else on fakes that run real jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import pytest

from batchlib.backends.batch import BatchSystem
from batchlib.config import backend_class
from batchlib.conformance.site import Site
from batchlib.conformance.table import Table
from tests.live.conftest import over_ssh
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd

pytest.register_assert_rewrite("batchlib.conformance.scenarios")

Down = Callable[[], AbstractContextManager[None]]

SITES = ["shell-local", "shell-ssh", "slurm-local", "slurm-ssh"]


def pytest_configure(config: pytest.Config) -> None:
    """Print a table at the end."""
    config.pluginmanager.register(Table(), "batchlib-conformance-table")


def exports(environment: Mapping[str, str]) -> str:
    """Make shell text that sets variables."""
    return "\n".join(f"export {name}='{value}'" for name, value in environment.items())


@pytest.fixture(scope="session", params=SITES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A resource under test."""
    kind, _, where = str(request.param).partition("-")
    make = {"shell": _shell, "slurm": _slurm}[kind]
    backend, down = make(request, where)
    with Site(backend, down) as found:
        yield found


def _shell(request: pytest.FixtureRequest, where: str) -> tuple[BatchSystem, Down | None]:
    directory = request.getfixturevalue("tmp_path_factory").mktemp("shell")
    kind = backend_class("shell")
    if where == "local":
        return kind("shell", spooldir=str(directory / "spool"), max_cores=64), None
    sshd: Sshd = request.getfixturevalue("sshd")
    return kind("shell", **over_ssh(sshd, max_cores=64, spooldir="$HOME/conformance-shell")), None


def _slurm(request: pytest.FixtureRequest, where: str) -> tuple[BatchSystem, Down | None]:
    slurm: SlurmCluster = request.getfixturevalue("slurm")
    kind = backend_class("slurm")
    down = slurm.daemon("slurmctld").stopped
    if where == "local":
        spool = str(slurm.directory / "conformance-spool")
        return kind("slurm", setup=exports(slurm.env), spooldir=spool), down
    sshd: Sshd = request.getfixturevalue("sshd")
    return kind("slurm", **over_ssh(sshd, spooldir="$HOME/conformance-slurm")), down
