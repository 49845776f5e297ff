"""Job arrays: which indices there are, and one task for each of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from .application import Application, ArrayElement, Dependency, twin
from .errors import InvalidValue
from .run import Run

#: In a description: stands for an element's index.
PLACEHOLDER = "{index}"
#: More elements than any batch system takes are a mistake.
_MOST = 1_000_000
_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")


@attrs.frozen
class ArraySpec:
    """The indices of an array.

    Parameters
    ----------
    indices : tuple of int
        Them, in order, each once.
    max_running : int, optional
        Elements that may run at a time.
    """

    indices: tuple[int, ...]
    max_running: int | None = None

    def __str__(self) -> str:
        return format_indices(self.indices) + (f"%{self.max_running}" if self.max_running else "")


def parse_array(text: str) -> ArraySpec:
    """Read ``1-10``, ``0-20:5``, ``1,3,7-9`` with, behind a ``%``, the number of elements that may run at a time.

    Parameters
    ----------
    text : str
        The specification.

    Raises
    ------
    InvalidValue
        It is malformed, empty, or too large.
    """
    listed, percent, most = text.replace(" ", "").partition("%")
    if percent and not (most.isascii() and most.isdigit() and int(most) > 0):
        raise InvalidValue(f"{text!r}: behind the % stands how many elements may run at a time, such as '1-100%10'")
    indices: set[int] = set()
    for part in listed.split(","):
        match = _PART.fullmatch(part)
        low, high, step = (int(number) if number else None for number in match.groups()) if match else (None, None, 1)
        if low is None or (high is not None and high < low) or step == 0:
            raise InvalidValue(f"{text!r} is no array: write it such as '1-10', '0-20:5' or '1,3,7-9%2'")
        high = low if high is None else high
        if len(indices) + (high - low) // (step or 1) > _MOST:
            raise InvalidValue(f"{text!r} has more than {_MOST} elements")
        indices.update(range(low, high + 1, step or 1))
    return ArraySpec(tuple(sorted(indices)), int(most) if percent else None)


def format_indices(indices: Sequence[int]) -> str:
    """Write indices as short as can be: ``1-10``, ``0-20:5`` or ``1,3,7-9``.

    Parameters
    ----------
    indices : sequence of int
        Them, in ascending order.
    """
    steps = {second - first for first, second in itertools.pairwise(indices)}
    if len(steps) == 1 and len(indices) > 2:
        step = steps.pop()
        return f"{indices[0]}-{indices[-1]}" + (f":{step}" if step > 1 else "")
    parts: list[str] = []
    start = previous = indices[0]
    for index in [*indices[1:], None]:
        if index is not None and index == previous + 1:
            previous = index
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        if index is not None:
            start = previous = index
    return ",".join(parts)


def expand_array(app: Application, spec: ArraySpec, name: str = "") -> list[Application]:
    """Make one task for each element of an array.

    ``{index}`` in arguments, names of files, values of variables and the output directory becomes the index, which
    is also in the variable ``TASK_ID`` of each element.

    Parameters
    ----------
    app : Application
        The description of all of them.
    spec : ArraySpec
        The indices.
    name : str
        The array's id, once it has one.
    """
    elements = Elements(app, name, spec.max_running)
    return [elements.make(index, Run(resource=app.execution.resource)) for index in spec.indices]


def distinct_elements(app: Application, spec: ArraySpec) -> list[Application]:
    """Make the elements of an array that are not all alike: only one where no index stands in the description.

    Parameters
    ----------
    app, spec : Application, ArraySpec
        As for `expand_array`.
    """
    return expand_array(app, spec if _differing(app) else attrs.evolve(spec, indices=spec.indices[:1]))


def _differing(app: Application) -> list[str]:
    """List the fields in which an index stands."""
    return [field for field in _FILLED if PLACEHOLDER in repr(getattr(app, field))]


class Elements:
    """Makes the elements of an array, touching only what differs between them.

    Parameters
    ----------
    app : Application
        The description of all of them.
    name : str
        The array's id.
    max_running : int, optional
        Elements that may run at a time.
    """

    def __init__(self, app: Application, name: str, max_running: int | None = None) -> None:
        self._app = app
        self._name = name
        self._max_running = max_running
        self._differing = _differing(app)

    def make(self, index: int, run: Run, **own: object) -> Application:
        """Make one of them.

        Parameters
        ----------
        index : int
            Its index.
        run : Run
            What became of it.
        **own
            More fields that are its own, taken as they are.

        Raises
        ------
        InvalidValue
            Its index makes it something that can't be used.
        """
        array = ArrayElement(self._name, index, self._max_running)
        made = twin(self._app, run, **{"array": array, "task_id": None, **own})
        for field in self._differing:
            setattr(made, field, _FILLED[field](getattr(made, field), partial(fill, index=index)))
        if self._differing:
            made.validate()
        return made


def fill(text: str, index: int) -> str:
    """Put an element's index where its placeholder stands."""
    return text.replace(PLACEHOLDER, str(index))


def _text(text: str, put: _Fill) -> str:
    return put(text)


def _texts(texts: Iterable[str], put: _Fill) -> tuple[str, ...]:
    return tuple(map(put, texts))


def _names(names: Mapping[str, str], put: _Fill) -> list[tuple[str, str]]:
    return [(put(first), put(second)) for first, second in names.items()]


def _values(variables: Mapping[str, str], put: _Fill) -> dict[str, str]:
    return {name: put(value) for name, value in variables.items()}


def _waited_for(dependencies: Iterable[Dependency], put: _Fill) -> list[Dependency]:
    return [Dependency(_texts(dependency.ids, put), dependency.on) for dependency in dependencies]


_Fill = Callable[[str], str]
#: Fields of a description in which an index may stand, and how it gets there.
_FILLED: dict[str, Callable[[Any, _Fill], object]] = {
    "arguments": _texts,
    "inputs": _names,
    "outputs": _names,
    "output_dir": _text,
    "environment": _values,
    "stdin": _text,
    "stdout": _text,
    "stderr": _text,
    "after": _waited_for,
}
