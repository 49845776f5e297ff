"""What a connection, a program and a stream cost through paramiko and through the system's ssh.

The two take turns, so that both meet the same machine.

    python -m tests.benchmarks.carriers [--rounds N] [--programs N] [--size MIB] [--delay MILLISECONDS]

Starts an SSH server of its own. Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from batchlib.transport.openssh import OpensshCarrier
from batchlib.transport.ssh import SshCarrier, SshSettings
from batchlib.transport.transport import Transport
from tests.benchmarks.link import delayed_link
from tests.servers.sshd import Sshd

KINDS = {"paramiko": SshCarrier, "openssh": OpensshCarrier}
_PIECE = bytes(1 << 20)


def seconds(work: Callable[[], object]) -> float:
    """Time something."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(settings: SshSettings, kind: str, programs: int, size: int) -> dict[str, float]:
    """Measure one carrier once: milliseconds, and MiB a second."""
    carrier = KINDS[kind](settings)
    with contextlib.closing(carrier), Transport(carrier) as transport:

        def start_one() -> None:
            pipe = carrier.open("exec cat")
            pipe.write(b"x")
            pipe.read(60)
            pipe.close()

        def download() -> None:
            with transport.receive(f"head -c {size << 20} /dev/zero") as incoming:
                if sum(map(len, incoming)) != size << 20:
                    raise RuntimeError("the stream is not complete")

        connection = seconds(start_one)
        transport.run("true")
        return {
            "connection and one program, ms": 1000 * connection,
            "program in a session of its own, ms": 1000
            * seconds(lambda: [start_one() for _ in range(programs)])
            / programs,
            "program in a shell that is there, ms": 1000
            * seconds(lambda: [transport.run("true") for _ in range(programs)])
            / programs,
            "stream up, MiB/s": size / seconds(lambda: transport.send("cat >/dev/null", (_PIECE for _ in range(size)))),
            "stream down, MiB/s": size / seconds(download),
        }


@contextlib.contextmanager
def reachable(delay: float) -> Iterator[SshSettings]:
    """Start a server behind a link, and give the way there."""
    with tempfile.TemporaryDirectory(prefix="batchlib-") as directory:
        Path(directory).chmod(0o755)
        with Sshd(Path(directory) / "sshd") as server, delayed_link(server.host, server.port, delay) as port:
            known = Path(directory) / "known_hosts"
            known.write_text(server.known_hosts.read_text().replace(f":{server.port} ", f":{port} "))
            yield SshSettings(
                server.host,
                port=port,
                username=server.user,
                keyfile=str(server.keyfile),
                known_hosts=(str(known),),
                ssh_config="none",
            )


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured; the median counts")
    parser.add_argument("--programs", type=int, default=40, help="programs a round")
    parser.add_argument("--size", type=int, default=128, help="MiB of a stream")
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds of a round trip to the server")
    asked = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    with reachable(asked.delay) as settings:
        for _ in range(asked.rounds):
            for kind in KINDS:
                for what, value in measure(settings, kind, asked.programs, asked.size).items():
                    found[kind].setdefault(what, []).append(value)
    medians = {kind: {what: statistics.median(values) for what, values in rows.items()} for kind, rows in found.items()}
    print(f"{'':38}{'paramiko':>10}{'openssh':>10}{'ratio':>8}")
    for what, paramiko in medians["paramiko"].items():
        openssh = medians["openssh"][what]
        print(f"{what:38}{paramiko:10.1f}{openssh:10.1f}{openssh / paramiko:8.2f}")
    print(json.dumps({**vars(asked), "medians": medians}))


if __name__ == "__main__":
    main()
