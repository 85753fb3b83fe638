"""Webhooks as tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flow.domain.webhooks.webhook import Delivery, Secrets, State
from flow.operate.tables import moment, new_table, panel, plain_text

_STYLES = {
    State.WAITING: "yellow",
    State.SENDING: "cyan",
    State.DELIVERED: "green",
    State.DEAD: "bold red",
}


def deliveries(found: Sequence[Delivery]) -> RenderableType:
    """One line a webhook, the newest first."""
    if not found:
        return Text("There are no such webhooks.")
    lines = new_table("webhook", "to", "state", "tries", "made (UTC)", "said last")
    # An id that is folded cannot be copied.
    lines.columns[0].no_wrap = True
    for one in found:
        lines.add_row(
            Group(Text(one.type, style="bold"), Text(str(one.event_id), style="dim")),
            plain_text(one.url),
            _state(one),
            str(one.attempts),
            moment(one.created_at, "-"),
            plain_text(one.last_error or str(one.last_status or "-")),
        )
    return lines


def delivery(one: Delivery) -> RenderableType:
    """Everything known of a webhook."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("webhook id", str(one.event_id))
    facts.add_row("API key id", str(one.api_key_id))
    facts.add_row("team", plain_text(one.team_id))
    facts.add_row("thread", str(one.workflow_thread_id or "-"))
    facts.add_row("to", plain_text(one.url))
    facts.add_row("state", _state(one))
    facts.add_row("attempts", str(one.attempts))
    facts.add_row("made", moment(one.created_at, "-"))
    facts.add_row("next attempt", moment(one.next_attempt_at, "-"))
    facts.add_row("delivered", moment(one.delivered_at, "-"))
    facts.add_row("given up", moment(one.dead_at, "-"))
    facts.add_row("said last", plain_text(one.last_error or str(one.last_status or "-")))
    if one.payload is not None:
        told = json.dumps(json.loads(one.payload), ensure_ascii=False, indent=2)
        facts.add_section()
        facts.add_row("tells", Group(*map(plain_text, told.splitlines())))
    return panel(one.type, facts)


def replayed(count: int) -> RenderableType:
    """How many are on their way again."""
    return Text(f"{count} {'webhook is' if count == 1 else 'webhooks are'} sent again.")


def secrets(held: Secrets) -> RenderableType:
    """What signs, and until when the one before it does too."""
    lines = [Text(held.current, style="bold green", overflow="fold")]
    if held.previous is not None:
        until = f"The one before signs too until {moment(held.previous_until, '-')} (UTC)."
        lines.append(Text(until, style="yellow"))
    return panel("signs this key's webhooks", Group(*lines))


def url(found: str | None) -> RenderableType:
    """Where a key's budget events go."""
    return plain_text(found or "No URL: budget events go to the call that reaches the threshold.")


def _state(one: Delivery) -> Text:
    return Text(one.state, style=_STYLES[one.state])
