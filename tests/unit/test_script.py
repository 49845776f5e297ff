"""Job scripts, run by real shells: what the command is given, and what is told of how it ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchlib import sandbox
from batchlib.application import Application, ArrayElement
from batchlib.array import ArraySpec
from batchlib.backends.script import render_command
from batchlib.backends.slurm import SlurmBackend
from batchlib.transport.archive import pack
from batchlib.transport.unpacking import unpack

SHELLS = [shell for shell in ("/bin/dash", "/bin/bash") if shutil.which(shell)]
#: The command prints its arguments, its environment or its standard input exactly as it was given them.
ARGUMENTS = '/bin/sh -c \'for word; do printf "%s\\0" "$word"; done\' show'


@attrs.define
class Job:
    """A job whose script is run here, as a batch system would."""

    app: Application
    directory: Path
    shell: str
    exitcode: int = -1

    @property
    def status(self) -> sandbox.Status:
        status = sandbox.parse_status((self.directory / ".batchlib/status").read_text())
        assert status is not None
        return status

    @property
    def end(self) -> tuple[int | None, int | None, str, str]:
        status = self.status
        return status.exitcode, status.signal, status.caught, status.phase

    def start(self, jobid: str = "7", **keys: object) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": jobid, "HOME": "/"}
        with (self.directory / ".batchlib/log").open("ab") as log:
            return subprocess.Popen(
                [self.shell, str(self.directory / ".batchlib/script")],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **keys,  # type: ignore[call-overload]
            )

    def run(self, jobid: str = "7") -> Job:
        self.exitcode = self.start(jobid).wait(60)
        return self

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Each shell that a job script may be run by."""
    return str(request.param)


def prepare(directory: Path, shell: str, app: Application, **keys: object) -> Job:
    """Put a job's sandbox in place."""
    token = sandbox.new_token()
    backend = SlurmBackend("lab", shell=shell, **keys)
    script = backend.script(app, token, str(directory))
    entries = [*sandbox.root_entries(token, script), *sandbox.input_entries(app, token)]
    unpack(pack(entries), lambda name: directory / name)
    return Job(app, directory / token, shell)


def run(directory: Path, shell: str, command: str | list[str], **keys: object) -> Job:
    return prepare(directory, shell, Application(command, **keys)).run()  # type: ignore[arg-type]


# --- what the command is given ------------------------------------------------------------------------------------

ODD = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "\\",
    "\\n",
    "$HOME",
    "`id`",
    "$(id)",
    "!!",
    "*",
    "~",
    "#c",
    "-n",
    "--",
    "new\nline",
    "\n",
    "\t",
    "\r\n",
    "ünï ☃",
    os.fsdecode(b"\xff\xfe"),
    "{{ x }}",
    "{% raw %}",
    "%s",
    "a;b&c|d>e",
    "x" * 100_000,
]

words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)


@pytest.mark.parametrize(
    "directory_name", ["plain", "with blank", "quo'te", "dollar$HOME", "ü\nnew", "semi;colon", "-dash"]
)
def test_arguments_arrive_byte_for_byte(tmp_path: Path, shell: str, directory_name: str) -> None:
    directory = tmp_path / directory_name
    directory.mkdir()
    job = run(directory, shell, [*Application(ARGUMENTS).arguments, *ODD])
    assert (job.directory / "stdout.txt").read_bytes() == b"".join(os.fsencode(word) + b"\0" for word in ODD)
    assert job.exitcode == 0
    assert job.end == (0, None, "", "command")


@settings(max_examples=15)
@given(arguments=st.lists(words, max_size=5), values=st.lists(words, max_size=5), jobname=words)
@example(arguments=["\n.\n"], values=["\n.\n"], jobname="\n#SBATCH --exclusive\n")
def test_any_arguments_and_values_arrive(
    tmp_path_factory: pytest.TempPathFactory, shell: str, arguments: list[str], values: list[str], jobname: str
) -> None:
    environment = {f"ODD_{number}": value for number, value in enumerate(values)}
    program = (
        "import os, sys; print(sys.argv[1:]); "
        "print([os.environ[f'ODD_{n}'] for n in range(len(os.environ)) if f'ODD_{n}' in os.environ])"
    )
    job = run(
        tmp_path_factory.mktemp("job"),
        shell,
        ["/usr/bin/python3", "-c", program, *arguments],
        environment=environment,
        jobname=jobname,
    )
    assert job.read("stdout.txt") == f"{arguments!r}\n{values!r}\n", job.read("stderr.txt")


def environment_of(job: Job) -> dict[str, str]:
    pairs = os.fsdecode((job.directory / "stdout.txt").read_bytes()).split("\0")[:-1]
    return dict(pair.partition("=")[::2] for pair in pairs)  # type: ignore[misc]


def test_the_environment_arrives_byte_for_byte(tmp_path: Path, shell: str) -> None:
    environment = {f"ODD_{number}": value for number, value in enumerate(ODD)}
    job = run(tmp_path, shell, ["env", "-0"], environment=environment)
    found = environment_of(job)
    assert {name: found[name] for name in environment} == environment
    assert found["SLURM_JOB_ID"] == "7"


@pytest.mark.parametrize(
    "name",
    ["UID", "EUID", "PPID", "RANDOM", "SECONDS", "LINENO", "GROUPS", "SHELLOPTS", "BASHOPTS", "IFS", "OPTIND", "PS4",
     "OLDPWD", "_", "SHLVL", "ENV", "BASH_ENV", "HISTCMD", "EPOCHSECONDS", "FUNCNAME", "DIRSTACK", "BASH_VERSION",
     "PWD", "LC_ALL", "POSIXLY_CORRECT", "PATH_INFO", "batchlib_code", "TZ", "HOME", "MAIL", "CDPATH"],
)  # fmt: skip
def test_variables_that_mean_something_to_the_shell_arrive_too(tmp_path: Path, shell: str, name: str) -> None:
    job = run(tmp_path, shell, ["env", "-0"], environment={name: "xpg_echo", "BEFORE": "1", "Z_AFTER": "2"})
    found = environment_of(job)
    assert job.exitcode == 0
    assert (found[name], found["BEFORE"], found["Z_AFTER"]) == ("xpg_echo", "1", "2")


def test_the_commands_own_path_finds_it(tmp_path: Path, shell: str) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/my=program"
    program.write_text('#!/bin/sh\necho "found $1 $SET"\n')
    program.chmod(0o755)
    job = run(
        tmp_path, shell, ["my=program", "it"], environment={"PATH": f"{tmp_path}/bin:/bin:/usr/bin", "SET": "well"}
    )
    assert job.read("stdout.txt") == "found it well\n", job.read("stderr.txt")


def test_the_scripts_own_variables_do_not_reach_the_command(tmp_path: Path, shell: str) -> None:
    found = environment_of(run(tmp_path, shell, ["env", "-0"]))
    assert not [name for name in found if name.startswith("batchlib")]


def test_the_command_has_three_open_files(tmp_path: Path, shell: str) -> None:
    program = "import os; print([fd for fd in range(20) if os.path.exists(f'/proc/self/fd/{fd}')])"
    job = run(tmp_path, shell, ["/usr/bin/python3", "-c", program])
    assert job.read("stdout.txt") == "[0, 1, 2]\n"


def test_standard_input(tmp_path: Path, shell: str) -> None:
    (tmp_path / "input").write_bytes(bytes(range(256)))
    job = run(tmp_path, shell, "cat", stdin=tmp_path / "input")
    assert (job.directory / "stdout.txt").read_bytes() == bytes(range(256))
    job = run(tmp_path, shell, "cat")
    assert (job.directory / "stdout.txt").read_bytes() == b""
    assert job.exitcode == 0


def test_outputs_apart_and_together(tmp_path: Path, shell: str) -> None:
    command = ["/bin/sh", "-c", "echo one; echo two >&2; echo three"]
    job = run(tmp_path, shell, command)
    assert (job.read("stdout.txt"), job.read("stderr.txt")) == ("one\nthree\n", "two\n")
    job = run(tmp_path, shell, command, join=True)
    assert job.read("stdout.txt") == "one\ntwo\nthree\n"
    assert not (job.directory / "stderr.txt").exists()


@pytest.mark.parametrize("name", ["logs/deep/out", "-n", "out file", "$HOME", "&1", "'", "ü", "a\tb", "2>&1", "#x"])
def test_names_of_outputs(tmp_path: Path, shell: str, name: str) -> None:
    job = run(tmp_path, shell, ["/bin/sh", "-c", "echo out; echo err >&2"], stdout=name, stderr=f"errors/{name}")
    assert job.exitcode == 0, job.read(".batchlib/log")
    assert (job.read(name), job.read(f"errors/{name}")) == ("out\n", "err\n")


def test_a_job_that_prints_much_keeps_its_status(tmp_path: Path, shell: str) -> None:
    job = run(tmp_path, shell, ["/bin/sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 5"])
    assert job.end == (5, None, "", "command")
    assert (job.directory / "stderr.txt").stat().st_size == 3_000_000


# --- how it ended -------------------------------------------------------------------------------------------------

#: A shell says nothing of these two, so that an exit code of 128 more can't be told from them.
SILENT = (signal.SIGINT, signal.SIGPIPE)


def codes(directory: Path, shell: str, ends: dict[str, str]) -> dict[str, Job]:
    return {name: run(directory, shell, ["/bin/sh", "-c", command]) for name, command in ends.items()}


@pytest.mark.parametrize(
    "code", [0, 1, 2, 3, 42, 53, 125, 126, 127, 128, 129, 134, 137, 139, 143, 144, 152, 160, 192, 254, 255]
)
def test_exit_codes(tmp_path: Path, shell: str, code: int) -> None:
    job = run(tmp_path, shell, ["/bin/sh", "-c", f"exit {code}"])
    assert job.end == (code, None, "", "command")
    assert job.exitcode == code


def test_all_exit_codes(tmp_path: Path, shell: str) -> None:
    ours = {128 + number for number in SILENT}
    for code in [*range(1, 129, 9), *range(129, 165), 200, 255]:
        job = run(tmp_path, shell, ["/bin/sh", "-c", f"exit {code}"])
        assert job.exitcode == code
        expected = (None, code - 128) if code in ours else (code, None)
        assert job.end[:2] == expected, code
        shutil.rmtree(job.directory)


@pytest.mark.parametrize("number", range(1, 16))
def test_deaths_by_signal(tmp_path: Path, shell: str, number: int) -> None:
    job = run(tmp_path, shell, ["/bin/sh", "-c", f"ulimit -c 0; kill -{number} $$; sleep 60"])
    assert job.end == (None, number, "", "command")
    assert job.exitcode == 128 + number


def test_a_missing_command(tmp_path: Path, shell: str) -> None:
    for environment in ({}, {"SET": "1"}):
        job = run(tmp_path, shell, "no-such-command", environment=environment)
        assert job.end == (127, None, "", "command")
        assert "no-such-command" in job.read("stderr.txt")


def test_a_command_that_can_not_be_executed(tmp_path: Path, shell: str) -> None:
    (tmp_path / "plain").write_text("text")
    for environment in ({}, {"SET": "1"}):
        job = run(
            tmp_path, shell, ["./renamed", "x"], inputs={str(tmp_path / "plain"): "other"}, environment=environment
        )
        assert job.end[0] == 127
        job = run(tmp_path, shell, ["/etc/passwd"], environment=environment)
        assert job.end == (126, None, "", "command")


def test_a_program_among_the_inputs_is_made_executable(tmp_path: Path, shell: str) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\necho ran\n")
    for remote in ("program", "./program", "bin/program"):
        job = run(tmp_path, shell, [f"./{remote.removeprefix('./')}"], inputs={str(tmp_path / "program"): remote})
        assert job.read("stdout.txt") == "ran\n", job.read("stderr.txt")


def test_when_and_where_it_ran(tmp_path: Path, shell: str) -> None:
    before = int(time.time())
    job = run(tmp_path, shell, ["/bin/sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done"])
    status = job.status
    assert status.host == os.uname().nodename
    assert status.started is not None
    assert status.ended is not None
    assert before <= status.started <= status.ended <= time.time()
    assert status.cpu_time is not None
    assert status.cpu_time.seconds > 0


# --- prologue and epilogue ----------------------------------------------------------------------------------------


def with_parts(directory: Path, shell: str, command: list[str], **parts: str) -> Job:
    return prepare(directory, shell, Application(command), **parts)


def test_what_the_prologue_sets_reaches_the_command(tmp_path: Path, shell: str) -> None:
    prologue = "export SET='by the prologue'\ncd /\numask 027\nplain=1\nalias ls=false\ntrue() { false; }"
    job = with_parts(
        tmp_path, shell, ["/bin/sh", "-c", 'echo "$SET $plain $(umask) $PWD"'], prologue_content=prologue
    ).run()
    assert job.read("stdout.txt") == f"by the prologue  0027 {job.directory}\n"
    assert job.end == (0, None, "", "command")


@pytest.mark.parametrize("code", [0, 1, 7, 137])
def test_a_prologue_that_exits_ends_the_job(tmp_path: Path, shell: str, code: int) -> None:
    job = with_parts(tmp_path, shell, ["touch", "ran"], prologue_content=f"exit {code}").run()
    assert job.exitcode == code
    assert job.end == (code, None, "", "prologue")
    assert not (job.directory / "ran").exists()


@pytest.mark.parametrize("option", ["set -e", "set -u", "set -x", "set -C", "set -f", "set -a", "set -eu", "IFS=x"])
@pytest.mark.parametrize(
    ("end", "expected"), [("exit 3", (3, None)), ("exit 137", (137, None)), ("kill -9 $$", (None, 9))]
)
def test_options_of_the_prologue_change_nothing(
    tmp_path: Path, shell: str, option: str, end: str, expected: tuple[int | None, int | None]
) -> None:
    job = with_parts(tmp_path, shell, ["/bin/sh", "-c", f"echo x; {end}"], prologue_content=option).run()
    assert job.end == (*expected, "", "command"), job.read(".batchlib/log")
    # the batch system may start the same job again
    assert job.run().end == (*expected, "", "command"), job.read(".batchlib/log")
    assert job.read("stdout.txt") == "x\n"


def test_a_prologue_that_prints_goes_to_the_log(tmp_path: Path, shell: str) -> None:
    job = with_parts(
        tmp_path, shell, ["echo", "out"], prologue_content="echo hello; echo there >&2", epilogue_content="echo bye"
    ).run()
    assert job.read("stdout.txt") == "out\n"
    assert job.read("stderr.txt") == ""
    assert job.read(".batchlib/log") == "hello\nthere\nbye\n"


@pytest.mark.parametrize(
    "epilogue", ["exit 9", "false", "(exit 3)", "kill -TERM $$", "set -e; false", "cd /; rm -f nothing"]
)
def test_the_epilogue_does_not_change_how_it_ended(tmp_path: Path, shell: str, epilogue: str) -> None:
    for code in (0, 4):
        job = with_parts(
            tmp_path, shell, ["/bin/sh", "-c", f"exit {code}"], epilogue_content=f"touch epilogue\n{epilogue}"
        ).run()
        assert job.exitcode == code
        assert job.end == (code, None, "", "command")
        assert (job.directory / "epilogue").exists()


def test_the_epilogue_finds_the_status_written(tmp_path: Path, shell: str) -> None:
    job = with_parts(tmp_path, shell, ["sh", "-c", "exit 3"], epilogue_content="cp .batchlib/status seen").run()
    assert "code=3\n" in job.read("seen")


# --- signals ------------------------------------------------------------------------------------------------------


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.005)


@contextlib.contextmanager
def started(job: Job, sign: str = "ready") -> Iterator[subprocess.Popen[bytes]]:
    """Start a job, wait for its sign of life, and make sure that nothing of it is left."""
    process = job.start()
    try:
        wait_for(job.directory / sign)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGINT])
def test_a_signal_to_all_of_the_job_is_told(tmp_path: Path, shell: str, number: signal.Signals) -> None:
    job = prepare(tmp_path, shell, Application(["/bin/sh", "-c", "ulimit -c 0; touch ready; exec sleep 60"]))
    with started(job) as process:
        os.killpg(process.pid, number)
        assert process.wait(30) == 128 + number
    assert job.end == (None, number, number.name.removeprefix("SIG"), "command")


def test_a_command_may_end_well_after_a_warning(tmp_path: Path, shell: str) -> None:
    command = "trap 'touch saved; exit 0' TERM; touch ready; while :; do sleep 0.05; done"
    job = prepare(tmp_path, shell, Application(["/bin/sh", "-c", command]))
    with started(job) as process:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
    assert job.end == (0, None, "TERM", "command")
    assert (job.directory / "saved").exists()


def test_a_signal_to_the_script_alone_lets_the_command_finish(tmp_path: Path, shell: str) -> None:
    job = prepare(
        tmp_path, shell, Application(["/bin/sh", "-c", "touch ready; while [ ! -e go ]; do sleep 0.02; done; exit 6"])
    )
    with started(job) as process:
        process.send_signal(signal.SIGTERM)
        (job.directory / "go").touch()
        assert process.wait(30) == 6
    assert job.end == (6, None, "TERM", "command")


def test_a_signal_in_the_prologue(tmp_path: Path, shell: str) -> None:
    job = with_parts(tmp_path, shell, ["touch", "ran"], prologue_content="sh -c 'touch ready; exec sleep 60'")
    with started(job) as process:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert job.end[2:] == ("TERM", "prologue")
    assert not (job.directory / "ran").exists()


def test_a_script_that_is_killed_leaves_no_status(tmp_path: Path, shell: str) -> None:
    job = prepare(tmp_path, shell, Application(["/bin/sh", "-c", "touch ready; exec sleep 60"]))
    with started(job) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    assert not (job.directory / ".batchlib/status").exists()


# --- one task runs once -------------------------------------------------------------------------------------------


def test_a_second_job_for_the_same_task_stops(tmp_path: Path, shell: str) -> None:
    job = prepare(tmp_path, shell, Application(["/bin/sh", "-c", "echo run >> runs; exit 3"])).run("7")
    before = job.read(".batchlib/status")
    assert job.run("8").exitcode == 125
    assert "the job '7' runs this task already" in job.read(".batchlib/log")
    assert job.read(".batchlib/status") == before
    assert job.read("runs") == "run\n"


def test_a_job_that_is_requeued_runs_again(tmp_path: Path, shell: str) -> None:
    job = prepare(tmp_path, shell, Application(["/bin/sh", "-c", "echo run >> runs; exit 3"])).run("7").run("7")
    assert job.exitcode == 3
    assert job.read("runs") == "run\nrun\n"


def test_of_two_jobs_at_once_one_runs(tmp_path: Path, shell: str) -> None:
    job = prepare(tmp_path, shell, Application(["/bin/sh", "-c", "echo run >> runs"]))
    processes = [job.start(str(number)) for number in range(6)]
    assert sorted(process.wait(60) for process in processes) == [0] + [125] * 5
    assert job.read("runs") == "run\n"


def test_without_its_sandbox_a_job_does_nothing(tmp_path: Path, shell: str) -> None:
    job = prepare(tmp_path, shell, Application(["touch", "ran"]))
    moved = tmp_path / "moved"
    job.directory.rename(moved)
    assert (
        subprocess.run([shell, moved / ".batchlib/script"], check=False, capture_output=True, cwd=moved).returncode
        == 125
    )
    assert not (moved / "ran").exists()


# --- arrays -------------------------------------------------------------------------------------------------------


def test_each_element_of_an_array_runs_its_own_command(tmp_path: Path, shell: str) -> None:
    command = Application(ARGUMENTS).arguments
    apps = [
        Application(
            [*command, f"element {index}", *ODD[:-1]],
            environment={"UID": "5", "ODD": "\n'$x"},
            array=ArrayElement("a", index),
            stdout=f"logs/{index}",
        )
        for index in (0, 7)
    ]
    root = sandbox.new_token()
    backend = SlurmBackend("lab", shell=shell, prologue_content="cd /; export SET=1")
    script = backend.script(apps[0], root, str(tmp_path), ArraySpec((0, 7)))
    entries = list(sandbox.root_entries(root, script))
    for app, index in zip(apps, (0, 7), strict=True):
        entries += sandbox.element_entries(f"{root}/{index}", render_command(app))
        entries += sandbox.input_entries(app, f"{root}/{index}")
    unpack(pack(entries), lambda name: tmp_path / name)
    for app, index in zip(apps, (0, 7), strict=True):
        variables = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": str(index), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [shell, tmp_path / root / ".batchlib/script"], env=variables, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        box = tmp_path / root / str(index)
        expected = b"".join(os.fsencode(word) + b"\0" for word in app.arguments[len(command) :])
        assert (box / f"logs/{index}").read_bytes() == expected
        assert (box / ".batchlib/owner").read_text() == f"40_{index}\n"
        status = sandbox.parse_status((box / ".batchlib/status").read_text())
        assert status is not None
        assert status.exitcode == 0


def test_an_element_knows_its_index(tmp_path: Path, shell: str) -> None:
    job = prepare(tmp_path, shell, Application(["sh", "-c", "echo $TASK_ID"], array=ArrayElement("a", 12))).run()
    assert job.read("stdout.txt") == "12\n"
