"""Usage events as calls make them, and the threads they belong to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from flow.db.database import Database
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Thread
from flow.domain.usage.events import Cost, Kind, Provenance, Quantities, UsageEvent


async def threads(database: Database, keys: int, per_key: int) -> list[list[Thread]]:
    """Fresh threads of fresh keys."""
    made = []
    for n in range(keys):
        key = await database.resolve_api_key(f"key_{uuid4().hex}", f"team_{n}", "bench")
        joins = [
            await database.join_thread(
                key,
                uuid4(),
                JoinRequest(product="voice_bot"),
                billable=True,
                idempotency_key=None,
                fingerprint="",
            )
            for _ in range(per_key)
        ]
        made.append([joined.thread for joined in joins])
    return made


def an_event(thread: Thread, chance: random.Random) -> UsageEvent:
    """One of a call's pieces of work, priced."""
    kind = chance.choice((Kind.LLM, Kind.LLM, Kind.TTS, Kind.STT))
    known: dict[str, Any] = {
        Kind.LLM: {
            "model": "gpt-4.1",
            "quantities": Quantities(
                input_tokens=chance.randrange(50, 4_000),
                cache_read_tokens=chance.randrange(2_000),
                output_tokens=chance.randrange(1, 300),
            ),
            "cost": Cost(input_tokens=Decimal("0.00213"), output_tokens=Decimal("0.00064")),
        },
        Kind.TTS: {
            "model": "gpt-4o-mini-tts",
            "quantities": Quantities(characters=90, audio_seconds=Decimal("5.2")),
            "cost": Cost(characters=Decimal("0.0013")),
        },
        Kind.STT: {
            "model": "gpt-4o-transcribe",
            "quantities": Quantities(audio_seconds=Decimal("3.71")),
            "cost": Cost(audio_seconds=Decimal("0.00037")),
        },
    }[kind]
    return UsageEvent(
        owner=thread.owner,
        kind=kind,
        source="bot",
        provider="openai",
        provenance=Provenance.REPORTED,
        price_version="bench",
        occurred_at=datetime.now(UTC),
        latency_secs=0.8,
        **known,
    )


def batches(owners: Sequence[Thread], count: int, size: int, seed: int) -> list[list[UsageEvent]]:
    """Batches as a recorder sends them: whatever its calls did, in the order they did it."""
    chance = random.Random(seed)
    return [[an_event(chance.choice(owners), chance) for _ in range(size)] for _ in range(count)]
