"""The usage report of a key, as JSON or as a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.content_negotiation import preferred
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.domain.usage.reports import UsageTable, as_csv, grouping, period

router = APIRouter(prefix="/api/usage", tags=["usage"])

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _is_a_day(text: Any) -> Any:
    # A number would be taken for seconds since 1970.
    if isinstance(text, str) and not _DAY.fullmatch(text):
        raise ValueError("must be a day as in 2026-11-21")
    return text


_Day = Annotated[date, BeforeValidator(_is_a_day)]
FirstDay = Annotated[_Day | None, Query(alias="from", description="First day (UTC).")]
LastDay = Annotated[_Day | None, Query(alias="to", description="Last day (UTC), included.")]
CSV_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/csv": {"schema": {"type": "string"}}},
        "description": "The report, as CSV for 'Accept: text/csv'.",
    }
}
_ROW = {"day": "2026-11-21", "model": "gpt-4.1", "events": 7, "total_cost_usd": "0.0213"}


class UsageReport(BaseModel):
    """Usage from ``from`` to ``to``, both days included (UTC), one row a group.

    Each unit that vendors bill by is a column, such as ``input_tokens`` or ``tts_audio_seconds``,
    and so is each component of cost, such as ``llm_output_cost_usd``. Units that are part of
    another (``reasoning_tokens``) are in that one too. Money and seconds are strings: they are
    exact. Money is null where nothing had a price.
    """

    from_: date = Field(alias="from", examples=["2026-11-01"], description="The first day.")
    to: date = Field(examples=["2026-11-30"], description="The last day, included.")
    group_by: list[str] = Field(
        examples=[["day", "model"]], description="What the rows are groups of."
    )
    rows: list[dict[str, Any]] = Field(examples=[[_ROW]], description="One for each group.")


@router.get(
    "",
    response_model=UsageReport,
    responses={**CSV_ANSWER, **documented(406, 422)},
)
async def get_usage(
    request: Request,
    from_: FirstDay = None,
    to: LastDay = None,
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
    table = UsageTable.of(
        await services.database.get_usage_stats_by_api_key_id(
            caller_of(request).id, from_=first, to=last, group_by=groups
        )
    )
    if form == "text/csv":
        return csv_answer(table.rows, [*groups, *table.measures], (first, last))
    report = UsageReport(**{"from": first}, to=last, group_by=groups, rows=table.rows)
    return ExactJSONResponse(report, headers={"vary": "Accept"})


def csv_answer(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], days: tuple[date, date]
) -> Response:
    """A report of these days as a spreadsheet."""
    name = f"usage-{days[0]}-{days[1]}.csv"
    return Response(
        as_csv(rows, columns),
        media_type="text/csv",
        headers={
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
            "vary": "Accept",
            "x-content-type-options": "nosniff",
        },
    )
