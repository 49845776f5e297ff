"""``gservers``: the resources, and how busy they are."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from ..errors import BatchlibError
from .common import Invocation, command, run

if TYPE_CHECKING:
    from ..backends.base import ResourceStatus
    from ..settings import ResourceSettings

_EXAMPLE = """
gservers
gservers cluster --json
"""
_HEADERS = ("RESOURCE", "TYPE", "WHERE", "CORES", "FREE", "MY QUEUED", "MY RUNNING", "QUEUED", "RUNNING", "STATUS")


class Server(NamedTuple):
    """One resource and what it answered.

    Parameters
    ----------
    settings : ResourceSettings
        The resource.
    status : ResourceStatus, optional
        Its answer.
    error : str, optional
        Why there is none.
    """

    settings: ResourceSettings
    status: ResourceStatus | None = None
    error: str | None = None

    @property
    def where(self) -> str:
        """Where it is."""
        return self.settings.ssh.target if self.settings.ssh else "this machine"


@command("gservers", example=_EXAMPLE, session=False)
@click.argument("names", metavar="[RESOURCE...]", nargs=-1)
def gservers(invocation: Invocation, names: Sequence[str]) -> int:
    """Show the resources that are configured (default: all), and how busy they are.

    All are asked at the same time. The exit status is the number of those that gave no answer.
    """
    from .output import print_json

    configuration = invocation.configuration
    chosen = [configuration.settings(name) for name in names] or list(configuration.resources.values())
    servers = _ask(invocation, chosen)
    if invocation.as_json:
        print_json({"resources": [_document(server) for server in servers]})
    else:
        _print_table(servers)
        for server in servers:
            if server.error:
                invocation.say(server.error)
    return sum(server.error is not None for server in servers)


def _ask(invocation: Invocation, chosen: Sequence[ResourceSettings]) -> list[Server]:
    """Ask resources, each in a thread of its own."""
    invocation.be_ready_to_connect()
    answers: queue.SimpleQueue[Server] = queue.SimpleQueue()

    def ask(settings: ResourceSettings) -> None:
        try:
            backend = invocation.configuration.resource(settings.name)
            server = Server(settings, backend.get_resource_status())
            backend.close()
        except BatchlibError as error:
            server = Server(settings, error=str(error) if error.resource else f"{settings.name}: {error}")
        except Exception as error:  # noqa: BLE001 - one resource never hides the others
            server = Server(settings, error=f"{settings.name}: unexpected {type(error).__name__}: {error}")
        answers.put(server)

    asked = [settings for settings in chosen if settings.enabled]
    for settings in asked:
        # daemons: whoever does not want to wait for a dead one need not
        threading.Thread(target=ask, args=(settings,), daemon=True).start()
    found = {server.settings.name: server for server in (answers.get() for _ in asked)}
    return [found.get(settings.name, Server(settings)) for settings in chosen]


def _document(server: Server) -> dict[str, object]:
    settings = server.settings
    import attrs

    from ..backends.base import ResourceStatus

    numbers = dict.fromkeys(attrs.fields_dict(ResourceStatus)) if server.status is None else attrs.asdict(server.status)
    return {
        "name": settings.name,
        "type": settings.type,
        "transport": settings.transport,
        "frontend": settings.ssh.host if settings.ssh else None,
        "enabled": settings.enabled,
        **numbers,
        "error": server.error,
    }


def _print_table(servers: Sequence[Server]) -> None:
    from .table import table

    rows = []
    for server in servers:
        status = server.status
        state = "ok" if status else "no answer" if server.error else "not enabled"
        numbers: list[int | None] = [None] * 6
        if status is not None:
            numbers = [status.cores, status.free_cores, status.own_queued, status.own_running]
            numbers += [status.queued, status.running]
        shown = ["" if number is None else str(number) for number in numbers]
        rows.append((server.settings.name, server.settings.type, server.where, *shown, state))
    print("\n".join(table(_HEADERS, rows)))


def main() -> None:
    """Run the command."""
    run(gservers)


if __name__ == "__main__":
    main()
