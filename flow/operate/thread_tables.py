"""Threads as tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flow.domain.calls.thread import Status, Thread
from flow.domain.calls.thread_overview import ThreadOverview
from flow.operate.tables import moment, new_table, panel, plain_text

_STYLES = {
    Status.CONNECTING: "cyan",
    Status.IN_CALL: "bold cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "bold red",
}


def threads(found: Sequence[ThreadOverview], now: datetime) -> RenderableType:
    """One line a thread, the newest first."""
    if not found:
        return Text("There are no such calls.")
    lines = new_table("thread", "key", "status", "joined (UTC)", "minutes", "spent", "host")
    # An id that is folded cannot be copied.
    lines.columns[0].no_wrap = True
    for one in found:
        lines.add_row(
            Group(Text(str(one.workflow_thread_id), style="dim"), plain_text(one.product)),
            Group(plain_text(one.key_name or "-", style="bold"), plain_text(one.team_id)),
            _status(one),
            moment(one.created_at, "-"),
            _minutes(one, now),
            _dollars(one.usage_stats),
            plain_text(one.host or "-"),
        )
    return lines


def thread(one: ThreadOverview, whole: Thread | None) -> RenderableType:
    """Everything known of a thread; its content where ``whole`` has it."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("key", plain_text(one.key_name or "-"))
    facts.add_row("API key id", str(one.api_key_id))
    facts.add_row("team", plain_text(one.team_id))
    billed = "billed" if one.billable else "not billed"
    facts.add_row("product", plain_text(f"{one.product}, {billed}"))
    facts.add_row("status", _status(one))
    facts.add_row("transport", plain_text(one.transport))
    facts.add_row("host", plain_text(one.host or "-"))
    facts.add_row("last sign of life", moment(one.heartbeat_at, "-"))
    facts.add_row("joined", moment(one.created_at, "-"))
    facts.add_row("connected", moment(one.connected_at, "-"))
    facts.add_row("ended", moment(one.ended_at, "-"))
    facts.add_row("end reason", plain_text(one.end_reason or "-"))
    if one.error:
        facts.add_row("error", plain_text(str(one.error.get("message", one.error)), style="red"))
    facts.add_row("spent", f"{_dollars(one.usage_stats)} USD")
    facts.add_row("tokens", f"{one.usage_stats['total_tokens']:,}")
    facts.add_row("generations", str(one.usage_stats["llm_calls"]))
    if unpriced := one.usage_stats.get("unpriced_events"):
        facts.add_row("unpriced", Text(f"{unpriced} events", style="yellow"))
    if whole is not None:
        _add_content(facts, whole)
    return panel(str(one.workflow_thread_id), facts)


def ended(one: ThreadOverview) -> RenderableType:
    """What became of a call that was to end."""
    if one.status.has_call:
        return plain_text(f"{one.host} ends the call with its next sign of life.")
    return plain_text(f"The call is over: it is {one.status}.")


def _add_content(facts: Table, whole: Thread) -> None:
    facts.add_section()
    facts.add_row("request", _json(whole.join.shown()))
    facts.add_row("insights", _json(whole.insights))
    for turn in whole.transcript:
        said = plain_text(turn.content)
        if turn.interrupted:
            said.append(" (interrupted)", style="yellow")
        facts.add_row(turn.role, said)
    for use in whole.tool_calls:
        facts.add_row(
            "tool", plain_text(f"{use.name} {json.dumps(dict(use.arguments))}: {use.outcome}")
        )


def _json(value: Any) -> RenderableType:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return Group(*map(plain_text, text.splitlines()))


def _status(one: ThreadOverview) -> Text:
    said = Text(one.status, style=_STYLES.get(one.status, ""))
    if one.end_requested and one.status.has_call:
        said.append(", to end", style="yellow")
    return said


def _minutes(one: ThreadOverview, now: datetime) -> str:
    if one.connected_at is None:
        return "-"
    return f"{((one.ended_at or now) - one.connected_at).total_seconds() / 60:,.1f}"


def _dollars(usage_stats: dict[str, Any]) -> str:
    return f"{usage_stats['total_cost_usd']:,.4f}"
