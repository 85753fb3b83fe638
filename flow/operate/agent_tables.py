"""Agents as tables and text for a terminal, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from flow.db.pages import Page
from flow.domain.agents.agent import Agent
from flow.operate.agent_files import text_of
from flow.operate.agent_push import Pushed
from flow.operate.tables import moment, new_table, plain_text

_STYLES = {"+": "green", "-": "red", "@": "dim"}


def form(one: Agent, *, secrets: bool = False) -> dict[str, Any]:
    """An agent as JSON; with the ``secrets`` of its tools, or without."""
    return {
        "id": one.id,
        "team_id": one.team_id,
        "version": one.version,
        "created_at": one.created_at,
        "updated_at": one.updated_at,
        "archived_at": one.archived_at,
        **(one.definition if secrets else one.shown()),
    }


def agents(page: Page[Agent]) -> RenderableType:
    """One line an agent, the one made last first."""
    if not page.items:
        return Text("There are no agents yet: `flow agents push FILE` makes one.")
    lines = new_table("agent", "team", "version", "product", "changed (UTC)", "archived (UTC)")
    # An id that is folded cannot be copied.
    lines.columns[0].no_wrap = True
    for one in page.items:
        lines.add_row(
            Group(plain_text(one.name, style="bold"), plain_text(str(one.id), style="dim")),
            plain_text(one.team_id),
            str(one.version),
            plain_text(str(one.definition.get("product") or "-")),
            moment(one.updated_at, "-"),
            moment(one.archived_at, "-"),
        )
    if page.next_cursor is not None:
        return Group(lines, Text("There are more: say a higher --limit."))
    return lines


def agent(one: Agent, *, secrets: bool) -> str:
    """A version as YAML, which can be pushed again; what it is stands in comments."""
    comments = [f"# agent {one.id}, version {one.version}, of team {one.team_id!r}"]
    if one.archived_at is not None:
        comments.append(f"# archived {one.archived_at:%Y-%m-%d %H:%M} UTC")
    return "\n".join([*comments, text_of({**one.definition} if secrets else one.shown())])


def pushed(one: Pushed, name: str, *, dry_run: bool) -> RenderableType:
    """What changed, line by line, and what came of it."""
    lines: list[Text] = [
        plain_text(line, style=_STYLES.get(line[:1], "")) for line in one.difference
    ]
    if one.changed and not lines:
        lines = [Text("Only values of headers have changed, which are not shown.")]
    return Group(*lines, plain_text(_outcome(one, name, dry_run=dry_run)))


def archived(one: Agent) -> RenderableType:
    """That no new call can name it."""
    return plain_text(f"{one.name} is archived: no new call can name it. Running calls go on.")


def _outcome(one: Pushed, name: str, *, dry_run: bool) -> str:
    if not one.changed:
        assert one.agent is not None, "there is one that it is like"
        return f"{name} is as it was: version {one.agent.version}."
    if dry_run:
        return f"{name} would be {'made' if one.agent is None else 'changed'}."
    assert one.agent is not None, "it was stored"
    return f"{name} is version {one.agent.version} now ({one.agent.id})."


def pushed_form(one: Pushed, name: str) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "id": one.agent and one.agent.id,
        "name": name,
        "version": one.agent and one.agent.version,
        "changed": one.changed,
        "difference": one.difference,
    }
