"""A real OpenSSH server on 127.0.0.1, for root (who serves an ordinary user) and for everybody else (himself)."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.processes import (
    MARKER,
    Daemon,
    Server,
    ServerError,
    descendants,
    free_ports,
    kill_left_over,
    live_processes,
    signal_process,
    stat_of,
    wait_until,
)
from tests.servers.users import ordinary_user

HOST = "127.0.0.1"


class Sshd(Server):
    """An sshd with a key that it lets in, and the files that a client needs to use it.

    Parameters
    ----------
    directory
        Its state: configuration, keys, log.
    user
        Who may log in; by default ``hpc`` (made when missing) for root, else the user who runs the tests.
    port
        By default a free one.
    options
        Settings of sshd_config that win over those of the tests; a list repeats the keyword.
    set_env
        Variables in the environment of every login.
    host_key_type
        ``ed25519``, ``ecdsa`` or ``rsa``.
    name
        What it is called in the client's configuration file: ``ssh -F CONFIG NAME``.

    Attributes
    ----------
    keyfile
        The private key of the user.
    known_hosts
        Holds the host key that the server had when it was first started, and keeps it.
    config
        A configuration for ``ssh -F`` that uses these files and nothing else.
    """

    def __init__(
        self,
        directory: Path,
        *,
        user: str | None = None,
        port: int | None = None,
        options: Mapping[str, str | Sequence[str]] | None = None,
        set_env: Mapping[str, str] | None = None,
        host_key_type: str = "ed25519",
        name: str = "frontend",
    ) -> None:
        super().__init__(directory)
        me = pwd.getpwuid(os.getuid()).pw_name
        self.host = HOST
        self.port = port or free_ports(1)[0]
        self.user = ordinary_user(user or ("hpc" if os.geteuid() == 0 else me)).pw_name
        self.name = name
        self.keyfile = directory / "client_key"
        self.known_hosts = directory / "known_hosts"
        self.config = directory / "ssh_config"
        self._options = options or {}
        self._set_env = {MARKER: str(directory), **(set_env or {})}
        self._host_key_type = host_key_type
        self._host_key = directory / "host_key"
        self._published = False  # whether this server's port and key are in known_hosts
        sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if sshd is None:
            raise ServerError("There is no sshd; on Debian the package openssh-server has it.")
        self._daemon = Daemon(
            "sshd",
            [sshd, "-D", "-e", "-f", str(directory / "sshd_config")],
            directory=directory,
            ready=self._greets,
        )

    @property
    def fingerprint(self) -> str:
        """The host key's present fingerprint, ``SHA256:...``."""
        return _keygen("-l", "-f", f"{self._host_key}.pub").split()[1]

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._daemon.log.read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it greets."""
        if not self._daemon.running:
            kill_left_over(self.directory)
        self._make_files()
        self._daemon.start()
        wait_until("the first greeting to be over", lambda: not self.connections(), 5, self._daemon.log)

    def stop(self) -> None:
        """End the server and cut its connections; the commands of its sessions may go on."""
        sessions = self._session_processes()
        self._daemon.stop()
        _kill(sessions)

    def restart(self) -> None:
        """Stop and start it: the port and the host key stay, the connections do not."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server and all its connections."""
        self._daemon.pause()
        for pid in self._session_processes():
            signal_process(pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let it go on after `pause`."""
        for pid in self._session_processes():
            signal_process(pid, signal.SIGCONT)
        self._daemon.cont()

    def connections(self) -> list[int]:
        """List the connections, each by the process that the server made for it."""
        listener = self._daemon.pid
        return sorted(pid for pid, stat in live_processes().items() if stat.parent == listener)

    def drop(self) -> None:
        """Cut all connections at once; the server goes on."""
        _kill(self._session_processes())

    def change_host_key(self) -> None:
        """Restart the server with another host key; `known_hosts` keeps the old one."""
        self.stop()
        self._make_host_key()
        self.start()

    def ssh(self, command: str, *, stdin: str = "", seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command through the ssh client of this machine."""
        return subprocess.run(
            ["ssh", "-F", str(self.config), self.name, command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def _session_processes(self) -> list[int]:
        """Find sshd's own processes of all connections: for root each has two, and both hold the socket."""
        listener = self._daemon.pid
        below = descendants({listener}) if listener else set()
        return [pid for pid in below if _command_name(pid) == "sshd"]

    def _greets(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _make_files(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        if not self.keyfile.exists():
            _keygen("-q", "-t", "ed25519", "-N", "", "-C", "batchlib tests", "-f", str(self.keyfile))
            shutil.copy(f"{self.keyfile}.pub", self.directory / "authorized_keys")
        if not self._host_key.exists():
            self._make_host_key()
        if not self._published:
            key_type, key = Path(f"{self._host_key}.pub").read_text().split()[:2]
            self.known_hosts.write_text(f"[{self.host}]:{self.port} {key_type} {key}\n")
            self._published = True
        (self.directory / "sshd_config").write_text(self._sshd_config())
        self.config.write_text(self._ssh_config())
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks its unprivileged half in

    def _make_host_key(self) -> None:
        self._host_key.unlink(missing_ok=True)
        _keygen("-q", "-t", self._host_key_type, "-N", "", "-C", "host", "-f", str(self._host_key))

    def _sshd_config(self) -> str:
        settings: dict[str, str | Sequence[str]] = {
            "Port": str(self.port),
            "ListenAddress": self.host,
            "HostKey": str(self._host_key),
            "PidFile": "none",
            "AuthorizedKeysFile": str(self.directory / "authorized_keys"),
            "StrictModes": "no",  # which would refuse authorized_keys below a directory like /tmp
            "AllowUsers": self.user,
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "no",
            # without PAM an account with a locked password, as useradd makes it, may not log in
            "UsePAM": "yes" if os.geteuid() == 0 else "no",
            "UseDNS": "no",
            "PrintMotd": "no",
            "PrintLastLog": "no",
            "Subsystem": "sftp internal-sftp",
            "SetEnv": " ".join(f'"{name}={value}"' for name, value in self._set_env.items()),
        }
        lines = []
        for keyword, value in {**settings, **self._options}.items():
            values = [value] if isinstance(value, str) else value
            lines += [f"{keyword} {one}\n" for one in values]
        return "".join(lines)

    def _ssh_config(self) -> str:
        return f"""\
Host {self.name} {self.host}
    HostName {self.host}
    Port {self.port}
    User {self.user}
    IdentityFile {self.keyfile}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {self.known_hosts}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
"""


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        signal_process(pid, signal.SIGKILL)
    wait_until("the connections to be cut", lambda: not any(map(stat_of, pids)), 10)


def _keygen(*options: str) -> str:
    done = subprocess.run(["ssh-keygen", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"ssh-keygen failed: {done.stderr.strip()}")
    return done.stdout
