"""The pretended OpenPBS answers as the real one did when it was recorded."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.replay import Record, Site, recordings, unordered, until

BINARIES = Path(__file__).parent / "pbs" / "bin"
RECORDS = recordings("openpbs-23.06.06")
#: What depends on how long a job runs, or on what ran before.
MEASURED = ("resources_used", "session_id", "jobdir", "exec_host", "mtime")
#: Commands that are not pretended, and lists of what was submitted before the recorded scenario.
OTHERS = r"qalter|qmove|qmsg|qstat -(p|T|H|x|at|ans1t)$|qselect -x$|dsv"

FILES = {
    "hello.sh": "#!/bin/sh\necho out\necho err >&2\n",
    "direct.sh": (
        "#!/bin/sh\n#PBS -N direct\n#PBS -q short\n#PBS -j oe\n#PBS -l select=1:ncpus=2:mem=100mb\n"
        "#PBS -v A=1,B=two\necho $A $B $NCPUS $PBS_QUEUE\npwd\n"
    ),
    "v.sh": '#!/bin/bash\nfor n in A B C D E F G H I J; do echo "$n=[${!n-UNSET}]"; done\n',
    "mem.py": "import time\nx=bytearray(300*1024*1024)\nprint(len(x))\ntime.sleep(60)\n",
}

#: Situations: a pattern for the scenarios that are replayed, one after the other, and one for commands left out.
SITUATIONS = {
    "submission": (r"submit-(stdin|file|args|directives|quiet|block-\w+)(-qstat)?|submit-(stdin|file|args)-result", ""),
    "refused": r"submit-(script-args|nofile|dir|empty|empty-stdin|badopt|baddirective)|workdir-w|array-errors",
    "requests": (r"request(-xf)?|queue-unknown.*|queue-walltime-too-long", ""),
    "bad requests": (r"request-bad(-f)?", "group_list"),
    "queued and running": (r"run|queued-.*|qstat-states|qdel-queued(-.*)?|qdel-twice|.*-other-user", "qdel 21"),
    "unknown and ended": (r"submit-stdin|unknown-id|illegal-id|other-server|mixed.*", ""),
    "array": (r"array-(max-run.*|qdel-running|qdel-running-x.*|step.*|hold|hold-qstat|hold-qrls)", ""),
    "array of failures": r"array-(fail.*|qdel-queued-subjob|qdel-queued-subjob-qdel)",
    "holds and signals": (r"hold-(?!qstat-f-rel).*|sig-.*", "^cat"),
    "running again": (r"qrerun|qrerun-user|qrerun-root|qrerun-qstat", ""),
    "waiting": (r"wait-qdel|wait-at-past", "^qdel"),
    "dependencies": (r"depend-.*fail.*|depend-chain|depend-on-.*", ""),
    "ends": (r"exit-(?!trapterm).*", r"cat (kill9self|segv)"),
    "limits": (r"walltime|walltime-xf|walltime-json|mem-enforced|mem-enforced-xf", ""),
    "variables": (r"v|v-json", ""),
    "names": (r"name|name-qstat", r"15[89]\.|16[0-9]\.|-N (\S*x{99}\S*|\w*\d\w*|true|null|a\.b|a-b_c.d|-x) "),
    "odd values": (r"json-odd|json-odd-json", ""),
    "server down": (r"serverdown-run|server-down", "tracejob"),
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "spool", BINARIES, "/home/hpc", "pbs/w", {"FAKE_ENFORCE": "mem"})
    for name, text in FILES.items():
        (made.work / name).write_text(text)
    yield made
    made.close()


def chosen(scenarios: str, without: str) -> list[Record]:
    """Give the records of scenarios, without some commands."""
    left_out = f"{OTHERS}|{without}" if without else OTHERS
    return [
        record
        for record in RECORDS
        if re.fullmatch(scenarios, record["scenario"]) and not re.search(left_out, record["command"])
    ]


@pytest.mark.parametrize("name", SITUATIONS)
def test_answers_are_those_of_the_real_system(site: Site, name: str) -> None:
    situation = SITUATIONS[name]
    scenarios, without = (situation, "") if isinstance(situation, str) else situation
    for record in chosen(scenarios, without):
        if record["scenario"] == "server-down":
            (site.spool / "down").touch()
        site.replay(record, MEASURED)


def test_output_goes_where_it_went_on_the_real_system(site: Site) -> None:
    for record in chosen(r"out-(?!sandbox|stage|large|undelivered|nosuchdir|unwritable|tilde).*(?<!-xf)", "sandbox"):
        directory = "o_" + re.sub(r"out-|-files", "", record["scenario"])
        (site.work / directory).mkdir(exist_ok=True)
        site.replay(unordered(record), MEASURED, directory)


def test_output_that_can_not_be_delivered_is_kept(site: Site) -> None:
    site.run("echo echo out | qsub -o nosuch/out -e nosuch/err")
    ended(site, "1")
    assert exit_status(site, "1") == ("92", "0")
    assert (site.spool / "undelivered" / "1.frontend.OU").read_text() == "out\n"


def test_answers_of_the_next_release(site: Site) -> None:
    site.environment["FAKE_PBS_QSTAT"] = "master"
    for record in chosen("json-odd", ""):
        site.replay(record)
    for record in recordings("openpbs-master-cd7ab5eda-qstat"):
        assert json.loads(record["stdout"])
        site.replay(record, MEASURED)


def attributes(site: Site, jobid: str) -> dict[str, str]:
    """Give what qstat says of a job."""
    text = site.run(f"qstat -xfw '{jobid}'")["stdout"]
    return dict(re.findall(r"(?m)^    ([\w.]+) = (.*)$", text))


def exit_status(site: Site, jobid: str) -> tuple[str, str | None]:
    """Give substate and exit status."""
    found = attributes(site, jobid)
    return found["substate"], found.get("Exit_status")


def state(site: Site, jobid: str) -> str:
    """Give the letter of a job's state."""
    return attributes(site, jobid)["job_state"]


def ended(site: Site, jobid: str) -> None:
    """Wait for a job's end."""
    until(lambda: state(site, jobid) == "F")


def test_a_running_job_tells_more_after_a_while(site: Site) -> None:
    site.run("qsub -- /bin/sleep 60")
    early = attributes(site, "1")
    assert (early["job_state"], early["substate"]) == ("R", "41")
    assert not early.keys() & {"session_id", "jobdir", "resources_used.walltime"}
    until(lambda: attributes(site, "1")["substate"] == "42")
    late = attributes(site, "1")
    assert late.keys() >= {"session_id", "jobdir", "resources_used.walltime"}
    assert late["jobdir"] == str(site.home)


def test_dependent_jobs_are_held(site: Site) -> None:
    site.run("echo 'until [ -e go ]; do sleep 0.02; done' | qsub")
    for kind in ("afterok", "afternotok", "afterany"):
        site.run(f"qsub -W depend={kind}:1 -- /bin/true")
    waiting = attributes(site, "2")
    assert (waiting["job_state"], waiting["substate"], waiting["Hold_Types"]) == ("H", "22", "s")
    assert waiting["depend"] == "afterok:1.frontend@frontend"
    shown = ",".join(
        f"before{kind}:{number}.frontend@frontend" for number, kind in enumerate(("ok", "notok", "any"), 2)
    )
    assert attributes(site, "1")["depend"] == shown
    (site.home / "go").touch()
    for number in "234":
        ended(site, number)
    assert [exit_status(site, number) for number in "1234"] == [("92", "0"), ("92", "0"), ("92", None), ("92", "0")]


def test_elements_of_arrays(site: Site) -> None:
    (site.work / "element.sh").write_text(
        "echo $PBS_ARRAY_INDEX; until [ -e go$PBS_ARRAY_INDEX ]; do sleep 0.02; done\n"
    )
    assert site.run("qsub -J 1-3 -W max_run_subjobs=2 element.sh")["stdout"] == "1[].frontend\n"
    assert [state(site, jobid) for jobid in ("1[]", "1[1]", "1[2]", "1[3]")] == ["B", "R", "R", "Q"]
    (site.home / "go1").touch()
    until(lambda: state(site, "1[1]") == "X")
    assert (site.work / "element.sh.o1.1").read_text() == "1\n"
    assert site.run("qstat '1[1]'")["exit"] == 0
    assert site.run("qdel '1[3]'")["exit"] == 0
    assert site.run("qdel '1[1]'")["stderr"] == "qdel: Request invalid for finished array subjob 1[1].frontend\n"
    assert site.run("qdel '1[77]'")["exit"] == 156
    assert site.run("qstat 1")["exit"] == 153
    (site.home / "go2").touch()
    (site.home / "go3").touch()
    ended(site, "1[]")
    assert attributes(site, "1[1]").keys() >= {"run_count", "array_index"}
    assert site.run("qstat '1[1]'")["exit"] == 35


def test_an_element_that_never_ran_shows_the_whole_array(site: Site) -> None:
    site.run("qsub -h -J 1-2 -- /bin/true")
    site.run("qdel '1[2]'")
    site.run("qrls '1[]'")
    ended(site, "1[]")
    found = attributes(site, "1[2]")
    assert (found["job_state"], found["comment"], found["Exit_status"]) == ("F", "Subjob finished", "0")
    assert not found.keys() & {"run_count", "array_index"}


def test_queues(site: Site) -> None:
    assert site.run("qsub -q closed -- /bin/true")["stderr"] == "qsub: Queue is not enabled\n"
    assert site.run("qsub -q stopped -- /bin/true")["stdout"] == "2.frontend\n"
    assert attributes(site, "2")["comment"] == "Not Running: Queue not started."
    full = site.run("qsub -- /bin/true", FAKE_MAX_QUEUED="1")
    assert (full["exit"], full["stderr"]) == (38, "qsub: Maximum number of jobs for user hpc already in queue workq\n")


def test_output_is_seen_while_the_job_runs_if_asked_for(site: Site) -> None:
    site.run("printf 'echo line; sleep 60\n' | qsub -k doe -j oe -o direct.out")
    out = site.work / "direct.out"
    until(lambda: out.exists() and out.read_text() == "line\n")
    site.run("printf 'echo line; sleep 60\n' | qsub -o spooled.out")
    spooled = site.spool / "files" / "2.frontend.OU"
    until(lambda: spooled.exists() and spooled.read_text() == "line\n")
    assert not (site.work / "spooled.out").exists()


def test_private_directories_vanish(site: Site) -> None:
    site.run("printf 'pwd; echo $PBS_JOBDIR; ls -d $TMPDIR' | qsub -N private -W sandbox=PRIVATE")
    ended(site, "1")
    directory, same, temporary = (site.work / "private.o1").read_text().splitlines()
    assert directory == same == f"{site.home}/pbs.1.frontend.x8z"
    assert not Path(directory).exists()
    assert not Path(temporary).exists()


def test_a_missing_home_directory(site: Site) -> None:
    site.run("qsub -- /bin/true", HOME="/nosuch")
    ended(site, "1")
    assert exit_status(site, "1") == ("93", "-2")


def test_deleting_a_job_whose_epilogue_runs(site: Site) -> None:
    site.environment["FAKE_EPILOGUE"] = "2"
    site.run("qsub -- /bin/true")
    until(lambda: state(site, "1") == "E")
    assert exit_status(site, "1") == ("51", "0")
    assert site.run("qdel 1")["stderr"] == "qdel: Request invalid for state of job 1.frontend\n"
    ended(site, "1")
    assert exit_status(site, "1") == ("91", "0")


def test_submissions_of_unknown_outcome_are_accepted(site: Site) -> None:
    (site.spool / "unclear").touch()
    answer = site.run("qsub -N twice -- /bin/sleep 60")
    assert (answer["exit"], answer["stdout"], answer["stderr"]) == (183, "", "qsub: Error (15031) submitting job\n")
    assert site.run("qselect -N twice")["stdout"] == "1.frontend\n"


def test_commands_hang_with_the_server(site: Site) -> None:
    (site.spool / "hang").touch()
    with subprocess.Popen([BINARIES / "qstat"], env=site.environment, stdout=subprocess.PIPE) as command:
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(0.3)
        (site.spool / "hang").unlink()
        assert command.wait(20) == 0


def test_jobs_are_traced_and_nodes_are_listed(site: Site) -> None:
    site.run("qsub -l ncpus=2 -- /bin/sleep 60")
    traced = site.run("tracejob 1")["stdout"]
    assert "Job Queued at request of hpc@localhost, owner = hpc@localhost, job name = STDIN, queue = workq" in traced
    assert site.run("tracejob 99")["exit"] == 0
    assert "     resources_assigned.ncpus = 2\n" in site.run("pbsnodes -a")["stdout"]
    nodes = json.loads(site.run("pbsnodes -a -F json")["stdout"])["nodes"]
    assert nodes["node01"]["resources_available"]["ncpus"] == 16


def test_other_peoples_jobs_are_theirs(site: Site) -> None:
    site.run("qsub -- /bin/sleep 60", FAKE_USER="pbsu2")
    for command in ("qdel", "qhold", "qrls", "qsig"):
        assert site.run(f"{command} 1")["exit"] == 159
    assert site.run("qdel 1", FAKE_MANAGER="yes")["exit"] == 0


def test_a_job_that_traps_its_end_was_deleted_all_the_same(site: Site) -> None:
    site.run("""printf 'trap "echo cleanup; exit 0" TERM\necho up\nsleep 100 & wait\n' | qsub -N trap""")
    spooled = site.spool / "files" / "1.frontend.OU"
    until(lambda: spooled.exists() and spooled.read_text() == "up\n")
    site.environment["FAKE_KILL_DELAY"] = "20"
    site.run("qdel 1")
    ended(site, "1")
    assert (site.work / "trap.o1").read_text() == "up\ncleanup\n"
    assert exit_status(site, "1") == ("91", "271")
