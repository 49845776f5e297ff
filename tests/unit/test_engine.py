"""What the engine does with several resources, and how often it asks them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchlib import Application, Engine, Session, State
from batchlib.application import Dependency
from batchlib.config import Configuration, resource_settings
from batchlib.errors import SessionLocked, SystemUnavailable
from tests.stand_in import StandIn

#: Seconds that something may take that takes no time at all.
PATIENCE = 30


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(tmp_path / "session") as session:
        assert session.counts() == {}
        yield session


def tasks(count: int, resource: str | None, name: str = "") -> list[Application]:
    made = [Application(["true"], jobname=f"{name or resource or 'task'}{number}") for number in range(count)]
    for app in made:
        app.execution.resource = resource
    return made


def engine_of(session: Session, *backends: StandIn, poll_interval: float = 0.01, **options: object) -> Engine:
    settings = {
        backend.name: resource_settings(backend.name, {"type": "shell", "poll_interval": str(poll_interval)})
        for backend in backends
    }
    made = {backend.name: backend for backend in backends}
    return Engine(session, Configuration(settings), backends=made, **options)  # type: ignore[arg-type]


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def states(session: Session, resource: str) -> set[State]:
    return {part.state for part in session.store.tally() if part.resource == resource}


def test_a_resource_that_hangs_does_not_slow_the_others(session: Session) -> None:
    good, bad = StandIn("good"), StandIn("bad")
    bad.hangs.clear()
    session.add(*tasks(3, "bad"), *tasks(3, "good"))
    ended = threading.Event()

    def tell(counts: object) -> None:
        if states(session, "good") == {State.DONE}:
            ended.set()

    with engine_of(session, good, bad) as engine:
        running = in_background(lambda: engine.run(tell=tell))
        assert bad.reached.wait(PATIENCE)
        assert ended.wait(PATIENCE), "the tasks of the resource that answers come to their end"
        assert states(session, "bad") == {State.NEW}
        bad.hangs.set()
        running.join(PATIENCE)
        assert not running.is_alive()
    assert session.counts() == {State.DONE: 6}


def test_another_process_drives_what_does_not_hang(session: Session) -> None:
    good, bad = StandIn("good"), StandIn("bad")
    bad.hangs.clear()
    session.add(*tasks(2, "bad"), *tasks(2, "good"))
    with engine_of(session, bad, good) as engine, Session(session.directory, create=False) as again:
        running = in_background(lambda: engine.progress([row.id for row in session.rows() if row.resource == "bad"]))
        assert bad.reached.wait(PATIENCE)
        with engine_of(again, bad, good) as other, pytest.raises(SessionLocked, match="process"):
            other.progress()
        assert states(again, "good") == {State.QUEUED}, "what is not locked was driven all the same"
        bad.hangs.set()
        running.join(PATIENCE)
    assert bad.submitted == ["bad0", "bad1"]


def test_all_resources_are_asked_at_the_same_time(session: Session) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    class Meeting(StandIn):
        def _hear(self, what: str, apps: object) -> None:
            together.wait()

    backends = [Meeting(name) for name in ("one", "two", "three")]
    session.add(*(app for backend in backends for app in tasks(1, backend.name)))
    with engine_of(session, *backends) as engine:
        assert engine.progress() == {State.QUEUED: 3}


def test_what_goes_wrong_with_one_resource_is_raised_when_the_others_are_done(session: Session) -> None:
    class Broken(StandIn):
        def _hear(self, what: str, apps: object) -> None:
            raise ZeroDivisionError

    good = StandIn("good")
    session.add(*tasks(1, "broken"), *tasks(1, "good"))
    with engine_of(session, good, Broken("broken")) as engine, pytest.raises(ZeroDivisionError):
        engine.progress()
    assert states(session, "good") == {State.QUEUED}


def test_a_resource_is_not_asked_again_too_soon(session: Session) -> None:
    site = StandIn("site", ends=lambda app, looks: False)
    session.add(*tasks(2, "site"))
    with engine_of(session, site, poll_interval=3600) as engine:
        engine.progress()
        engine.progress()
        engine.progress()
        assert site.asked == [("submit", 2), ("look", 2)]
        session.add(*tasks(1, "site"))
        engine.progress()
    assert site.asked == [("submit", 2), ("look", 2), ("submit", 1)], "new tasks need not wait for the next look"


def test_processes_share_their_looks(session: Session) -> None:
    site = StandIn("site", ends=lambda app, looks: False)
    session.add(*tasks(2, "site"))
    with engine_of(session, site, poll_interval=3600) as engine:
        engine.progress()
        engine.progress()
    with Session(session.directory, create=False) as again, engine_of(again, site, poll_interval=3600) as other:
        assert other.progress() == {State.RUNNING: 2}
        other.run(timeout=0)
    assert site.count("look") == 1


def test_a_look_at_some_tasks_does_not_stand_for_all(session: Session) -> None:
    site = StandIn("site", ends=lambda app, looks: False)
    first, _ = session.add(*tasks(2, "site"))
    with engine_of(session, site) as engine:
        engine.progress()
    with engine_of(session, site, poll_interval=3600) as engine:
        engine.progress([first])
        assert states(session, "site") == {State.QUEUED, State.RUNNING}
    with engine_of(session, site, poll_interval=3600) as engine:
        engine.progress()
    assert site.asked == [("submit", 2), ("look", 1), ("look", 2)]
    assert session.counts() == {State.RUNNING: 2}


def test_nothing_is_asked_of_anybody_when_all_is_done(session: Session) -> None:
    site = StandIn("site")
    session.add(*tasks(3, "site"))
    with engine_of(session, site, fetch=True) as engine:
        assert engine.run() == {State.DONE: 3}
        before = list(site.asked)
        engine.progress()
        engine.run()
        assert site.asked == before
    assert site.count("collect") >= 1


def test_looks_take_all_jobs_together(session: Session) -> None:
    site = StandIn("site")
    session.add(*tasks(50, "site"))
    with engine_of(session, site, fetch=True) as engine:
        engine.run()
    assert site.asked == [("submit", 50), ("look", 50), ("look", 50), ("collect", 50)]


def test_unchanged_tasks_are_not_written_again(session: Session) -> None:
    site = StandIn("site", ends=lambda app, looks: False)
    session.add(*tasks(5, "site"))
    with engine_of(session, site, poll_interval=0) as engine:
        engine.progress()
        engine.progress()
        revisions = session.store.changed(0)
        engine.progress()
        assert session.store.changed(0) == revisions
    assert site.count("look") == 2


def test_tasks_in_flight_are_counted_over_all_resources(session: Session) -> None:
    one, two = StandIn("one", ends=lambda app, looks: False), StandIn("two", ends=lambda app, looks: False)
    session.add(*tasks(5, "one"), *tasks(5, "two"))
    with engine_of(session, one, two, max_in_flight=4) as engine:
        for _ in range(4):
            engine.progress()
    assert len(one.submitted) + len(two.submitted) == 4


def test_room_is_used_as_it_becomes_free(session: Session) -> None:
    site = StandIn("site", room=2)
    session.add(*tasks(7, "site"))
    with engine_of(session, site) as engine:
        assert engine.run() == {State.DONE: 7}
    assert site.submitted == [f"site{number}" for number in range(7)]


def test_tasks_that_somebody_adds_meanwhile_are_submitted(session: Session) -> None:
    site = StandIn("site", ends=lambda app, looks: "late0" in site.submitted)
    session.add(*tasks(1, "site", "early"))
    with engine_of(session, site, poll_interval=5) as engine, Session(session.directory, create=False) as again:
        running = in_background(engine.run)
        assert site.reached.wait(PATIENCE)
        again.add(*tasks(1, "site", "late"))
        running.join(PATIENCE)
        assert not running.is_alive()
    assert session.counts() == {State.DONE: 2}


def test_a_task_waits_for_one_on_another_resource(session: Session) -> None:
    one, two = StandIn("one"), StandIn("two")
    [first] = session.add(*tasks(1, "one"))
    [after] = tasks(1, "two")
    after.after = (Dependency((first,), "ok"),)
    session.add(after)
    with engine_of(session, one, two) as engine:
        assert engine.run() == {State.DONE: 2}
    assert two.asked[0] == ("submit", 1)


def test_tasks_without_a_resource_get_the_default_one_for_good(session: Session) -> None:
    one, two = StandIn("one", ends=lambda app, looks: False), StandIn("two")
    session.add(*tasks(2, None))
    one.trouble = SystemUnavailable("down", resource="one")
    with engine_of(session, one, two) as engine:
        engine.progress()
        assert session.resources() == {"one"}
        assert "down" in str(engine.problems["one"])
    with engine_of(session, one, two, on="two") as engine:
        engine.progress()
    assert two.asked == []


def test_tasks_of_a_resource_that_is_not_configured(session: Session) -> None:
    site = StandIn("site")
    session.add(*tasks(1, "gone"), *tasks(1, "site"))
    with engine_of(session, site) as engine:
        assert engine.run() == {State.FAILED: 1, State.DONE: 1}
        assert "gone" in engine.problems["gone"].message


HOLD = """
import sys
from batchlib import Session
with Session(sys.argv[1], create=False) as session, session.driving(0, sys.argv[2:] or None):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("theirs", "ours", "free"),
    [
        (["a"], ["b"], True),
        (["a"], ["a"], False),
        (["a", "b"], ["b", "c"], False),
        (["a"], None, False),
        ([], ["a"], False),
        ([], None, False),
        (["../x y"], [None], True),
    ],
)
def test_locks_of_resources_and_of_the_whole(
    session: Session, theirs: list[str], ours: list[str | None] | None, free: bool
) -> None:
    command = [sys.executable, "-c", HOLD, str(session.directory), *theirs]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        if free:
            with session.driving(0, ours):
                pass
        else:
            with pytest.raises(SessionLocked, match=f"process {holder.pid} "), session.driving(0, ours):
                pass
        holder.communicate("")
    with session.driving(0, ours):
        pass
