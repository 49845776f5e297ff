"""Programs on a machine reached by SSH, through paramiko.

Nothing here imports paramiko before a connection is really needed. All carriers of one process that have the
same settings share one connection: one login, one second factor, however many resources use the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import attrs

from ..errors import InvalidValue
from .shared import Link, Prompt, SharedCarrier, shared_link
from .ssh_config import SAFE_WORD, parse_hop

if TYPE_CHECKING:
    from .paramiko_safe import SafeChannel
    from .ssh_connection import Connection
    from .tunnel import Tunnel

_Number = TypeVar("_Number", int, float)

HOST_KEY_RULES = ("strict", "accept-new", "ignore")


def _safe_word(instance: object, attribute: attrs.Attribute[str], value: str | None) -> None:
    """Refuse what could be read as an option or by a shell: these words reach ``ssh -G`` and proxy commands."""
    if value is not None and not SAFE_WORD.fullmatch(value):
        raise InvalidValue(
            f"{value!r} can't be the {attribute.name} of an SSH connection: "
            "only letters, digits and ._:@%+- may appear in it, and not - at its start"
        )


def _port_number(instance: object, attribute: attrs.Attribute[int], value: int | None) -> None:
    if value is not None and not 0 < value < 65536:
        raise InvalidValue(f"{value} is no TCP port: a number from 1 to 65535 is needed")


def _positive(instance: object, attribute: attrs.Attribute[_Number], value: _Number) -> None:
    if not value > 0:
        raise InvalidValue(f"the {attribute.name} of an SSH connection has to be more than 0, not {value}")


def _host_key_rule(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value not in HOST_KEY_RULES:
        raise InvalidValue(f"host_keys is one of {', '.join(HOST_KEY_RULES)}, not {value!r}")


def _jump_hosts(instance: object, attribute: attrs.Attribute[str], value: str | None) -> None:
    if value and value != "none":
        for hop in value.split(","):
            parse_hop(hop)


@attrs.frozen
class SshSettings:
    """How to reach a machine by SSH. What is not given comes from the user's own SSH configuration.

    Parameters
    ----------
    host : str
        Name or address of the machine, or an alias that the SSH configuration knows.
    username, port : str, int, optional
        Account and TCP port there.
    keyfile : str, optional
        Private key to offer first.
    certificate : str, optional
        Certificate for `keyfile`; default is ``KEYFILE-cert.pub`` where that exists.
    ssh_config : str, optional
        SSH configuration file to read instead of the user's; ``none`` reads no file at all.
    timeout : float
        Seconds that each step of connecting, and the opening of a session, may take.
    password_command : str, optional
        Shell command run on this machine; its output is the password or the key's passphrase.
    gateway : str, optional
        Jump host or hosts, ``user@host:port,...`` in the order they are passed; ``none`` goes directly. Account
        and `password_command` are used for them as well.
    host_keys : str
        ``strict`` accepts only known host keys, ``accept-new`` also remembers those of hosts never seen,
        ``ignore`` does not check.
    known_hosts : tuple of str
        Files with host keys, beside those that OpenSSH reads.
    keepalive : float
        Seconds of silence after which a connection that somebody waits for is asked for a sign of life. It is
        given up for dead when none has come after one and a half times as long.
    sessions : int
        Programs running at a time on one connection; OpenSSH servers allow ten.
    session_wait : float
        Seconds that `SshCarrier.open` waits for one of them to end.
    """

    host: str = attrs.field(validator=_safe_word)
    username: str | None = attrs.field(default=None, validator=_safe_word)
    port: int | None = attrs.field(default=None, validator=_port_number)
    keyfile: str | None = None
    certificate: str | None = None
    ssh_config: str | None = None
    timeout: float = attrs.field(default=30.0, validator=_positive)
    password_command: str | None = attrs.field(default=None, repr=False)
    gateway: str | None = attrs.field(default=None, validator=_jump_hosts)
    host_keys: str = attrs.field(default="strict", validator=_host_key_rule)
    known_hosts: tuple[str, ...] = ()
    keepalive: float = attrs.field(default=10.0, validator=_positive)
    sessions: int = attrs.field(default=8, validator=_positive)
    session_wait: float = attrs.field(default=600.0, validator=_positive)

    @property
    def target(self) -> str:
        """``user@host`` for messages."""
        return f"{self.username}@{self.host}" if self.username else self.host


class SshCarrier(SharedCarrier["Connection"]):
    """Start programs on a machine reached by SSH.

    Parameters
    ----------
    settings : SshSettings
        How to reach the machine.
    prompt : callable, optional
        Asks a person for passwords, passphrases and codes. Without it nobody is asked, and a server that
        needs an answer is an error.
    """

    def __init__(
        self, settings: SshSettings, prompt: Prompt | None = None, *, _link: Link[Connection] | None = None
    ) -> None:
        super().__init__(settings.target, _link or Link(settings.target, _connect(settings), prompt))
        self.settings = settings

    def forward(self, remote_host: str, remote_port: int, local: tuple[str, int] | str = ("127.0.0.1", 0)) -> Tunnel:
        """Make a TCP service that the machine can reach available on this one.

        Parameters
        ----------
        remote_host, remote_port : str, int
            The service, as seen from the machine.
        local : tuple of (str, int) or str
            Loopback address and port to listen on (0 chooses a port), or the path of a Unix socket in a
            directory that is closed to other users.

        Returns
        -------
        Tunnel
            A context manager; its ``local_address`` is where to connect to.

        Raises
        ------
        ConnectionFailed
            No connection could be made.
        InvalidValue
            `local` could be reached by other users.
        """
        from .tunnel import Tunnel

        self._link.use(self, lambda connection: None)
        return Tunnel(self, remote_host, remote_port, local)

    def open_tcp(self, host: str, port: int) -> tuple[Connection, SafeChannel]:
        """Connect to a TCP service from the machine.

        Returns
        -------
        tuple of (Connection, SafeChannel)
            The connection to look after, and the service's stream.

        Raises
        ------
        ConnectionFailed
            The service, or the machine itself, can't be reached.
        """
        return self._link.use(self, lambda connection: (connection, connection.open_tcp(host, port)))


def shared_carrier(settings: SshSettings, prompt: Prompt | None = None) -> SshCarrier:
    """Make a carrier that shares its connection with all carriers of the same settings in this process.

    Parameters
    ----------
    settings : SshSettings
        How to reach the machine.
    prompt : callable, optional
        As for `SshCarrier`.
    """
    link = shared_link((SshCarrier, settings), lambda: Link(settings.target, _connect(settings), prompt))
    link.prompt = link.prompt or prompt
    return SshCarrier(settings, prompt, _link=link)


def _connect(settings: SshSettings) -> Callable[[Prompt | None], Connection]:
    def connect(prompt: Prompt | None) -> Connection:
        from .ssh_connection import Connection

        return Connection(settings, prompt)

    return connect
