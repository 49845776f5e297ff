"""The sites of the conformance suite, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchlib.conformance.site import Site
from tests.conformance.sites import PLACES, open_site

pytest.register_assert_rewrite("batchlib.conformance.scenarios")


SITES = [f"{place}-{where}" for place in PLACES for where in ("local", "ssh")]


@pytest.fixture(scope="session", params=[*SITES, "slurm-openssh"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A resource under test."""
    with open_site(request, request.param) as found:
        yield found
