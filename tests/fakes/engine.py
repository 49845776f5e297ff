"""A tiny batch system that really runs jobs: what all pretended batch systems have in common.

There is no daemon. All state lies in one directory, ``$FAKE_SPOOL``. Each command brings the world up to date before
and after it does its work, and each running task has a process of its own that waits for it, keeps its limits, notes
its end and starts what can run next. A batch system's face is a subclass of `Engine`: it reads options, prints texts,
and says in `launch` and `finish` how a task is started and where its output goes.

Settings, from the environment of the commands:

``FAKE_SPOOL``
    The directory (default ``$HOME/.fake-batch``). Files there are switches: ``down`` (nobody answers), ``hang``
    (commands wait until it is gone), ``unclear`` (submissions are accepted, but answered with a time-out).
``FAKE_SLOTS``
    How many cores there are (default 16).
``FAKE_DELAY``
    Seconds that tasks wait in the queue at least (default 0). What waits for a time starts with the first command
    that is called after it.
``FAKE_EPILOGUE``
    Seconds between a task's last breath and its end (default 0).
``FAKE_KILL_DELAY``
    Seconds between the signals that end a task (default 1).
``FAKE_HISTORY``
    Seconds for which ended jobs are remembered (default: as the batch system has it).
``FAKE_MAX_QUEUED``
    How many unfinished tasks a user may have.
``FAKE_USER``, ``FAKE_MANAGER``
    Pretend to be somebody else; have the rights of an administrator.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import sqlite3
import sys
import time

from tests.fakes.model import (
    ACTIVE,
    DEPENDENT,
    ENDED,
    EXITING,
    PLAIN,
    QUEUED,
    RUNNING,
    SUSPENDED,
    Job,
    Launch,
    Queue,
    Refused,
    Task,
    setting,
)
from tests.fakes.supervisor import Supervisor, signal_session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Any, ClassVar

    from typing_extensions import Self

#: Seconds after which a running task without a supervisor is taken for lost.
_LOST_AFTER = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (number INTEGER, idx INTEGER, state TEXT NOT NULL, ended REAL NOT NULL,
                                  document TEXT NOT NULL, PRIMARY KEY (number, idx));
CREATE INDEX IF NOT EXISTS states ON tasks (state);
"""


class Engine:
    """The batch system; used as a context, it is one transaction on a world that is up to date."""

    queues: ClassVar[dict[str, Queue]] = {"default": Queue()}
    default_queue: ClassVar[str] = "default"
    #: Seconds for which ended jobs are remembered.
    history: ClassVar[float] = 3600.0
    #: What ends a task that is cancelled, and one over its limit: signals, in the order in which they are sent.
    kill_signals: ClassVar[Sequence[int]] = (signal.SIGTERM, signal.SIGKILL)
    limit_signals: ClassVar[Sequence[int]] = (signal.SIGTERM, signal.SIGKILL)

    def __init__(self) -> None:
        home = os.environ.get("HOME", "/")
        self.spool = os.path.abspath(os.environ.get("FAKE_SPOOL") or os.path.join(home, ".fake-batch"))
        os.makedirs(os.path.join(self.spool, "files"), exist_ok=True)
        self.user = os.environ.get("FAKE_USER") or pwd.getpwuid(os.getuid()).pw_name
        self.is_manager = bool(os.environ.get("FAKE_MANAGER"))
        self.slots = int(setting("FAKE_SLOTS", 16))
        self._starting: list[tuple[int, int]] = []
        self._jobs: dict[int, Job] = {}

    # --- what a face gives ---------------------------------------------------------------------------------

    def launch(self, job: Job, task: Task) -> Launch:
        """Say how a task is started; may raise StartFailed."""
        raise NotImplementedError

    def finish(self, job: Job, task: Task, launch: Launch) -> None:
        """Deliver the output of a task whose processes are gone; its status is known."""

    # --- switches ------------------------------------------------------------------------------------------

    def switch(self, name: str) -> bool:
        """Tell whether a switch is on: ``down``, ``unclear`` or a face's own."""
        return os.path.exists(os.path.join(self.spool, name))

    def reachable(self) -> bool:
        """Wait as long as the server hangs, then tell whether it answers."""
        while self.switch("hang"):
            time.sleep(0.02)
        return not self.switch("down")

    def file(self, name: str) -> str:
        """Give the path of a file of the spool."""
        return os.path.join(self.spool, "files", name)

    # --- transactions --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        # unlike SQLite's own lock, this one wakes those who wait for it
        self._lock = open(os.path.join(self.spool, "lock"), "a")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._db = sqlite3.connect(os.path.join(self.spool, "state.db"), timeout=60, isolation_level=None)
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("BEGIN IMMEDIATE")
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'states'").fetchone():
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
        self._jobs.clear()
        self._advance()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # a face may leave with SystemExit after it did a part of its work
        self._advance()
        self._db.execute("COMMIT")
        self._db.close()
        self._lock.close()
        starting, self._starting = self._starting, []
        for number, index in starting:
            self._detach(number, index)

    # --- jobs ----------------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """Take a number from the counter; those of refused submissions are lost."""
        self._db.execute("INSERT OR IGNORE INTO counters VALUES ('job', 0)")
        self._db.execute("UPDATE counters SET value = value + 1 WHERE name = 'job'")
        return int(self._db.execute("SELECT value FROM counters WHERE name = 'job'").fetchone()[0])

    def check_queue(self, name: str, walltime: int, tasks: int = 1) -> Queue:
        """Give the queue if it takes a job like this one, else raise Refused."""
        queue = self.queues.get(name)
        if queue is None:
            raise Refused("unknown")
        if not queue.enabled:
            raise Refused("disabled")
        if queue.max_walltime and walltime > queue.max_walltime:
            raise Refused("limit")
        most = setting("FAKE_MAX_QUEUED", 0)
        if most and sum(self.job_of(task).owner == self.user for task in self.tasks(live=True)) + tasks > most:
            raise Refused("full")
        return queue

    def submit(self, job: Job, *, hold: str = "", begin: float = 0.0) -> None:
        """Take a job; it has its number already."""
        job.owner = job.owner or self.user
        job.submitted = now = time.time()
        self.save_job(job)
        first = DEPENDENT if job.condition else QUEUED
        for index in job.indices:
            self.save(
                Task(number=job.number, index=index, state=first, hold=hold, begin=begin, queued=now, changed=now)
            )

    def save_job(self, job: Job) -> None:
        """Store a job."""
        self._jobs[job.number] = job
        self._db.execute("REPLACE INTO jobs VALUES (?, ?)", (job.number, json.dumps(vars(job))))

    def save(self, task: Task) -> None:
        """Store a task."""
        row = (task.number, task.index, task.state, task.ended, json.dumps(vars(task)))
        self._db.execute("REPLACE INTO tasks VALUES (?, ?, ?, ?, ?)", row)

    def job(self, number: int) -> Job | None:
        """Give a job by its number."""
        if number not in self._jobs:
            row = self._db.execute("SELECT document FROM jobs WHERE number = ?", (number,)).fetchone()
            if row is None:
                return None
            self._jobs[number] = Job(**json.loads(row[0]))
        return self._jobs[number]

    def job_of(self, task: Task) -> Job:
        """Give the job of a task."""
        job = self.job(task.number)
        if job is None:
            raise KeyError(task.number)
        return job

    def jobs(self) -> list[Job]:
        """Give all jobs that are remembered, in the order of their numbers."""
        numbers = self._db.execute("SELECT number FROM jobs ORDER BY number").fetchall()
        return [job for (number,) in numbers if (job := self.job(number)) is not None]

    def tasks(self, number: int | None = None, *, live: bool = False) -> list[Task]:
        """Give the tasks of a job or of all jobs; `live` leaves out those that have ended."""
        where = f"state != '{ENDED}'" if live else "1"
        if number is not None:
            where += f" AND number = {number:d}"
        return list(self._select(where))

    def task(self, number: int, index: int = PLAIN) -> Task | None:
        """Give one task."""
        return next(self._select(f"number = {number:d} AND idx = {index:d}"), None)

    def forget(self, number: int) -> None:
        """Forget a job that has ended."""
        self._db.execute("DELETE FROM tasks WHERE number = ?", (number,))
        self._db.execute("DELETE FROM jobs WHERE number = ?", (number,))
        self._jobs.pop(number, None)

    def _select(self, where: str) -> Iterator[Task]:
        found = self._db.execute(f"SELECT document FROM tasks WHERE {where} ORDER BY number, idx").fetchall()
        return (Task(**json.loads(row[0])) for row in found)

    def wait(self, number: int) -> list[Task]:
        """Wait until all tasks of a job have ended."""
        while True:
            with self:
                tasks = self.tasks(number)
            if all(task.state == ENDED for task in tasks):
                return tasks
            time.sleep(0.02)

    # --- control -------------------------------------------------------------------------------------------

    def hold(self, task: Task, kind: str = "u") -> None:
        """Put a hold on a task; one that runs keeps it for the case that it is queued again."""
        if kind not in task.hold:
            task.hold = "".join(sorted(task.hold + kind, key="uos".find))
            self.touch(task)

    def release(self, task: Task, kind: str = "u") -> None:
        """Take a hold from a task."""
        task.hold = task.hold.replace(kind, "")
        self.touch(task)

    def cancel(self, task: Task, *, reason: str = "cancelled", signals: Sequence[int] = ()) -> None:
        """End a task: at once when it has not started, else with signals."""
        task.cancelled_by = self.user
        if task.state in (QUEUED, DEPENDENT):
            self.end(task, reason)
        elif task.state in (RUNNING, SUSPENDED):
            task.reason = task.reason or reason
            task.requeue = False
            self.order(task, signals or self.kill_signals)

    def requeue(self, task: Task) -> None:
        """End a running task and put it back into the queue."""
        task.requeue = True
        self.order(task, (signal.SIGKILL,))

    def send_signal(self, task: Task, number: int) -> None:
        """Send a signal to all processes of a running task."""
        self.order(task, (number,))

    def suspend(self, task: Task) -> None:
        """Stop all processes of a running task; its cores become free."""
        self.send_signal(task, signal.SIGSTOP)
        self.touch(task, SUSPENDED)

    def resume(self, task: Task) -> None:
        """Let a suspended task run on."""
        self.send_signal(task, signal.SIGCONT)
        self.touch(task, RUNNING)

    def order(self, task: Task, signals: Sequence[int]) -> None:
        now, gap = time.time(), setting("FAKE_KILL_DELAY", 1)
        orders = [[now + step * gap, number] for step, number in enumerate(signals)]
        if task.state == SUSPENDED:
            # a stopped process would not notice
            orders.append([now, signal.SIGCONT])
        task.orders = [*task.orders, *orders]
        self.touch(task)
        if task.supervisor:
            try:
                os.kill(task.supervisor, signal.SIGUSR1)
            except ProcessLookupError:
                return

    def touch(self, task: Task, state: str = "") -> None:
        task.state = state or task.state
        task.changed = time.time()
        self.save(task)

    def end(self, task: Task, reason: str) -> None:
        task.reason = reason
        task.ended = time.time()
        self.touch(task, ENDED)

    # --- the course of the world ---------------------------------------------------------------------------

    def _advance(self) -> None:
        """Forget what is old, notice what is lost, release what is free to go, start what may start."""
        now = time.time()
        self._forget_old(now)
        active = list(self._select(f"state IN {ACTIVE}"))
        for task in active:
            if now - task.started > _LOST_AFTER and not self._supervised(task):
                self._lose(task)
        for task in self._select(f"state = '{DEPENDENT}'"):
            job = self.job_of(task)
            met = self.evaluate(job.condition)
            if met:
                self.touch(task, QUEUED)
            elif met is None and job.never == "end":
                self.end(task, "dependency")
        self._start_tasks([task for task in active if task.state in (RUNNING, EXITING)], now)

    def _lose(self, task: Task) -> None:
        """Take note that a task has no supervisor: it was killed, or never came to life with the command killed."""
        if not task.supervisor:
            task.runs -= 1
            self.touch(task, QUEUED)
            return
        if task.session:
            signal_session(task.session, signal.SIGKILL)
        self.end(task, "lost")

    def _start_tasks(self, running: list[Task], now: float) -> None:
        free = sorted(set(range(self.slots)) - {core for task in running for core in task.cores})
        if not free or self.switch("stopped"):
            return
        delay = setting("FAKE_DELAY", 0)
        count: dict[int, int] = {}
        for task in running:
            count[task.number] = count.get(task.number, 0) + 1
        for task in self._select(f"state = '{QUEUED}'"):
            job = self.job_of(task)
            queue = self.queues.get(job.queue)
            if task.hold or max(task.begin, task.queued + delay) > now or (queue and not queue.started):
                continue
            if job.slots > len(free) or (job.max_running and count.get(job.number, 0) >= job.max_running):
                continue
            count[job.number] = count.get(job.number, 0) + 1
            task.cores, free = free[: job.slots], free[job.slots :]
            task.started, task.runs, task.supervisor, task.session = now, task.runs + 1, 0, 0
            self.touch(task, RUNNING)
            self._starting.append((task.number, task.index))

    def _forget_old(self, now: float) -> None:
        last = now - setting("FAKE_HISTORY", self.history)
        over = f"SELECT number FROM tasks GROUP BY number HAVING SUM(state != '{ENDED}') = 0 AND MAX(ended) < ?"
        for (number,) in self._db.execute(over, (last,)).fetchall():
            self.forget(number)

    def evaluate(self, condition: Sequence[Any]) -> bool | None:
        """Tell whether a condition is met (True), may still be (False), or never will be (None)."""
        kind, *rest = condition
        if kind in ("and", "or"):
            values = [self.evaluate(part) for part in rest]
            first, second = (None, False) if kind == "and" else (True, False)
            return first if first in values else second if second in values else (True if kind == "and" else None)
        if kind == "not":
            inside = self.evaluate(rest[0])
            return {True: None, None: True}.get(inside, False)
        number, index = rest
        tasks = self.tasks(number) if index is None else [task for task in [self.task(number, index)] if task]
        if not tasks:
            return None
        if kind == "started":
            return all(task.runs or task.state == ENDED for task in tasks)
        if any(task.state != ENDED for task in tasks):
            return False
        good = all(task.ok for task in tasks)
        return True if kind == "any" or good == (kind == "ok") else None

    # --- one running task ----------------------------------------------------------------------------------

    def _supervised(self, task: Task) -> bool:
        """Tell whether the supervisor lives: it holds a lock as long as it does."""
        with open(self.file(f"{task.key}.lock"), "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _detach(self, number: int, index: int) -> None:
        """Start a supervisor that has nothing to do with the caller, neither as a child nor by open files."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        try:
            os.setsid()
            if os.fork() == 0:
                null = os.open(os.devnull, os.O_RDWR)
                log = os.open(os.path.join(self.spool, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                for source, target in ((null, 0), (null, 1), (log, 2)):
                    os.dup2(source, target)
                os.closerange(3, 4096)
                Supervisor(self, number, index).run()
        except BaseException:  # noqa: BLE001 - there is nobody above
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)


def stop_everything(spool: str) -> None:
    """End all running tasks, for the end of a test; nothing starts in this spool any more."""
    with open(os.path.join(spool, "stopped"), "w"):
        pass
    db = sqlite3.connect(os.path.join(spool, "state.db"), timeout=60)
    rows = db.execute(f"SELECT document FROM tasks WHERE state IN {ACTIVE}").fetchall()
    db.close()
    for (document,) in rows:
        task = Task(**json.loads(document))
        with open(os.path.join(spool, "files", f"{task.key}.lock"), "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if task.supervisor:
                    os.kill(task.supervisor, signal.SIGTERM)
                fcntl.flock(lock, fcntl.LOCK_EX)
