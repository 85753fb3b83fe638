"""Tables of rows of a ledger, and what they are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flow.domain.calls.latency import TurnLatency
from flow.domain.usage.units import UNITS
from flow.sandbox.reconcile import Comparison

Row = Mapping[str, Any]

LATENCY_PARTS = tuple(TurnLatency().parts)
NUMBERS = frozenset(
    {"events", "USD", "cost (USD)", "ledger", "vendor's bill", "may differ by", "total",
     *LATENCY_PARTS}
)  # fmt: skip
"""The columns that hold numbers."""


def quantity(rows: Sequence[Row]) -> str:
    """What was used of each unit that is not part of another."""
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for line in (line for row in rows for line in row["lines"] if line["part_of"] is None):
        sums[line["unit"]] += Decimal(line["quantity"])
    return ", ".join(
        f"{amount.normalize():f} {unit.label}"
        for name, unit in UNITS.items()
        if (amount := sums[name])
    )


def money(rows: Sequence[Row]) -> str:
    """What they cost together, in USD."""
    priced = [Decimal(row["total_cost_usd"]) for row in rows if row["total_cost_usd"] is not None]
    if not priced:
        return "unpriced"
    unpriced = len(rows) - len(priced)
    return f"{sum(priced):.6f}" + (f" + {unpriced} unpriced" if unpriced else "")


def reconciliation(comparisons: Sequence[Comparison], checks: Mapping[str, bool]) -> RenderableType:
    """The ledger beside the vendors' bills, and beside whatever else repeats it."""
    made = table("Reconciliation", "what", "ledger", "vendor's bill", "may differ by", "")
    for one in comparisons:
        made.add_row(
            f"{one.provider}/{one.model} {one.quantity}",
            f"{one.ledger.normalize():f}",
            f"{one.vendor.normalize():f}",
            f"{one.tolerance.normalize():f}",
            mark(one.agrees),
        )
    others = Table.grid(padding=(0, 1))
    for name, holds in checks.items():
        others.add_row(mark(holds), name)
    return Group(made, others)


def reconciliation_json(
    comparisons: Sequence[Comparison], checks: Mapping[str, bool]
) -> dict[str, Any]:
    """What `reconciliation` shows, for a program."""
    return {
        "checks": dict(checks),
        "comparisons": [comparison.to_json() for comparison in comparisons],
    }


def verdict(reconciled: bool, of: str) -> Text:
    """Whether everything agrees that is on record ``of`` something."""
    if reconciled:
        return Text(f"✔ the ledger and every other account of {of} agree", style="bold green")
    return Text(f"✘ the accounts of {of} do not agree", style="bold red")


def mark(good: bool) -> Text:
    """A tick, or a cross."""
    return Text("✔", style="green") if good else Text("✘", style="bold red")


def table(title: str, *columns: str) -> Table:
    """A table; numbers are on the right of their column."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        right = column in NUMBERS
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    return made


def panel(title: str, content: RenderableType) -> Panel:
    """Something in a frame."""
    return Panel(content, title=title, title_align="left", border_style="dim")
