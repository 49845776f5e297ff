"""Run the scenarios on the resources that are named on the command line."""

from .scenarios import *  # noqa: F403
