"""Server processes: started in a session of their own, known by a pid file, ended without a trace.

A pid file holds the process id and the start time of the process (both from /proc/PID/stat), so that a
file left over from a killed test run can never name somebody else's process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

# Outgoing connections take their ports from 32768 on (ip_local_port_range), so a port below stays free
# while its server is stopped and started again.
PORTS = range(20000, 32000)
MARKER = "BATCHLIB_TEST_SERVER"
AnyServer = TypeVar("AnyServer", bound="Server")


class ServerError(RuntimeError):
    """A test server did not do what it was told; the message names the log to read."""


class Stat(NamedTuple):
    """What /proc/PID/stat says of a live process."""

    parent: int
    started: int


def stat_of(pid: int) -> Stat | None:
    """Look a process up; None when it is gone or only waits for its parent to notice its end."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command's name before it may hold anything
    state, parent, started = fields[0], int(fields[1]), int(fields[19])
    return None if state in "ZX" else Stat(parent, started)


def live_processes() -> dict[int, Stat]:
    """Look up all live processes of this machine."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return {pid: stat for pid in pids if (stat := stat_of(pid))}


def descendants(roots: set[int]) -> set[int]:
    """Find the live processes below the given ones, which are not among the answer themselves."""
    processes = live_processes()
    found = set(roots)
    while True:
        below = {pid for pid, stat in processes.items() if stat.parent in found} - found
        if not below:
            return found - roots
        found |= below


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until(what: str, condition: Callable[[], bool], seconds: float, log: Path | None = None) -> None:
    """Wait for a condition; ServerError with the end of the log when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"Waited {seconds:g} s in vain for {what}.{log_tail(log)}")
        time.sleep(0.02)


def log_tail(log: Path | None) -> str:
    """Quote the last lines of a log, to end an error message with."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return f" Read {log}, which ends:\n" + "\n".join(f"    {line}" for line in lines)


def free_ports(count: int) -> list[int]:
    """Choose TCP ports on which nobody listens."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise ServerError(f"There are no {count} free ports between {PORTS.start} and {PORTS.stop}.")


def listens(address: str, port: int) -> bool:
    """Tell whether something accepts connections there."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


class Daemon:
    """One server process that stays in the foreground and is a child of the tests.

    Parameters
    ----------
    name
        Names the pid file ``run/NAME.pid`` and the log ``log/NAME.log`` in the directory.
    argv
        The command, with the option that keeps it in the foreground.
    directory
        The state directory of the server that this process belongs to.
    ready
        Tells whether it does its work.
    environment
        Set for the process beside PATH and the marker by which its offspring is found.
    account
        The user it runs as; by default the one who runs the tests.
    seconds
        How long it may take until it is ready.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        *,
        directory: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        account: pwd.struct_passwd | None = None,
        seconds: float = 30,
    ) -> None:
        self.name = name
        self.log = directory / "log" / f"{name}.log"
        self._argv = argv
        self._ready = ready
        self._account = account
        self._seconds = seconds
        self._pidfile = directory / "run" / f"{name}.pid"
        self._environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", MARKER: str(directory), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None when it does not run."""
        return pid_in(self._pidfile)

    @property
    def running(self) -> bool:
        """Whether the process is there, which it is while paused too."""
        return self.pid is not None

    def start(self) -> None:
        """Start it and wait until it is ready; nothing when it runs."""
        if self.running:
            return
        self._forget()
        for path in (self.log, self._pidfile):
            path.parent.mkdir(parents=True, exist_ok=True)
        account = self._account
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd="/",
                start_new_session=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        stat = stat_of(self._process.pid)
        if stat:
            self._pidfile.write_text(f"{self._process.pid} {stat.started}\n")
        wait_until(f"{self.name} to be ready", self._ready_or_dead, self._seconds, self.log)
        if not self.running:
            raise ServerError(f"{self.name} ended as soon as it was started.{log_tail(self.log)}")

    def _ready_or_dead(self) -> bool:
        return not self.running or self._ready()

    def stop(self) -> None:
        """End it with SIGTERM, after ten seconds with SIGKILL; nothing when it does not run."""
        pid = self.pid
        if pid is not None:
            signal_process(pid, signal.SIGTERM)
            signal_process(pid, signal.SIGCONT)
            try:
                wait_until(f"{self.name} to end", lambda: stat_of(pid) is None, 10)
            except ServerError:
                # a slurmd that never reached its slurmctld does not heed SIGTERM
                signal_process(pid, signal.SIGKILL)
        self._forget()

    def kill(self) -> None:
        """End it with SIGKILL, as the kernel does when memory runs out."""
        if self.pid is not None:
            signal_process(self.pid, signal.SIGKILL)
        self._forget()

    def pause(self) -> None:
        """Freeze it: connections to it are accepted, but nothing answers."""
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the daemon hang meanwhile."""
        self.pause()
        try:
            yield
        finally:
            self.cont()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do without the daemon meanwhile."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            raise ServerError(f"{self.name} does not run.{log_tail(self.log)}")
        os.kill(pid, number)

    def _forget(self) -> None:
        pid = self.pid
        if pid is not None:
            wait_until(f"{self.name} to be gone after SIGKILL", lambda: stat_of(pid) is None, 10)
        if self._process is not None:
            self._process.wait(timeout=10)
            self._process = None
        self._pidfile.unlink(missing_ok=True)


class Server(ABC):
    """Daemons that make one server, which runs while a ``with`` statement lasts.

    Parameters
    ----------
    directory
        Its state: configuration, pid files, logs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def start(self) -> None:
        """End what is left of an earlier start, start the server, and wait until it does its work."""

    @abstractmethod
    def stop(self) -> None:
        """End the server."""

    def __enter__(self: AnyServer) -> AnyServer:
        try:
            with _one_at_a_time():
                self.start()
        except BaseException:
            kill_left_over(self.directory)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        kill_left_over(self.directory)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for other test runs that are starting servers: the installation of a database fails beside another one."""
    path = Path(tempfile.gettempdir(), f"batchlib-tests-{os.getuid()}.lock")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pid_in(pidfile: Path) -> int | None:
    """Read a pid file; None unless the very process that it was written for is still there."""
    try:
        pid, started = map(int, pidfile.read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    stat = stat_of(pid)
    return pid if stat and stat.started == started else None


def kill_left_over(directory: Path) -> None:
    """End at once all that was started by the servers whose state lies in a directory.

    These are the processes in its pid files, those with the directory in a variable of their environment
    (jobs, commands of login sessions), and all below them.
    """
    wait_until(f"the processes of {directory} to be gone", lambda: not _kill_once(directory), 15)


def _kill_once(directory: Path) -> set[int]:
    named = {pid for file in directory.glob("**/run/*.pid") if (pid := pid_in(file))}
    found = named | set(_marked(directory))
    found |= descendants(found)
    found -= {os.getpid(), os.getppid()}
    for pid in found:
        signal_process(pid, signal.SIGKILL)
    return found


def _marked(directory: Path) -> Iterator[int]:
    pattern = re.compile(b"=" + re.escape(os.fsencode(directory)) + rb"[/\0]")
    for pid in live_processes():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if pattern.search(environment):
            yield pid
