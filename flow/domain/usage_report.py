"""Usage reports: the days they cover, what they are grouped by, their sums, and them as CSV."""

from __future__ import annotations

import csv
import io
from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, localcontext
from typing import Any

from flow.domain.usage import EXACT_DIGITS
from flow.errors import FieldProblem, InvalidInput

GROUPS = ("day", "model", "provider", "product", "kind", "source")

COUNTS = (
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
)
SECONDS = ("tts_audio_seconds", "stt_audio_seconds", "call_seconds")
OUTCOMES = ("estimated_events", "unpriced_events", "interrupted_events", "failed_events")
COSTS = (
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
MEASURES = (*COUNTS, *SECONDS, *OUTCOMES, *COSTS)
"""The columns of every row: counts are integers, seconds and money strings or ``None``."""

# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


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


def grouping(names: str, known: Sequence[str] = GROUPS, *, field: str = "group_by") -> list[str]:
    """The groups named, each once, in the order given; ``field`` is where they were named.

    Raises:
        InvalidInput: a name is not one to group by.
    """
    groups = list(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))
    if unknown := [name for name in groups if name not in known]:
        problem = FieldProblem(field, f"{unknown[0]!r} is not one of {', '.join(known)}")
        raise InvalidInput("The usage cannot be grouped like that.", [problem])
    return groups


def total(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The measures of all rows together, exactly; shaped as in a row.

    What is ``None`` in every row, a cost where nothing had a price, is ``None`` in the sum.
    """
    rows = list(rows)
    sums: dict[str, Any] = {name: sum(row[name] for row in rows) for name in (*COUNTS, *OUTCOMES)}
    with localcontext() as exact:
        # The default context rounds to 28 digits, which the database does not.
        exact.prec = EXACT_DIGITS
        for name in (*SECONDS, *COSTS):
            known = [Decimal(row[name]) for row in rows if row[name] is not None]
            sums[name] = f"{sum(known, Decimal(0)):f}" if known or not rows else None
    return {name: sums[name] for name in MEASURES}


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
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
