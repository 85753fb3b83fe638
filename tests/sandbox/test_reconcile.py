"""A ledger's rows against a vendor's bill."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from flow.domain.usage.events import Kind, Outcome, Provenance, Quantities
from flow.sandbox.bill import Amounts, Line, WorkKind
from flow.sandbox.reconcile import reconcile
from tests.events import an_event

EVENT = an_event(
    quantities=Quantities(),
)
LLM = {"input_tokens": 60, "cache_read_tokens": 40, "output_tokens": 10, "reasoning_tokens": 4}
ASKED = Amounts(prompt_tokens=100, cached_tokens=40, completion_tokens=10, reasoning_tokens=4)


def a_row(kind: Kind = Kind.LLM, *, changed: Any = None, **amounts: Any) -> dict[str, Any]:
    event = replace(EVENT, kind=kind, quantities=Quantities(amounts), **(changed or {}))
    return event.to_json()


def a_line(kind: WorkKind = "llm", amounts: Amounts = ASKED) -> Line:
    return Line("req", kind, "gpt-4.1", "gpt-4.1", {}, amounts=amounts, outcome="complete")


def test_prompts_are_compared_gross_and_parts_are_not_counted_twice() -> None:
    compared = {
        one.quantity: (one.ledger, one.vendor) for one in reconcile([a_row(**LLM)], [a_line()])
    }
    assert compared == {
        "prompt_tokens": (100, 100),
        "cached_tokens": (40, 40),
        "completion_tokens": (10, 10),
    }


@pytest.mark.parametrize("unit", LLM)
def test_a_token_too_many_does_not_agree(unit: str) -> None:
    compared = reconcile([a_row(**LLM | {unit: LLM[unit] + 1})], [a_line()])
    assert all(one.agrees for one in compared) is (unit == "reasoning_tokens")


def test_every_unit_of_written_cache_is_in_the_prompt() -> None:
    (prompt, *_) = reconcile([a_row(**LLM, cache_write_tokens=7)], [a_line()])
    assert prompt.ledger == 107


def test_a_call_is_no_vendors_business() -> None:
    assert reconcile([a_row(Kind.CALL, call_seconds=Decimal("9.5"))], []) == []


def test_what_a_vendor_bills_and_nothing_metered_does_not_agree() -> None:
    unmetered = a_row(changed={"provenance": Provenance.UNMETERED})
    assert [one.agrees for one in reconcile([unmetered], [a_line()])] == [False] * 3


@pytest.mark.parametrize("tokens", [{}, {"input_tokens": 30, "output_tokens": 9}])
def test_speech_is_compared_by_tokens_where_the_ledger_has_any(tokens: dict[str, int]) -> None:
    billed = Amounts(prompt_tokens=30, completion_tokens=10, audio_seconds=Decimal(3))
    row = a_row(Kind.STT, audio_seconds=Decimal(3), **tokens)
    compared = {one.quantity: one.agrees for one in reconcile([row], [a_line("stt", billed)])}
    by_tokens = {"prompt_tokens": True, "completion_tokens": False} if tokens else {}
    assert compared == {**by_tokens, "audio_seconds": True}


@pytest.mark.parametrize(("generated", "agrees"), [(0, True), (10, False)])
def test_a_request_that_was_never_answered_may_be_billed_or_not(
    generated: int, agrees: bool
) -> None:
    cut = {"provenance": Provenance.ESTIMATED, "outcome": Outcome.INTERRUPTED}
    row = a_row(changed=cut, input_tokens=500, output_tokens=generated)
    compared = reconcile([row], [])
    assert compared[0].quantity == "prompt_tokens"
    assert compared[0].agrees is agrees
