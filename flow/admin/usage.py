"""The usage report over all keys, or those of a key or a team."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from flow.db.database import Database
from flow.domain.usage import reports as usage_report
from flow.domain.usage.reports import UsageTable

GROUPS = ("key", "team", *usage_report.GROUPS)

_COLUMNS = {"key": ("api_key_id", "key_name"), "team": ("team_id",)}


@dataclass(frozen=True, slots=True)
class Report:
    """Usage from ``first`` to ``last``, both days included (UTC), one row a group."""

    first: date
    last: date
    groups: Sequence[str]
    table: UsageTable

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        """One a group, each with `columns` and what was used."""
        return self.table.rows

    @property
    def columns(self) -> list[str]:
        """The columns of a row: those that name it, then what was used."""
        named = [column for group in self.groups for column in _COLUMNS.get(group, (group,))]
        return [*named, *self.table.measures]

    def to_json(self) -> dict[str, Any]:
        """The report; money and seconds are strings, money ``None`` where nothing had a price."""
        return {
            "from": self.first,
            "to": self.last,
            "group_by": self.groups,
            "rows": self.rows,
            "total": self.table.total(),
        }


async def report(
    database: Database,
    days: tuple[date, date],
    groups: Sequence[str],
    *,
    key: str | None = None,
    team_id: str | None = None,
) -> Report:
    """The report of ``days``, with the sum of its rows.

    Raises:
        NotFound, Conflict: ``key`` is the reference of no key, or of several.
    """
    api_key_id = (await database.operating.get_api_key(key)).key.id if key is not None else None
    rows = await database.operating.get_usage_report(
        from_=days[0], to=days[1], group_by=groups, api_key_id=api_key_id, team_id=team_id
    )
    return Report(*days, groups, UsageTable.of(rows))
