"""Keys, quotas and usage as tables for a terminal.

Names come from customers and vendors: they are shown as plain text, without markup and without
control sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flow.admin.keys import Described, Issued
from flow.admin.usage import Report
from flow.db.rows import KeyAccount
from flow.domain.limits.budget import Tier
from flow.domain.limits.quota import LimitState, dollars, plain
from flow.domain.usage.reports import UNIT_COLUMNS
from flow.domain.usage.units import Measure

# Wide enough for every table where nobody says how wide it may be.
_PIPE_WIDTH = 160
_TIER_STYLES = {
    Tier.OK: "green",
    Tier.WARN: "yellow",
    Tier.ENGAGE: "yellow",
    Tier.EXCEEDED: "bold red",
    Tier.OVERRIDE: "magenta",
}


def console() -> Console:
    """Where tables go: standard output."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def keys(accounts: Sequence[KeyAccount]) -> RenderableType:
    """One line a key."""
    if not accounts:
        return Text("There are no keys yet: `flow keys create` makes one.")
    table = new_table("key", "team", "spent", "budget", "tier", "save mode", "calls")
    table.title = "Keys, and what they spent this month (USD, UTC)"
    for one in accounts:
        budget = one.budget
        name = plain_text(one.key.name or "-", style="dim" if one.revoked_at else "bold")
        revoked = Text("revoked", style="red")
        table.add_row(
            Group(name, plain_text(one.key.unkey_key_id, style="dim")),
            plain_text(one.key.team_id),
            f"{budget.spent_usd:,.2f}",
            "-" if budget.cap_usd is None else f"{budget.cap_usd:,.2f}",
            revoked if one.revoked_at else _tier(budget.tier),
            one.save_mode or "-",
            str(one.running_calls or "-"),
        )
    return table


def key(one: Described) -> RenderableType:
    """Everything known of a key."""
    lines = _facts(one.account)
    lines.add_section()
    if one.details is None:
        lines.add_row("at Unkey", plain_text(one.note or "", style="yellow"))
        return panel(one.account.key.name or one.account.key.unkey_key_id, lines)
    known = one.details
    enabled = Text("enabled", style="green") if known.enabled else Text("disabled", style="red")
    lines.add_row("at Unkey", enabled)
    lines.add_row("secret starts", plain_text(f"{known.start}…"))
    lines.add_row("permissions", plain_text(", ".join(known.permissions) or "-"))
    lines.add_row("expires", moment(known.expires_at, "never"))
    lines.add_row("last used", moment(known.last_used_at, "never"))
    return panel(one.account.key.name or known.unkey_key_id, lines)


def budget(one: KeyAccount) -> RenderableType:
    """A key's identity and limits."""
    return panel(one.key.name or one.key.unkey_key_id, _facts(one))


def issued(one: Issued) -> RenderableType:
    """A new key with its secret."""
    secret = Text(one.secret, style="bold green", overflow="fold", no_wrap=False)
    told = Text("Shown once: it is stored nowhere and cannot be shown again.", style="yellow")
    shown = Panel(Group(secret, told), title="API key", title_align="left", border_style="green")
    return Group(budget(one.account), shown)


def quotas(states: Sequence[tuple[str, LimitState]]) -> RenderableType:
    """One line a quota."""
    if not states:
        return Text("No quotas are set: teams are limited by their keys' budgets alone.")
    table = new_table("team", "resource", "used", "held", "limit", "", "resets (UTC)")
    for team_id, state in states:
        table.add_row(
            plain_text(team_id),
            plain_text(state.resource),
            _amount(state.used),
            _amount(state.reserved),
            "-" if state.limit is None else plain(state.limit),
            Text("reached", style="bold red") if state.is_reached else Text("ok", style="green"),
            moment(state.resets_at, "-"),
        )
    return table


def usage(report: Report) -> RenderableType:
    """One line a group, and their sum."""
    title = f"Usage from {report.first} to {report.last} (UTC)"
    if not report.rows:
        return Text(f"{title}: none.")
    table = new_table(*report.groups, *_MEASURED)
    table.title = title
    for row in report.rows:
        table.add_row(*(_group(row, name) for name in report.groups), *_measures(row))
    table.add_section()
    said = ["total", *[""] * len(report.groups)][: len(report.groups)]
    table.add_row(*said, *_measures(report.table.total()), style="bold")
    return table


def _group(row: Mapping[str, Any], name: str) -> Text:
    if name == "key":
        return plain_text(row["key_name"] or row["api_key_id"])
    return plain_text(str(row["team_id" if name == "team" else name]))


_MEASURED = ("events", "used", "cost (USD)", "billable (USD)")
# Tokens are shown as one number: there are too many units of them for a table.
_USED = {
    "total_tokens": "tokens",
    **{
        column.name: column.label
        for column in UNIT_COLUMNS
        if column.unit.measure is not Measure.TOKENS and column.unit.part_of is None
    },
}


def _measures(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['events']:,}", _used(row), *_costs(row)]


def _used(row: Mapping[str, Any]) -> str:
    """What was used of each unit, a line each; seconds to the tenth."""
    return "\n".join(
        f"{Decimal(amount):,.1f} {label}" if isinstance(amount, str) else f"{amount:,} {label}"
        for name, label in _USED.items()
        if Decimal(amount := row[name])
    )


def _costs(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["total_cost_usd"] is None:
        return "unpriced", "unpriced"
    total, billable = (f"{Decimal(row[f'{name}_cost_usd']):,.6f}" for name in ("total", "billable"))
    unpriced = row["unpriced_events"]
    return f"{total}\n+ {unpriced:,} unpriced" if unpriced else total, billable


def _facts(one: KeyAccount) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    budget = one.budget
    facts.add_row("key id at Unkey", plain_text(one.key.unkey_key_id))
    facts.add_row("API key id", str(one.key.id))
    facts.add_row("team", plain_text(one.key.team_id))
    facts.add_row("created", moment(one.created_at, "-"))
    if one.revoked_at:
        facts.add_row("revoked", Text(moment(one.revoked_at, "-"), style="red"))
    if budget.cap_usd is None:
        facts.add_row("budget", "no cap")
    else:
        said = Text(f"{dollars(budget.cap_usd)} USD a month (UTC), ")
        facts.add_row("budget", said.append_text(_tier(budget.tier)))
        facts.add_row("remaining", f"{dollars(budget.remaining_usd or Decimal(0))} USD")
    if one.override_until:
        until = f"lifted until {moment(one.override_until, '-')}"
        facts.add_row("override", Text(until, style="magenta"))
    facts.add_row("spent this month", f"{dollars(budget.spent_usd)} USD")
    facts.add_row(
        "held by calls", f"{dollars(budget.reserved_usd)} USD, {one.running_calls} running"
    )
    for name, limit in one.rates.items():
        facts.add_row(name.replace("_", " "), f"{limit:,}")
    if not one.rates:
        facts.add_row("rates", "no limits of its own")
    facts.add_row("save mode", one.save_mode or "as the product says")
    return facts


def _tier(tier: Tier | None) -> Text:
    return Text("-") if tier is None else Text(tier, style=_TIER_STYLES.get(tier, ""))


def _amount(amount: Decimal) -> str:
    return plain(round(amount, 2))


def moment(at: datetime | None, never: str) -> str:
    """A time in UTC, to the minute."""
    return never if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def plain_text(text: str, style: str = "") -> Text:
    """What somebody else wrote, as text and nothing but text."""
    return Text("".join(c if c.isprintable() else "\ufffd" for c in text), style=style)


def panel(title: str, content: RenderableType) -> Panel:
    """The content in a frame with a title."""
    return Panel(
        content, title=plain_text(title, style="bold"), title_align="left", border_style="dim"
    )


_RIGHT = {"spent", "budget", "calls", "used", "held", "limit", *_MEASURED}


def new_table(*columns: str) -> Table:
    """An empty table; columns of amounts are right-aligned."""
    table = Table(box=SIMPLE_HEAD, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        right = column in _RIGHT
        justify: JustifyMethod = "right" if right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=right)
    return table
