"""The sites of the conformance suite, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchlib.conformance.site import Site
from batchlib.conformance.table import Table
from tests.conformance.sites import PLACES, open_site

pytest.register_assert_rewrite("batchlib.conformance.scenarios")


def pytest_configure(config: pytest.Config) -> None:
    """Print a table at the end."""
    config.pluginmanager.register(Table(), "batchlib-conformance-table")


@pytest.fixture(scope="session", params=[f"{place}-{where}" for place in PLACES for where in ("local", "ssh")])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A resource under test."""
    with open_site(request, request.param) as found:
        yield found
