"""Bringing outputs back, and removing what is left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import events, sandbox
from ..application import EVERYTHING, Application
from ..errors import BatchlibError, DataStagingError, InvalidOperation, SpoolDirectoryError
from ..transport import trees
from ..transport.posix import remote_file_error
from ..transport.shell import Completed
from ..transport.unpacking import unpack
from . import programs
from .base import Collected

if TYPE_CHECKING:
    from .batch import BatchSystem

#: Names of files fetched with one command line.
_NAMES_AT_ONCE = 4000
#: So many names are first looked at whether they hold no more than so many bytes.
_FEW, _SMALL = 256, 1 << 20


def collect(
    system: BatchSystem,
    targets: Mapping[Application, str | os.PathLike[str]],
    overwrite: bool = False,
    changed_only: bool = True,
) -> dict[Application, Collected | BatchlibError]:
    """Fetch the outputs of many jobs in one stream: see `Backend.collect_jobs`."""
    answers: dict[Application, Collected | BatchlibError] = {}
    names: dict[Application, list[str]] = {}
    for app in targets:
        token = app.execution.token
        if token is None or app.execution.freed:
            answers[app] = InvalidOperation("the job has no sandbox to fetch from")
        elif (problem := _make_directory(targets[app])) is not None:
            answers[app] = problem
        else:
            wanted = sandbox.wanted_outputs(app)
            names[app] = [token] if EVERYTHING in wanted else [f"{token}/{name}" for name in wanted]
    try:
        for batch in _batches(names, _NAMES_AT_ONCE):
            came = _fetch(system, batch, targets, overwrite, changed_only)
            for app in batch:
                files = came[system.token(app)]
                answers[app] = Collected(
                    os.fspath(targets[app]), tuple(sorted(files)), tuple(sandbox.missing(app, files))
                )
                app.execution.collected = app.execution.state.final
    except BatchlibError as error:
        told = system.tell(error)
        answers |= {app: told for app in names if app not in answers}
    return answers


def _make_directory(path: str | os.PathLike[str]) -> DataStagingError | None:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return DataStagingError(f"cannot make the output directory {path}: {error.strerror}")
    return None


def _fetch(
    system: BatchSystem,
    names: Mapping[Application, Sequence[str]],
    targets: Mapping[Application, str | os.PathLike[str]],
    overwrite: bool,
    changed_only: bool,
) -> dict[str, list[str]]:
    """Unpack the files of some jobs; give the names that came, by sandbox."""
    by_token = {system.token(app): app for app in names}
    came: dict[str, list[str]] = {token: [] for token in by_token}

    def place(member: str) -> Path | None:
        token, inner = sandbox.split_member(member, by_token)
        app = by_token.get(token)
        local = sandbox.local_name(app, inner) if app is not None and inner else None
        if app is None or local is None:
            return None
        came[token].append(inner)
        return Path(targets[app], local)

    def wanted(path: Path, size: int, mtime: float) -> bool:
        return overwrite or (changed_only and not trees.same(path, size, mtime))

    what = f"outputs of {len(names)} jobs"
    listed = [name for found in names.values() for name in found]

    def check(answer: Completed) -> None:
        # tar's exit code tells of files that are missing, which we see ourselves
        if answer.exitcode == programs.NO_SPOOL:
            raise SpoolDirectoryError(f"the spool directory {system.spool} is gone", resource=system.name)

    if len(listed) <= _FEW:
        # a stream of its own costs two round trips more than what comes through a shell
        answer = system.ask(programs.collect_small(system.spool, listed, _SMALL))
        check(answer)
        if answer.exitcode != programs.TOO_LARGE and len(answer.stdout) <= _SMALL:
            progress = events.Progress(system.transport, what)
            unpack(progress.counted([answer.stdout]), place, wanted=wanted)
            progress.end()
            return came
    trees.fetch(
        system.transport,
        system.spool,
        programs.collect(system.spool, listed),
        place,
        check,
        wanted=wanted,
        name=what,
        idle_timeout=system.settings.timeout,
    )
    return came


def free(system: BatchSystem, apps: Sequence[Application]) -> dict[Application, BatchlibError | None]:
    """Remove the sandboxes of jobs that have ended; removing twice is harmless."""
    answers: dict[Application, BatchlibError | None] = {}
    ready = []
    for app in apps:
        run = app.execution
        if run.state.live:
            answers[app] = InvalidOperation("the job has not ended: cancel it first")
        elif run.token is None or run.freed:
            answers[app] = None
        else:
            ready.append(app)
    if not ready:
        return answers
    try:
        program = sandbox.remove_program(programs.quote(system.spool), map(system.token, ready))
        answer = system.ask(program)
        if answer.exitcode:
            raise remote_file_error("cannot remove the sandboxes", answer)
    except BatchlibError as error:
        return answers | dict.fromkeys(ready, system.tell(error))
    for app in ready:
        app.execution.freed = True
        app.execution.note("sandbox removed")
    return answers | dict.fromkeys(ready)


def _batches(names: Mapping[Application, Sequence[str]], size: int) -> Iterator[dict[Application, Sequence[str]]]:
    """Cut jobs into batches that name at most `size` files."""
    batch: dict[Application, Sequence[str]] = {}
    count = 0
    for app, found in names.items():
        if batch and count + len(found) > size:
            yield batch
            batch, count = {}, 0
        batch[app] = found
        count += len(found)
    if batch:
        yield batch
