"""An LSF that really runs jobs: its queues, how a job is started, and what it leaves behind.

Settings beside those of the engine, from the environment of the commands:

``FAKE_LSF``
    ``ibm`` for LSF 10; anything else is volclava 2.2.
``FAKE_LSF_HOST``
    Name of the host (default: this one's).
``FAKE_LSF_MINUTE``
    Seconds that a minute of a run limit has (default 60).
``FAKE_LSF_RESUME``
    Seconds that a resumed job is SSUSP (default 1, in truth up to 7).
``FAKE_LSF_RETRY``
    Seconds between two tries to reach the server (default 10).
``FAKE_LSF_BANNER``
    What the site's esub prints before the answer of bsub.

Switches beside those of the engine: ``lim-down``; ``sbatchd-down`` (what ends now loses its status); ``unreachable``
(the execution host does not answer); ``closed-QUEUE`` and ``inactive-QUEUE``.
"""

from __future__ import annotations

import json
import os
import signal
import time

from tests.fakes.engine import Engine
from tests.fakes.lsf.options import CLUSTER, HOST, IBM, raw, real
from tests.fakes.model import DEPENDENT, ENDED, EXITING, PLAIN, QUEUED, RUNNING, Job, Launch, Queue, Task, setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Seconds after which the batch system knows what a job uses.
SAMPLED_AFTER = 10.0
_REASONS = {
    "walltime": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
    "memory": "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit",
    "dependency": "TERM_ORPHAN_SYSTEM: orphan job automatically terminated by LSF",
}
#: The shell that the batch system starts; that it does not notice when it is killed alone is as in the real one.
_STARTER = """trap : 1 2 10 12 15
exec 3>&2 2> /dev/null
(exec /bin/sh "$0" < "$1" 2>&3 3>&-)
code=$?
[ $code -le 128 ] || [ -e "$0.end" ] || code=0
exit $code
"""
_WRAPPER = """#! /bin/sh

trap '> "$0.end"' 0
$LSB_TRAPSIGS
$LSB_RCP1
$LSB_RCP2
# LSBATCH: User input
{command}
ExitStat=$?
wait
# LSBATCH: End user input
true
exit `expr $? "|" $ExitStat`
"""


class LSF(Engine):
    """The cluster: one host, the queues `normal` and `short`."""

    queues = {"normal": Queue(), "short": Queue(max_walltime=600, walltime=600)}  # noqa: RUF012
    default_queue = "normal"
    kill_signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    limit_signals = (signal.SIGUSR2, *kill_signals) if IBM else (signal.SIGUSR2,)

    def __init__(self) -> None:
        super().__init__()
        for name, queue in self.queues.items():
            queue.enabled = not self.switch(f"closed-{name}")
            queue.started = not self.switch(f"inactive-{name}")

    def order(self, task: Task, signals: Sequence[int]) -> None:
        # the limit on memory ends a job as bkill does, other than that on time
        memory_limit = task.reason == "memory" and signals is self.limit_signals
        super().order(task, self.kill_signals if memory_limit else signals)

    def launch(self, job: Job, task: Task) -> Launch:
        face = job.face
        base = self.file(f"{int(job.submitted)}.{task.key}")
        command = face["command"]
        if face["script"]:
            _write(f"{base}.shell", command)
            command = f"{raw(base)}.shell\nsaveExit=$?\n/bin/rm -f {raw(base)}.shell\n(exit $saveExit)\n"
        _write(base, _WRAPPER.format(command=command))
        hosts = " ".join([HOST] * job.slots)
        environment = face["env"] | {
            "LSB_JOBID": str(job.number),
            "LSB_JOBINDEX": str(max(task.index, 0)),
            "LSB_JOBNAME": name_of(job, task),
            "LSB_HOSTS": hosts,
            "LSB_MCPU_HOSTS": f"{HOST} {job.slots} ",
            "LSB_QUEUE": job.queue,
            "LSB_SUB_HOST": HOST,
            "LSB_JOBFILENAME": raw(base),
            "LSB_CHKFILENAME": raw(base),
            "LSB_OUTPUTFILE": expand(face["out"], job, task),
            "LSB_ERRORFILE": expand(face["err"], job, task),
            "LSB_TRAPSIGS": "trap # 15 10 12 2 1",
        }
        if IBM:
            environment["LSB_DJOB_NUMPROC"] = str(job.slots)
        return Launch(
            ["/bin/sh", "-c", _STARTER, base, real(face["input"] or "/dev/null")],
            {real(name): real(value) for name, value in environment.items()},
            cwd=_directory(job),
            umask=face["umask"],
            stdout=f"{base}.out",
            stderr=f"{base}.err" if face["err"] else "",
        )

    def finish(self, job: Job, task: Task, launch: Launch) -> None:
        with self:
            task = self.task(task.number, task.index) or task
            if self.switch("sbatchd-down"):
                task.exit_code, task.signal, task.reason, task.requeue = None, 0, "lost", False
            elif task.exit_code == 0 and not task.signal:
                # whatever was done to it: it ended well
                task.reason = ""
            report = self._report(job, task)
            if task.requeue:
                task.face.setdefault("events", []).extend(
                    [*run_events(job, task), (task.ended, "PEND", "Pending: Job has been requeued")]
                )
                task.started, task.session = 0.0, 0
            self.save(task)
        face = job.face
        os.umask(face["umask"])
        base = launch.argv[3]
        out = _read(launch.stdout)
        if face["err"]:
            _deliver(job, task, "err", _read(launch.stderr))
        if face["out"]:
            if face["err"]:
                tail = f"\n\nPS:\n\nRead file <{expand(face['err'], job, task)}> for stderr output of this job.\n\n"
            else:
                tail = ""
            whole = [out, report] if IBM else [report, out]
            _deliver(job, task, "out", out if face["notify"] else b"".join([*whole, tail.encode("latin-1")]))
        for suffix in ("", ".out", ".err", ".shell", ".end"):
            if os.path.exists(base + suffix):
                os.remove(base + suffix)

    def _report(self, job: Job, task: Task) -> bytes:
        """Make the text that stands in the output file."""
        face = job.face
        title = job.name + face["spec"]
        done = task.exit_code == 0 and not task.signal and not task.reason
        inside = f" in cluster <{CLUSTER}>" if IBM else ""
        hosts = f"{job.slots}*{HOST}" if job.slots > 1 else HOST
        end = "Successfully completed." if done else f"Exited with exit code {task.exit_code}."
        if task.requeue:
            end = "Job was killed by user or admin, and will be re-queued with the same jobid.."
        elif task.signal:
            end = f"Exited with signal termination: {signal.strsignal(task.signal)}."
        if IBM and (reason := exit_reason(job, task)):
            end = f"{reason}.\n{end}"
        usage = f"\n\nResource usage summary:\n\n    CPU time   :{task.cpu:>10.2f} sec.\n"
        if sampled(task):
            usage += f"    Max Memory :{task.rss // 1024 + 1:>10} MB\n    Max Swap   :{task.rss // 1024 + 1:>10} MB\n"
            usage += "\n    Max Processes  :         3\n"
        if task.reason == "lost":
            end, usage = "Exited", ""
        lines = [
            f"Sender: LSF System <{'lsfadmin' if IBM else 'volclava'}@{HOST}>",
            f"Subject: Job {ident(job, task)}: <{title}>{inside} {'Done' if done else 'Exited'}",
            "",
            f"Job <{title}> was submitted from host <{HOST}> by user <{job.owner}>{inside}"
            + (f" at {written(job.submitted)}" if IBM else "."),
            f"Job was executed on host(s) <{hosts}>, in queue <{job.queue}>, as user <{job.owner}>{inside}"
            + (f" at {written(task.started)}" if IBM else "."),
            f"<{face['home']}> was used as the home directory.",
            f"<{raw(_directory(job))}> was used as the working directory.",
            f"Started at {written(task.started)}",
            *([f"Terminated at {written(task.ended)}"] if IBM else []),
            f"Results reported at {written(task.ended)}",
            "",
            "Your job looked like:",
            "",
            "-" * 60,
            "# LSBATCH: User input",
            face["command"],
            "-" * 60,
            "",
            end + usage,
        ]
        text = "\n".join(lines)
        if IBM:
            return f"\n{'-' * 60}\n{text}\nThe output (if any) is above this job summary.\n\n".encode("latin-1")
        return f"{text}\nThe output (if any) follows:\n\n".encode("latin-1")

    # --- history -------------------------------------------------------------------------------------------

    def forget(self, number: int) -> None:
        """Move a job to the log, where bhist finds it."""
        job = self.job(number)
        if job is not None:
            with open(os.path.join(self.spool, "lsb.events"), "a") as log:
                log.write(json.dumps([vars(job), [vars(task) for task in self.tasks(number)]]) + "\n")
        super().forget(number)

    def logged(self, *, old: bool) -> Iterator[tuple[Job, list[Task]]]:
        """Give what was forgotten; that from before the log was last switched only when `old`."""
        for name in ["lsb.events.1", "lsb.events"] if old else ["lsb.events"]:
            if self.switch(name):
                with open(os.path.join(self.spool, name)) as log:
                    for job, tasks in map(json.loads, log):
                        yield Job(**job), [Task(**task) for task in tasks]

    # --- why jobs wait -------------------------------------------------------------------------------------

    def pending_reason(self, job: Job, task: Task) -> str:
        """Say why a job does not start."""
        if "u" in task.hold:
            return "The job was suspended by the user while pending"
        if task.hold:
            return str(job.face["stuck"])
        if task.state == DEPENDENT and self.evaluate(job.condition) is None:
            return "Dependency condition invalid or never satisfied"
        if task.state == DEPENDENT:
            return "Job dependency condition not satisfied"
        if not self.queues[job.queue].started:
            return "The queue is inactivated by the administrator"
        if job.max_running and sum(other.state == RUNNING for other in self.tasks(job.number)) >= job.max_running:
            return "The job array has reached its running element limit"
        if max(task.begin, task.queued + setting("FAKE_DELAY", 0)) > time.time():
            return "New job is waiting for scheduling"
        return "Not enough job slot(s)"


def written(when: float, form: str = "%a %b %e %H:%M:%S %Y") -> str:
    """Write a time, if there is one."""
    return time.strftime(form, time.localtime(when)) if when else "-"


def memory(kilobytes: int) -> str:
    """Write an amount of memory."""
    megabytes = kilobytes / 1024
    return f"{megabytes / 1024:.1f} Gbytes" if megabytes >= 1024 else f"{megabytes:.0f} Mbytes"


def ident(job: Job, task: Task) -> str:
    """Give the id of a job or of an array's element."""
    return f"{job.number}[{task.index}]" if task.index != PLAIN else f"{job.number}"


def name_of(job: Job, task: Task) -> str:
    """Give the name of a job or of an array's element."""
    return f"{job.name}[{task.index}]" if task.index != PLAIN else job.name


def status(task: Task) -> str:
    """Give the state as LSF calls it."""
    if task.state == ENDED:
        return "DONE" if task.ok else "EXIT"
    if task.state in (QUEUED, DEPENDENT):
        return "PSUSP" if "u" in task.hold else "PEND"
    if task.state in (RUNNING, EXITING):
        resumed = time.time() - float(task.face.get("resumed", 0)) < setting("FAKE_LSF_RESUME", 1)
        return "SSUSP" if resumed and task.state == RUNNING else "RUN"
    return "USUSP"


def sampled(task: Task) -> bool:
    """Tell whether a job ran for so long that what it uses was looked at."""
    return bool(task.started) and (task.ended or time.time()) - task.started >= SAMPLED_AFTER


def exit_reason(job: Job, task: Task) -> str:
    """Give the reason of IBM's LSF for the end of a job, or nothing."""
    if task.reason == "cancelled":
        owner = task.cancelled_by == job.owner
        return "TERM_OWNER: job killed by owner" if owner else "TERM_ADMIN: job killed by root or LSF administrator"
    return _REASONS.get(task.reason, "")


def ending(task: Task) -> str:
    """Say how a job ended, without the dot at the end."""
    cpu = f"The CPU time used is {task.cpu:.1f} seconds"
    if task.reason == "lost":
        return "Exited The CPU time used is unknown"
    if not task.started:
        return "Exited"
    if task.signal:
        return f"Exited by signal {task.signal}. {cpu}"
    return f"Exited with exit code {task.exit_code}. {cpu}" if task.exit_code else f"Done successfully. {cpu}"


def run_events(job: Job, task: Task) -> list[tuple[float, str, str]]:
    """Give the events of a job's current run: time, state after it ("" for the same), text."""
    home, cwd = job.face["home"], job.face["cwd"]
    hosts = f"{job.slots} Hosts/Processors {' '.join([f'<{HOST}>'] * job.slots)}" if job.slots > 1 else f"<{HOST}>"
    where = f"Running with execution home <{home}>, Execution CWD <{cwd}>, Execution Pid <{task.session}>"
    events = [
        (task.started, "RUN", f"Dispatched to {hosts}"),
        (task.started, "", f"Starting (Pid {task.session})"),
        (task.started, "", where),
    ]
    if task.ended >= task.started:
        events.append((task.ended, "END", ending(task).replace("Exited The", "Exited. The")))
    return events


def expand(path: str, job: Job, task: Task) -> str:
    """Fill in job id and index."""
    return str(path).replace("%J", str(job.number)).replace("%I", str(max(task.index, 0)))


def _directory(job: Job) -> str:
    cwd = real(job.face["cwd"])
    return cwd if os.path.isdir(cwd) else "/tmp"


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "wb") as file:
        file.write(text.encode("latin-1"))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _deliver(job: Job, task: Task, kind: str, text: bytes) -> None:
    """Append to a file of the user's; without its directory the output is lost."""
    path = os.path.join(_directory(job), real(expand(job.face[kind], job, task)))
    if os.path.isdir(path):
        path = os.path.join(path, f"{job.number}.{kind}")
    try:
        with open(path, "wb" if job.face[f"over_{kind}"] else "ab") as file:
            file.write(text)
    except OSError:
        return
