"""``ghold``: keep queued tasks from starting, until grls releases them."""

from __future__ import annotations

from collections.abc import Sequence

from .common import Invocation, all_option, command, ids_argument, run

_EXAMPLE = """
ghold 3-7
"""


@command("ghold", example=_EXAMPLE)
@ids_argument
@all_option("Hold all tasks of the session.")
def ghold(invocation: Invocation, words: Sequence[str], every: bool) -> int:
    """Keep queued tasks from starting, until grls releases them.

    For each the answer is told, as by gkill. The exit status is the number of those that were not found, refused,
    or gave no answer.
    """
    from .acting import act_on

    return act_on(invocation, words, every, "HOLD")


def main() -> None:
    """Run the command."""
    run(ghold)


if __name__ == "__main__":
    main()
