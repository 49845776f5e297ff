"""Other libraries that do the same work as batchlib, each run by the Python of an environment of its own.

    tests/benchmarks/install_peers DIRECTORY
    BATCHLIB_PEERS=DIRECTORY python -m tests.benchmarks.submit

The first command makes the environments. The driver of a peer is ``peer_NAME.py``: it reads a JSON object from its
standard input and prints another one as its last line, with the seconds until all jobs were submitted and until all
outputs were there. Its own start and import are in neither.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.frontend import FrontEnd

PEERS = ("gc3pie", "aiida")
#: Seconds after which a peer is given up.
PATIENCE = 1800


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Let an option for each peer name its Python."""
    for peer in PEERS:
        python = Path(os.environ.get("BATCHLIB_PEERS", "/nonexistent")) / peer / "bin" / "python"
        parser.add_argument(
            f"--{peer}",
            type=_python,
            metavar="PYTHON",
            default=python if python.exists() else None,
            help=f"which has {peer} (default: $BATCHLIB_PEERS/{peer}/bin/python)",
        )


def peer_ways(chosen: argparse.Namespace, command: str) -> dict[str, Callable[[FrontEnd, Path, int], float]]:
    """Give the ways to do the work of the peers that are installed; `command` is what each job runs."""
    pythons = {peer: getattr(chosen, peer) for peer in PEERS}
    return {peer: functools.partial(_with_peer, peer, python, command) for peer, python in pythons.items() if python}


def _python(text: str) -> Path:
    path = Path(text).absolute()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no {path}; tests/benchmarks/install_peers makes environments")
    return path


def _with_peer(peer: str, python: Path, command: str, frontend: FrontEnd, work: Path, jobs: int) -> float:
    ssh = ["ssh", "-F", str(frontend.config), frontend.name]
    # AiiDA's first jobs would hinder each other in making it
    make = "mkdir -p batchlib-peer && cd batchlib-peer && pwd"
    remote = subprocess.run([*ssh, make], check=True, capture_output=True, text=True).stdout.strip()
    todo = {
        "host": frontend.host,
        "port": frontend.port,
        "user": frontend.user,
        "keyfile": str(frontend.keyfile),
        "name": frontend.name,
        "remote": remote,
        "work": str(work),
        "jobs": jobs,
        "command": command,
    }
    try:
        done = subprocess.run(
            [python, "-I", Path(__file__).with_name(f"peer_{peer}.py")],
            input=json.dumps(todo),
            env={"HOME": str(_home(frontend, work)), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{peer} was given up after {PATIENCE} seconds.") from None
    if done.returncode:
        raise SystemExit(f"{peer} failed:\n{done.stderr}")
    subprocess.run([*ssh, f"rm -rf {remote}"], check=True)
    seconds = json.loads(done.stdout.splitlines()[-1])
    pauses = done.stderr.count("retrying after")
    print(
        f"{peer}: {seconds['total']:.2f} s, of which submission {seconds['submission']:.2f} s; "
        f"{pauses} steps failed and were repeated after a pause",
        file=sys.stderr,
        flush=True,
    )
    return float(seconds["total"])


def _home(frontend: FrontEnd, work: Path) -> Path:
    """Make a home directory in which a peer finds the front end, and nothing of the user's."""
    home = work / "home"
    (home / ".ssh").mkdir(parents=True)
    shutil.copy(frontend.config, home / ".ssh" / "config")
    shutil.copy(frontend.known_hosts, home / ".ssh" / "known_hosts")
    return home
