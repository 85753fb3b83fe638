"""Storing an agent from a file: a version only of what changed."""

from __future__ import annotations

from dataclasses import dataclass

from flow.db.agents import Agents
from flow.domain.agents.agent import Agent, AgentDefinition
from flow.errors import NotFound
from flow.operate.agent_files import difference


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of it; ``difference`` has no lines where nothing changed.

    ``agent`` is ``None`` where it would be made first and nothing was stored.
    """

    agent: Agent | None
    difference: list[str]


async def push(
    agents: Agents, team_id: str, definition: AgentDefinition, *, dry_run: bool
) -> Pushed:
    """Make the team's agent of that name, or its next version where the definition is another.

    Raises:
        VersionMismatch: somebody else has changed it since.
    """
    before = await _in_use(agents, team_id, definition.name)
    after = definition.to_json()
    lines = difference({} if before is None else {**before.definition}, after)
    if dry_run or not lines:
        return Pushed(before, lines)
    if before is None:
        made, _ = await agents.create(team_id, definition)
        return Pushed(made, lines)
    reference, version = str(before.id), before.version
    return Pushed(await agents.change(team_id, reference, definition, if_version=version), lines)


async def _in_use(agents: Agents, team_id: str, name: str) -> Agent | None:
    try:
        found = await agents.get(team_id, name)
    except NotFound:
        return None
    return None if found.archived_at is not None else found
