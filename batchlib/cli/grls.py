"""``grls``: release tasks that are held."""

from __future__ import annotations

from collections.abc import Sequence

from .common import Invocation, all_option, command, ids_argument, run

_EXAMPLE = """
grls 3-7
"""


@command("grls", example=_EXAMPLE)
@ids_argument
@all_option("Release all tasks of the session.")
def grls(invocation: Invocation, words: Sequence[str], every: bool) -> int:
    """Release tasks that are held.

    For each the answer is told, as by gkill. The exit status is the number of those that were not found, refused,
    or gave no answer.
    """
    from .acting import act_on

    return act_on(invocation, words, every, "RELEASE")


def main() -> None:
    """Run the command."""
    run(grls)


if __name__ == "__main__":
    main()
