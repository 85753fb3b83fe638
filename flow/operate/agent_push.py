"""Storing an agent from a file: a version only of what changed."""

from __future__ import annotations

from dataclasses import dataclass

from flow.admin.numbers import check_rung
from flow.db.agents import Agents
from flow.db.database import Database
from flow.domain.agents.agent import Agent, AgentDefinition
from flow.errors import NotFound
from flow.operate.agent_files import difference


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of it: whether anything changed, and the lines that did, without secrets.

    ``agent`` is ``None`` where it would be made first and nothing was stored.
    """

    agent: Agent | None
    changed: bool
    difference: list[str]


async def push(
    database: Database, team_id: str, definition: AgentDefinition, *, dry_run: bool
) -> Pushed:
    """Make the team's agent of that name, or its next version where the definition is another.

    Raises:
        VersionMismatch: somebody else has changed it since.
        InvalidInput: numbers ring it, and this version needs variables.
    """
    agents = database.agents
    before = await _in_use(agents, team_id, definition.name)
    lines = difference({} if before is None else before.shown(), definition.shown())
    changed = before is None or before.definition != definition.said()
    if before is not None and changed:
        await check_rung(database, before, definition)
    if dry_run or not changed:
        return Pushed(before, changed, lines)
    if before is None:
        made, _ = await agents.create(team_id, definition)
        return Pushed(made, changed, lines)
    reference, version = str(before.id), before.version
    after = await agents.change(team_id, reference, definition, if_version=version)
    return Pushed(after, changed, lines)


async def _in_use(agents: Agents, team_id: str, name: str) -> Agent | None:
    try:
        found = await agents.get(team_id, name)
    except NotFound:
        return None
    return None if found.archived_at is not None else found
