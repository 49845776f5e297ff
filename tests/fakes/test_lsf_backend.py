"""The life of jobs on a pretended LSF, IBM's and volclava."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlib import Application, Engine, Session
from batchlib.application import Dependency
from batchlib.array import expand_array, parse_array
from batchlib.backends.base import Action, JobFilter, Outcome
from batchlib.backends.lsf import LsfBackend
from batchlib.config import Configuration
from batchlib.errors import (
    BatchlibError,
    CapacityReached,
    CommandNotFound,
    SubmissionRefused,
    SubmissionUnclear,
    SystemUnavailable,
    UnsupportedOperation,
)
from batchlib.run import NativeDependency, Reason, Run, State
from tests.fakes.engine import stop_everything
from tests.fakes.frontend import Frontend
from tests.life import DONE, PATIENCE, RoundTrips, ended, in_state, outcome, outcomes, round_trips, running, settle

ODD = ["a b", "q'\"$HOME`id`", "new\nline", "\n#BSUB -H\n", "ünï ☃", "-x", "", "\\n", "*", "!!", " lead", "#c"]


class Site:
    """A pretended cluster, and how to reach it."""

    def __init__(self, dialect: str, directory: Path) -> None:
        self.dialect = dialect
        self.directory = directory
        self.commands = Path(__file__).parent / "lsf/bin"
        self.spool = directory / "server"
        (directory / "home").mkdir()
        (directory / "etc").mkdir()
        (directory / "etc/lsf.conf").write_text("LSF_LOGDIR=/var/log\nLSF_UNIT_FOR_LIMITS=MB\n")
        self.environment = {
            "FAKE_LSF": dialect,
            "FAKE_SPOOL": str(self.spool),
            "FAKE_USER": "hpc",
            "FAKE_KILL_DELAY": "0.3",
            "FAKE_LSF_MINUTE": "2",
            "FAKE_LSF_RESUME": "0.3",
            "LSF_ENVDIR": str(directory / "etc"),
            "HOME": str(directory / "home"),
        }
        self.opened: list[LsfBackend] = []

    def backend(self, variables: dict[str, str] | None = None, **keys: object) -> LsfBackend:
        exports = [f"export {name}='{value}'" for name, value in {**self.environment, **(variables or {})}.items()]
        keys = {
            "spooldir": str(self.directory / "sandboxes"),
            "setup": "\n".join([f"export PATH='{self.commands}':$PATH", *exports]),
            "accounting_delay": 5,
            **keys,
        }
        self.opened.append(LsfBackend("lab", **keys))
        return self.opened[-1]

    def run(self, *words: str, **variables: str) -> str:
        """Run a pretended command on behalf of somebody else than the backend."""
        environment = {**os.environ, **self.environment, **variables}
        done = subprocess.run([self.commands / words[0], *words[1:]], env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    def switch(self, name: str, on: bool = True) -> None:
        self.spool.mkdir(exist_ok=True)
        if on:
            (self.spool / name).touch()
        else:
            (self.spool / name).unlink()

    def close(self) -> None:
        for backend in self.opened:
            backend.close()
        if (self.spool / "state.db").exists():
            stop_everything(str(self.spool))


@pytest.fixture(params=["volclava", "ibm"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def backend(site: Site) -> LsfBackend:
    return site.backend()


def until_stopped(code: int = 0) -> Application:
    return Application(["sh", "-c", f"while [ ! -f stop ]; do sleep 0.1; done; exit {code}"])


def stop(backend: LsfBackend, app: Application) -> None:
    backend.transport.write(f"{backend.spool}/{app.execution.token}/stop", b"")


# --- one job ------------------------------------------------------------------------------------------------------


@pytest.fixture
def over_ssh(site: Site, tmp_path: Path) -> Iterator[dict[str, object]]:
    """Keys of a resource behind a pretended frontend."""
    key = tmp_path / "id_rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(key)], check=True, stdin=subprocess.DEVNULL)
    with Frontend(
        tmp_path / "home", keyfile=key, path=[site.commands], environment=site.environment, noise="Welcome!\n"
    ) as frontend:
        (tmp_path / "known_hosts").write_text(frontend.known_hosts_line)
        yield {
            "setup": "",
            "transport": "ssh",
            "frontend": frontend.host,
            "port": frontend.port,
            "username": frontend.user,
            "keyfile": str(key),
            "known_hosts": str(tmp_path / "known_hosts"),
            "ssh_config": "none",
        }


@pytest.mark.parametrize("transport", ["local", "ssh"])
def test_what_looks_like_an_option_arrives_byte_for_byte(
    site: Site, tmp_path: Path, transport: str, request: pytest.FixtureRequest
) -> None:
    keys = request.getfixturevalue("over_ssh") if transport == "ssh" else {}
    backend = site.backend(**keys)
    values = " ".join(f'"$ODD{number}"' for number in range(len(ODD)))
    script = f"for word; do printf '%s\\0' \"$word\"; done > arguments\nprintf '%s\\0' {values} > values\n"
    app = Application(
        ["sh", "-c", script, "sh", *ODD],
        outputs=["arguments", "values"],
        environment={f"ODD{number}": word for number, word in enumerate(ODD)},
        jobname="odd; $(name) 'x'",
    )
    backend.submit_job(app)
    settle(backend, [app], ended)
    assert outcome(app) == DONE
    backend.get_results(app, tmp_path / "out")
    expected = b"".join(word.encode() + b"\0" for word in ODD)
    assert (tmp_path / "out/arguments").read_bytes() == (tmp_path / "out/values").read_bytes() == expected


def test_a_banner_and_a_mail_are_no_answer(site: Site, tmp_path: Path) -> None:
    backend = site.backend({"FAKE_LSF_BANNER": "Generic job."})
    app = Application(["sh", "-c", "echo out; echo err >&2"], mail_to="me@example.org")
    backend.submit_job(app)
    settle(backend, [app], ended)
    backend.get_results(app, tmp_path / "out")
    # nor does LSF's report stand in the output
    assert (tmp_path / "out/stdout.txt").read_text() == "out\n"
    assert (tmp_path / "out/stderr.txt").read_text() == "err\n"


def test_the_jobs_environment(site: Site, tmp_path: Path) -> None:
    backend = site.backend({"LSB_JOBID": "1", "LSB_HOSTS": "elsewhere", "LSB_DEFAULTQUEUE": "short", "MINE": "yes"})
    app = Application(["env"], environment={"LSB_NTRIES": "7"})
    other = Application(["env"])
    backend.submit_jobs([app, other])
    settle(backend, [app, other], ended)
    found = []
    for number, one in enumerate((app, other)):
        backend.get_results(one, tmp_path / str(number))
        lines = (tmp_path / f"{number}/stdout.txt").read_text().splitlines()
        found.append(dict(line.partition("=")[::2] for line in lines))
    assert found[0]["LSB_JOBID"] == app.execution.jobid
    assert (found[0]["LSB_QUEUE"], found[0]["MINE"], found[0]["LSB_NTRIES"]) == ("short", "yes", "7")
    assert "elsewhere" not in found[0]["LSB_HOSTS"]
    assert "LSB_NTRIES" not in found[1]


def test_the_log_holds_what_the_script_itself_says(site: Site) -> None:
    backend = site.backend(prologue_content="echo hello from the prologue; exit 4")
    app = Application(["true"])
    backend.submit_job(app)
    settle(backend, [app], ended)
    assert outcome(app) == (State.FAILED, Reason.START_FAILURE, 4, None)
    assert backend.read_output(app, ".batchlib/log") == b"hello from the prologue\n"


def test_memory_is_asked_for_in_the_sites_unit(site: Site) -> None:
    backend = site.backend(max_walltime="10 hours")
    app = Application(["true"], requested_memory="1500 MiB", requested_cores=2, requested_walltime="90 s")
    backend.submit_job(app)
    script = backend.read_output(app, ".batchlib/script").decode()
    assert '#BSUB -R "rusage[mem=1500] span[hosts=1]"\n#BSUB -M 1500\n#BSUB -W 2\n' in script
    settle(backend, [app], ended)
    assert outcome(app) == DONE
    assert app.execution.accounting.cores == 2


@pytest.mark.parametrize("keys", [{"requested_gpus": 1}, {"reservation": "mine"}])
def test_what_only_ibms_lsf_has(site: Site, backend: LsfBackend, keys: dict[str, object]) -> None:
    app = Application(["true"], **keys)  # type: ignore[arg-type]
    if site.dialect == "ibm":
        backend.submit_job(app)
        settle(backend, [app], ended)
        assert outcome(app) == DONE
    else:
        with pytest.raises(UnsupportedOperation, match=next(iter(keys))):
            backend.submit_job(app)
        assert app.execution.state is State.NEW


def test_what_is_refused_leaves_nothing(backend: LsfBackend) -> None:
    good = Application(["true"])
    bad = [
        Application(["true"], queue="no-such-queue"),
        Application(["true"], queue="short", requested_walltime="100 hours"),
        Application(["true"], native=['-R "select[mem>"']),
        Application(["true"], native=["-Q nothing"]),
    ]
    before = set(backend.transport.listdir(backend.spool))
    answers = backend.submit_jobs([*bad, good])
    assert [type(answers[app]) for app in bad] == [SubmissionRefused] * len(bad)
    assert "No such queue" in str(answers[bad[0]])
    assert answers[good] is None
    settle(backend, [good], ended)
    backend.free(good)
    assert set(backend.transport.listdir(backend.spool)) == before


# --- ends ---------------------------------------------------------------------------------------------------------


def test_at_its_run_limit(backend: LsfBackend) -> None:
    told = Application(["sleep", "600"], requested_walltime="1 s")
    careful = Application(["sh", "-c", "trap 'exit 0' USR2; while :; do sleep 0.1; done"], requested_walltime="1 s")
    backend.submit_jobs([told, careful])
    settle(backend, [told, careful], ended)
    assert outcome(told) == (State.FAILED, Reason.WALLTIME, None, signal.SIGUSR2)
    assert outcome(careful) == DONE


def test_more_memory_than_asked_for(site: Site) -> None:
    # long enough after its start for LSF to have looked at what it uses, which is all that volclava tells
    script = f"import time\nwhile time.time() < {time.time() + 13}: time.sleep(0.05)\nx = b'1' * 300_000_000\n"
    app = Application([sys.executable, "-c", script + "while True: time.sleep(0.05)"], requested_memory="50 MiB")
    backend = site.backend({"FAKE_KILL_DELAY": "5"})
    backend.submit_job(app)
    settle(backend, [app], ended)
    assert outcome(app)[:2] == (State.FAILED, Reason.MEMORY)
    most = app.execution.accounting.max_memory
    assert most is not None
    assert most.bytes > 50 * 1024**2


def test_a_job_that_does_not_want_to_end_is_killed(backend: LsfBackend) -> None:
    app = Application(["sh", "-c", "trap '' INT TERM; touch ready; while :; do sleep 0.1; done"])
    backend.submit_job(app)
    settle(backend, [app], running)
    deadline = time.monotonic() + PATIENCE
    while not backend.transport.exists(f"{backend.spool}/{app.execution.token}/ready"):
        assert time.monotonic() < deadline
    assert outcomes(backend.cancel_jobs([app])) == [Outcome.DONE]
    settle(backend, [app], ended)
    assert outcome(app)[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)


@pytest.mark.parametrize(("who", "reason"), [("hpc", Reason.CANCELLED_BY_USER), ("root", Reason.CANCELLED_BY_SYSTEM)])
def test_killed_behind_our_back(site: Site, backend: LsfBackend, who: str, reason: Reason) -> None:
    runs, waits = Application(["sleep", "600"]), Application(["sleep", "600"], hold=True)
    backend.submit_jobs([runs, waits])
    settle(backend, [runs], running)
    said = site.run("bkill", *[app.execution.jobid or "" for app in (runs, waits)], FAKE_USER=who, FAKE_MANAGER="yes")
    assert said.count("is being terminated") == 2
    settle(backend, [runs, waits], ended)
    assert outcome(runs) == (State.CANCELLED, reason, None, signal.SIGINT)
    assert outcome(waits) == (State.CANCELLED, reason, None, None)


def test_an_end_that_lsf_did_not_see(site: Site, backend: LsfBackend) -> None:
    apps = [until_stopped(), until_stopped(5)]
    backend.submit_jobs(apps)
    settle(backend, apps, running)
    site.switch("sbatchd-down")
    for app in apps:
        stop(backend, app)
    settle(backend, apps, ended)
    site.switch("sbatchd-down", False)
    assert [outcome(app) for app in apps] == [DONE, (State.FAILED, Reason.EXITED, 5, None)]
    assert {app.execution.native_state.split()[0] for app in apps} == {"EXIT"}


def test_jobs_that_lsf_has_forgotten(site: Site) -> None:
    backend = site.backend({"FAKE_HISTORY": "0"})
    good, bad, killed = Application(["true"]), Application(["sh", "-c", "exit 3"]), Application(["sleep", "600"])
    backend.submit_jobs([good, bad, killed])
    settle(backend, [killed], running)
    site.run("bkill", "-s", "KILL", killed.execution.jobid or "")
    settle(backend, [good, bad, killed], ended)
    assert (outcome(good), outcome(bad)) == (DONE, (State.FAILED, Reason.EXITED, 3, None))
    assert outcome(killed)[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    assert outcomes(backend.cancel_jobs([good])) == [Outcome.ALREADY_ENDED]
    stranger = Application(["true"])
    stranger.execution = Run(state=State.RUNNING, jobid=good.execution.jobid, token=good.execution.token)
    assert outcomes(backend.cancel_jobs([stranger])) == [Outcome.NOT_FOUND]


def test_a_job_that_nobody_knows_is_lost(site: Site, backend: LsfBackend) -> None:
    app = Application(["true"])
    app.execution = Run(state=State.RUNNING, jobid="4711", token="b" + "c" * 15)
    settle(backend, [app], ended)
    assert outcome(app)[:2] == (State.LOST, Reason.LOST)


# --- control ------------------------------------------------------------------------------------------------------


def test_hold_and_suspend_are_not_taken_for_each_other(site: Site) -> None:
    backend = site.backend({"FAKE_SLOTS": "1"})
    runs, waits = until_stopped(), until_stopped()
    backend.submit_jobs([runs, waits])
    settle(backend, [runs], running)
    assert outcomes(backend.hold_jobs([runs, waits])) == [Outcome.REFUSED, Outcome.DONE]
    settle(backend, [waits], in_state(State.HELD))
    assert outcomes(backend.suspend_jobs([runs, waits])) == [Outcome.DONE, Outcome.REFUSED]
    settle(backend, [runs], in_state(State.SUSPENDED))
    assert outcomes(backend.resume_jobs([runs])) == [Outcome.DONE]
    settle(backend, [runs], running)
    assert outcomes(backend.release_jobs([waits])) == [Outcome.DONE]
    settle(backend, [waits], in_state(State.QUEUED))
    for app in (runs, waits):
        stop(backend, app)
    settle(backend, [runs, waits], ended)
    assert [outcome(app) for app in (runs, waits)] == [DONE, DONE]


def test_requeue(backend: LsfBackend, tmp_path: Path) -> None:
    app = Application(["sh", "-c", "echo x >> ../runs; [ $(wc -l < ../runs) -gt 1 ] || sleep 600"])
    waits = Application(["true"], hold=True)
    backend.submit_jobs([app, waits])
    settle(backend, [app], running)
    assert outcomes(backend.requeue_jobs([app, waits])) == [Outcome.DONE, Outcome.REFUSED]
    settle(backend, [app], ended)
    assert outcome(app) == DONE
    assert backend.transport.read(f"{backend.spool}/runs") == b"x\nx\n"
    backend.cancel_job(waits)


def test_signals(backend: LsfBackend) -> None:
    app = Application(["sh", "-c", "trap 'exit 9' USR1; touch ready; while :; do sleep 0.1; done"])
    backend.submit_job(app)
    deadline = time.monotonic() + PATIENCE
    while not backend.transport.exists(f"{backend.spool}/{app.execution.token}/ready"):
        assert time.monotonic() < deadline
    assert outcomes(backend.control_jobs([app], Action.SIGNAL, "FOO")) == [Outcome.REFUSED]
    assert outcomes(backend.control_jobs([app], Action.SIGNAL, "SIGUSR1")) == [Outcome.DONE]
    settle(backend, [app], ended)
    assert outcome(app) == (State.FAILED, Reason.EXITED, 9, None)


def test_somebody_elses_job(site: Site, backend: LsfBackend) -> None:
    stranger = site.backend({"FAKE_USER": "other"})
    app = Application(["sleep", "600"])
    backend.submit_job(app)
    settle(backend, [app], running)
    assert outcomes(stranger.cancel_jobs([app])) == [Outcome.REFUSED]
    app.execution.cancel_requested = False
    assert stranger.parse_queue(stranger.ask(stranger.queue_command([]))) == {}
    [job] = stranger.list_jobs(JobFilter(owners=["hpc"]))
    assert (job.jobid, job.state, job.queue) == (app.execution.jobid, State.RUNNING, "normal")
    backend.update_job_states([app])
    assert app.execution.state is State.RUNNING


# --- arrays and dependencies --------------------------------------------------------------------------------------


def array(text: str, script: str, **keys: object) -> list[Application]:
    app = Application(["sh", "-c", script, "sh", "{index}"], **keys)  # type: ignore[arg-type]
    return expand_array(app, parse_array(text), "task")


def test_elements_have_ends_and_outputs_of_their_own(backend: LsfBackend, tmp_path: Path) -> None:
    apps = array("1,3,7-10%3", "echo $1 $TASK_ID; [ $1 != 7 ] || sleep 600; exit $1")
    assert not any(backend.submit_jobs(apps).values())
    root = backend.array_jobid(apps[0].execution.jobid or "")
    assert [app.execution.jobid for app in apps] == [f"{root}[{index}]" for index in (1, 3, 7, 8, 9, 10)]
    settle(backend, [apps[2]], running)
    settle(backend, [app for app in apps if app is not apps[2]], ended)
    assert outcomes(backend.cancel_jobs([apps[2]])) == [Outcome.DONE]
    settle(backend, apps, ended)
    assert [app.execution.exitcode for app in apps] == [1, 3, None, 8, 9, 10]
    assert outcome(apps[2])[:2] == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    backend.collect_jobs({app: tmp_path / str(number) for number, app in enumerate(apps)})
    assert (tmp_path / "1/stdout.txt").read_text() == "3 3\n"
    backend.free_jobs(apps)
    assert not [name for name in backend.transport.listdir(backend.spool) if name.startswith("b")]


def test_a_whole_array_can_be_cancelled(backend: LsfBackend) -> None:
    apps = array("1-5%2", "sleep 600")
    backend.submit_jobs(apps)
    settle(backend, apps[:2], running)
    assert outcomes(backend.cancel_jobs(apps)) == [Outcome.DONE] * 5
    settle(backend, apps, ended)
    assert {outcome(app)[:2] for app in apps} == {(State.CANCELLED, Reason.CANCELLED_BY_USER)}


@pytest.mark.parametrize("spec", ["0-2", "999-1001"])
def test_what_lsf_would_misread_goes_as_single_jobs(backend: LsfBackend, spec: str) -> None:
    apps = array(spec, "exit 0")
    assert not any(backend.submit_jobs(apps).values())
    assert not [app for app in apps if "[" in (app.execution.jobid or "[")]
    assert len({app.execution.jobid for app in apps}) == 3
    settle(backend, apps, ended)
    assert {outcome(app) for app in apps} == {DONE}


def test_an_array_that_is_larger_than_we_were_told_is_refused(site: Site, tmp_path: Path) -> None:
    backend = site.backend(max_array_size=100_000)
    apps = array("999-1001", f"touch {tmp_path}/ran")
    answers = set(backend.submit_jobs(apps).values())
    assert [type(error) for error in answers] == [SubmissionRefused]
    assert ("max_array_size" if site.dialect == "volclava" else "too large") in str(answers.pop())
    assert {app.execution.state for app in apps} == {State.NEW}
    deadline = time.monotonic() + PATIENCE
    while " RUN " in (listed := site.run("bjobs", "-a", "-w")) or " PEND " in listed:
        assert time.monotonic() < deadline
    assert not (tmp_path / "ran").exists()


def test_dependencies_where_they_are_honoured(site: Site, backend: LsfBackend) -> None:
    assert backend.supports("dependency") is (site.dialect == "ibm")
    if site.dialect != "ibm":
        return
    good, bad = until_stopped(), until_stopped(3)
    backend.submit_jobs([good, bad])
    met = {("good", "ok"): True, ("good", "notok"): False, ("bad", "ok"): False, ("bad", "notok"): True}
    met |= {("good", "any"): True, ("bad", "any"): True}
    children = {}
    for parent, on in met:
        children[parent, on] = Application(["true"])
        jobid = (good if parent == "good" else bad).execution.jobid or ""
        children[parent, on].execution.waits_for = (NativeDependency(jobid, on),)
    apps = list(children.values())
    assert not any(backend.submit_jobs(apps).values())
    backend.update_job_states(apps)
    assert {app.execution.state for app in apps} == {State.QUEUED}
    for app in (good, bad):
        stop(backend, app)
    settle(backend, [good, bad, *apps], ended)
    found = {key: app.execution.state for key, app in children.items()}
    assert found == {key: State.DONE if good else State.OMITTED for key, good in met.items()}


def test_elements_that_wait_for_elements(site: Site, backend: LsfBackend, tmp_path: Path) -> None:
    configuration = Configuration({"lab": backend.settings})
    with Session(tmp_path / "session") as session, Engine(session, configuration) as engine:
        parents = session.add_array(Application(["sh", "-c", "sleep 0.5; exit $(({index} / 2))"]), "1-2")
        ok, notok = (
            session.add(Application(["true"], after=[Dependency((parents[number],), on)]))[0]
            for number, on in ((0, "ok"), (1, "notok"))
        )
        engine.run(on="lab", timeout=PATIENCE)
        states = {row.id: row.state for row in session.rows()}
    assert (states[ok], states[notok]) == (State.DONE, State.DONE)


# --- many jobs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 30])
def test_thirty_jobs_cost_no_more_round_trips_than_one(backend: LsfBackend, tmp_path: Path, count: int) -> None:
    assert round_trips(backend, tmp_path, count) == RoundTrips(submit=1, look=2, fetch=1, free=1)


def test_controlling_many_jobs_costs_one_round_trip(backend: LsfBackend) -> None:
    apps = [Application(["true"], hold=True) for _ in range(30)]
    backend.submit_jobs(apps)
    before = backend.transport.round_trips
    assert outcomes(backend.cancel_jobs(apps)) == [Outcome.DONE] * 30
    assert backend.transport.round_trips - before == 1
    settle(backend, apps, ended)
    assert {app.execution.state for app in apps} == {State.CANCELLED}


# --- when LSF does not answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["down", "lim-down"])
def test_a_server_that_is_down_changes_nothing(site: Site, backend: LsfBackend, switch: str) -> None:
    app, late, gone = until_stopped(), Application(["true"], requested_memory="1 GiB"), Application(["true"])
    backend.submit_jobs([app, gone])
    settle(backend, [app], running)
    site.switch(switch)
    started = time.monotonic()
    for error in backend.update_job_states([app, gone]).values():
        assert isinstance(error, SystemUnavailable)
    assert app.execution.state is State.RUNNING
    assert outcomes(backend.cancel_jobs([app])) == [Outcome.UNKNOWN]
    assert isinstance(backend.submit_jobs([late])[late], SystemUnavailable)
    assert late.execution.state is State.NEW
    with pytest.raises(SystemUnavailable):
        backend.ping()
    with pytest.raises(SystemUnavailable):
        backend.list_queues()
    with pytest.raises(SystemUnavailable):
        backend.list_machines()
    # clients would wait for ever if they were let
    assert time.monotonic() - started < PATIENCE / 2
    site.switch(switch, False)
    app.execution.cancel_requested = False
    stop(backend, app)
    backend.submit_job(late)
    settle(backend, [app, late, gone], ended)
    assert [outcome(one) for one in (app, late, gone)] == [DONE] * 3


def test_a_server_that_hangs(site: Site, backend: LsfBackend) -> None:
    app = until_stopped()
    backend.submit_job(app)
    settle(backend, [app], running)
    impatient = site.backend(timeout="4 s")
    impatient.ping()
    site.switch("hang")
    try:
        error = impatient.update_job_states([app])[app]
        assert isinstance(error, SystemUnavailable)
        assert app.execution.state is State.RUNNING
        late = Application(["true"])
        error = impatient.submit_jobs([late])[late]
        assert isinstance(error, SubmissionUnclear)
        assert late.execution.state is State.SUBMITTING
    finally:
        site.switch("hang", False)
    stop(backend, app)
    settle(backend, [app], ended)
    assert outcome(app) == DONE


def recovered(backend: LsfBackend, app: Application) -> BatchlibError | None:
    """Find out what became of a submission as if it had been made long ago."""
    asked = f"{backend.spool}/{(app.execution.token or '').partition('/')[0]}/.batchlib/asked"
    backend.transport.run(f"touch -d '1 hour ago' '{asked}'")
    return backend.recover_jobs([app])[app]


def test_a_submission_that_was_accepted_all_the_same_runs_once(site: Site, backend: LsfBackend) -> None:
    app, held = Application(["sh", "-c", "echo x >> ../runs"]), Application(["true"], hold=True)
    site.switch("unclear")
    for one in (app, held):
        assert isinstance(backend.submit_jobs([one])[one], SubmissionUnclear)
        assert one.execution.state is State.SUBMITTING
    site.switch("unclear", False)
    for one in (app, held):
        assert recovered(backend, one) is None
        assert one.execution.jobid
    settle(backend, [app], ended)
    settle(backend, [held], in_state(State.HELD))
    assert outcome(app) == DONE
    assert backend.transport.read(f"{backend.spool}/runs") == b"x\n"
    assert site.run("bjobs", "-a", "-w").count(held.execution.token or "?") == 1


def test_an_array_that_was_accepted_all_the_same(site: Site, backend: LsfBackend) -> None:
    apps = array("2-4:2", "exit $1", hold=True)
    site.switch("unclear")
    assert {type(error) for error in backend.submit_jobs(apps).values()} == {SubmissionUnclear}
    site.switch("unclear", False)
    assert recovered(backend, apps[0]) is None
    assert backend.recover_jobs(apps[1:])[apps[1]] is None
    first, second = (app.execution.jobid or "" for app in apps)
    assert (first[-3:], second[-3:]) == ("[2]", "[4]")
    assert backend.array_jobid(first) == backend.array_jobid(second)
    backend.cancel_jobs(apps)
    settle(backend, apps, ended)


def test_a_submission_that_never_arrived_is_made_again(site: Site) -> None:
    backend = site.backend(timeout="4 s")
    backend.ping()
    app = Application(["true"])
    site.switch("hang")
    assert isinstance(backend.submit_jobs([app])[app], SubmissionUnclear)
    error = backend.recover_jobs([app])[app]
    assert error is not None
    assert app.execution.state is State.SUBMITTING
    site.switch("hang", False)
    # bsub was ended before it was heard
    assert recovered(site.backend(), app) is None
    assert app.execution.state is State.NEW
    backend.submit_job(app)
    settle(backend, [app], ended)
    assert outcome(app) == DONE
    assert len(site.run("bjobs", "-a", "-w").splitlines()) == 2


def test_a_client_that_dies_in_the_middle_finds_its_job(site: Site, backend: LsfBackend) -> None:
    token = "b" + "d" * 15
    program = f"""
import os
from batchlib import Application
from batchlib.backends.lsf import LsfBackend
backend = LsfBackend("lab", spooldir={backend.settings.spooldir!r}, setup={backend.settings.setup!r})
app = Application(["sh", "-c", "echo x >> ../runs"], jobname="orphan")
app.execution.token = {token!r}
backend.submit_jobs([app], journal=lambda apps: print("journalled", flush=True))
os._exit(0)
"""
    client = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "journalled\n"
    client.kill()
    client.wait()
    client.stdout.close()
    app = Application(["sh", "-c", "echo x >> ../runs"], jobname="orphan")
    app.execution = Run(state=State.SUBMITTING, token=token, resource="lab", submission_started=True)
    backend.spool  # noqa: B018 - there may be no sandbox to look into
    recovered(backend, app)
    if app.execution.state is State.NEW:
        backend.submit_job(app)
    settle(backend, [app], ended)
    assert outcome(app) == DONE
    assert backend.transport.read(f"{backend.spool}/runs") == b"x\n"


def test_no_room_for_more_jobs_now(site: Site) -> None:
    backend = site.backend({"FAKE_MAX_QUEUED": "1"})
    first, second = Application(["true"], hold=True), Application(["true"])
    backend.submit_job(first)
    assert isinstance(backend.submit_jobs([second])[second], CapacityReached)
    assert second.execution.state is State.NEW
    backend.cancel_job(first)
    settle(backend, [first], ended)
    backend.submit_job(second)
    settle(backend, [second], ended)
    assert outcome(second) == DONE


def test_commands_that_are_missing(site: Site) -> None:
    backend = site.backend(bjobs="/opt/nowhere/bjobs", bkill="/opt/nowhere/bkill")
    app = Application(["true"])
    backend.submit_job(app)
    with pytest.raises(CommandNotFound, match="/opt/nowhere/bjobs"):
        backend.update_job_state(app)
    assert outcomes(backend.cancel_jobs([app])) == [Outcome.UNKNOWN]
    settle(site.backend(), [app], ended)
    late = Application(["true"])
    answer = site.backend(bsub="/opt/nowhere/bsub").submit_jobs([late])[late]
    assert isinstance(answer, CommandNotFound)
    assert late.execution.state is State.NEW


# --- the site -----------------------------------------------------------------------------------------------------


def test_what_there_is(site: Site, backend: LsfBackend) -> None:
    assert backend.version().startswith("IBM Spectrum LSF" if site.dialect == "ibm" else "volclava project")
    apps = [Application(["sleep", "600"], requested_cores=2), Application(["true"], hold=True)]
    backend.submit_jobs(apps)
    settle(backend, apps[:1], running)
    queues = {queue.name: queue for queue in backend.list_queues()}
    assert [name for name, queue in queues.items() if queue.default] == ["normal"]
    assert queues["short"].open
    [machine] = backend.list_machines()
    assert (machine.available, machine.cores, machine.free_cores) == (True, 16, 15)
    assert {job.jobid: job.state for job in backend.list_jobs()} == {
        apps[0].execution.jobid: State.RUNNING,
        apps[1].execution.jobid: State.HELD,
    }
    site.switch("closed-short")
    assert [queue.name for queue in backend.list_queues() if queue.open] == ["normal"]
    backend.cancel_jobs(apps)
    settle(backend, apps, ended)
