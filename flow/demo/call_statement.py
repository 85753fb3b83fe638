"""The account of a demo call, as tables for a terminal."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flow.api.exact_json import dumps
from flow.demo.call import Account
from flow.domain.calls.latency import TurnLatency
from flow.domain.usage.units import COMPONENTS, UNITS

Row = Mapping[str, Any]
LATENCY_PARTS = tuple(TurnLatency().parts)


def show(account: Account, console: Console) -> None:
    """Print the turns, the usage and its cost, the insights, and whether it all agrees."""
    thread = account.thread
    console.print()
    console.rule("[bold]The account[/bold]")
    console.print(_transcript(thread["transcript"]))
    if thread["latency"] is not None:
        console.print(_latency(thread["latency"]))
    console.print(_usage(account.ledger))
    console.print(_components(thread["usage_stats"]))
    console.print(_limits(account))
    console.print(_not_as_reported(account.ledger))
    console.print(_panel("Insights", Text(json.dumps(thread["insights"], indent=2))))
    console.print(_events(account.posthog_events))
    console.print(_reconciliation(account))
    verdict = (
        Text("✔ the ledger and every other account of this call agree", style="bold green")
        if account.reconciled
        else Text("✘ the accounts of this call do not agree", style="bold red")
    )
    console.print(verdict)


def one_line(account: Account) -> str:
    """The account as one JSON object on one line; its numbers keep every digit."""
    thread = account.thread
    whole = {
        "workflow_thread_id": thread["workflow_thread_id"],
        "status": thread["status"],
        "usage_stats": thread["usage_stats"],
        "ledger": account.ledger,
        "budget": account.budget,
        "save_mode": {
            "generations": account.saved.generations,
            "cost_usd": account.saved.cost_usd,
            "asked_for_usd": account.saved.asked_for_usd,
            "saved_usd": account.saved.saved_usd,
        },
        "next_join": account.next_join,
        "vendor_bills": account.vendor_bills,
        "reconciled": account.reconciled,
        "reconciliation": {
            "checks": dict(account.checks),
            "comparisons": [comparison.to_json() for comparison in account.comparisons],
        },
        "insights": thread["insights"],
        "latency": thread["latency"],
        "posthog_events": account.posthog_events,
        "transcript": thread["transcript"],
    }
    return dumps(whole)


def _transcript(turns: Iterable[Row]) -> RenderableType:
    lines = []
    for turn in turns:
        style = "cyan" if turn["role"] == "assistant" else "green"
        cut = " [interrupted]" if turn["interrupted"] else ""
        lines.append(Text.assemble((f"{turn['role']}{cut}: ", style), turn["content"]))
    return _panel("Turns", Group(*lines) if lines else Text("nothing was said"))


def _latency(latency: Row) -> Table:
    """How long the caller waited for each reply, in milliseconds, and for what."""
    table = _table("Waiting for replies (ms)", "turn", *LATENCY_PARTS, "total")
    for turn in latency["turns"]:
        parts = [_millis(turn[f"{part}_secs"]) for part in LATENCY_PARTS]
        table.add_row(str(turn["seq"]), *parts, _millis(turn["total_secs"]))
    table.add_section()
    for name in ("p50", "p95", "max"):
        table.add_row(name, *[""] * len(LATENCY_PARTS), _millis(latency[f"{name}_secs"]))
    return table


def _millis(secs: float | Decimal) -> str:
    return f"{float(secs) * 1000:.0f}"


def _usage(ledger: Sequence[Row]) -> Table:
    table = _table("Usage", "kind", "model", "events", "quantity", "cost (USD)")
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in ledger:
        groups[(row["kind"], row["model"], row["source"])].append(row)
    for (kind, model, source), rows in sorted(groups.items()):
        table.add_row(
            kind,
            f"{model} ({source})" if source != "bot" else model,
            str(len(rows)),
            _quantity(rows),
            _money(rows),
        )
    table.add_section()
    table.add_row("total", "", str(len(ledger)), "", _money(ledger))
    return table


def _quantity(rows: Sequence[Row]) -> str:
    """What was used of each unit that is not part of another."""
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for line in (line for row in rows for line in row["lines"] if line["part_of"] is None):
        sums[line["unit"]] += Decimal(line["quantity"])
    return ", ".join(
        f"{amount.normalize():f} {unit.label}"
        for name, unit in UNITS.items()
        if (amount := sums[name])
    )


def _money(rows: Sequence[Row]) -> str:
    priced = [Decimal(row["total_cost_usd"]) for row in rows if row["total_cost_usd"] is not None]
    if not priced:
        return "unpriced"
    unpriced = len(rows) - len(priced)
    return f"{sum(priced):.6f}" + (f" + {unpriced} unpriced" if unpriced else "")


def _components(stats: Row) -> Table:
    table = _table("Cost by component", "component", "cost (USD)")
    costs = stats["cost_breakdown_usd"]
    for name in [*COMPONENTS, *sorted(costs.keys() - set(COMPONENTS))]:
        if name in costs:
            table.add_row(name, f"{Decimal(costs[name]):.6f}")
    table.add_section()
    table.add_row("total", f"{Decimal(stats['total_cost_usd']):.6f}")
    return table


def _limits(account: Account) -> Table:
    table = _table("Budget and save mode", "what", "USD")
    budget, saved = account.budget, account.saved
    table.add_row(f"the key's budget this month, now {budget['tier']}", budget["cap_usd"])
    table.add_row("spent by the call, which was let finish", f"{Decimal(budget['spent_usd']):.6f}")
    table.add_section()
    table.add_row(f"{saved.generations} generations in save mode", f"{saved.cost_usd:.6f}")
    table.add_row("the same by the models asked for", f"{saved.asked_for_usd:.6f}")
    table.add_row("saved", f"{saved.saved_usd:.6f}")
    table.add_section()
    told = account.next_join
    table.add_row(f"the next join: {told['status']} {told.get('code', '')}".rstrip(), "")
    return table


def _not_as_reported(ledger: Sequence[Row]) -> RenderableType:
    """The events that are not simply what a vendor reported, and why."""
    table = _table("Estimated, interrupted and failed", "kind", "model", "how", "why")
    for row in ledger:
        how = [word for word in (row["provenance"], row["outcome"]) if word in _NOTABLE]
        if how:
            failure = row.get("failure") or {}
            why = row.get("note") or failure.get("message") or _WHY.get(row["kind"], "")
            table.add_row(row["kind"], row["model"], ", ".join(how), why)
    return table if table.row_count else Text("Nothing had to be estimated.")


_NOTABLE = {"estimated", "unmetered", "interrupted", "error"}
_WHY = {
    "tts": "the caller spoke over it: the vendor made, and bills, the whole sentence",
    "stt": "the call ended before the transcript came",
}


def _events(events: Sequence[Row]) -> Table:
    table = _table("PostHog events", "event", "span", "count", "cost (USD)")
    counts: Counter[tuple[str, str]] = Counter()
    costs: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        properties = event.get("properties", {})
        key = (str(event["event"]), str(properties.get("$ai_span_name", "")))
        counts[key] += 1
        costs[key] += properties.get("$ai_total_cost_usd") or 0.0
    for key, count in sorted(counts.items()):
        table.add_row(*key, str(count), f"{costs[key]:.6f}")
    return table


def _reconciliation(account: Account) -> RenderableType:
    table = _table("Reconciliation", "what", "ledger", "vendor's bill", "may differ by", "")
    for one in account.comparisons:
        table.add_row(
            f"{one.provider}/{one.model} {one.quantity}",
            f"{one.ledger.normalize():f}",
            f"{one.vendor.normalize():f}",
            f"{one.tolerance.normalize():f}",
            _mark(one.agrees),
        )
    checks = Table.grid(padding=(0, 1))
    for name, holds in account.checks.items():
        checks.add_row(_mark(holds), name)
    return Group(table, checks)


def _mark(good: bool) -> Text:
    return Text("✔", style="green") if good else Text("✘", style="bold red")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        right = column in {
            "events",
            "USD",
            "cost (USD)",
            "ledger",
            "vendor's bill",
            "may differ by",
            "total",
            *LATENCY_PARTS,
        }
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=title, title_align="left", border_style="dim")
