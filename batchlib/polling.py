"""When to look at a resource again: soon when something is about to change, seldom when not.

Administrators see every look as a request to their batch system. So there is a pause that is never undercut, the
longer a look takes the rarer it is, and processes that drive one session share their looks.
"""

from __future__ import annotations

import collections
import json
import statistics
import time
from collections.abc import Iterable

import attrs

from .application import Application
from .run import State

#: What the pause is multiplied by when nothing has changed, and its most, in seconds.
_GROWTH, LONGEST_PAUSE = 1.5, 30.0
#: How many times as long as a look took the next pause is at least: once for quick looks, more for each second they
#: take, up to the most.
_REST_OF_QUICK, _REST_A_SECOND, _MOST_REST = 1.0, 4.0, 5.0
#: Ended tasks of one name whose durations are kept to tell how long the next ones take.
_SAMPLES = 20
#: The part of the usual duration by which a task may be late and still be expected to end soon.
_LATE = 0.25


@attrs.frozen
class Look:
    """The last look at the tasks that a session has on a resource, by whichever process.

    Parameters
    ----------
    at : float
        When it ended, in seconds since the epoch.
    pause : float
        Seconds that should pass until the next one.
    """

    at: float = float("-inf")
    pause: float = 0.0

    @classmethod
    def read(cls, text: str | None) -> Look:
        """Read what `write` gave; whatever can't be read is no look."""
        try:
            return cls(**{key: float(value) for key, value in json.loads(text or "{}").items()})
        except (ValueError, TypeError, AttributeError):
            return cls()

    def write(self) -> str:
        """Give it as text."""
        return json.dumps(attrs.asdict(self))

    def wait(self, pause: float) -> float:
        """Tell for how many seconds not to look again, if `pause` has to pass between two looks."""
        passed = time.time() - self.at
        # a clock that was set back, or that of another machine, is no reason to wait for long
        return max(0.0, pause - passed) if passed >= 0 else 0.0


def next_pause(last: float, *, changed: bool, cost: float, minimum: float, expected: float | None = None) -> float:
    """Choose the pause until the next look at a resource.

    Parameters
    ----------
    last : float
        The pause before this look, in seconds.
    changed : bool
        Whether this look found anything new.
    cost : float
        Seconds that it took.
    minimum : float
        Seconds that have to pass at least, as configured.
    expected : float, optional
        Seconds until something is expected to change.

    Returns
    -------
    float
        Seconds.
    """
    shortest = max(minimum, cost * min(_MOST_REST, _REST_OF_QUICK + _REST_A_SECOND * cost))
    pause = shortest if changed else max(shortest, min(LONGEST_PAUSE, last * _GROWTH))
    return pause if expected is None else min(pause, max(shortest, expected))


class Durations:
    """How long tasks took, by their names, to tell when those of the same name will end."""

    def __init__(self) -> None:
        self._known: dict[str, collections.deque[float]] = {}

    def learn(self, app: Application) -> None:
        """Take note of a task that has ended."""
        run = app.execution
        if run.state is State.DONE and run.started_at is not None and run.ended_at is not None:
            samples = self._known.setdefault(app.jobname, collections.deque(maxlen=_SAMPLES))
            samples.append(max(0.0, run.ended_at - run.started_at))

    def next_change(self, apps: Iterable[Application]) -> float | None:
        """Guess when something will change.

        Parameters
        ----------
        apps : iterable of Application
            The tasks that have not ended.

        Returns
        -------
        float or None
            Seconds from now; None when there is no telling.
        """
        usual = {name: statistics.median(samples) for name, samples in self._known.items()}
        now = time.time()
        soonest = None
        for app in apps:
            left = _time_left(app, usual.get(app.jobname), now)
            if left is not None and (soonest is None or left < soonest):
                soonest = left
        return soonest


def _time_left(app: Application, usual: float | None, now: float) -> float | None:
    """Guess in how many seconds a task ends: after the usual time, and at its walltime at the latest."""
    run = app.execution
    if run.state is not State.RUNNING or run.started_at is None:
        return None
    passed = now - run.started_at
    if usual is not None and passed <= usual * (1 + _LATE):
        # the later it is, the longer until the next look, so that those that never end are not asked for all the time
        return max(usual - passed, (passed - usual) / 2)
    limit = app.requested_walltime.seconds - passed if app.requested_walltime is not None else None
    return limit if limit is not None and limit >= 0 else None
