"""Nothing is lost and nothing runs twice, wherever a client is stopped.

On a real Slurm and a real Grid Engine, whose books are looked into, and on pretended batch systems, where the jobs
themselves tell what ran. The number of points is that of ``--faults``; without it, a sample is tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.sites import PLACES, keys_of
from tests.conftest import FAULTS
from tests.faults.harness import Site, choose, count_points, report, run


@pytest.mark.parametrize("system", ["slurm", "sge"])
def test_on_real_servers(
    system: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    _try(system, request.getfixturevalue(f"{system}_site"), request, record_property)


@pytest.mark.parametrize("system", ["shell", "pbs", "torque", "lsf", "volclava"])
def test_on_pretended_ones(
    system: str, tmp_path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    with contextlib.ExitStack() as stack:
        keys, _down = keys_of(request, stack, PLACES[system], "local")
        resource = {"type": PLACES[system].kind, "accounting_delay": "10 s", **keys}
        _try(system, Site({key: str(value) for key, value in resource.items()}, tmp_path), request, record_property)


def _try(
    system: str, site: Site, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    trials = run(site, choose(len(count_points(site)), request.config.getoption("fault_points")))
    record_property(FAULTS, report(system, trials))
    wrong = [trial for trial in trials if trial.complaints]
    assert not wrong, "\n".join(f"{trial.kind} at {trial.point} ({trial.at}): {trial.complaints}" for trial in wrong)
    # a life without faults may have more points than others, which look less often
    assert sum(trial.struck for trial in trials) > len(trials) / 4
