"""The account of a demo call, as tables for a terminal."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flow.api.exact_json import dumps
from flow.demo.call import Account
from flow.demo.tables import (
    LATENCY_PARTS,
    Row,
    money,
    panel,
    quantity,
    reconciliation,
    reconciliation_json,
    table,
    verdict,
)
from flow.domain.usage.units import COMPONENTS


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
    console.print(panel("Insights", Text(json.dumps(thread["insights"], indent=2))))
    console.print(_events(account.posthog_events))
    console.print(reconciliation(account.comparisons, account.checks))
    console.print(verdict(account.reconciled, "this call"))


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
        "reconciliation": reconciliation_json(account.comparisons, account.checks),
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
    return panel("Turns", Group(*lines) if lines else Text("nothing was said"))


def _latency(latency: Row) -> Table:
    """How long the caller waited for each reply, in milliseconds, and for what."""
    made = table("Waiting for replies (ms)", "turn", *LATENCY_PARTS, "total")
    for turn in latency["turns"]:
        parts = [_millis(turn[f"{part}_secs"]) for part in LATENCY_PARTS]
        made.add_row(str(turn["seq"]), *parts, _millis(turn["total_secs"]))
    made.add_section()
    for name in ("p50", "p95", "max"):
        made.add_row(name, *[""] * len(LATENCY_PARTS), _millis(latency[f"{name}_secs"]))
    return made


def _millis(secs: float | Decimal) -> str:
    return f"{float(secs) * 1000:.0f}"


def _usage(ledger: Sequence[Row]) -> Table:
    made = table("Usage", "kind", "model", "events", "quantity", "cost (USD)")
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in ledger:
        groups[(row["kind"], row["model"], row["source"])].append(row)
    for (kind, model, source), rows in sorted(groups.items()):
        made.add_row(
            kind,
            f"{model} ({source})" if source != "bot" else model,
            str(len(rows)),
            quantity(rows),
            money(rows),
        )
    made.add_section()
    made.add_row("total", "", str(len(ledger)), "", money(ledger))
    return made


def _components(stats: Row) -> Table:
    made = table("Cost by component", "component", "cost (USD)")
    costs = stats["cost_breakdown_usd"]
    for name in [*COMPONENTS, *sorted(costs.keys() - set(COMPONENTS))]:
        if name in costs:
            made.add_row(name, f"{Decimal(costs[name]):.6f}")
    made.add_section()
    made.add_row("total", f"{Decimal(stats['total_cost_usd']):.6f}")
    return made


def _limits(account: Account) -> Table:
    made = table("Budget and save mode", "what", "USD")
    budget, saved = account.budget, account.saved
    made.add_row(f"the key's budget this month, now {budget['tier']}", budget["cap_usd"])
    made.add_row("spent by the call, which was let finish", f"{Decimal(budget['spent_usd']):.6f}")
    made.add_section()
    made.add_row(f"{saved.generations} generations in save mode", f"{saved.cost_usd:.6f}")
    made.add_row("the same by the models asked for", f"{saved.asked_for_usd:.6f}")
    made.add_row("saved", f"{saved.saved_usd:.6f}")
    made.add_section()
    told = account.next_join
    made.add_row(f"the next join: {told['status']} {told.get('code', '')}".rstrip(), "")
    return made


def _not_as_reported(ledger: Sequence[Row]) -> RenderableType:
    """The events that are not simply what a vendor reported, and why."""
    made = table("Estimated, interrupted and failed", "kind", "model", "how", "why")
    for row in ledger:
        how = [word for word in (row["provenance"], row["outcome"]) if word in _NOTABLE]
        if how:
            failure = row.get("failure") or {}
            why = row.get("note") or failure.get("message") or _WHY.get(row["kind"], "")
            made.add_row(row["kind"], row["model"], ", ".join(how), why)
    return made if made.row_count else Text("Nothing had to be estimated.")


_NOTABLE = {"estimated", "unmetered", "interrupted", "error"}
_WHY = {
    "tts": "the caller spoke over it: the vendor made, and bills, the whole sentence",
    "stt": "the call ended before the transcript came",
}


def _events(events: Sequence[Row]) -> Table:
    made = table("PostHog events", "event", "span", "count", "cost (USD)")
    counts: Counter[tuple[str, str]] = Counter()
    costs: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        properties = event.get("properties", {})
        key = (str(event["event"]), str(properties.get("$ai_span_name", "")))
        counts[key] += 1
        costs[key] += properties.get("$ai_total_cost_usd") or 0.0
    for key, count in sorted(counts.items()):
        made.add_row(*key, str(count), f"{costs[key]:.6f}")
    return made
