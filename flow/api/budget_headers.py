"""The budget of the calling key or its team, and its limits a minute, on every answer to it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flow.api.rate_headers import with_rates
from flow.api.request_context import context_of, log_of
from flow.db.database import Database
from flow.domain.limits import budget as domain
from flow.domain.limits.budget import Tier
from flow.domain.limits.quota import dollars
from flow.errors import FlowError

LOOKUP_SECS = 2.0
TIER_HEADER = "x-posthog-budget"
SCOPE_HEADER = "x-posthog-budget-scope"
REMAINING_HEADER = "x-posthog-budget-remaining-usd"
SEES_TEAM = "limits.team"
"""The permission to see what the whole team uses."""

RawHeaders = list[tuple[bytes, bytes]]


class Budget(BaseModel):
    """What the key may spend this month (UTC). Without a budget the tier is ``ok``, the rest null.

    ``remaining_usd`` is the cap less what is spent; running calls hold ``reserved_usd`` of that.
    """

    tier: Tier = Field(examples=["ok"], description="How much of the budget is spent.")
    cap_usd: str | None = Field(examples=["50.00"], description="The budget of the month.")
    spent_usd: str | None = Field(examples=["8.80"], description="What is spent of it.")
    reserved_usd: str | None = Field(
        examples=["0.10"], description="What running calls hold beyond what they have spent."
    )
    remaining_usd: str | None = Field(examples=["41.20"], description="The cap less what is spent.")
    resets_at: datetime | None = Field(description="When the next month begins (UTC).")


_UNLIMITED = Budget(
    tier=Tier.OK,
    cap_usd=None,
    spent_usd=None,
    reserved_usd=None,
    remaining_usd=None,
    resets_at=None,
)


def shown(budget: domain.Budget | None, *, sees_team: bool = False) -> Budget:
    """The budget for a customer; of a team's the tier alone, for whoever may not see the rest."""
    if budget is None or budget.cap_usd is None:
        return _UNLIMITED
    if budget.scope == "team" and not sees_team:
        tier = budget.tier or Tier.OK
        return _UNLIMITED.model_copy(update={"tier": tier, "resets_at": budget.resets_at})
    return Budget(
        tier=budget.tier or Tier.OK,
        cap_usd=dollars(budget.cap_usd),
        spent_usd=dollars(budget.spent_usd),
        reserved_usd=dollars(budget.reserved_usd),
        remaining_usd=dollars(budget.remaining_usd or Decimal(0)),
        resets_at=budget.resets_at,
    )


def note_budget(connection: HTTPConnection, budget: domain.Budget | None) -> None:
    """Tell the middleware what a handler has just learned, which saves it the asking."""
    context_of(connection.scope).budget = budget


class BudgetHeaders:
    """Adds the tier, and what remains, to every answer to a key that has a budget.

    Where the budget cannot be read the tier is ``unknown``: an answer never fails for it.
    """

    def __init__(self, app: ASGIApp, *, database: Database) -> None:
        self._app = app
        self._database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; look up the budget when it answers, unless a handler knew it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)

        async def label(message: Message) -> None:
            if context.api_key is not None:
                found = await self._headers(scope, context.api_key.id)
                known = message.get("headers", ())
                if context.rates is not None:
                    known = with_rates(known, context.rates, context.protocol)
                message["headers"] = [*known, *found]

        context.on_answer.append(label)
        await self._app(scope, receive, send)

    async def _headers(self, scope: Scope, key_id: UUID) -> RawHeaders:
        context = context_of(scope)
        sees_team = SEES_TEAM in context.permissions
        if context.budget != "unasked":
            return _headers(context.budget, sees_team=sees_team)
        if context.is_database_away:
            return [_tier(Tier.UNKNOWN)]
        try:
            async with asyncio.timeout(LOOKUP_SECS):
                budget = await self._database.get_budget(key_id)
                return _headers(budget, sees_team=sees_team)
        except (FlowError, TimeoutError) as error:
            log_of(scope).warning("budget_unknown", error=str(error))
            return [_tier(Tier.UNKNOWN)]


def _headers(budget: domain.Budget | None, *, sees_team: bool) -> RawHeaders:
    if budget is None or budget.tier is None:
        return []
    if budget.scope == "team":
        found = [_tier(budget.tier), (SCOPE_HEADER.encode(), b"team")]
        return [*found, _remaining(budget)] if sees_team else found
    return [_tier(budget.tier), _remaining(budget)]


def _remaining(budget: domain.Budget) -> tuple[bytes, bytes]:
    remaining = dollars(budget.remaining_usd or Decimal(0))
    return REMAINING_HEADER.encode(), remaining.encode()


def _tier(tier: Tier) -> tuple[bytes, bytes]:
    return TIER_HEADER.encode(), tier.encode()
