"""Cuts clients' lives short at many points, lets them live again, and compares with the batch system's books."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from batchlib.sandbox import token_in
from tests.faults.client import names, victim
from tests.faults.injection import KINDS

#: Seconds that a life may take.
_PATIENCE = 400.0
#: Clients at a time: most of them wait most of the time.
_SIDE_BY_SIDE = 4
#: Lives after the one that was cut short; the first of them should do.
_MORE_LIVES = 2


@attrs.frozen
class Site:
    """A cluster, and how to look into its books.

    Parameters
    ----------
    resource : mapping of str to str
        Keys of the resource, without its spool directory.
    home : Path
        Where ledgers and spool directories are; jobs can write to it.
    books : callable
        Lists the names of all jobs that the system has ever accepted, each as often as it did; none where it keeps no
        books.
    own : callable
        Gives a file or directory to the user whose jobs they are.
    """

    resource: Mapping[str, str]
    home: Path
    books: Callable[[], list[str]] = list
    own: Callable[[Path], None] = lambda path: None


@attrs.define
class Trial:
    """One life that was cut short, and what became of it.

    Parameters
    ----------
    kind, point : str, int
        What was done, at which point.
    struck : bool
        Whether that point was reached at all.
    at : str
        What happened at that point.
    complaints : list of str
        What is not as it has to be.
    lost, doubled, leaked : int
        Tasks that did not run, runs or jobs too many, and sandboxes that are left.
    """

    kind: str
    point: int
    struck: bool = False
    at: str = ""
    complaints: list[str] = attrs.Factory(list)
    lost: int = 0
    doubled: int = 0
    leaked: int = 0


def count_points(site: Site) -> list[str]:
    """Live one life without faults, and name the points that it passed."""
    answer = _live(site, "whole", "kill", 0)
    if not isinstance(answer, dict):
        raise RuntimeError(f"not even a life without faults succeeds: {answer}")
    found: list[str] = answer["names"]
    return found


def choose(points: int, tried: int) -> list[tuple[str, int]]:
    """Spread trials of both kinds evenly over all points.

    Parameters
    ----------
    points : int
        How many there are.
    tried : int
        How many trials to make.
    """
    every = max(1.0, points * len(KINDS) / max(1, tried))
    chosen = [int(number * every) for number in range(min(tried, points * len(KINDS)))]
    return [(KINDS[number % len(KINDS)], number // len(KINDS) + 1) for number in chosen]


def run(
    site: Site, trials: Iterable[tuple[str, int]], tell: Callable[[Trial], None] = lambda trial: None
) -> list[Trial]:
    """Run trials side by side, then compare with the books."""
    with concurrent.futures.ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        done = list(pool.map(lambda trial: _one(site, *trial), trials))
    _compare_with_books(site, {_prefix(trial.kind, trial.point): trial for trial in done})
    return done


def report(system: str, trials: Iterable[Trial]) -> str:
    """Say in a line how many points were tried, and what was found."""
    trials = list(trials)
    struck = [trial for trial in trials if trial.struck]
    kinds = Counter(trial.kind for trial in struck)
    listed = ", ".join(f"{kinds[kind]} times {kind}" for kind in KINDS)
    found = {name: sum(getattr(trial, name) for trial in trials) for name in ("lost", "doubled", "leaked")}
    counted = ", ".join(f"{name}: {count}" for name, count in found.items())
    return f"{system}: {len(struck)} points ({listed}); {counted}; wrong: {sum(bool(t.complaints) for t in trials)}"


def _content(prefix: str) -> str:
    """Make the content of an input that is large enough to be sent once for all tasks."""
    return prefix.ljust(200_000, "+")


def _prefix(kind: str, point: int) -> str:
    return f"{kind[0]}{point}"


def _one(site: Site, kind: str, point: int) -> Trial:
    trial = Trial(kind, point)
    prefix = _prefix(kind, point)
    first = _live(site, prefix, kind, point)
    if isinstance(first, dict):
        trial.struck = first["points"] >= point
        trial.at = first["names"][point - 1] if trial.struck else ""
    else:
        trial.struck = "signal 9" in first
        if not trial.struck:
            trial.complaints.append(first)
    _go_on(site, prefix, trial, first)
    return trial


def _go_on(site: Site, prefix: str, trial: Trial, answer: dict[str, Any] | str | None) -> None:
    """Live again until all is done, and compare with what the jobs wrote."""
    for _life in range(_MORE_LIVES):
        if not (isinstance(answer, dict) and _is_complete(prefix, answer)):
            answer = _live(site, prefix, KINDS[0], 0)
    if not isinstance(answer, dict):
        trial.complaints.append(f"it could not go on: {answer}")
    elif not _is_complete(prefix, answer):
        trial.complaints.append(f"it did not come to its end: {answer['states']} {answer['problems']}")
    _check(site, prefix, trial)


def _is_complete(prefix: str, answer: Mapping[str, Any]) -> bool:
    expected = dict.fromkeys(names(prefix), "DONE") | {victim(prefix): "CANCELLED"}
    return answer["states"] == expected and answer["freed"]


def _live(site: Site, prefix: str, kind: str, point: int) -> dict[str, Any] | str:
    """Live a life; give what it printed, or how it ended."""
    with start(site, prefix, kind, point) as client:
        return finish(client)


def start(site: Site, prefix: str, kind: str = KINDS[0], point: int = 0) -> subprocess.Popen[str]:
    """Begin a life."""
    directory = site.home / prefix
    if not directory.exists():
        directory.mkdir()
        (directory / "in.txt").write_text(_content(prefix))
        (directory / "ledger").touch()
        for path in (directory, directory / "ledger"):
            site.own(path)
    order = {
        "resource": {**site.resource, "spooldir": str(directory / "spool")},
        "directory": str(directory),
        "ledger": str(directory / "ledger"),
        "prefix": prefix,
        "kind": kind,
        "point": point,
    }
    (directory / "order.json").write_text(json.dumps(order))
    command = [sys.executable, "-m", "tests.faults.client", str(directory / "order.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(client: subprocess.Popen[str]) -> dict[str, Any] | str:
    """Wait until a life has ended; give what it printed, or how it ended."""
    try:
        out, err = client.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        client.kill()
        return f"it did nothing for {_PATIENCE:g} s"
    if client.returncode < 0:
        return f"it died of signal {-client.returncode}"
    if client.returncode:
        return err[-2000:]
    answer: dict[str, Any] = json.loads(out)
    return answer


def settle(site: Site, prefix: str) -> Trial:
    """Live again until all is done, and compare with what the jobs wrote and what the batch system knows."""
    trial = Trial("", 0)
    _go_on(site, prefix, trial, None)
    _compare_with_books(site, {prefix: trial})
    return trial


def _check(site: Site, prefix: str, trial: Trial) -> None:
    """Compare with what the jobs themselves wrote."""
    directory = site.home / prefix
    ran = Counter((directory / "ledger").read_text().split())
    expected = names(prefix)
    trial.lost += sum(ran[name] == 0 for name in expected)
    trial.doubled += sum(max(0, count - 1) for count in ran.values())
    for name in expected:
        output = directory / "out" / name / "out.txt"
        if not output.exists() or output.read_text() != _content(prefix):
            trial.complaints.append(f"the output of {name} is not as it should be")
    for path in (directory / "spool/cache").glob("*/*/*"):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if f"{path.parent.name}{path.name.partition('.')[0]}" != sha256:
            trial.complaints.append(f"{path} is not what its name says")
    left = [found for found in os.listdir(directory / "spool") if token_in(found)]
    trial.leaked += len(left)
    if trial.lost or trial.doubled or left:
        trial.complaints.append(f"ran: {dict(ran)}; left: {left}")
    if not trial.complaints:
        shutil.rmtree(directory)


def _compare_with_books(site: Site, trials: Mapping[str, Trial]) -> None:
    """Count the jobs that the batch system itself knows: one for each task, and one for the array as a whole."""
    accepted = Counter(re.sub(r"\.[^.]*$", "", name) for name in site.books())
    for prefix, trial in trials.items():
        for name in {name.partition(".")[0] for name in [*names(prefix), victim(prefix)]}:
            if accepted[name] > 1:
                trial.doubled += 1
                trial.complaints.append(f"{name} is {accepted[name]} times in the books")
