"""The machines that the carriers are tested on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchlib.transport.base import Carrier
from batchlib.transport.local import LocalCarrier
from batchlib.transport.openssh import OpensshCarrier
from batchlib.transport.ssh import SshCarrier, SshSettings
from tests.conftest import require
from tests.fakes.frontend import Frontend
from tests.servers import prerequisites
from tests.servers.sshd import Sshd


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of the test's own, and no agent."""
    data = tmp_path / "data"
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return data


@pytest.fixture(scope="session")
def rsa_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The private key that opens the pretended frontend."""
    file = tmp_path_factory.mktemp("keys") / "id_rsa"
    make_key(file, "rsa")
    return file


def make_key(file: Path, kind: str = "ed25519", passphrase: str = "") -> None:
    """Make a key pair."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", file.name, "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def settings_for(server: Frontend | Sshd, **changes: object) -> SshSettings:
    """Settings that lead to a server, and nowhere near the configuration of whoever runs the tests."""
    given: dict[str, object] = {"timeout": 10.0}
    if isinstance(server, Sshd):
        given |= {"host": server.name, "ssh_config": str(server.config)}
    else:
        known_hosts = server.home / "known_hosts"
        known_hosts.write_text(server.known_hosts_line)
        given |= {
            "host": server.host,
            "port": server.port,
            "username": server.user,
            "ssh_config": "none",
            "known_hosts": (str(known_hosts),),
        }
    return SshSettings(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def make_frontend(tmp_path: Path, rsa_key: Path) -> Iterator[Callable[..., Frontend]]:
    """Start pretended frontends; they end with the test."""
    started: list[Frontend] = []

    def make(**options: object) -> Frontend:
        home = tmp_path / f"home{len(started)}"
        home.mkdir()
        frontend = Frontend(home, **{"keyfile": rsa_key, **options})  # type: ignore[arg-type]
        started.append(frontend.__enter__())
        return frontend

    yield make
    for frontend in started:
        frontend.__exit__()


@pytest.fixture(scope="session")
def plain_sshd(server_directory: Path) -> Iterator[Sshd]:
    """A real server, for tests that leave it as it is."""
    require(prerequisites.SSHD)
    # a test run makes many connections at once
    options = {"MaxStartups": "100", "MaxAuthTries": "20"}
    with Sshd(server_directory / "plain-sshd", name="plain", options=options) as server:
        yield server


@pytest.fixture
def real(plain_sshd: Sshd) -> Iterator[SshCarrier]:
    """A carrier to a real server."""
    carrier = SshCarrier(settings_for(plain_sshd))
    yield carrier
    carrier.close()


@pytest.fixture
def openssh(plain_sshd: Sshd) -> Iterator[OpensshCarrier]:
    """A carrier to a real server, through the system's ssh."""
    carrier = OpensshCarrier(settings_for(plain_sshd))
    yield carrier
    carrier.close()


@pytest.fixture(params=["local", "pretended", "real", "openssh"])
def carrier(request: pytest.FixtureRequest) -> Iterator[Carrier]:
    """Each way to reach a machine."""
    if request.param == "local":
        yield LocalCarrier()
        return
    if request.param in ("real", "openssh"):
        yield request.getfixturevalue(request.param)
        return
    frontend = request.getfixturevalue("make_frontend")()
    pretended = SshCarrier(settings_for(frontend, keyfile=str(request.getfixturevalue("rsa_key"))))
    yield pretended
    pretended.close()
