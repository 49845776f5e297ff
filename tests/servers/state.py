"""The directory of a test run below which its servers keep their state, and its end.

``python -m tests.servers.state`` ends the servers of test runs that were killed and removes their state.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.servers.processes import kill_left_over, pid_in, stat_of

PREFIX = "batchlib-tests-"
OWNER = "owner.pid"


def make_state_directory() -> Path:
    """Make a new directory that every user may enter, owned by this process."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_base()))
    directory.chmod(0o755)
    stat = stat_of(os.getpid())
    if stat:
        # whoever sweeps meanwhile must not find it empty
        (directory / "owner.new").write_text(f"{os.getpid()} {stat.started}\n")
        (directory / "owner.new").rename(directory / OWNER)
    return directory


def remove_state_directory(directory: Path) -> None:
    """End what is left of its servers and their jobs, and remove it."""
    kill_left_over(directory)
    shutil.rmtree(directory)


def sweep() -> list[Path]:
    """Remove the state directories of test runs that are gone, and tell which."""
    swept = []
    for owner in _base().glob(f"{PREFIX}*/{OWNER}"):
        directory = owner.parent
        if directory.stat().st_uid == os.getuid() and pid_in(owner) is None:
            remove_state_directory(directory)
            swept.append(directory)
    return swept


def _base() -> Path:
    """Choose a directory for temporary files that every user may enter: $TMPDIR need not be one."""
    base = Path(tempfile.gettempdir()).resolve()
    public = all(directory.stat().st_mode & 0o001 for directory in (base, *base.parents))
    return base if public else Path("/tmp")


if __name__ == "__main__":
    for directory in sweep():
        print(f"Ended the servers that a killed test run had left in {directory}.")
