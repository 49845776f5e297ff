"""Accounts whose login shell is not a POSIX one, and whose start files talk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlib.backends.shell import ShellBackend
from batchlib.transport.remote import SshTransport
from batchlib.transport.ssh import SshSettings
from tests.conftest import require
from tests.life import check_that_everything_arrives
from tests.live.conftest import over_ssh
from tests.servers import prerequisites
from tests.servers.sshd import Sshd
from tests.servers.users import ordinary_user

#: Login shells, with a file that they read at the start of every command, and Debian's package.
SHELLS = {
    "/bin/bash": (".bashrc", "bash"),
    "/bin/dash": (".profile", "dash"),
    "/bin/tcsh": (".tcshrc", "tcsh"),
    "/usr/bin/fish": (".config/fish/config.fish", "fish"),
}
NOISE = "echo 'Welcome! 12345.server'; echo 'sbatch: error: not really'\n"
ODD = ["a b", "q'\"$HOME`id`", "new\nline", "ünï ☃", "-x", "", "\\n", "*", "!!", "!$", " lead", "#c", "a,b", "~", "{x}"]

Frontend = tuple[Sshd, str]


@pytest.fixture(scope="module", params=SHELLS)
def frontend(request: pytest.FixtureRequest, server_directory: Path) -> Iterator[Frontend]:
    """A front end with a user who has this login shell."""
    shell: str = request.param
    start_file, package = SHELLS[shell]
    require({**prerequisites.SSHD, Path(shell).name: package}, root=True)
    account = ordinary_user(f"batchlib-{Path(shell).name}", shell)
    file = Path(account.pw_dir, start_file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(NOISE)
    with Sshd(server_directory / f"login-{Path(shell).name}", user=account.pw_name) as server:
        yield server, shell


def test_jobs_run_as_everywhere(frontend: Frontend, tmp_path: Path) -> None:
    server, _shell = frontend
    backend = ShellBackend("there", **over_ssh(server, max_cores=2))
    check_that_everything_arrives(backend, tmp_path, ODD)
    backend.transport.remove_tree(backend.spool)
    backend.close()


def test_answers_hold_nothing_but_the_answer(frontend: Frontend, tmp_path: Path) -> None:
    server, shell = frontend
    with SshTransport(SshSettings(server.name, ssh_config=str(server.config))) as transport:
        asked = transport.run("echo \"$SHELL\"; echo 'no' >&2; exit 7")
        assert (asked.exitcode, asked.out, asked.err) == (7, f"{shell}\n", "no\n")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/a file").write_bytes(bytes(range(256)))
        transport.put(tmp_path / "tree", "sent tree")
        transport.get("sent tree", tmp_path / "back")
        assert (tmp_path / "back/a file").read_bytes() == bytes(range(256))
        transport.remove_tree("sent tree/a file")
