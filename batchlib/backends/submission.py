"""Submission, exactly once.

A job's intent (its token) is durable before the frontend hears of it. The frontend notes in the sandbox that it is
about to ask the batch system, and what that answered. So after a crash, a cut link or a time-out it can be found out
whether a job was accepted: from its sandbox, or by its unique name in queue and accounting. Only what was certainly
not accepted is given up and submitted again, with a new sandbox under a new token; the old one is removed first, so
that a job that is accepted late has nothing left to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs

from .. import events, sandbox
from ..application import Application, check_inputs
from ..array import ArraySpec
from ..errors import (
    BatchlibError,
    ConnectionFailed,
    DataStagingError,
    InvalidOperation,
    Kind,
    RemoteFileError,
    SubmissionUnclear,
    SystemUnavailable,
    TransportError,
)
from ..run import State
from ..transport.archive import Entry, pack
from ..transport.shell import Completed
from ..transport.slices import BIG
from . import cache, programs
from .base import Journal
from .script import render_command

if TYPE_CHECKING:
    from .batch import BatchSystem

T = TypeVar("T")

#: Jobs looked up by name with one command line.
_LOOKUPS_AT_ONCE = 500
#: Seconds after a submission of unknown outcome before "nobody knows it" is believed: longer than any batch
#: system's own time-out for a request (Slurm's and OpenPBS's clients give up after 10 to 60 s).
_GRACE = 90.0

Answers = dict[Application, BatchlibError | None]


@attrs.frozen
class Unit:
    """What one submit command submits: a job, or an array.

    Parameters
    ----------
    token : str
        The directory that it is submitted from: the job's sandbox, or the one that holds those of the elements.
    apps : tuple of Application
        The job, or the elements.
    array : ArraySpec, optional
        The elements' indices.
    """

    token: str
    apps: tuple[Application, ...]
    array: ArraySpec | None = None

    def jobid_of(self, system: BatchSystem, app: Application, jobid: str) -> str:
        """Give the native id of one of its jobs, from its own."""
        if self.array is None or app.array is None:
            return jobid
        return system.element_jobid(jobid, app.array.index)


def submit(system: BatchSystem, apps: Sequence[Application], journal: Journal | None = None) -> Answers:
    """Submit new jobs; elements of one array go together where the batch system has arrays.

    Parameters
    ----------
    system : BatchSystem
        Where to.
    apps : sequence of Application
        The jobs.
    journal : callable, optional
        Makes their tokens durable.
    """
    answers: Answers = {app: DataStagingError(what) for app, what in check_inputs(apps).items()}
    for app in apps:
        if app not in answers:
            try:
                _check_new(app)
                system.validate(app)
            except BatchlibError as error:
                answers[app] = error
    ready = [app for app in apps if app not in answers]
    if not ready:
        return answers
    try:
        spool = system.spool
    except BatchlibError as error:
        return answers | dict.fromkeys(ready, system.tell(error))
    units = [_begin(system, group) for group in _groups(system, ready)]
    if journal is not None:
        journal(ready)
    return answers | _send(system, units, spool)


def _check_new(app: Application) -> None:
    if app.execution.state is not State.NEW:
        raise InvalidOperation(f"only a new job can be submitted; this one is {app.execution.state.value}")


def _groups(system: BatchSystem, apps: Sequence[Application]) -> list[list[Application]]:
    """Put elements of an array together that can be submitted as one."""
    groups: dict[object, list[Application]] = {}
    for app in apps:
        together = app.array is not None and app.array.name and "array" in system.capabilities
        groups.setdefault((app.array.name, app.execution.waits_for) if together and app.array else app, []).append(app)
    found: list[list[Application]] = []
    for group in groups.values():
        if len(group) > 1 and system.takes_array(_spec(group)):
            found.append(group)
        else:
            found += [[app] for app in group]
    return found


def _spec(group: Sequence[Application]) -> ArraySpec:
    elements = [app.array for app in group if app.array is not None]
    return ArraySpec(tuple(sorted(element.index for element in elements)), elements[0].max_running)


def _begin(system: BatchSystem, group: Sequence[Application]) -> Unit:
    array = _spec(group) if len(group) > 1 else None
    token = group[0].execution.token
    if array is not None or token is None or "/" in token:
        token = sandbox.new_token()
    for app in group:
        run = app.execution
        run.token = f"{token}/{app.array.index}" if array is not None and app.array is not None else token
        run.resource = system.name
        run.attempts += 1
        run.submission_started = True
        run.freed = run.collected = False
        app.set_state(State.SUBMITTING, f"submitting to {system.name}")
    return Unit(token, tuple(group), array)


def _send(system: BatchSystem, units: Sequence[Unit], spool: str, way: cache.Way = cache.Way.ARCHIVE) -> Answers:
    """Send all sandboxes and submit all jobs, in one stream."""
    try:
        staging = cache.stage(system, [app for unit in units for app in unit.apps], way)
    except BatchlibError as error:
        return _revert_all(units, system.tell(error))
    program = programs.submit(
        spool,
        [(unit.token, " ".join(system.submit_words(unit.apps[0]))) for unit in units],
        outer=system.outer_variables,
        kept=system.kept_variables,
        give_up=(*system.capacity_submit, *system.transient_submit),
        unclear=system.unclear_submit,
        prelude=system.submit_prelude(),
        limit=system.limit if system.clients_hang else "limit=",
        unpacked=staging.arrived,
        at_a_time=system.submissions_at_a_time,
        a_second=system.settings.submissions_a_second,
    )
    scripts = [(unit, system.script(unit.apps[0], unit.token, spool, unit.array)) for unit in units]
    packing = _Packing(staging)
    progress = events.Progress(system.transport, f"inputs of {len(units)} jobs")
    try:
        unsent = packing.send_ahead(system, progress)
        if unsent is not None:
            # nothing was asked of the batch system; the next attempt goes on where this one was
            _discard(system, units, staging)
            return _revert_all(units, system.tell(unsent))
        answer = system.transport.send(
            program.text, progress.counted(pack(packing.entries(scripts))), idle_timeout=system.settings.timeout
        )
    except DataStagingError as error:
        # everything is unpacked before anything is submitted, so nothing was: leave out what has the bad input
        return _without(system, units, packing.concerned(units), error, spool, staging)
    except ConnectionFailed as error:
        return _revert_all(units, system.tell(error))
    except TransportError as error:
        unclear = SubmissionUnclear(
            f"the connection broke in the middle of a submission ({error.message})", resource=system.name
        )
        return {app: unclear for unit in units for app in unit.apps}
    finally:
        progress.end()
    if answer.exitcode in (programs.UNPACKING_FAILED, programs.NO_SPOOL):
        full = sandbox.check_room(answer.err)
        _discard(system, units, staging)
        if full is None and staging.items and staging.way is cache.Way.ARCHIVE:
            # such as a file that has as many links as it may
            return _send(system, units, spool, cache.Way.LINKS)
        reason = full or DataStagingError(f"the inputs could not be written to {spool}: {answer.err.strip()[-300:]}")
        reason.resource = system.name
        return _revert_all(units, reason)
    return _answers(system, units, program.split(answer))


class _Packing:
    """Lists what goes to the frontend, and knows whose turn it is."""

    def __init__(self, staging: cache.Staging) -> None:
        self._staging = staging
        self._current: Unit | cache.Item | None = None

    def send_ahead(self, system: BatchSystem, progress: events.Progress) -> BatchlibError | None:
        """Send big inputs by themselves, over a link on which several channels are faster than one.

        Gives why one of them did not get there, if so.
        """
        if system.settings.ssh is None:
            return None
        for item in self._staging.missing:
            if item.wanted.size > BIG:
                self._current = item
                try:
                    self._staging.send_ahead(system, item, progress)
                except RemoteFileError as error:
                    return sandbox.check_room(str(error)) or DataStagingError(error.message)
                except TransportError as error:
                    return error
        return None

    def entries(self, scripts: Sequence[tuple[Unit, str]]) -> Iterator[Entry]:
        for item in self._staging.missing:
            self._current = item
            yield self._staging.content(item)
        for unit, script in scripts:
            self._current = unit
            yield from sandbox.root_entries(unit.token, script)
            for app in unit.apps:
                token = app.execution.token or ""
                if unit.array is not None:
                    yield from sandbox.element_entries(token, render_command(app))
                yield from self._staging.placed(sandbox.input_entries(app, token))
        self._current = None
        yield from self._staging.places()

    def concerned(self, units: Sequence[Unit]) -> list[Unit]:
        """Tell which jobs can't go without what was packed last."""
        current = self._current
        if isinstance(current, cache.Item):
            return [unit for unit in units if current.is_input_of(unit.apps)]
        return list(units) if current is None else [current]


def _without(
    system: BatchSystem,
    units: Sequence[Unit],
    bad: Sequence[Unit],
    error: BatchlibError,
    spool: str,
    staging: cache.Staging,
) -> Answers:
    """Submit all but some."""
    _discard(system, units, staging)
    tokens = {unit.token for unit in bad}
    rest = [unit for unit in units if unit.token not in tokens]
    return _revert_all(bad, error) | (_send(system, rest, spool) if rest else {})


def _answers(system: BatchSystem, units: Sequence[Unit], parts: dict[str, Completed]) -> Answers:
    """Take in what the submit command said for each."""
    answers: Answers = {}
    for unit in units:
        if unit.token in parts:
            answers |= _submitted(system, unit, parts[unit.token])
    silent = [unit for unit in units if unit.token not in parts]
    if not programs.all_told(parts):
        lost = SubmissionUnclear("not all answers of the batch system came back", resource=system.name)
        return answers | {app: lost for unit in silent for app in unit.apps}
    # the program stops asking when it is of no use: what stopped it holds for those that were not asked
    why = next((answer for answer in reversed(answers.values()) if answer is not None), None)
    if why is None or why.kind is not Kind.TRANSIENT:
        why = SystemUnavailable("the batch system does not answer now, so it was not asked", resource=system.name)
    return answers | _revert_all(silent, why)


def _submitted(system: BatchSystem, unit: Unit, answer: Completed) -> Answers:
    """Take in the answer of the submit command."""
    # an id is an id, whatever the exit code: some commands end with the job's own, or fail after they submitted
    jobid = system.jobid_in(answer.out)
    if jobid is not None:
        return _adopt(system, unit, jobid)
    error = system.submit_error(answer)
    return dict.fromkeys(unit.apps, error) if error.kind is Kind.UNCLEAR else _revert_all([unit], error)


def _adopt(system: BatchSystem, unit: Unit, jobid: str) -> Answers:
    for app in unit.apps:
        app.execution.jobid = unit.jobid_of(system, app, jobid)
        app.execution.unseen_since = None
        app.set_state(State.QUEUED, f"accepted by {system.name} as {app.execution.jobid}")
    return dict.fromkeys(unit.apps)


def _revert_all(units: Sequence[Unit], error: BatchlibError) -> Answers:
    """Note that jobs were not submitted: they are new again, under their old tokens."""
    answers: Answers = {}
    for unit in units:
        for app in unit.apps:
            app.execution.submission_started = False
            app.set_state(State.NEW, f"not submitted: {error}")
            answers[app] = error
    return answers


def recover(system: BatchSystem, apps: Sequence[Application]) -> Answers:
    """Find out what became of submissions without an answer.

    Parameters
    ----------
    system : BatchSystem
        Where they were sent.
    apps : sequence of Application
        Jobs in state SUBMITTING.
    """
    answers: Answers = {}
    units = _units_of(apps)
    try:
        traces = programs.parse_recover(system.ask(programs.recover(system.spool, [unit.token for unit in units])))
        never: list[Unit] = []
        unsettled: dict[str, Unit] = {}
        for unit in units:
            trace = traces.get(unit.token, programs.Trace())
            jobid = trace.owner or system.jobid_in(trace.answer)
            if jobid:
                answers |= _adopt(system, unit, system.array_jobid(jobid) if unit.array else jobid)
            elif not trace.asked:
                never.append(unit)
            else:
                unsettled[system.unique_name(unit.apps[0].jobname, unit.token)] = unit
        found: dict[str, str] = {}
        for some in _chunks(list(unsettled), _LOOKUPS_AT_ONCE):
            found |= system.parse_lookup(system.ask_all(system.lookup_commands(some)))
        for name, unit in unsettled.items():
            trace = traces[unit.token]
            if name in found:
                answers |= _adopt(system, unit, found[name])
            elif trace.submitter_alive or trace.age < _GRACE:
                wait = SubmissionUnclear("the batch system may still accept the job", resource=system.name)
                answers |= dict.fromkeys(unit.apps, wait)
            else:
                never.append(unit)
        answers |= _abandon(system, never)
    except BatchlibError as error:
        return answers | {app: system.tell(error) for app in apps if app not in answers}
    return answers


def _units_of(apps: Sequence[Application]) -> list[Unit]:
    """Find out which jobs were submitted together, by their tokens."""
    groups: dict[str, list[Application]] = {}
    for app in apps:
        groups.setdefault(sandbox.root_of(app.execution.token or ""), []).append(app)
    return [
        Unit(root, tuple(group), _spec(group) if "/" in (group[0].execution.token or "") else None)
        for root, group in groups.items()
    ]


def _abandon(system: BatchSystem, units: Sequence[Unit]) -> Answers:
    """Give up sandboxes whose jobs were not accepted, unless one turns out to have started just now."""
    if not units:
        return {}
    answers: Answers = {}
    program = programs.abandon(system.spool, [unit.token for unit in units])
    gone = programs.parse_abandon(system.ask(program))
    for unit in units:
        if unit.token in gone:
            _revert_all([unit], SubmissionUnclear("it was never accepted"))
            for app in unit.apps:
                app.execution.token = None
            answers |= dict.fromkeys(unit.apps)
        else:
            error = SubmissionUnclear("the job may just have started", resource=system.name)
            answers |= dict.fromkeys(unit.apps, error)
    return answers


def _discard(system: BatchSystem, units: Sequence[Unit], staging: cache.Staging) -> None:
    """Remove sandboxes of jobs that were not submitted."""
    try:
        program = sandbox.remove_program(programs.quote(system.spool), [unit.token for unit in units])
        system.ask(f"cd {programs.quote(system.spool)} || exit\n{staging.discarding}{program}")
    except TransportError:
        # what is left lies in the spool directory under a token that is used again by the next try
        return


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))
