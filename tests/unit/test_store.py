"""Sessions' databases: what is written is found again, with few statements, and old ones are converted."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from batchlib.application import Application, ArrayElement, Dependency
from batchlib.database import Found, SqliteFile
from batchlib.errors import SessionError, SessionLocked, TaskNotFound
from batchlib.quantity import Duration, Memory
from batchlib.run import NativeDependency, Reason, Run, State
from batchlib.schema import SCHEMA
from batchlib.session import Session
from batchlib.store import Store

OLD = Path(__file__).parents[1] / "recordings" / "session-schema-1.sql"


@pytest.fixture(params=["sqlite:///", "sqlite+pysqlite:///"], ids=["plain", "sqlalchemy"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = Store(f"{request.param}{tmp_path / 'session.db'}")
    yield store
    store.close()


def load(store: Store, *args: Any, **kwargs: Any) -> dict[str, Application]:
    return {task: app for task, _, app in store.load(*args, **kwargs) if app is not None}


def end(app: Application, state: State = State.DONE) -> None:
    app.execution.jobid = "1"
    app.set_state(state)


def test_tasks_are_found_again(store: Store) -> None:
    one = Application(["a", "b"], requested_memory="2 GB", output_dir="/here")
    two = Application("c", environment={"X": "1"}, array=ArrayElement("9", 4, 2))
    store.add([one, two], "/there")
    end(one, State.FAILED)
    one.execution.reason = Reason.MEMORY
    store.save([one])
    found = load(store)
    assert list(found) == ["1", "2"] == [one.task_id, two.task_id]
    assert [attrs.asdict(app) for app in found.values()] == [attrs.asdict(one), attrs.asdict(two)]
    assert (one.output_dir, two.output_dir) == ("/here", "/there/2")
    assert [(row.id, row.array, row.state, row.reason) for row in store.rows()] == [
        ("1", None, State.FAILED, Reason.MEMORY),
        ("2", "9", State.NEW, None),
    ]
    assert store.counts() == {State.FAILED: 1, State.NEW: 1}
    assert store.counts(["2"]) == {State.NEW: 1}
    assert list(load(store, states=[State.NEW])) == ["2"]
    assert list(load(store, ["9"])) == ["2"], "the id of an array means its elements"
    with pytest.raises(TaskNotFound, match="no task 3"):
        load(store, ["1", "3"])


def test_elements_of_an_array(store: Store) -> None:
    store.add([Application("true")], "/")
    app = Application(
        ["fit", "{index}"], inputs={"/in{index}": "in"}, output_dir="/out/{index}", after=[Dependency("1")]
    )
    app.execution.resource = "here"
    assert store.add_array(app, [3, 5], 1, "/") == ["2.3", "2.5"]
    assert store.add_array(Application("true"), [1], None, "/d") == ["3.1"]
    found = load(store, ["2", "3"])
    first = found["2.3"]
    assert first.arguments == ("fit", "3")
    assert first.inputs == {"/in3": "in"}
    assert first.output_dir == "/out/3"
    assert first.after == (Dependency("1"),)
    assert first.array == ArrayElement("2", 3, 1)
    assert first.execution == Run(resource="here")
    assert found["2.5"].arguments == ("fit", "5")
    assert found["3.1"].output_dir == "/d/3.1"
    assert [row.output_dir for row in store.rows(["2"])] == ["/out/3", "/out/5"]
    assert (app.task_id, app.array) == (None, None), "the description itself is no task"


def test_ids_and_numbers_are_not_given_twice(store: Store) -> None:
    store.add([Application("a")], "/")
    store.remove(["1"])
    store.add([Application("b")], "/")
    store.remove(["2"])
    assert store.ids() == []
    store.add_array(Application("c"), [1], None, "/")
    assert list(load(store)) == ["3.1"]
    assert load(store)["3.1"].arguments == ("c",)


def test_tasks_do_not_share_what_can_be_changed(store: Store) -> None:
    store.add([Application("true", environment={"X": "1"}) for _ in range(2)], "/")
    one, two = load(store).values()
    one.environment["X"] = "2"
    one.execution.note("only one")
    assert two.environment == {"X": "1"}
    assert two.execution.history == []


def test_what_has_outputs_to_fetch(store: Store) -> None:
    apps = [Application("true") for _ in range(5)]
    store.add(apps, "/")
    for app in apps[:4]:
        end(app)
    apps[1].execution.collected = True
    apps[2].execution.freed = True
    apps[3].execution.jobid = None
    for app in apps[:4]:
        app.execution.resource = "here"
    store.save(apps)
    assert store.unfinished("here", outputs=True) == ["1"]
    assert store.unfinished("here", ["2", "4", "5"], outputs=True) == []
    assert store.unfinished(None) == ["5"]
    assert {(part.resource, part.outputs_wait): part.count for part in store.tally()} == {
        (None, False): 1,
        ("here", False): 3,
        ("here", True): 1,
    }


def test_a_failing_transaction_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add([Application("true")], "/")
    before = store.revision()
    app = Application("false")
    broken = Application("true")
    broken.execution.accounting.native["x"] = object()  # type: ignore[assignment]
    with pytest.raises(KeyError):
        store.add([app, broken], "/")
    assert store.ids() == ["1"]
    assert store.revision() == before
    assert app.task_id is None, "what is not in the session can be added once more"


def test_threads_write_side_by_side(store: Store) -> None:
    def add() -> None:
        for _ in range(10):
            store.add([Application("true")], "/")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.ids() == [str(number) for number in range(1, 41)]


# --- how much is asked and read ------------------------------------------------------------------------------


class Counted(SqliteFile):
    """Counts the statements that are executed, and the rows and characters that they bring."""

    statements = rows = characters = 0

    def execute(self, statement: str, parameters: Any = {}) -> Found:  # noqa: B006
        found = super().execute(statement, parameters)
        self.statements += 1
        self.rows += len(found)
        self.characters += sum(len(value) for row in found for value in row if isinstance(value, str))
        return found

    def execute_many(self, statement: str, rows: Any) -> None:
        super().execute_many(statement, rows)
        self.statements += 1

    def taken(self) -> tuple[int, int, int]:
        taken = self.statements, self.rows, self.characters
        self.statements = self.rows = self.characters = 0
        return taken


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    made: list[Counted] = []

    def open_database(url: str) -> Counted:
        made.append(Counted(url, url.removeprefix("sqlite:///")))
        return made[-1]

    monkeypatch.setattr("batchlib.store.open_database", open_database)
    return made


def live(apps: Sequence[Application]) -> None:
    for app in apps:
        app.execution.jobid, app.execution.state = "1", State.QUEUED


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(tmp_path / "s") as session:
        yield session


def test_adding_many_takes_as_many_statements_as_adding_one(session: Session, counted: list[Counted]) -> None:
    session.add(Application("true"))
    [database] = counted
    database.taken()
    session.add(Application("true"))
    one = database.taken()
    session.add(*(Application("true") for _ in range(2000)))
    assert database.taken()[:2] == one[:2]
    session.add_array(Application("true"), "1-10")
    ten = database.taken()
    session.add_array(Application("true"), "1-2000")
    assert database.taken()[:2] == ten[:2]
    live(apps := session.load())
    database.taken()
    session.save(apps[:1])
    one = database.taken()
    session.save(apps)
    assert database.taken()[:2] == one[:2]


def test_what_is_common_is_stored_once(session: Session, counted: list[Counted]) -> None:
    session.add(*(Application(["true", str(number % 3)]) for number in range(30)))
    session.add_array(Application(["true", "{index}"]), "1-100")
    [[descriptions]] = counted[0].read("SELECT count(*) FROM descriptions")
    assert descriptions == 4
    session.remove([app for app in session.load() if app.arguments[1] == "0" or app.array])
    [[descriptions]] = counted[0].read("SELECT count(*) FROM descriptions")
    assert descriptions == 2


def test_a_cycle_without_news_reads_no_task(session: Session, counted: list[Counted]) -> None:
    session.add_array(Application("true"), "1-2000")
    apps = session.load()
    ids = [app.task_id or "" for app in apps]
    live(apps)
    session.save(apps)
    [database] = counted
    database.taken()
    assert session.load(ids) == apps
    assert database.taken()[:2] == (1, 2), "a look at the revision"


def test_only_what_changed_is_read_again(session: Session, counted: list[Counted], tmp_path: Path) -> None:
    session.add_array(Application(["true", "x" * 1000]), "1-2000")
    apps = session.load()
    with Session(tmp_path / "s") as other:
        [changed] = other.load(["1.7"])
        changed.execution.note("told by another process")
        changed.output_dir = "/elsewhere"
        other.save([changed])
    ids = [app.task_id or "" for app in apps]
    counted[0].taken()
    again = session.load(ids)
    statements, rows, characters = counted[0].taken()
    assert [id(app) for app in again] == [id(app) for app in apps]
    assert again[6].execution.info == "told by another process"
    assert again[6].output_dir == "/elsewhere"
    assert (statements, rows) < (10, 10)
    assert characters < 2000


def test_tasks_that_another_process_removed_are_gone(session: Session, tmp_path: Path) -> None:
    session.add(*(Application("true") for _ in range(3)))
    with Session(tmp_path / "s") as other:
        other.remove(other.load(["2"]))
    assert [app.task_id for app in session.load(["1", "3"])] == ["1", "3"]
    assert [app.task_id for app in session.load()] == ["1", "3"]
    with pytest.raises(TaskNotFound, match="no task 2"):
        session.load(["1", "2"])


def test_what_we_wrote_ourselves_is_not_taken_for_news(session: Session, tmp_path: Path) -> None:
    session.add(*(Application("true") for _ in range(2)))
    one, _ = session.load()
    run = one.execution
    session.save([one])
    with Session(tmp_path / "s") as other:
        other.save(other.load(["2"]))
    session.save([one])
    session.load(["2"])
    assert one.execution is run, "whoever works on it has to go on with the same"
    assert session.load(["1"]) == [one]


def test_nothing_is_read_of_the_many_that_are_over(session: Session, counted: list[Counted]) -> None:
    session.add_array(Application("true"), "1-2000")
    apps = session.load()
    for app in apps:
        end(app)
        app.execution.collected = True
    session.save(apps)
    counted[0].taken()
    assert session.load(states=[State.NEW]) == []
    assert session.store.unfinished("here", outputs=True) == []
    assert session.counts() == {State.DONE: 2000}
    statements, rows, _ = counted[0].taken()
    assert statements < 20
    assert rows < 10


def test_who_looks_at_a_long_list_holds_up_nobody(session: Session, tmp_path: Path) -> None:
    session.add(*(Application("true") for _ in range(2000)))
    listing = session.store.rows()
    assert next(listing).id == "1"
    with Session(tmp_path / "s") as other:
        # what stands in the middle of the list: without a wait, or this would end in "database is locked"
        other.store._database._connection.execute("PRAGMA busy_timeout = 0")  # type: ignore[attr-defined]
        other.remove(other.load(["1500"]))
        other.add(Application("true"))
    assert [row.id for row in listing] == [str(number) for number in range(2, 2001) if number != 1500]


# --- databases of other versions -----------------------------------------------------------------------------


def old_session(directory: Path, script: str | None = None) -> Path:
    directory.mkdir()
    with sqlite3.connect(directory / "session.db") as connection:
        connection.executescript(OLD.read_text() if script is None else script)
    connection.close()
    return directory


def test_a_database_of_the_first_schema_is_converted(tmp_path: Path) -> None:
    with Session(old_session(tmp_path / "s")) as session:
        tasks = {app.task_id: app for app in session.load()}
        assert list(tasks) == ["1", "2", "4", "5.1", "5.3", "5.5", "6.8", "6.9"]
        one = tasks["1"]
        assert one.arguments == ("./simulate", "--seed", "7")
        assert one.outputs == {"result.csv": "result.csv", "all": "kept/all"}
        assert one.output_dir == "/home/ada/out/7"
        assert (one.requested_memory, one.requested_walltime) == (Memory("8 GB"), Duration("2 hours"))
        assert (one.execution.state, one.execution.reason, one.execution.signal) == (State.FAILED, Reason.SIGNALLED, 9)
        assert one.execution.accounting.hosts == ("n1", "n2")
        assert one.execution.accounting.max_memory == Memory("8 GiB")
        assert one.execution.timestamps[State.RUNNING] == 1893456060.0
        assert one.execution.history[-1] == (1893456090.0, "killed")
        assert tasks["4"].output_dir == "/home/ada/4"
        element = tasks["5.3"]
        assert element.array == ArrayElement("5", 3, 2)
        assert element.arguments == ("./fit", "in.csv", "3")
        assert element.inputs == {"/home/ada/in3.csv": "in.csv"}
        assert element.after == (Dependency("1"),)
        assert tasks["6.9"].execution.waits_for == (NativeDependency("4711", "any"),)
        assert tasks["6.9"].execution.token == "t/9"
        assert [row.array for row in session.rows(["5"])] == ["5"] * 3
        # copies have one description now, and so have elements that are alike
        assert session.store._database.read("SELECT count(*) FROM descriptions") == [(6,)]
        assert session.add(Application("true")) == ["7"]
    with Session(tmp_path / "s") as session:
        assert len(session.load()) == 9
        assert session.store.note("schema") == str(SCHEMA)


def test_an_old_database_is_not_converted_while_its_tasks_are_driven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchlib.session._UPGRADE_PATIENCE", 0.0)
    directory = old_session(tmp_path / "s")
    driver, session = Session(directory), Session(directory)
    with driver._locked(0.0), pytest.raises(SessionLocked, match="driven by process"):
        session.load()
    with Session(directory) as session, session.driving():
        assert len(session.load()) == 8


def test_two_processes_convert_a_database_once(tmp_path: Path) -> None:
    directory = old_session(tmp_path / "s")
    found: list[int] = []

    def look() -> None:
        with Session(directory) as session:
            found.append(len(session.rows()))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [8] * 4


def test_a_conversion_that_fails_changes_nothing(tmp_path: Path) -> None:
    script = OLD.read_text().replace('{"arguments": ["hostname"]', '{"arguments": ["hostname"', 1)
    directory = old_session(tmp_path / "s", script)
    before = (directory / "session.db").read_bytes()
    for _ in range(2):
        with Session(directory) as session, pytest.raises(ValueError, match="delimiter"):
            session.load()
    assert (directory / "session.db").read_bytes() == before


@pytest.mark.parametrize("schema", [str(SCHEMA + 1), "one"])
def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path, schema: str) -> None:
    directory = old_session(
        tmp_path / "s", f"CREATE TABLE meta (key, value); INSERT INTO meta VALUES ('schema', '{schema}')"
    )
    with Session(directory) as session, pytest.raises(SessionError, match=f"schema {schema}, this is {SCHEMA}"):
        session.load()


def test_what_is_written_is_on_disk(tmp_path: Path) -> None:
    database = SqliteFile("url", str(tmp_path / "session.db"))
    # FULL, and a journal that is not removed: what was committed can't be undone by a power cut
    assert database.read("PRAGMA synchronous") == [(2,)]
    assert database.read("PRAGMA journal_mode") == [("truncate",)]
    database.close()
