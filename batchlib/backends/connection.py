"""From a resource's settings to a connection."""

from __future__ import annotations

from ..settings import ResourceSettings
from ..transport.local import LocalTransport
from ..transport.remote import OpensshTransport, SshTransport
from ..transport.shared import Prompt
from ..transport.transport import Transport

_prompt: Prompt | None = None


def set_prompt(prompt: Prompt | None) -> None:
    """Set who is asked for passwords and codes; without anybody, a server that wants them is an error.

    Parameters
    ----------
    prompt : callable or None
        Takes a question and whether the answer may be shown, returns the answer.
    """
    global _prompt
    _prompt = prompt


def connect(settings: ResourceSettings) -> Transport:
    """Make the transport for a resource; it connects when it is first used.

    Parameters
    ----------
    settings : ResourceSettings
        The resource.
    """
    if settings.ssh is None:
        return LocalTransport(setup=settings.setup, timeout=settings.timeout)
    remote = OpensshTransport if settings.transport == "openssh" else SshTransport
    return remote(settings.ssh, prompt=_prompt, setup=settings.setup, timeout=settings.timeout)
