"""What is said to the system's ``ssh``, and what it says back."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from pathlib import Path

from ..errors import AuthenticationFailed, ConnectionFailed, HostKeyChanged, InvalidValue
from .known_hosts import changed, lookup_names, own_file, parse, unknown
from .ssh import SshSettings
from .ssh_config import ResolvedHost, address_options, next_jump, resolve

#: Signs of life that may stay out before a connection is given up.
_ALIVE_COUNT = 2
_DEBUG = re.compile(r"debug\d: ")
#: Lines that only repeat that there is no connection, or tell what nobody asked.
_NOISE = re.compile(
    r"@|Connection (?:closed|reset) by \S+ port|Host key verification failed|Pseudo-terminal will not|Authenticated to "
    r"|Transferred: |Bytes per second: "
)
_HUNG_UP = re.compile(r"kex_exchange_identification: (Connection closed by remote host|read: Connection reset by peer)")
_UNREACHED = re.compile(r"ssh: connect to host (\S+) port (\d+): (.+)")
_NO_HOST = re.compile(r"ssh: Could not resolve hostname (\S+): (.+)")
_SILENT = re.compile(r"(?:Connection|Operation) timed out|Connection to \S+ port \d+ timed out")
_CHANGED = re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|REVOKED HOST KEY|[Hh]ost key .*revoked")
_UNKNOWN = re.compile(r"No (\S+) host key is known for (\S+)|Host key verification failed")
_REFUSED = re.compile(r"Permission denied|Too many authentication failures|Authentication failed")


def refuse_unmappable(settings: SshSettings) -> None:
    """Refuse what can't be said to ``ssh``.

    Raises
    ------
    InvalidValue
        The name of a file holds characters that ``ssh`` has no way to write.
    """
    for path in (settings.keyfile, settings.certificate, *settings.known_hosts):
        if path and (re.search(r'["\\$]', path) or not path.isprintable()):
            raise InvalidValue(f"transport = openssh can't use the file {path!r}: its name may hold no quotes, \\ or $")


def login_options(settings: SshSettings, resolved: ResolvedHost, *, person: bool) -> list[str]:
    """Give the options of ``ssh`` for a login.

    Parameters
    ----------
    settings : SshSettings
        What the user gave; whatever is not there, ``ssh`` takes from the user's SSH configuration.
    resolved : ResolvedHost
        Where that leads.
    person : bool
        Whether somebody sits at a terminal whom ``ssh`` may ask.
    """
    options = {
        "ConnectTimeout": str(math.ceil(settings.timeout)),
        "ServerAliveInterval": str(math.ceil(settings.keepalive)),
        "ServerAliveCountMax": str(_ALIVE_COUNT),
        "StrictHostKeyChecking": {"strict": "yes", "ignore": "no"}.get(settings.host_keys, settings.host_keys),
        **_known_hosts(settings, resolved),
    }
    if settings.keyfile:
        # without IdentitiesOnly, all keys of an agent would be offered before a file that is not in it
        options |= {"IdentityFile": _quoted(settings.keyfile), "IdentitiesOnly": "yes"}
    if settings.certificate:
        options["CertificateFile"] = _quoted(settings.certificate)
    if settings.password_command:
        options |= {"BatchMode": "no", "NumberOfPasswordPrompts": "1"}
    elif not person:
        options["BatchMode"] = "yes"
    if settings.gateway:
        options |= {"ProxyJump": "none", "ProxyCommand": _way_through(settings, resolved, person=person)}
    return [*address_options(settings), *as_options(options)]


def as_options(options: dict[str, str]) -> list[str]:
    """Write options for a command line."""
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _known_hosts(settings: SshSettings, resolved: ResolvedHost) -> dict[str, str]:
    own = own_file()
    if settings.host_keys == "ignore":
        return {"UserKnownHostsFile": "/dev/null", "GlobalKnownHostsFile": "/dev/null"}
    if settings.host_keys == "accept-new":
        # ssh writes to the first one
        files = [str(own), *resolved.known_hosts]
    elif settings.known_hosts or own.exists():
        files = [*resolved.known_hosts, str(own)]
    else:
        return {}
    return {"UserKnownHostsFile": " ".join(map(_quoted, files))}


def _quoted(path: str) -> str:
    """Write a file name that means itself: neither a list of names nor one with tokens."""
    return '"' + path.replace("%", "%%") + '"'


def _way_through(settings: SshSettings, resolved: ResolvedHost, *, person: bool) -> str:
    """Give the proxy command that leads through the gateway: ``ProxyJump`` would not tell it our options."""
    hop = next_jump(settings, resolved.proxy_jump)
    if hop is None:
        return "none"
    words = ["ssh", *login_options(hop, resolve(hop), person=person), "-T"]
    command = shlex.join(words).replace("%", "%%")
    return f"{command} -W '[%h]:%p' -- {shlex.quote(hop.host)}"


def clean(log: str) -> str:
    """Give a log without what could move a cursor, one line after the other."""
    lines = (line.strip() for line in log.replace("\r", "\n").split("\n"))
    return "\n".join("".join(char if char.isprintable() else "?" for char in line) for line in lines if line)


def said(log: str) -> list[str]:
    """Give the lines of a log that are meant for people, each once."""
    return [line for line in dict.fromkeys(clean(log).split("\n")) if line and not _DEBUG.match(line)]


def complaints(log: str) -> list[str]:
    """Give the lines of a log that tell why something does not work."""
    return [line for line in said(log) if not _NOISE.match(line)]


def logged_in(log: str) -> bool:
    """Tell whether a login worked, whatever came of it."""
    return "Authenticated to " in log


def hung_up(log: str) -> bool:
    """Tell whether the server closed the connection before it greeted, as one does that has too many logins."""
    lines = complaints(log)
    return bool(lines) and all(_HUNG_UP.match(line) for line in lines)


def login_error(log: str, settings: SshSettings, resolved: ResolvedHost, *, person: bool) -> ConnectionFailed:
    """Make an error of what ``ssh`` said when a login failed.

    Parameters
    ----------
    log : str
        Its words, with those of level DEBUG1.
    settings, resolved, person
        As for `login_options`.
    """
    log = clean(log)
    shown = re.search(r"Server host key: (\S+ SHA256:\S+)", log)
    name = lookup_names(resolved.hostname, resolved.port, resolved.host_key_alias)[0]
    login = _login(settings, resolved)
    if _CHANGED.search(log):
        return _changed(log, name, shown[1] if shown else "another one")
    if match := _UNKNOWN.search(log):
        named = match[2] or name
        return unknown(named, shown[1] if shown and named == name else f"one of type {match[1]}", login)
    words = " / ".join(complaints(log)[-3:])
    if _REFUSED.search(words):
        tried = ", ".join(f"key {key}" for key in re.findall(r"Offering public key: (.+)", log))
        message = f"{resolved.target} did not let us in. ssh said: {words}."
        message += f" Tried: {tried}." if tried else ""
        return AuthenticationFailed(message if person else f"{message} {_advice(settings, resolved, login)}")
    if match := _UNREACHED.search(words):
        return ConnectionFailed(f"cannot connect to {match[1]}, port {match[2]}: {match[3]}")
    if match := _NO_HOST.search(words):
        return ConnectionFailed(f"the host {match[1]} is not known: {match[2]}")
    return ConnectionFailed(f"cannot connect to {resolved.target}: {_reason(log, words, settings.timeout)}")


def _reason(log: str, words: str, timeout: float) -> str:
    """Say why there is no connection to a host that can be reached."""
    greeting = " / ".join(re.findall(r"banner line \d+: (.+)", log)[:3])
    if hung_up(log):
        said_first = f", saying {greeting!r}" if greeting else ", perhaps because too many are logging in"
        return f"the server closed the connection before it greeted{said_first}"
    if greeting and "Remote protocol version" not in log:
        return f"it is no SSH server: it says {greeting!r}"
    if _SILENT.search(words):
        return f"there was no SSH server's greeting and key within {timeout:g} s"
    if words:
        return f"ssh said: {words}"
    step = "login" if "SSH2_MSG_NEWKEYS received" in log else "key exchange"
    return f"the connection was closed during the {step}"


def _changed(log: str, name: str, shown: str) -> HostKeyChanged:
    place = re.search(r"key in (\S.*):(\d+)", log)
    where = f"{place[1]}, line {place[2]}" if place else "a known hosts file"
    if place and "HAS CHANGED" in log:
        with contextlib.suppress(OSError):
            keys = parse(Path(place[1]).read_text("utf-8", "replace"), place[1])
            if known := [key for key in keys if key.place == where]:
                return changed(name, shown, known)
    what = "contradicts another one" if "HAS CHANGED" in log else "is marked as revoked"
    return HostKeyChanged(
        f"the host key of {name} ({shown}) {what} in {where}: IT HAS CHANGED. Do not connect; ask its administrators."
    )


def _advice(settings: SshSettings, resolved: ResolvedHost, login: str) -> str:
    """Say how a person opens the connection that programs without a person use then."""
    if settings.ssh_config == "none":
        return "There is nobody to ask here, and with ssh_config = none no connection of yours is looked for."
    if resolved.control_path:
        return f"There is nobody to ask here: run `ssh -M -N -f {login}` in a terminal first; that connection is used."
    return (
        f"There is nobody to ask here: give {resolved.alias} in your SSH configuration a ControlPath such as "
        f"~/.ssh/control-%C, run `ssh -M -N -f {login}` in a terminal first, and that connection is used."
    )


def _login(settings: SshSettings, resolved: ResolvedHost) -> str:
    """Give what a person says to ``ssh`` to get there."""
    config = settings.ssh_config
    if not config or config == "none":
        return resolved.login
    return f"-F {shlex.quote(str(Path(config).expanduser()))} {resolved.login}"
