"""A Slurm cluster of its own for a benchmark, and the ways to reach its front end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from batchlib.config import resource_settings
from batchlib.settings import ResourceSettings
from tests.benchmarks.link import delayed_link
from tests.servers.slurm import SlurmCluster
from tests.servers.sshd import Sshd
from tests.servers.state import make_state_directory, remove_state_directory


@attrs.frozen
class FrontEnd:
    """What a client needs to reach the front end.

    Parameters
    ----------
    host, port, user : str, int, str
        Where it is, perhaps behind a link with a delay.
    keyfile, known_hosts : Path
        The private key, and the file with the host key.
    config : Path
        A configuration for ``ssh -F``.
    name : str
        What the front end is called in it.
    scratch : Path
        A directory there that is the user's, and for this benchmark alone.
    """

    host: str
    port: int
    user: str
    keyfile: Path
    known_hosts: Path
    config: Path
    name: str
    scratch: Path

    @property
    def settings(self) -> ResourceSettings:
        """The resource ``cluster`` at this front end."""
        return resource_settings(
            "cluster",
            {
                "type": "slurm",
                "transport": "ssh",
                "frontend": self.host,
                "port": str(self.port),
                "username": self.user,
                "keyfile": str(self.keyfile),
                "known_hosts": str(self.known_hosts),
                "ssh_config": "none",
                "spooldir": str(self.scratch / "spool"),
            },
        )

    def ssh(self, directory: Path) -> list[str]:
        """Give the words of an ``ssh`` command whose calls share one connection.

        Parameters
        ----------
        directory : Path
            Where the socket of the shared connection lies.
        """
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={directory}/control", "-o", "ControlPersist=60"]
        return ["ssh", "-F", str(self.config), *shared, self.name]


@contextlib.contextmanager
def slurm_cluster(*, accounting: bool = True) -> Iterator[tuple[Path, SlurmCluster, Sshd]]:
    """Start a Slurm cluster with an SSH server in front of it; everything is gone afterwards.

    Nothing is removed before: after a removal, new files cost several times as much for a while on some file systems,
    ext4 among them.

    Yields
    ------
    tuple of (Path, SlurmCluster, Sshd)
        A directory for the work, and the servers.
    """
    directory = make_state_directory()
    try:
        with (
            SlurmCluster(directory / "slurm", accounting=accounting) as slurm,
            Sshd(directory / "frontend", user=slurm.account.pw_name, set_env=slurm.env) as sshd,
        ):
            yield directory, slurm, sshd
    finally:
        remove_state_directory(directory)


@contextlib.contextmanager
def reached(sshd: Sshd, milliseconds: float = 0.0) -> Iterator[FrontEnd]:
    """Reach a front end over a link with a delay.

    Parameters
    ----------
    sshd : Sshd
        The front end.
    milliseconds : float
        Time that a question and its answer take on the link; without any there is no link.
    """
    with delayed_link(sshd.host, sshd.port, milliseconds) as port:
        known_hosts, config = (
            sshd.directory / f"{path.name}.{milliseconds:g}" for path in (sshd.known_hosts, sshd.config)
        )
        known_hosts.write_text(sshd.known_hosts.read_text().replace(f":{sshd.port} ", f":{port} "))
        text = sshd.config.read_text().replace(f"Port {sshd.port}\n", f"Port {port}\n")
        config.write_text(text.replace(f" {sshd.known_hosts}\n", f" {known_hosts}\n"))
        scratch = sshd.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        shutil.chown(scratch, sshd.user)
        yield FrontEnd(sshd.host, port, sshd.user, sshd.keyfile, known_hosts, config, sshd.name, scratch)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table: the first column to the left, numbers to the right with three digits that count."""
    text = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in text
    )
