"""The calls of `flow.db.database` about webhooks.

Any call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from flow.db.pages import Page, page, place
from flow.db.transport import TypedCalls
from flow.domain.webhooks.webhook import Claimed, Delivery, Secrets, State


class Webhooks(TypedCalls):
    """The calls; each is one round trip and one transaction.

    ``now`` stands in for the database's clock, in tests.
    """

    async def claim(
        self, *, limit: int, per_key: int, lease: timedelta, now: datetime | None = None
    ) -> list[Claimed]:
        """What is due, for this caller to send; after ``lease`` others may.

        At most ``limit``, and of one key at most ``per_key`` under way anywhere at once.
        """
        claim = uuid4()
        found = await self._call(
            "claim_webhook_deliveries",
            p_claim=str(claim),
            p_limit=limit,
            p_per_key=per_key,
            p_lease_secs=lease.total_seconds(),
            p_now=now and now.isoformat(),
        )
        return [_claimed(row, claim) for row in found]

    async def note_delivered(
        self, event_id: UUID, status: int | None, now: datetime | None = None
    ) -> bool:
        """The receiver took it. ``False``: it had taken it before."""
        noted: bool = await self._call(
            "note_webhook_delivered",
            p_event_id=str(event_id),
            p_status=status,
            p_now=now and now.isoformat(),
        )
        return noted

    async def note_failed(
        self,
        claimed: Claimed,
        *,
        status: int | None,
        error: str | None,
        retry_in: timedelta | None,
        now: datetime | None = None,
    ) -> bool:
        """The attempt failed; ``retry_in`` of ``None`` gives the event up.

        ``False``: another has claimed it since, or it is over.
        """
        noted: bool = await self._call(
            "note_webhook_failed",
            p_event_id=str(claimed.event_id),
            p_claim=str(claimed.claim),
            p_status=status,
            p_error=error,
            p_retry_secs=None if retry_in is None else retry_in.total_seconds(),
            p_now=now and now.isoformat(),
        )
        return noted

    async def list(
        self,
        *,
        api_key_id: UUID | None = None,
        dead: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Delivery]:
        """Deliveries, newest first; ``dead``: only those that were given up.

        Raises:
            InvalidInput: the cursor is not one this method gave.
        """
        before_at, before_id = place(cursor)
        found = await self._call(
            "list_webhook_deliveries",
            p_api_key_id=api_key_id and str(api_key_id),
            p_dead=dead,
            p_limit=limit + 1,
            p_before_created_at=before_at,
            p_before_id=before_id,
        )
        return page(found, limit, _delivery, ("created_at", "event_id"))

    async def get(self, event_id: UUID) -> Delivery:
        """A delivery with its payload.

        Raises:
            NotFound: there is no such webhook, or nobody was to be told of it.
        """
        return _delivery(await self._call("get_webhook_delivery", p_event_id=str(event_id)))

    async def replay(self, event_id: UUID, now: datetime | None = None) -> Delivery:
        """Send a delivered or dead one again, from the first attempt on.

        Raises:
            NotFound: there is no such webhook.
            Conflict: code ``still_being_delivered``.
        """
        row = await self._call(
            "replay_webhook_delivery", p_event_id=str(event_id), p_now=now and now.isoformat()
        )
        return _delivery(row)

    async def replay_dead(self, api_key_id: UUID | None = None, now: datetime | None = None) -> int:
        """Send all dead ones again, of one key or of all; how many."""
        replayed: int = await self._call(
            "replay_dead_webhook_deliveries",
            p_api_key_id=api_key_id and str(api_key_id),
            p_now=now and now.isoformat(),
        )
        return replayed

    async def secrets(self, api_key_id: UUID, made: str) -> Secrets:
        """The key's signing secrets; ``made`` becomes its secret if it has none.

        Raises:
            NotFound: there is no such key.
        """
        row = await self._call("get_webhook_secrets", p_api_key_id=str(api_key_id), p_made=made)
        return _secrets(row)

    async def rotate_secret(self, api_key_id: UUID, made: str, keep: timedelta) -> Secrets:
        """Make ``made`` the key's secret; the one before it signs too for as long as ``keep``.

        Raises:
            NotFound: there is no such key.
        """
        row = await self._call(
            "rotate_webhook_secret",
            p_api_key_id=str(api_key_id),
            p_made=made,
            p_keep_secs=keep.total_seconds(),
        )
        return _secrets(row)

    async def url(self, api_key_id: UUID) -> str | None:
        """Where the key's budget events go.

        Raises:
            NotFound: there is no such key.
        """
        row = await self._call("get_webhook_url", p_api_key_id=str(api_key_id))
        url: str | None = row["webhook_url"]
        return url

    async def set_url(self, api_key_id: UUID, url: str | None) -> None:
        """Say where the key's budget events go, those that wait already too.

        With ``None`` they go to the thread that crossed the threshold.

        Raises:
            NotFound: there is no such key.
        """
        await self._call("set_webhook_url", p_api_key_id=str(api_key_id), p_url=url)


def _claimed(row: Mapping[str, Any], claim: UUID) -> Claimed:
    return Claimed(
        event_id=UUID(row["event_id"]),
        type=row["type"],
        api_key_id=UUID(row["api_key_id"]),
        workflow_thread_id=_maybe_uuid(row["workflow_thread_id"]),
        url=row["url"],
        attempt=row["attempt"],
        claim=claim,
        payload=row["payload"],
        secrets=tuple(row["secrets"]),
    )


def _delivery(row: Mapping[str, Any]) -> Delivery:
    created_at = _utc(row["created_at"])
    assert created_at is not None
    return Delivery(
        event_id=UUID(row["event_id"]),
        type=row["type"],
        api_key_id=UUID(row["api_key_id"]),
        team_id=row["team_id"],
        workflow_thread_id=_maybe_uuid(row["workflow_thread_id"]),
        created_at=created_at,
        url=row["url"],
        state=State(row["state"]),
        attempts=row["attempts"],
        next_attempt_at=_utc(row["next_attempt_at"]),
        delivered_at=_utc(row["delivered_at"]),
        dead_at=_utc(row["dead_at"]),
        last_status=row["last_status"],
        last_error=row["last_error"],
        payload=row.get("payload"),
    )


def _secrets(row: Mapping[str, Any]) -> Secrets:
    return Secrets(row["current"], row["previous"], _utc(row["previous_until"]))


def _utc(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _maybe_uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)
