"""A client's whole life, which may be cut short at any point and is then lived again.

    python -m tests.faults.client ORDER.json

It submits tasks, waits for them, cancels one, fetches the outputs and frees the sandboxes. Lived again, it goes on
where it was: everything that it knows is in its session. The order is a JSON document; what was reached is printed
as one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from batchlib import Application, Engine, Session
from batchlib.backends import submission
from batchlib.config import Configuration, resource_settings
from tests.faults.injection import Points, instrument

#: Tasks that are to come to their end, and elements of an array that are, too.
PLAIN, ELEMENTS = 3, 2
#: Seconds after which a batch system here surely has a job in its books, instead of those of the world's slowest.
GRACE = 8.0
PATIENCE = 150.0


@attrs.frozen
class Order:
    """What to do.

    Parameters
    ----------
    resource : mapping of str to str
        Keys of the resource.
    directory : str
        Where the session, the inputs and the outputs are.
    ledger : str
        File on the cluster in which each job that runs writes its name.
    prefix : str
        Beginning of all jobs' names.
    kind, point : str, int
        What to do at which point; 0 for nothing anywhere.
    """

    resource: Mapping[str, str]
    directory: str
    ledger: str
    prefix: str
    kind: str
    point: int


def names(prefix: str) -> list[str]:
    """List the names of all tasks that are to come to their end, as they write them into the ledger."""
    return [f"{prefix}t{number}" for number in range(PLAIN)] + [
        f"{prefix}a.{index}" for index in range(1, ELEMENTS + 1)
    ]


def victim(prefix: str) -> str:
    """Give the name of the task that is to be cancelled."""
    return f"{prefix}v"


def _tasks(order: Order) -> list[Application]:
    made = []
    for number in range(PLAIN):
        name = f"{order.prefix}t{number}"
        made.append(_task(order, name, f"echo {name} >> {order.ledger}; cat in.txt > out.txt"))
    name = victim(order.prefix)
    made.append(_task(order, name, f"echo {name} >> {order.ledger}; exec sleep 600"))
    return made


def _task(order: Order, name: str, text: str) -> Application:
    return Application(
        ["sh", "-c", text],
        jobname=name,
        inputs={f"{order.directory}/in.txt": "in.txt"},
        outputs=["out.txt"],
        output_dir=f"{order.directory}/out/{name}",
        requested_walltime="20 minutes",
    )


def live(order: Order, points: Points) -> dict[str, Any]:
    """Live, from wherever it was."""
    settings = resource_settings("site", order.resource)
    with (
        Session(Path(order.directory, "session")) as session,
        Engine(session, Configuration({"site": settings}), on="site", fetch=True) as engine,
    ):
        if not session.ids():
            session.add(*_tasks(order))
        if len(session.ids()) == PLAIN + 1:
            name = f"{order.prefix}a"
            array = _task(order, name, f"echo {name}.{{index}} >> {order.ledger}; cat in.txt > out.txt")
            array.output_dir = f"{order.directory}/out/{name}.{{index}}"
            session.add_array(array, f"1-{ELEMENTS}")
        engine.progress(patience=PATIENCE)
        apps = session.load()
        [cancelled] = [app for app in apps if app.jobname == victim(order.prefix)]
        engine.run(ids=[app.task_id or "" for app in apps if app is not cancelled], timeout=PATIENCE)
        _cancel(session, engine, cancelled)
        counts = engine.run(timeout=PATIENCE)
        apps = session.load()
        ended = all(state.final for state in counts)
        if ended:
            for _attempt in range(3):
                errors = engine.backend("site").free_jobs(apps)
                session.save(apps)
                if not any(errors.values()):
                    break
        return {
            "points": points.passed,
            "names": points.names,
            "states": {_name(app): app.execution.state.value for app in apps},
            "freed": all(app.execution.freed for app in apps),
            "problems": [str(problem) for problem in engine.problems.values()],
        }


def _cancel(session: Session, engine: Engine, app: Application) -> None:
    """Cancel a task, trying again where the link breaks."""
    for _attempt in range(3):
        session.load([app.task_id or ""])
        if app.execution.state.final:
            return
        if app.execution.state.live and app.execution.jobid:
            answer = engine.backend("site").cancel_jobs([app], journal=session.save)[app]
            session.save([app])
            if answer.error is None:
                return
        else:
            engine.run(ids=[app.task_id or ""], timeout=2 * GRACE)


def _name(app: Application) -> str:
    return app.jobname if app.array is None else f"{app.jobname}.{app.array.index}"


def main() -> None:
    """Live once."""
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    submission._GRACE = GRACE
    points = Points(order.kind, order.point)
    instrument(points)
    json.dump(live(order, points), sys.stdout)


if __name__ == "__main__":
    main()
