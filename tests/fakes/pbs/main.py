#!/usr/bin/python3 -IS
"""All commands of the pretended OpenPBS, by the name under which this file is called."""

import importlib
import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(here))))
    command = os.path.basename(sys.argv[0])
    module = command if command in ("qsub", "qstat") else "control"
    run = importlib.import_module(f"tests.fakes.{os.path.basename(here)}.{module}")
    sys.exit(run.main(sys.argv[1:]) if module == command else run.main(command, sys.argv[1:]))
