#!/usr/bin/python3 -IS
"""The LSF commands: all are this program, under names of their own."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.abspath(os.path.join(os.path.realpath(__file__), *[os.pardir] * 4)))

from tests.fakes.lsf.options import Failure, raw

#: Where each command is: in modules that are read only when they are used.
_MODULES = {
    "bsub": "submission",
    "bjobs": "listing",
    "bhist": "history",
    "bqueues": "cluster",
    "bhosts": "cluster",
    "bparams": "cluster",
    "lsid": "cluster",
}


def main() -> int:
    """Run the command that this program was called as."""
    for stream in (sys.stdout, sys.stderr):
        # bytes go through as they are, and count as they do in C
        stream.reconfigure(encoding="latin-1")  # type: ignore[union-attr]
    name = os.path.basename(sys.argv[0])
    directory = os.environ.get("LSF_ENVDIR")
    try:
        if directory and not os.path.exists(os.path.join(directory, "lsf.conf")):
            raise Failure("lsb_init: Failed in an LSF library call: Unable to open file lsf.conf")
        module = __import__(f"tests.fakes.lsf.{_MODULES.get(name, 'control')}", fromlist=["main"])
        return int(module.main(name, [raw(word) for word in sys.argv[1:]]))
    except Failure as failure:
        sys.stdout.flush()
        print(failure.text, file=sys.stderr)
        return failure.code


if __name__ == "__main__":
    sys.exit(main())
