"""The ledger over all keys: usage, what has no price, and what could not be taken."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.admin.usage import GROUPS, report
from flow.api.admin.operators import Cursor, OfKey, OfTeam
from flow.api.content_negotiation import preferred
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.list_parameters import Limit
from flow.api.problems import documented
from flow.api.usage import CSV_ANSWER, FirstDay, LastDay, UsageReport, csv_answer
from flow.domain.usage.reports import grouping, period

router = APIRouter()


class UnpricedModel(BaseModel):
    """A model whose usage has no price; some of it could not even be metered."""

    provider: str = Field(description="The vendor.")
    model: str = Field(description="The model, by the vendor's own name.")
    kind: str = Field(examples=["llm"], description="What kind of work it did.")
    unpriced_events: int = Field(description="Rows of the ledger without a price.")
    unmetered_events: int = Field(description="Rows that say that nothing told how much was used.")
    keys: int = Field(description="How many keys used it.")
    first_day: date = Field(description="The first day of its use.")
    last_day: date = Field(description="The last day of its use.")


class Unpriced(BaseModel):
    """Models without a price from ``from`` to ``to``, the most used first."""

    from_: date = Field(alias="from", description="The first day.")
    to: date = Field(description="The last day, included.")
    models: list[UnpricedModel] = Field(description="One for each vendor, model and kind.")


class RejectedEvent(BaseModel):
    """An event that the ledger could not take, as it came, and why."""

    id: int = Field(description="Its number in the table of rejected events.")
    rejected_at: datetime = Field(description="When the ledger refused it.")
    reason: str = Field(description="Why.")
    event: dict[str, Any] = Field(description="The event as it came.")


class RejectedPage(BaseModel):
    """Rejected events, newest first. Give ``next_cursor`` back as ``cursor`` for more."""

    rejected: list[RejectedEvent] = Field(description="The events of the page.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


@router.get(
    "/usage", response_model=UsageReport, responses={**CSV_ANSWER, **documented(404, 406, 422)}
)
async def get_usage(
    request: Request,
    from_: FirstDay = None,
    to: LastDay = None,
    group_by: Annotated[
        str, Query(max_length=128, description=f"Any of {', '.join(GROUPS)}; with commas.")
    ] = "",
    api_key_id: OfKey = None,
    team_id: OfTeam = None,
) -> Response:
    """What all keys used, or those of a key or a team; by default in this month (UTC)."""
    form = preferred(request.headers.get("accept", ""), ("application/json", "text/csv"))
    services = services_of(request)
    days = period(from_, to, services.now().date())
    found = await report(
        services.database,
        days,
        grouping(group_by, GROUPS),
        key=None if api_key_id is None else str(api_key_id),
        team_id=team_id,
    )
    if form == "text/csv":
        return csv_answer(found.rows, found.columns, days)
    told = UsageReport(
        **{"from": days[0]}, to=days[1], group_by=list(found.groups), rows=list(found.rows)
    )
    return ExactJSONResponse(told, headers={"vary": "Accept"})


@router.get("/unpriced", response_model=Unpriced, responses=documented(422))
async def list_unpriced(
    request: Request,
    from_: FirstDay = None,
    to: LastDay = None,
    api_key_id: OfKey = None,
    team_id: OfTeam = None,
) -> Response:
    """Models that were used and have no price; by default in this month (UTC)."""
    services = services_of(request)
    first, last = period(from_, to, services.now().date())
    found = await services.database.operating.list_unpriced(
        from_=first, to=last, api_key_id=api_key_id, team_id=team_id
    )
    models = [UnpricedModel(**row) for row in found]
    return ExactJSONResponse(Unpriced(**{"from": first}, to=last, models=models))


@router.get("/rejected", response_model=RejectedPage, responses=documented(422))
async def list_rejected(request: Request, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Events that the ledger could not take; each is kept as it came."""
    page = await services_of(request).database.operating.list_rejected_usage(
        limit=limit, cursor=cursor
    )
    rejected = [RejectedEvent(**row) for row in page.items]
    return ExactJSONResponse(RejectedPage(rejected=rejected, next_cursor=page.next_cursor))
