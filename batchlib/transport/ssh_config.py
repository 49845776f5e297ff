"""What the user's SSH configuration says about a host.

``ssh -G`` is asked where there is an ``ssh`` (it knows Include, Match and the system's files); paramiko's
smaller reader serves where there is none.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ..errors import ConfigurationError, InvalidValue

if TYPE_CHECKING:
    from .ssh import SshSettings

#: What a host or user name may look like: nothing that a shell or an option parser could take for more.
SAFE_WORD = re.compile(r"[A-Za-z0-9._:@%+][A-Za-z0-9._:@%+-]*")
_DEFAULT_IDENTITIES = tuple(f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk"))
_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


#: What ``ssh -G`` says: for each keyword, in lower case, its values in order.
Options = dict[str, list[str]]


@attrs.frozen
class ResolvedHost:
    """Where and how to connect.

    Parameters
    ----------
    alias : str
        The name that the user gave.
    hostname, port, user : str, int, str
        Where to connect to.
    identity_files, certificate_files : tuple of str
        Keys to offer and certificates for them; they need not exist.
    identities_only : bool
        Whether keys of the agent that are in none of these files are left alone.
    identity_agent : str or None
        Socket of the agent, ``none`` for no agent, None for the usual one.
    proxy_jump : str or None
        Jump hosts, in the order they are passed.
    proxy_command : str or None
        Command that makes the connection, with its tokens expanded.
    host_key_alias : str or None
        Name under which the host key is known.
    known_hosts : tuple of str
        Files with host keys.
    control_path : str or None
        Socket of a shared connection of OpenSSH.
    keeps_connections : bool
        Whether a login of the user's own would leave such a connection open (``ControlMaster``, ``ControlPersist``).
    """

    alias: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str | None = None
    proxy_jump: str | None = None
    proxy_command: str | None = None
    host_key_alias: str | None = None
    known_hosts: tuple[str, ...] = ()
    control_path: str | None = None
    keeps_connections: bool = False

    @property
    def target(self) -> str:
        """``user@host`` for messages."""
        return f"{self.user}@{self.alias}"

    @property
    def login(self) -> str:
        """What to give to ``ssh`` to get to the same place."""
        return f"-p {self.port} {self.target}" if self.port != 22 else self.target


@attrs.frozen
class Hop:
    """One jump host: ``user@host:port`` taken apart.

    Parameters
    ----------
    host, user, port : str, str, int
        Account and port are None where they are not given.
    """

    host: str
    user: str | None = None
    port: int | None = None


def resolve(settings: SshSettings) -> ResolvedHost:
    """Find out where and how to connect; what the settings say themselves wins.

    Parameters
    ----------
    settings : SshSettings
        What the user asked for.

    Raises
    ------
    ConfigurationError
        The SSH configuration is missing or wrong, or leads to a name that can't be one.
    """
    return _interpret(ask(settings), _account(settings)[1], settings)


def ask(settings: SshSettings) -> Options:
    """Ask for all that the SSH configuration says about a host.

    Raises
    ------
    ConfigurationError
        The SSH configuration is missing or wrong.
    """
    ssh = shutil.which("ssh")
    return _ask_ssh(ssh, settings) if ssh else _ask_paramiko(settings)


def address_options(settings: SshSettings) -> list[str]:
    """Give the options of ``ssh`` for configuration, account and port."""
    options = ["-F", os.path.expanduser(settings.ssh_config)] if settings.ssh_config else []
    user, _host = _account(settings)
    options += ["-l", user] if user else []
    return options + (["-p", str(settings.port)] if settings.port else [])


def _account(settings: SshSettings) -> tuple[str, str]:
    """Give the account, empty where it is not given, and the host without it."""
    user, _, host = settings.host.rpartition("@")
    return settings.username or user, host


def jump_settings(settings: SshSettings, resolved: ResolvedHost) -> SshSettings | None:
    """Give the settings of the jump host right before a machine, None when there is none.

    Raises
    ------
    ConfigurationError
        The jump hosts of the SSH configuration lead around in a circle.
    """
    jump = step = next_jump(settings, resolved.proxy_jump)
    passed = {(settings.host, settings.port)}
    while step is not None:
        if (step.host, step.port) in passed:
            raise ConfigurationError(f"the jump hosts of {settings.target} lead around in a circle")
        passed.add((step.host, step.port))
        step = next_jump(step, resolve(step).proxy_jump)
    return jump


def next_jump(settings: SshSettings, hops: str | None) -> SshSettings | None:
    """Give the settings of the last of some jump hosts, whose own jump hosts are those before it; None without any."""
    if not hops:
        return None
    *before, last = hops.split(",")
    hop = parse_hop(last)
    return attrs.evolve(
        settings,
        host=hop.host,
        port=hop.port,
        username=hop.user,
        # a password is not shown to hosts that only the SSH configuration names
        password_command=settings.password_command if settings.gateway else None,
        gateway=",".join(before) or None,
    )


def _with_account(hops: str, user: str | None) -> str:
    """Fill in the account: somebody who names a gateway beside an account means that account there too."""
    if not user:
        return hops
    bare = [hop.strip().removeprefix("ssh://") for hop in hops.split(",")]
    return ",".join(hop if parse_hop(hop).user else f"{user}@{hop}" for hop in bare)


def parse_hop(text: str) -> Hop:
    """Take ``user@host:port`` or ``ssh://user@host:port`` apart; IPv6 addresses stand in brackets.

    Raises
    ------
    InvalidValue
        It is nothing of the kind.
    """
    match = re.fullmatch(
        r"(?:ssh://)?(?:(?P<user>[^\s,/]+)@)?(?:\[(?P<v6>[\w:.%]+)\]|(?P<host>[^\s@:\[\],/]+))(?::(?P<port>\d{1,5}))?/?",
        text.strip(),
        re.ASCII,
    )
    if not match:
        raise InvalidValue(f"{text!r} is no jump host: user@host:port is needed")
    port = match["port"]
    return Hop(match["v6"] or match["host"], match["user"], int(port) if port else None)


def expand(text: str, tokens: Mapping[str, str]) -> str:
    """Expand ``%x`` tokens, ``${NAME}`` variables and a leading ``~``, as ssh_config(5) has them.

    Parameters
    ----------
    text : str
        Text from an SSH configuration.
    tokens : mapping of str to str
        Values by token letter; unknown tokens stay as they are.
    """

    def value(match: re.Match[str]) -> str:
        if match["name"]:
            return os.environ.get(match["name"], match[0])
        return tokens.get(match["token"], match[0])

    return os.path.expanduser(re.sub(r"%(?P<token>.)|\$\{(?P<name>\w+)\}", value, text))


def parse_options(text: str) -> Options:
    """Read what ``ssh -G`` prints: for each keyword, in lower case, its values in order."""
    options: Options = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key.lower(), []).append(value.strip())
    return options


def _ask_ssh(ssh: str, settings: SshSettings) -> Options:
    command = [ssh, "-G", *address_options(settings), "--", _account(settings)[1]]
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=settings.timeout,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"`{shlex.join(command)}` failed: {error}") from error
    if answer.returncode:
        said = answer.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigurationError(f"the SSH configuration can't be used: {said[0] if said else 'ssh -G failed'}")
    return parse_options(answer.stdout.decode(errors="surrogateescape"))


def _ask_paramiko(settings: SshSettings) -> Options:
    import paramiko

    user, host = _account(settings)
    file = Path(settings.ssh_config or "~/.ssh/config").expanduser()
    # what comes first wins, and paramiko needs it to expand its tokens
    text = (f"User {user}\n" if user else "") + (f"Port {settings.port}\n" if settings.port else "")
    try:
        if settings.ssh_config != "none" and (settings.ssh_config or file.exists()):
            text += file.read_text("utf-8")
        found = paramiko.SSHConfig.from_text(text).lookup(host)
    except (OSError, UnicodeDecodeError, paramiko.ConfigParseError) as error:
        raise ConfigurationError(f"the SSH configuration {file} can't be used: {error}") from error
    options: Options = {}
    for key, value in found.items():
        options[key.lower()] = value if isinstance(value, list) else [value]
    if options.get("proxyjump") == ["none"]:
        options.pop("proxyjump")
        options.pop("proxycommand", None)
    return options


def _interpret(options: Options, host: str, settings: SshSettings) -> ResolvedHost:
    def first(key: str) -> str | None:
        value = options.get(key, [""])[0]
        return value if value and value != "none" else None

    hostname = _checked("host name", first("hostname") or host)
    user = _checked("user name", first("user") or getpass.getuser())
    port = int(first("port") or 22)
    home = os.path.expanduser("~")
    tokens = {"%": "%", "h": hostname, "n": host, "p": str(port), "r": user, "u": getpass.getuser(), "d": home}
    tokens["i"] = str(os.getuid())
    if settings.gateway:
        command = None
        jump = None if settings.gateway == "none" else _with_account(settings.gateway, settings.username)
    else:
        command, jump = first("proxycommand"), first("proxyjump")
    agent = options.get("identityagent", ["SSH_AUTH_SOCK"])[0]
    control = first("controlpath")
    return ResolvedHost(
        alias=host,
        hostname=hostname,
        port=port,
        user=user,
        identity_files=_files(options.get("identityfile", list(_DEFAULT_IDENTITIES)), tokens),
        certificate_files=_files(options.get("certificatefile", []), tokens),
        identities_only=first("identitiesonly") == "yes",
        identity_agent=None if agent == "SSH_AUTH_SOCK" else os.path.expandvars(expand(agent, tokens)),
        proxy_jump=jump,
        proxy_command=expand(command, tokens) if command else None,
        host_key_alias=first("hostkeyalias"),
        known_hosts=_files(
            [
                *settings.known_hosts,
                *(first("userknownhostsfile") or " ".join(_USER_KNOWN_HOSTS)).split(),
                *(first("globalknownhostsfile") or " ".join(_GLOBAL_KNOWN_HOSTS)).split(),
            ],
            tokens,
        ),
        control_path=expand(control, tokens) if control else None,
        keeps_connections=first("controlmaster") in ("yes", "true", "auto")
        and first("controlpersist") not in (None, "no"),
    )


def _files(names: list[str], tokens: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(expand(name, tokens) for name in names if name and name != "none")


def _checked(what: str, word: str) -> str:
    if not SAFE_WORD.fullmatch(word):
        raise ConfigurationError(
            f"the SSH configuration leads to the {what} {word!r}: only letters, digits and ._:@%+- may appear in it"
        )
    return word
