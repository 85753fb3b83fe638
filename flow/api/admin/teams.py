"""Teams: what they spend, and their quotas."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.admin import json_forms
from flow.admin.quotas import set_quota
from flow.api.admin.operators import Cursor, Search, noted
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.key_limits import Limit as LimitView
from flow.api.list_parameters import Limit
from flow.api.problems import documented
from flow.api.request_bodies import read, takes
from flow.errors import NotFound

router = APIRouter(prefix="/teams")


class Team(BaseModel):
    """What a team spent this month (UTC), in USD, and every limit it has or could have.

    A ``limit`` of null means that no quota is set.
    """

    team_id: str = Field(examples=["acme"], description="The team's id.")
    keys: int = Field(description="Those that were not revoked.")
    running_calls: int = Field(description="Calls that wait for their caller, too.")
    spent_usd: str = Field(examples=["12.5"], description="Of all products.")
    billable_usd: str = Field(examples=["12.5"], description="Of products that are billed.")
    resets_at: datetime = Field(description="When the next month begins (UTC).")
    limits: list[LimitView] = Field(description="Every limit.")


class TeamPage(BaseModel):
    """Teams, by name. Give ``next_cursor`` back as ``cursor`` for the following page."""

    teams: list[Team] = Field(description="The teams of the page.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


class QuotaChange(BaseModel):
    """A team's quota of a month (UTC), or of any one time; 0 allows nothing, null lifts it."""

    model_config = ConfigDict(extra="forbid")

    limit: (
        Annotated[
            Decimal,
            Field(ge=0, lt=10**12, max_digits=30, decimal_places=18, allow_inf_nan=False),
        ]
        | None
    ) = Field(description="A month's worth, or at one time.")


@router.get("", response_model=TeamPage, responses=documented(422))
async def list_teams(
    request: Request,
    limit: Limit = 50,
    cursor: Cursor = None,
    search: Annotated[Search, Query(description="A part of the team's id.")] = None,
) -> Response:
    """Every team that has a key or a quota."""
    services = services_of(request)
    page = await services.database.operating.list_teams(
        services.products.terms(), search=search, limit=limit, cursor=cursor
    )
    teams = [Team(**json_forms.team(one)) for one in page.items]
    return ExactJSONResponse(TeamPage(teams=teams, next_cursor=page.next_cursor))


# A team's id may hold any character, and so a slash.
@router.put(
    "/{team_id:path}/quotas/{resource}",
    response_model=Team,
    responses=documented(404, 413, 415, 422),
    openapi_extra=takes(QuotaChange),
)
async def change_quota(request: Request, team_id: str, resource: str) -> Response:
    """Set a quota: ``call_seconds``, ``concurrent_calls`` or a kind of credits, 1 to a cent."""
    services = services_of(request)
    change = await read(request, QuotaChange)
    terms = services.products.terms()
    with noted(request, "quota_changed", changed_team=team_id, resource=resource):
        await set_quota(services.database, terms, team_id, resource, change.limit)
    return await _answer(services, team_id)


@router.get("/{team_id:path}", response_model=Team, responses=documented(404))
async def get_team(request: Request, team_id: str) -> Response:
    """A team that has a key or a quota."""
    return await _answer(services_of(request), team_id)


async def _answer(services: Services, team_id: str) -> Response:
    found = await services.database.operating.get_team(team_id, services.products.terms())
    if found is None:
        raise NotFound(f"There is no team {team_id!r}.")
    return ExactJSONResponse(Team(**json_forms.team(found)))
