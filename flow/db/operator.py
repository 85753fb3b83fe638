"""The calls of `flow.db.database` for operators: keys, teams, all threads, hosts and reports.

Any call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.pages import Page, check_limit, name_text, page, place
from flow.db.rows import KeyAccount
from flow.db.transport import TypedCalls
from flow.domain.calls.host import Host, HostReport
from flow.domain.calls.thread import Status
from flow.domain.calls.thread_overview import ThreadFilter, ThreadOverview
from flow.domain.limits.budget import Tier
from flow.domain.limits.quota import RATES, LimitState, Terms
from flow.domain.limits.team import Team
from flow.domain.products.save_mode import SaveMode


class Operating(TypedCalls):
    """The calls about all keys, teams, threads and hosts.

    Each is one round trip and one transaction.
    """

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

    async def list_api_keys(
        self,
        *,
        team_id: str | None = None,
        search: str | None = None,
        tier: Tier | None = None,
        revoked: bool | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[KeyAccount]:
        """Keys, the newest first; without a ``limit`` all of them.

        Args:
            search: a part of the name, the id here or that at Unkey.
            revoked: only those that were, or were not.

        Raises:
            InvalidInput: the cursor is not one this method gave, or the limit not 1 to 200.
        """
        if limit is not None:
            check_limit(limit)
        before_at, before_id = place(cursor)
        found = await self._call(
            "list_api_keys",
            p_team_id=team_id,
            p_search=search,
            p_tier=tier and tier.value,
            p_revoked=revoked,
            p_limit=limit and limit + 1,
            p_before_created_at=before_at,
            p_before_id=before_id,
        )
        return page(found, limit or len(found), rows.key_account)

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

    async def get_team_limits(self, team_id: str, terms: Terms) -> tuple[LimitState, ...]:
        """Every limit that a team has or could have, and how much of each is used."""
        found = await self._call("get_team_limits", p_team_id=team_id, p_terms=terms.to_json())
        return tuple(map(rows.limit_state, found))

    async def get_team(self, team_id: str, terms: Terms) -> Team | None:
        """A team; ``None`` where it has neither a key nor a quota."""
        found = await self._call("list_teams", p_team_id=team_id, p_terms=terms.to_json())
        return _team(found[0]) if found else None

    async def list_teams(
        self,
        terms: Terms,
        *,
        search: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Team]:
        """Teams that have a key or a quota, by name.

        Raises:
            InvalidInput: the cursor is not one this method gave, or the limit not 1 to 200.
        """
        check_limit(limit)
        (after,) = place(cursor, (name_text,))
        found = await self._call(
            "list_teams",
            p_terms=terms.to_json(),
            p_search=search,
            p_limit=limit + 1,
            p_after=after,
        )
        return page(found, limit, _team, ("team_id",), (name_text,))

    async def list_threads(
        self, which: ThreadFilter, *, limit: int = 50, cursor: str | None = None
    ) -> Page[ThreadOverview]:
        """Threads of all keys, the newest first.

        Raises:
            InvalidInput: the cursor is not one this method gave, or the limit not 1 to 200.
        """
        check_limit(limit)
        before_at, before_id = place(cursor)
        found = await self._call(
            "list_threads",
            p_limit=limit + 1,
            p_before_created_at=before_at,
            p_before_id=before_id,
            p_api_key_id=which.api_key_id and str(which.api_key_id),
            p_team_id=which.team_id,
            p_product=which.product,
            p_status=which.status and which.status.value,
            p_running=which.running,
            p_host=which.host,
            p_from=which.first and which.first.isoformat(),
            p_to=which.last and which.last.isoformat(),
        )
        return page(found, limit, _overview)

    async def get_thread_overview(self, thread_id: UUID) -> ThreadOverview:
        """A thread of any key.

        Raises:
            NotFound: there is no such thread.
        """
        return _overview(await self._call("get_thread_overview", p_thread_id=str(thread_id)))

    async def list_hosts(self) -> list[Host]:
        """The processes that run calls or workflows, by name; those long gone are forgotten."""
        return list(map(_host, await self._call("list_hosts")))

    async def list_unpriced(
        self,
        *,
        from_: date,
        to: date,
        api_key_id: UUID | None = None,
        team_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Models whose usage has no price, both UTC days inclusive, the most used first.

        Each row has ``provider``, ``model`` and ``kind``, the counts ``unpriced_events``,
        ``unmetered_events`` (some of those) and ``keys``, and ``first_day`` and ``last_day``.
        """
        found: list[dict[str, Any]] = await self._call(
            "list_unpriced",
            p_from=from_.isoformat(),
            p_to=to.isoformat(),
            p_api_key_id=api_key_id and str(api_key_id),
            p_team_id=team_id,
        )
        return found

    async def list_rejected_usage(
        self, *, limit: int = 50, cursor: str | None = None
    ) -> Page[dict[str, Any]]:
        """Events that the ledger could not take, the newest first: ``id``, ``rejected_at``,
        ``reason`` and the ``event`` as it came.

        Raises:
            InvalidInput: the cursor is not one this method gave, or the limit not 1 to 200.
        """
        check_limit(limit)
        (before,) = place(cursor, (int,))
        found = await self._call("list_rejected_usage", p_limit=limit + 1, p_before_id=before)
        return page(found, limit, dict, ("id",), (int,))


def _team(row: Mapping[str, Any]) -> Team:
    return Team(
        team_id=row["team_id"],
        keys=row["keys"],
        spent_usd=Decimal(row["spent_usd"]),
        billable_usd=Decimal(row["billable_usd"]),
        resets_at=rows.utc(row["resets_at"]),
        limits=tuple(map(rows.limit_state, row["limits"])),
    )


def _overview(row: Mapping[str, Any]) -> ThreadOverview:
    return ThreadOverview(
        workflow_thread_id=UUID(row["id"]),
        api_key_id=UUID(row["api_key_id"]),
        key_name=row["key_name"],
        team_id=row["team_id"],
        product=row["product"],
        billable=row["billable"],
        status=Status(row["status"]),
        transport=row["transport"],
        host=row["host"],
        heartbeat_at=rows.maybe_utc(row["heartbeat_at"]),
        created_at=rows.utc(row["created_at"]),
        connected_at=rows.maybe_utc(row["connected_at"]),
        ended_at=rows.maybe_utc(row["ended_at"]),
        completed_at=rows.maybe_utc(row["completed_at"]),
        end_reason=row["end_reason"],
        end_requested=row["end_requested"],
        error=rows.floats(row["error"]),
        usage_stats=row["usage_stats"],
    )


def _host(row: Mapping[str, Any]) -> Host:
    report = row["report"]
    return Host(
        name=row["name"],
        is_stopped=row["is_stopped"],
        started_at=rows.utc(row["started_at"]),
        heartbeat_at=rows.utc(row["heartbeat_at"]),
        silent_secs=float(row["silent_secs"]),
        held_calls=row["held_calls"],
        report=HostReport.from_json(rows.floats(report)) if report else None,
    )
