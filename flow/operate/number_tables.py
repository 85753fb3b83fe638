"""Telephone numbers as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flow.db.telephony import PhoneNumber
from flow.operate.tables import moment, new_table, panel, plain_text


def numbers(found: Sequence[PhoneNumber]) -> RenderableType:
    """One line a number."""
    if not found:
        return Text("There are no numbers: add one with `flow numbers add`.")
    lines = new_table("number", "rings", "on the key", "team")
    lines.columns[0].no_wrap = True
    for one in found:
        name = plain_text(one.key.name or str(one.key.id))
        lines.add_row(one.number, _rings(one), name, plain_text(one.key.team_id))
    return lines


def number(one: PhoneNumber) -> RenderableType:
    """Everything known of a number."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("rings", _rings(one))
    facts.add_row("on the key", plain_text(one.key.name or str(one.key.id)))
    facts.add_row("team", plain_text(one.key.team_id))
    facts.add_row("added", moment(one.created_at, "-"))
    return panel(one.number, facts)


def removed(number: str) -> RenderableType:
    """A number is forgotten."""
    return Text(f"{number} rings nobody here any more.")


def _rings(one: PhoneNumber) -> Text:
    if one.agent is not None:
        return plain_text(f"agent {one.agent_name or one.agent}")
    if one.product is not None:
        return plain_text(f"product {one.product}")
    return Text("nobody: it only calls", style="dim")
