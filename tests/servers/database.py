"""A MariaDB for slurmdbd: a data directory of its own and a Unix socket, no network port."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

from tests.servers.processes import Daemon, ServerError


class MariaDB:
    """A database server whose `root` is the Unix user root.

    Parameters
    ----------
    directory
        The state directory of the server that it belongs to; its data go to ``mariadb`` in there.
    """

    def __init__(self, directory: Path) -> None:
        self._home = directory / "mariadb"
        self._data = self._home / "data"
        self.socket = self._home / "socket"
        argv = [
            "/usr/sbin/mariadbd",
            "--no-defaults",
            f"--datadir={self._data}",
            f"--socket={self.socket}",
            f"--pid-file={self._home}/pid",
            "--skip-networking",
            "--skip-log-bin",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        self.daemon = Daemon("mariadbd", argv, directory=directory, ready=self._answers, account=pwd.getpwnam("mysql"))

    def start(self) -> None:
        """Start it, with empty data the first time."""
        if not self._data.exists():
            self._home.mkdir(parents=True, exist_ok=True)
            shutil.chown(self._home, "mysql", "mysql")
            self._make_data()
        self.daemon.start()

    def _make_data(self) -> None:
        done = subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                "--user=mysql",
                f"--datadir={self._data}",
                "--skip-test-db",
                "--auth-root-authentication-method=socket",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(self._data, ignore_errors=True)
            raise ServerError(f"mariadb-install-db failed: {done.stdout}{done.stderr}")

    def execute(self, statements: str) -> None:
        """Run SQL statements as the database's root."""
        done = self._client(statements)
        if done.returncode:
            raise ServerError(f"MariaDB refused: {done.stderr.strip()}")

    def _answers(self) -> bool:
        return self.socket.exists() and self._client("SELECT 1").returncode == 0

    def _client(self, statements: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={self.socket}", "--execute", statements],
            capture_output=True,
            text=True,
            check=False,
        )
