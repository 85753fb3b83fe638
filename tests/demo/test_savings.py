"""What the demo says save mode saved."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from flow.demo.savings import Saved, saved
from flow.domain.usage.events import (
    Cost,
    CostControl,
    Kind,
    Quantities,
    UsageEvent,
)
from tests.events import an_event

RATES = {"gpt-4.1": Decimal("0.002"), "gpt-4.1-mini": Decimal("0.0004")}


def price(event: UsageEvent) -> UsageEvent:
    tokens = {unit: event.quantities[unit] for unit in event.quantities}
    rate = RATES[event.model]
    return event.priced(Cost({unit: rate * amount for unit, amount in tokens.items()}), "test")


SAVED = price(
    an_event(
        model="gpt-4.1-mini",
        requested_model="gpt-4.1",
        sent_model="gpt-4.1-mini",
        quantities=Quantities(input_tokens=100, output_tokens=10),
        control=CostControl(True, "budget_engage", "engage"),
    )
)


def row(event: UsageEvent) -> dict[str, Any]:
    """As ``Database.get_thread_usage`` gives it."""
    return {**event.to_json(), "recorded_at": "2026-11-21T05:25:55+00:00"}


def test_work_that_save_mode_touched_is_priced_as_it_was_asked_for() -> None:
    ledger = [
        row(SAVED),
        row(replace(SAVED, control=CostControl())),
        row(replace(SAVED, cost=None)),
        row(replace(SAVED, kind=Kind.CALL, quantities=Quantities(call_seconds=Decimal(1)))),
    ]
    found = saved(ledger, price)
    assert found == Saved(1, Decimal("0.0440"), Decimal("0.220"))
    assert found.saved_usd == Decimal("0.176")
