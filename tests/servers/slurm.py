"""A real Slurm cluster on this machine: two nodes of fake sizes, with or without accounting.

Needs root and Debian's packages slurm-wlm, slurmdbd, munge and mariadb-server, but neither systemd nor
/etc/slurm: all files lie in the state directory, named by SLURM_CONF (the daemons look for cgroup.conf and
slurmdbd.conf beside it). So several clusters run side by side, each with a munged of its own.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers import slurm_conf
from tests.servers.cluster import Cluster
from tests.servers.database import MariaDB
from tests.servers.processes import Daemon, ServerError, free_ports, kill_left_over, listens, wait_until

ACCOUNT = "proj"
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")


class SlurmCluster(Cluster):
    """Slurm with the nodes node01 and node02, the partitions batch (default) and short, the account proj.

    Parameters
    ----------
    directory
        Its state, kept from one start to the next; an ordinary user must be able to enter it.
    accounting
        Whether there is a slurmdbd; without it sacct says that accounting is disabled.
    memory_limits
        Whether a job that takes more memory than it asked for is ended. This needs the first version of
        control groups; the attribute of this name tells whether it is so.
    user
        The ordinary user of the cluster, made when missing.
    """

    def __init__(self, directory: Path, *, accounting: bool, memory_limits: bool = True, user: str = "hpc") -> None:
        self.accounting = accounting
        self.memory_limits = memory_limits and _memory_cgroup_works()
        self._host = socket.gethostname().split(".")[0]
        names = ["slurmctld", "slurmdbd", *slurm_conf.NODES]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        # control groups are named by node and job id, so the ids of two clusters must not meet
        self._first_job = 1000 * random.randint(1, 50000)
        self._database = MariaDB(directory)
        super().__init__(directory, user)

    def _make_daemons(self) -> Iterator[Daemon]:
        yield self._munged()
        if self.accounting:
            yield self._database.daemon
            yield self._slurmdbd()
        yield self._slurmctld()
        yield from map(self._slurmd, slurm_conf.NODES)

    @property
    def env(self) -> dict[str, str]:
        """What Slurm's commands on this machine need in their environment."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons and wait until every node takes jobs."""
        kill_left_over(self.directory)
        self._write_files()
        self.daemon("munged").start()
        if self.accounting:
            self._start_accounting()  # before slurmctld, which reads the associations when it starts
        for daemon in self._daemons.values():
            daemon.start()
        self.wait_for_nodes()

    def cancel_all(self, seconds: float = 30) -> None:
        """Cancel the user's jobs and wait until none is left in the queue."""
        user = self.account.pw_name
        self.command("scancel", "--user", user, seconds=seconds)
        wait_until(
            f"the jobs of {user} to end",
            lambda: not self.command("squeue", "--noheader", "--user", user, seconds=seconds),
            seconds,
            self.daemon("slurmctld").log,
        )

    def wait_for_nodes(self) -> None:
        """Wait until every node is registered and takes jobs."""
        wait_until("the nodes to take jobs", self._nodes_take_jobs, 60, self.daemon("slurmctld").log)

    def _nodes_take_jobs(self) -> bool:
        states = self.command("sinfo", "--noheader", "--Node", "--format=%T").split()
        return all(state in ("idle", "mixed", "allocated") for state in states)

    def _write_files(self) -> None:
        directory = self.directory
        for name, owner in {".": "root", "munge": "munge", "slurmctld": "slurm"}.items():
            (directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
            (directory / name).chmod(0o755)
            shutil.chown(directory / name, owner, owner)
        for name in slurm_conf.NODES:
            (directory / f"slurmd.{name}").mkdir(exist_ok=True)
        conf = slurm_conf.slurm_conf(
            directory,
            host=self._host,
            ports=self._ports,
            first_job=self._first_job,
            accounting=self.accounting,
            memory_limits=self.memory_limits,
        )
        (directory / "slurm.conf").write_text(conf)
        if self.memory_limits:
            (directory / "cgroup.conf").write_text(slurm_conf.CGROUP_CONF)
        if self.accounting:
            dbd_conf = slurm_conf.slurmdbd_conf(directory, host=self._host, port=self._ports["slurmdbd"])
            _write_private(directory / "slurmdbd.conf", "slurm", dbd_conf.encode())
        _write_private(directory / "munge" / "key", "munge", secrets.token_bytes(128))

    def _munged(self) -> Daemon:
        home = self.directory / "munge"
        socket_option = f"--socket={slurm_conf.munge_socket(self.directory)}"
        files = [f"--{name}-file={home}/{name}" for name in ("key", "pid", "seed", "log")]
        probe = ["munge", "--no-input", socket_option]
        return Daemon(
            "munged",
            ["/usr/sbin/munged", "--foreground", socket_option, *files],
            directory=self.directory,
            ready=lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0,
            account=pwd.getpwnam("munge"),
        )

    def _slurmdbd(self) -> Daemon:
        return Daemon(
            "slurmdbd",
            ["/usr/sbin/slurmdbd", "-D"],
            directory=self.directory,
            ready=lambda: listens(slurm_conf.ADDRESS, self._ports["slurmdbd"]),
            environment=self.env | {"MYSQL_UNIX_PORT": str(self._database.socket)},
        )

    def _slurmctld(self) -> Daemon:
        return Daemon(
            "slurmctld",
            ["/usr/sbin/slurmctld", "-D"],
            directory=self.directory,
            ready=lambda: self.succeeds("scontrol", "ping"),
            environment=self.env,
        )

    def _slurmd(self, node: str) -> Daemon:
        return Daemon(
            f"slurmd.{node}",
            ["/usr/sbin/slurmd", "-D", "-N", node],
            directory=self.directory,
            ready=lambda: listens(slurm_conf.ADDRESS, self._ports[node]),
            environment=self.env,
        )

    def _start_accounting(self) -> None:
        self._database.start()
        self._database.execute(
            f"CREATE DATABASE IF NOT EXISTS {slurm_conf.DATABASE};"
            f"CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED BY '{slurm_conf.DATABASE_PASSWORD}';"
            f"GRANT ALL ON {slurm_conf.DATABASE}.* TO slurm@localhost;"
        )
        self.daemon("slurmdbd").start()
        if not self._user_is_known():
            # one session: four separate commands take half as long again
            user, cluster = self.account.pw_name, slurm_conf.CLUSTER
            self.command(
                "sacctmgr",
                "--immediate",
                stdin=f"add cluster {cluster}\n"
                f"add account {ACCOUNT} Cluster={cluster} Description={ACCOUNT} Organization={ACCOUNT}\n"
                f"add user {user} Account={ACCOUNT} DefaultAccount={ACCOUNT}\n"
                "quit\n",
            )
            if not self._user_is_known():
                raise ServerError(f"sacctmgr did not add the user {user}; read {self.daemon('slurmdbd').log}.")

    def _user_is_known(self) -> bool:
        query = f"show assoc where cluster={slurm_conf.CLUSTER} user={self.account.pw_name} format=user"
        return self.command("sacctmgr", "-n", "-P", *query.split()).split() == [self.account.pw_name]


def _memory_cgroup_works() -> bool:
    probe = MEMORY_CGROUP / f"batchlib-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError:
        return False
    works = (probe / "memory.limit_in_bytes").exists()
    probe.rmdir()
    return works


def _write_private(path: Path, owner: str, content: bytes) -> None:
    """Write a file that only its owner may read: slurmdbd and munged refuse any other mode."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    shutil.chown(path, owner, owner)
