"""``batchlib doctor``: what it finds, and what it advises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.frontend import Frontend

from .conftest import User


def findings(user: User, resource: str, *, status: int) -> dict[str, Any]:
    """Examine a resource; give the findings by what was looked at."""
    said = user.run("batchlib", "doctor", resource, "--json")
    assert said.status == status, said
    assert said.err == ""
    return {finding["check"]: finding for finding in said.document["checks"]}


def test_this_machine_is_well(user: User) -> None:
    found = findings(user, "here", status=0)
    assert {finding["level"] for finding in found.values()} == {"ok"}
    assert {"configuration", "shell", "spool directory", "free space", "clock", "tools", "batch system"} <= set(found)
    said = user.run("batchlib", "doctor", "here")
    assert said.status == 0
    assert all(line.startswith("ok: ") for line in said.out.splitlines())


def test_what_is_wrong_comes_with_advice(user: User) -> None:
    user.config.write_text(
        """[DEFAULT]
type = shell
[resource/nowhere]
transport = ssh
frontend = no-such-host.invalid
[resource/closed]
transport = ssh
frontend = 127.0.0.1
port = 1
[resource/nospool]
spooldir = /proc/spool
[resource/nosbatch]
type = slurm
sbatch = /nonexistent
"""
    )
    for resource, check in (
        ("nowhere", "host name"),
        ("closed", "port"),
        ("nospool", "spool directory"),
        ("nosbatch", "sbatch"),
    ):
        finding = findings(user, resource, status=1)[check]
        assert finding["level"] == "wrong"
        assert finding["remedy"]


@pytest.fixture
def frontend(user: User, tmp_path: Path) -> Iterator[Frontend]:
    """A frontend that lets in who knows the password, and whose start files print something."""
    remote = tmp_path / "remote"
    remote.mkdir()
    with Frontend(remote, password="open sesame", max_sessions=3, noise="Welcome!\n") as server:
        user.config.write_text(
            f"[resource/far]\ntype = shell\ntransport = ssh\nfrontend = {server.host}\nport = {server.port}\n"
            f"username = {server.user}\nssh_config = none\nknown_hosts = {user.home}/known\n"
            "password_command = cat ~/password\n"
        )
        (user.home / "known").write_text(server.known_hosts_line)
        (user.home / "password").write_text("open sesame\n")
        yield server


def test_a_frontend_is_examined_from_the_network_to_the_limits(user: User, frontend: Frontend) -> None:
    found = findings(user, "far", status=0)
    for check in ("host name", "port", "host key", "authentication", "shell", "spool directory"):
        assert found[check]["level"] == "ok"
    assert "Welcome!" in found["start files"]["message"]
    assert found["start files"]["level"] == "warning"
    assert found["sessions"]["level"] == "warning"
    assert "sessions = 3" in found["sessions"]["remedy"]


def test_a_host_that_nobody_knows_and_a_wrong_password(user: User, frontend: Frontend) -> None:
    (user.home / "password").write_text("wrong\n")
    assert findings(user, "far", status=1)["authentication"]["level"] == "wrong"
    (user.home / "known").write_text("")
    assert findings(user, "far", status=1)["host key"]["level"] == "wrong"
    # a submission is refused as clearly, and leaves nothing
    said = user.run("gsub", "--", "true")
    assert said.status == 1
    assert "host key" in said.err
    assert user.run("gstat", "--json").document["tasks"] == []


def test_the_users_own_ssh_is_recommended_where_it_can_more(user: User, frontend: Frontend) -> None:
    text = user.config.read_text().replace("ssh_config = none", f"ssh_config = {user.home}/config")
    user.config.write_text(text)
    (user.home / "config").write_text("Host *\n    ControlPath ~/control-%C\n")
    recommended = findings(user, "far", status=0)["transport"]
    assert recommended["level"] == "warning"
    assert "ControlPath" in recommended["message"]
    assert "transport = openssh" in recommended["remedy"]
    user.config.write_text(text.replace("transport = ssh", "transport = openssh"))
    found = findings(user, "far", status=0)
    assert "transport" not in found
    for check in ("host key", "authentication", "shell", "spool directory"):
        assert found[check]["level"] == "ok"
    assert "sessions = 3" in found["sessions"]["remedy"]
