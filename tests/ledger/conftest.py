"""A real thread in a real database, and events that belong to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from uuid import uuid4

import pytest

from flow.db.database import Database
from flow.domain.calls.join_request import JoinRequest
from flow.domain.usage.events import Cost, Kind, Owner, Provenance, Quantities, UsageEvent

NewOwner = Callable[[], Awaitable[Owner]]


@pytest.fixture
def new_owner(database: Database) -> NewOwner:
    """Joins a thread of a new key and says whom its usage belongs to."""

    async def make() -> Owner:
        key = await database.resolve_api_key(f"key_{uuid4().hex}", "team_a", None)
        joined = await database.join_thread(
            key,
            uuid4(),
            JoinRequest(product="voice_bot"),
            billable=True,
            idempotency_key=None,
            fingerprint="f",
        )
        return Owner(joined.thread.id, key.id, key.team_id, "voice_bot", True)

    return make


def llm_event(owner: Owner, *, cost: Cost | None = None) -> UsageEvent:
    """One generation; unpriced unless ``cost`` is given."""
    return UsageEvent(
        owner=owner,
        kind=Kind.LLM,
        source="bot",
        provider="openai",
        model="gpt-4.1",
        quantities=Quantities(input_tokens=100, output_tokens=10),
        provenance=Provenance.REPORTED,
        cost=cost,
        price_version="test 1" if cost else None,
    )


def priced(event: UsageEvent) -> UsageEvent:
    """A cent a generation."""
    return event.priced(Cost(input_tokens=Decimal("0.01")), "test 1")
