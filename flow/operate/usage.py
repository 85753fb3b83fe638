"""The usage report over all keys, or those of a key or a team."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from flow.db.functions import Database
from flow.domain import usage_report

GROUPS = ("key", "team", *usage_report.GROUPS)

_COLUMNS = {"key": ("api_key_id", "key_name"), "team": ("team_id",)}


@dataclass(frozen=True, slots=True)
class Report:
    """Usage from ``first`` to ``last``, both days included (UTC), one row a group."""

    first: date
    last: date
    groups: Sequence[str]
    rows: Sequence[dict[str, Any]]
    total: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """The columns that name a row."""
        return [column for group in self.groups for column in _COLUMNS.get(group, (group,))]

    def to_json(self) -> dict[str, Any]:
        """The report; money and seconds are strings, money ``None`` where nothing had a price."""
        return {
            "from": self.first,
            "to": self.last,
            "group_by": self.groups,
            "rows": self.rows,
            "total": self.total,
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
    return Report(*days, groups, rows, usage_report.total(rows))
