"""The calls of `flow.db.database` for operators: keys, budgets, quotas and reports.

Any call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.rows import KeyAccount
from flow.db.transport import TypedCalls
from flow.domain.limits.quota import RATES, LimitState, Terms
from flow.domain.products.save_mode import SaveMode


class Operating(TypedCalls):
    """The calls about all keys and teams; each is one round trip and one transaction."""

    async def get_usage_report(
        self,
        *,
        from_: date,
        to: date,
        group_by: Sequence[str] = (),
        api_key_id: UUID | None = None,
        team_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """What `flow.db.database.Database.get_usage_stats_by_api_key_id` says of a key, over all
        keys, or those of a key or a team.

        ``group_by`` may also name ``key`` (rows hold ``api_key_id`` and ``key_name``) and
        ``team`` (``team_id``).

        Raises:
            InvalidInput: a group has another name, or ``from_`` is after ``to``.
        """
        found: list[dict[str, Any]] = await self._call(
            "get_usage_report",
            p_from=from_.isoformat(),
            p_to=to.isoformat(),
            p_group_by=list(group_by),
            p_api_key_id=api_key_id and str(api_key_id),
            p_team_id=team_id,
        )
        return found

    async def list_api_keys(self, team_id: str | None = None) -> tuple[KeyAccount, ...]:
        """Every key that was ever seen, by team and age."""
        return tuple(map(rows.key_account, await self._call("list_api_keys", p_team_id=team_id)))

    async def get_api_key(self, reference: str) -> KeyAccount:
        """A key by its id here, its id at Unkey, or a name that no other key has.

        Raises:
            NotFound: there is no such key.
            Conflict: several keys have that name.
        """
        return rows.key_account(await self._call("get_api_key", p_reference=reference))

    async def set_budget(self, api_key_id: UUID, cap_usd: Decimal | None) -> KeyAccount:
        """Set the key's budget in USD a month; ``None``, 0 and less mean none.

        Raises:
            NotFound: there is no such key.
        """
        cap = None if cap_usd is None else str(cap_usd)
        row = await self._call("set_budget", p_api_key_id=str(api_key_id), p_cap_usd=cap)
        return rows.key_account(row)

    async def set_budget_override(self, api_key_id: UUID, until: datetime | None) -> KeyAccount:
        """Let the budget refuse nothing until then; ``None`` ends that.

        Raises:
            NotFound: there is no such key.
        """
        row = await self._call(
            "set_budget_override",
            p_api_key_id=str(api_key_id),
            p_until=until and until.isoformat(),
        )
        return rows.key_account(row)

    async def set_save_mode(self, api_key_id: UUID, mode: SaveMode | None) -> KeyAccount:
        """Set the key's save mode; ``None`` leaves it to the product.

        Raises:
            NotFound: there is no such key.
        """
        row = await self._call(
            "set_save_mode", p_api_key_id=str(api_key_id), p_save_mode=mode and mode.value
        )
        return rows.key_account(row)

    async def set_key_rates(self, api_key_id: UUID, rates: Mapping[str, int]) -> KeyAccount:
        """Set the key's own limits of requests to the gateway, by resource; others are lifted.

        Raises:
            NotFound: there is no such key.
            InvalidInput: a limit is not positive.
        """
        limits = {f"p_{name}": rates.get(name) for name in RATES}
        row = await self._call("set_key_rates", p_api_key_id=str(api_key_id), **limits)
        return rows.key_account(row)

    async def revoke_api_key(self, api_key_id: UUID) -> KeyAccount:
        """Note that the key was revoked at Unkey; its ledger stays.

        Raises:
            NotFound: there is no such key.
        """
        return rows.key_account(await self._call("revoke_api_key", p_api_key_id=str(api_key_id)))

    async def set_team_quota(self, team_id: str, resource: str, limit: Decimal | None) -> None:
        """Set how much of a resource a team may use; ``None`` lifts the limit, 0 allows nothing.

        Raises:
            InvalidInput: the limit is negative or no number, or the resource no name.
        """
        quota = None if limit is None else str(limit)
        await self._call("set_team_quota", p_team_id=team_id, p_resource=resource, p_quota=quota)

    async def list_team_quotas(
        self, team_id: str | None, terms: Terms
    ) -> list[tuple[str, LimitState]]:
        """Every team's quotas and how far each is used: team and state.

        What credits are used follows from ``terms.buckets``; credits of no bucket are left out.
        """
        found = await self._call(
            "list_team_quotas", p_team_id=team_id, p_buckets=terms.to_json()["buckets"]
        )
        return [(row["team_id"], rows.limit_state(row)) for row in found]
