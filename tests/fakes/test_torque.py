"""The pretended Torque answers as the real one did when it was recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.replay import Record, Site, recordings, unordered, until

BINARIES = Path(__file__).parent / "torque" / "bin"
RECORDS = recordings("torque-6.1.3")
#: What depends on how long a job runs, or on what ran before.
MEASURED = (
    "resources_used",
    "session_id",
    "exec_host",
    "mtime",
    "cput",
    "vmem",
    "mem",
    "walltime",
    "resources_assigned",
)
#: Commands that are not pretended, and lists of what was submitted before the recorded scenario.
OTHERS = (
    r"qalter|qmove|200000|qstat( -(t|e|x|f|a|n|n1|u hpc))?( '[0-9]+\[\].frontend')?$|qstat (workq|@)|qselect( -u.*)?$"
)

FILES = {
    "hello.sh": "#!/bin/sh\necho out\necho err >&2\n",
    "direct.sh": (
        "#!/bin/sh\n#PBS -N direct\n#PBS -q short\n#PBS -j oe\n#PBS -l nodes=1:ppn=2,mem=100mb,walltime=00:05:00\n"
        "#PBS -v A=1,B=two\necho $A $B $PBS_NP $PBS_QUEUE\ncat $PBS_NODEFILE\npwd\n"
    ),
    "v.sh": '#!/bin/bash\nfor n in A B C; do echo "$n=[${!n-UNSET}]"; done\n',
    "arr.sh": "sleep 60\n",
    "mem.py": "import time\nx=bytearray(300*1024*1024)\n",
}

#: Situations: a pattern for the scenarios that are replayed, one after the other, and one for commands left out.
SITUATIONS = {
    "submission": (r"submit-(stdin|file|directives|args|quiet|empty-stdin|crlf|S-missing)(-qstat)?", ""),
    "results": (r"submit-(file|directives|crlf|S-missing)(-result)?|submit-(file|directives)", r"qstat -f .* grep"),
    "refused": (r"submit-(command-dashdash|nofile|empty|badopt|baddirective|block)|array-errors|depend-unknown", ""),
    "requests": (r"request(-f)?", "group_list"),
    "queued and running": (r"run|queued-busy|queued-never.*|qstat-states|queued-busy-f", r"qstat -f.* -x|qstat -[ri]$"),
    "deleted": (r"run|qdel-running|qdel-running-f|.*-other-user|qdel-(completed|purge.*)", ""),
    "unknown": (r"unknown-id|illegal-id|other-server|mixed.*", ""),
    "ends": (r"exit-(?!trapterm).*", r"cat (kill9self|segv)"),
    "array": (r"array2(-q.*)?", "qhold"),
    "holds and signals": (r"hold.*|sig.*|qrerun.*|qdel", ""),
    "limits": (r"mem|vmem|pvmem|limit-(mem|vmem|pvmem)-f", ""),
    "names": (r"name|name-qstat", r"8[4-9]\.|9[0-2]\.|-N (\S*\w{20}|abc|1abc|a[/.:-])"),
    "variables": (r"v|v-result", ""),
    "server down": (r"submit-stdin|server-down", ""),
    "vouching daemon down": (r"trqauthd-down", ""),
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "spool", BINARIES, "/home/hpc", "torque/w")
    for name, text in FILES.items():
        (made.work / name).write_text(text)
    yield made
    made.close()


def chosen(scenarios: str, without: str) -> list[Record]:
    """Give the records of scenarios, without some commands."""
    left_out = f"{OTHERS}|{without}" if without else OTHERS
    found = [
        record
        for record in RECORDS
        if re.fullmatch(scenarios, record["scenario"])
        and (record["scenario"] in SWITCHES or not re.search(left_out, record["command"]))
    ]
    assert found
    return found


#: Scenarios in which a server is down.
SWITCHES = {"server-down": "down", "trqauthd-down": "trqauthd"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_answers_are_those_of_the_real_system(site: Site, name: str) -> None:
    for record in chosen(*SITUATIONS[name]):
        if record["scenario"] in SWITCHES:
            (site.spool / SWITCHES[record["scenario"]]).touch()
        site.replay(record, MEASURED)


def test_output_goes_where_it_went_on_the_real_system(site: Site) -> None:
    for record in chosen(r"out-(?!nosuchdir).*(?<!-f)", ""):
        directory = "o_" + re.sub(r"out-|-files", "", record["scenario"])
        (site.work / directory).mkdir(exist_ok=True)
        site.replay(unordered(record), MEASURED, directory)


def attributes(site: Site, jobid: str) -> dict[str, str]:
    """Give what qstat says of a job."""
    text = site.run(f"qstat -f1 {jobid}")["stdout"]
    return dict(re.findall(r"(?m)^    ([\w.]+) = (.*)$", text))


def state(site: Site, jobid: str) -> str:
    """Give the letter of a job's state."""
    return attributes(site, jobid)["job_state"]


def ended(site: Site, jobid: str) -> None:
    """Wait for a job's end."""
    until(lambda: state(site, jobid) == "C")


def test_jobs_wait_for_their_time(site: Site) -> None:
    site.run("echo true | qsub -a $(date -d '+1 day' +%Y%m%d%H%M)")
    found = attributes(site, "1")
    assert (found["job_state"], found["Hold_Types"]) == ("W", "n")
    assert "Execution_Time" in found


def test_dependencies(site: Site) -> None:
    site.run("echo 'until [ -e go ]; do sleep 0.02; done; exit 3' | qsub")
    for kind in ("afterok", "afternotok", "afterany"):
        site.run(f"echo true | qsub -W depend={kind}:1")
    waiting = attributes(site, "2")
    assert (waiting["job_state"], waiting["Hold_Types"], waiting["depend"]) == ("H", "s", "afterok:1.frontend")
    (site.home / "go").touch()
    for number in "1234":
        ended(site, number)
    assert [attributes(site, number)["exit_status"] for number in "1234"] == ["3", "271", "0", "0"]
    assert attributes(site, "2")["comment"] == "Job deleted as result of dependency on job 1.frontend"


def test_arrays(site: Site) -> None:
    (site.work / "element.sh").write_text(
        "echo $PBS_ARRAYID; until [ -e go ]; do sleep 0.02; done; exit $PBS_ARRAYID\n"
    )
    assert site.run("qsub -N a -t 0,3-5%2 element.sh")["stdout"] == "1[].frontend\n"
    letters = [attributes(site, f"'1[{index}]'")["job_state"] for index in (0, 3, 4, 5)]
    assert letters == ["R", "R", "H", "H"]
    # without -t, the id of an array stands for all jobs
    site.run("echo true | qsub -h")
    assert site.run("qstat '1[]'")["stdout"].count(".frontend") == 2
    assert site.run("qstat -t '1[]'")["stdout"].count(".frontend") == 4
    assert site.run("qdel -t 4-5 '1[]'")["exit"] == 0
    (site.home / "go").touch()
    until(lambda: site.run("qstat -t '1[]'")["stdout"].count(" C ") == 4)
    assert [attributes(site, f"'1[{index}]'").get("exit_status") for index in (0, 3, 4, 5)] == ["0", "3", None, None]
    assert (site.work / "a.o1-3").read_text() == "3\n"


@pytest.mark.parametrize(("resource", "status"), [("cput", "-12"), ("walltime", "-11")])
def test_time_is_limited(site: Site, resource: str, status: str) -> None:
    site.run(f"echo 'while :; do :; done' | qsub -l {resource}=1")
    ended(site, "1")
    assert attributes(site, "1")["exit_status"] == status
    assert f"=>> PBS: job killed: {resource} 1 exceeded limit 1" in (site.work / "STDIN.e1").read_text()


def test_completed_jobs_are_forgotten(site: Site) -> None:
    site.run("echo true | qsub")
    ended(site, "1")
    assert site.run("qstat 1", FAKE_HISTORY="0.01")["stderr"] == "qstat: Unknown Job Id Error 1.frontend\n"


def test_queues(site: Site) -> None:
    answer = site.run("echo true | qsub -q closed")
    message = "Queue is not enabled MSG=queue is disabled: user hpc@localhost, queue closed"
    assert (answer["exit"], answer["stderr"]) == (175, f"qsub: submit error ({message})\n")
    assert site.run("echo true | qsub -q stopped")["exit"] == 0
    assert state(site, "2") == "Q"


def test_submissions_of_unknown_outcome_are_accepted(site: Site) -> None:
    (site.spool / "unclear").touch()
    answer = site.run("echo sleep 60 | qsub -N twice")
    assert (answer["exit"], answer["stderr"]) == (185, "qsub: submit error (Batch protocol error)\n")
    assert site.run("qselect -N twice")["stdout"] == "1.frontend\n"


def test_nodes_and_queues_are_listed(site: Site) -> None:
    site.run("echo sleep 60 | qsub -l nodes=1:ppn=16")
    assert "     state = job-exclusive\n" in site.run("pbsnodes -a")["stdout"]
    assert "<np>16</np>" in site.run("pbsnodes -x")["stdout"]
    queues = site.run("qstat -Q")["stdout"].splitlines()[2:]
    assert queues[-1].split() == ["workq", "0", "1", "yes", "yes", "0", "1", "0", "0", "0", "0", "E", "0"]
    assert "Job Run at request of root@localhost" in site.run("tracejob 1")["stdout"]


def test_a_job_that_traps_its_end_was_deleted_all_the_same(site: Site) -> None:
    site.run("""printf 'trap "echo cleanup; exit 0" TERM\necho up\nsleep 100 & wait\n' | qsub -N trap""")
    spooled = site.spool / "files" / "1.frontend.OU"
    until(lambda: spooled.exists() and spooled.read_text() == "up\n")
    site.environment["FAKE_KILL_DELAY"] = "20"
    site.run("qdel 1")
    ended(site, "1")
    assert (site.work / "trap.o1").read_text() == "up\ncleanup\n"
    assert attributes(site, "1")["exit_status"] == "271"
