"""Job scripts: a native header, and around the command what every job needs."""

from __future__ import annotations

import functools
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..application import Application
from ..quantity import Memory
from ..sandbox import STDIN
from ..settings import ResourceSettings

if TYPE_CHECKING:
    from jinja2 import Environment, Template


@functools.cache
def _environment() -> Environment:
    # imported late: most commands never render anything
    from jinja2 import Environment, StrictUndefined

    # what is made here is shell text, not HTML; every value is quoted for the shell where it is used
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["q"] = shlex.quote
    environment.filters["comment"] = _comment
    return environment


@functools.cache
def _template(text: str) -> Template:
    return _environment().from_string(text)


@functools.cache
def template_text(directory: Path, name: str) -> str:
    """Read a template that lies in the folder ``templates`` beside a module.

    Parameters
    ----------
    directory : Path
        Where the module lies.
    name : str
        The template's file name.
    """
    return (directory / "templates" / name).read_text(encoding="utf-8")


def _own(name: str) -> Template:
    return _template(template_text(Path(__file__).parent, name))


def _comment(text: str) -> str:
    """Make text safe for a comment: one line, and no directive of any batch system."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:100]


def render_command(app: Application) -> str:
    """Make the shell text that becomes the command of a job, in its sandbox.

    Parameters
    ----------
    app : Application
        The job.
    """
    environment = dict(app.environment)
    if app.array is not None:
        environment["TASK_ID"] = str(app.array.index)
    return _own("command.sh.j2").render(
        environment=environment,
        arguments=app.arguments,
        stdin=STDIN if app.stdin is not None else "/dev/null",
        stdout=_shell_path(app.stdout),
        stderr="&1" if app.join else shlex.quote(_shell_path(app.stderr)),
    )


def render_script(
    app: Application,
    settings: ResourceSettings,
    *,
    template: str,
    name: str,
    sandbox: str,
    jobid_expression: str,
    index_expression: str = "",
    reserved_codes: Sequence[int] = (),
    values: Mapping[str, object],
) -> str:
    """Make the text of a job script.

    Parameters
    ----------
    app : Application
        The job, or one element of the array.
    settings : ResourceSettings
        Where it runs.
    template : str
        Text of the header's template.
    name : str
        The job's name in the queue.
    sandbox : str
        Absolute path of its directory.
    jobid_expression : str
        Shell expression for the native id, inside the job.
    index_expression : str
        For an array: shell expression for the element's index, inside the job.
    reserved_codes : sequence of int
        Exit codes that the script must not end with.
    values : mapping
        More values for the header's template.
    """
    common = {**header_values(app, settings), "name": name, "sandbox": sandbox, "shell": settings.shell}
    header = _template(template).render({**common, **values}).rstrip("\n")
    return _own("job.sh.j2").render(
        shell=settings.shell,
        header=header,
        jobname=app.jobname,
        sandbox=sandbox,
        jobid_expression=jobid_expression,
        index_expression=index_expression,
        reserved_codes="|".join(map(str, reserved_codes)),
        prologue=settings.script_parts("prologue", app.application_name),
        epilogue=settings.script_parts("epilogue", app.application_name),
        array=bool(index_expression),
        command="" if index_expression else render_command(app),
    )


def header_values(app: Application, settings: ResourceSettings) -> dict[str, object]:
    """Give what every header's template may use: what a job asks for, with the resource's defaults.

    Parameters
    ----------
    app : Application
        The job.
    settings : ResourceSettings
        Where it runs.
    """
    several = app.requested_nodes is not None or app.tasks_per_node is not None
    nodes = app.requested_nodes or 1
    memory: Memory | None = app.requested_memory
    now = time.time()
    return {
        "cores": app.total_cores,
        "nodes": nodes if several else None,
        "tasks_per_node": app.tasks_per_node or 1,
        "cores_per_task": app.cores_per_task or (app.requested_cores if several else 1),
        "memory": app.total_memory,
        "memory_per_node": memory * (1 / nodes) if memory is not None else None,
        "memory_per_core": app.requested_memory_per_core,
        "gpus": app.requested_gpus,
        "walltime": app.requested_walltime,
        "queue": app.queue or settings.queue,
        "account": app.account or settings.account,
        "qos": app.qos or settings.qos,
        "reservation": app.reservation,
        "constraint": app.constraint,
        "exclusive": app.exclusive,
        "priority": app.priority,
        "seconds_to_begin": _seconds_until(app.begin, now),
        "seconds_to_deadline": _seconds_until(app.deadline, now),
        "rerunnable": app.rerunnable,
        "mail_to": app.mail_to,
        "mail_on": app.mail_on,
        "hold": app.hold,
        "native": app.native,
    }


def _seconds_until(moment: float | None, now: float) -> int | None:
    return None if moment is None or moment <= now else round(moment - now)


def _shell_path(name: str) -> str:
    """Keep a redirection from reading a name as anything but a file's."""
    return "./" + name
