"""What a key or a team may use, and how far it has got."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of, require_permission
from flow.api.budget_headers import Budget, note_budget, shown
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.api.request_context import context_of
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget as KeyBudget
from flow.domain.limits.budget import Tier
from flow.domain.limits.permissions import ADMIN, TEAM_LIMITS
from flow.domain.limits.quota import BUDGET, LimitState, plain
from flow.errors import FieldProblem, InvalidInput, Unavailable

router = APIRouter(prefix="/api/limits", tags=["limits"])


class Limit(BaseModel):
    """One limit; amounts are strings, which keep every digit, and months are of UTC.

    ``budget_usd`` is in USD, ``call_seconds`` in seconds, ``concurrent_calls`` in calls; any other
    resource is credits, of which 1 is 1 cent of billable cost.
    """

    resource: str = Field(examples=["ai_credits"], description="What is limited.")
    scope: Literal["key", "team"] = Field(description="Whose limit it is.")
    product: str | None = Field(description="Set where the limit is for calls of one product.")
    used: str | None = Field(
        description="What is used. Null: the team's, and the key has no permission limits.team.",
        examples=["120.5"],
    )
    reserved: str | None = Field(
        description="Held by running calls beyond what they have used. Null as used is.",
        examples=["10"],
    )
    limit: str | None = Field(description="Null: there is no limit.", examples=["1000"])
    limited: bool = Field(description="Whether a call would be refused now.")
    resets_at: datetime | None = Field(description="Null: it frees itself when a call ends.")
    source: Literal["flow", "external"] = Field(
        default="flow", description="Who has set it: Flow, or the operator's billing service."
    )
    status: Literal["ok", "unavailable"] = Field(
        default="ok", description="Unavailable: an external source cannot be asked now."
    )


class Limits(BaseModel):
    """Every limit of the key and its team, and the key's budget."""

    budget: Budget = Field(description="The key's budget.")
    limits: list[Limit] = Field(description="Every limit.")


@router.get("", response_model=Limits, responses=documented(404, 422))
async def get_limits(
    request: Request,
    api_key_id: Annotated[UUID | None, Query(description="Another key's: flow.admin.")] = None,
    team_id: Annotated[
        str | None, Query(max_length=255, description="A team's alone: flow.admin.")
    ] = None,
) -> Response:
    """Every limit, with how much of it is used and when it starts anew.

    What the whole team has used is told to keys with the permission ``limits.team``; others see
    whether a limit is reached.
    """
    services, key = services_of(request), caller_of(request)
    if api_key_id is not None or team_id is not None:
        require_permission(request, ADMIN)
        return ExactJSONResponse(await _limits_of(services, api_key_id, team_id))
    states, budget = await services.database.get_limits(key.id, services.products.terms())
    note_budget(request, budget)
    limits = _limits(states, budget) + await _external(services, key)
    if TEAM_LIMITS not in context_of(request.scope).permissions:
        limits = [_without_team_usage(limit) for limit in limits]
    return ExactJSONResponse(Limits(budget=shown(budget), limits=limits))


async def _limits_of(services: Services, api_key_id: UUID | None, team_id: str | None) -> Limits:
    """The limits of another key, with its team's, or those of a team alone."""
    terms = services.products.terms()
    if api_key_id is None:
        assert team_id is not None
        states = await services.database.operating.get_team_limits(team_id, terms)
        return Limits(budget=shown(None), limits=_limits(states, None))
    if team_id is not None:
        problem = FieldProblem("team_id", "goes without api_key_id, whose answer has its team's")
        raise InvalidInput("The request is not valid.", [problem])
    states, budget = await services.database.get_limits(api_key_id, terms)
    account = await services.database.operating.get_api_key(str(api_key_id))
    limits = _limits(states, budget) + await _external(services, account.key)
    return Limits(budget=shown(budget), limits=limits)


def _limits(states: Sequence[LimitState], budget: KeyBudget | None) -> list[Limit]:
    is_lifted = budget is not None and budget.tier is Tier.OVERRIDE
    return [_limit(state, is_lifted=is_lifted) for state in states]


def _limit(state: LimitState, *, is_lifted: bool) -> Limit:
    said: dict[str, Any] = state.to_json()
    if state.resource == BUDGET and state.scope == "key" and is_lifted:
        said["limited"] = False
    return Limit(**said)


def _without_team_usage(limit: Limit) -> Limit:
    if limit.scope != "team":
        return limit
    return limit.model_copy(update={"used": None, "reserved": None})


async def _external(services: Services, key: ApiKey) -> list[Limit]:
    """What the operator's own billing says, one line for each product that is sold."""
    if services.quotas is None:
        return []
    names = [product.name for product in services.products if product.calls or product.gateway]
    asked = (_external_limit(services, key, name) for name in names)
    return list(await asyncio.gather(*asked))


async def _external_limit(services: Services, key: ApiKey, product: str) -> Limit:
    assert services.quotas is not None
    said: dict[str, Any] = dict.fromkeys(("used", "limit", "resets_at"))
    status: Literal["ok", "unavailable"] = "ok"
    resource, limited = "external", True
    try:
        state = await services.quotas.state(key, product)
    except Unavailable:
        status = "unavailable"
    else:
        resource, limited = state.resource or resource, state.limited
        said = {
            "used": None if state.used is None else plain(state.used),
            "limit": None if state.limit is None else plain(state.limit),
            "resets_at": state.resets_at,
        }
    return Limit(
        resource=resource,
        scope="team",
        product=product,
        reserved=None,
        limited=limited,
        source="external",
        status=status,
        **said,
    )
