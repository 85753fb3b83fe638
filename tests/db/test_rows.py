"""What is sent of an event is all of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from flow.db import rows
from flow.db.encoding import storable_text
from flow.domain.usage import (
    AMOUNTS,
    COST_PARTS,
    Cost,
    CostControl,
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    UsageEvent,
)

text = st.text(max_size=8)
usd = st.decimals(0, 1_000, places=9)
amounts = st.builds(
    lambda *amounts: Quantities(**dict(zip(AMOUNTS, amounts, strict=True))),
    # Tokens, then the parts of them, which are no larger.
    *[st.integers(5, 9)] * 4,
    *[st.integers(0, 5)] * 4,
    st.integers(0, 900),
    usd,
)
events = st.builds(
    UsageEvent,
    owner=st.builds(Owner, st.uuids(), st.uuids(), text, text, st.booleans()),
    kind=st.sampled_from(Kind),
    source=text,
    provider=text,
    model=text,
    quantities=amounts | st.just(Quantities()),
    provenance=st.sampled_from(Provenance),
    outcome=st.sampled_from(Outcome),
    requested_model=st.none() | text,
    sent_model=st.none() | text,
    service_tier=st.none() | text,
    cost=st.none() | st.builds(Cost, *[usd | st.just(Decimal(0))] * len(COST_PARTS)),
    price_version=st.none() | text,
    occurred_at=st.datetimes(timezones=st.just(UTC)),
    latency_secs=st.none() | st.floats(0, 9),
    time_to_first_token_secs=st.none() | st.floats(0, 9),
    stream=st.booleans(),
    failure=st.none() | st.builds(Failure, text, text, st.none() | st.integers(400, 599)),
    note=st.none() | text,
    capture=st.booleans(),
    control=st.builds(CostControl, st.booleans(), st.none() | text, st.none() | text),
    id=st.uuids(),
)


@given(events)
@settings(max_examples=50)
def test_an_event_can_be_told_from_what_is_sent_of_it(event: UsageEvent) -> None:
    left_out: dict[str, Any] = dict.fromkeys(event.to_json()) | dict.fromkeys(AMOUNTS, 0)
    assert UsageEvent.from_json(left_out | {"save_mode": False} | rows.event_json(event)) == event


def test_what_is_unknown_or_zero_is_not_sent() -> None:
    event = UsageEvent(
        owner=Owner(uuid4(), uuid4(), "team", "voice_bot", False),
        kind=Kind.TTS,
        source="bot",
        provider="openai",
        model="gpt-4o-mini-tts",
        quantities=Quantities(characters=90, audio_seconds=Decimal("0.0")),
        provenance=Provenance.MEASURED,
        cost=Cost(tts=Decimal("1E-7")),
        occurred_at=datetime(2026, 11, 21, tzinfo=UTC),
    )
    sent = rows.event_json(event)
    assert not {"input_tokens", "audio_seconds", "note", "failure", "save_mode"} & set(sent)
    assert (sent["billable"], sent["capture"], sent["characters"]) == (False, True, 90)
    assert sent["cost"] == {"tts": "0.0000001"}
    assert '"kind":"tts"' in storable_text(sent)
