"""The scenarios that every backend has to pass."""

import pytest

from batchlib.conformance.scenarios import *  # noqa: F403

pytestmark = pytest.mark.live
