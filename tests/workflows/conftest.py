"""Threads that have ended, and the steps that finish them, on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Status, Thread, Turn
from flow.domain.usage.events import Cost, Kind, Owner, Provenance, Quantities, UsageEvent
from flow.ledger.recorder import Recorder
from flow.workflows.finish import Steps


@dataclass
class Model:
    """Stands for the insights step: counts how often it is asked, and may fail or be held up.

    ``record`` takes what asking has used.
    """

    record: Callable[[UsageEvent], None]
    asked: int = 0
    failure: Exception | None = None
    free: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.free.set()

    async def extract(self, thread: Thread, owner: Owner) -> dict[str, Any]:
        self.asked += 1
        self.reached.set()
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        event = UsageEvent(
            owner=owner,
            kind=Kind.LLM,
            source="insights",
            provider="openai",
            model="gpt-4.1-mini",
            quantities=Quantities(input_tokens=10, output_tokens=5),
            provenance=Provenance.REPORTED,
            cost=Cost(input_tokens=Decimal("0.01"), output_tokens=Decimal("0.02")),
            price_version="test",
        )
        self.record(event)
        return {"status": "ok", "data": {"answer": self.asked}}


@dataclass
class Finishes:
    """The steps, and what they are made of. ``told`` has the threads analytics heard of."""

    database: Database
    recorder: Recorder
    model: Model
    steps: Steps
    told: list[Thread]

    async def thread(self, thread_id: UUID) -> Thread:
        return await self.database.get_workflow_thread_data(thread_id)


@pytest.fixture
async def finishes(database: Database, tmp_path: Path) -> AsyncIterator[Finishes]:
    recorder = Recorder(
        database, tmp_path / "spool", price=lambda event: event, on_recorded=lambda *_: None
    )
    recorder.start()
    model, told = Model(recorder.record), list[Thread]()
    steps = Steps(database, recorder, model.extract, told.append)
    yield Finishes(database, recorder, model, steps, told)
    await recorder.close()


Ended = Callable[..., Awaitable[UUID]]


async def in_call(database: Database, claim: str = "somebody/1") -> UUID:
    """A thread whose call is running, with two turns said."""
    key = await database.resolve_api_key(f"key_{uuid4().hex}", "team_1", "A key")
    joined = await database.join_thread(
        key,
        uuid4(),
        JoinRequest(product="voice_bot"),
        billable=True,
        idempotency_key=None,
        fingerprint="",
    )
    thread_id = joined.thread.id
    await database.claim_thread(thread_id, claim)
    turns = [
        Turn(seq, role, "Hello!", datetime.now(UTC)) for seq, role in enumerate(("user", "bot"))
    ]
    await database.save_workflow_thread_data(thread_id, status=Status.IN_CALL, turns=turns)
    return thread_id


@pytest.fixture
def ended(database: Database) -> Ended:
    """``await ended(error=...)``: the id of a thread whose call is over."""

    async def make(error: dict[str, Any] | None = None) -> UUID:
        thread_id = await in_call(database)
        await database.save_workflow_thread_data(
            thread_id, status=Status.ENDED, end_reason="caller_hung_up", error=error
        )
        return thread_id

    return make


def age(postgres_url: str, thread_id: UUID, seconds: int) -> None:
    """Let so much time pass since a thread's lease ended."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "update workflow_threads set lease_until = now() - make_interval(secs => %s)"
            " where id = %s",
            (seconds, thread_id),
        )
