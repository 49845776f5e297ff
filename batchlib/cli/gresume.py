"""``gresume``: let suspended tasks go on."""

from __future__ import annotations

from collections.abc import Sequence

from .common import Invocation, all_option, command, ids_argument, run

_EXAMPLE = """
gresume 3-7
"""


@command("gresume", example=_EXAMPLE)
@ids_argument
@all_option("Resume all tasks of the session.")
def gresume(invocation: Invocation, words: Sequence[str], every: bool) -> int:
    """Let suspended tasks go on.

    For each the answer is told, as by gkill. The exit status is the number of those that were not found, refused,
    or gave no answer.
    """
    from .acting import act_on

    return act_on(invocation, words, every, "RESUME")


def main() -> None:
    """Run the command."""
    run(gresume)


if __name__ == "__main__":
    main()
