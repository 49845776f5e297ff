"""The pretended OpenPBS server: how it starts jobs, and the attributes that it shows of them."""

from __future__ import annotations

import os
import re
import shutil
import time

from tests.fakes.model import DEPENDENT, ENDED, EXITING, PLAIN, QUEUED, RUNNING, SUSPENDED, Queue
from tests.fakes.pbs.common import SERVER, SUBMIT_HOST, PbsServer, clock, date, print_ranges, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from tests.fakes.model import Job, Launch, Task

NODE = "node01"
NODE_MEMORY = "24684092kb"
VERSION = "23.06.06"

#: The order in which qstat shows attributes.
ORDER = (
    "Job_Name", "Job_Owner", "resources_used", "job_state", "queue", "server", "Account_Name", "Checkpoint", "ctime",
    "depend", "Error_Path", "exec_host", "exec_vnode", "Execution_Time", "group_list", "Hold_Types", "Join_Path",
    "Keep_Files", "Mail_Points", "Mail_Users", "mtime", "Output_Path", "Priority", "qtime", "Rerunable",
    "Resource_List", "stime", "obittime", "Shell_Path_List", "session_id", "sandbox", "jobdir", "substate",
    "Variable_List", "umask", "comment", "etime", "run_count", "Stageout_status", "Exit_status", "Submit_arguments",
    "executable", "argument_list", "array", "array_id", "array_state_count", "array_index", "array_indices_submitted",
    "array_indices_remaining", "history_timestamp", "project", "Submit_Host", "max_run_subjobs",
)  # fmt: skip
#: What the element of an array that never ran shows of the whole array.
_OWN = {"array", "array_state_count", "array_indices_submitted", "array_indices_remaining", "history_timestamp"}
_OWN |= {"project", "Submit_Host", "max_run_subjobs"}

_BEFORE = {"ok": "beforeok", "notok": "beforenotok", "any": "beforeany", "started": "before"}
Attributes = dict[str, str]


class OpenPbs(PbsServer):
    """An OpenPBS server with one node of 16 cores."""

    queues: ClassVar[dict[str, Queue]] = {
        "workq": Queue(),
        "short": Queue(max_walltime=600, walltime=300),
        "closed": Queue(enabled=False),
        "stopped": Queue(started=False),
    }
    default_queue = "workq"
    history = 24 * 3600.0
    job_exec_failed = "pbs_mom, exec of {path} failed with error: {why}\n"

    # --- running jobs --------------------------------------------------------------------------------------

    def variables(self, job: Job, task: Task) -> dict[str, str]:
        jobid = self.job_id(job, task.index)
        nodes, temporary = self.file(f"{jobid}.nodes"), self.file(f"pbs.{jobid}")
        with open(nodes, "w") as file:
            file.write(f"{NODE}\n")
        cores = str(job.face["resources"]["ncpus"])
        found = {
            "NCPUS": cores,
            "OMP_NUM_THREADS": cores,
            "PBS_NODEFILE": nodes,
            "TMPDIR": temporary,
            "PBS_JOBDIR": self.work_directory(job, task),
        }
        if task.index != PLAIN:
            found |= {"PBS_ARRAY_INDEX": str(task.index), "PBS_ARRAY_ID": self.job_id(job)}
        return found

    def work_directory(self, job: Job, task: Task) -> str:
        home = super().work_directory(job, task)
        if not job.face["sandbox"]:
            return home
        return os.path.join(home, f"pbs.{self.job_id(job, task.index)}.x8z")

    def launch(self, job: Job, task: Task) -> Launch:
        made = super().launch(job, task)
        for directory in (made.cwd, made.env["TMPDIR"]):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        return made

    def output_path(self, job: Job, task: Task, stream: str) -> str:
        path = self.shown_path(job, stream)
        if task.index != PLAIN:
            path = path.replace("^array_index^", str(task.index))
        if path.endswith("/") or os.path.isdir(path):
            path = os.path.join(path, f"{self.job_id(job, task.index)}.{'OU' if stream == 'o' else 'ER'}")
        return path

    def shown_path(self, job: Job, stream: str) -> str:
        """Give the path of an output file as it is shown, for an array with a mark for the index."""
        end = ".^array_index^" if job.is_array else ""
        default = os.path.join(job.face["workdir"], f"{job.name}.{stream}{job.number}{end}")
        return str(job.face["paths"].get(stream) or default)

    def finish(self, job: Job, task: Task, launch: Launch) -> None:
        super().finish(job, task, launch)
        for directory in [launch.env["TMPDIR"], *([launch.cwd] if job.face["sandbox"] else [])]:
            shutil.rmtree(directory, ignore_errors=True)

    # --- looking at all jobs -------------------------------------------------------------------------------

    def _children(self) -> dict[int, list[tuple[str, Job]]]:
        """Give the jobs that wait for another one, or did so in vain."""
        found: dict[int, list[tuple[str, Job]]] = {}
        for job in self.jobs():
            if any(task.state == DEPENDENT or task.reason == "dependency" for task in self.tasks_of(job)):
                for kind, number in job.face["parents"]:
                    found.setdefault(number, []).append((kind, job))
        return found

    # --- states --------------------------------------------------------------------------------------------

    def letter(self, job: Job, task: Task) -> str:
        """Give the letter of a task's state."""
        if task.state == ENDED:
            return "X" if job.is_array and self.array_letter(job) != "F" else "F"
        if task.state in (RUNNING, SUSPENDED, EXITING):
            return {RUNNING: "R", SUSPENDED: "S", EXITING: "E"}[task.state]
        if job.is_array:
            return "Q"
        if task.state == DEPENDENT or task.hold:
            return "H"
        return "W" if task.begin > time.time() else "Q"

    def array_letter(self, job: Job) -> str:
        """Give the letter of an array's state."""
        return self.once(f"letter {job.number}", lambda: self._array_letter(self.tasks_of(job)))

    def _array_letter(self, tasks: list[Task]) -> str:
        if all(task.state == ENDED for task in tasks):
            return "F"
        if any(task.runs or task.state == ENDED for task in tasks):
            return "B"
        return "H" if any(task.state == DEPENDENT or task.hold for task in tasks) else "Q"

    def exit_status(self, task: Task) -> int | None:
        """Give Exit_status; None when there is none."""
        if task.state != ENDED and task.runs > 1:
            return -11
        if task.reason in ("walltime", "memory") and task.state == ENDED:
            return -29 if task.reason == "walltime" else -27
        return super().exit_status(task) if task.state in (EXITING, ENDED) else None

    def substate(self, job: Job, task: Task) -> int:
        if task.state == ENDED:
            if task.reason == "cancelled":
                return 91
            return 92 if task.reason == "dependency" or self.exit_status(task) == 0 else 93
        if task.state == RUNNING:
            return 41 if time.time() - task.started < 2 else 42
        letters = {"H": 22 if task.state == DEPENDENT else 20, "S": 43, "E": 51, "W": 30, "Q": 10}
        return letters[self.letter(job, task)]

    # --- attributes ----------------------------------------------------------------------------------------

    def attributes(self, job: Job, task: Task) -> Attributes:
        """Give what qstat shows of a job or of an array's element; resources have a dot in their names."""
        if task.index == PLAIN:
            return ordered(self._common(job) | self._task(job, task) | self._plain(job, task))
        if task.runs:
            found = self._common(job) | self._task(job, task)
            for name in ("Checkpoint", "Hold_Types", "Submit_arguments"):
                found.pop(name, None)
            return ordered(found | {"array_id": self.job_id(job), "array_index": str(task.index)})
        found = {name: value for name, value in self.array_attributes(job).items() if name not in _OWN}
        found["job_state"] = self.letter(job, task)
        if task.state == ENDED:
            found["comment"] = "Subjob finished"
        return found

    def array_attributes(self, job: Job) -> Attributes:
        """Give what qstat shows of an array."""
        return self.once(f"array {job.number}", lambda: self._array(job))

    def _array(self, job: Job) -> Attributes:
        tasks, letter = self.tasks_of(job), self.array_letter(job)
        ended = [task for task in tasks if task.state == ENDED]
        over = letter == "F"
        never = [task for task in ended if not task.runs]
        failed = any(not task.ok for task in ended if task.runs)
        began = [task.started for task in tasks if task.runs]
        count = {
            "Queued": sum(task.state in (QUEUED, DEPENDENT) for task in tasks),
            "Running": sum(task.state in (RUNNING, SUSPENDED) for task in tasks),
            "Exiting": sum(task.state == EXITING for task in tasks),
            "Expired": len(never) if over else len(ended),
        }
        reasons = {task.reason for task in ended}
        last = max(tasks, key=lambda task: task.ended)
        found = self._common(job) | {
            "job_state": letter,
            "mtime": date(max(task.changed for task in tasks)),
            **self._waiting(job, tasks[0]),
            "substate": "70" if letter == "B" else str(self.substate(job, tasks[0])),
            "array": "True",
            "array_state_count": " ".join(f"{name}:{number}" for name, number in count.items()),
            "array_indices_submitted": job.face["indices"],
            "array_indices_remaining": print_ranges(t.index for t in tasks if t.state in (QUEUED, DEPENDENT)),
        }
        if job.max_running:
            found["max_run_subjobs"] = str(job.max_running)
        if began:
            found |= {"stime": date(min(began)), "comment": f"Job Array Began at {_day(min(began))}"}
        if any(task.runs for task in ended):
            found |= {"Stageout_status": "1", "Exit_status": str(int(failed))}
        if over:
            whole = "cancelled" in reasons and job.face.get("deleted")
            found["substate"] = "91" if whole else "93" if failed else "92"
            found["history_timestamp"] = str(int(last.ended))
            if began:
                how = {"91": "terminated", "93": "failed", "92": "finished"}[found["substate"]]
                found |= {"obittime": date(last.ended), "comment": f"{found['comment']} and {how}"}
        return ordered(found)

    def _common(self, job: Job) -> Attributes:
        """Give what is the same for an array and its elements."""
        face = job.face
        found = {
            "Job_Name": job.name,
            "Job_Owner": f"{job.owner}@{SUBMIT_HOST}",
            "queue": job.queue,
            "server": SERVER,
            "Checkpoint": "u",
            "ctime": date(job.submitted),
            "Error_Path": f"{SUBMIT_HOST}:{self.shown_path(job, 'e')}",
            "Join_Path": face["join"],
            "Keep_Files": face["keep"] or "n",
            "Mail_Points": face["mail"],
            "Output_Path": f"{SUBMIT_HOST}:{self.shown_path(job, 'o')}",
            "Priority": face["priority"],
            "qtime": date(job.submitted),
            "Rerunable": face["rerunable"],
            "Variable_List": self.variable_list(job),
            "project": face["project"],
            "Submit_Host": SUBMIT_HOST,
        }
        found |= {f"Resource_List.{name}": str(value) for name, value in sorted(face["resources"].items())}
        optional = {"Account_Name": "account", "Mail_Users": "mail_users", "Shell_Path_List": "shell_path"}
        optional["Submit_arguments"] = "arguments"
        found |= {name: face[key] for name, key in optional.items() if face.get(key)}
        if face["sandbox"]:
            found["sandbox"] = "PRIVATE"
        if face.get("argv"):
            program, *arguments = face["argv"]
            found["executable"] = _element("Executable", program)
            if arguments:
                found["argument_list"] = "".join(_element("Argument", argument) for argument in arguments)
        return found

    def variable_list(self, job: Job) -> str:
        """Print the variables that were given at submission."""
        pairs = [*job.face["shown_variables"], ["PBS_O_QUEUE", job.queue], ["PBS_O_HOST", SUBMIT_HOST]]
        return ",".join(f"{name}=" + re.sub(r'([\\,"])', r"\\\1", value) for name, value in pairs)

    def _waiting(self, job: Job, task: Task) -> Attributes:
        """Give holds, and since when a task is free to run, as far as it is."""
        held = "s" if task.state == DEPENDENT or task.reason == "dependency" else task.hold
        found = {"Hold_Types": held or "n"}
        if task.runs or (not held and task.begin <= time.time()):
            found["etime"] = date(job.submitted)
        return found

    def _plain(self, job: Job, task: Task) -> Attributes:
        """Give what only a job shows that is no array's element."""
        found = {}
        depend = self.depend(job, task)
        if depend:
            found["depend"] = depend
        if task.begin > time.time() and task.state == QUEUED:
            found["Execution_Time"] = date(task.begin)
        return found

    def _task(self, job: Job, task: Task) -> Attributes:
        """Give what tells of a task's own course."""
        found = self._waiting(job, task) | {
            "job_state": self.letter(job, task),
            "mtime": date(task.changed),
            "substate": str(self.substate(job, task)),
        }
        for stream, name in (("o", "Output_Path"), ("e", "Error_Path")):
            shown = self.shown_path(job, stream).replace("^array_index^", str(task.index))
            found[name] = f"{SUBMIT_HOST}:{shown}"
        comment = self.comment(job, task)
        if comment:
            found["comment"] = comment
        if task.state == ENDED:
            found["history_timestamp"] = str(int(task.ended))
        status = self.exit_status(task)
        if status is not None:
            found["Exit_status"] = str(status)
        if task.runs:
            found |= self._run(job, task)
        return found

    def _run(self, job: Job, task: Task) -> Attributes:
        """Give what is known of a task since it was started."""
        found = {"stime": date(task.started), "run_count": str(task.runs)}
        found |= {"exec_host": self.exec_host(job, task), "exec_vnode": str(job.face["vnode"])}
        age = (task.ended or time.time()) - task.started
        if age >= 2 and task.session:
            found["session_id"] = str(task.session)
        if age >= 2 or task.state in (ENDED, EXITING):
            found["jobdir"] = self.work_directory(job, task)
            used = {"cpupercent": "0", "cput": clock(task.cpu), "mem": f"{task.rss}kb"}
            used |= {"ncpus": str(job.face["resources"]["ncpus"]), "vmem": f"{task.rss}kb", "walltime": clock(age)}
            found |= {f"resources_used.{name}": value for name, value in used.items()}
        if task.runs > 1:
            found["obittime"] = date(task.started)
        if task.state == ENDED:
            found |= {"obittime": date(task.ended), "Stageout_status": "1"}
        return found

    def exec_host(self, job: Job, task: Task) -> str:
        """Give node and place of each chunk."""
        place = task.cores[0] if task.cores else 0
        return "+".join(
            f"{NODE}/{place + number}" + (f"*{cores}" if cores > 1 else "")
            for number, cores in enumerate(job.face["chunks"])
        )

    def comment(self, job: Job, task: Task) -> str:
        """Say what the scheduler and the server say of a task."""
        said = str(task.face.get("comment") or "")
        if task.runs:
            said = said or f"Job run at {_day(task.started)} on {job.face['vnode']}"
        elif task.state == QUEUED and not task.hold and task.begin <= time.time():
            return self.waits_for(job)
        if not said or task.state != ENDED:
            return said
        if task.reason == "cancelled":
            return f"{said} and terminated" + (f" by {task.cancelled_by}@{SUBMIT_HOST}" if task.runs else "")
        if task.reason in ("walltime", "memory"):
            return f"{said} and exceeded resource {'walltime' if task.reason == 'walltime' else 'mem'}"
        return f"{said} and {'finished' if self.exit_status(task) == 0 else 'failed'}"

    def waits_for(self, job: Job) -> str:
        """Say why a job does not start."""
        if not self.queues[job.queue].started:
            return "Not Running: Queue not started."
        if job.face["impossible"]:
            return f"Can Never Run: {job.face['impossible']}"
        free = self.once("free", self.free)
        if job.slots > free:
            cores = f"(R: {job.slots} A: {free} T: {self.slots})"
            return f"Not Running: Insufficient amount of resource: ncpus {cores}"
        return ""

    def depend(self, job: Job, task: Task) -> str:
        """Print dependencies that are not over, in both directions."""
        parts = []
        if task.state == DEPENDENT or task.reason == "dependency":
            parts += [f"{kind}:{other}@{SERVER}" for kind, other in job.face["depend"]]
        if task.state != ENDED or task.reason == "dependency":
            children = self.once("children", self._children).get(job.number, [])
            parts += [f"{_BEFORE[kind]}:{self.job_id(child)}@{SERVER}" for kind, child in children]
        return ",".join(parts)


def ordered(found: Attributes) -> Attributes:
    """Sort attributes as the server sends them."""
    return dict(sorted(found.items(), key=lambda pair: (ORDER.index(pair[0].partition(".")[0]), pair[0])))


def node_attributes(server: OpenPbs) -> Attributes:
    """Give what pbsnodes shows of the only node."""
    running = [task for task in server.tasks(live=True) if task.state in (RUNNING, EXITING)]
    used = sum(server.job_of(task).slots for task in running)
    memory = sum(size(str(server.job_of(task).face["resources"].get("mem", "0"))) or 0 for task in running)
    places = [f"{server.job_id(server.job_of(task), task.index)}/{core}" for task in running for core in task.cores]
    jobs = ", ".join(places)
    return {
        "Mom": SUBMIT_HOST,
        "ntype": "PBS",
        "state": "job-busy" if used >= server.slots else "free",
        "pcpus": str(os.cpu_count()),
        **({"jobs": jobs} if jobs else {}),
        "resources_available.arch": "linux",
        "resources_available.host": SUBMIT_HOST,
        "resources_available.mem": NODE_MEMORY,
        "resources_available.ncpus": str(server.slots),
        "resources_available.vnode": NODE,
        "resources_assigned.accelerator_memory": "0kb",
        "resources_assigned.hbmem": "0kb",
        "resources_assigned.mem": f"{memory // 1024}kb",
        "resources_assigned.naccelerators": "0",
        "resources_assigned.ncpus": str(used),
        "resources_assigned.vmem": "0kb",
        "resv_enable": "True",
        "sharing": "default_shared",
        "license": "l",
        "last_state_change_time": date(os.stat(server.spool).st_ctime),
        "last_used_time": date(max([0.0, *(task.started for task in server.tasks())])),
    }


def _day(when: float) -> str:
    return time.strftime("%a %b %d at %H:%M", time.localtime(when))


def _element(name: str, text: str) -> str:
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&apos;")):
        text = text.replace(letter, entity)
    return f"<jsdl-hpcpa:{name}>{text}</jsdl-hpcpa:{name}>"
