"""Stored agents: made, changed, read and archived by their team."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.call_settings import require_public_webhook, require_usable_schema
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.idempotency import REPLAYED, fingerprint, idempotency_header, idempotency_key
from flow.api.list_parameters import Cursor, Limit
from flow.api.problems import documented
from flow.api.request_bodies import read, takes
from flow.api.tool_checks import require_usable_tools
from flow.domain.agents.agent import Agent, AgentDefinition
from flow.domain.agents.filling import check_templates
from flow.domain.calls.join_request import JoinRequest
from flow.domain.limits.api_key import ApiKey
from flow.errors import Conflict, FieldProblem, InvalidInput, NotFound, Refused

router = APIRouter(prefix="/api/agents", tags=["agents"])

_EXAMPLES: dict[str, Any] = {
    "reservations": {
        "summary": "A bot that takes reservations for the restaurant that a join names",
        "value": {
            "name": "reservations",
            "bot": {
                "system_prompt": "You take reservations for {{restaurant}}; it is {{flow.date}}.",
                "greeting": "Good evening, {{name|and welcome}}! For how many people?",
                "timezone": "Europe/Berlin",
            },
            "insights": {"instructions": "Note the date, the time and the number of people."},
            "max_duration_secs": 600,
        },
    }
}
_IDEMPOTENCY_HEADER = idempotency_header("Repeating it under the same key makes no second agent.")
_IF_MATCH = re.compile(r'(?:W/)?"([1-9][0-9]{0,8})"|([1-9][0-9]{0,8})')
_IF_MATCH_HEADER = {
    "name": "If-Match",
    "in": "header",
    "description": (
        "The version that the change is made to, as the ETag says it: where another is the newest,"
        " nothing is changed (412)."
    ),
    "schema": {"type": "string", "pattern": rf"^({_IF_MATCH.pattern}|\*)$"},
}
Version = Annotated[
    int | None, Query(ge=1, le=2_147_483_647, description="The newest unless said.")
]


class AgentView(BaseModel):
    """A version of an agent: what was said of it, and nothing that was not."""

    id: UUID = Field(description="The agent's id.")
    version: int = Field(examples=[1], description="Which of its versions this is.")
    created_at: datetime = Field(description="When the agent was made.")
    updated_at: datetime = Field(description="When this version was made.")
    archived_at: datetime | None = Field(description="When it was archived, if it was.")
    name: str = Field(examples=["reservations"], description="What joins may call it.")
    product: str | None = Field(default=None, description="As in a join.")
    bot: dict[str, Any] = Field(default={}, description="As in a join.")
    tools: list[dict[str, Any]] = Field(
        default=[], description="As in a join's `bot`; values of headers are hidden."
    )
    insights: dict[str, Any] = Field(default={}, description="As in a join.")
    max_duration_secs: int | None = Field(default=None, description="As in a join.")
    save_mode: str | None = Field(default=None, description="As in a join.")
    recording: dict[str, Any] | None = Field(
        default=None, description="As in a join: its calls are recorded."
    )
    webhook_url: str | None = Field(default=None, description="As in a join.")
    metadata: dict[str, Any] = Field(default={}, description="As in a join.")


class AgentPage(BaseModel):
    """The team's agents in their newest versions, the one made last first."""

    agents: list[AgentView] = Field(description="The agents.")
    next_cursor: str | None = Field(description="For the following page; null on the last.")


@router.post(
    "",
    status_code=201,
    response_model=AgentView,
    responses={
        200: {"model": AgentView, "description": "This agent was made before."},
        **documented(409, 413, 415, 422),
    },
    openapi_extra={
        "parameters": [_IDEMPOTENCY_HEADER],
        **takes(AgentDefinition, _EXAMPLES),
    },
)
async def create_agent(request: Request) -> Response:
    """Store an agent, for joins of the key's team to name. Names are the team's own."""
    services, key = services_of(request), caller_of(request)
    definition = await _read(request)
    agent, replayed = await services.database.agents.create(
        key.team_id,
        definition,
        api_key_id=key.id,
        idempotency_key=idempotency_key(request),
        fingerprint=fingerprint(definition.said()),
    )
    if replayed:
        return _answer(agent, headers=REPLAYED)
    return _answer(agent, status_code=201)


@router.get("", response_model=AgentPage, responses=documented(422))
async def list_agents(
    request: Request,
    limit: Limit = 50,
    cursor: Cursor = None,
    archived: Annotated[bool, Query(description="Also those that were archived.")] = False,
) -> Response:
    """The team's agents."""
    page = await services_of(request).database.agents.list(
        caller_of(request).team_id, limit=limit, cursor=cursor, archived=archived
    )
    agents = [_view(agent) for agent in page.items]
    return ExactJSONResponse({"agents": agents, "next_cursor": page.next_cursor})


@router.get("/{agent_id:uuid}", response_model=AgentView, responses=documented(404, 422))
async def get_agent(request: Request, agent_id: UUID, version: Version = None) -> Response:
    """The newest version of an agent, or the one asked for; archived agents too."""
    agents = services_of(request).database.agents
    return _answer(await agents.get(caller_of(request).team_id, str(agent_id), version))


@router.put(
    "/{agent_id:uuid}",
    response_model=AgentView,
    responses=documented(404, 409, 412, 413, 415, 422),
    openapi_extra={"parameters": [_IF_MATCH_HEADER], **takes(AgentDefinition, _EXAMPLES)},
)
async def change_agent(request: Request, agent_id: UUID) -> Response:
    """Make the next version of an agent: the body is all of it. Calls under way keep theirs."""
    if_version = _if_match(request)
    definition = await _read(request)
    agent = await services_of(request).database.agents.change(
        caller_of(request).team_id, str(agent_id), definition, if_version=if_version
    )
    return _answer(agent)


@router.delete("/{agent_id:uuid}", response_model=AgentView, responses=documented(404))
async def archive_agent(request: Request, agent_id: UUID) -> Response:
    """Let no new call name the agent. Running and past calls keep theirs, and its name is free."""
    agents = services_of(request).database.agents
    return _answer(await agents.archive(caller_of(request).team_id, str(agent_id)))


async def agent_of(services: Services, key: ApiKey, join: JoinRequest) -> Agent | None:
    """The agent that a join names.

    Raises:
        Refused: code ``unknown_agent``.
        Conflict: code ``agent_archived``.
    """
    if join.agent is None:
        return None
    try:
        agent = await services.database.agents.get(key.team_id, join.agent.id, join.agent.version)
    except NotFound as error:
        raise Refused("unknown_agent", str(error)) from error
    if agent.archived_at is not None:
        raise Conflict(
            f"The agent {agent.name} is archived: no new call can have it.", "agent_archived"
        )
    return agent


async def _read(request: Request) -> AgentDefinition:
    """The agent in the body, judged as a join with nothing but this would be."""
    services = services_of(request)
    definition = await read(request, AgentDefinition)
    try:
        check_templates(definition)
        require_public_webhook(services, definition)
        await require_usable_schema(services, definition)
        as_join = definition.as_join()
        await require_usable_tools(services, as_join.bot.tools)
        services.calls.check(as_join)
    except InvalidInput as error:
        raise definition.as_sent(error) from error
    return definition


def _if_match(request: Request) -> int | None:
    """The version that the newest must be, or ``None``: any."""
    given = request.headers.getlist("if-match")
    if not given or given == ["*"]:
        return None
    found = _IF_MATCH.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        problem = FieldProblem("If-Match", 'must be one version, such as "3"')
        raise InvalidInput("The request is not valid.", [problem])
    return int(found[1] or found[2])


def _view(agent: Agent) -> dict[str, Any]:
    return {
        "id": agent.id,
        "version": agent.version,
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
        "archived_at": agent.archived_at,
        **agent.shown(),
    }


def _answer(
    agent: Agent, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    etag = {"etag": f'"{agent.version}"'}
    return ExactJSONResponse(_view(agent), status_code, {**etag, **(headers or {})})
