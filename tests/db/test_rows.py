"""What is sent of an event is all of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from flow.db import rows
from flow.db.postgres_json import storable_text
from flow.domain.usage.events import (
    Cost,
    CostControl,
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    RequestIds,
    UsageEvent,
)
from flow.domain.usage.units import UNITS, Measure
from tests.events import an_event, an_owner

text = st.text(max_size=8)
usd = st.decimals(0, 1_000, places=9)


@st.composite
def used(draw: st.DrawFn) -> dict[str, Any]:
    """Quantities of any units, parts no larger than their wholes, and costs of some of them."""
    quantities: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(sorted(UNITS)), unique=True)):
        unit = UNITS[name]
        amount = usd if unit.measure is Measure.SECONDS else st.integers(1, 900)
        quantities[name] = draw(amount)
    quantities |= {UNITS[name].part_of: 900 for name in quantities if UNITS[name].part_of}
    present = [name for name, amount in quantities.items() if amount]
    costs = st.fixed_dictionaries({}, optional=dict.fromkeys(present, usd))
    return {"quantities": Quantities(quantities), "cost": draw(st.none() | st.builds(Cost, costs))}


owners = st.builds(Owner, st.none() | st.uuids(), st.uuids(), text, text, st.booleans())
events = st.builds(
    lambda used, **rest: UsageEvent(**used, **rest),
    used=used(),
    owner=owners,
    kind=st.sampled_from(Kind),
    source=text,
    provider=text,
    model=text,
    provenance=st.sampled_from(Provenance),
    outcome=st.sampled_from(Outcome),
    requested_model=st.none() | text,
    sent_model=st.none() | text,
    service_tier=st.none() | text,
    ids=st.builds(RequestIds, *[st.none() | text] * 4),
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
    sent = rows.event_json(event)
    left_out = dict.fromkeys(event.to_json()) | {"save_mode": False}
    lines = [{"cost_usd": None, "part_of": None} | line for line in sent["lines"]]
    assert UsageEvent.from_json(left_out | sent | {"lines": lines}) == event
    assert all(value is not None for line in sent["lines"] for value in line.values())


def test_what_is_unknown_or_zero_is_not_sent() -> None:
    event = an_event(
        an_owner(workflow_thread_id=uuid4(), api_key_id=uuid4(), team_id="team", billable=False),
        kind=Kind.TTS,
        model="gpt-4o-mini-tts",
        quantities=Quantities(characters=90, audio_seconds=Decimal("0.0")),
        provenance=Provenance.MEASURED,
        cost=Cost(characters=Decimal("1E-7")),
        occurred_at=datetime(2026, 11, 21, tzinfo=UTC),
    )
    sent = rows.event_json(event)
    assert not {"note", "failure", "save_mode", "request_id"} & set(sent)
    assert (sent["billable"], sent["capture"]) == (False, True)
    assert sent["total_cost_usd"] == "0.0000001"
    assert sent["lines"] == [
        {"unit": "characters", "quantity": 90, "component": "tts", "cost_usd": "0.0000001"}
    ]
    assert '"kind":"tts"' in storable_text(sent)
