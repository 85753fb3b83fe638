"""The calls of `flow.db.database` about stored agents.

An agent is named by its id or its name. ``team_id`` of ``None`` is for operators: every team's. Any
call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from flow.db import rows
from flow.db.pages import Page, check_limit, page, place
from flow.db.transport import TypedCalls
from flow.domain.agents.agent import Agent, AgentDefinition


class Agents(TypedCalls):
    """The calls; each is one round trip and one transaction."""

    async def create(
        self,
        team_id: str,
        definition: AgentDefinition,
        *,
        api_key_id: UUID | None = None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> tuple[Agent, bool]:
        """Make version 1 of an agent, or find the one made before under the idempotency key of
        the API key; whether it was found.

        Raises:
            Conflict: code ``agent_name_taken``, or ``idempotency_conflict`` where the fingerprint
                differs.
        """
        row = await self._call(
            "create_agent",
            p_id=str(uuid4()),
            p_team_id=team_id,
            p_definition=definition.said(),
            p_api_key_id=api_key_id and str(api_key_id),
            p_idempotency_key=idempotency_key,
            p_fingerprint=fingerprint,
        )
        return rows.agent(row["agent"]), row["replayed"]

    async def change(
        self,
        team_id: str | None,
        reference: str,
        definition: AgentDefinition,
        *,
        if_version: int | None = None,
    ) -> Agent:
        """Make the next version; with ``if_version`` only where that is the newest.

        Raises:
            NotFound: there is no such agent.
            VersionMismatch: another version is the newest.
            Conflict: code ``agent_archived`` or ``agent_name_taken``.
        """
        row = await self._call(
            "change_agent",
            p_team_id=team_id,
            p_reference=reference,
            p_definition=definition.said(),
            p_if_version=if_version,
        )
        return rows.agent(row)

    async def get(self, team_id: str | None, reference: str, version: int | None = None) -> Agent:
        """A version of an agent, the newest unless said; archived ones too.

        Raises:
            NotFound: there is no such agent, or no such version of it.
            Conflict: code ``ambiguous``: agents of several teams have that name.
        """
        row = await self._call(
            "get_agent", p_team_id=team_id, p_reference=reference, p_version=version
        )
        return rows.agent(row)

    async def list(
        self,
        team_id: str | None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        archived: bool = False,
    ) -> Page[Agent]:
        """Agents in their newest version, the agent made last first; ``archived`` ones as well.

        Raises:
            InvalidInput: the cursor is not one this method gave, or the limit not 1 to 200.
        """
        check_limit(limit)
        before_at, before_id = place(cursor)
        found: list[Mapping[str, Any]] = await self._call(
            "list_agents",
            p_team_id=team_id,
            p_limit=limit + 1,
            p_before_created_at=before_at,
            p_before_id=before_id,
            p_archived=archived,
        )
        return page(found, limit, rows.agent)

    async def archive(self, team_id: str | None, reference: str) -> Agent:
        """Let no new call name the agent; archiving it again changes nothing.

        Raises:
            NotFound: there is no such agent.
            Conflict: code ``ambiguous``: agents of several teams have that name.
        """
        return rows.agent(
            await self._call("archive_agent", p_team_id=team_id, p_reference=reference)
        )
