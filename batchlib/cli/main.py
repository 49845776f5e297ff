"""``batchlib``: what is not about tasks."""

from __future__ import annotations

from .common import group, run
from .doctor import doctor
from .show_config import config

_EXAMPLE = """
batchlib doctor cluster     can this resource be used, and if not, what is to be done?
batchlib config             what do the configuration files say?
"""


@group("batchlib", example=_EXAMPLE, session=False, json=False)
def batchlib() -> None:
    """Look after resources and their configuration.

    Jobs are run with gsub, gstat, gwait, gget and their sisters: see 'gsub --help'.
    """


batchlib.add_command(doctor)
batchlib.add_command(config)


def main() -> None:
    """Run the command."""
    run(batchlib)


if __name__ == "__main__":
    main()
