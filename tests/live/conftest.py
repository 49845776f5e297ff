"""What the live tests share: resources on the real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from batchlib.backends.slurm import SlurmBackend
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd


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
