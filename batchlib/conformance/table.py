"""The table of scenarios and resources that is printed at the end."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r".*test_scenarios\.py::test_(?P<scenario>[^\[]+)\[(?P<site>[^\]]+)\](?:@.*)?")
_SIGNS = {"passed": "ok", "failed": "FAILED", "error": "ERROR", "skipped": "-"}


class Table:
    """A plugin for pytest that prints how each scenario went on each resource."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note one result."""
        match = _NAME.fullmatch(report.nodeid)
        if match is None or (report.when != "call" and report.outcome == "passed"):
            return
        outcome = "error" if report.when != "call" and report.outcome == "failed" else report.outcome
        row = self.found.setdefault(match["scenario"], {})
        if row.get(match["site"]) not in ("failed", "error"):
            row[match["site"]] = outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table."""
        sites = sorted({site for row in self.found.values() for site in row})
        if not sites:
            return
        terminalreporter.section("conformance: scenario by resource (- : nothing like it there)")
        width = max(map(len, self.found))
        terminalreporter.write_line(" " * width + "  " + "  ".join(sites))
        for scenario, row in self.found.items():
            cells = [_SIGNS.get(row.get(site, ""), "").ljust(len(site)) for site in sites]
            terminalreporter.write_line(f"{scenario:<{width}}  {'  '.join(cells)}".rstrip())
