"""What a user's SSH configuration holds that only the system's ``ssh`` can use."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .known_hosts import KnownHosts, lookup_names, own_file
from .openssh_master import connects
from .ssh import SshSettings
from .ssh_config import Options, ResolvedHost, ask, resolve


def open_connection(settings: SshSettings) -> str | None:
    """Give the control socket of a connection to a host that the user has open, None without one."""
    path = resolve(settings).control_path
    return path if path and connects(path) else None


def openssh_only(settings: SshSettings) -> list[str]:
    """List what speaks for ``transport = openssh``; nothing where ``transport = ssh`` does as well.

    Parameters
    ----------
    settings : SshSettings
        The host.

    Raises
    ------
    ConfigurationError
        The SSH configuration is missing or wrong.
    """
    options = ask(settings)
    resolved = resolve(settings)
    path = resolved.control_path
    open_now = bool(path and connects(path))
    names = lookup_names(resolved.hostname, resolved.port, resolved.host_key_alias)
    known = KnownHosts.read([*resolved.known_hosts, own_file()])
    reasons = {
        f"you have a connection open at {path}": open_now,
        f"its ControlPath {path} is meant for shared connections": path and not open_now,
        "you have a Kerberos ticket for GSSAPIAuthentication": _is(options, "gssapiauthentication") and _has_ticket(),
        "its keys are on a smart card (PKCS11Provider)": _is(options, "pkcs11provider"),
        "its key is on a security key, and there is no agent": not _has_agent(resolved) and _security_keys(resolved),
        "its host key is certified by an authority": known.only_certified(names),
    }
    return [reason for reason, there in reasons.items() if there]


def _is(options: Options, keyword: str) -> bool:
    return options.get(keyword, ["no"])[0] not in ("no", "none", "false")


def _has_ticket() -> bool:
    klist = shutil.which("klist")
    if klist is None:
        return False
    try:
        return not subprocess.run([klist, "-s"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _has_agent(resolved: ResolvedHost) -> bool:
    path = resolved.identity_agent or os.environ.get("SSH_AUTH_SOCK")
    return bool(path and connects(os.path.expanduser(path)))


def _security_keys(resolved: ResolvedHost) -> bool:
    for file in resolved.identity_files:
        try:
            if Path(f"{file}.pub").expanduser().read_text(errors="replace").startswith("sk-"):
                return True
        except OSError:
            continue
    return False
