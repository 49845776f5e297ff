"""Many small files up and down over SSH: batchlib against tar through ssh, rsync, and SFTP file by file.

All but SFTP start without a connection. With ``--connected`` nobody's login counts: tar and rsync share a connection
that OpenSSH keeps open, and batchlib has its own. Nothing is there before, and we don't look whether it is, as tar does
not. SFTP is paramiko's; it gets fewer files and one round only, and its time is scaled. Ways take turns.

    python -m tests.benchmarks.many_files [--files N] [--size BYTES] [--delay MS ...] [--rounds N] [--connected]

Starts an SSH server of its own. Prints a table and, as its last line, a JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko

from tests.benchmarks.far import Far, call, far_machines, memory, timed

#: Files that the way file by file gets without a delay, and over a link with one.
SOME, FEW = 1000, 100
DIRECTORIES = 50

Way = Callable[[Far, Path, Path], None]


def tar_up(far: Far, here: Path, there: Path) -> None:
    """Send with tar through ssh."""
    with subprocess.Popen(["tar", "cf", "-", "-C", str(here), "."], stdout=subprocess.PIPE) as tar:
        call(*far.ssh, f"mkdir {there} && tar xf - -C {there}", stdin=tar.stdout)


def tar_down(far: Far, here: Path, there: Path) -> None:
    """Fetch with tar through ssh."""
    here.mkdir()
    with subprocess.Popen([*far.ssh, f"tar cf - -C {there} ."], stdout=subprocess.PIPE) as tar:
        call("tar", "xf", "-", "-C", here, stdin=tar.stdout)


def rsync_up(far: Far, here: Path, there: Path) -> None:
    """Send with rsync."""
    call("rsync", "-a", "-e", " ".join(far.ssh[:-1]), f"{here}/", f"far:{there}")


def rsync_down(far: Far, here: Path, there: Path) -> None:
    """Fetch with rsync."""
    call("rsync", "-a", "-e", " ".join(far.ssh[:-1]), f"far:{there}/", here)


RIVALS: dict[str, dict[str, Way]] = {
    "tar": {"up": tar_up, "down": tar_down},
    "rsync": {"up": rsync_up, "down": rsync_down},
}


class Measurement:
    """All that is measured at one delay.

    Parameters
    ----------
    far
        The machine.
    delay
        Milliseconds of round-trip time to it.
    source
        The tree that is copied.
    few
        A part of it, for SFTP.
    """

    def __init__(self, far: Far, delay: float, source: Path, few: Path) -> None:
        self.far, self.delay, self.source, self.few = far, delay, source, few
        self.seconds: dict[tuple[str, str], list[float]] = {}

    def round(self) -> None:
        """Measure each way once in each direction."""
        for direction in ("up", "down"):
            for name, ways in RIVALS.items():
                self.note(name, direction, self.copy(direction, self.source, ways[direction]))
            with self.far.transport() as transport:

                def ours(far: Far, here: Path, there: Path, to: str = direction) -> None:
                    if to == "up":
                        transport.put(here, str(there), overwrite=True)
                    else:
                        transport.get(str(there), here, overwrite=True)

                self.note("batchlib", direction, self.copy(direction, self.source, ours))
            if ("sftp", direction) not in self.seconds:
                self.note("sftp", direction, self.sftp(direction) * count(self.source) / count(self.few))

    def note(self, name: str, direction: str, seconds: float) -> None:
        """Keep a result."""
        self.seconds.setdefault((name, direction), []).append(seconds)

    def copy(self, direction: str, source: Path, way: Way) -> float:
        """Copy a tree and check what came; give the seconds."""
        there = self.far.directory / "tree"
        target = source.with_name("target")
        ends = (source, there) if direction == "up" else (target, source)
        copied = there if direction == "up" else target
        try:
            seconds, _ = timed(lambda: way(self.far, *ends))
            if contents(copied) != contents(source):
                raise SystemExit(f"{copied} is not what was sent")
        finally:
            shutil.rmtree(copied, ignore_errors=True)
        return seconds

    def sftp(self, direction: str) -> float:
        """Copy a few files one by one; give the seconds."""
        options = paramiko.SSHConfig.from_path(str(self.far.config)).lookup("far")
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.MissingHostKeyPolicy())
            client.connect(
                options["hostname"],
                int(options["port"]),
                options["user"],
                key_filename=options["identityfile"][0],
                allow_agent=False,
                look_for_keys=False,
            )
            with client.open_sftp() as session:

                def way(far: Far, here: Path, there: Path) -> None:
                    source, target = (here, there) if direction == "up" else (there, here)
                    made = (lambda path: session.mkdir(str(path))) if direction == "up" else Path.mkdir
                    move = session.put if direction == "up" else session.get
                    for path in [source, *sorted(source.rglob("*"))]:
                        goal = target / path.relative_to(source)
                        if path.is_dir():
                            made(goal)
                        else:
                            move(str(path), str(goal))

                return self.copy(direction, self.few, way)


def make_tree(root: Path, files: int, size: int) -> None:
    """Make files of random bytes in some directories."""
    for number in range(files):
        directory = root / f"directory{number % DIRECTORIES:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file{number:06d}.dat").write_bytes(os.urandom(size))


def contents(root: Path) -> dict[str, bytes]:
    """Read a tree."""
    return {str(path.relative_to(root)): path.read_bytes() for path in files_in(root)}


def files_in(root: Path) -> Iterator[Path]:
    """List the files of a tree."""
    return (path for path in root.rglob("*") if path.is_file())


def count(root: Path) -> int:
    """Count the files of a tree."""
    return sum(1 for _ in files_in(root))


def report(measurements: list[Measurement], files: int, size: int, connected: bool) -> None:
    """Print the table and the JSON line."""
    print(f"{files} files of {size} bytes; seconds, median (all rounds); times as fast as tar, rsync, sftp")
    results = []
    for found in measurements:
        for direction in ("up", "down"):
            cells = []
            medians = {}
            for name in ("tar", "rsync", "sftp", "batchlib"):
                seconds = found.seconds[name, direction]
                medians[name] = statistics.median(seconds)
                cells.append(f"{name} {medians[name]:6.2f} ({' '.join(f'{one:.2f}' for one in seconds)})")
            ratios = {name: medians[name] / medians["batchlib"] for name in ("tar", "rsync", "sftp")}
            times = " ".join(f"{ratio:.2f}" for ratio in ratios.values())
            print(f"{found.delay:5g} ms {direction:<4}  {'  '.join(cells)}  ratios {times}")
            results.append(
                {
                    "delay_ms": found.delay,
                    "direction": direction,
                    "seconds": {name: round(one, 3) for name, one in medians.items()},
                    "ratios": {name: round(one, 2) for name, one in ratios.items()},
                }
            )
    print(
        json.dumps(
            {"benchmark": "many_files", "files": files, "size": size, "connected": connected, "results": results}
        )
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Many small files over SSH, against tar, rsync and SFTP.")
    parser.add_argument("--files", type=int, default=5000, help="files (default: %(default)s)")
    parser.add_argument("--size", type=int, default=4096, help="bytes of each (default: %(default)s)")
    parser.add_argument(
        "--delay", type=float, nargs="+", default=[0, 20], help="round-trip times in ms (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (default: %(default)s)")
    parser.add_argument("--connected", action="store_true", help="let no login count")
    chosen = parser.parse_args()
    measurements = []
    with (
        memory(4 * chosen.files * (chosen.size + 4096)) as directory,
        far_machines(directory, chosen.delay, connected=chosen.connected) as machines,
    ):
        source = directory / "source"
        make_tree(source, chosen.files, chosen.size)
        for few in (SOME, FEW):
            make_tree(directory / f"few{few}", min(few, chosen.files), chosen.size)
        for delay, far in machines.items():
            measurement = Measurement(far, delay, source, directory / f"few{FEW if delay else SOME}")
            for _ in range(chosen.rounds):
                measurement.round()
            measurements.append(measurement)
    report(measurements, chosen.files, chosen.size, chosen.connected)


if __name__ == "__main__":
    main()
