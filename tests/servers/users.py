"""The ordinary user that the test servers serve."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence

from tests.servers.processes import ServerError

PATH = "/usr/local/bin:/usr/bin:/bin"


def ordinary_user(name: str, shell: str = "/bin/bash") -> pwd.struct_passwd:
    """Look a user up; root makes it when it is missing, with this login shell."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        if os.geteuid() != 0:
            raise ServerError(f"There is no user {name}, and only root can make one.") from None
    made = subprocess.run(["/usr/sbin/useradd", "-m", "-s", shell, name], capture_output=True, text=True, check=False)
    try:
        return pwd.getpwnam(name)  # also when a neighbour was faster
    except KeyError:
        raise ServerError(f"useradd could not make the user {name}: {made.stderr.strip()}") from None


def run_as(
    account: pwd.struct_passwd,
    command: str | Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: str = "",
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a command, or a text for /bin/sh, in the user's home directory with the environment of a login."""
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    login = {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell,
        "PATH": PATH,
    }
    return subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        cwd=account.pw_dir,
        env={**login, **environment},
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
    )
