"""For pytest: the resources to test, from a configuration."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .. import config
from .site import Site
from .table import Table

pytest.register_assert_rewrite("batchlib.conformance.scenarios")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("batchlib")
    group.addoption("--resource", action="append", default=[], help="resource to test; may be repeated")
    group.addoption("--batchlib-config", help="configuration file; default is the user's")


def pytest_configure(config: pytest.Config) -> None:
    """Print a table at the end."""
    config.pluginmanager.register(Table(), "batchlib-conformance-table")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each scenario on each resource."""
    if "site_name" in metafunc.fixturenames:
        names = metafunc.config.getoption("--resource") or ["localhost"]
        metafunc.parametrize("site_name", names, scope="session")


@pytest.fixture(scope="session")
def site(site_name: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Give the resource under test."""
    configuration = config.load(request.config.getoption("--batchlib-config"))
    with Site(configuration.resource(site_name)) as found:
        yield found
