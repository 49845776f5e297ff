"""The sites of the conformance suite, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchlib.conformance.site import Site
from tests.conformance.sites import PLACES, open_site

pytest.register_assert_rewrite("batchlib.conformance.scenarios")


@pytest.fixture(scope="session", params=[f"{place}-{where}" for place in PLACES for where in ("local", "ssh")])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A resource under test."""
    with open_site(request, request.param) as found:
        yield found
