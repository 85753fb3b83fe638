"""From vendors' reports to disjoint quantities."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.completion_usage import CompletionUsage
from openai.types.responses import ResponseUsage

from flow.domain.usage.events import Quantities
from flow.domain.usage.vendor_reports import (
    Counting,
    ReportedTokens,
    certain,
    counting_of,
    from_openai_usage,
    normalise,
)
from flow.errors import ContradictoryUsage


@pytest.mark.parametrize(
    ("provider", "counting"),
    [
        ("openai", Counting.GROSS),
        ("groq", Counting.GROSS),
        ("deepseek", Counting.GROSS),
        ("x-ai", Counting.GROSS),
        ("somebody-new", Counting.GROSS),
        ("anthropic", Counting.NET),
        ("AWSBedrock", Counting.NET),
        ("aws-bedrock", Counting.NET),
        ("aws", Counting.NET),
        ("google", Counting.GEMINI),
        ("GoogleVertex", Counting.GEMINI),
        ("gemini_live", Counting.GEMINI),
    ],
)
def test_each_provider_has_its_way_of_counting(provider: str, counting: Counting) -> None:
    assert counting_of(provider) is counting


REPORTS = {
    "plain": (
        Counting.GROSS,
        ReportedTokens(100, 20, 120),
        Quantities(input_tokens=100, output_tokens=20),
    ),
    "cached tokens are inside OpenAI's prompt": (
        Counting.GROSS,
        ReportedTokens(2000, 50, 2050, cache_read_tokens=1536, cache_write_tokens=256),
        Quantities(
            input_tokens=208, cache_read_tokens=1536, cache_write_tokens=256, output_tokens=50
        ),
    ),
    "cached tokens are beside Anthropic's prompt": (
        Counting.NET,
        ReportedTokens(12, 50, 1854, cache_read_tokens=1536, cache_write_tokens=256),
        Quantities(
            input_tokens=12, cache_read_tokens=1536, cache_write_tokens=256, output_tokens=50
        ),
    ),
    "Anthropic's thinking is inside its output": (
        Counting.NET,
        ReportedTokens(12, 50, 62, reasoning_tokens=40),
        Quantities(input_tokens=12, output_tokens=50, reasoning_tokens=40),
    ),
    "OpenAI's reasoning is inside the completion": (
        Counting.GROSS,
        ReportedTokens(100, 500, 600, reasoning_tokens=448),
        Quantities(input_tokens=100, output_tokens=500, reasoning_tokens=448),
    ),
    "xAI's reasoning is beside the completion": (
        Counting.GROSS,
        ReportedTokens(10120, 1499, 14428, cache_read_tokens=128, reasoning_tokens=2809),
        Quantities(
            input_tokens=9992, cache_read_tokens=128, output_tokens=4308, reasoning_tokens=2809
        ),
    ),
    "Gemini's thoughts as Pipecat passes them on": (
        Counting.GEMINI,
        ReportedTokens(20, 603, 623, reasoning_tokens=405),
        Quantities(input_tokens=20, output_tokens=603, reasoning_tokens=405),
    ),
    "Gemini's thoughts as its OpenAI endpoint hides them": (
        Counting.GEMINI,
        ReportedTokens(20, 198, 623),
        Quantities(input_tokens=20, output_tokens=603, reasoning_tokens=405),
    ),
    "Gemini's thoughts told apart without a total": (
        Counting.GEMINI,
        ReportedTokens(21, 0, None, reasoning_tokens=60),
        Quantities(input_tokens=21, output_tokens=60, reasoning_tokens=60),
    ),
    "Gemini Live's thoughts are not in its total": (
        Counting.GEMINI,
        ReportedTokens(20, 603, 218, reasoning_tokens=405),
        Quantities(input_tokens=20, output_tokens=603, reasoning_tokens=405),
    ),
    "Pipecat's total of 0 is one that was not told": (
        Counting.GROSS,
        ReportedTokens(100, 20, 0),
        Quantities(input_tokens=100, output_tokens=20),
    ),
    "a missing completion is in the total": (
        Counting.GROSS,
        ReportedTokens(100, None, 120),
        Quantities(input_tokens=100, output_tokens=20),
    ),
    "a missing net prompt is what the total leaves": (
        Counting.NET,
        ReportedTokens(None, 20, 190, cache_read_tokens=70),
        Quantities(input_tokens=100, cache_read_tokens=70, output_tokens=20),
    ),
    "cached audio is inside the audio": (
        Counting.GROSS,
        ReportedTokens(
            132,
            121,
            253,
            cache_read_tokens=64,
            input_audio_tokens=50,
            output_audio_tokens=91,
            cache_read_audio_tokens=30,
        ),
        Quantities(
            input_tokens=68,
            cache_read_tokens=64,
            output_tokens=121,
            input_audio_tokens=20,
            output_audio_tokens=91,
            cache_read_audio_tokens=30,
        ),
    ),
    "audio that must have been cached, where the vendor does not say": (
        Counting.GROSS,
        ReportedTokens(132, 0, 132, cache_read_tokens=100, input_audio_tokens=50),
        Quantities(
            input_tokens=32,
            cache_read_tokens=100,
            input_audio_tokens=32,
            cache_read_audio_tokens=18,
        ),
    ),
    "LiteLLM's cache writes": (
        Counting.GROSS,
        ReportedTokens(98_805, 12, 98_817, 66_360, 32_435),
        Quantities(
            input_tokens=10, cache_read_tokens=66_360, cache_write_tokens=32_435, output_tokens=12
        ),
    ),
    "a total that says the cache lies beside the prompt": (
        Counting.GROSS,
        ReportedTokens(12, 50, 1854, 1536, 256),
        Quantities(
            input_tokens=12, cache_read_tokens=1536, cache_write_tokens=256, output_tokens=50
        ),
    ),
    "writes that last an hour": (
        Counting.NET,
        ReportedTokens(12, 50, cache_write_tokens=256, cache_write_1h_tokens=200),
        Quantities(
            input_tokens=12, cache_write_tokens=256, cache_write_1h_tokens=200, output_tokens=50
        ),
    ),
    "an explicit zero": (Counting.GROSS, ReportedTokens(0, 0, 0), Quantities()),
}


@pytest.mark.parametrize(
    ("counting", "reported", "quantities"), REPORTS.values(), ids=REPORTS.keys()
)
def test_a_report_becomes_disjoint_quantities(
    counting: Counting, reported: ReportedTokens, quantities: Quantities
) -> None:
    assert normalise(reported, counting) == quantities
    assert certain(reported, counting) == quantities


CONTRADICTIONS = {
    "cache larger than the prompt": (
        Counting.GROSS,
        ReportedTokens(100, 20, 120, cache_read_tokens=150),
        ("150", "100"),
        Quantities(cache_read_tokens=100, output_tokens=20),
    ),
    "read and written together larger than the prompt": (
        Counting.GROSS,
        ReportedTokens(100, 20, 120, cache_read_tokens=80, cache_write_tokens=30),
        ("80", "30", "100"),
        Quantities(cache_read_tokens=80, cache_write_tokens=20, output_tokens=20),
    ),
    "negative": (
        Counting.NET,
        ReportedTokens(100, -5, 95),
        ("completion_tokens", "-5"),
        Quantities(input_tokens=100),
    ),
    "more reasoning than completion": (
        Counting.GROSS,
        ReportedTokens(10, 5, 15, reasoning_tokens=9),
        ("9", "5"),
        Quantities(input_tokens=10, output_tokens=5, reasoning_tokens=5),
    ),
    "a total that nothing adds up to": (
        Counting.GROSS,
        ReportedTokens(10, 5, 40, reasoning_tokens=9),
        ("40", "10", "5", "9"),
        Quantities(input_tokens=10, output_tokens=5, reasoning_tokens=5),
    ),
    "a total smaller than its parts": (
        Counting.GEMINI,
        ReportedTokens(10, 5, 12),
        ("12", "10", "5"),
        Quantities(input_tokens=10, output_tokens=5),
    ),
    "more audio than prompt": (
        Counting.GROSS,
        ReportedTokens(10, 5, 15, input_audio_tokens=11),
        ("11", "10"),
        Quantities(input_tokens=10, output_tokens=5, input_audio_tokens=10),
    ),
    "more audio than completion": (
        Counting.GROSS,
        ReportedTokens(10, 5, 15, output_audio_tokens=6),
        ("6", "5"),
        Quantities(input_tokens=10, output_tokens=5, output_audio_tokens=5),
    ),
    "more cached audio than cache": (
        Counting.GROSS,
        ReportedTokens(
            10, 5, 15, cache_read_tokens=3, input_audio_tokens=9, cache_read_audio_tokens=4
        ),
        ("4", "3"),
        Quantities(
            input_tokens=7,
            cache_read_tokens=3,
            output_tokens=5,
            input_audio_tokens=6,
            cache_read_audio_tokens=3,
        ),
    ),
    "nothing told": (
        Counting.GROSS,
        ReportedTokens(None, None, 50),
        ("None", "50"),
        Quantities(),
    ),
}


@pytest.mark.parametrize(
    ("counting", "reported", "numbers", "kept"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys()
)
def test_a_contradiction_names_its_numbers_and_what_is_certain_is_kept(
    counting: Counting, reported: ReportedTokens, numbers: tuple[str, ...], kept: Quantities
) -> None:
    with pytest.raises(ContradictoryUsage) as raised:
        normalise(reported, counting)
    assert all(number in str(raised.value) for number in numbers)
    assert certain(reported, counting) == kept


tokens = st.integers(0, 200_000)


@st.composite
def consistent(draw: st.DrawFn, counting: Counting) -> tuple[ReportedTokens, int]:
    """A report as a vendor of the counting would make it, and every token it stands for."""
    uncached, read, write, said, thought = (draw(tokens) for _ in range(5))
    cached_audio = draw(st.integers(0, read))
    audio = cached_audio + draw(st.integers(0, uncached))
    beside = counting is not Counting.NET and draw(st.booleans())
    net = counting is Counting.NET
    total = uncached + read + write + said + thought
    report = ReportedTokens(
        prompt_tokens=uncached if net else uncached + read + write,
        completion_tokens=said if beside else said + thought,
        total_tokens=total if beside else draw(st.sampled_from([total, None])),
        cache_read_tokens=read,
        cache_write_tokens=write,
        reasoning_tokens=thought,
        input_audio_tokens=audio,
        output_audio_tokens=draw(st.integers(0, said)),
        cache_read_audio_tokens=draw(st.sampled_from([cached_audio, None])),
    )
    return report, total


@pytest.mark.parametrize("counting", Counting)
@given(data=st.data())
def test_every_token_of_a_consistent_report_is_counted_once(
    counting: Counting, data: st.DataObject
) -> None:
    report, total = data.draw(consistent(counting))
    quantities = normalise(report, counting)
    assert quantities.total_tokens == total
    assert quantities.count("reasoning_tokens") == report.reasoning_tokens
    audio = quantities.count("input_audio_tokens") + quantities.count("cache_read_audio_tokens")
    assert audio == report.input_audio_tokens


@pytest.mark.parametrize("counting", Counting)
@given(data=st.data())
def test_what_was_normalised_normalises_to_itself(counting: Counting, data: st.DataObject) -> None:
    report, _ = data.draw(consistent(counting))
    once = normalise(report, counting)
    again = ReportedTokens(
        prompt_tokens=once.count("input_tokens")
        + (
            0
            if counting is Counting.NET
            else once.count("cache_read_tokens") + once.count("cache_write_tokens")
        ),
        completion_tokens=once.count("output_tokens"),
        total_tokens=once.total_tokens,
        cache_read_tokens=once.count("cache_read_tokens"),
        cache_write_tokens=once.count("cache_write_tokens"),
        reasoning_tokens=once.count("reasoning_tokens"),
        input_audio_tokens=once.count("input_audio_tokens") + once.count("cache_read_audio_tokens"),
        output_audio_tokens=once.count("output_audio_tokens"),
        cache_read_audio_tokens=once.count("cache_read_audio_tokens"),
    )
    assert normalise(again, counting) == once


def _cached(quantities: Quantities) -> int:
    return quantities.count("cache_read_tokens") + quantities.count("cache_write_tokens")


anything = st.none() | st.integers(-10, 60)


@pytest.mark.parametrize("counting", Counting)
@given(numbers=st.tuples(*[anything] * 9))
def test_any_report_is_either_normalised_or_refused_and_something_is_always_kept(
    counting: Counting, numbers: tuple[int | None, ...]
) -> None:
    report = ReportedTokens(*numbers)
    kept = certain(report, counting)
    assert all(amount > 0 for amount in kept.values())
    try:
        quantities = normalise(report, counting)
    except ContradictoryUsage:
        cached = (report.cache_read_tokens or 0) + (report.cache_write_tokens or 0)
        both = (report.prompt_tokens or 0) + (report.completion_tokens or 0)
        says_net = cached and report.total_tokens == both + cached
        if counting is not Counting.NET and not says_net and (report.prompt_tokens or 0) >= 0:
            gross = (
                kept.count("input_tokens")
                + kept.count("cache_read_tokens")
                + kept.count("cache_write_tokens")
            )
            assert gross == (report.prompt_tokens or 0)
    else:
        assert kept == quantities


USAGES: dict[str, tuple[Any, ReportedTokens]] = {
    "chat completions": (
        CompletionUsage.model_validate(
            {
                "prompt_tokens": 2000,
                "completion_tokens": 50,
                "total_tokens": 2050,
                "prompt_tokens_details": {
                    "cached_tokens": 1536,
                    "audio_tokens": 7,
                    "cache_write_tokens": 256,
                },
                "completion_tokens_details": {"reasoning_tokens": 40, "audio_tokens": 3},
            }
        ),
        ReportedTokens(2000, 50, 2050, 1536, 256, 40, 7, 3),
    ),
    "chat completions without details": (
        CompletionUsage(prompt_tokens=9, completion_tokens=1, total_tokens=10),
        ReportedTokens(9, 1, 10),
    ),
    "responses": (
        ResponseUsage.model_validate(
            {
                "input_tokens": 75,
                "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 4},
                "output_tokens": 11,
                "output_tokens_details": {"reasoning_tokens": 5},
                "total_tokens": 86,
            }
        ),
        ReportedTokens(75, 11, 86, 30, 4, 5),
    ),
    "JSON with null details": (
        {
            "prompt_tokens": 9,
            "completion_tokens": 1,
            "total_tokens": 10,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": None},
            "cost": 0.1,
        },
        ReportedTokens(9, 1, 10),
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "total_tokens": 105,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
        },
        ReportedTokens(100, 5, 105, cache_read_tokens=64),
    ),
    "Moonshot": (
        {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40, "cached_tokens": 10},
        ReportedTokens(19, 21, 40, cache_read_tokens=10),
    ),
    "Perplexity": (
        {
            "input_tokens": 19,
            "output_tokens": 21,
            "total_tokens": 40,
            "input_tokens_details": {"cache_creation_input_tokens": 8},
        },
        ReportedTokens(19, 21, 40, cache_write_tokens=8),
    ),
    "realtime's cached audio": (
        {
            "input_tokens": 132,
            "output_tokens": 121,
            "total_tokens": 253,
            "input_tokens_details": {
                "audio_tokens": 13,
                "cached_tokens": 64,
                "cached_tokens_details": {"audio_tokens": 9},
            },
        },
        ReportedTokens(132, 121, 253, 64, input_audio_tokens=13, cache_read_audio_tokens=9),
    ),
    "an explicit zero is not a missing one": (
        {
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        ReportedTokens(0, 0, cache_read_tokens=0),
    ),
    "whole numbers as floats": (
        {"prompt_tokens": 9.0, "completion_tokens": 1.5},
        ReportedTokens(9, None),
    ),
    "LiteLLM's cache writes": (
        {
            "prompt_tokens": 98_805,
            "completion_tokens": 12,
            "total_tokens": 98_817,
            "prompt_tokens_details": {"cached_tokens": 66_360},
            "cache_creation_input_tokens": 32_435,
        },
        ReportedTokens(98_805, 12, 98_817, 66_360, 32_435),
    ),
    "Anthropic's two lifetimes": (
        {
            "input_tokens": 10,
            "output_tokens": 12,
            "cache_creation_input_tokens": 500,
            "cache_read_input_tokens": 70,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 400},
        },
        ReportedTokens(
            10, 12, cache_read_tokens=70, cache_write_tokens=500, cache_write_1h_tokens=400
        ),
    ),
    "nonsense": (
        {"prompt_tokens": "many", "completion_tokens": True, "prompt_tokens_details": 3},
        ReportedTokens(None, None),
    ),
    "no numbers": (
        {"prompt_tokens": float("nan"), "completion_tokens": float("inf"), "total_tokens": "9"},
        ReportedTokens(None, None),
    ),
    "an empty object": (SimpleNamespace(), ReportedTokens(None, None)),
}


@pytest.mark.parametrize(("usage", "reported"), USAGES.values(), ids=USAGES.keys())
def test_usage_of_openai_s_protocol_is_read(usage: Any, reported: ReportedTokens) -> None:
    assert asdict(from_openai_usage(usage)) == asdict(reported)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"]
        ),
        json_values,
    )
)
def test_reading_usage_never_fails(usage: dict[str, Any]) -> None:
    kept = certain(from_openai_usage(usage), Counting.GROSS)
    assert [amount for amount in kept.values() if not (amount > 0 and amount == int(amount))] == []


def test_a_total_that_reasoning_explains_as_well_does_not_put_the_cache_beside_the_prompt() -> None:
    report = ReportedTokens(100, 20, 150, cache_read_tokens=30, reasoning_tokens=30)
    assert normalise(report, Counting.GROSS) == Quantities(
        input_tokens=70, cache_read_tokens=30, output_tokens=50, reasoning_tokens=30
    )


def test_quantities_are_listed_in_the_order_of_the_units_whoever_told_them_first() -> None:
    names = ["input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens"]
    assert list(Quantities(dict.fromkeys(reversed(names), 1))) == names
