"""``gsub``: run a command on a cluster."""

from __future__ import annotations

import datetime
import os
import re
import sys
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import (
    BatchlibError,
    ConfigurationError,
    ConnectionFailed,
    DataStagingError,
    InvalidValue,
    SessionLocked,
)
from .common import Invocation, checked, command, duration, memory, run

if TYPE_CHECKING:
    from ..application import Application, Dependency
    from ..array import ArraySpec
    from ..backends.base import Backend
    from ..engine import Engine
    from ..session import Session

#: Characters of a script that are looked at for header lines.
_LONGEST_SCRIPT = 1 << 20
#: Seconds to wait for a process that drives the session, before it is left to submit the tasks.
_PATIENCE = 30.0

_EXAMPLE = """
gsub -c 4 -m '2 GB' -w '8 hours' -i simulate -o result.csv -- ./simulate --seed 7
gsub -r cluster -n 10 -d out -- sh -c 'echo $RANDOM'
gsub -W -- make test                    wait for it, fetch what it printed
gsub -a 1-100%10 -i 'in{index}.csv:in.csv' -- ./fit in.csv
gsub --after 7:ok -- ./collect          when task 7 (or all of array 7) ended well
gsub job.sh                             a script written for Slurm, PBS, Grid Engine or LSF
gsub --dry-run -c 16 -- ./simulate      show the job script, submit nothing
"""


# --- options -----------------------------------------------------------------------------------------------


def read_files(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Read ``FROM[:TO]``; a colon that belongs to the name of an existing file is no separator."""
    pairs = []
    for text in texts:
        first, _, second = text.rpartition(":")
        if not first or not second or os.path.exists(text):
            first, second = text, os.path.basename(text.rstrip("/"))
        pairs.append((first, second))
    return pairs


def read_outputs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Read ``REMOTE[:LOCAL]``."""
    return [(remote, local or remote) for remote, _, local in (text.partition(":") for text in texts)]


def read_variables(texts: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``."""
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InvalidValue(f"{text!r} is no NAME=VALUE")
        found[name] = value
    return found


def read_moment(text: str) -> float:
    """Read a time, or how long it is until then, as seconds since the epoch."""
    if text.startswith("+"):
        return time.time() + duration(text[1:]).seconds
    try:
        moment = datetime.datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text)).timestamp()
    except ValueError:
        raise InvalidValue(f"{text!r} is no time: write it such as 2030-01-31T18:00, or '+2 hours'") from None
    if moment < time.time():
        raise InvalidValue(f"{text} is over already")
    return moment


def read_mail_on(text: str) -> tuple[str, ...]:
    """Read a list of occasions."""
    words = tuple(re.split(r"[,\s]+", text.strip().lower()))
    for word in words:
        if word not in ("begin", "end", "fail"):
            raise InvalidValue(f"{word!r} is none of begin, end, fail")
    return words


def read_after(texts: Sequence[str]) -> tuple[Dependency, ...]:
    """Read ``ID[,ID...][:ok|any|notok]``."""
    from ..application import Dependency

    found = []
    for text in texts:
        ids, _, on = text.partition(":")
        words = [word for word in ids.split(",") if word]
        if not words:
            raise InvalidValue(f"{text!r} names no task: write it such as 7, 7,8:any or 7.{{index}}:ok")
        found.append(Dependency(words, on or "ok"))
    return tuple(found)


def read_array(text: str) -> ArraySpec:
    """Read the indices of an array."""
    from ..array import parse_array

    return parse_array(text)


_COUNT = click.IntRange(min=1)


@command("gsub", example=_EXAMPLE, options_first=True)
@click.argument("arguments", metavar="COMMAND|SCRIPT [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.option("-r", "--resource", metavar="RESOURCE", help="Where to run; default is the first one configured.")
@click.option("-N", "--name", "jobname", metavar="NAME", help="Name in the queue; default is the command's.")
@click.option("-n", "--copies", type=_COUNT, default=1, metavar="COPIES", help="Number of tasks to make; default is 1.")
@click.option(
    "-a", "--array", metavar="ARRAY[%MAX]", callback=checked(read_array),
    help="Make an array: 1-10, 0-20:5, 1,3,7-9%2; {index} in arguments and names is the element's index.",
)  # fmt: skip
@click.option(
    "--after", multiple=True, metavar="ID[,ID...][:HOW]", callback=checked(read_after),
    help="Start when these tasks have ended: ok (the default), any or notok; may be repeated.",
)  # fmt: skip
@click.option("-c", "--cores", "requested_cores", type=_COUNT, metavar="CORES", help="Cores, on one node.")
@click.option(
    "-m", "--memory-per-core", "requested_memory_per_core", metavar="MEMORY", callback=checked(memory),
    help="Memory for each core, with its unit: '2 GB'.",
)  # fmt: skip
@click.option(
    "--memory", "requested_memory", metavar="MEMORY", callback=checked(memory),
    help="Memory in total; excludes -m.",
)  # fmt: skip
@click.option(
    "-w", "--walltime", "requested_walltime", metavar="WALLTIME", callback=checked(duration),
    help="Longest time to run, with its unit: '8 hours', 1h30m, 01:30:00.",
)  # fmt: skip
@click.option("--nodes", "requested_nodes", type=_COUNT, metavar="N", help="Nodes.")
@click.option("--tasks-per-node", type=_COUNT, metavar="N", help="Processes on each node.")
@click.option("--cores-per-task", type=_COUNT, metavar="N", help="Cores of each process.")
@click.option("--gpus", "requested_gpus", type=click.IntRange(min=0), metavar="N", help="GPUs on each node.")
@click.option("--exclusive", is_flag=True, help="Share the nodes with no other job.")
@click.option("--constraint", metavar="FEATURE", help="Only nodes with this feature.")
@click.option("-q", "--queue", metavar="QUEUE", help="Queue or partition.")
@click.option("-A", "--account", metavar="ACCOUNT", help="Account to charge.")
@click.option("--qos", metavar="QOS", help="Quality of service.")
@click.option("--reservation", metavar="NAME", help="Run inside this reservation.")
@click.option("--priority", type=int, metavar="N", help="Priority, in the batch system's own scale.")
@click.option(
    "--begin", metavar="TIME", callback=checked(read_moment),
    help="Start no earlier: 2030-01-31T18:00, or '+2 hours'.",
)  # fmt: skip
@click.option("--hold", is_flag=True, help="Wait in the queue until it is released.")
@click.option("--rerunnable", is_flag=True, help="Let the batch system start it again by itself.")
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="Run it again after a failure, so many times.")
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="LOCAL[:REMOTE]", callback=checked(read_files),
    help="File or directory to send; may be repeated.",
)  # fmt: skip
@click.option(
    "-o", "--output", "outputs", multiple=True, metavar="REMOTE[:LOCAL]", callback=checked(read_outputs),
    help="File or directory to fetch, '*' for everything; may be repeated.",
)  # fmt: skip
@click.option(
    "-d", "--output-dir", metavar="DIR",
    help="Where outputs go (DIR/ID for several copies); default is ./ID.",
)  # fmt: skip
@click.option(
    "-e", "--env", "environment", multiple=True, metavar="NAME=VALUE", callback=checked(read_variables),
    help="Variable to set for the command; may be repeated.",
)  # fmt: skip
@click.option("--stdin", metavar="FILE", help="Local file for the command's standard input.")
@click.option("--stdout", metavar="FILE", help="Name for the file with what it prints; default is stdout.txt.")
@click.option("--stderr", metavar="FILE", help="Name for the file with its error messages; default is stderr.txt.")
@click.option("--join", is_flag=True, help="Put error messages into the file of standard output.")
@click.option("--app", "application_name", metavar="NAME", help="Kind of application, for prologues of its own.")
@click.option("--mail-to", metavar="ADDRESS", help="Where the batch system's mails go.")
@click.option(
    "--mail-on", metavar="WHEN", callback=checked(read_mail_on),
    help="When it writes them: begin, end, fail, separated by commas.",
)  # fmt: skip
@click.option(
    "--native", multiple=True, metavar="OPTION",
    help="Option for the batch system's own submit command, as it is; may be repeated.",
)  # fmt: skip
@click.option("-W", "--wait", is_flag=True, help="Wait until all have ended, and fetch their outputs.")
@click.option("--dry-run", is_flag=True, help="Show the job script and the submit command; do nothing.")
def gsub(
    invocation: Invocation,
    arguments: tuple[str, ...],
    resource: str | None,
    copies: int,
    array: ArraySpec | None,
    output_dir: str | None,
    wait: bool,
    dry_run: bool,
    **description: Any,
) -> int:
    """Run COMMAND with its arguments, as they are, on a cluster.

    A SCRIPT with #SBATCH, #PBS, #$ or #BSUB lines is sent and run, on whatever system the cluster has; what its lines
    ask for counts unless an option says otherwise.

    The ids of the new tasks are printed, one a line. Nothing is submitted unless everything is right; a task that
    the batch system refuses is not kept. The exit status is the number of tasks that were refused, or, with
    --wait, that failed.
    """
    from ..array import distinct_elements

    if not arguments:
        raise click.UsageError("what is to be run? Say the command")
    backend = _backend(invocation, resource)
    arguments, array = _take_script(invocation, arguments, description, array)
    if array is not None and copies > 1:
        raise click.UsageError("an array can't be copied: give either -a or -n")
    several = copies > 1 or array is not None
    whole = _application(arguments, None if several else output_dir, description, backend.name)
    apps = [whole] if array is None else distinct_elements(whole, array)
    _check(invocation, backend, apps, output_dir or ".")
    if dry_run:
        _show_script(invocation, backend, whole, array)
        return 0
    with invocation.open_session(create=True) as session:
        directory = output_dir if several and output_dir else "."
        if array is not None:
            ids = session.add_array(whole, array, directory)
        else:
            ids = session.add(*_copies(whole, copies), directory=directory)
        apps = session.load(ids)
        with invocation.engine(session, fetch=wait) as engine:
            failures = _submit(invocation, session, engine, apps, ids)
            kept = [app.task_id or "" for app in apps if app.task_id not in failures]
            if not invocation.as_json:
                print("".join(f"{task}\n" for task in kept), end="", flush=True)
            failed = len(failures)
            if wait and kept:
                from .gwait import wait_for

                failed += wait_for(invocation, session, engine, kept)
        if invocation.as_json:
            from .output import print_tasks_document

            print_tasks_document(session, session.store.rows(kept))
        elif kept and not wait and sys.stdout.isatty():
            listed = kept[0] if len(kept) == 1 else f"{kept[0]}-{kept[-1]}"
            invocation.say(f"'gstat {listed}' shows how it goes, 'gwait {listed}' waits and fetches the outputs")
    return failed


# --- before anything is added ------------------------------------------------------------------------------


def _backend(invocation: Invocation, resource: str | None) -> Backend:
    configuration = invocation.configuration
    name = resource or next((name for name, found in configuration.resources.items() if found.enabled), None)
    if name is None:
        raise ConfigurationError("no resource is enabled in the configuration")
    if not configuration.settings(name).enabled:
        raise ConfigurationError(f"the resource {name!r} is not enabled in the configuration")
    return configuration.resource(name)


def _application(
    arguments: tuple[str, ...], output_dir: str | None, description: dict[str, Any], resource: str
) -> Application:
    from ..application import Application

    given = {key: value for key, value in description.items() if value not in (None, False)}
    app = Application(arguments, output_dir=output_dir, **given)
    app.execution.resource = resource
    return app


def _copies(app: Application, count: int) -> list[Application]:
    from ..application import twin
    from ..run import Run

    return [app, *(twin(app, Run(resource=app.execution.resource)) for _ in range(count - 1))]


def _take_script(
    invocation: Invocation, arguments: tuple[str, ...], description: dict[str, Any], array: ArraySpec | None
) -> tuple[tuple[str, ...], ArraySpec | None]:
    """Read the header lines of a script written for a batch system, if that is what is to be run."""
    path = arguments[0]
    sent = [os.path.abspath(local) for local, _remote in description["inputs"]]
    if not os.path.isfile(path) or os.path.abspath(path) in sent:
        return arguments, array
    from ..native_script import parse_script

    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read(_LONGEST_SCRIPT)
    header = parse_script(text)
    if not header.system:
        return arguments, array
    for what in header.not_carried:
        invocation.say(f"warning: {path}: {what} can't be carried over from {header.system}")
    for key, value in header.fields.items():
        if key == "environment":
            description[key] = {**value, **(description[key] or {})}
        elif description.get(key) in (None, False, ()):
            description[key] = value
    if description.get("requested_memory") and description.get("requested_memory_per_core"):
        description.pop("requested_memory" if "requested_memory" in header.fields else "requested_memory_per_core")
    name = os.path.basename(path)
    description["inputs"] = [*description["inputs"], (path, name)]
    runner = (f"./{name}",) if text.startswith("#!") else ("/bin/sh", name)
    return (*runner, *arguments[1:]), array if array is not None or not header.array else read_array(header.array)


def _check(invocation: Invocation, backend: Backend, apps: Sequence[Application], output_dir: str) -> None:
    """Check all that can be checked without asking the cluster."""
    from ..application import check_inputs

    app = apps[0]
    backend.validate(app)
    for what in check_inputs(apps).values():
        raise DataStagingError(what)
    _check_directory(output_dir)
    program = app.arguments[0]
    if program.startswith("./") and os.path.exists(program) and not _is_sent(app, program):
        name = program.removeprefix("./")
        invocation.say(f"warning: {program} is not among the inputs: '-i {name}:{name}' would send it")


def _check_directory(path: str) -> None:
    """Check that outputs can be written into a directory, which may have to be made yet."""
    path = whole = os.path.abspath(os.path.expanduser(path))
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise DataStagingError(f"outputs can't go to {whole}: {path} is no directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise DataStagingError(f"outputs can't go to {whole}: you may not write to {path}; name a directory with -d")


def _is_sent(app: Application, program: str) -> bool:
    name = os.path.normpath(program)
    return any(name == sent or name.startswith(sent + "/") for sent in map(os.path.normpath, app.inputs.values()))


def _show_script(invocation: Invocation, backend: Backend, app: Application, array: ArraySpec | None) -> None:
    script = backend.render(app, array)
    if invocation.as_json:
        from .output import print_json

        print_json({"resource": backend.name, "script": script})
    else:
        print(script)


# --- submission --------------------------------------------------------------------------------------------


def _submit(
    invocation: Invocation, session: Session, engine: Engine, apps: Sequence[Application], ids: Sequence[str]
) -> Collection[str]:
    """Submit new tasks, and take those that were refused out of the session again; give their ids."""
    from .progress import progress_bar

    try:
        with progress_bar():
            engine.progress(ids, patience=_PATIENCE)
    except SessionLocked as error:
        invocation.say(f"{error}; the new tasks will be submitted by it, or by the next gstat or gwait")
        return ()
    except KeyboardInterrupt:
        invocation.say(f"the tasks {ids[0]} to {ids[-1]} are in the session; gstat tells what became of them")
        raise
    with invocation.driving(session, ids):
        session.load(ids)
        refused = {app: why for app in apps if (why := _refusal(engine, app)) is not None}
        # best effort: a sandbox that was begun is of no use to anybody
        begun = [app for app in refused if app.execution.state.final]
        engine.backend(apps[0].execution.resource or "").free_jobs(begun)
        session.remove(refused)
    invocation.say_each(refused.values())
    _tell_of_open_ends(invocation, [app for app in apps if app not in refused])
    return {app.task_id or "" for app in refused}


def _refusal(engine: Engine, app: Application) -> str | None:
    """Say why a task can't be submitted; None for one that was, or that can be tried again later."""
    from ..run import State

    run = app.execution
    if run.state is State.FAILED and run.jobid is None:
        return run.info
    problem: BatchlibError | None = engine.problems.get(run.resource or "")
    if run.state is State.NEW and isinstance(problem, ConnectionFailed):
        # whoever typed this is still there to hear that the cluster can't be reached: nothing was asked of it
        return str(problem)
    return None


def _tell_of_open_ends(invocation: Invocation, apps: Sequence[Application]) -> None:
    from ..run import State

    texts = {
        State.NEW: "it will be submitted by the next gstat or gwait",
        State.SUBMITTING: "it is not known yet whether it was accepted; gstat will find out",
    }
    open_ends = [app.execution for app in apps if app.execution.state in texts]
    invocation.say_each(f"{run.info}; {texts[run.state]}" for run in open_ends)


def main() -> None:
    """Run the command."""
    run(gsub)


if __name__ == "__main__":
    main()
