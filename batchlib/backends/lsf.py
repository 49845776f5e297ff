"""LSF: IBM's 9 and 10, and the compatible volclava and OpenLava.

They differ in what they can be asked and in what they say, so only what all of them understand is used unless the
site was seen to be IBM's. Facts were measured on volclava 2.2 and taken from samples and manuals of IBM's LSF.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from ..application import RESERVED, Application
from ..array import ArraySpec, format_indices
from ..errors import BatchlibError, InvalidValue, SystemUnavailable, UnsupportedOperation
from ..quantity import Memory
from ..run import NativeDependency
from ..transport.shell import Completed
from . import control, lsf_history, lsf_text, programs
from .base import Action, Answer, JobInfo, Journal, Machine, Outcome, Queue
from .batch import BatchSystem
from .native import Job
from .programs import quote
from .verdict import JobRow

#: Ids on one command line.
_IDS_AT_ONCE = 1000
#: Characters of an array's indices: a name with its indices may have 255, and is refused beyond.
_LONGEST_INDICES = 180
#: How a listing in the free form is asked for.
_FREE_FORM = "-noheader -o " + quote(" ".join(lsf_text.FIELDS) + f' delimiter="{lsf_text.DELIMITER}"')

_VERBS: Mapping[Action, str] = {
    Action.CANCEL: "bkill",
    Action.HOLD: "bstop",
    Action.RELEASE: "bresume",
    Action.SUSPEND: "bstop",
    Action.RESUME: "bresume",
    Action.REQUEUE: "brequeue",
    Action.SIGNAL: "bkill",
}
#: bstop does not mind whether a job waits or runs. So: states, as a shell pattern, in which it is not used, and why.
_WRONG_STATES: Mapping[Action, tuple[str, str]] = {
    Action.HOLD: ("*' RUN '* | *' USUSP '* | *' SSUSP '*", "Job has already started"),
    Action.SUSPEND: ("*' PEND '* | *' PSUSP '*", "Job has not started yet"),
}
#: What is said of a job that something was to be done to. "In progress" comes with an error's exit code, and is done.
_OUTCOMES: Mapping[str, Outcome] = {
    "is being": Outcome.DONE,
    "Operation is in progress": Outcome.DONE,
    "has already been requeued": Outcome.DONE,
    "has already finished": Outcome.ALREADY_ENDED,
    "No matching job found": Outcome.NOT_FOUND,
    "is not found": Outcome.NOT_FOUND,
    "User permission denied": Outcome.REFUSED,
    "has not started yet": Outcome.REFUSED,
    "has already started": Outcome.REFUSED,
    "Operation not supported": Outcome.REFUSED,
    "Signal not supported": Outcome.REFUSED,
    "Illegal signal value": Outcome.REFUSED,
}


class LsfBackend(BatchSystem):
    """An LSF cluster. Parameters are those of `BatchSystem`.

    `memory_unit` is the unit of the site's memory limits; by default it is that of ``LSF_UNIT_FOR_LIMITS`` in
    ``lsf.conf``, or else the batch system's own. `max_array_size` is by default what ``bparams`` says.
    """

    type = "lsf"
    commands: ClassVar[Mapping[str, str]] = {
        name: name
        for name in (
            *("bsub", "bjobs", "bhist", "bkill", "bstop", "bresume", "brequeue"),
            *("bqueues", "bhosts", "bparams", "lsid", "lshosts", "lsload"),
        )
    }
    submit_command = "bsub"
    template = "lsf.sh.j2"
    jobid_pattern = r"Job <(?P<jobid>\d+)> is submitted to (?:default )?queue <[^>]+>\."
    jobid_expression = '"$LSB_JOBID"'
    array_jobid_expression = '"$LSB_JOBID[$LSB_JOBINDEX]"'
    index_expression = '"$LSB_JOBINDEX"'
    outer_variables = "LSB_*|LS_*|LSFUSER|LSF_EAUTH_*|LSF_JOB*"
    kept_variables = "LSB_DEFAULTQUEUE|LSB_DEFAULTPROJECT|LSB_CONFDIR|LSB_SHAREDIR"
    clients_hang = True
    capacity_submit = (
        "Pending job threshold reached",
        "The destination queue has reached its job limit",
        "No job Id can be used now",
    )
    transient_submit = (
        "Connection refused by server",
        "LIM is down",
        "LSF is down",
        "Cannot connect to LSF",
        "not responding",
        "still trying",
        "Please wait",
        "Timeout on connect call",
        "Batch service not registered",
        "Batch daemon cannot fork",
        "non-LSF host",
        "Failed in an LSF library call",
    )
    unclear_submit = (
        "Communication time",
        "sending/receiving a message",
        "Connection reset",
        "Batch protocol error",
        "Server is not connected",
    )
    unsupported: ClassVar[Mapping[str, str]] = {
        "qos": "LSF has no quality of service; its service classes are options such as '-sla gold' in 'native'"
    }
    capabilities = frozenset({"accounting", "array", "hold", "monitoring", "requeue", "signal", "suspend"})

    #: Whether listings come in the free form; None while that has not been seen.
    _free_form: bool | None = None
    _site: lsf_text.Site | None = None

    # --- what the site is ----------------------------------------------------------------------------------

    @property
    def _calm(self) -> str:
        """Shell text that keeps LSF's commands from trying for ever, and from a form that the user likes better."""
        return f"{programs.limit(self.settings.timeout / 4)}\nexport LSB_NTRIES=1\nunset LSB_BJOBS_FORMAT\n"

    def _learn(self) -> lsf_text.Site:
        """Find out which LSF this is, and how it was set up."""
        if self._site is None:
            answer = self.ask(
                f"""{self._calm}echo "version=$($limit {self.command("lsid")} 2>/dev/null | sed -n '/[^ ]/{{p;q;}}')"
sed -n 's/^ *LSF_UNIT_FOR_LIMITS *= *"*\\([A-Za-z]*\\).*/unit=\\1/p' "${{LSF_ENVDIR:-/etc}}/lsf.conf" 2>/dev/null
{{ $limit {self.command("bparams")} -a || $limit {self.command("bparams")} -l; }} 2>/dev/null |
  sed -n 's/^ *MAX_JOB_ARRAY_SIZE *= *\\([0-9]*\\).*/array=\\1/p'"""
            )
            site = lsf_text.parse_site(answer.out)
            if site is None:
                raise self.unavailable("lsid", answer)
            self._site = site
        return self._site

    def supports(self, capability: str) -> bool:
        """Tell whether LSF can do something. Dependencies: volclava starts jobs before it looks what they wait for."""
        if capability != "dependency":
            return super().supports(capability)
        try:
            return self._learn().ibm
        except BatchlibError:
            return False

    def version_command(self) -> str:
        """Ask lsid, which answers without a server."""
        return f"{self._calm}$limit {self.command('lsid')}"

    def version(self) -> str:
        """Give name and version, without what lsid says of the cluster."""
        return super().version().partition("\n")[0]

    # --- submission ----------------------------------------------------------------------------------------

    def submit_jobs(
        self, apps: Sequence[Application], journal: Journal | None = None
    ) -> dict[Application, BatchlibError | None]:
        """Start work: see `Backend.submit_jobs`."""
        if any(map(self._depends_on_site, apps)):
            try:
                self._learn()
            except BatchlibError as error:
                return dict.fromkeys(apps, self.tell(error))
        return super().submit_jobs(apps, journal)

    def _depends_on_site(self, app: Application) -> bool:
        """Tell whether how a job is submitted depends on the site."""
        memory = app.total_memory is not None and self.settings.memory_unit is None
        array = app.array is not None and self.settings.max_array_size is None
        return bool(memory or array or app.requested_gpus or app.reservation)

    def validate(self, app: Application) -> None:
        """Check that LSF can run `app`."""
        super().validate(app)
        for field in ("requested_gpus", "reservation"):
            if getattr(app, field) and self._site is not None and not self._site.ibm:
                raise UnsupportedOperation(f"{field}: only IBM's LSF has an option for it", resource=self.name)
        if app.priority is not None and app.priority < 1:
            raise InvalidValue(f"priority {app.priority}: LSF's start at 1", resource=self.name)
        if app.constraint is not None and set("[]") & set(app.constraint):
            raise InvalidValue("constraint: write what stands within select[...], without brackets", resource=self.name)
        if app.mail_to and "fail" in app.mail_on and "end" not in app.mail_on:
            warnings.warn("mail_on: LSF can't write of failures only; it will write of every end", stacklevel=2)

    def submit_words(self, app: Application) -> list[str]:
        """Call bsub with the script's first lines as its input.

        It reads options from lines of any part of its input, in arguments of the command as well, and keeps a copy
        of it: so it gets no more than the header, whose last line starts the script itself.
        """
        bsub = " ".join([*super().submit_words(app), *_clocks(app)])
        text = f'sed "/^[^#]/q" "$1" | {bsub}'
        if app.array is not None:
            text = self._checked_array(text)
        return ["sh", "-c", quote(f"export LSB_NTRIES=1; {text}"), "sh"]

    def _checked_array(self, text: str) -> str:
        """Let a submission fail whose array has become one plain job, as volclava makes of one that is too large."""
        return (
            f"said=$({text}); code=$?; id=${{said##*Job <}}; id=${{id%%>*}}; "
            'if [ $code = 0 ] && grep -q "^#BSUB -J .*\\[" "$1"; then '
            f'case $({self.command("bjobs")} -A "$id" 2>&1) in *"is not found"*) {self.command("bkill")} "$id" >&2; '
            'echo "LSF made one plain job of the array: say max_array_size in the configuration" >&2; exit 1;; esac; '
            'fi; echo "$said"; exit $code'
        )

    def native_array(self, array: ArraySpec) -> str:
        """Write indices as they stand behind a job's name."""
        return f"[{format_indices(array.indices)}]" + (f"%{array.max_running}" if array.max_running else "")

    def takes_array(self, array: ArraySpec) -> bool:
        """Refuse what LSF would refuse, or take for one plain job: indices start at 1."""
        largest = self.settings.max_array_size or (self._site or lsf_text.Site()).array_size
        fits = len(self.native_array(array)) <= _LONGEST_INDICES
        return fits and array.indices[0] >= 1 and array.indices[-1] <= largest

    def element_jobid(self, jobid: str, index: int) -> str:
        """Give the native id of an array's element."""
        return f"{jobid}[{index}]"

    def array_jobid(self, jobid: str) -> str:
        """Give the native id of the array that an element belongs to."""
        return jobid.partition("[")[0]

    def native_dependency(self, waits_for: Sequence[NativeDependency]) -> str:
        """Write dependencies as bsub wants them: all of them have to hold."""
        words = {"ok": "done", "any": "ended", "notok": "exit"}
        return " && ".join(f"{words[one.on]}({one.jobid})" for one in waits_for)

    def header_values(self, app: Application) -> dict[str, object]:
        """Give what is written otherwise in LSF: all resources in one option, memory in the site's unit."""
        hosts, slots = _shape(app)
        limit, reserved = self._memory(app, hosts, slots)
        parts = [f"select[{app.constraint}]"] if app.constraint else []
        if reserved is not None:
            parts.append(f"rusage[mem={reserved}]")
        if hosts is not None:
            parts.append(f"span[ptile={slots}]")
        elif slots > 1:
            parts.append("span[hosts=1]")
        return {"slots": (hosts or 1) * slots, "resources": " ".join(parts), "memory_limit": limit}

    def _memory(self, app: Application, hosts: int | None, slots: int) -> tuple[int | None, int | None]:
        """Give the limit and the reservation of memory, on each host, in their units."""
        if app.requested_memory_per_core is not None:
            each = app.requested_memory_per_core * slots
        elif app.requested_memory is not None:
            each = app.requested_memory * (1 / (hosts or 1))
        else:
            return None, None
        site = self._site or lsf_text.Site()
        unit = self.settings.memory_unit or site.unit
        if not unit and self._site is None:
            warnings.warn("memory is shown in MB: the site was not asked for its unit; see memory_unit", stacklevel=2)
        return _amount(each, unit or ("KB" if site.ibm else "MB")), _amount(each, unit or "MB")

    # --- states --------------------------------------------------------------------------------------------

    def queue_command(self, jobs: Sequence[Job]) -> str:
        """List the user's jobs, ended ones too: that costs less than naming them."""
        return self._listing("-a")

    def _listing(self, which: str) -> str:
        bjobs = f"$limit {self.command('bjobs')}"
        free, wide = f"{bjobs} {which} {_FREE_FORM}", f"{bjobs} {which} -w"
        if self._free_form is not None:
            return self._calm + (free if self._free_form else wide)
        return f"""{self._calm}case $({bjobs} {_FREE_FORM} 0 2>&1 >/dev/null) in
  *option* | *"valid field"* | *sage:*) {wide} ;;
  *) {free} ;;
esac"""

    def parse_queue(self, answer: Completed) -> dict[str, JobRow]:
        """Read bjobs' listing."""
        rows = map(lsf_text.job_row, self._rows(answer))
        return {row.jobid: row for row in rows if row is not None}

    def _rows(self, answer: Completed) -> list[lsf_text.Fields]:
        """Take a listing apart. Exit codes say nothing: an empty one has any, and so has a server that is down."""
        self.check_command(answer)
        rows = lsf_text.parse_rows(answer.out)
        if self._free_form is None:
            self._free_form = lsf_text.is_free_form(answer.out)
        if (answer.exitcode == 0 and rows) or (not rows and lsf_text.is_nothing(answer.out + answer.err)):
            return rows
        raise self.unavailable("bjobs", answer)

    def accounting_command(self, jobs: Sequence[Job]) -> str | None:
        """Ask for what jobs used, and for the history of those whose own status does not tell all.

        History is read from logs that may be large, so nothing else is asked of it.
        """
        listed = "".join(f"{job.token} {job.jobid}\n" for job in jobs)
        used = "" if self._free_form else f"$limit {self.command('bjobs')} -a -W\n"
        return f"""{self._calm}{used}cd {quote(self.spool)} || exit
unclear=
while IFS=' ' read -r token jobid; do
  file=$token/{RESERVED}/status clean=
  if [ -f "$file" ]; then
    while IFS= read -r line; do [ "$line" != caught= ] || clean=yes; done < "$file"
  fi
  [ -n "$clean" ] || unclear="$unclear $jobid"
done <<'.'
{listed}.
set -f
[ -z "$unclear" ] || $limit {self.command("bhist")} -n 0 -l $unclear"""

    def parse_accounting(self, answer: Completed) -> dict[str, JobRow]:
        """Read what bjobs and bhist say of jobs that have ended."""
        rows = [row for row in map(lsf_text.job_row, lsf_text.parse_rows(answer.out)) if row is not None]
        used = {row.jobid: row for row in rows if row.state.final and row.accounting.ended is not None}
        found = used | lsf_history.parse_history(answer.out, used)
        if answer.exitcode and not found and not lsf_text.is_nothing(answer.out + answer.err):
            raise self._no_history(answer)
        return found

    def _no_history(self, answer: Completed) -> SystemUnavailable:
        error = self.unavailable("bhist", answer)
        if "lsf.conf" in answer.err:
            # of all commands only this one needs the variables of LSF's profile
            error.message += "; say 'setup = . /PATH/TO/profile.lsf' in the configuration"
        return error

    def lookup_commands(self, names: Sequence[str]) -> dict[str, str]:
        """Look for jobs by name in bjobs, which knows them at once, and in bhist, which knows them for long."""
        wanted = " ".join(f"-e {quote(name)}" for name in ("No matching job found", *names))
        history = f"""{self._calm}said=$($limit {self.command("bhist")} -n 0 -a -w)
code=$?
printf '%s\\n' "$said" | grep -F {wanted}
exit $code"""
        return {"queue": self._listing("-a"), "history": history}

    def parse_lookup(self, parts: Mapping[str, Completed]) -> dict[str, str]:
        """Read the answers: both must have given one, unless there is no bhist."""
        history = parts["history"]
        if history.exitcode not in (0, 126, 127) and not lsf_text.is_nothing(history.out + history.err):
            raise self._no_history(history)
        found = lsf_history.parse_names(history.out)
        return found | {lsf_text.name_of(row): row["jobid"] for row in self._rows(parts["queue"])}

    # --- control -------------------------------------------------------------------------------------------

    def control_commands(self, action: Action, jobs: Sequence[Job], signal: str) -> dict[str, str]:
        """Do it to many jobs at a time, but for what needs a look at each."""
        command = f"$limit {self.command(_VERBS[action])}" + (f" -s {signal}" if action is Action.SIGNAL else "")
        ids = [quote(job.jobid) for job in jobs]
        if action in _WRONG_STATES:
            wrong, why = _WRONG_STATES[action]
            text = f"""for id in {" ".join(ids)}; do
  case $($limit {self.command("bjobs")} -w "$id" 2>&1) in
    {wrong}) echo "Job <$id>: {why}" >&2 ;;
    *) {command} "$id" ;;
  esac
done"""
        else:
            chunks = (ids[at : at + _IDS_AT_ONCE] for at in range(0, len(ids), _IDS_AT_ONCE))
            text = "\n".join(f"{command} {' '.join(chunk)}" for chunk in chunks)
        return {"all": self._calm + text}

    def control_answers(
        self, action: Action, jobs: Sequence[Job], parts: Mapping[str, Completed]
    ) -> Mapping[str, Answer]:
        """Read what was said of each job."""
        answer = self.check_command(parts["all"])
        said, rest = lsf_text.parse_replies(answer.out + "\n" + answer.err)
        return {job.jobid: self._outcome(said.get(job.jobid, rest)) for job in jobs}

    def _outcome(self, said: str) -> Answer:
        outcome = next((outcome for sign, outcome in _OUTCOMES.items() if sign in said), Outcome.UNKNOWN)
        if outcome is Outcome.REFUSED:
            return control.refused(said, self)
        if outcome is Outcome.NOT_FOUND:
            return control.not_found(said, self)
        return control.unknown(said or "LSF said nothing", self) if outcome is Outcome.UNKNOWN else Answer(outcome)

    # --- monitoring ----------------------------------------------------------------------------------------

    def listing_command(self) -> str:
        """List everybody's live jobs."""
        return self._listing("-u all")

    def parse_listing(self, answer: Completed) -> list[JobInfo]:
        """Read bjobs' listing."""
        return [lsf_text.job_info(row) for row in self._rows(answer)]

    def queues_command(self) -> str:
        """List queues with their limits."""
        return f"{self._calm}$limit {self.command('bqueues')} -l"

    def parse_queues(self, answer: Completed) -> list[Queue]:
        """Read bqueues' description."""
        return lsf_text.parse_queues(self.check_listing(answer, "bqueues").out)

    def machines_command(self) -> str:
        """List hosts with their slots; what else is known of them may be missing."""
        more = "".join(f"$limit {self.command(name)} -w 2>/dev/null\n" for name in ("lshosts", "lsload"))
        return f"{self._calm}$limit {self.command('bhosts')} -w || exit\n{more}exit 0"

    def parse_machines(self, answer: Completed) -> list[Machine]:
        """Read what bhosts, lshosts and lsload say."""
        return lsf_text.parse_machines(self.check_listing(answer, "bhosts").out)


def _shape(app: Application) -> tuple[int | None, int]:
    """Give the number of hosts, None for one that is not asked for, and the slots on each."""
    if app.requested_nodes is None and app.tasks_per_node is None:
        return None, app.total_cores
    return app.requested_nodes or 1, (app.tasks_per_node or 1) * (app.cores_per_task or app.requested_cores)


def _amount(memory: Memory, unit: str) -> int:
    """Give an amount in whole units of 1024 bytes, or powers of it."""
    return memory.ceil(unit[:1])


def _clocks(app: Application) -> Iterator[str]:
    """Write the times of a job's start and end: to the minute, by the frontend's clock."""
    for option, moment, rounding in (("-b", app.begin, 59), ("-t", app.deadline, 0)):
        if moment is not None and moment > time.time():
            # a time that is over would be that of next year
            later = f"$(date +%s) + {60 + rounding}"
            moment = int(moment) + rounding
            yield f'{option} "$(date -d "@$(({later} > {moment} ? {later} : {moment}))" +%m:%d:%H:%M)"'
