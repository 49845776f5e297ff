"""What a job description means, the same on every system. Each function is a test that pytest calls with a `Site`."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from ..application import Application, Dependency
from ..array import expand_array, parse_array
from ..backends.base import Action, JobFilter, Outcome
from ..config import Configuration
from ..engine import Engine
from ..errors import DataStagingError, InvalidOperation, Kind, UnsupportedOperation
from ..run import Reason, State
from ..session import Session
from .site import LIMIT_PATIENCE, Site, outcome

ODD = ["a b", "q'\"$HOME`id`", "new\nline", "ünï ☃", "-x", "", "\\n", "*", "!!", " lead", "#c", "a,b=c"]
DONE = (State.DONE, Reason.EXITED, 0, None)


def test_life_cycle(site: Site, tmp_path: Path) -> None:
    app = Application(["sh", "-c", "echo out; echo err >&2; echo made > made.txt"], outputs=["made.txt"])
    assert site.run(app) == [DONE]
    collected = site.backend.get_results(app, tmp_path / "out")
    assert collected.missing == ()
    assert (tmp_path / "out/stdout.txt").read_text() == "out\n"
    assert (tmp_path / "out/stderr.txt").read_text() == "err\n"
    assert (tmp_path / "out/made.txt").read_text() == "made\n"
    assert app.execution.started_at is not None
    assert app.execution.ended_at is not None


def test_exit_codes(site: Site) -> None:
    codes = [0, 1, 3, 126, 137, 255]
    ends = site.run(*[Application(["sh", "-c", f"exit {code}"]) for code in codes])
    expected = [(State.FAILED, Reason.EXITED, code, None) if code else DONE for code in codes]
    assert ends == expected


def test_command_not_found(site: Site, tmp_path: Path) -> None:
    app = Application(["no-such-program-anywhere"])
    assert site.run(app) == [(State.FAILED, Reason.EXITED, 127, None)]
    site.backend.get_results(app, tmp_path)
    assert "not found" in (tmp_path / "stderr.txt").read_text()


def test_signals(site: Site) -> None:
    signals = [1, 6, 9, 11, 15]
    ends = site.run(*[Application(["sh", "-c", f"ulimit -c 0; kill -{number} $$"]) for number in signals])
    assert ends == [(State.FAILED, Reason.SIGNALLED, None, number) for number in signals]


def test_quoting(site: Site, tmp_path: Path) -> None:
    names = " ".join(f"ODD{number}" for number in range(len(ODD)))
    script = (
        "for word; do printf '%s\\0' \"$word\"; done > arguments\n"
        f'for name in {names}; do eval "printf \'%s\\\\0\' \\"\\$$name\\""; done > values\n'
    )
    app = Application(
        ["sh", "-c", script, "sh", *ODD],
        environment={f"ODD{number}": word for number, word in enumerate(ODD)},
        outputs=["arguments", "values"],
        jobname="odd; $(touch oops) 'x' ☃",
    )
    assert site.run(app) == [DONE]
    site.backend.get_results(app, tmp_path)
    expected = b"".join(word.encode() + b"\0" for word in ODD)
    assert (tmp_path / "arguments").read_bytes() == expected
    assert (tmp_path / "values").read_bytes() == expected


def test_staging(site: Site, tmp_path: Path) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/a file").write_bytes(bytes(range(256)))
    (tmp_path / "program").write_text("#!/bin/sh\ncat > given; cp -r tree copy\n")
    (tmp_path / "input").write_bytes(b"stdin\0here")
    app = Application(
        ["./run me"],
        inputs={str(tmp_path / "tree"): "tree", str(tmp_path / "program"): "run me"},
        outputs={"copy": "renamed/copy", "given": "given", "absent": "absent"},
        stdin=tmp_path / "input",
        stdout="logs/out.txt",
        join=True,
    )
    assert site.run(app) == [DONE]
    collected = site.backend.get_results(app, tmp_path / "out")
    assert collected.missing == ("absent",)
    assert (tmp_path / "out/renamed/copy/deep/a file").read_bytes() == bytes(range(256))
    assert (tmp_path / "out/given").read_bytes() == b"stdin\0here"
    assert (tmp_path / "out/logs/out.txt").read_bytes() == b""
    assert not (tmp_path / "out/stderr.txt").exists()


def test_everything_comes_back(site: Site, tmp_path: Path) -> None:
    app = Application(["sh", "-c", "mkdir d; echo 1 > d/one; echo 2 > two"], outputs=["*"])
    assert site.run(app) == [DONE]
    site.backend.get_results(app, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"d/one", "two", "stdout.txt", "stderr.txt"}


def test_large_inputs_are_shared(site: Site, tmp_path: Path) -> None:
    """Jobs and the elements of an array get the same file; what one of them does to it is not seen by the others."""
    large = tmp_path / "large"
    large.write_bytes(tmp_path.name.encode() + bytes(3 << 20))
    for name, path in (("here", "large"), ("array", "deep/large")):
        command = f"cksum < {path}; rm -f {path}; echo mine > {path}; cksum < large.txt"
        apps = [
            Application(["sh", "-c", command], inputs={str(large): path, __file__: "large.txt"}, jobname=name)
            for _ in range(1 if name == "array" else 2)
        ]
        if name == "array":
            apps = expand_array(apps[0], parse_array("1-3"))
        for _ in range(2):
            copies = [Application(app.arguments, inputs=app.inputs, array=app.array) for app in apps]
            assert site.run(*copies) == [DONE] * len(copies)
            found = set()
            for number, app in enumerate(copies):
                site.backend.get_results(app, tmp_path / str(number), overwrite=True)
                found.add((tmp_path / str(number) / "stdout.txt").read_text())
            assert len(found) == 1
            assert str(large.stat().st_size) in found.pop()
            site.backend.free_jobs(copies)


def test_results_are_not_overwritten_unless_changed(site: Site, tmp_path: Path) -> None:
    app = Application(["sh", "-c", "echo theirs > result"], outputs=["result"])
    site.run(app)
    (tmp_path / "result").write_text("mine\n")
    site.backend.get_results(app, tmp_path, changed_only=False)
    assert (tmp_path / "result").read_text() == "mine\n"
    site.backend.get_results(app, tmp_path)
    assert (tmp_path / "result").read_text() == "theirs\n"


def test_peek(site: Site) -> None:
    app = Application(["sh", "-c", "echo first; echo second; while [ ! -f go ]; do sleep 0.2; done"])
    site.submit(app)
    site.reach(app, State.RUNNING)
    site.wait([app], lambda app: _peek(site, app) == b"first\nsecond\n")
    assert site.backend.read_output(app, "stdout.txt", -7) == b"second\n"
    assert site.backend.read_output(app, "stdout.txt", 1, 3) == b"irs"
    site.backend.transport.write(f"{site.backend.spool}/{app.execution.token}/go", b"")
    assert site.end(app) == [DONE]


def _peek(site: Site, app: Application) -> bytes:
    try:
        return site.backend.read_output(app, "stdout.txt")
    except OSError:
        return b""


def test_free(site: Site) -> None:
    app = Application(["true"])
    site.submit(app)
    with pytest.raises(InvalidOperation):
        site.backend.free(app)
    site.end(app)
    site.backend.free(app)
    site.backend.free(app)
    assert not site.backend.transport.exists(f"{site.backend.spool}/{app.execution.token}")
    with pytest.raises(InvalidOperation):
        site.backend.get_results(app, "nowhere")


def test_cancel_running(site: Site) -> None:
    app = Application(["sh", "-c", "sleep 987 & echo $! > child; wait"])
    site.submit(app)
    site.reach(app, State.RUNNING)
    site.backend.cancel_job(app)
    [(state, reason, exitcode, _signal)] = site.end(app)
    assert (state, reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    assert exitcode != 0 or exitcode is None
    assert site.backend.cancel_jobs([app])[app].outcome is Outcome.ALREADY_ENDED


def test_cancel_queued(site: Site) -> None:
    if not site.backend.supports("hold"):
        pytest.skip("nothing can be held")
    app = Application(["touch", "ran"], hold=True)
    site.submit(app)
    site.reach(app, State.HELD, State.QUEUED)
    site.backend.cancel_job(app)
    assert [end[:2] for end in site.end(app)] == [(State.CANCELLED, Reason.CANCELLED_BY_USER)]


def test_hold_and_release(site: Site) -> None:
    app = Application(["true"], hold=site.backend.supports("hold"))
    site.submit(app)
    if not site.backend.supports("hold"):
        answer = site.backend.hold_jobs([app])[app]
        assert answer.outcome in (Outcome.REFUSED, Outcome.ALREADY_ENDED)
        assert site.end(app) == [DONE]
        pytest.skip("nothing can be held")
    site.reach(app, State.HELD)
    assert site.backend.release_jobs([app])[app].outcome is Outcome.DONE
    assert site.end(app) == [DONE]


def test_suspend_and_resume(site: Site) -> None:
    app = Application(["sh", "-c", "i=0; while [ ! -f go ]; do sleep 0.2; done"])
    site.submit(app)
    site.reach(app, State.RUNNING)
    answer = site.backend.suspend_jobs([app])[app]
    if answer.outcome is Outcome.REFUSED:
        site.backend.cancel_job(app)
        site.end(app)
        pytest.skip(f"not permitted here: {answer.error}")
    assert answer.outcome is Outcome.DONE
    site.reach(app, State.SUSPENDED)
    assert site.backend.resume_jobs([app])[app].outcome is Outcome.DONE
    site.reach(app, State.RUNNING)
    site.backend.transport.write(f"{site.backend.spool}/{app.execution.token}/go", b"")
    assert site.end(app) == [DONE]


def test_signal(site: Site) -> None:
    if not site.backend.supports("signal"):
        pytest.skip("jobs can't be signalled")
    script = "trap 'echo got it > note; exit 7' USR1; touch ready; while :; do sleep 0.2; done"
    app = Application(["sh", "-c", script])
    site.submit(app)
    site.reach(app, State.RUNNING)
    site.wait([app], lambda app: site.backend.transport.exists(f"{site.backend.spool}/{app.execution.token}/ready"))
    assert site.backend.control_jobs([app], Action.SIGNAL, "USR1")[app].outcome is Outcome.DONE
    [(state, _reason, exitcode, _signal)] = site.end(app)
    assert (state, exitcode) == (State.FAILED, 7)


def test_array(site: Site, tmp_path: Path) -> None:
    for index in (2, 4, 6):
        (tmp_path / f"in.{index}").write_text(f"input {index}\n")
    app = Application(
        ["sh", "-c", "cat data; echo {index} $TASK_ID > result; exit {index}"],
        inputs={str(tmp_path / "in.{index}"): "data"},
        outputs={"result": "result"},
        environment={"VALUE": "{index}"},
    )
    elements = expand_array(app, parse_array("2-6:2%2"), "array")
    assert site.run(*elements) == [(State.FAILED, Reason.EXITED, index, None) for index in (2, 4, 6)]
    site.backend.collect_jobs({element: tmp_path / f"out{n}" for n, element in enumerate(elements)})
    assert [(tmp_path / f"out{n}/result").read_text() for n in range(3)] == ["2 2\n", "4 4\n", "6 6\n"]
    assert (tmp_path / "out2/stdout.txt").read_text() == "input 6\n"
    root = (elements[0].execution.token or "").partition("/")[0]
    site.backend.free_jobs(elements)
    assert not site.backend.transport.exists(f"{site.backend.spool}/{root}")


def test_array_element_can_be_cancelled(site: Site) -> None:
    elements = expand_array(Application(["sh", "-c", "while [ ! -f go ]; do sleep 0.2; done"]), parse_array("1-2"), "a")
    site.submit(*elements)
    for element in elements:
        site.reach(element, State.RUNNING)
    site.backend.cancel_job(elements[0])
    assert site.end(elements[0])[0][0] is State.CANCELLED
    assert site.backend.update_job_state(elements[1]) is State.RUNNING
    site.backend.transport.write(f"{site.backend.spool}/{elements[1].execution.token}/go", b"")
    assert site.end(elements[1]) == [DONE]


def test_dependencies(site: Site, tmp_path: Path) -> None:
    configuration = Configuration({site.backend.name: site.backend.settings})
    backends = {site.backend.name: site.backend}
    with Session(tmp_path / "session") as session, Engine(session, configuration, backends=backends) as engine:
        good, bad = session.add(Application(["sleep", "1"]), Application(["sh", "-c", "sleep 1; exit 1"]))
        children = {
            (good, "ok"): State.DONE,
            (bad, "ok"): State.OMITTED,
            (bad, "notok"): State.DONE,
            (good, "notok"): State.OMITTED,
            (bad, "any"): State.DONE,
        }
        ids = session.add(*[Application(["true"], after=[Dependency((parent,), on)]) for parent, on in children])
        engine.run(on=site.backend.name, timeout=240)
        found = {row.id: row.state for row in session.rows()}
        assert [found[task] for task in ids] == list(children.values())
        for app in session.load():
            engine.backend(site.backend.name).free_jobs([app])


def test_accounting(site: Site) -> None:
    app = Application(["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1"])
    assert site.run(app) == [DONE]
    used = app.execution.accounting
    assert used.wall_time is not None
    assert 0.9 <= used.wall_time.seconds < 100
    assert used.cpu_time is not None
    assert used.hosts
    assert used.started is not None
    assert used.ended is not None
    assert 0.9 <= used.ended - used.started < 100


def test_round_trips_do_not_grow_with_jobs(site: Site, tmp_path: Path) -> None:
    if (site.backend.get_resource_status().cores or 0) < 16:
        pytest.skip("not all jobs would fit at a time")
    found = {}
    for count in (1, 15):
        apps = [Application(["true"]) for _ in range(count)]
        site.submit()
        trips = site.backend.transport
        start = trips.round_trips
        site.submit(*apps)
        submitted = trips.round_trips
        site.end(*apps)
        ended = trips.round_trips
        site.backend.collect_jobs({app: tmp_path / str(n) for n, app in enumerate(apps)})
        fetched = trips.round_trips
        site.backend.free_jobs(apps)
        found[count] = (submitted - start, fetched - ended, trips.round_trips - fetched)
    assert found[15] == found[1]


def test_missing_input_spoils_nothing_else(site: Site, tmp_path: Path) -> None:
    good, bad = Application(["true"]), Application(["true"], inputs=[str(tmp_path / "absent")])
    answers = site.backend.submit_jobs([bad, good])
    assert isinstance(answers[bad], DataStagingError)
    assert answers[good] is None
    assert site.end(good) == [DONE]
    site.backend.free(good)


def test_refused_submission_leaves_nothing(site: Site) -> None:
    before = set(site.backend.transport.listdir(site.backend.spool))
    app = Application(["true"], queue="no-such-queue")
    try:
        error = site.backend.submit_jobs([app])[app]
    except UnsupportedOperation:
        error = None
    if error is None:
        site.end(app)
        site.backend.free(app)
        pytest.skip("there are no queues")
    assert error.kind is Kind.PERMANENT
    assert app.execution.state is State.NEW
    assert set(site.backend.transport.listdir(site.backend.spool)) == before


def test_monitoring(site: Site) -> None:
    app = Application(["sleep", "60"])
    site.submit(app)
    site.reach(app, State.RUNNING)
    jobs = site.backend.list_jobs(JobFilter(jobids=[app.execution.jobid or ""]))
    assert [(job.jobid, job.state) for job in jobs] == [(app.execution.jobid, State.RUNNING)]
    status = site.backend.get_resource_status()
    assert status.own_running >= 1
    assert status.cores
    if site.backend.supports("monitoring"):
        assert any(queue.open for queue in site.backend.list_queues())
        assert any(machine.available and machine.cores for machine in site.backend.list_machines())
    assert site.backend.version()
    site.backend.ping()
    site.backend.cancel_job(app)
    site.end(app)


def test_dry_run(site: Site) -> None:
    before = site.backend.transport.round_trips
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = site.backend.render(Application(["./simulate", "a b"], requested_walltime="90 s", jobname="dry"))
    assert "./simulate 'a b'" in text
    assert site.backend.transport.round_trips == before


def test_dead_server_changes_nothing(site: Site) -> None:
    if site.down is None:
        pytest.skip("the server can't be stopped from here")
    app, late = Application(["sleep", "600"]), Application(["true"])
    site.submit(app)
    site.reach(app, State.RUNNING)
    with site.down():
        error = site.backend.update_job_states([app])[app]
        assert error is not None
        assert error.kind is Kind.TRANSIENT
        assert app.execution.state is State.RUNNING
        assert site.backend.cancel_jobs([app])[app].outcome is Outcome.UNKNOWN
        error = site.backend.submit_jobs([late])[late]
        assert error is not None
        assert error.kind is Kind.TRANSIENT
        assert late.execution.state is State.NEW
    site.reach(app, State.RUNNING)
    app.execution.cancel_requested = False
    site.backend.cancel_job(app)
    site.end(app)
    assert site.run(late) == [DONE]


def test_walltime(site: Site) -> None:
    site.end(site.overdue, patience=LIMIT_PATIENCE)
    state, reason, _exitcode, _signal = outcome(site.overdue)
    assert (state, reason) == (State.FAILED, Reason.WALLTIME)
