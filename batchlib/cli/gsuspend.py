"""``gsuspend``: stop running tasks for a while; gresume lets them go on."""

from __future__ import annotations

from collections.abc import Sequence

from .common import Invocation, all_option, command, ids_argument, run

_EXAMPLE = """
gsuspend 3-7
"""


@command("gsuspend", example=_EXAMPLE)
@ids_argument
@all_option("Suspend all tasks of the session.")
def gsuspend(invocation: Invocation, words: Sequence[str], every: bool) -> int:
    """Stop running tasks for a while; gresume lets them go on.

    For each the answer is told, as by gkill. The exit status is the number of those that were not found, refused,
    or gave no answer.
    """
    from .acting import act_on

    return act_on(invocation, words, every, "SUSPEND")


def main() -> None:
    """Run the command."""
    run(gsuspend)


if __name__ == "__main__":
    main()
