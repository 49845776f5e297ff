"""What the test clusters have in common."""

from __future__ import annotations

import contextlib
import os
import subprocess
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.servers.processes import Daemon, Server, ServerError, kill_left_over
from tests.servers.users import ordinary_user, run_as


class Cluster(Server):
    """A batch system on this machine, served by daemons that are children of the tests.

    Parameters
    ----------
    directory
        Its state, kept from one start to the next; an ordinary user must be able to enter it.
    user
        The ordinary user of the cluster, made when missing.
    """

    def __init__(self, directory: Path, user: str) -> None:
        super().__init__(directory)
        self.account = ordinary_user(user)
        self._daemons = {daemon.name: daemon for daemon in self._make_daemons()}

    @property
    @abstractmethod
    def env(self) -> dict[str, str]:
        """What the commands of the batch system need in their environment."""

    @abstractmethod
    def _make_daemons(self) -> Iterable[Daemon]:
        """Describe the daemons, in the order in which they are started."""

    @abstractmethod
    def cancel_all(self, seconds: float = 30) -> None:
        """Cancel the user's jobs and wait until none is left in the queue."""

    def stop(self) -> None:
        """End the jobs and all daemons."""
        if all(daemon.running for daemon in self._daemons.values()):
            # a frozen or broken server refuses: the processes of the jobs are ended below
            with contextlib.suppress(ServerError, subprocess.TimeoutExpired):
                self.cancel_all(seconds=10)
        for daemon in reversed(self._daemons.values()):
            self._end(daemon)
        kill_left_over(self.directory)

    def _end(self, daemon: Daemon) -> None:
        daemon.stop()

    def daemon(self, name: str) -> Daemon:
        """Look up a daemon, to stop, start, pause, continue or kill it."""
        return self._daemons[name]

    def as_user(
        self, command: str | Sequence[str], *, stdin: str = "", seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (or a text for /bin/sh) as the ordinary user of the cluster."""
        return run_as(self.account, command, environment=self.env, stdin=stdin, seconds=seconds)

    def command(self, *argv: str, stdin: str = "", seconds: float = 30) -> str:
        """Run a command as root, who manages the cluster, and return what it prints."""
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=os.environ | self.env,
        )
        if done.returncode:
            raise ServerError(f"{' '.join(argv)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def succeeds(self, *argv: str, seconds: float = 5) -> bool:
        """Tell whether a command of root's does its work in time."""
        try:
            self.command(*argv, seconds=seconds)
        except (ServerError, subprocess.TimeoutExpired):
            return False
        return True
