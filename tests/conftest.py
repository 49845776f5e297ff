"""Real servers as fixtures; they are started by the first test that asks for them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from batchlib.conformance.table import Table
from tests.servers import prerequisites
from tests.servers.sge import GridEngine
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd
from tests.servers.state import make_state_directory, remove_state_directory, sweep

#: The site in the name of a test.
SITE = re.compile(r"[\[-]((?:shell|slurm|sge|pbs|torque|lsf|volclava)-(?:local|ssh|openssh))[\]-]")

#: Folders of tests that take long, most of it waiting.
LONG = ("live", "faults", "conformance")
#: Faults that are injected on each batch system where nobody says how many.
FAULT_POINTS = 8
#: The property of a test's report that holds a line for the end of the test run.
FAULTS = "faults"

CLUSTERS = {"slurm", "slurm_without_accounting", "grid_engine"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the number of faults be chosen."""
    text = "points of clients' lives at which faults are injected, on each batch system (default: %(default)s)"
    parser.addoption("--faults", dest="fault_points", type=int, default=FAULT_POINTS, metavar="N", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Print the table of the conformance suite at the end."""
    config.pluginmanager.register(Table(), "batchlib-conformance-table")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``live`` what lies in tests/live and what uses a cluster, and begin with what takes longest."""
    live = Path(__file__).parent / "live"
    for item in items:
        if live in item.path.parents or CLUSTERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.live)
    items.sort(key=lambda item: not any(f"/{folder}/" in item.nodeid for folder in LONG))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many faults were injected, and what they did."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    lines = [line for report in reports for name, line in report.user_properties if name == FAULTS]
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file, or of a site, in one process: they share servers.

    The marks ``xdist_group`` would do, but pytest-xdist 3.8 loses them with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling  # only called where there is an xdist

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            site = SITE.search(test)
            if "test_on_pretended_ones" in test:
                return nodeid  # they wait most of the time, and share nothing
            return site[1] if site and "/conformance/" in file else file

    return Groups(config, log)


def require(packages: Mapping[str, str], *, root: bool = False) -> None:
    """Skip the test when a server cannot be started here; on a CI machine that is an error."""
    reason = prerequisites.missing(packages, root=root)
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"A CI machine must run the live tests: {reason}.", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """The directory of this test run for the state of servers; every user may enter it."""
    sweep()
    directory = make_state_directory()
    yield directory
    remove_state_directory(directory)


@pytest.fixture(scope="session")
def slurm(server_directory: Path) -> Iterator[SlurmCluster]:
    """A Slurm cluster with accounting."""
    require(prerequisites.SLURM, root=True)
    with SlurmCluster(server_directory / "slurm", accounting=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_without_accounting(server_directory: Path) -> Iterator[SlurmCluster]:
    """A Slurm cluster beside the other one, where sacct knows nothing."""
    require(prerequisites.SLURM, root=True)
    with SlurmCluster(server_directory / "slurm-without-accounting", accounting=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def grid_engine(server_directory: Path) -> Iterator[GridEngine]:
    """A Grid Engine cell."""
    require(prerequisites.GRID_ENGINE, root=True)
    with GridEngine(server_directory / "grid-engine") as cell:
        yield cell


@pytest.fixture(scope="session")
def sshd(server_directory: Path, slurm: SlurmCluster) -> Iterator[Sshd]:
    """The front end of the cluster `slurm`."""
    require(prerequisites.SSHD)
    with Sshd(server_directory / "frontend", user=slurm.account.pw_name, set_env=slurm.env) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(server_directory: Path) -> Iterator[Sshd]:
    """A host to jump through, for the same user as the front end's."""
    require(prerequisites.SSHD)
    with Sshd(server_directory / "gateway", name="gateway") as server:
        yield server


@pytest.fixture
def make_sshd(server_directory: Path) -> Iterator[Callable[..., Sshd]]:
    """Start further servers, with the parameters of `Sshd`; they end with the test."""
    require(prerequisites.SSHD)
    with ExitStack() as servers:

        def make(
            *,
            options: Mapping[str, str | list[str]] | None = None,
            set_env: Mapping[str, str] | None = None,
            host_key_type: str = "ed25519",
            name: str = "frontend",
        ) -> Sshd:
            number = len(list(server_directory.glob("sshd-*")))
            directory = server_directory / f"sshd-{number}"
            server = Sshd(directory, options=options, set_env=set_env, host_key_type=host_key_type, name=name)
            return servers.enter_context(server)

        yield make
