"""Job arrays: which indices there are, and one task for each of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

import attrs

from .application import Application, ArrayElement, Dependency
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
    return [_element(app, index, spec.max_running, name) for index in spec.indices]


def _element(app: Application, index: int, max_running: int | None, name: str) -> Application:
    def fill(text: str) -> str:
        return text.replace(PLACEHOLDER, str(index))

    def fill_all(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(fill, texts))

    return attrs.evolve(
        app,
        arguments=fill_all(app.arguments),
        inputs={fill(local): fill(remote) for local, remote in app.inputs.items()},
        outputs={fill(remote): fill(local) for remote, local in app.outputs.items()},
        output_dir=fill(app.output_dir) if app.output_dir is not None else None,
        environment={key: fill(value) for key, value in app.environment.items()},
        stdin=fill(app.stdin) if app.stdin is not None else None,
        stdout=fill(app.stdout),
        stderr=fill(app.stderr),
        after=[Dependency(fill_all(dependency.ids), dependency.on) for dependency in app.after],
        execution=Run(resource=app.execution.resource),
        task_id=None,
        array=ArrayElement(name, index, max_running),
    )
