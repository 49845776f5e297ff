"""Recordings of what real batch systems printed, and a frontend that prints it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import attrs

from batchlib.transport.local import LocalCarrier
from batchlib.transport.shell import Completed
from batchlib.transport.transport import Transport

_DIRECTORY = Path(__file__).parents[1] / "recordings"


@attrs.frozen
class Record:
    """One command and its answer."""

    scenario: str
    command: str
    answer: Completed


R = TypeVar("R", bound=Record)


def load(name: str, kind: type[R]) -> list[R]:
    """Read a recording."""
    found = []
    for line in (_DIRECTORY / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        # without an exit code the command was ended by SIGTERM before it had ended by itself
        code = row["exit"] if row["exit"] is not None else 128 + 15
        answer = Completed(code, row["stdout"].encode(), row["stderr"].encode())
        found.append(kind(row["scenario"], row["command"], answer))
    return found


def pick(records: Iterable[R], scenario: str, command: str = ".*") -> list[R]:
    """Those of a scenario whose command matches."""
    return [
        entry for entry in records if entry.scenario == scenario and re.fullmatch(command, entry.command, re.DOTALL)
    ]


class Replay(Transport):
    """A frontend that has one answer."""

    def __init__(self, answer: Completed) -> None:
        super().__init__(LocalCarrier())
        self.answer = answer

    def run(self, program: str, **_options: Any) -> Completed:
        """Give the answer."""
        return self.answer
