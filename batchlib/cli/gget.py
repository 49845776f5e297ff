"""``gget``: fetch the outputs of tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ..errors import BatchlibError
from .common import Invocation, all_option, command, ids_argument, run
from .selection import chosen_ids

if TYPE_CHECKING:
    from ..application import Application
    from ..backends.base import Collected
    from ..engine import Engine

_EXAMPLE = """
gget 3                  into the directory that was chosen when it was submitted
gget -d results 3-7     into results/3 to results/7
gget -A                 of all tasks that have ended, unless they were fetched already
"""


class Fetched(NamedTuple):
    """How it went for one task.

    Parameters
    ----------
    directory : str, optional
        Where its outputs are.
    files, missing : tuple of str
        What came, and what was asked for and is not there.
    error : str, optional
        Why nothing came.
    """

    directory: str | None = None
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    error: str | None = None


@command("gget", example=_EXAMPLE)
@ids_argument
@all_option("Fetch the outputs of all tasks that have ended, unless that was done before.")
@click.option("-d", "--output-dir", metavar="DIR", help="Put the outputs into DIR (DIR/ID for several tasks).")
@click.option("-f", "--overwrite", is_flag=True, help="Fetch files again that are here and seem unchanged.")
def gget(invocation: Invocation, words: Sequence[str], every: bool, output_dir: str | None, overwrite: bool) -> int:
    """Fetch the outputs of tasks.

    Of a task that still runs, what is there so far is fetched. The exit status is the number of tasks whose outputs
    could not be fetched, or are missing although the task has ended.
    """
    from .control import refresh
    from .progress import progress_bar

    with invocation.open_session() as session:
        ids = chosen_ids(session, words, every)
        with invocation.engine(session) as engine, invocation.driving(session, ids):
            apps = session.load(ids)
            problems = refresh(engine, apps)
            chosen = [app for app in apps if app.execution.outputs_wait] if every else apps
            targets = {app: _target(app, output_dir, len(chosen) > 1) for app in chosen}
            with progress_bar():
                answers = _fetch(engine, targets, problems, overwrite)
            session.save(apps)
        _tell(invocation, answers)
        if invocation.as_json:
            from .output import print_json

            told = [{"id": app.task_id, **answer._asdict()} for app, answer in answers.items()]
            print_json({"session": session.name, "tasks": told})
    return sum(bool(answer.error or (answer.missing and app.execution.state.final)) for app, answer in answers.items())


def _target(app: Application, output_dir: str | None, several: bool) -> str:
    """Choose where a task's outputs go."""
    if output_dir is None:
        return app.output_dir or os.path.abspath(app.task_id or "")
    directory = os.path.abspath(os.path.expanduser(output_dir))
    return os.path.join(directory, app.task_id or "") if several else directory


def _fetch(
    engine: Engine, targets: Mapping[Application, str], problems: Mapping[Application, BatchlibError], overwrite: bool
) -> dict[Application, Fetched]:
    """Fetch outputs, resource by resource, side by side."""
    from .control import for_each_resource

    answers: dict[Application, Fetched] = {}
    for app, target in targets.items():
        told = _without_asking(app) or _make_directory(target)
        if told is None and app in problems:
            told = Fetched(error=str(problems[app]))
        if told is not None:
            answers[app] = told
    came, unknown = for_each_resource(
        engine,
        [app for app in targets if app not in answers],
        lambda backend, group: backend.collect_jobs({app: targets[app] for app in group}, overwrite),
    )
    answers |= {app: _take_in(app, answer) for app, answer in came.items()}
    answers |= {app: Fetched(error=str(error)) for app, error in unknown.items()}
    return {app: answers[app] for app in targets}


def _without_asking(app: Application) -> Fetched | None:
    """Answer for tasks that have nothing on a cluster."""
    run = app.execution
    if run.token is None:
        return Fetched(error="it was never submitted, so there is nothing to fetch")
    if run.freed and run.collected:
        return Fetched(app.output_dir)
    if run.freed:
        return Fetched(error="its sandbox was removed before its outputs were fetched")
    return None


def _make_directory(path: str) -> Fetched | None:
    """Make a target directory now, so that one that can't be made is no trouble for others."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Fetched(error=f"the directory {path} can't be made: {error.strerror}")
    return None


def _take_in(app: Application, answer: Collected | BatchlibError) -> Fetched:
    from ..cycle import note_collected

    if isinstance(answer, BatchlibError):
        return Fetched(error=str(answer))
    note_collected(app, answer)
    app.output_dir = answer.directory
    return Fetched(answer.directory, answer.files, answer.missing)


def _tell(invocation: Invocation, answers: Mapping[Application, Fetched]) -> None:
    from .output import count

    for app, answer in answers.items():
        if answer.error is not None:
            invocation.say(f"{app.task_id}: {answer.error}")
        elif answer.missing:
            invocation.say(f"{app.task_id}: missing: {', '.join(answer.missing)}")
        if answer.error is None and not invocation.as_json:
            what = "fetched before, to" if app.execution.freed else f"{count(len(answer.files), 'file')} in"
            print(f"{app.task_id}: {what} {answer.directory}")


def main() -> None:
    """Run the command."""
    run(gget)


if __name__ == "__main__":
    main()
