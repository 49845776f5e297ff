"""``gkill``: cancel tasks."""

from __future__ import annotations

from collections.abc import Sequence

from .common import Invocation, all_option, command, ids_argument, run

_EXAMPLE = """
gkill 3-7
gkill -A
"""


@command("gkill", example=_EXAMPLE)
@ids_argument
@all_option("Cancel all tasks of the session.")
def gkill(invocation: Invocation, words: Sequence[str], every: bool) -> int:
    """Cancel tasks: running, queued, or not submitted yet.

    For each the answer is told: done, already ended, not found (the batch system does not know it), refused (it
    does not permit it), or unknown (it gave no answer). The exit status is the number of the last three.
    """
    from .acting import act_on

    return act_on(invocation, words, every, "CANCEL")


def main() -> None:
    """Run the command."""
    run(gkill)


if __name__ == "__main__":
    main()
