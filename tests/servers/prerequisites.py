"""What the test servers need on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

# a program of every Debian package that a server needs
SSHD = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
SLURM = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "slurmdbd": "slurmdbd",
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
GRID_ENGINE = {
    "sge_qmaster": "gridengine-master",
    "sge_execd": "gridengine-exec",
    "qsub": "gridengine-client",
}


def missing(packages: Mapping[str, str], *, root: bool = False) -> str | None:
    """Say what keeps a server from being started here, None when nothing does."""
    if not Path("/proc/self/stat").exists():
        return "the test servers find their processes in /proc, which this machine does not have"
    if root and os.geteuid() != 0:
        return "needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = sorted({package for program, package in packages.items() if not shutil.which(program, path=path)})
    return f"needs the Debian packages {' '.join(absent)}" if absent else None
