"""What the live tests share: resources on the real servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from batchlib import Application
from batchlib.backends.slurm import SlurmBackend
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd

#: Seconds that anything but a walltime limit may take, on a busy machine.
PATIENCE = 60.0


def settle(
    backend: SlurmBackend, apps: Sequence[Application], until: Callable[[Application], bool], patience: float = PATIENCE
) -> None:
    """Update states until something holds for all jobs."""
    deadline = time.monotonic() + patience
    while not all(map(until, apps)):
        assert time.monotonic() < deadline, [
            (app.jobname, app.execution.state, app.execution.native_state) for app in apps
        ]
        answers = backend.update_job_states(apps)
        assert not any(answers.values()), answers
        time.sleep(0.1)


def ended(app: Application) -> bool:
    return app.execution.state.final


def over_ssh(sshd: Sshd, **keys: object) -> dict[str, object]:
    """Give the keys of a resource behind an SSH server."""
    return {
        "transport": "ssh",
        "frontend": sshd.host,
        "port": sshd.port,
        "username": sshd.user,
        "keyfile": str(sshd.keyfile),
        "known_hosts": str(sshd.known_hosts),
        "ssh_config": "none",
        **keys,
    }


@pytest.fixture
def cluster(sshd: Sshd, slurm: SlurmCluster) -> Iterator[SlurmBackend]:
    """The Slurm cluster, over SSH."""
    backend = SlurmBackend("cluster", **over_ssh(sshd, spooldir=f"$HOME/live-{os.getpid()}"))
    yield backend
    backend.transport.remove_tree(backend.spool)
    backend.close()
