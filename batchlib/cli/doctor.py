"""``batchlib doctor``: whether a resource can be used, and what to do when it can't."""

from __future__ import annotations

import click

from .common import Invocation, command

#: For each level its colour, as in a terminal's escape sequences.
_COLOURS = {"ok": "32", "warning": "33", "wrong": "31"}


@command("doctor", example="batchlib doctor cluster", session=False)
@click.argument("resource")
def doctor(invocation: Invocation, resource: str) -> int:
    """Check whether a RESOURCE can be used.

    This goes step by step, and how to mend what is wrong is said. The resource is connected to, but no job is
    submitted. The exit status is 1 when something is wrong.
    """
    from .output import print_json
    from .table import clean
    from .terminal import colours

    settings = invocation.configuration.settings(resource)
    invocation.be_ready_to_connect()

    from .checkup import examine

    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not invocation.as_json:
            level = f"\x1b[{_COLOURS[finding.level]}m{finding.level}\x1b[0m" if colours() else finding.level
            remedy = f" — {clean(finding.remedy)}" if finding.remedy else ""
            print(f"{level}: {finding.check}: {clean(finding.message)}{remedy}", flush=True)
    if invocation.as_json:
        import attrs

        print_json({"resource": resource, "checks": [attrs.asdict(finding) for finding in findings]})
    return int(any(finding.level == "wrong" for finding in findings))
