"""The pretended Torque server: how it starts jobs, and the attributes that it shows of them."""

from __future__ import annotations

import os
import re
import time

from tests.fakes.model import DEPENDENT, ENDED, EXITING, PLAIN, QUEUED, RUNNING, SUSPENDED, Queue
from tests.fakes.pbs.common import SERVER, SUBMIT_HOST, PbsServer, clock, date, leave, print_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from tests.fakes.model import Job, Launch, Task

VERSION = "6.1.3"

#: The order in which qstat shows attributes; the members of a group keep theirs.
ORDER = (
    "Job_Name", "Job_Owner", "resources_used", "job_state", "queue", "server", "Account_Name", "Checkpoint", "ctime",
    "depend", "Error_Path", "exec_host", "Execution_Time", "Hold_Types", "Join_Path", "Keep_Files", "Mail_Points",
    "Mail_Users", "mtime", "Output_Path", "Priority", "qtime", "Rerunable", "Resource_List", "session_id",
    "Shell_Path_List", "Variable_List", "euser", "egroup", "queue_type", "comment", "etime", "exit_status",
    "submit_args", "job_array_request", "job_array_id", "umask", "start_time", "Walltime", "start_count",
    "fault_tolerant", "comp_time", "job_radix", "total_runtime", "submit_host", "init_work_dir", "job_arguments",
    "request_version",
)  # fmt: skip
#: Attributes that are times: dates in text, seconds in XML.
TIMES = {"ctime", "mtime", "qtime", "etime", "start_time", "comp_time", "Execution_Time"}

#: Values that are no text are times.
Attributes = dict[str, "str | float"]


class Torque(PbsServer):
    """A Torque server with one node of 16 cores."""

    queues: ClassVar[dict[str, Queue]] = {
        "workq": Queue(walltime=3600),
        "short": Queue(max_walltime=600),
        "closed": Queue(enabled=False),
        "stopped": Queue(started=False),
    }
    default_queue = "workq"
    # keep_completed
    history = 300.0
    job_exec_failed = "PBS: exec of shell '{path}' failed\n"

    # --- running jobs --------------------------------------------------------------------------------------

    def variables(self, job: Job, task: Task) -> dict[str, str]:
        jobid = self.job_id(job, task.index)
        nodes = self.file(jobid)
        with open(nodes, "w") as file:
            file.write(f"{SERVER}\n" * job.slots)
        found = {"PBS_NP": str(job.slots), "PBS_NUM_NODES": "1", "PBS_NUM_PPN": str(job.slots), "PBS_VNODENUM": "0"}
        found |= {"PBS_NODEFILE": nodes, "PBS_VERSION": f"TORQUE-{VERSION}", "PBS_WALLTIME": str(job.walltime)}
        found["PBS_JOBNAME"] = self.name(job, task)
        if task.index != PLAIN:
            found["PBS_ARRAYID"] = str(task.index)
        return found

    def work_directory(self, job: Job, task: Task) -> str:
        return str(job.face["initdir"] or job.face["home"])

    def output_path(self, job: Job, task: Task, stream: str) -> str:
        return self.shown_path(job, task, stream).replace("$PBS_JOBID", self.job_id(job, task.index))

    def shown_path(self, job: Job, task: Task | None, stream: str) -> str:
        """Give the path of an output file as it is shown."""
        paths, face = job.face["paths"], job.face
        if stream == "e" and face["join"] == "oe" and "o" in paths:
            stream = "o"
        element = "" if task is None or task.index == PLAIN else f"-{task.index}"
        name = f"{job.name}.{stream}{job.number}{element}"
        path = str(paths.get(stream) or os.path.join(face["workdir"], name))
        return os.path.join(path, name) if path.endswith("/") else path

    def name(self, job: Job, task: Task) -> str:
        """Give the name of a job or of an array's element."""
        return job.name if task.index == PLAIN else f"{job.name}-{task.index}"

    def exit_status(self, task: Task) -> int | None:
        """Give exit_status; None when there is none."""
        if task.reason == "dependency":
            return 271
        if task.reason == "walltime":
            return -11
        limit = float(self.job_of(task).face["cput"])
        if limit and task.cpu >= limit * 0.5 and not task.ok and not task.reason:
            return -12
        return super().exit_status(task)

    def finish(self, job: Job, task: Task, launch: Launch) -> None:
        limit = int(job.face["cput"])
        if limit and task.cpu >= limit * 0.5 and task.exit_code:
            with open(launch.stderr or launch.stdout, "a") as file:
                file.write(f"=>> PBS: job killed: cput {max(int(task.cpu), limit)} exceeded limit {limit}\n")
        super().finish(job, task, launch)

    # --- states --------------------------------------------------------------------------------------------

    def letter(self, job: Job, task: Task) -> str:
        """Give the letter of a task's state; the elements beyond an array's limit are held."""
        if task.state in (RUNNING, SUSPENDED, EXITING, ENDED):
            return {RUNNING: "R", SUSPENDED: "S", EXITING: "E", ENDED: "C"}[task.state]
        if task.state == DEPENDENT or task.hold or task.index in self.beyond(job):
            return "H"
        return "W" if task.begin > time.time() else "Q"

    def beyond(self, job: Job) -> set[int]:
        """Give the indices of elements that wait for others, as no more may run at a time."""
        return self.once(f"beyond {job.number}", lambda: self._beyond(job)) if job.max_running else set()

    def _beyond(self, job: Job) -> set[int]:
        live = [task for task in self.tasks_of(job) if task.state != ENDED]
        return {task.index for task in live[job.max_running :] if task.state == QUEUED}

    def array_letter(self, job: Job) -> str:
        """Give the letter of an array's state."""
        letters = {self.letter(job, task) for task in self.tasks_of(job)}
        return next(letter for letter in "RESQWHC" if letter in letters)

    # --- attributes ----------------------------------------------------------------------------------------

    def attributes(self, job: Job, task: Task) -> Attributes:
        """Give what qstat shows of a job or of an array's element; members of groups have a dot in their names."""
        state = self.letter(job, task)
        found = self._common(job, task) | {
            "Job_Name": self.name(job, task),
            "job_state": state,
            "mtime": task.changed,
            "qtime": job.submitted,
        }
        held = "s" if task.state == DEPENDENT or task.reason == "dependency" else task.hold
        if task.index == PLAIN or not task.runs:
            found["Hold_Types"] = held or ("l" if state == "H" else "n")
        if task.runs or (not held and task.begin <= time.time()):
            found["etime"] = job.submitted
        if task.state == DEPENDENT or task.reason == "dependency":
            found["depend"] = ",".join(f"{kind}:{other}" for kind, other in job.face["depend"])
        if state == "W":
            found["Execution_Time"] = task.begin
        comment = self.comment(job, task)
        if comment:
            found["comment"] = comment
        if task.index != PLAIN:
            found["job_array_id"] = str(task.index)
        if task.runs:
            found |= self._run(job, task)
        if task.state == ENDED:
            status = self.exit_status(task)
            found |= {} if status is None else {"exit_status": str(status)}
            found["comp_time"] = task.ended
        return ordered(found)

    def array_attributes(self, job: Job) -> Attributes:
        """Give what qstat shows of an array."""
        tasks = self.tasks_of(job)
        found = self._common(job, None) | {
            "job_state": self.array_letter(job),
            "mtime": max(task.changed for task in tasks),
            "Hold_Types": tasks[0].hold or "n",
            "etime": job.submitted,
            "job_array_request": str(job.face["request"]),
        }
        return ordered(found)

    def _run(self, job: Job, task: Task) -> Attributes:
        """Give what is known of a task since it was started."""
        found: Attributes = {
            "exec_host": f"{SERVER}/{print_ranges(task.cores)}",
            "start_time": task.started,
            "start_count": str(task.runs),
        }
        if task.session:
            found["session_id"] = str(task.session)
        if task.state == ENDED:
            used = {"cput": clock(task.cpu), "vmem": f"{task.rss}kb", "walltime": clock(task.ended - task.started)}
            used |= {"mem": f"{task.rss}kb", "energy_used": "0"}
            found |= {f"resources_used.{name}": value for name, value in used.items()}
            found["total_runtime"] = f"{task.ended - task.started:.6f}"
        else:
            found["Walltime.Remaining"] = str(max(0, int(task.started + job.walltime - time.time())))
        return found

    def _common(self, job: Job, task: Task | None) -> Attributes:
        face = job.face
        found: Attributes = {
            "Job_Name": job.name,
            "Job_Owner": f"{job.owner}@{SUBMIT_HOST}",
            "queue": job.queue,
            "server": SERVER,
            "Checkpoint": "u",
            "ctime": job.submitted,
            "Error_Path": f"{SERVER}:{self.shown_path(job, task, 'e')}",
            "Join_Path": str(face["join"]),
            "Keep_Files": str(face["keep"] or "n"),
            "Mail_Points": str(face["mail"]),
            "Output_Path": f"{SERVER}:{self.shown_path(job, task, 'o')}",
            "Priority": str(face["priority"]),
            "Rerunable": str(face["rerunable"]),
            "Variable_List": self.variable_list(job, task),
            "euser": job.owner,
            "egroup": job.owner,
            "queue_type": "E",
            "fault_tolerant": "False",
            "job_radix": "0",
            "submit_host": SERVER,
            "init_work_dir": str(face["initdir"] or face["workdir"]),
            "request_version": "1",
        }
        optional = {"Account_Name": "account", "Mail_Users": "mail_users", "Shell_Path_List": "shell_path"}
        optional |= {"submit_args": "arguments", "job_arguments": "job_arguments"}
        found |= {name: str(face[key]) for name, key in optional.items() if face[key]}
        return found | {f"Resource_List.{name}": str(value) for name, value in face["resources"].items()}

    def variable_list(self, job: Job, task: Task | None) -> str:
        """Print the variables that were given at submission."""
        element = [] if task is None or task.index == PLAIN else [f"PBS_ARRAYID={task.index}"]
        return ",".join([*element, *job.face["variable_list"]])

    def comment(self, job: Job, task: Task) -> str:
        """Say what the scheduler and the server say of a task."""
        if task.reason == "dependency":
            kinds = ", ".join(str(other) for _, other in job.face["depend"])
            return f"Job deleted as result of dependency on job {kinds}"
        if task.runs:
            return f"Job started on {time.strftime('%a %b %d at %H:%M', time.localtime(task.started))}"
        if task.face.get("comment") or task.state != QUEUED or task.hold or task.begin > time.time():
            return str(task.face.get("comment") or "")
        if job.slots > self.once("free", self.free):
            return "Not Running: Not enough of the right type of nodes are available"
        return ""


def read_variables(variable_list: list[str]) -> list[list[str]]:
    """Give the variables that a job gets: commas and letters after a backslash belong to values."""
    return [re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\),.*", "", item)).split("=", 1) for item in variable_list]


def ordered(found: Attributes) -> Attributes:
    """Sort attributes as the server sends them."""
    return dict(sorted(found.items(), key=lambda pair: ORDER.index(pair[0].partition(".")[0])))


def text(value: str | float) -> str:
    """Print a value as the long listing does."""
    return value if isinstance(value, str) else date(value)


def node_attributes(server: Torque) -> dict[str, str]:
    """Give what pbsnodes shows of the only node."""
    running = [task for task in server.tasks(live=True) if task.state in (RUNNING, EXITING)]
    places = [f"{core}/{server.job_id(server.job_of(task), task.index)}" for task in running for core in task.cores]
    status = "opsys=linux,ncpus=2,totmem=24684092kb,physmem=24684092kb,gres=,netload=0,state=free,varattr= "
    return {
        "state": "job-exclusive" if len(places) >= server.slots else "free",
        "power_state": "Running",
        "np": str(server.slots),
        "ntype": "cluster",
        **({"jobs": ", ".join(places)} if places else {}),
        "status": f"{status},version={VERSION},rectime={int(time.time())},jobs=",
        "mom_service_port": "15002",
        "mom_manager_port": "15003",
    }


def unreachable(server: Torque, command: str) -> None:
    """End the command when the server, or the daemon that vouches for users, does not answer."""
    tries = 3 if command == "qstat" else 1
    if server.switch("trqauthd"):
        text = "socket_connect_unix failed: 15137\n" * tries
        text += f"{command}: cannot connect to server (null) (errno=15137) could not connect to trqauthd\n"
        more = "qstat: Error (15137 - could not connect to trqauthd) \n"
        leave(33, text + (more if command == "qstat" else ""))
    if not server.reachable():
        text = f"\nUnable to communicate with {SERVER}(127.0.0.1)\n"
        text += f"Cannot connect to specified server host '{SERVER}'.\n"
        if command == "pbsnodes":
            leave(1, f"{text}pbsnodes: cannot connect to server {SERVER}, error=111 (Connection refused)\n")
        text = f"{text * tries}{command}: cannot connect to server {SERVER} (errno=111) Connection refused\n"
        leave(111, text + ("qstat: Error (111 - Connection refused) \n" if command == "qstat" else ""))
