"""Programs on a machine reached by the user's own OpenSSH client.

Whatever ``ssh`` can do works here: open shared connections (``ControlMaster``), Kerberos, hardware keys, smart cards,
host certificates. Every program is started through a shared connection, so that many of them cost one login.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Pipe
from .shared import Link, Prompt, SharedCarrier, shared_link
from .ssh import SshSettings

if TYPE_CHECKING:
    from .openssh_connection import Connection
    from .openssh_tunnel import OpensshTunnel


class OpensshCarrier(SharedCarrier["Connection"]):
    """Start programs on a machine through the user's own OpenSSH client.

    Parameters
    ----------
    settings : SshSettings
        How to reach the machine.
    prompt : callable, optional
        Given where somebody sits at a terminal: ``ssh`` itself asks there for passwords and codes. Without it nobody
        is asked, and a server that needs an answer is an error.
    """

    def __init__(
        self, settings: SshSettings, prompt: Prompt | None = None, *, _link: Link[Connection] | None = None
    ) -> None:
        super().__init__(settings.target, _link or _new_link(settings, prompt))
        self.settings = settings

    def forward(
        self, remote_host: str, remote_port: int, local: tuple[str, int] | str = ("127.0.0.1", 0)
    ) -> OpensshTunnel:
        """Make a TCP service that the machine can reach available on this one.

        Parameters, result and errors are those of `SshCarrier.forward`.
        """
        from .openssh_tunnel import OpensshTunnel

        self._link.use(self, lambda connection: None)
        return OpensshTunnel(self, (remote_host, remote_port), local)

    def open_tcp(self, host: str, port: int) -> Pipe:
        """Connect to a TCP service from the machine; what it says is the pipe's standard output.

        Raises
        ------
        ConnectionFailed
            The service, or the machine itself, can't be reached.
        """
        return self._link.use(self, lambda connection: connection.open_tcp(host, port))


def shared_openssh(settings: SshSettings, prompt: Prompt | None = None) -> OpensshCarrier:
    """Make a carrier that shares its connection with all carriers of the same settings in this process.

    Parameters
    ----------
    settings, prompt
        As for `OpensshCarrier`.
    """
    link = shared_link((OpensshCarrier, settings), lambda: _new_link(settings, prompt))
    link.prompt = link.prompt or prompt
    return OpensshCarrier(settings, _link=link)


def _new_link(settings: SshSettings, prompt: Prompt | None) -> Link[Connection]:
    def connect(prompt: Prompt | None) -> Connection:
        from .openssh_connection import Connection

        return Connection(settings, person=prompt is not None)

    return Link(settings.target, connect, prompt)
