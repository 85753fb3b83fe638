"""From vendors' reports to disjoint quantities."""

from __future__ import annotations

from dataclasses import asdict, astuple
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.completion_usage import CompletionUsage
from openai.types.responses import ResponseUsage

from flow.domain.reported import (
    Family,
    ReportedTokens,
    certain,
    family_of,
    from_openai_usage,
    normalise,
)
from flow.domain.usage import Quantities
from flow.errors import ContradictoryUsage


@pytest.mark.parametrize(
    ("provider", "family"),
    [
        ("openai", Family.GROSS),
        ("groq", Family.GROSS),
        ("deepseek", Family.GROSS),
        ("x-ai", Family.GROSS),
        ("somebody-new", Family.GROSS),
        ("anthropic", Family.NET),
        ("AWSBedrock", Family.NET),
        ("aws-bedrock", Family.NET),
        ("aws", Family.NET),
        ("google", Family.GEMINI),
        ("GoogleVertex", Family.GEMINI),
        ("gemini_live", Family.GEMINI),
    ],
)
def test_each_provider_has_its_way_of_counting(provider: str, family: Family) -> None:
    assert family_of(provider) is family


REPORTS = {
    "plain": (Family.GROSS, ReportedTokens(100, 20, 120), Quantities(100, 0, 0, 20)),
    "cached tokens are inside OpenAI's prompt": (
        Family.GROSS,
        ReportedTokens(2000, 50, 2050, cache_read_tokens=1536, cache_write_tokens=256),
        Quantities(208, 1536, 256, 50),
    ),
    "cached tokens are beside Anthropic's prompt": (
        Family.NET,
        ReportedTokens(12, 50, 1854, cache_read_tokens=1536, cache_write_tokens=256),
        Quantities(12, 1536, 256, 50),
    ),
    "Anthropic's thinking is inside its output": (
        Family.NET,
        ReportedTokens(12, 50, 62, reasoning_tokens=40),
        Quantities(12, 0, 0, 50, 40),
    ),
    "OpenAI's reasoning is inside the completion": (
        Family.GROSS,
        ReportedTokens(100, 500, 600, reasoning_tokens=448),
        Quantities(100, 0, 0, 500, 448),
    ),
    "xAI's reasoning is beside the completion": (
        Family.GROSS,
        ReportedTokens(10120, 1499, 14428, cache_read_tokens=128, reasoning_tokens=2809),
        Quantities(9992, 128, 0, 4308, 2809),
    ),
    "Gemini's thoughts as Pipecat passes them on": (
        Family.GEMINI,
        ReportedTokens(20, 603, 623, reasoning_tokens=405),
        Quantities(20, 0, 0, 603, 405),
    ),
    "Gemini's thoughts as its OpenAI endpoint hides them": (
        Family.GEMINI,
        ReportedTokens(20, 198, 623),
        Quantities(20, 0, 0, 603, 405),
    ),
    "Gemini's thoughts told apart without a total": (
        Family.GEMINI,
        ReportedTokens(21, 0, None, reasoning_tokens=60),
        Quantities(21, 0, 0, 60, 60),
    ),
    "Pipecat's total of 0 is one that was not told": (
        Family.GROSS,
        ReportedTokens(100, 20, 0),
        Quantities(100, 0, 0, 20),
    ),
    "a missing completion is in the total": (
        Family.GROSS,
        ReportedTokens(100, None, 120),
        Quantities(100, 0, 0, 20),
    ),
    "a missing net prompt is what the total leaves": (
        Family.NET,
        ReportedTokens(None, 20, 190, cache_read_tokens=70),
        Quantities(100, 70, 0, 20),
    ),
    "cached audio is inside the audio": (
        Family.GROSS,
        ReportedTokens(
            132,
            121,
            253,
            cache_read_tokens=64,
            input_audio_tokens=50,
            output_audio_tokens=91,
            cache_read_audio_tokens=30,
        ),
        Quantities(68, 64, 0, 121, 0, 20, 91, 30),
    ),
    "audio that must have been cached, where the vendor does not say": (
        Family.GROSS,
        ReportedTokens(132, 0, 132, cache_read_tokens=100, input_audio_tokens=50),
        Quantities(32, 100, 0, 0, 0, 32, 0, 18),
    ),
    "an explicit zero": (Family.GROSS, ReportedTokens(0, 0, 0), Quantities()),
}


@pytest.mark.parametrize(("family", "reported", "quantities"), REPORTS.values(), ids=REPORTS.keys())
def test_a_report_becomes_disjoint_quantities(
    family: Family, reported: ReportedTokens, quantities: Quantities
) -> None:
    assert normalise(reported, family) == quantities
    assert certain(reported, family) == quantities


CONTRADICTIONS = {
    "cache larger than the prompt": (
        Family.GROSS,
        ReportedTokens(100, 20, 120, cache_read_tokens=150),
        ("150", "100"),
        Quantities(0, 100, 0, 20),
    ),
    "read and written together larger than the prompt": (
        Family.GROSS,
        ReportedTokens(100, 20, 120, cache_read_tokens=80, cache_write_tokens=30),
        ("80", "30", "100"),
        Quantities(0, 80, 20, 20),
    ),
    "negative": (
        Family.NET,
        ReportedTokens(100, -5, 95),
        ("completion_tokens", "-5"),
        Quantities(100, 0, 0, 0),
    ),
    "more reasoning than completion": (
        Family.GROSS,
        ReportedTokens(10, 5, 15, reasoning_tokens=9),
        ("9", "5"),
        Quantities(10, 0, 0, 5, 5),
    ),
    "a total that nothing adds up to": (
        Family.GROSS,
        ReportedTokens(10, 5, 40, reasoning_tokens=9),
        ("40", "10", "5", "9"),
        Quantities(10, 0, 0, 5, 5),
    ),
    "a total smaller than its parts": (
        Family.GEMINI,
        ReportedTokens(10, 5, 12),
        ("12", "10", "5"),
        Quantities(10, 0, 0, 5),
    ),
    "more audio than prompt": (
        Family.GROSS,
        ReportedTokens(10, 5, 15, input_audio_tokens=11),
        ("11", "10"),
        Quantities(10, 0, 0, 5, 0, 10),
    ),
    "more audio than completion": (
        Family.GROSS,
        ReportedTokens(10, 5, 15, output_audio_tokens=6),
        ("6", "5"),
        Quantities(10, 0, 0, 5, 0, 0, 5),
    ),
    "more cached audio than cache": (
        Family.GROSS,
        ReportedTokens(
            10, 5, 15, cache_read_tokens=3, input_audio_tokens=9, cache_read_audio_tokens=4
        ),
        ("4", "3"),
        Quantities(7, 3, 0, 5, 0, 6, 0, 3),
    ),
    "nothing told": (
        Family.GROSS,
        ReportedTokens(None, None, 50),
        ("None", "50"),
        Quantities(),
    ),
}


@pytest.mark.parametrize(
    ("family", "reported", "numbers", "kept"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys()
)
def test_a_contradiction_names_its_numbers_and_what_is_certain_is_kept(
    family: Family, reported: ReportedTokens, numbers: tuple[str, ...], kept: Quantities
) -> None:
    with pytest.raises(ContradictoryUsage) as raised:
        normalise(reported, family)
    assert all(number in str(raised.value) for number in numbers)
    assert certain(reported, family) == kept


tokens = st.integers(0, 200_000)


@st.composite
def consistent(draw: st.DrawFn, family: Family) -> tuple[ReportedTokens, int]:
    """A report as a vendor of the family would make it, and every token it stands for."""
    uncached, read, write, said, thought = (draw(tokens) for _ in range(5))
    cached_audio = draw(st.integers(0, read))
    audio = cached_audio + draw(st.integers(0, uncached))
    beside = family is not Family.NET and draw(st.booleans())
    net = family is Family.NET
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


@pytest.mark.parametrize("family", Family)
@given(data=st.data())
def test_every_token_of_a_consistent_report_is_counted_once(
    family: Family, data: st.DataObject
) -> None:
    report, total = data.draw(consistent(family))
    quantities = normalise(report, family)
    assert quantities.total_tokens == total
    assert quantities.reasoning_tokens == report.reasoning_tokens
    audio = quantities.input_audio_tokens + quantities.cache_read_audio_tokens
    assert audio == report.input_audio_tokens


@pytest.mark.parametrize("family", Family)
@given(data=st.data())
def test_what_was_normalised_normalises_to_itself(family: Family, data: st.DataObject) -> None:
    report, _ = data.draw(consistent(family))
    once = normalise(report, family)
    again = ReportedTokens(
        prompt_tokens=once.input_tokens
        + (0 if family is Family.NET else once.cache_read_tokens + once.cache_write_tokens),
        completion_tokens=once.output_tokens,
        total_tokens=once.total_tokens,
        cache_read_tokens=once.cache_read_tokens,
        cache_write_tokens=once.cache_write_tokens,
        reasoning_tokens=once.reasoning_tokens,
        input_audio_tokens=once.input_audio_tokens + once.cache_read_audio_tokens,
        output_audio_tokens=once.output_audio_tokens,
        cache_read_audio_tokens=once.cache_read_audio_tokens,
    )
    assert normalise(again, family) == once


anything = st.none() | st.integers(-10, 60)


@pytest.mark.parametrize("family", Family)
@given(numbers=st.tuples(*[anything] * 9))
def test_any_report_is_either_normalised_or_refused_and_something_is_always_kept(
    family: Family, numbers: tuple[int | None, ...]
) -> None:
    report = ReportedTokens(*numbers)
    kept = certain(report, family)
    assert all(amount >= 0 for amount in astuple(kept))
    try:
        quantities = normalise(report, family)
    except ContradictoryUsage:
        if family is not Family.NET and (report.prompt_tokens or 0) >= 0:
            gross = kept.input_tokens + kept.cache_read_tokens + kept.cache_write_tokens
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
    reported = from_openai_usage(usage)
    assert certain(reported, Family.GROSS).total_tokens >= 0
