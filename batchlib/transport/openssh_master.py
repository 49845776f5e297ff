"""Connections of the system's ``ssh`` that many programs share: its master process and control socket.

A master that the user has open is used and left alone. Where the user's SSH configuration says that a login leaves
one open, our login does so. Otherwise there is a master of our own, which ends with this process however that ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import IO, Protocol

from ..errors import ConnectionFailed
from .openssh_options import as_options, complaints, hung_up, logged_in, login_error, login_options
from .ssh import SshSettings
from .ssh_config import ResolvedHost

#: Attempts to reach a server that closes connections before it greets.
_GREETING_ATTEMPTS = 5
#: Seconds that a login may take beyond connecting: somebody may be looking for a telephone.
_PATIENCE = 120.0
#: Seconds that a master may take to end.
_GRACE = 2.0
#: Bytes that fit into the path of a socket on all systems, less what ssh adds to it while it makes one.
_MAX_PATH = 104 - 18
#: Bytes of a log that are worth keeping.
_MAX_LOG = 1 << 20
_READY = b"batchlib-ready"

# The shell becomes ssh. Beside it waits a watcher, until its pipe says that all is in order or ends, because this
# process did; then it ends ssh and tidies up. Ctrl-C in a terminal means us, not the connection.
_WATCHED = """
export BATCHLIB_SSH=$$
exec 3<&0 </dev/null
{
    trap '' INT QUIT TSTP HUP TERM
    exec >/dev/null 2>&1
    read -r _ <&3 && exit
    kill $$
    for second in 1 2 3 4 5; do kill -0 $$ || break; sleep 1; done
    rm -rf -- "$0"
} &
exec 3<&-
trap '' INT QUIT TSTP
exec "$@"
"""
_PLAIN = 'export BATCHLIB_SSH=$$; exec "$@"'

# Answers questions for passwords and passphrases with the user's command, but none of a jump host that only the
# SSH configuration names; the rest is asked at the terminal, where there is somebody.
_ASKPASS = """#!/bin/sh
{only}case $1 in
*[Pp]assword* | *passphrase*) exec /bin/sh -c "$BATCHLIB_PASSWORD_COMMAND" ;;
esac
{otherwise}
"""
_ASK_TERMINAL = """exec </dev/tty 2>/dev/tty
printf %s "$1" >&2
stty -echo; IFS= read -r answer; stty echo; echo >&2
printf '%s\\n' "$answer"
"""

#: Several connections may be made at a time; a person answers one question after the other.
_terminal = threading.Lock()

log = logging.getLogger("batchlib.transport.ssh")


class Master(Protocol):
    """A process of ``ssh`` that has a connection, and a socket to use it by."""

    path: str

    @property
    def alive(self) -> bool:
        """Whether it takes requests, as far as can be seen without one."""

    def make_directory(self) -> Path:
        """Make a private directory for whoever uses it."""

    def last_words(self) -> str:
        """Give what it said lately; empty where that can't be known."""

    def close(self) -> None:
        """Let go of it."""


def find_master(settings: SshSettings, resolved: ResolvedHost, *, person: bool) -> Master:
    """Find a connection to a host, or make one.

    Parameters
    ----------
    settings, resolved
        The host.
    person : bool
        Whether somebody sits at a terminal whom ``ssh`` may ask.

    Raises
    ------
    ConnectionFailed
        There is none, and none could be made; the subclasses tell more.
    """
    ssh = shutil.which("ssh")
    if ssh is None:
        raise ConnectionFailed("transport = openssh needs the program ssh, which is not found on this machine")
    path = resolved.control_path
    if path and _answers(ssh, path, resolved, settings.timeout):
        log.debug("using the open connection %s to %s", path, resolved.target)
        return UsersMaster(path)
    with _terminal if person else contextlib.nullcontext():
        for attempt in range(_GREETING_ATTEMPTS):
            time.sleep(0.2 * 2**attempt if attempt else 0)
            login = Login(ssh, settings, resolved, person=person)
            ended = 0
            if path and resolved.keeps_connections and len(os.fsencode(path)) <= _MAX_PATH:
                ended = login.leave_open()
                if _answers(ssh, path, resolved, settings.timeout):
                    log.debug("connected to %s, leaving %s open", resolved.target, path)
                    return UsersMaster(path)
            # where the login worked, but its socket could not be made, one of our own may do
            if (ended == 0 or logged_in(login.log)) and (master := login.start()):
                log.debug("connected to %s", resolved.target)
                return master
            if not hung_up(login.log):
                break
            log.debug("%s: the server closed the connection before it greeted", resolved.target)
    raise login_error(login.log, settings, resolved, person=person)


def mux_options(path: str) -> list[str]:
    """Give the options of ``ssh`` to use a control socket, and nothing else: it must never log in by itself."""
    guard = {"ControlMaster": "no", "BatchMode": "yes", "ProxyCommand": "false", "ControlPath": path.replace("%", "%%")}
    return ["-F", "none", "-T", *as_options(guard)]


def private_directory() -> Path:
    """Make a directory for ourselves alone whose path leaves room for the name of a socket.

    Raises
    ------
    ConnectionFailed
        There is no place for it.
    """
    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mode 0700
        if place and len(os.fsencode(place)) + len("/batchlib-12345678/s") <= _MAX_PATH:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="batchlib-", dir=place))
    raise ConnectionFailed("there is no place for a socket: neither XDG_RUNTIME_DIR, TMPDIR nor /tmp will do")


def connects(path: str) -> bool:
    """Tell whether somebody listens at a socket that belongs to us."""
    try:
        info = os.stat(path)
        if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.getuid():
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(path)
    except OSError:
        return False
    return True


def _answers(ssh: str, path: str, resolved: ResolvedHost, timeout: float) -> bool:
    """Tell whether a master answers at a socket; only one of our own, as it sees all that is sent."""
    if not connects(path):
        return False
    command = [ssh, *mux_options(path), "-O", "check", "--", resolved.alias]
    try:
        return not subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


class UsersMaster:
    """A master that belongs to the user.

    Parameters
    ----------
    path : str
        Its control socket.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def alive(self) -> bool:
        """Whether its socket is there and somebody listens."""
        return connects(self.path)

    def make_directory(self) -> Path:
        """Make a private directory for whoever uses it."""
        return private_directory()

    def last_words(self) -> str:
        """Nothing: it talks to its user."""
        return ""

    def close(self) -> None:
        """Leave it open."""


class Login:
    """One login by the system's ``ssh``.

    Parameters
    ----------
    ssh : str
        The program.
    settings, resolved, person
        As for `find_master`.

    Attributes
    ----------
    log : str
        What ``ssh`` said, once the login has failed.
    """

    def __init__(self, ssh: str, settings: SshSettings, resolved: ResolvedHost, *, person: bool) -> None:
        self.log = ""
        self._settings = settings
        self._host = resolved.alias
        self._person = person
        self._target = resolved.target
        if settings.host_keys == "accept-new":
            from .known_hosts import own_file

            own_file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        plain = {"ClearAllForwardings": "yes", "RemoteCommand": "none", "ForwardX11": "no", "LogLevel": "DEBUG1"}
        self._command = [ssh, *login_options(settings, resolved, person=person), *as_options(plain), "-T"]

    def start(self) -> OwnMaster | None:
        """Make a master that ends with this process; None when that failed."""
        with contextlib.ExitStack() as undo:
            directory = private_directory()
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            path = str(directory / "s")
            ready = {
                "ControlPersist": "no",
                "ControlPath": path.replace("%", "%%"),
                "PermitLocalCommand": "yes",
                "LocalCommand": f"echo {_READY.decode()}",
            }
            words = [*self._command, *as_options(ready), "-M", "-N", "-E", str(directory / "log"), "--", self._host]
            with self._errors(directory) as errors:
                process = self._popen([_WATCHED, str(directory), *words], directory, errors, stdout=subprocess.PIPE)
            master = OwnMaster(process, directory, self._target)
            undo.callback(master.close)
            if self._is_ready(process.stdout):
                master.forget_words()
                undo.pop_all()
                return master
            self.log = _read(directory / "log")
        return None

    def leave_open(self) -> int:
        """Log in as the user would, and let the connection stay as the user's SSH configuration says.

        Returns
        -------
        int
            Exit status of ``ssh``.
        """
        directory = private_directory()
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            # run in the background by itself, ssh would stay there without a socket when another login was faster
            words = [*self._command, "-E", str(directory / "log"), "--", self._host, "true"]
            with self._errors(directory) as errors:
                process = self._popen([_PLAIN, "sh", *words], directory, errors, stdout=subprocess.DEVNULL)
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(None if self._person else self._settings.timeout + _PATIENCE)
            except subprocess.TimeoutExpired:
                log.debug("the login to %s takes too long", self._target)
            finally:
                process.kill()
                status = process.wait()
                self.log = _read(directory / "log")
            return status

    def _popen(
        self, words: list[str], directory: Path, errors: IO[bytes] | None, stdout: int
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                ["/bin/sh", "-c", *words],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=errors,
                bufsize=0,
                # without a terminal, nothing can be asked there
                start_new_session=not self._person,
                cwd="/",
                env=self._environment(directory),
            )
        except OSError as error:
            raise ConnectionFailed(f"cannot start ssh: {error}") from error

    def _errors(self, directory: Path) -> contextlib.AbstractContextManager[IO[bytes] | None]:
        """Choose where a proxy command, and the server's greeting, are heard: by the person, or in the log."""
        return contextlib.nullcontext() if self._person else (directory / "log").open("ab", buffering=0)

    def _environment(self, directory: Path) -> dict[str, str]:
        environment = {**os.environ, "LC_ALL": "C"}
        if not self._settings.password_command:
            return environment if self._person else {**environment, "SSH_ASKPASS_REQUIRE": "never"}
        askpass = directory / "askpass"
        only = "" if self._settings.gateway else '[ "$PPID" = "$BATCHLIB_SSH" ] && '
        askpass.write_text(_ASKPASS.format(only=only, otherwise=_ASK_TERMINAL if self._person else "exit 1"))
        askpass.chmod(0o700)
        environment |= {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
        environment["BATCHLIB_PASSWORD_COMMAND"] = self._settings.password_command
        # OpenSSH before 8.4 asks such a program only where there is a display
        environment.setdefault("DISPLAY", ":0")
        return environment

    def _is_ready(self, output: IO[bytes] | None) -> bool:
        """Wait until ``ssh`` has logged in and listens at its socket, or has ended."""
        heard = b""
        deadline = time.monotonic() + self._settings.timeout + _PATIENCE
        while output is not None and _READY not in heard:
            left = None if self._person else max(0.0, deadline - time.monotonic())
            if not select.select([output], [], [], left)[0]:
                return False
            chunk = os.read(output.fileno(), 4096)
            if not chunk:
                return False
            heard += chunk
        return True


class OwnMaster:
    """A master that ends with this process.

    Parameters
    ----------
    process : subprocess.Popen
        The process of ``ssh``, with a pipe to its watcher as its standard input.
    directory : Path
        Holds its socket and its log.
    target : str
        For messages.
    """

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, target: str) -> None:
        self.path = str(directory / "s")
        self._process = process
        self._directory = directory
        self._log = directory / "log"
        self._target = target
        self._pid = os.getpid()
        # whoever forgets to close it leaves no process behind all the same; at the end of ours the watcher sees to that
        weakref.finalize(self, _end, process, self._pid).atexit = False

    @property
    def alive(self) -> bool:
        """Whether the process is there and listens."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > _MAX_LOG:
                self.forget_words()
        return self._process.poll() is None and connects(self.path)

    def make_directory(self) -> Path:
        """Make a private directory for whoever uses it, which goes with the master at the latest."""
        try:
            return Path(tempfile.mkdtemp(dir=self._directory))
        except OSError as error:
            raise ConnectionFailed(f"the connection to {self._target} is gone") from error

    def last_words(self) -> str:
        """Give what it said lately."""
        return " / ".join(complaints(_read(self._log))[-2:])

    def forget_words(self) -> None:
        """Empty the log."""
        with contextlib.suppress(OSError):
            os.truncate(self._log, 0)

    def close(self) -> None:
        """End it and remove its socket."""
        if os.getpid() != self._pid:
            return
        process = self._process
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None and not stream.closed:
                with contextlib.suppress(OSError):
                    if stream.writable():
                        # the watcher has nothing left to do
                        stream.write(b"done\n")
                stream.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _end(process: subprocess.Popen[bytes], pid: int) -> None:
    """End a process that this one has started, if it has not ended."""
    if os.getpid() != pid:
        return
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
