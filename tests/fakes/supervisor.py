"""Running tasks: the process that each of them has, and signals to all processes of a session."""

from __future__ import annotations

import fcntl
import os
import signal
import time

from tests.fakes.model import EXITING, QUEUED, RUNNING, StartFailed, Task, setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

    from tests.fakes.engine import Engine
    from tests.fakes.model import Job, Launch

_SIGNALS = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM)


class Supervisor:
    """The process that runs one task to its end."""

    def __init__(self, engine: Engine, number: int, index: int) -> None:
        self.engine = engine
        self.number, self.index = number, index

    def run(self) -> None:
        """Start the task, wait for it, deliver its output, and note its end."""
        engine = self.engine
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with open(engine.file(f"{self._key()}.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if engine.switch("stopped"):
                return
            with engine:
                task = self._task()
                if task.state != RUNNING or task.supervisor:
                    # it was given up meanwhile
                    return
                task.supervisor = os.getpid()
                engine.save(task)
                job = engine.job_of(task)
            try:
                launch = engine.launch(job, task)
            except StartFailed as failure:
                self._close(failure.exit_code, "start")
                return
            child = start(launch)
            with engine:
                task = self._task()
                task.session = child
                engine.save(task)
            code, number, cpu, rss = self._wait(job, child)
            signal_session(child, signal.SIGKILL)
            with engine:
                task = self._task()
                task.exit_code, task.signal, task.cpu, task.rss = code, number, cpu, rss
                task.ended = time.time()
                engine.touch(task, EXITING)
            time.sleep(setting("FAKE_EPILOGUE", 0))
            engine.finish(job, task, launch)
            self._close()

    def _key(self) -> str:
        return Task(number=self.number, index=self.index).key

    def _task(self) -> Task:
        task = self.engine.task(self.number, self.index)
        if task is None:
            raise KeyError(self.number)
        return task

    def _close(self, exit_code: int | None = None, reason: str = "") -> None:
        with self.engine as engine:
            task = self._task()
            if exit_code is not None:
                task.exit_code = exit_code
            task.orders, task.supervisor = [], 0
            if task.requeue:
                task.requeue = False
                task.queued = time.time()
                engine.touch(task, QUEUED)
            else:
                engine.end(task, task.reason or reason)

    def _wait(self, job: Job, child: int) -> tuple[int, int, float, int]:
        """Wait for the task's first process, and send the signals that are due meanwhile."""
        orders = list(self._reread())
        end = time.time() + job.walltime if job.walltime else float("inf")
        interval = 0.1 if job.memory else 1.0
        look, peak = time.time() + interval, 0
        while True:
            for order in [order for order in orders if order[0] <= time.time()]:
                orders.remove(order)
                signal_session(child, int(order[1]))
            wait = min(end, look, *(order[0] for order in orders)) - time.time()
            told = signal.sigtimedwait(_SIGNALS, max(wait, 0.0))
            if told and told.si_signo == signal.SIGTERM:
                _abandon(child)
            pid, status, usage = os.wait4(child, os.WNOHANG)
            if pid:
                linger(child, orders)
                code = os.waitstatus_to_exitcode(status)
                cpu = usage.ru_utime + usage.ru_stime
                return max(code, 0), max(-code, 0), cpu, peak // 1024
            if told and told.si_signo == signal.SIGUSR1:
                orders += self._reread()
            if time.time() >= look:
                look = time.time() + interval
                peak = max(peak, session_memory(child))
                if 0 < job.memory < peak:
                    look, orders = float("inf"), orders + self._exceeded("memory")
            if time.time() >= end:
                end, orders = float("inf"), orders + self._exceeded("walltime")

    def _reread(self) -> Sequence[Sequence[float]]:
        """Take over the signals that were asked for."""
        with self.engine as engine:
            task = self._task()
            orders, task.orders = task.orders, []
            engine.save(task)
            return orders

    def _exceeded(self, reason: str) -> list[Sequence[float]]:
        with self.engine as engine:
            task = self._task()
            task.reason = task.reason or reason
            engine.order(task, engine.limit_signals)
        return list(self._reread())


def start(launch: Launch) -> int:
    """Start a task's first process as the leader of a session; gives its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        os.umask(launch.umask)
        os.chdir(launch.cwd)
        _connect(launch)
        for limit, value in launch.rlimits:
            import resource

            resource.setrlimit(limit, (value, value))
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(launch.executable, launch.argv, launch.env)
    except OSError as error:
        text = launch.exec_failed.format(path=launch.executable, why=error.strerror)
        os.write(2, text.encode())
    finally:
        os._exit(launch.exec_failed_code)


def _connect(launch: Launch) -> None:
    """Open standard input, output and error."""
    how = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if launch.append else os.O_TRUNC)
    source, sink = os.pipe()
    # what is to be read is shorter than a pipe's buffer
    os.write(sink, launch.stdin)
    os.close(sink)
    out = os.open(launch.stdout, how, 0o666)
    err = os.open(launch.stderr, how, 0o666) if launch.stderr else out
    for target, file in enumerate((source, out, err)):
        os.dup2(file, target)


def session_processes(session: int) -> Iterator[int]:
    """List the processes of a session."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                yield int(name)


def signal_session(session: int, number: int) -> None:
    """Send a signal to all processes of a session."""
    for process in session_processes(session):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def linger(session: int, orders: Sequence[Sequence[float]]) -> None:
    """Give what is left of a session the time that it has before it is killed, when it was told to end."""
    last = max((order[0] for order in orders), default=0.0)
    while time.time() < last and any(session_processes(session)):
        if signal.sigtimedwait([signal.SIGTERM], 0.02):
            _abandon(session)


def _abandon(session: int) -> NoReturn:
    """End at once, for the end of a test."""
    signal_session(session, signal.SIGKILL)
    os._exit(0)


def session_memory(session: int) -> int:
    """Give the bytes that a session has in memory."""
    pages = 0
    for process in session_processes(session):
        try:
            with open(f"/proc/{process}/statm") as file:
                pages += int(file.read().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGESIZE")
