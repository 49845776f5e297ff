"""One big file up and down over SSH: batchlib against scp, sftp and rsync with the same cipher, at several delays.

All start without a connection, and what is counted ends when the file is there. With ``--connected`` nobody's login
counts: the rivals share a connection that OpenSSH keeps open, and batchlib has its own. Over long links the rivals send
less, and their time is scaled, but for that of their login: their rate does not depend on the size there, but the
patience of the reader does. Ways take turns; the best rival counts.

    python -m tests.benchmarks.big_files [--size MIB] [--delay MS ...] [--rounds N] [--connected]

Starts an SSH server of its own. Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path

from batchlib.transport.remote import SshTransport
from tests.benchmarks.far import Far, call, far_machines, memory, timed

MIB = 1 << 20
GIB = 1 << 30
#: Bytes per second that a rival reaches at most on a link with a delay: its window of 2 MiB, once each round trip.
WINDOW = 2 * MIB
#: Seconds that a rival may take for one file on a long link.
PATIENCE = 5.0

Way = Callable[[Far, str, Path, Path], None]


def scp(far: Far, direction: str, here: Path, there: Path) -> None:
    """Copy with scp."""
    ends = [str(here), f"far:{there}"]
    call("scp", "-q", "-F", far.config, *(ends if direction == "up" else reversed(ends)))


def sftp(far: Far, direction: str, here: Path, there: Path) -> None:
    """Copy with OpenSSH's sftp."""
    batch = here.with_name("batch")
    batch.write_text(f"put {here} {there}\n" if direction == "up" else f"get {there} {here}\n")
    call("sftp", "-q", "-F", far.config, "-b", batch, "far")


def rsync(far: Far, direction: str, here: Path, there: Path) -> None:
    """Copy with rsync, told not to compare."""
    ends = [str(here), f"far:{there}"]
    shell = " ".join(far.ssh[:-1])
    call("rsync", "-W", "--inplace", "-e", shell, *(ends if direction == "up" else reversed(ends)))


RIVALS: dict[str, Way] = {"scp": scp, "sftp": sftp, "rsync": rsync}


def ours(transport: SshTransport, direction: str, here: Path, there: Path) -> None:
    """Copy with batchlib."""
    if direction == "up":
        transport.put(here, str(there), overwrite=True)
    else:
        transport.get(str(there), here, overwrite=True)


class Measurement:
    """All that is measured at one delay.

    Parameters
    ----------
    far
        The machine.
    delay
        Milliseconds of round-trip time to it.
    size
        Bytes that we send.
    directory
        Where our files are.
    """

    def __init__(self, far: Far, delay: float, size: int, directory: Path) -> None:
        self.far, self.delay, self.size = far, delay, size
        self.fair_size = size if not delay else min(size, max(32 * MIB, int(PATIENCE * WINDOW / delay * 1000)))
        self.directory = directory
        self.rates: dict[tuple[str, str], list[float]] = {}
        self.cpu: dict[str, list[float]] = {}
        self.logins: dict[tuple[str, str], float] = {}

    def round(self) -> None:
        """Measure each way once in each direction."""
        for direction in ("up", "down"):
            for name, way in RIVALS.items():
                seconds = self.rival(way, direction, self.fair_size)
                if self.fair_size != self.size:
                    if (name, direction) not in self.logins:
                        self.logins[name, direction] = self.rival(way, direction, 0)
                    login = self.logins[name, direction]
                    seconds = login + (seconds - login) * self.size / self.fair_size
                self.rates.setdefault((name, direction), []).append(self.size / MIB / seconds)

            def action(here: Path, there: Path, to: str = direction) -> None:
                ours(transport, to, here, there)

            with self.far.transport() as transport:
                seconds, cpu = self.copy(direction, self.size, action)
            self.rates.setdefault(("batchlib", direction), []).append(self.size / MIB / seconds)
            self.cpu.setdefault(direction, []).append(cpu * GIB / self.size)

    def rival(self, way: Way, direction: str, size: int) -> float:
        """Give the seconds that a rival takes."""
        return self.copy(direction, size, lambda here, there: way(self.far, direction, here, there))[0]

    def copy(self, direction: str, size: int, action: Callable[[Path, Path], None]) -> tuple[float, float]:
        """Copy a file of some size and check what came; give seconds and processor seconds."""
        source, target = self.directory / "source", self.directory / "target"
        fill(source, size)
        there = self.far.directory / "file"
        ends = (source, there) if direction == "up" else (target, source)
        try:
            took = timed(lambda: action(*ends))
            copied = there if direction == "up" else target
            if not same(source, copied):
                raise SystemExit(f"{copied} is not what was sent")
        finally:
            there.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
        return took

    def ratio(self, direction: str) -> float:
        """Say how many times as fast as the best rival we are."""
        best = max(statistics.median(self.rates[name, direction]) for name in RIVALS)
        return statistics.median(self.rates["batchlib", direction]) / best


def fill(path: Path, size: int) -> None:
    """Make a file of random bytes, unless there is one of that size already."""
    if path.exists() and path.stat().st_size == size:
        return
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))


def same(one: Path, two: Path) -> bool:
    """Compare two files."""
    if one.stat().st_size != two.stat().st_size:
        return False
    with one.open("rb") as first, two.open("rb") as second:
        while block := first.read(4 * MIB):
            if block != second.read(4 * MIB):
                return False
    return True


def report(measurements: list[Measurement], size: int, connected: bool) -> None:
    """Print the table and the JSON line."""
    print(f"one file of {size} MiB; MiB/s, median (all rounds)")
    results = []
    for found in measurements:
        for direction in ("up", "down"):
            cells = []
            medians = {}
            for name in (*RIVALS, "batchlib"):
                rates = found.rates[name, direction]
                medians[name] = statistics.median(rates)
                cells.append(f"{name} {medians[name]:6.1f} ({' '.join(f'{rate:.0f}' for rate in rates)})")
            cpu = statistics.median(found.cpu[direction])
            ratio = found.ratio(direction)
            print(
                f"{found.delay:5g} ms {direction:<4}  " + "  ".join(cells) + f"  {cpu:.2f} CPU s/GiB  ratio {ratio:.2f}"
            )
            results.append(
                {
                    "delay_ms": found.delay,
                    "direction": direction,
                    "mib_per_second": {name: round(rate, 1) for name, rate in medians.items()},
                    "cpu_seconds_per_gib": round(cpu, 2),
                    "ratio": round(ratio, 2),
                }
            )
    print(json.dumps({"benchmark": "big_files", "size_mib": size, "connected": connected, "results": results}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="One big file over SSH, against scp, sftp and rsync.")
    parser.add_argument("--size", type=int, default=512, help="MiB (default: %(default)s)")
    parser.add_argument(
        "--delay", type=float, nargs="+", default=[0, 20, 100], help="round-trip times in ms (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds without delay; with, one (default: %(default)s)")
    parser.add_argument("--connected", action="store_true", help="let no login count")
    chosen = parser.parse_args()
    size = chosen.size * MIB
    measurements = []
    with memory(3 * size) as directory, far_machines(directory, chosen.delay, connected=chosen.connected) as machines:
        (directory / "near").mkdir()
        for delay, far in machines.items():
            measurement = Measurement(far, delay, size, directory / "near")
            for _ in range(1 if delay else chosen.rounds):
                measurement.round()
            measurements.append(measurement)
    report(measurements, chosen.size, chosen.connected)


if __name__ == "__main__":
    main()
