"""A machine reached by SSH."""

from __future__ import annotations

from collections.abc import Callable

from .base import Carrier
from .openssh import shared_openssh
from .programs import DEFAULT_TIMEOUT
from .shared import Prompt
from .ssh import SshSettings, shared_carrier
from .transport import Transport


class SshTransport(Transport):
    """Another machine: `Transport` over an SSH connection, which is made at its first use.

    Parameters
    ----------
    settings : SshSettings
        How to reach it. All transports with the same settings share one connection.
    prompt : callable, optional
        Asks a person for passwords and codes: takes a question and whether the answer may be shown.
    setup, timeout
        As for `Transport`.
    """

    _share: Callable[[SshSettings, Prompt | None], Carrier] = staticmethod(shared_carrier)

    def __init__(
        self,
        settings: SshSettings,
        *,
        prompt: Prompt | None = None,
        setup: str = "",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        super().__init__(self._share(settings, prompt), setup=setup, timeout=timeout)


class OpensshTransport(SshTransport):
    """Another machine: `Transport` over the user's own OpenSSH client, which is started at its first use.

    Parameters are those of `SshTransport`. Where a `prompt` is given, ``ssh`` itself asks at the terminal.
    """

    _share = staticmethod(shared_openssh)
