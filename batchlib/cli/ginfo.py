"""``ginfo``: everything that is known of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import BatchlibError
from .common import Invocation, all_option, command, ids_argument, run
from .selection import chosen_ids

if TYPE_CHECKING:
    from ..application import Application
    from ..store import Row

_EXAMPLE = """
ginfo 3
ginfo -v 3              the job script, too
ginfo --json 3-7 | jq '.tasks[].accounting'
"""
#: Fields of a description that are told in other words, or that nobody asked for.
_NOT_REQUESTED = {"arguments", "execution", "task_id", "jobname", "output_dir", "inputs", "outputs", "environment"}


@command("ginfo", example=_EXAMPLE)
@ids_argument
@all_option("Show all tasks of the session.")
def ginfo(invocation: Invocation, words: Sequence[str], every: bool) -> None:
    """Show everything that is known of tasks: what was asked for, what was used, and their history.

    No cluster is asked. With --verbose the job script is shown as well.
    """
    from .output import print_json

    with invocation.open_session() as session:
        ids = chosen_ids(session, words, every)
        rows = {row.id: row for row in session.rows(ids)}
        documents = [_document(invocation, app, rows[app.task_id or ""]) for app in session.load(ids)]
    if invocation.as_json:
        print_json({"session": session.name, "tasks": documents})
        return
    for number, document in enumerate(documents):
        print(("\n" if number else "") + _text(document))


def _document(invocation: Invocation, app: Application, row: Row) -> dict[str, object]:
    """Give all that is known of a task."""
    import attrs

    from .output import json_time, task_document

    asked = {
        key.removeprefix("requested_"): _plain(value)
        for key, value in attrs.asdict(app, recurse=False).items()
        if key not in _NOT_REQUESTED and value not in (None, False, (), "", 0)
    }
    used = {key: _plain(value) for key, value in attrs.asdict(app.execution.accounting, recurse=False).items()}
    for key in ("submitted", "started", "ended"):
        used[key] = json_time(getattr(app.execution.accounting, key))
    document: dict[str, object] = {
        **task_document(row),
        "command": app.command_line,
        "inputs": app.inputs,
        "outputs": app.outputs,
        "environment": app.environment,
        "requested": asked,
        "sandbox": _sandbox(invocation, app),
        "attempts": app.execution.attempts,
        "retried": app.execution.retried,
        "accounting": used,
        "efficiency": {name: round(share, 3) for name, share in app.efficiency.items()},
        "history": [{"time": json_time(at), "text": text} for at, text in app.execution.history],
    }
    if invocation.verbose:
        document["script"] = _script(invocation, app)
    return document


def _plain(value: object) -> object:
    """Give a value as JSON can have it."""
    import attrs

    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    kind = type(value)
    if attrs.has(kind):
        return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(kind)}
    return value if isinstance(value, str | int | float | dict) or value is None else str(value)


def _sandbox(invocation: Invocation, app: Application) -> str | None:
    """Tell where a task's directory is, as the configuration writes it."""
    run = app.execution
    if run.token is None or run.freed:
        return None
    settings = invocation.configuration.resources.get(run.resource or "")
    return f"{settings.spooldir}/{run.token}" if settings else run.token


def _script(invocation: Invocation, app: Application) -> str | None:
    try:
        return invocation.configuration.resource(app.execution.resource or "").render(app)
    except BatchlibError as error:
        invocation.say(f"{app.task_id}: its job script can't be shown: {error}")
        return None


def _text(document: Mapping[str, object]) -> str:
    """Lay a document out for people."""
    from .table import clean

    lines = []
    for key, value in document.items():
        if value in (None, "", [], {}, ()):
            continue
        if key == "history" and isinstance(value, list):
            lines.append("history:")
            lines += [f"    {entry['time']}  {clean(entry['text'])}" for entry in value]
        elif isinstance(value, Mapping):
            filled = {inner: shown for inner, shown in value.items() if shown not in (None, "", [], {})}
            if filled:
                lines.append(f"{key}:")
                lines += [f"    {clean(inner)}: {_shown(shown)}" for inner, shown in filled.items()]
        elif key == "script":
            lines += ["script:", *(f"    {clean(line)}" for line in str(value).splitlines())]
        else:
            lines.append(f"{key}: {_shown(value)}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    from .table import clean

    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(clean(str(item)) for item in value)
    return clean(str(value))


def main() -> None:
    """Run the command."""
    run(ginfo)


if __name__ == "__main__":
    main()
