"""bhist."""

from __future__ import annotations

import os
import time

from tests.fakes.lsf.longform import EVENT, head, limits, submitted, wrap
from tests.fakes.lsf.options import IBM, Failure, parse_id, parse_letters
from tests.fakes.lsf.system import LSF, exit_reason, ident, name_of, run_events, written
from tests.fakes.model import ENDED, Job, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_STATES = ("PEND", "PSUSP", "RUN", "USUSP", "SSUSP", "UNKWN")
_TITLE = "Summary of time in seconds spent in various states"
_COLUMNS = "JOBID   USER    JOB_NAME  PEND    PSUSP   RUN     USUSP   SSUSP   UNKWN   TOTAL"
_SUMMARY = "  PEND     PSUSP    RUN      USUSP    SSUSP    UNKWN    TOTAL"


def main(name: str, words: Sequence[str]) -> int:
    """Tell what happened to jobs: from the log, so that no daemon is needed."""
    options = parse_letters("bhist", words, "fnCSDNPqmJuT", "lbwadepsrthV")
    if not IBM and "LSF_ENVDIR" not in os.environ:
        raise Failure("ls_readconfenv: Unable to open file lsf.conf")
    ids = [parse_id(word) for word in options.rest if word != "0"]
    system = LSF()
    with system:
        known = [(job, system.tasks(job.number)) for job in system.jobs()]
    rows = [(job, task) for job, tasks in [*system.logged(old="n" in options), *known] for task in tasks]
    if ids:
        rows = [row for row in rows if any(_is_asked(row[1], number, indices) for number, indices in ids)]
    else:
        rows = [row for row in rows if row[0].owner == system.user and ("a" in options or row[1].state != ENDED)]
    if "J" in options:
        rows = [row for row in rows if options.get("J") in (row[0].name, name_of(*row))]
    if not rows:
        print("No matching job found")
        return 255
    if "l" in options:
        print(("-" * 78 + "\n").join(_long(job, task) for job, task in rows))
        return 0
    lines = [f"{_TITLE}:", _COLUMNS]
    for job, task in rows:
        title = name_of(job, task)
        title = f"*{title[-7:]}" if len(title) > 9 and "w" not in options else title
        times = _times(_events(job, task))
        lines.append(
            f"{ident(job, task):<7} {job.owner[:7]:<7} {title:<9} "
            + "".join(f"{times[state]:<8}" for state in _STATES)
            + f"{sum(times.values()):<10}"
        )
    print("\n".join(lines) + "\n")
    return 0


def _is_asked(task: Task, number: int, indices: Sequence[int]) -> bool:
    return task.number == number and (not indices or task.index in indices)


def _events(job: Job, task: Task) -> list[tuple[float, str, str]]:
    """Give all events in their order: time, state after it ("" for the same), text."""
    events = [(job.submitted, "PSUSP" if job.face["held"] else "PEND", "")]
    events += [(float(when), state, text) for when, state, text in task.face.get("events", [])]
    if task.started:
        events += run_events(job, task)
    elif task.ended:
        events.append((task.ended, "END", "Exited"))
    return sorted(events, key=lambda event: event[0])


def _times(events: Sequence[tuple[float, str, str]]) -> dict[str, int]:
    """Give the seconds in each state."""
    times = dict.fromkeys(_STATES, 0)
    state, since = "PEND", events[0][0]
    for when, after, _ in [*events, (time.time(), "END", "")]:
        if after and state != "END":
            times[state] += int(when) - int(since)
        if after:
            state, since = after, when
    return times


def _long(job: Job, task: Task) -> str:
    events = _events(job, task)
    lines = ["", head(job, task, history=True), submitted(job, history=True) + limits(job).rstrip("\n")]
    lines = [line.rstrip("\n") for line in lines]
    lines += [wrap(f"{written(when, EVENT)}: {text};") for when, _, text in events if text]
    if IBM and task.state == ENDED and not task.ok:
        reason = exit_reason(job, task)
        lines += ["", wrap(f"{written(task.ended, EVENT)}: Completed <exit>{'; ' * bool(reason)}{reason};")]
    elif task.state == ENDED and task.ok:
        what = "done successfully" if IBM else "failed"
        lines.append(f"{written(task.ended, EVENT)}: Post job process {what};")
    times = _times(events)
    last = task.ended if task.state == ENDED else time.time()
    summary = "  " + "".join(f"{times[state]:<9}" for state in _STATES) + f"{sum(times.values()):<12}"
    return "\n".join([*lines, "", f"{_TITLE} by  {written(last, EVENT)}", _SUMMARY, summary, ""])
