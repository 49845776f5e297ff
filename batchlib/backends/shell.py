"""Plain processes on the frontend itself: no batch system, but the same promises.

Each job is a session of its own, started so that it survives the end of the client and of its connection. The
job script watches over itself (``templates/shell.sh.j2``): it enforces walltime and memory on all processes of
the session. Which processes run, and since when, is read from ``/proc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..application import RESERVED, Application
from ..errors import SystemUnavailable, UnsupportedOperation
from ..quantity import Duration, Memory, whole_number
from ..run import Accounting, Reason, State
from ..transport.shell import Completed
from .base import Action, Answer, JobFilter, JobInfo, Outcome, ResourceStatus
from .batch import BatchSystem
from .native import Job
from .programs import quote
from .verdict import JobRow

_KILLED = {
    "walltime": (State.FAILED, Reason.WALLTIME),
    "memory": (State.FAILED, Reason.MEMORY),
    "cancelled": (State.CANCELLED, Reason.CANCELLED_BY_USER),
}
_SIGNALS = {Action.CANCEL: "TERM", Action.SUSPEND: "STOP", Action.RESUME: "CONT"}
_DONE = {Action.HOLD: "held", Action.RELEASE: "released", Action.REQUEUE: "requeued"}
#: Seconds between asking processes to end and killing them.
_GRACE = 5

# Find out about one job, without a process of our own: $alive, and $where it runs.
_LOOK = """look() { # PID.START@HOST
  alive= reused= where=${1##*@} pid=${1%%.*} start=${1#*.}; start=${start%%@*}
  [ "$where" = "$host" ] || return 0
  line=
  { IFS= read -r line < "/proc/$pid/stat"; } 2>/dev/null || return 0
  set -- ${line##*) }
  if [ "${20}" != "$start" ]; then reused=yes; elif [ "$1" != Z ]; then alive=yes; fi
}
host=$(uname -n)
"""


class ShellBackend(BatchSystem):
    """Plain processes. Parameters are those of `BatchSystem`.

    `max_cores` bounds the cores of all jobs that run at a time; by default it is the number of processors. A job
    for which there is no room is not refused: it can be submitted again later.
    """

    type = "shell"
    commands: ClassVar[Mapping[str, str]] = {"launch": "launch"}
    submit_command = "launch"
    template = "shell.sh.j2"
    jobid_pattern = r"started process (?P<jobid>\d+\.\d+@\S+)$"
    jobid_expression = '"$BATCHLIB_JOBID"'
    outer_variables = "BATCHLIB_TOKEN|BATCHLIB_JOBID"
    capacity_submit = ("no free cores",)
    capabilities = frozenset({"accounting", "signal", "suspend"})

    def submit_words(self, app: Application) -> list[str]:
        """Call the function that `submit_prelude` defines."""
        return ["launch", str(app.total_cores)]

    def header_values(self, app: Application) -> dict[str, object]:
        """Tell the job script how long to wait between asking processes to end and killing them."""
        return {"grace": _GRACE}

    @property
    def submissions_at_a_time(self) -> int:
        """Start one after the other: each counts the cores that the ones before it left."""
        return 1

    def submit_prelude(self) -> str:
        """Define how to start a job, and count the cores that are taken."""
        cores = self.settings.max_cores or '"$(getconf _NPROCESSORS_ONLN)"'
        return f"""{_LOOK}all={cores} free=$all
mkdir -p .running
for file in .running/*; do
  {{ read -r jobid cores < "$file"; }} 2>/dev/null || continue
  look "$jobid"
  if [ -n "$alive" ]; then free=$((free - cores)); else rm -f "$file"; fi
done
launch() {{ # cores script
  if [ "$1" -gt "$all" ]; then echo "$1 cores asked for, this machine has $all" >&2; return 1; fi
  if [ "$1" -gt "$(cat ../.free)" ]; then echo "no free cores here now" >&2; return 75; fi
  echo "$(($(cat ../.free) - $1))" > ../.free
  setsid {quote(self.settings.shell)} "$2" </dev/null >{RESERVED}/log 2>&1 3>&- &
  IFS= read -r line < "/proc/$!/stat" || return 1
  cores=$1
  set -- ${{line##*) }}
  echo "$!.${{20}}@$host $cores" > ../.running/"${{PWD##*/}}"
  echo "started process $!.${{20}}@$host"
}}
echo "$free" > .free
"""

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """Look which jobs live; of the others print what their scripts wrote at the end."""
        listed = "".join(f"{job.jobid} {job.token}\n" for job in jobs)
        return f"""cd {quote(self.spool)} || exit
{_LOOK}while read -r jobid token; do
  look "$jobid"
  if [ -n "$alive" ] && [ -f "$token/{RESERVED}/stopped" ]; then echo "$jobid suspended"
  elif [ -n "$alive" ]; then echo "$jobid running"
  elif [ -f "$token/{RESERVED}/ended" ]; then
    echo "$jobid ended"
    while IFS= read -r line; do echo "$jobid $line"; done < "$token/{RESERVED}/ended"
  elif [ "$where" != "$host" ]; then echo "$jobid elsewhere"
  fi
done <<'.'
{listed}.
"""

    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read what was found out."""
        if answer.exitcode != 0:
            raise SystemUnavailable(f"the processes could not be listed: {answer.err.strip()[-300:]}")
        facts: dict[str, dict[str, str]] = {}
        for line in answer.out.split("\n"):
            jobid, _, fact = line.partition(" ")
            key, _, value = fact.partition("=")
            facts.setdefault(jobid, {})[key] = value
        rows = {jobid: _row(jobid, fact) for jobid, fact in facts.items()}
        return {jobid: row for jobid, row in rows.items() if row is not None}

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look nowhere: a job that started has written its id into its sandbox."""
        return {}

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Find nothing."""
        return {}

    def control_commands(self, action: Action, jobs: Sequence[Job], signal: str) -> dict[str, str]:
        """Signal all processes of the jobs' sessions, and those that left their session but carry its mark."""
        if action not in _SIGNALS and action is not Action.SIGNAL:
            raise UnsupportedOperation(f"plain processes can't be {_DONE[action]}", resource=self.name)
        sent = _SIGNALS.get(action) or signal
        listed = "".join(f"{job.jobid} {job.token}\n" for job in jobs)
        marks = "".join(f"BATCHLIB_TOKEN={job.token}\n" for job in jobs)
        note = {
            Action.CANCEL: f'echo cancelled > "$token/{RESERVED}/killed"; rm -f "$token/{RESERVED}/stopped"',
            Action.SUSPEND: f': > "$token/{RESERVED}/stopped"',
            Action.RESUME: f'rm -f "$token/{RESERVED}/stopped"',
        }.get(action, ":")
        finish = f"(trap '' HUP; sleep {_GRACE}; end KILL) </dev/null >/dev/null 2>&1 &"
        program = f"""cd {quote(self.spool)} || exit
{_LOOK}jobs=
while read -r jobid token; do
  look "$jobid"
  if [ "$where" != "$host" ]; then echo "$jobid elsewhere"; continue; fi
  [ -n "$alive" ] || {{ echo "$jobid ended"; continue; }}
  {note}
  jobs="$jobs $jobid"
  echo "$jobid done"
done <<'.'
{listed}.
[ -n "$jobs" ] || exit 0
end() {{ # signal: all but the leaders, which have to write how it ended, and whoever got a leader's number since
  sessions=
  for jobid in $jobs; do look "$jobid"; [ -n "$reused" ] || sessions="$sessions $pid"; done
  {{
    ps -e -o pid= -o sid= | awk -v list="$sessions" '
      BEGIN {{ split(list, s); for (i in s) is[s[i]] = 1 }} ($2 in is) && !($1 in is) {{ print $1 }}'
    grep -alF -f - /proc/[0-9]*/environ 2>/dev/null <<'.' | sed 's,/proc/,,; s,/environ,,'
{marks}.
  }} | sort -u | while read -r pid; do
    case " $sessions " in *" $pid "*) ;; *) kill -s "$1" "$pid" 2>/dev/null || : ;; esac
  done
}}
end {sent}
{f"end CONT; {finish}" if action is Action.CANCEL else ""}
"""
        return {"processes": program}

    def control_answers(
        self, action: Action, jobs: Sequence[Job], parts: Mapping[str, Completed]
    ) -> Mapping[str, Answer]:
        """Read which jobs were found."""
        answer = parts["processes"]
        if answer.exitcode != 0:
            raise SystemUnavailable(f"the processes could not be signalled: {answer.err.strip()[-300:]}")
        outcomes = {"ended": Outcome.ALREADY_ENDED, "done": Outcome.DONE}
        found = {}
        for line in answer.out.splitlines():
            jobid, _, fact = line.partition(" ")
            if fact == "elsewhere":
                where = jobid.partition("@")[2]
                error = SystemUnavailable(
                    f"the job runs on {where}: reach that host to {action.value} it", resource=self.name
                )
                found[jobid] = Answer(Outcome.UNKNOWN, error)
            elif fact in outcomes:
                found[jobid] = Answer(outcomes[fact])
        return found

    def version_command(self) -> str:
        """Ask for the operating system."""
        return "uname -sr"

    def list_jobs(self, filter: JobFilter | None = None) -> list[JobInfo]:  # noqa: A002 - the contract's name
        """List our own jobs that run: nobody knows of others."""
        answer = self.ask(
            f"cd {quote(self.spool)} || exit\n{_LOOK}"
            'for file in .running/*; do { read -r jobid cores < "$file"; } 2>/dev/null || continue\n'
            'look "$jobid"; [ -z "$alive" ] || echo "$jobid $cores ${file##*/}"; done; id -un'
        )
        *listed, owner = answer.out.split("\n")[:-1] or [""]
        jobs = []
        for line in listed:
            jobid, cores, token = [*line.split(" "), "", ""][:3]
            jobs.append(JobInfo(jobid, token, owner, "", State.RUNNING, "running", whole_number(cores)))
        return [job for job in jobs if filter is None or filter.matches(job)]

    def get_resource_status(self) -> ResourceStatus:
        """Count processors, and the cores that our jobs have."""
        answer = self.ask(
            f"cd {quote(self.spool)} || exit\n{_LOOK}"
            "echo $(getconf _NPROCESSORS_ONLN)\n"
            'for file in .running/*; do { read -r jobid cores < "$file"; } 2>/dev/null || continue\n'
            'look "$jobid"; [ -z "$alive" ] || echo "$cores"; done'
        )
        numbers = [number for line in answer.out.split() if (number := whole_number(line)) is not None] or [0]
        total = self.settings.max_cores or numbers[0]
        return ResourceStatus(cores=total, free_cores=max(0, total - sum(numbers[1:])), own_running=len(numbers) - 1)


def _row(jobid: str, facts: Mapping[str, str]) -> JobRow | None:
    """Judge one job by what was printed of it; None when that says nothing of how it ended."""
    if "running" in facts:
        return JobRow(jobid, State.RUNNING, "running")
    if "suspended" in facts:
        return JobRow(jobid, State.SUSPENDED, "suspended")
    if "elsewhere" in facts:
        return JobRow(jobid, State.UNDETERMINED, f"runs on {jobid.partition('@')[2]}")
    code = whole_number(facts.get("code"))
    if code is None or code > 255:
        return None
    state, reason = _KILLED.get(facts.get("killed", ""), (State.FAILED if code else State.DONE, Reason.EXITED))
    signal = code - 128 if code > 128 else None
    peak, started, ended = (whole_number(facts.get(key)) for key in ("peak", "started", "ended"))
    accounting = Accounting(
        max_memory=Memory.of(peak, "KiB") if peak is not None else None,
        started=_time(started),
        ended=_time(ended),
    )
    if started is not None and ended is not None and ended >= started:
        accounting.wall_time = Duration.of(ended - started, "s")
    native = f"ended ({facts['killed']})" if facts.get("killed") else "ended"
    exitcode = None if signal else code
    return JobRow(jobid, state, native, reason, exitcode, signal, accounting=accounting)


def _time(seconds: int | None) -> float | None:
    return None if seconds is None else float(seconds)
