"""Tasks as JSON: what is to be run, and what became of it. Values that are the default are left out.

A session may have a hundred thousand tasks, and as many documents: that is why this is written out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any

import attrs

from .application import Application, Dependency
from .quantity import Duration, Memory, Quantity
from .run import Accounting, NativeDependency, Reason, Run, State

#: Fields of an application that are one task's own, and no part of a description that it may share with others.
OWN_FIELDS = ("execution", "task_id", "output_dir", "array")


class _Fields:
    """The fields of a class with their defaults.

    Parameters
    ----------
    kind : type
        A class made by attrs.
    without : sequence of str
        Fields to pass over.
    """

    def __init__(self, kind: type[Any], without: tuple[str, ...] = ()) -> None:
        fields = [field for field in attrs.fields(kind) if field.name not in without]
        self._names = tuple(field.name for field in fields)
        self._known = frozenset(self._names)
        self._get = attrgetter(*self._names)
        self._defaults = [_default(field) for field in fields]

    def changed(self, thing: object) -> dict[str, Any]:
        """Give the fields whose values are not the default."""
        values = zip(self._names, self._get(thing), self._defaults, strict=True)
        return {name: value for name, value, default in values if value != default}

    def known(self, document: dict[str, Any]) -> dict[str, Any]:
        """Leave out what only later versions know."""
        if document.keys() <= self._known:
            return document
        return {name: value for name, value in document.items() if name in self._known}


def _default(field: attrs.Attribute[Any]) -> object:
    made = getattr(field.default, "factory", None)
    return field.default if made is None else made()


_RUN = _Fields(Run)
_DESCRIPTION = _Fields(Application, OWN_FIELDS)
_PARTS: dict[type[Any], _Fields] = {kind: _Fields(kind) for kind in (Accounting, Dependency, NativeDependency)}
_STATES = {state.value: state for state in State}


@lru_cache(maxsize=1024)
def _amount(quantity: Quantity) -> str:
    return str(quantity)


def _plain(value: Any) -> object:
    """Give a value that JSON has no notion of as one that it has."""
    return _amount(value) if isinstance(value, Quantity) else _PARTS[type(value)].changed(value)


_encode = json.JSONEncoder(default=_plain).encode
_decode = json.JSONDecoder().decode


def description_document(app: Application) -> str:
    """Give what is to be run as JSON, without what is one task's own.

    Parameters
    ----------
    app : Application
        The task; elements of an array may share its document.
    """
    document = _DESCRIPTION.changed(app)
    if app.array is not None and app.array.max_running is not None:
        document["max_running"] = app.array.max_running
    return _encode(document)


def read_description(text: str) -> tuple[Application, int | None]:
    """Read what is to be run.

    Parameters
    ----------
    text : str
        What `description_document` gave.

    Returns
    -------
    Application, int or None
        A task without anything of its own, and how many elements of its array may run at a time.
    """
    document = _decode(text)
    max_running = document.pop("max_running", None)
    if "after" in document:
        document["after"] = [Dependency(**_PARTS[Dependency].known(one)) for one in document["after"]]
    return Application(**_DESCRIPTION.known(document)), max_running


def run_document(run: Run) -> str:
    """Give what became of a task as JSON.

    Parameters
    ----------
    run : Run
        The run.
    """
    document = _RUN.changed(run)
    document["state"] = run.state.value
    if run.reason is not None:
        document["reason"] = run.reason.value
    if run.timestamps:
        document["timestamps"] = {state.value: when for state, when in run.timestamps.items()}
    return _encode(document)


def read_run(text: str) -> Run:
    """Read what became of a task.

    Parameters
    ----------
    text : str
        What `run_document` gave.
    """
    document = _RUN.known(_decode(text))
    for name, read in _READ.items():
        if name in document:
            document[name] = read(document[name])
    return Run(**document)


def _read_accounting(document: dict[str, Any]) -> Accounting:
    document = _PARTS[Accounting].known(document)
    for name, read in _READ_ACCOUNTING.items():
        if document.get(name) is not None:
            document[name] = read(document[name])
    return Accounting(**document)


_READ_ACCOUNTING: dict[str, Callable[[Any], object]] = {
    "cpu_time": Duration,
    "wall_time": Duration,
    "max_memory": Memory,
    "hosts": tuple,
}
_READ: dict[str, Callable[[Any], object]] = {
    "state": _STATES.__getitem__,
    "reason": Reason,
    "waits_for": lambda found: tuple(NativeDependency(**_PARTS[NativeDependency].known(one)) for one in found),
    "accounting": _read_accounting,
    "timestamps": lambda found: {_STATES[state]: when for state, when in found.items()},
    "history": lambda found: [(when, text) for when, text in found],
}
