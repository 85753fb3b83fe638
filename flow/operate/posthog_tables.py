"""Dashboards at PostHog, as a table for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from flow.operate.posthog_dashboards import OVER_ALL_KEYS, ProvisionedDashboard
from flow.operate.tables import new_table, plain_text

_STYLES = {"created": "green", "updated": "yellow", "unchanged": "dim"}


def dashboards(done: Sequence[ProvisionedDashboard], *, dry_run: bool) -> RenderableType:
    """One line a dashboard."""
    table = new_table("dashboard", "state", "tiles")
    table.title = "Dashboards at PostHog" + (", as they would be" if dry_run else "")
    for one in done:
        table.add_row(
            Group(
                plain_text(one.name, style="bold"),
                plain_text(one.url or "not there yet", style="dim"),
            ),
            Text(one.state, style=_STYLES[one.state]),
            ", ".join(f"{count} {state}" for state, count in one.tiles.items()),
        )
    if all(one.state == "unchanged" for one in done):
        return Group(table, Text("Everything is up to date: nothing was changed."))
    if dry_run:
        return Group(table, Text("Nothing was changed: this was a dry run."))
    return table


def form(one: ProvisionedDashboard) -> dict[str, Any]:
    """A dashboard in JSON."""
    return {
        "name": one.name,
        "api_key_id": None if one.scope == OVER_ALL_KEYS else one.scope,
        "url": one.url,
        "state": one.state,
        "tiles": dict(one.tiles),
    }
