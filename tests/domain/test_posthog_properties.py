"""The properties of ``$ai_generation`` and ``$ai_trace`` events."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import (
    Cost,
    CostControl,
    Failure,
    Kind,
    Outcome,
    Provenance,
    Quantities,
    RequestIds,
)
from flow.domain.usage.posthog_properties import (
    MAX_CONTENT_CHARS,
    Content,
    generation_properties,
    trace_properties,
)
from flow.domain.usage.units import UNITS, Measure
from tests.events import an_event, an_owner

OWNER = an_owner(billable=False)
LLM = an_event(
    OWNER,
    model="gpt-4.1-2025-04-14",
    requested_model="gpt-4.1",
    quantities=Quantities(
        input_tokens=100,
        cache_read_tokens=1000,
        cache_write_tokens=10,
        output_tokens=50,
        reasoning_tokens=20,
        input_audio_tokens=30,
        output_audio_tokens=15,
    ),
    cost=Cost(
        input_tokens=Decimal("0.0002"),
        cache_read_tokens=Decimal("0.0005"),
        cache_write_tokens=Decimal("0.00001"),
        output_tokens=Decimal("0.0004"),
        input_audio_tokens=Decimal("0.001"),
        output_audio_tokens=Decimal("0.002"),
    ),
    latency_secs=1.5,
    time_to_first_token_secs=0.25,
    stream=True,
    service_tier="default",
    id=UUID(int=3),
)
TTS = replace(
    LLM,
    kind=Kind.TTS,
    quantities=Quantities(characters=120, audio_seconds=Decimal("7.25")),
    provenance=Provenance.MEASURED,
    cost=Cost(characters=Decimal("0.0018")),
    time_to_first_token_secs=None,
    service_tier=None,
)
STT = replace(
    TTS,
    kind=Kind.STT,
    quantities=Quantities(audio_seconds=Decimal("7.25")),
    cost=Cost(audio_seconds=Decimal("0.0006")),
)


def test_an_llm_event_says_everything_that_is_known():
    assert generation_properties(LLM) == {
        "$ai_trace_id": str(UUID(int=1)),
        "$ai_session_id": str(UUID(int=1)),
        "$ai_span_id": str(UUID(int=3)),
        "$ai_span_name": "bot llm",
        "$ai_model": "gpt-4.1-2025-04-14",
        "requested_model": "gpt-4.1",
        "$ai_provider": "openai",
        "$ai_stream": True,
        "$ai_service_tier": "default",
        "$ai_latency": 1.5,
        "$ai_time_to_first_token": 0.25,
        "$ai_cache_reporting_exclusive": False,
        "$ai_input_tokens": 1110,
        "$ai_cache_read_input_tokens": 1000,
        "$ai_cache_creation_input_tokens": 10,
        "$ai_output_tokens": 50,
        "$ai_reasoning_tokens": 20,
        "input_audio_tokens": 30,
        "output_audio_tokens": 15,
        "$ai_is_error": False,
        "$ai_http_status": 200,
        "$ai_cost_passthrough": True,
        "$ai_input_cost_usd": 0.00171,
        "$ai_output_cost_usd": 0.0024,
        "$ai_cache_read_cost_usd": 0.0005,
        "$ai_cache_creation_cost_usd": 0.00001,
        "$ai_total_cost_usd": 0.00411,
        "llm_audio_cost_usd": 0.003,
        "usage_kind": "llm",
        "usage_source": "bot",
        "provenance": "reported",
        "outcome": "ok",
        "ai_product": "voice_bot",
        "$ai_billable": False,
        "team_id": "acme",
        "api_key_id": str(UUID(int=2)),
        "workflow_thread_id": str(UUID(int=1)),
        "save_mode": False,
    }


@pytest.mark.parametrize(
    ("event", "input_usd", "output_usd", "own"),
    [(TTS, 0.0, 0.0018, "tts_cost_usd"), (STT, 0.0006, 0.0, "stt_cost_usd")],
)
def test_speech_costs_are_input_when_heard_and_output_when_spoken(
    event, input_usd, output_usd, own
):
    said = generation_properties(event)
    assert said["$ai_input_cost_usd"] == input_usd
    assert said["$ai_output_cost_usd"] == output_usd
    assert said["$ai_total_cost_usd"] == said[own] == input_usd + output_usd
    assert said["$ai_cost_passthrough"] is True
    assert said.get("characters", 0) == event.quantities["characters"]
    assert said["audio_seconds"] == 7.25
    assert not {"$ai_input_tokens", "$ai_cache_read_cost_usd", "$ai_http_status"} & said.keys()


def test_an_unpriced_event_has_no_cost_at_all():
    said = generation_properties(replace(LLM, cost=None))
    assert not [name for name in said if "cost" in name]


def test_a_cost_of_zero_is_known_and_kept():
    said = generation_properties(replace(LLM, cost=Cost()))
    assert said["$ai_total_cost_usd"] == 0
    assert said["$ai_cost_passthrough"] is True


@pytest.mark.parametrize(
    ("provenance", "told"), [(Provenance.REPORTED, True), (Provenance.ESTIMATED, False)]
)
def test_an_explicit_zero_is_kept_and_an_unknown_is_left_out(provenance, told):
    said = generation_properties(replace(LLM, quantities=Quantities(), provenance=provenance))
    assert ("$ai_input_tokens" in said) is told
    assert ("$ai_output_tokens" in said) is told


def test_a_failed_attempt_says_so_with_its_attribution():
    failed = replace(
        LLM,
        outcome=Outcome.ERROR,
        quantities=Quantities(),
        provenance=Provenance.MEASURED,
        failure=Failure("RateLimitError", "HTTP 429", 429),
        cost=None,
    )
    said = generation_properties(failed)
    assert said["$ai_is_error"] is True
    assert said["$ai_error"] == "RateLimitError: HTTP 429"
    assert said["$ai_http_status"] == 429
    assert said["$ai_billable"] is False
    assert said["ai_product"] == "voice_bot"


@pytest.mark.parametrize("failure", [None, Failure("ReadTimeout", "")])
def test_a_failure_without_an_answer_has_no_http_status(failure):
    said = generation_properties(replace(LLM, outcome=Outcome.ERROR, failure=failure))
    assert said["$ai_is_error"] is True
    assert "$ai_http_status" not in said
    assert said.get("$ai_error") == (failure and "ReadTimeout")


def test_content_is_there_only_when_it_is_passed():
    content = Content(input=[{"role": "user", "content": "hi"}], output="hello")
    said = generation_properties(LLM, content)
    assert said["$ai_input"] == content.input
    assert said["$ai_output_choices"] == "hello"
    assert not {"$ai_input", "$ai_output_choices"} & generation_properties(LLM).keys()


def test_long_content_is_cut_and_says_so():
    said = generation_properties(LLM, Content(input=[{"content": "x" * 2 * MAX_CONTENT_CHARS}]))
    assert len(said["$ai_input"]) < MAX_CONTENT_CHARS + 100
    assert said["$ai_input"].endswith("characters left out]")


SAVED = CostControl(True, "budget_engage", "engage")


def test_attribution_and_cost_control_come_last():
    names = list(generation_properties(replace(LLM, control=SAVED), Content("in", "out")))
    assert names[-12:] == [
        *("usage_kind", "usage_source", "provenance", "outcome"),
        *("ai_product", "$ai_billable", "team_id", "api_key_id", "workflow_thread_id"),
        *("save_mode", "save_mode_reason", "budget_tier"),
    ]


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (SAVED, {"save_mode": True, "save_mode_reason": "budget_engage", "budget_tier": "engage"}),
        (CostControl(False, "no_budget"), {"save_mode": False, "save_mode_reason": "no_budget"}),
        (CostControl(), {"save_mode": False}),
    ],
    ids=["saved", "no budget", "nothing decided"],
)
def test_every_event_says_whether_save_mode_was_on_and_why(control, expected):
    for event in (LLM, TTS, STT, replace(LLM, outcome=Outcome.ERROR)):
        said = generation_properties(replace(event, control=control))
        named = ("save_mode", "save_mode_reason", "budget_tier")
        assert {name: said[name] for name in named if name in said} == expected


USD = st.decimals(min_value=0, max_value=1000, places=9)
COUNTS = st.integers(min_value=0, max_value=10**7)
WHOLES = [unit for unit in UNITS.values() if unit.part_of is None]
PARTS = [unit for unit in UNITS.values() if unit.part_of is not None]


@st.composite
def used(draw):
    """Amounts of any units, and a cost for some of those that are there."""
    amounts = {
        unit.name: draw(COUNTS.map(Decimal) if unit.measure is Measure.SECONDS else COUNTS)
        for unit in WHOLES
        if draw(st.booleans())
    }
    for part in PARTS:
        amounts[part.name] = draw(st.integers(0, amounts.get(part.part_of, 0)))
    quantities = Quantities(amounts)
    charged = [unit for unit in quantities if draw(st.booleans())]
    return quantities, Cost({unit: draw(USD) for unit in charged})


@given(used(), st.sampled_from([Kind.LLM, Kind.TTS, Kind.STT]))
def test_the_parts_sum_to_the_total_for_every_cost(amounts, kind):
    quantities, cost = amounts
    said = generation_properties(replace(LLM, kind=kind, quantities=quantities, cost=cost))
    parts = ("$ai_input_cost_usd", "$ai_output_cost_usd", "$ai_request_cost_usd")
    assert math.isclose(
        sum(said.get(part, 0.0) for part in parts), said["$ai_total_cost_usd"], abs_tol=1e-9
    )
    assert math.isclose(said["$ai_total_cost_usd"], cost.total, abs_tol=1e-9)
    cached = said.get("$ai_cache_read_cost_usd", 0) + said.get("$ai_cache_creation_cost_usd", 0)
    assert cached <= said["$ai_input_cost_usd"] + 1e-9


@given(used(), st.sampled_from([Kind.LLM, Kind.TTS, Kind.STT]))
def test_every_component_of_cost_is_told(amounts, kind):
    quantities, cost = amounts
    event = replace(LLM, kind=kind, quantities=quantities, cost=cost)
    said = generation_properties(event)
    own = {
        "llm_cache_read": "$ai_cache_read_cost_usd",
        "llm_cache_write": "$ai_cache_creation_cost_usd",
    }
    for component, usd in cost.by_component(kind).items():
        if component not in ("llm_input", "llm_output"):
            name = own.get(component, f"{component}_cost_usd")
            assert said.get(name, 0) == float(usd)


@given(used(), st.sampled_from([Kind.LLM, Kind.TTS, Kind.STT]))
def test_every_unit_is_told_and_no_other(amounts, kind):
    quantities, _ = amounts
    said = generation_properties(replace(LLM, kind=kind, quantities=quantities))
    told = {name: value for name, value in said.items() if name in UNITS}
    by_posthogs_name = {
        "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
        "reasoning_tokens",
    }  # fmt: skip
    assert told == {name: q for name, q in quantities.items() if name not in by_posthogs_name}
    assert said.get("$ai_reasoning_tokens", 0) == quantities["reasoning_tokens"]


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        ({}, set()),
        ({"cache_read_tokens": 9}, {"read"}),
        ({"cache_write_tokens": 9}, {"creation"}),
        ({"cache_read_tokens": 9, "cache_write_tokens": 9}, {"read", "creation"}),
    ],
)
@pytest.mark.parametrize("rate", [Decimal("0.001"), Decimal(0)])
def test_nothing_is_said_of_a_cache_that_was_not_used(cached, expected, rate):
    quantities = Quantities({"input_tokens": 1, "output_tokens": 1, **cached})
    cost = Cost({unit: rate * amount for unit, amount in quantities.items()})
    said = generation_properties(replace(LLM, quantities=quantities, cost=cost))
    for part in ("read", "creation"):
        named = {f"$ai_cache_{part}_cost_usd", f"$ai_cache_{part}_input_tokens"}
        assert named & said.keys() == (named if part in expected else set())
    assert said["$ai_input_cost_usd"] == pytest.approx(float(rate) * (1 + sum(cached.values())))


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_input_tokens_contain_the_cached_ones(uncached, read, write, output):
    q = Quantities(
        input_tokens=uncached, cache_read_tokens=read, cache_write_tokens=write,
        output_tokens=output,
    )  # fmt: skip
    said = generation_properties(replace(LLM, quantities=q, cost=None))
    assert said["$ai_cache_reporting_exclusive"] is False
    assert said["$ai_input_tokens"] + said["$ai_output_tokens"] == q.total_tokens
    cached = [said.get(f"$ai_cache_{part}_input_tokens", 0) for part in ("read", "creation")]
    assert said["$ai_input_tokens"] - sum(cached) == uncached


@given(used(), st.sampled_from(Kind), st.sampled_from(Outcome), st.sampled_from(Provenance))
def test_the_properties_are_plain_json(amounts, kind, outcome, provenance):
    quantities, cost = amounts
    event = replace(
        LLM, quantities=quantities, cost=cost, kind=kind, outcome=outcome, provenance=provenance
    )
    said = generation_properties(event)
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_a_transcription_billed_by_tokens_has_its_tokens_and_its_seconds():
    said = generation_properties(
        replace(
            STT,
            quantities=Quantities(
                input_tokens=30,
                input_audio_tokens=30,
                output_tokens=10,
                audio_seconds=Decimal(3),
            ),
            cost=Cost(input_tokens=Decimal("0.000075"), output_tokens=Decimal("0.0001")),
        )
    )
    assert (said["$ai_input_tokens"], said["$ai_output_tokens"]) == (30, 10)
    assert (said["input_audio_tokens"], said["audio_seconds"]) == (30, 3.0)
    assert (said["$ai_input_cost_usd"], said["$ai_output_cost_usd"]) == (0.000075, 0.0001)
    assert said["stt_cost_usd"] == said["$ai_total_cost_usd"] == pytest.approx(0.000175)


@pytest.mark.parametrize("kind", [Kind.LLM, Kind.TTS, Kind.STT])
def test_work_that_nothing_metered_is_told_without_counts_and_costs(kind):
    unmetered = replace(
        LLM, kind=kind, quantities=Quantities(), cost=None, provenance=Provenance.UNMETERED
    )
    said = generation_properties(unmetered)
    assert said["provenance"] == "unmetered"
    assert said["$ai_billable"] is False
    counted = ("_tokens", "_seconds", "_cost_usd", "characters", "passthrough", "_http_status")
    assert not [name for name in said if name.endswith(counted)]


@pytest.mark.parametrize(("named", "trace"), [("their-trace", "their-trace"), (None, str(LLM.id))])
def test_what_belongs_to_no_call_is_in_its_callers_trace_or_one_of_its_own(named, trace):
    event = replace(
        LLM,
        owner=replace(OWNER, workflow_thread_id=None),
        ids=RequestIds(trace_id=named, request_id="req-1"),
    )
    said = generation_properties(event)
    assert said["$ai_trace_id"] == trace
    assert said["request_id"] == "req-1"
    assert not {"workflow_thread_id", "$ai_session_id"} & said.keys()
    assert "None" not in said.values()


def test_a_trace_has_a_latency_and_no_cost():
    started = datetime(2026, 11, 1, tzinfo=UTC)
    said = trace_properties(OWNER, started, started + timedelta(seconds=95))
    assert said["$ai_trace_id"] == said["$ai_session_id"] == str(OWNER.workflow_thread_id)
    assert said["$ai_latency"] == 95.0
    assert said["$ai_is_error"] is False
    assert said["$ai_billable"] is False
    assert not [name for name in said if "cost" in name or "input" in name]


def test_a_failed_call_is_a_failed_trace():
    now = datetime(2026, 11, 1, tzinfo=UTC)
    said = trace_properties(OWNER, now, now, error="TransportLost")
    assert said["$ai_is_error"] is True
    assert said["$ai_error"] == "TransportLost"
