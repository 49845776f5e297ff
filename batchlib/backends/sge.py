"""Grid Engine.

Facts about its commands were measured on Son of Grid Engine 8.1.9, and are those of its manual.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs

from ..application import RESERVED, Application
from ..array import ArraySpec
from ..errors import InvalidValue, UnsupportedOperation
from ..run import State
from ..sandbox import lines, token_in
from ..transport.shell import Completed
from . import control, programs, sge_text
from .base import Action, Answer, JobInfo, Machine, Outcome, Queue
from .batch import BatchSystem
from .native import Job
from .programs import quote
from .verdict import JobRow

#: Stands before our directives. The usual one would not do: they are looked for in all of the script, and so in
#: arguments of the command that go over several lines.
_DIRECTIVE = "#$batchlib"
#: Jobs for which one qacct is called, which reads all of the accounting file: of more, too many others come along.
_RECORDS_AT_ONCE = 30
#: Jobs in an error state that the reason is asked for.
_MOST_REASONS = 100
#: What qacct says when it has looked and found nothing.
_NO_RECORDS = re.compile(r"job (?:name|id) .* not found")
_TROUBLE = re.compile(r"denied:|error|qmaster")
#: What xargs makes of a command's exit codes from 1 to 125.
_SOME_FAILED = 123
_COMPLAINT = re.compile(r"error\b", re.IGNORECASE)
_LISTED = "</job_info>"
_MAIL = {"begin": "b", "end": "e", "fail": "a"}

_CONTROLS = {
    Action.CANCEL: ("qdel", ""),
    Action.HOLD: ("qhold", ""),
    Action.RELEASE: ("qrls", ""),
    Action.SUSPEND: ("qmod", "-sj"),
    Action.RESUME: ("qmod", "-usj"),
    Action.REQUEUE: ("qmod", "-rj"),
}
#: What the control commands say of a job: these when they did it, or it was so already.
_DONE = (
    *("has deleted", "has registered", "already in deletion", "modified hold"),
    *(" suspended job", " unsuspended job", "is already suspended", "is already unsuspended", " rescheduling of "),
)
_GONE = ("does not exist", "invalid queue or job")
_REFUSED = (
    *("privileges", "no permission", "denied:", "not rerunable", "not restartable", "can not be applied"),
    *("can't suspend", "can't unsuspend", "is not suspended by administrator"),
)


class SgeBackend(BatchSystem):
    """A Grid Engine cell. Parameters are those of `BatchSystem`.

    Jobs with several cores need the key ``parallel_environment``. Memory is asked for as each of `memory_resources`.
    There is no dependency on how a job ended, so that dependencies are left to the engine, and no way to signal a job.
    """

    type = "sge"
    commands: ClassVar[Mapping[str, str]] = {
        name: name for name in ("qsub", "qstat", "qacct", "qdel", "qhold", "qrls", "qmod", "qhost", "qconf")
    }
    submit_command = "qsub"
    template = "sge.sh.j2"
    jobid_pattern = (
        r"(?:Your job(?:-array)? )?(?P<jobid>\d{1,18})(?:\.\d+-\d+:\d+)?(?: \(\".*\"\) has been submitted)?$"
    )
    jobid_expression = '"$JOB_ID"'
    array_jobid_expression = '"$JOB_ID.$SGE_TASK_ID"'
    index_expression = '"$SGE_TASK_ID"'
    outer_variables = (
        "SGE_*|JOB_ID|JOB_NAME|JOB_SCRIPT|NSLOTS|NHOSTS|NQUEUES|PE|PE_HOSTFILE|QUEUE|REQUEST|RESTARTED|ENVIRONMENT|ARC"
    )
    kept_variables = "SGE_ROOT|SGE_CELL|SGE_CLUSTER_NAME|SGE_QMASTER_PORT|SGE_EXECD_PORT|SGE_ARCH"
    name_length = 100
    capacity_submit = ("jobs are allowed per user", "jobs are allowed per cluster")
    transient_submit = (
        *("unable to send message to qmaster", "unable to contact qmaster", "commlib error"),
        *("JSV temporarily rejected job", "Job is rejected temporarily"),
    )
    unclear_submit = ("failed receiving gdi request", "Error reading answer list from qmaster")
    clients_hang = True
    # a script that exits with 99 is run again, for ever; with 100 it is put into an error state
    reserved_codes = (99, 100)
    unsupported: ClassVar[Mapping[str, str]] = {
        "qos": "Grid Engine has no quality of service; name a queue, or a project as the native option '-P NAME'",
        "deadline": "Grid Engine ends no job for being late: its deadline (-dl) raises the priority, for some users",
    }
    capabilities = frozenset({"accounting", "array", "hold", "monitoring", "requeue", "suspend"})

    # --- submission ------------------------------------------------------------------------------------------

    def validate(self, app: Application) -> None:
        """Check that the resource can run `app`."""
        super().validate(app)
        settings, cores, asked = self.settings, app.total_cores, self._asks_for_environment(app)
        if (app.requested_nodes or 1) > 1 and not asked:
            raise UnsupportedOperation(
                "requested_nodes: on Grid Engine the parallel environment decides how a job is spread over hosts; "
                "name the site's and the number of slots as the native option '-pe NAME SLOTS'",
                resource=self.name,
            )
        if cores > 1 and not asked and not settings.parallel_environment:
            raise InvalidValue(
                f"{cores} cores: Grid Engine gives several cores in a parallel environment only; name one that keeps "
                "to one host as 'parallel_environment' in the configuration (qconf -spl lists them)",
                resource=self.name,
            )
        if app.total_memory is not None and not any(settings.memory_resources):
            raise InvalidValue(
                "memory: 'memory_resources' names nothing by which it could be asked for", resource=self.name
            )
        if app.priority is not None and not -1023 <= app.priority <= 1024:
            raise InvalidValue(
                f"priority {app.priority}: Grid Engine's go from -1023 to 1024, above 0 for operators only",
                resource=self.name,
            )
        if app.requested_gpus and cores > 1:
            warnings.warn(
                f"{self.name}: {app.requested_gpus} GPUs are asked for each of {cores} slots unless the site counts "
                f"the resource {settings.gpu_resource!r} by job",
                stacklevel=2,
            )

    def _asks_for_environment(self, app: Application) -> bool:
        """Tell whether native options name a parallel environment."""
        return any("-pe" in option.split() for option in (*app.native, *self.settings.extra_args))

    def submit_words(self, app: Application) -> list[str]:
        """Ask for plain answers. A time is taken in the frontend's zone, so that it has to be made there."""
        command, *extra = super().submit_words(app)
        words = [command, "-terse", "-C", quote(_DIRECTIVE)]
        seconds = round(app.begin - time.time()) if app.begin is not None else 0
        if seconds > 0:
            words += ["-a", f'"$(date -d "@$(($(date +%s) + {seconds}))" +%Y%m%d%H%M.%S)"']
        return [*words, *extra]

    def header_values(self, app: Application) -> dict[str, object]:
        """Count memory by slot."""
        cores, settings = app.total_cores, self.settings
        several = cores > 1 and not self._asks_for_environment(app)
        memory = app.total_memory
        return {
            "directive": _DIRECTIVE,
            "interpreter": settings.shell.split()[0],
            "parallel_environment": settings.parallel_environment if several else None,
            "memory_per_slot": memory * (1 / cores) if memory is not None else None,
            "memory_resources": settings.memory_resources,
            "gpu_resource": settings.gpu_resource,
            "mail_options": "".join(letter for when, letter in _MAIL.items() if when in app.mail_on) or "ea",
        }

    def unique_name(self, jobname: str, token: str) -> str:
        """Make the name under which a job is queued, which may not start with a digit."""
        name = super().unique_name(jobname, token)
        return f"j{name}" if name[0].isdigit() else name

    def takes_array(self, array: ArraySpec) -> bool:
        """Tell whether indices start at 1 or above and have equal steps."""
        return array.indices[0] > 0 and tuple(_steps(array)) == array.indices

    def native_array(self, array: ArraySpec) -> str:
        """Write the indices, and how many elements may run at a time."""
        steps = _steps(array)
        limit = f" -tc {array.max_running}" if array.max_running else ""
        return f"{steps[0]}-{steps[-1]}:{steps.step}{limit}"

    def element_jobid(self, jobid: str, index: int) -> str:
        """Give the native id of an array's element."""
        return f"{jobid}.{index}"

    def array_jobid(self, jobid: str) -> str:
        """Give the native id of the array that an element belongs to."""
        return jobid.partition(".")[0]

    # --- states ----------------------------------------------------------------------------------------------

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """List the user's jobs, and why some are in an error state. What can be set by default is said explicitly."""
        qstat = f"$limit {self.command('qstat')}"
        in_error = '$2 == "JB_job_number" { id = $3 } $2 == "state" && $3 ~ /E/ { print id }'
        return f"""{self.limit}
listed=$({qstat} -xml -s prs -u "$(id -un)") || exit
printf '%s\\n' "$listed"
ids=$(printf '%s\\n' "$listed" | awk -F'[<>]' {quote(in_error)} | sort -u | head -n {_MOST_REASONS})
[ -z "$ids" ] || {qstat} -j "$(echo $ids | tr ' ' ,)" | grep -E '^(job_number|error reason)' || :
"""

    def parse_queue(self, answer: Completed) -> Mapping[str, JobRow]:
        """Read qstat's listing."""
        listed, _, reasons = self._checked(answer).out.rpartition(_LISTED)
        return sge_text.Rows(sge_text.parse_jobs(listed), sge_text.parse_reasons(reasons))

    def _checked(self, answer: Completed) -> Completed:
        """Raise unless qstat gave a listing."""
        return self.check_listing(answer, "qstat", complete=_LISTED in answer.out)

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """Ask qacct by the tokens in the jobs' names: ids are given again, and of several ids it knows the first."""
        listed = "".join(f"{job.jobid} {job.token}\n" for job in jobs)
        tokens = dict.fromkeys(job.token.partition("/")[0] for job in jobs)
        return f"cat <<'.'\n{listed}.\n{self._records_of(list(tokens))}"

    def _records_of(self, tokens: Sequence[str]) -> str:
        chunks = [tokens[at : at + _RECORDS_AT_ONCE] for at in range(0, len(tokens), _RECORDS_AT_ONCE)]
        qacct = f"$limit {self.command('qacct')} -j"
        asked = "".join(f"{qacct} {quote(name_pattern(chunk))} || code=$?\n" for chunk in chunks)
        return f"{self.limit}\ncode=0\n{asked}exit $code"

    def parse_accounting(self, answer: Completed) -> dict[str, JobRow]:
        """Read qacct's records of the jobs that stand before them; the last one of each job counts."""
        if answer.exitcode in (126, 127):
            # some sites don't have it on their frontends; queue and status files do as well
            return {}
        wanted = dict(line.partition(" ")[::2] for line in answer.out.partition("\n=")[0].splitlines())
        rows: dict[str, JobRow] = {}
        for row in self._records(answer):
            token = wanted.get(row.jobid, "").partition("/")[0]
            if token and token == token_in(row.name):
                before = rows.get(row.jobid)
                runs = before.accounting.runs + (before.state is State.REQUEUED) if before else 1
                rows[row.jobid] = attrs.evolve(row, accounting=attrs.evolve(row.accounting, runs=runs))
        return {jobid: row for jobid, row in rows.items() if row.state is not State.REQUEUED}

    def _records(self, answer: Completed) -> list[JobRow]:
        """Raise unless qacct found records, or found that there are none."""
        said = [line for line in answer.err.splitlines() if _COMPLAINT.search(line) and not _NO_RECORDS.search(line)]
        if said or answer.exitcode in programs.KILLED:
            raise self.unavailable("qacct", answer)
        return sge_text.parse_records(answer.out)

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look for jobs among the user's in the queue and, by the tokens in their names, in the accounting."""
        tokens = [token_in(name) for name in names]
        return {"queue": self.queue_command([]), "accounting": self._records_of(tokens)}

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read the answers: qstat must have given one, qacct unless there is none."""
        queue, accounting = self._checked(parts["queue"]), parts["accounting"]
        found = {} if accounting.exitcode in (126, 127) else {row.name: row.jobid for row in self._records(accounting)}
        found |= {job.fields.get("JB_name", ""): job.number for job in sge_text.parse_jobs(queue.out)}
        return {name: self.array_jobid(jobid) for name, jobid in found.items()}

    # --- control ---------------------------------------------------------------------------------------------

    def control_commands(self, action: Action, jobs: Sequence[Job], signal: str) -> dict[str, str]:
        """Do something to all jobs with one command, and look which of them have ever started."""
        if action not in _CONTROLS:
            return super().control_commands(action, jobs, signal)
        listed = "".join(f"{job.jobid}\n" for job in jobs)
        name, option = _CONTROLS[action]
        text = f"$limit xargs {self.command(name)} {option} <<'.'\n{listed}.\n"
        if action is Action.RELEASE:
            # those in an error state are held too; this complains of all others, and exits with 1 even when it did it
            cleared = f"$limit xargs {self.command('qmod')} -cj <<'.' >/dev/null 2>&1\n{listed}.\n"
            text += f"code=$?\n{cleared}exit $code"
        started = f"""cd {quote(self.spool)} || exit
while IFS= read -r token; do [ ! -f "$token/{RESERVED}/owner" ] || printf '%s\\n' "$token"; done <<'.'
{lines(job.token for job in jobs)}."""
        return {"control": f"{self.limit}\n{text}", "started": started}

    def control_answers(
        self, action: Action, jobs: Sequence[Job], parts: Mapping[str, Completed]
    ) -> Mapping[str, Answer]:
        """Read the answers: a line for each job, most of them on standard output, errors too."""
        answer = self.check_command(parts["control"])
        started = set(parts["started"].out.split())
        said = sge_text.lines_by_job(f"{answer.out}\n{answer.err}", {job.jobid for job in jobs})
        trouble = "; ".join(line for line in said.pop("", []) if _TROUBLE.search(line))[-500:]
        if "denied:" in trouble:
            silence = control.refused(trouble, self)
        elif not trouble and action in (Action.HOLD, Action.RELEASE) and answer.exitcode in (0, _SOME_FAILED):
            # there was nothing to change
            silence = Answer(Outcome.DONE)
        else:
            silence = control.unknown(trouble or f"exit code {answer.exitcode}", self)
        return {
            job.jobid: self._answer("; ".join(said[job.jobid]), job.token in started) if job.jobid in said else silence
            for job in jobs
        }

    def _answer(self, text: str, started: bool) -> Answer:
        """Give the meaning of what a command said of one job."""
        if any(sign in text for sign in _DONE):
            return Answer(Outcome.DONE)
        if any(sign in text for sign in _GONE):
            # qmaster forgets a job when it ends
            return Answer(Outcome.ALREADY_ENDED) if started else control.not_found(text, self)
        if any(sign in text for sign in _REFUSED):
            return control.refused(text, self)
        return control.unknown(text, self)

    # --- monitoring ------------------------------------------------------------------------------------------

    def version_command(self) -> str:
        """Ask qstat, which answers without qmaster."""
        return f"text=$({self.command('qstat')} -help) || exit\nprintf '%s\\n' \"$text\" | head -n 1"

    def listing_command(self) -> str:
        """List everybody's jobs."""
        return f"{self.limit}\n$limit {self.command('qstat')} -xml -s prs -u '*'"

    def parse_listing(self, answer: Completed) -> list[JobInfo]:
        """Read qstat's listing."""
        return sge_text.parse_listing(self._checked(answer).out)

    def queues_command(self) -> str:
        """List cluster queues, and their limits where these may be seen."""
        return f"""{self.limit}
$limit {self.command("qstat")} -g c -xml || exit
$limit {self.command("qconf")} -sq '*' 2>/dev/null | grep -E '^(qname|h_rt) ' || :"""

    def parse_queues(self, answer: Completed) -> list[Queue]:
        """Read both."""
        return sge_text.parse_queues(self._checked(answer).out)

    def machines_command(self) -> str:
        """List machines."""
        return f"{self.limit}\n$limit {self.command('qhost')} -q -xml"

    def parse_machines(self, answer: Completed) -> list[Machine]:
        """Read qhost's list."""
        return sge_text.parse_machines(self.check_listing(answer, "qhost", complete="</qhost>" in answer.out).out)


def name_pattern(tokens: Sequence[str]) -> str:
    """Make a pattern for the names that end in any of some tokens; a few others may match it too.

    Grid Engine's patterns know of no alternatives but for single characters.
    """
    return "*" + "".join(f"[{''.join(sorted(set(letters)))}]" for letters in zip(*tokens, strict=True))


def _steps(array: ArraySpec) -> range:
    """Give the indices from the first to the last with the step between the first two."""
    first, *others = array.indices
    return range(first, array.indices[-1] + 1, others[0] - first if others else 1)
