"""Every backend, locally and over SSH: real servers where they can be had, else fakes that run real jobs."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest

from batchlib.backends.batch import BatchSystem
from batchlib.config import backend_class
from batchlib.conformance.site import Site
from batchlib.transport.base import Pipe
from batchlib.transport.local import LocalCarrier
from batchlib.transport.transport import Transport
from tests.fakes.frontend import Frontend
from tests.live.conftest import over_ssh
from tests.servers.cluster import Cluster
from tests.servers.sshd import Sshd
from tests.servers.users import PATH

Down = Callable[[], AbstractContextManager[None]]

FAKES = Path(__file__).parents[1] / "fakes"


@attrs.frozen
class Place:
    """Where a backend is tested.

    Parameters
    ----------
    kind : str
        The backend's type.
    fixture : str
        Fixture of the real servers; empty for plain processes.
    fake : str
        Folder of the pretended commands.
    daemon : str
        The server's own daemon, which can be stopped.
    keys : mapping
        More configuration.
    variables : mapping
        Environment of the pretended commands.
    """

    kind: str
    fixture: str = ""
    fake: str = ""
    daemon: str = ""
    keys: Mapping[str, Any] = attrs.Factory(dict)
    variables: Mapping[str, str] = attrs.Factory(dict)


PLACES = {
    "shell": Place("shell", keys={"max_cores": 64}),
    "slurm": Place("slurm", "slurm", daemon="slurmctld"),
    "sge": Place("sge", "grid_engine", daemon="sge_qmaster", keys={"parallel_environment": "smp"}),
    "pbs": Place("pbs", fake="pbs"),
    "torque": Place("torque", fake="torque"),
    "lsf": Place("lsf", fake="lsf", variables={"FAKE_LSF": "ibm"}),
    "volclava": Place("lsf", fake="lsf", variables={"FAKE_LSF": "volclava"}),
}


def exports(environment: Mapping[str, str]) -> str:
    """Make shell text that sets variables."""
    return "; ".join(f"export {name}='{value}'" for name, value in environment.items())


@contextlib.contextmanager
def open_site(request: pytest.FixtureRequest, name: str) -> Iterator[Site]:
    """Start what a site needs, and give it.

    Parameters
    ----------
    request : pytest.FixtureRequest
        Of the fixture.
    name : str
        A place, a dash, and ``local``, ``ssh`` or ``openssh``.
    """
    place_name, _, where = name.partition("-")
    place = PLACES[place_name]
    with contextlib.ExitStack() as stack:
        keys, down = keys_of(request, stack, place, where)
        backend = backend_class(place.kind)(place.kind, **keys)
        stack.callback(_remove_spool, backend)
        yield stack.enter_context(Site(backend, down))


def _remove_spool(backend: BatchSystem) -> None:
    backend.transport.remove_tree(backend.spool)
    backend.close()


def keys_of(
    request: pytest.FixtureRequest, stack: contextlib.ExitStack, place: Place, where: str
) -> tuple[dict[str, Any], Down | None]:
    """Start what a site needs; give the keys of its configuration, and how its server is stopped.

    Parameters
    ----------
    request : pytest.FixtureRequest
        Of the fixture or test.
    stack : ExitStack
        Ends what was started.
    place : Place
        The site.
    where : str
        ``local``, ``ssh``, or, for a real batch system, ``openssh``.
    """
    directory: Path = request.getfixturevalue("tmp_path_factory").mktemp(place.kind)
    if place.fake:
        return _fake(stack, place, where, directory)
    if place.fixture:
        return _cluster(request, stack, place, where)
    if where == "local":
        return {"spooldir": str(directory / "spool"), **place.keys}, None
    sshd: Sshd = request.getfixturevalue("sshd")
    return over_ssh(sshd, spooldir=_spool("shell", where), **place.keys), None


class OrdinaryUser(LocalCarrier):
    """Start programs on this machine as somebody else: Grid Engine takes no jobs from root."""

    def __init__(self, name: str) -> None:
        self.user = name

    def open(self, command: str, window: int | None = None) -> Pipe:
        """Start `command` as that user."""
        return super().open(f"exec runuser -u {self.user} -- /bin/sh -c {shlex.quote(command)}")


def _spool(kind: str, where: str) -> str:
    """Name a spool directory that no other test run uses."""
    return f"$HOME/conformance-{kind}-{where}-{os.getpid()}"


def _cluster(
    request: pytest.FixtureRequest, stack: contextlib.ExitStack, place: Place, where: str
) -> tuple[dict[str, Any], Down]:
    """Use a real batch system, over a real SSH server or as its ordinary user."""
    cluster: Cluster = request.getfixturevalue(place.fixture)
    down = cluster.daemon(place.daemon).stopped
    user = cluster.account
    if where != "local":
        state: Path = request.getfixturevalue("server_directory")
        server = Sshd(state / f"{place.kind}-{where}-frontend", user=user.pw_name, set_env=cluster.env)
        stack.enter_context(server)
        return over_ssh(server, transport=where, spooldir=_spool(place.kind, where), **place.keys), down
    # root's PATH may lead to where others can't look
    setup = exports({"PATH": PATH, **cluster.env, "HOME": user.pw_dir})
    local = Transport(OrdinaryUser(user.pw_name), setup=setup)
    return {"transport": local, "spooldir": _spool(place.kind, where), **place.keys}, down


def _fake(stack: contextlib.ExitStack, place: Place, where: str, directory: Path) -> tuple[dict[str, Any], Down]:
    """Use pretended commands, over a mocked SSH server or from here."""
    state = directory / "state"
    state.mkdir()
    commands = FAKES / place.fake / "bin"
    variables = {"FAKE_SPOOL": str(state), **place.variables}
    keys: dict[str, Any] = {"spooldir": str(directory / "spool"), **place.keys}
    if where == "ssh":
        key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", key], check=True)
        (directory / "home").mkdir()
        frontend = stack.enter_context(
            Frontend(directory / "home", keyfile=key, path=[commands], environment=variables)
        )
        keys |= {
            "transport": "ssh",
            "frontend": frontend.host,
            "port": frontend.port,
            "username": frontend.user,
            "keyfile": str(key),
            "host_keys": "ignore",
            "ssh_config": "none",
        }
    else:
        keys["setup"] = "; ".join([exports(variables), f"export PATH='{commands}':\"$PATH\""])

    @contextlib.contextmanager
    def down() -> Iterator[None]:
        (state / "down").touch()
        try:
            yield
        finally:
            (state / "down").unlink()

    return keys, down
