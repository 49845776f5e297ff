"""``gsession``: sessions as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..errors import InvalidOperation, SessionError, SessionLocked
from .common import F, Invocation, command, group, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..run import State
    from ..session import Session

_EXAMPLE = """
gsession list
gsession log sweep
gsession run sweep &
gsession delete -f ./my-session
"""


@group("gsession", example=_EXAMPLE)
def gsession() -> None:
    """Look after sessions as a whole.

    A session is a durable set of tasks: a name, or a directory whose path holds a slash.
    """


def _subcommand(name: str, example: str) -> Callable[[F], F]:
    """Make a command of the group, which takes the session as an argument as well."""

    def decorate(function: F) -> F:
        named = click.argument("named", metavar="[SESSION]", required=False)(function)
        gsession.add_command(command(name, example=example)(named))
        return function

    return decorate


def _open(invocation: Invocation, named: str | None) -> Session:
    if named is not None:
        if invocation.session_name not in (None, named):
            raise click.UsageError("the session is named twice")
        invocation.session_name = named
    return invocation.open_session()


@command("list", example="gsession list --json", session=False)
def list_sessions(invocation: Invocation) -> None:
    """List the sessions that have a name, and count their tasks."""
    from ..session import Session, session_names
    from .output import counts_line, print_json
    from .table import table

    found: list[dict[str, object]] = []
    rows = []
    for name in session_names():
        try:
            with Session(name, create=False) as session:
                counts = session.counts()
        except SessionError as error:
            invocation.say(str(error))
            continue
        found.append({"name": name, "directory": str(session.directory), "counts": _plain(counts)})
        rows.append((name, counts_line(counts)))
    if invocation.as_json:
        print_json({"sessions": found})
    elif rows:
        print("\n".join(table(("SESSION", "TASKS"), rows)))
    else:
        print("no sessions")


gsession.add_command(list_sessions)


@_subcommand("info", "gsession info sweep")
def info(invocation: Invocation, named: str | None) -> None:
    """Show where a session is, its tasks, and who drives it."""
    from .output import counts_line, print_json

    with _open(invocation, named) as session:
        holder = _holder(session)
        if invocation.as_json:
            document = {"session": session.name, "directory": str(session.directory)}
            print_json({**document, "counts": _plain(session.counts()), "driven_by": holder})
            return
        print(f"session: {session.name}\ndirectory: {session.directory}\n{counts_line(session.counts())}")
        if holder:
            print(f"driven by: {holder}")


def _plain(counts: Mapping[State, int]) -> dict[str, int]:
    return {state.value: number for state, number in counts.items()}


def _holder(session: Session) -> str | None:
    """Say who drives a session."""
    try:
        with session.driving():
            return None
    except SessionLocked as error:
        return error.message.partition("driven by ")[2]


@_subcommand("log", "gsession log sweep | grep refused")
def log(invocation: Invocation, named: str | None) -> None:
    """Show what happened to all tasks, in the order of time."""
    from .output import json_time, local_time, print_json
    from .table import clean

    with _open(invocation, named) as session:
        lines = [(at, app.task_id, text) for app in session.load() for at, text in app.execution.history]
    lines.sort(key=lambda line: line[0])
    if invocation.as_json:
        entries = [{"time": json_time(at), "id": task, "text": text} for at, task, text in lines]
        print_json({"session": session.name, "log": entries})
        return
    for at, task, text in lines:
        print(f"{local_time(at)}  {task}  {clean(text)}")


@_subcommand("abort", "gsession abort sweep")
def abort(invocation: Invocation, named: str | None) -> int:
    """Cancel all tasks of a session.

    The answers are those of gkill.
    """
    from ..backends.base import Action
    from .acting import act_and_tell

    with _open(invocation, named) as session:
        return act_and_tell(
            invocation, session, [row.id for row in session.store.rows() if not row.state.final], Action.CANCEL
        )


@_subcommand("delete", "gsession delete -f sweep")
@click.option("-f", "--force", is_flag=True, help="Cancel tasks that have not ended, and give up unfetched outputs.")
def delete(invocation: Invocation, named: str | None, force: bool) -> int:
    """Remove a session, and what it left on clusters.

    Outputs that were fetched stay where they are. The session is kept when a task has not ended, or when outputs
    were not fetched, unless --force is given.
    """
    from .control import clean_away

    with _open(invocation, named) as session, invocation.driving(session):
        apps = session.load()
        if apps:
            with invocation.engine(session) as engine:
                problems = clean_away(engine, session, apps, force=force)
            if problems:
                for app, problem in problems.items():
                    invocation.say(f"{app.task_id}: {problem}")
                raise InvalidOperation(f"the session {session.name!r} was kept, for the tasks named above")
        session.destroy()
    if invocation.as_json:
        from .output import print_json

        print_json({"session": session.name, "deleted": True})
    return 0


@_subcommand("run", "* * * * *  gsession run --once sweep")
@click.option("--once", is_flag=True, help="Run one cycle only, as a line for cron would.")
def run_session(invocation: Invocation, named: str | None, once: bool) -> int:
    """Drive a session's tasks until all have ended.

    Tasks are submitted, watched and tried again; nothing is printed but trouble. Outputs are not fetched. The exit
    status is the number of tasks that did not end well.
    """
    from ..run import State
    from .output import print_tasks_document
    from .progress import Problems

    with _open(invocation, named) as session, invocation.engine(session) as engine:
        problems = Problems(invocation, engine)
        if once:
            try:
                engine.progress()
            except SessionLocked as error:
                invocation.say(str(error))
            problems.tell()
        else:
            engine.run(tell=lambda counts: problems.tell())
        if invocation.as_json:
            print_tasks_document(session, session.store.rows())
        return 0 if once else sum(number for state, number in session.counts().items() if state is not State.DONE)


def main() -> None:
    """Run the command."""
    run(gsession)


if __name__ == "__main__":
    main()
