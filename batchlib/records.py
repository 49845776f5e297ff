"""How a task becomes a row in a session's database, and a row a task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from .application import Application, twin
from .array import Elements
from .database import Database, Writer
from .documents import read_description, read_run, run_document
from .run import Run
from .statements import chunks, one_of

#: Descriptions that are kept for further tasks that have them.
_MOST_KEPT = 1000


def columns_of(app: Application, revision: int) -> dict[str, Any]:
    """Give the columns that change with what became of a task, and its id.

    Parameters
    ----------
    app : Application
        The task.
    revision : int
        The number of the change.
    """
    run = app.execution
    return {
        "id": app.task_id,
        "revision": revision,
        "state": run.state.value,
        "reason": run.reason.value if run.reason else None,
        "exitcode": run.exitcode,
        "signal": run.signal,
        "resource": run.resource,
        "jobid": run.jobid,
        "native_state": run.native_state,
        "info": run.info,
        "output_dir": app.output_dir,
        "submitted_at": run.submitted_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "collected": run.collected,
        "freed": run.freed,
        "outputs_wait": run.outputs_wait,
        "run": run_document(run),
    }


class Descriptions:
    """Writes descriptions, each only once.

    Parameters
    ----------
    writer : Writer
        The transaction.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._numbers: dict[str, int] = {}
        self._before = int(writer.execute("SELECT value FROM meta WHERE key = 'last_description'")[0][0])

    def __call__(self, document: str) -> int:
        """Give the number of a description."""
        return self._numbers.setdefault(document, self._before + len(self._numbers) + 1)

    def write(self) -> None:
        """Write all of them."""
        if self._numbers:
            count_up(self._writer, "last_description", len(self._numbers))
            rows = [{"number": number, "document": document} for document, number in self._numbers.items()]
            self._writer.execute_many("INSERT INTO descriptions (number, document) VALUES (:number, :document)", rows)


def count_up(writer: Writer, key: str, step: int = 1) -> int:
    """Count a note up and give what it is now; until the end of the transaction nobody else can."""
    writer.execute(
        "UPDATE meta SET value = CAST(CAST(value AS INTEGER) + :step AS VARCHAR(40)) WHERE key = :key",
        {"key": key, "step": step},
    )
    return int(writer.execute("SELECT value FROM meta WHERE key = :key", {"key": key})[0][0])


class Reader:
    """Reads whole tasks, and each description that several of them have only once.

    Parameters
    ----------
    database : Database
        Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made: dict[int, tuple[Application, int | None]] = {}
        self._elements: dict[tuple[int, str], Elements] = {}

    def read(self, numbers: Sequence[int]) -> dict[int, Application]:
        """Read tasks, by their numbers; those that are gone are left out."""
        found: list[tuple[Any, ...]] = []
        for some in chunks(numbers):
            condition, parameters = one_of("number", some)
            query = "SELECT number, id, array_id, array_index, description, output_dir, run FROM tasks WHERE "
            found += self._database.read(query + condition, parameters)
        if len(self._made) > _MOST_KEPT:
            # tasks that are all different need not be in memory twice
            self._made.clear()
            self._elements.clear()
        self._read_descriptions({row[4] for row in found} - self._made.keys())
        apps = {}
        for number, task, array, index, description, output_dir, run in found:
            if description not in self._made:
                # removed since, with all its tasks
                continue
            own = {"task_id": task, "output_dir": output_dir}
            apps[number] = self._make(array, index, description, read_run(run), own)
        return apps

    def _read_descriptions(self, numbers: Collection[int]) -> None:
        for some in chunks(list(numbers)):
            condition, parameters = one_of("number", some)
            query = f"SELECT number, document FROM descriptions WHERE {condition}"
            for number, text in self._database.read(query, parameters):
                self._made[number] = read_description(text)

    def _make(
        self, array: str | None, index: int | None, description: int, run: Run, own: dict[str, object]
    ) -> Application:
        app, max_running = self._made[description]
        if index is None:
            return twin(app, run, **own)
        key = (description, array or "")
        if key not in self._elements:
            self._elements[key] = Elements(app, array or "", max_running)
        return self._elements[key].make(index, run, **own)
