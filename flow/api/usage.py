"""The usage report of a key, as JSON or as a spreadsheet."""

from __future__ import annotations

import csv
import io
from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.accept import preferred
from flow.api.auth import caller_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.api.services import services_of
from flow.errors import FieldProblem, InvalidInput

router = APIRouter(prefix="/api/usage", tags=["usage"])

GROUPS = ("day", "model", "provider", "product", "kind", "source")
MEASURES = (
    "events",
    "llm_calls",
    "total_tokens",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "cache_read_audio_tokens",
    "characters",
    "tts_audio_seconds",
    "stt_audio_seconds",
    "call_seconds",
    "estimated_events",
    "unpriced_events",
    "interrupted_events",
    "failed_events",
    "input_cost_usd",
    "cache_read_cost_usd",
    "cache_write_cost_usd",
    "output_cost_usd",
    "audio_input_cost_usd",
    "audio_output_cost_usd",
    "tts_cost_usd",
    "stt_cost_usd",
    "call_cost_usd",
    "total_cost_usd",
    "billable_cost_usd",
)
_ROW = {"day": "2026-11-21", "model": "gpt-4.1", "events": 7, "total_cost_usd": "0.0213"}
# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class UsageReport(BaseModel):
    """Usage from ``from`` to ``to``, both days included (UTC), one row a group.

    Money and seconds are strings: they are exact. Money is null where nothing had a price.
    """

    from_: date = Field(alias="from", examples=["2026-11-01"])
    to: date = Field(examples=["2026-11-30"])
    group_by: list[str] = Field(examples=[["day", "model"]])
    rows: list[dict[str, Any]] = Field(examples=[[_ROW]])


@router.get(
    "",
    response_model=UsageReport,
    responses={
        200: {
            "content": {"text/csv": {"schema": {"type": "string"}}},
            "description": "The report, as CSV for 'Accept: text/csv'.",
        },
        **documented(406, 422),
    },
)
async def get_usage(
    request: Request,
    from_: Annotated[date | None, Query(alias="from", description="First day (UTC).")] = None,
    to: Annotated[date | None, Query(description="Last day (UTC), included.")] = None,
    group_by: Annotated[
        str,
        Query(
            max_length=128,
            description="Any of day, model, provider, product, kind, source; with commas.",
            examples=["day,model"],
        ),
    ] = "",
) -> Response:
    """What this key used, by default in the current month (UTC)."""
    form = preferred(request.headers.get("accept", ""), ("application/json", "text/csv"))
    services = services_of(request)
    first, last = period(from_, to, services.now().date())
    groups = grouping(group_by)
    rows = await services.database.get_usage_stats_by_api_key_id(
        caller_of(request).id, from_=first, to=last, group_by=groups
    )
    if form == "text/csv":
        name = f"usage-{first}-{last}.csv"
        return _csv(as_csv(rows, [*groups, *MEASURES]), name)
    report = UsageReport(**{"from": first}, to=last, group_by=groups, rows=rows)
    return ExactJSONResponse(report, headers={"vary": "Accept"})


def period(from_: date | None, to: date | None, today: date) -> tuple[date, date]:
    """The days asked for. What is left out is the edge of the month of the other, or of today.

    Raises:
        InvalidInput: the period ends before it begins; names both days.
    """
    month = from_ or to or today
    first = from_ or month.replace(day=1)
    last = to or month.replace(day=monthrange(month.year, month.month)[1])
    if first > last:
        problem = FieldProblem("from", f"{first} is after {last}, the last day asked for")
        raise InvalidInput("The period ends before it begins.", [problem])
    return first, last


def grouping(names: str) -> list[str]:
    """The groups named, each once, in the order given.

    Raises:
        InvalidInput: a name is not one to group by.
    """
    groups = list(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))
    if unknown := [name for name in groups if name not in GROUPS]:
        problem = FieldProblem("group_by", f"{unknown[0]!r} is not one of {', '.join(GROUPS)}")
        raise InvalidInput("The usage cannot be grouped like that.", [problem])
    return groups


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows under a header line. No cell can run as a formula in a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(text: str, name: str) -> Response:
    return Response(
        text,
        media_type="text/csv",
        headers={
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
            "vary": "Accept",
            "x-content-type-options": "nosniff",
        },
    )
