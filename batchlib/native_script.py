"""Scripts written for a batch system: what their header lines ask for, in the common vocabulary.

``#SBATCH``, ``#PBS``, ``#$`` and ``#BSUB`` lines are read, so that a script written for one system runs on any other.
What can't be carried over is named, never dropped silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from .errors import InvalidValue
from .native_dialects import DIALECTS, Dialect, Header

if TYPE_CHECKING:
    from pyparsing import ParserElement


def parse_script(text: str) -> Header:
    """Read the header lines of a script.

    Parameters
    ----------
    text : str
        The script.

    Raises
    ------
    InvalidValue
        A header line can't be read; the message names it.
    """
    header = Header()
    for number, line in enumerate(text.splitlines(), 1):
        for dialect in DIALECTS:
            if not line.startswith(dialect.mark) or (header.system and header.system != dialect.system):
                continue
            rest = line[len(dialect.mark) :]
            if rest[:1].isspace() or (dialect.mark == "#$" and rest[:1] in "-"):
                header.system = dialect.system
                try:
                    _read_line(dialect, rest, header)
                except InvalidValue as error:
                    raise InvalidValue(f"line {number}, {line.strip()!r}: {error.message}") from error
    if header.system:
        _settle(header)
    if header.array and header.system:
        variable = dialect_of(header.system).index_variable
        header.fields.setdefault("environment", {})[variable] = "{index}"
    return header


def _settle(header: Header) -> None:
    """Bring what depends on each other into the shape of `Application`."""
    fields = header.fields
    tasks = fields.get("requested_cores", 1)
    width = fields.get("cores_per_task", 1)
    per_node = fields.get("tasks_per_node")
    nodes = fields.get("requested_nodes") or (math.ceil(tasks / per_node) if per_node else 1)
    if nodes > 1:
        fields.update(requested_nodes=nodes, tasks_per_node=per_node or math.ceil(tasks / nodes), cores_per_task=width)
        fields.pop("requested_cores", None)
    else:
        for name in ("requested_nodes", "tasks_per_node", "cores_per_task"):
            fields.pop(name, None)
        fields["requested_cores"] = (per_node or tasks) * width
    if header.system == "slurm" and "requested_memory" in fields:
        # --mem is for each node
        fields["requested_memory"] = fields["requested_memory"] * nodes
    if "requested_memory_per_core" in fields:
        fields.pop("requested_memory", None)
    if fields.get("stdout") and fields.get("stdout") == fields.get("stderr"):
        fields["join"] = True


def dialect_of(system: str) -> Dialect:
    """Give the dialect of a batch system."""
    return next(dialect for dialect in DIALECTS if dialect.system == system)


@cache
def _words() -> ParserElement:
    """Make the grammar of a header line: words with quotes as in a shell, up to a comment."""
    # imported late: nothing else needs it
    from pyparsing import Combine, OneOrMore, Opt, QuotedString, Regex, Suppress, ZeroOrMore, rest_of_line

    single = QuotedString("'", esc_char=None, unquote_results=True)
    double = QuotedString('"', esc_char="\\", unquote_results=True)
    bare = Regex(r"""(?:[^\s'"\\]|\\.)+""").set_parse_action(lambda found: re.sub(r"\\(.)", r"\1", str(found[0])))
    word = Combine(OneOrMore(single | double | bare), adjacent=True)
    comment = Suppress(Regex(r"#") + rest_of_line)
    return ZeroOrMore(~Regex(r"#") + word) + Opt(comment)


def split_words(text: str) -> list[str]:
    """Split a header line into words, as its batch system does.

    Parameters
    ----------
    text : str
        What stands behind the mark.

    Raises
    ------
    InvalidValue
        A quote is not closed.
    """
    from pyparsing import ParseException

    try:
        return [str(word) for word in _words().parse_string(text, parse_all=True)]
    except ParseException as error:
        raise InvalidValue(f"can't be read from column {error.column} on") from error


def _read_line(dialect: Dialect, text: str, header: Header) -> None:
    words = iter(split_words(text))
    for word in words:
        option, value = _split(dialect, word, words)
        if option == "-pe":
            # the only option with two words: the parallel environment and its slots
            header.not_carried.append(f"-pe {value}")
            value = next(words, "")
        if option not in dialect.options:
            header.not_carried.append(f"{option} {value}".strip())
            continue
        reader = dialect.options[option]
        if reader is not None:
            reader(value, header)


def _split(dialect: Dialect, word: str, rest: Iterator[str]) -> tuple[str, str]:
    """Take an option and its value apart: ``--name=value``, ``--name value``, ``-n value`` or ``-nvalue``."""
    if not word.startswith("-"):
        raise InvalidValue(f"{word!r} is no option")
    name, equals, value = word.partition("=")
    if word.startswith("--"):
        if equals or name in dialect.flags:
            return name, value
        return name, next(rest, "")
    if word in dialect.flags:
        return word, ""
    if word in dialect.options:
        return word, next(rest, "")
    short = word[:2]
    if dialect.system in ("slurm", "pbs") and short in dialect.options and short not in dialect.flags:
        return short, word[2:]
    return word, ""
