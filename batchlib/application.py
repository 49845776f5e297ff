"""What to run: one description for every batch system."""

from __future__ import annotations

import copy
import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import PurePosixPath

import attrs

from . import events
from .errors import InvalidValue
from .quantity import Duration, Memory
from .run import Run, State

#: Our own directory in each sandbox.
RESERVED = ".batchlib"
#: As an output: everything that is in the sandbox.
EVERYTHING = "*"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAIL_ON = ("begin", "end", "fail")
#: Names and amounts that were checked lately: thousands of tasks often have the same ones.
_remembered = lru_cache(maxsize=4096)
#: What may stand in a name that goes into a directive of a job script.
_WORD = re.compile(r"[A-Za-z0-9_.,:@%+=/&|*!()\[\]-]+")


def _words(value: str | Iterable[object]) -> tuple[str, ...]:
    """Take a list as it is, and split a string at blanks as a shell would."""
    try:
        return tuple(shlex.split(value)) if isinstance(value, str) else tuple(map(str, value))
    except ValueError as error:
        raise InvalidValue(f"{value!r} can't be split into words ({error}): write a list") from None


def _texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Take a list as it is, and a string as its only member."""
    return (value,) if isinstance(value, str) else tuple(value)


def _pairs(value: Mapping[str, str] | Iterable[object], *, bare_keeps_path: bool) -> dict[str, str]:
    """Take a mapping, or a list of pairs and bare names."""
    if isinstance(value, str):
        value = [value]
    items = value.items() if isinstance(value, Mapping) else value
    found: dict[str, str] = {}
    for item in items:
        try:
            if isinstance(item, tuple | list):
                first, second = map(os.fspath, item)
            else:
                first = os.fspath(item)  # type: ignore[call-overload]
                second = first if bare_keeps_path else os.path.basename(first.rstrip("/"))
        except (TypeError, ValueError):
            raise InvalidValue(f"{item!r} is neither a file name nor a pair of them") from None
        if first in found:
            raise InvalidValue(f"{first!r} is named twice")
        found[first] = second
    return found


def _inputs(value: Mapping[str, str] | Iterable[object]) -> dict[str, str]:
    return {local: _name(remote) for local, remote in _pairs(value, bare_keeps_path=False).items()}


def _outputs(value: Mapping[str, str] | Iterable[object]) -> dict[str, str]:
    pairs = [(_name(remote), _name(local)) for remote, local in _pairs(value, bare_keeps_path=True).items()]
    return _pairs(pairs, bare_keeps_path=True)


def _name(value: str | os.PathLike[str]) -> str:
    """Give the plain form of a relative name, without ``./`` and trailing slashes."""
    return _plain_name(os.fspath(value))


@_remembered
def _plain_name(name: str) -> str:
    return str(PurePosixPath(name)) if name else name


def _variables(value: Mapping[str, str]) -> dict[str, str]:
    return dict(value)


def _dependencies(value: Iterable[Dependency]) -> tuple[Dependency, ...]:
    return tuple(value)


def _memory(value: str | Memory | None) -> Memory | None:
    return _read_memory(value) if isinstance(value, str) else None if value is None else Memory(value)


def _duration(value: str | Duration | None) -> Duration | None:
    return _read_duration(value) if isinstance(value, str) else None if value is None else Duration(value)


_read_memory = _remembered(Memory)
_read_duration = _remembered(Duration)


def _path(value: str | os.PathLike[str] | None) -> str | None:
    return None if value is None else os.fspath(value)


@attrs.frozen
class ArrayElement:
    """A task's place in an array.

    Parameters
    ----------
    name : str
        The array's id in the session.
    index : int
        The element's index.
    max_running : int, optional
        Elements of the array that may run at a time.
    """

    name: str
    index: int
    max_running: int | None = None


@attrs.frozen
class Dependency:
    """Tasks that have to end before another one may start.

    Parameters
    ----------
    ids : tuple of str
        Them; the id of an array means all its elements.
    on : str
        How they have to end: ``ok`` (all of them DONE), ``notok`` (all of them ended otherwise) or ``any``.
    """

    ids: tuple[str, ...] = attrs.field(converter=_words)
    on: str = attrs.field(default="ok")

    @on.validator
    def _check_on(self, _attribute: object, value: str) -> None:
        if value not in ("ok", "any", "notok"):
            raise InvalidValue(f"{value!r} is no way for a task to end: use ok, any or notok")


@attrs.define(eq=False, repr=False)
class Application:
    """A command with all it needs, and, once submitted, what became of it (`execution`).

    Nothing is expanded: arguments and values of variables arrive exactly as they are written here.
    For a shell's features say ``["sh", "-c", "text"]``.

    Parameters
    ----------
    arguments : list of str, or str
        The command and its arguments; one string is split at blanks as a shell would. A command that is
        among the inputs (``./program``) is made executable.
    inputs : mapping, or list of paths and (local, remote) pairs
        Local files and directories to send, and their names in the sandbox.
    outputs : mapping, or list of names and (remote, local) pairs
        Files and directories to fetch, and their names below `output_dir`; ``"*"`` for everything.
    output_dir : path, optional
        Where outputs go; default is a directory named after the task's id.
    environment : mapping of str to str
        Variables set for the command.
    stdin : path, optional
        Local file for the command's standard input; empty without it.
    stdout, stderr : str
        Names of the files, in the sandbox and in `output_dir`, for what the command prints.
    join : bool
        Print standard error into the file of standard output.
    jobname : str
        Name that shows in the queue.
    application_name : str
        Kind of application, for which a resource may have a prologue of its own (``NAME_prologue``).
    requested_cores : int
        Cores, all on one node unless `requested_nodes` says otherwise.
    requested_nodes : int, optional
        Nodes; each gets `tasks_per_node` tasks of `cores_per_task` cores.
    tasks_per_node, cores_per_task : int, optional
        Shape of a job on several nodes.
    requested_memory : Memory or str, optional
        Memory in total.
    requested_memory_per_core : Memory or str, optional
        Memory for each core; excludes `requested_memory`.
    requested_gpus : int
        GPUs, on each node.
    requested_walltime : Duration or str, optional
        Longest time that the command may run.
    requested_architecture : str, optional
        Processor architecture, such as ``x86_64``.
    queue, account, qos, reservation, constraint : str, optional
        Native names; default is what the resource says.
    exclusive : bool
        Do not share the nodes.
    priority : int, optional
        In the batch system's own scale.
    begin, deadline : float, optional
        Not before, and no later than, in seconds since the epoch.
    rerunnable : bool, optional
        Whether the batch system may start it again by itself; default is no.
    mail_to : str, optional
        Address for the batch system's messages.
    mail_on : tuple of str
        Any of ``begin``, ``end``, ``fail``.
    hold : bool
        Wait for a release before running.
    native : list of str
        Options for the batch system's submit command, taken as they are.
    retries : int
        How often an engine runs it again after a failure.
    tags : list of str
        Anything; kept for you.
    after : sequence of Dependency
        Tasks of the same session that have to end before this one may start.

    Attributes
    ----------
    execution : Run
        What became of it.
    task_id : str or None
        Its name in a session.
    array : ArrayElement or None
        Its place in an array.

    Raises
    ------
    InvalidValue
        Something can't be used; the message says what.
    """

    arguments: tuple[str, ...] = attrs.field(converter=_words)
    inputs: dict[str, str] = attrs.field(factory=dict, converter=_inputs, kw_only=True)
    outputs: dict[str, str] = attrs.field(factory=dict, converter=_outputs, kw_only=True)
    output_dir: str | None = attrs.field(default=None, converter=_path, kw_only=True)
    environment: dict[str, str] = attrs.field(factory=dict, converter=_variables, kw_only=True)
    stdin: str | None = attrs.field(default=None, converter=_path, kw_only=True)
    stdout: str = attrs.field(default="stdout.txt", converter=_name, kw_only=True)
    stderr: str = attrs.field(default="stderr.txt", converter=_name, kw_only=True)
    join: bool = attrs.field(default=False, kw_only=True)
    jobname: str = attrs.field(default="", kw_only=True)
    application_name: str = attrs.field(default="", kw_only=True)
    requested_cores: int = attrs.field(default=1, kw_only=True)
    requested_nodes: int | None = attrs.field(default=None, kw_only=True)
    tasks_per_node: int | None = attrs.field(default=None, kw_only=True)
    cores_per_task: int | None = attrs.field(default=None, kw_only=True)
    requested_memory: Memory | None = attrs.field(default=None, converter=_memory, kw_only=True)
    requested_memory_per_core: Memory | None = attrs.field(default=None, converter=_memory, kw_only=True)
    requested_gpus: int = attrs.field(default=0, kw_only=True)
    requested_walltime: Duration | None = attrs.field(default=None, converter=_duration, kw_only=True)
    requested_architecture: str | None = attrs.field(default=None, kw_only=True)
    queue: str | None = attrs.field(default=None, kw_only=True)
    account: str | None = attrs.field(default=None, kw_only=True)
    qos: str | None = attrs.field(default=None, kw_only=True)
    reservation: str | None = attrs.field(default=None, kw_only=True)
    constraint: str | None = attrs.field(default=None, kw_only=True)
    exclusive: bool = attrs.field(default=False, kw_only=True)
    priority: int | None = attrs.field(default=None, kw_only=True)
    begin: float | None = attrs.field(default=None, kw_only=True)
    deadline: float | None = attrs.field(default=None, kw_only=True)
    rerunnable: bool = attrs.field(default=False, kw_only=True)
    mail_to: str | None = attrs.field(default=None, kw_only=True)
    mail_on: tuple[str, ...] = attrs.field(factory=tuple, converter=_words, kw_only=True)
    hold: bool = attrs.field(default=False, kw_only=True)
    native: tuple[str, ...] = attrs.field(factory=tuple, converter=_texts, kw_only=True)
    retries: int = attrs.field(default=0, kw_only=True)
    tags: tuple[str, ...] = attrs.field(factory=tuple, converter=_texts, kw_only=True)
    after: tuple[Dependency, ...] = attrs.field(factory=tuple, converter=_dependencies, kw_only=True)
    array: ArrayElement | None = attrs.field(default=None, kw_only=True)
    execution: Run = attrs.field(factory=Run, kw_only=True)
    task_id: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.jobname:
            self.jobname = os.path.basename(self.arguments[0]) if self.arguments else ""
        self.validate()

    def validate(self) -> None:
        """Check the description as a whole.

        Raises
        ------
        InvalidValue
            Something can't be used; the message says what.
        """
        if not self.arguments or not self.arguments[0]:
            raise InvalidValue("there is nothing to run: the arguments are empty")
        for text in (*self.arguments, *self.environment.values(), self.jobname, self.application_name):
            if "\0" in text:
                raise InvalidValue(f"{text!r} holds a NUL character, which no program can be given")
        for name in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise InvalidValue(f"{name!r} is no name for an environment variable")
        self._check_files()
        self._check_numbers()
        for key in ("queue", "account", "qos", "reservation", "constraint", "mail_to"):
            value = getattr(self, key)
            if value is not None and not is_native_name(value):
                raise InvalidValue(f"{key} {value!r} holds characters that no batch system takes")
        for word in self.mail_on:
            if word not in _MAIL_ON:
                raise InvalidValue(f"there is no mail on {word!r}, only on {', '.join(_MAIL_ON)}")
        for option in self.native:
            if not option.startswith("-") or "\n" in option:
                raise InvalidValue(f"the native option {option!r} is none: it has to start with a dash, on one line")

    def _check_files(self) -> None:
        for name in (*self.inputs.values(), *self.outputs, self.stdout, self.stderr):
            _check_relative(name)
            if name == ".":
                raise InvalidValue("'.' is the sandbox itself: for everything in it say '*'")
        for name in self.outputs.values():
            _check_relative(name, where="output_dir")
        for kind, names in (("inputs", [*self.inputs.values()]), ("outputs", [*self.outputs.values()])):
            for name in set(names):
                if names.count(name) > 1:
                    raise InvalidValue(f"two {kind} have the same name, {name!r}")
        if not self.join and self.stdout == self.stderr:
            raise InvalidValue("stdout and stderr have the same name: say join=True for one file")

    def _check_numbers(self) -> None:
        for key in ("requested_cores", "requested_nodes", "tasks_per_node", "cores_per_task"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InvalidValue(f"{key} has to be a whole number from 1 on, not {value!r}")
        if self.requested_gpus < 0 or self.retries < 0:
            raise InvalidValue("neither requested_gpus nor retries can be negative")
        if self.requested_memory is not None and self.requested_memory_per_core is not None:
            raise InvalidValue("give either requested_memory or requested_memory_per_core, not both")
        for amount in (self.requested_memory, self.requested_memory_per_core, self.requested_walltime):
            if amount is not None and not amount:
                raise InvalidValue("neither memory nor walltime can be zero: leave them out for the default")

    def __repr__(self) -> str:
        name = self.task_id or self.jobname
        return f"<Application {name} {self.execution.state.value}: {self.command_line[:60]}>"

    @property
    def total_cores(self) -> int:
        """Cores on all nodes together."""
        if self.requested_nodes is None and self.tasks_per_node is None:
            return max(self.requested_cores, self.cores_per_task or 1)
        return (self.requested_nodes or 1) * (self.tasks_per_node or 1) * (self.cores_per_task or self.requested_cores)

    @property
    def total_memory(self) -> Memory | None:
        """Memory on all nodes together."""
        if self.requested_memory_per_core is not None:
            return self.requested_memory_per_core * self.total_cores
        return self.requested_memory

    @property
    def efficiency(self) -> dict[str, float]:
        """How much of what was asked for was used, from 0 to about 1: cpu, memory and walltime, as far as known."""
        used = self.execution.accounting
        found = {}
        if used.cpu_time is not None and used.wall_time:
            found["cpu"] = used.cpu_time / (used.wall_time * (used.cores or self.total_cores))
        if used.max_memory is not None and self.total_memory:
            found["memory"] = used.max_memory / self.total_memory
        if used.wall_time is not None and self.requested_walltime:
            found["walltime"] = used.wall_time / self.requested_walltime
        return found

    def set_state(self, state: State, note: str = "") -> None:
        """Put the execution into another state, and tell listeners of `events.run_changed` afterwards.

        Parameters
        ----------
        state : State
            The new state; the one it is in already changes nothing.
        note : str
            What to write in the history.
        """
        before = self.execution.state
        if note:
            self.execution.note(note)
        if state is before:
            return
        self.execution.state = state
        self.execution.timestamps.setdefault(state, time.time())
        if not note:
            self.execution.note(state.value)
        events.run_changed.send(self, before=before, after=state)

    @property
    def command_line(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.arguments)


@_remembered
def _check_relative(name: str, where: str = "sandbox") -> None:
    """Refuse names that lead out of a directory or into our own corner of it."""
    path = PurePosixPath(name)
    if not name or "\0" in name or "\n" in name:
        raise InvalidValue(f"{name!r} is no file name")
    if path.is_absolute() or ".." in path.parts:
        raise InvalidValue(f"{name!r} leads out of the {where}: only relative names below it can be used")
    if path.parts[:1] == (RESERVED,):
        raise InvalidValue(f"{name!r} is reserved for batchlib itself")


def twin(app: Application, run: Run, **own: object) -> Application:
    """Give a task of the same description, which is not checked again, with a run of its own.

    Parameters
    ----------
    app : Application
        The task.
    run : Run
        What became of the new one.
    **own
        More fields that are its own, taken as they are.
    """
    if type(app) is Application:
        made = object.__new__(Application)
        for slot, value in zip(_SLOTS, _values(app), strict=True):
            slot.__set__(made, dict(value) if type(value) is dict else value)
    else:
        made = copy.copy(app)
        own = {"inputs": dict(app.inputs), "outputs": dict(app.outputs), "environment": dict(app.environment), **own}
    for name, value in {"execution": run, **own}.items():
        # past the converters, which would read again what was read once
        object.__setattr__(made, name, value)
    return made


_SLOTS = [vars(Application)[name] for name in attrs.fields_dict(Application)]
_values = attrgetter(*attrs.fields_dict(Application))


def is_native_name(text: str) -> bool:
    """Tell whether a native name, such as a queue's, is taken for nothing but a name in a job script."""
    return _WORD.fullmatch(text) is not None


def check_inputs(applications: Sequence[Application]) -> dict[Application, str]:
    """Find applications whose local input files can't be read.

    Parameters
    ----------
    applications : sequence of Application
        What is about to be submitted.

    Returns
    -------
    dict of Application to str
        For each that can't be sent, a sentence that says why.
    """
    wrong = {}
    for app in applications:
        for local in [*app.inputs, *([app.stdin] if app.stdin else [])]:
            if not os.path.exists(local):
                wrong[app] = f"the input file {local} does not exist"
            elif not os.access(local, os.R_OK):
                wrong[app] = f"the input file {local} can't be read"
        if app.stdin and os.path.isdir(app.stdin):
            wrong[app] = f"the standard input {app.stdin} is a directory"
        for local, remote in app.inputs.items():
            inside = [name for name in (*app.inputs.values(), app.stdout, app.stderr) if name.startswith(remote + "/")]
            if inside and os.path.isfile(local):
                wrong[app] = f"{inside[0]!r} can't lie in the input {remote!r}, which is a file"
    return wrong
