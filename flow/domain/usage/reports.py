"""Usage reports: the days they cover, what they are grouped by, their columns, and them as CSV.

The database sums what was used as *lines*, one for each kind of work and unit. Here every unit,
and every component of cost, becomes a column of its own.
"""

from __future__ import annotations

import csv
import io
import re
from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from flow.domain.usage.events import exact_sum
from flow.domain.usage.units import COMPONENTS, UNITS, Kind, Measure, Unit
from flow.errors import FieldProblem, InvalidInput

GROUPS = ("day", "model", "provider", "product", "kind", "source")


@dataclass(frozen=True, slots=True)
class UnitColumn:
    """The column of a unit: in one kind of work, or over all of them (``kind=None``)."""

    unit: Unit
    kind: Kind | None = None

    @property
    def name(self) -> str:
        """Its name in JSON and CSV."""
        return _unit_column(self.unit.name, self.kind)

    @property
    def label(self) -> str:
        """What a table for people says behind an amount."""
        return f"{self.unit.label} ({self.kind})" if self.kind else self.unit.label


def _unit_column(unit: str, kind: str | None) -> str:
    return unit if kind is None else f"{kind}_{unit}"


UNIT_COLUMNS = tuple(
    UnitColumn(unit, kind) for unit in UNITS.values() for kind in unit.shown_by or (None,)
)

_COUNTS = ("events", "llm_calls", "total_tokens")
_OUTCOMES = (
    "estimated_events",
    "unpriced_events",
    "unmetered_events",
    "interrupted_events",
    "failed_events",
)
_TOTALS = ("total_cost_usd", "billable_cost_usd")

MEASURES = (
    *_COUNTS,
    *(column.name for column in UNIT_COLUMNS),
    *_OUTCOMES,
    *(f"{component}_cost_usd" for component in COMPONENTS),
    *_TOTALS,
)
"""The columns that every row has. What has no fractions is an integer; seconds and money are
strings, exact, and money is ``None`` where nothing had a price."""

_WHOLE = {
    *_COUNTS,
    *_OUTCOMES,
    *(c.name for c in UNIT_COLUMNS if c.unit.measure is not Measure.SECONDS),
}

_STARTS_A_FORMULA = re.compile(
    # At the start of the cell, or of what is a cell where other separators hold than here.
    r"""(^|[;|\t\r\n])"""
    # Skipped before a formula: blanks, quotes, marks that cannot be seen.
    r"""([\s"\x00-\x1f\u200b-\u200f\u2060\ufeff]*)"""
    # = + - @ and what spreadsheets take for them: full-width, small, and the sign for minus.
    r"""(?=[-=+@\uff0b\uff0d\uff1d\uff20\ufe62\ufe63\ufe66\ufe6b\u2212])"""
)


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


@dataclass(frozen=True, slots=True)
class UsageTable:
    """Rows that all have the same measures: ``measures`` names them, in their order.

    These are `MEASURES` and whatever else the rows hold: units and components of cost that the
    database knows from a newer version of Flow.
    """

    measures: tuple[str, ...]
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> UsageTable:
        """A table of the rows of ``Database.get_usage_stats_by_api_key_id`` or of
        ``Operating.get_usage_report``: the columns that name the group, counts, total costs, and
        ``lines``."""
        rows = list(rows)
        lines = [line for row in rows for line in row["lines"]]
        units = _with_others((c.name for c in UNIT_COLUMNS), map(_column_of, lines))
        components = _with_others(COMPONENTS, (line["component"] for line in lines))
        costs = [f"{component}_cost_usd" for component in components]
        return cls(
            (*_COUNTS, *units, *_OUTCOMES, *costs, *_TOTALS),
            [_flat(row, units, components) for row in rows],
        )

    def total(self) -> dict[str, Any]:
        """The measures of all rows together, exactly; shaped as in a row.

        What is ``None`` in every row, a cost where nothing had a price, is ``None`` in the sum.
        """
        return {name: _sum(name, [row[name] for row in self.rows]) for name in self.measures}


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows under a header line. No cell can run as a formula in a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(map(_cell, columns))
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return text.getvalue()


def _with_others(known: Iterable[str], found: Iterable[str]) -> list[str]:
    """The known names in their order, then the others by name."""
    names = dict.fromkeys(known)
    return [*names, *sorted(set(found) - names.keys())]


def _column_of(line: Mapping[str, Any]) -> str:
    unit = UNITS.get(line["unit"])
    by_kind = unit is not None and unit.shown_by
    return _unit_column(line["unit"], line["kind"] if by_kind else None)


def _flat(
    row: Mapping[str, Any], units: Sequence[str], components: Sequence[str]
) -> dict[str, Any]:
    used: dict[str, list[Decimal]] = {name: [] for name in units}
    costs: dict[str, list[Decimal]] = {name: [] for name in components}
    for line in row["lines"]:
        used[_column_of(line)].append(Decimal(line["quantity"]))
        if line["cost_usd"] is not None:
            costs[line["component"]].append(Decimal(line["cost_usd"]))
    is_priced = row["total_cost_usd"] is not None
    named = (*_COUNTS, *_OUTCOMES, *_TOTALS, "lines")
    return {
        **{name: value for name, value in row.items() if name not in named},
        **{name: row[name] for name in _COUNTS},
        **{name: _written(name, _added(amounts)) for name, amounts in used.items()},
        **{name: row[name] for name in _OUTCOMES},
        **{
            f"{name}_cost_usd": f"{_added(parts):f}" if is_priced else None
            for name, parts in costs.items()
        },
        **{name: row[name] for name in _TOTALS},
    }


def _added(amounts: Sequence[Decimal]) -> Decimal:
    # Most columns of a row hold nothing or one line, and a report has very many columns.
    if len(amounts) < 2:
        return amounts[0] if amounts else Decimal(0)
    return exact_sum(amounts)


def _sum(name: str, values: Sequence[int | str | None]) -> int | str | None:
    known = [Decimal(value) for value in values if value is not None]
    return _written(name, exact_sum(known)) if known or not values else None


def _written(name: str, amount: Decimal) -> int | str:
    return int(amount) if name in _WHOLE or name.endswith("_tokens") else f"{amount:f}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = str(value)
    if text.startswith(("\t", "\r", "\n")):
        text = f"'{text}"
    return _STARTS_A_FORMULA.sub(r"\1'\2", text)
