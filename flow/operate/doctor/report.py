"""The findings as a table for people, and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flow.operate.doctor.finding import Finding, Status, is_well
from flow.operate.tables import plain_text

_MARKS = {
    Status.OK: ("✔", "green"),
    Status.SKIPPED: ("-", "dim"),
    Status.WARNING: ("!", "yellow"),
    Status.PROBLEM: ("✘", "bold red"),
}


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """``{"ok", "findings": [{"check", "status", "said", "cure"}]}``."""
    return {"ok": is_well(findings), "findings": [asdict(finding) for finding in findings]}


def shown(findings: Sequence[Finding]) -> RenderableType:
    """One line a finding, with what to do below it, and how many there are of each kind."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.status]
        said = plain_text(finding.said, style="dim" if finding.status is Status.SKIPPED else "")
        if finding.cure:
            said = Text("\n").join([said, plain_text(f"→ {finding.cure}", style="cyan")])
        table.add_row(Text(mark, style=style), plain_text(finding.check), said)
    return Group(table, Text(), _sum(findings))


def _sum(findings: Sequence[Finding]) -> Text:
    counts = Counter(finding.status for finding in findings)
    problems, warnings = counts[Status.PROBLEM], counts[Status.WARNING]
    if not problems:
        also = f", {warnings} to look at" if warnings else ""
        return Text(f"Nothing is wrong{also}.", style="bold green")
    many = "1 thing is" if problems == 1 else f"{problems} things are"
    return Text(f"{many} wrong.", style="bold red")
