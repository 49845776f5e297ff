"""A far machine for the benchmarks of transfers: an SSH server behind a link with a delay, and files in memory."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from batchlib.transport.remote import SshTransport
from batchlib.transport.ssh import SshSettings
from tests.benchmarks.link import delayed_link
from tests.servers.sshd import Sshd
from tests.servers.state import make_state_directory, remove_state_directory

#: Used by all: the fastest on machines with AES in hardware.
CIPHER = "aes128-gcm@openssh.com"


@attrs.frozen
class Far:
    """A machine behind a link.

    Parameters
    ----------
    config
        Configuration for ``ssh -F`` in which the machine is called ``far``.
    directory
        Where its user may write.
    connected
        Whether nobody's login counts: OpenSSH's programs then share a connection that stays open.
    """

    config: Path
    directory: Path
    connected: bool

    @property
    def ssh(self) -> list[str]:
        """The command that runs something there."""
        return ["ssh", "-F", str(self.config), "far"]

    def transport(self) -> SshTransport:
        """Our way there."""
        made = SshTransport(SshSettings("far", ssh_config=str(self.config)))
        if self.connected:
            made.run("true")
        return made


@contextlib.contextmanager
def memory(size: int) -> Iterator[Path]:
    """Make a directory in memory where `size` bytes have room there, else on disk.

    Yields
    ------
    Path
        A directory that all users may enter.
    """
    shared = Path("/dev/shm")
    base = shared if shared.is_dir() and shutil.disk_usage(shared).free > size else None
    with tempfile.TemporaryDirectory(prefix="batchlib-benchmark-", dir=base) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextlib.contextmanager
def far_machines(directory: Path, delays: list[float], *, connected: bool) -> Iterator[dict[float, Far]]:
    """Start one server, and a link to it for each delay (milliseconds of round-trip time)."""
    state = make_state_directory()
    try:
        with Sshd(state / "sshd", name="near") as sshd, contextlib.ExitStack() as stack:
            account = pwd.getpwnam(sshd.user)
            there = directory / "far"
            there.mkdir()
            if os.geteuid() == 0:
                os.chown(there, account.pw_uid, account.pw_gid)
            found = {}
            for delay in delays:
                port = stack.enter_context(delayed_link(sshd.host, sshd.port, delay))
                config = directory / f"ssh_config_{delay:g}"
                text = sshd.config.read_text().replace(f"Host near {sshd.host}", "Host far")
                text = text.replace(f"Port {sshd.port}", f"Port {port}")
                alias = f"HostKeyAlias [{sshd.host}]:{sshd.port}"
                shared = f"ControlPath {directory}/master{delay:g}\n    ControlMaster auto\n    ControlPersist 600\n"
                config.write_text(f"{text}    {alias}\n    Ciphers {CIPHER}\n    {shared if connected else ''}")
                found[delay] = Far(config, there, connected)
                if not connected:
                    continue
                # what goes on in the background must not hold on to our output
                subprocess.run([*found[delay].ssh, "true"], check=True, stderr=subprocess.DEVNULL)
                end = [*found[delay].ssh[:-1], "-O", "exit", "far"]
                stack.callback(subprocess.run, end, check=False, stderr=subprocess.DEVNULL)
            yield found
    finally:
        remove_state_directory(state)


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Give the seconds that something takes, and those of this process's processor time."""
    used = time.process_time()
    start = time.monotonic()
    action()
    return time.monotonic() - start, time.process_time() - used


def call(*command: str | Path, stdin: int | None = None) -> None:
    """Run a command that has to succeed and says nothing."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stdin=stdin)
