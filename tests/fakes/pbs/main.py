#!/usr/bin/python3 -IS
"""All commands of the pretended PBS systems, by the directory and the name under which this file is called."""

import importlib
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(os.path.realpath(__file__)), *[os.pardir] * 3)))
    binaries, command = os.path.split(os.path.abspath(sys.argv[0]))
    system = os.path.basename(os.path.dirname(binaries))
    module = command if command in ("qsub", "qstat") else "control"
    run = importlib.import_module(f"tests.fakes.{system}.{module}")
    sys.exit(run.main(sys.argv[1:]) if module == command else run.main(command, sys.argv[1:]))
