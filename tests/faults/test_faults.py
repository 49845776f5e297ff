"""Nothing is lost and nothing runs twice, wherever a client is stopped: on a real Slurm and a real Grid Engine.

The number of points is that of ``--faults``; without it, a sample is tried.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import FAULTS
from tests.faults.harness import Site, choose, count_points, report, run


@pytest.mark.parametrize("system", ["slurm", "sge"])
def test_nothing_is_lost_and_nothing_runs_twice(
    system: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    site: Site = request.getfixturevalue(f"{system}_site")
    trials = run(site, choose(len(count_points(site)), request.config.getoption("fault_points")))
    record_property(FAULTS, report(system, trials))
    wrong = [trial for trial in trials if trial.complaints]
    assert not wrong, "\n".join(f"{trial.kind} at {trial.point} ({trial.at}): {trial.complaints}" for trial in wrong)
    assert sum(trial.struck for trial in trials) > len(trials) / 2
