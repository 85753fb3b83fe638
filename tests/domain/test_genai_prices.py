"""Prices out of genai-prices, against its own calculator."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice, Provider
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.domain.pricing.genai_prices import PROVIDERS as KNOWN_PROVIDERS
from flow.domain.pricing.genai_prices import Catalogue
from flow.domain.usage.events import Cost, Kind, Quantities

NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)
START, END = datetime.fromisoformat("2024-01-01"), datetime.fromisoformat("2027-01-01")
SMALL = Quantities(
    input_tokens=1000, cache_read_tokens=300, cache_write_tokens=200, output_tokens=500,
    reasoning_tokens=100, input_audio_tokens=50, output_audio_tokens=25,
    cache_read_audio_tokens=40, cache_write_1h_tokens=60,
)  # fmt: skip
LARGE = Quantities(
    input_tokens=700_001, cache_read_tokens=123_457, cache_write_tokens=54_321,
    output_tokens=98_765, reasoning_tokens=4_321, input_audio_tokens=1_234,
    output_audio_tokens=567, cache_read_audio_tokens=89,
    cache_write_1h_tokens=12_345,
)  # fmt: skip
PROVIDERS = {
    "openai", "anthropic", "google", "aws", "azure", "groq", "deepseek", "mistral", "x-ai",
    "openrouter", "perplexity", "together", "fireworks", "cerebras", "cohere", "minimax",
    "moonshotai", "novita", "zai",
}  # fmt: skip


def names(clause: Any) -> Iterator[str]:
    """Texts that a clause may match, in the data's own order."""
    for value in vars(clause).values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for inner in value:
                yield from names(inner)


def name_of(provider: Provider, model: ModelInfo) -> str | None:
    """What to ask for to get this very model; some entries do not go by their own id."""
    asked = (model.id, *names(model.match))
    return next((name for name in asked if provider.find_model(name.lower()) is model), None)


MODELS = [
    (provider.id, name, model)
    for provider in providers
    if provider.id in PROVIDERS
    for model in provider.models
    if (name := name_of(provider, model))
]
TOKENS = (
    "input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok",
    "input_audio_mtok", "output_audio_mtok", "cache_audio_read_mtok", "output_reasoning_mtok",
    "input_image_mtok", "cache_image_read_mtok", "output_image_mtok", "input_video_mtok",
    "output_video_mtok", "requests_kcount", "web_searches_kcount", "storage_searches_kcount",
)  # fmt: skip


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue()


def cost_of(
    catalogue: Catalogue,
    kind: Kind,
    provider: str,
    model: str,
    tier: str | None,
    at: datetime,
    quantities: Quantities,
) -> tuple[Cost, str] | None:
    price = catalogue.find(kind, provider, model, tier, at)
    cost = price.charges.cost(quantities) if price else None
    return (cost, price.version) if price and cost is not None else None


def their_total(
    provider: str, model: str, q: Quantities, at: datetime, context: dict[str, str] | None = None
) -> Decimal:
    usage = Usage(
        input_tokens=q.count("input_tokens")
        + q.count("cache_read_tokens")
        + q.count("cache_write_tokens"),
        cache_read_tokens=q.count("cache_read_tokens"),
        cache_write_tokens=q.count("cache_write_tokens"),
        cache_write_1h_tokens=q.count("cache_write_1h_tokens"),
        output_tokens=q.count("output_tokens"),
        output_reasoning_tokens=q.count("reasoning_tokens"),
        input_audio_tokens=q.count("input_audio_tokens") + q.count("cache_read_audio_tokens"),
        cache_audio_read_tokens=q.count("cache_read_audio_tokens"),
        output_audio_tokens=q.count("output_audio_tokens"),
    )
    return calc_price(
        usage, model, provider_id=provider, genai_request_timestamp=at, price_context=context
    ).total_price


def is_priced_by_the_token(model: ModelInfo) -> bool:
    every = (
        [model.prices]
        if isinstance(model.prices, ModelPrice)
        else [one.prices for one in model.prices]
    )
    given = [{key for key, value in vars(one).items() if value is not None} for one in every]
    return all({"input_mtok", "output_mtok"} <= keys <= set(TOKENS) for keys in given)


@pytest.mark.parametrize("quantities", [SMALL, LARGE], ids=["small", "beyond every step"])
def test_components_sum_to_their_total_for_every_model(
    catalogue: Catalogue, quantities: Quantities
) -> None:
    priced = 0
    for provider, name, model in MODELS:
        found = cost_of(catalogue, Kind.LLM, provider, name, None, NOVEMBER, quantities)
        if found is None:
            assert not is_priced_by_the_token(model), (provider, name)
        else:
            cost, version = found
            assert cost.total == their_total(provider, name, quantities, NOVEMBER), version
            priced += 1
    assert priced > 1000


@st.composite
def amounts(draw: st.DrawFn) -> Quantities:
    tokens = st.integers(0, 600_000)
    uncached, read, write, output = (draw(tokens) for _ in range(4))
    spoken = draw(st.integers(0, output))
    return Quantities(
        input_tokens=uncached,
        cache_read_tokens=read,
        cache_write_tokens=write,
        output_tokens=output,
        reasoning_tokens=draw(st.integers(0, output - spoken)),
        input_audio_tokens=draw(st.integers(0, uncached)),
        output_audio_tokens=spoken,
        cache_read_audio_tokens=draw(st.integers(0, read)),
        cache_write_1h_tokens=draw(st.integers(0, write)),
    )


@settings(max_examples=400)
@given(
    which=st.sampled_from([one for one in MODELS if is_priced_by_the_token(one[2])]),
    quantities=amounts().filter(bool),
    at=st.datetimes(START, END, timezones=st.just(UTC)),
)
def test_components_sum_to_their_total_for_any_amount_at_any_time(
    catalogue: Catalogue, which: tuple[str, str, ModelInfo], quantities: Quantities, at: datetime
) -> None:
    provider, name, _ = which
    found = cost_of(catalogue, Kind.LLM, provider, name, None, at, quantities)
    assert found is not None
    assert found[0].total == their_total(provider, name, quantities, at)


TIERED = [
    (provider, name, tier)
    for provider, name, model in MODELS
    if is_priced_by_the_token(model)
    for tier in sorted(
        {variant.when["service_tier"] for variant in model.price_variants or ()
         if set(variant.when) == {"service_tier"}} - {"default"}
    )
]  # fmt: skip


def test_components_sum_to_their_total_for_every_tier(catalogue: Catalogue) -> None:
    for provider, name, tier in TIERED:
        found = cost_of(catalogue, Kind.LLM, provider, name, tier, NOVEMBER, LARGE)
        assert found is not None, (provider, name, tier)
        expected = their_total(provider, name, LARGE, NOVEMBER, {"service_tier": tier})
        assert found[0].total == expected
        assert found[1].endswith(f" {tier}")
    assert len(TIERED) > 30


def test_each_token_is_priced_at_its_own_rate(catalogue: Catalogue) -> None:
    """gpt-4.1: $2, cached $0.50, output $8 per million, by hand."""
    quantities = Quantities(input_tokens=1000, cache_read_tokens=2000, output_tokens=300)
    found = cost_of(catalogue, Kind.LLM, "openai", "gpt-4.1", None, NOVEMBER, quantities)
    assert found is not None
    cost, _ = found
    assert cost == {
        "input_tokens": Decimal("0.002"),
        "cache_read_tokens": Decimal("0.001"),
        "output_tokens": Decimal("0.0024"),
    }
    assert cost.total == Decimal("0.0054")


def test_audio_tokens_are_priced_apart(catalogue: Catalogue) -> None:
    """gpt-realtime: $4 text, $32 audio in, $0.40 cached, $16 text, $64 audio out, by hand."""
    quantities = Quantities(
        input_tokens=1500,
        cache_read_tokens=1000,
        output_tokens=700,
        input_audio_tokens=500,
        output_audio_tokens=600,
        cache_read_audio_tokens=400,
    )
    found = cost_of(catalogue, Kind.LLM, "openai", "gpt-realtime", None, NOVEMBER, quantities)
    assert found is not None
    cost, _ = found
    assert cost["input_tokens"] == Decimal("0.004")
    assert cost["input_audio_tokens"] == Decimal("0.016")
    assert cost["cache_read_tokens"] + cost["cache_read_audio_tokens"] == Decimal("0.0004")
    assert cost["output_tokens"] == Decimal("0.0016")
    assert cost["output_audio_tokens"] == Decimal("0.0384")
    assert cost.by_component(Kind.LLM)["llm_audio"] == Decimal("0.0544")


def test_a_long_prompt_is_priced_at_its_step_by_its_gross_size(catalogue: Catalogue) -> None:
    """claude-sonnet-4-5: $3 and cached $0.30 per million, twice that above 200,000 of input."""

    def cost(uncached: int, read: int) -> Decimal:
        quantities = Quantities(input_tokens=uncached, cache_read_tokens=read)
        found = cost_of(
            catalogue, Kind.LLM, "anthropic", "claude-sonnet-4-5", None, NOVEMBER, quantities
        )
        assert found is not None
        return found[0].total

    assert cost(100_000, 100_000) == Decimal("0.33")
    assert cost(100_001, 100_000) == Decimal("0.660006")


def test_the_time_of_day_decides_where_the_vendor_says_so(catalogue: Catalogue) -> None:
    """deepseek-v4-flash costs twice from 01:00 to 04:00 UTC, since 2026-09-10."""
    quantities = Quantities(input_tokens=1_000_000)

    def at(hour: int) -> Decimal:
        when = NOVEMBER.replace(hour=hour)
        found = cost_of(
            catalogue, Kind.LLM, "deepseek", "deepseek-v4-flash", None, when, quantities
        )
        assert found is not None
        return found[0].total

    assert (at(0), at(2)) == (Decimal("0.15"), Decimal("0.3"))


def test_a_tier_that_the_data_does_not_know_has_no_price(catalogue: Catalogue) -> None:
    for provider, model, tier in [
        ("openai", "gpt-4.1", "flex"),
        ("openai", "gpt-4.1", "PRIORITY"),
        ("azure", "gpt-4.1", "priority"),
        ("anthropic", "claude-sonnet-4-5", "priority"),
    ]:
        assert cost_of(catalogue, Kind.LLM, provider, model, tier, NOVEMBER, SMALL) is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-none-such"),
        ("openai", "ft:gpt-4.1:org::id"),
        ("not-openai", "gpt-4.1"),
        ("ollama", "llama3"),
        ("google", "gemma-3"),
        ("openai", "gpt-realtime-whisper"),
        ("elevenlabs", "eleven_realtime_v1_max"),
        # siblings, which the data takes for the model whose name they begin with
        ("openai", "gpt-4.1-ultra"),
        ("openai", "gpt-5-nano-ultra"),
        ("google", "gemini-3.7-flash-lite"),
        ("google", "gemini-1.5-flash-8b"),
        ("anthropic", "claude-haiku-4-5-mini"),
        ("azure", "my-o4-mini-pro"),
        ("moonshot", "kimi-k2.6-thinking"),
    ],
)
def test_what_is_not_known_or_not_applied_whole_has_no_price(
    catalogue: Catalogue, provider: str, model: str
) -> None:
    assert cost_of(catalogue, Kind.LLM, provider, model, None, NOVEMBER, SMALL) is None


@pytest.mark.parametrize(
    ("provider", "model", "id_"),
    [
        ("openai", "gpt-5-nano-2025-08-07", "openai/gpt-5-nano"),
        ("openai", "gpt-5-mini-20250807", "openai/gpt-5-mini"),
        ("openai", "ft:gpt-4o-2024-08-06:acme:pro:id", "openai/ft:gpt-4o"),
        ("google", "gemini-2.5-pro-preview-05-06", "google/gemini-2.5-pro"),
        ("google", "gemini-2.5-pro-exp-03-25", "google/gemini-2.5-pro"),
        ("google", "gemini-2.0-flash-001", "google/gemini-2.0-flash"),
        (
            "vertexai",
            "publishers/anthropic/models/claude-sonnet-4-5@20250929",
            "google/claude-sonnet-4-5",
        ),
        ("anthropic", "claude-sonnet-4-20250514", "anthropic/claude-sonnet-4-0"),
        (
            "aws",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws/regional.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("aws", "mistral.mistral-7b-instruct-v0:2", "aws/mistral.mistral-7b-instruct-v0:2"),
        ("azure", "gpt-4.1-2025-04-14", "azure/gpt-4.1"),
    ],
)
def test_a_model_is_known_by_its_releases_and_under_a_path(
    catalogue: Catalogue, provider: str, model: str, id_: str
) -> None:
    price = catalogue.find(Kind.LLM, provider, model, None, NOVEMBER)
    assert price is not None
    assert price.version == f"{catalogue.name} {id_}"


def test_providers_are_those_it_was_given() -> None:
    named = Catalogue({**KNOWN_PROVIDERS, "openai": ("acme",)})
    assert named.find(Kind.LLM, "Acme", "gpt-4.1", None, NOVEMBER) is not None
    assert named.find(Kind.LLM, "openai", "gpt-4.1", None, NOVEMBER) is None


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("awsbedrock", "aws"),
        ("GoogleVertex", "google"),
        ("xai", "x-ai"),
        ("Together-AI", "together"),
    ],
)
def test_a_provider_is_known_by_the_names_it_goes_by(
    catalogue: Catalogue, name: str, id_: str
) -> None:
    model = next(
        name
        for provider, name, model in MODELS
        if provider == id_ and is_priced_by_the_token(model)
    )
    assert cost_of(catalogue, Kind.LLM, name, model, None, NOVEMBER, SMALL) is not None


@pytest.mark.parametrize(
    ("kind", "provider", "model", "quantities", "usd"),
    [
        # $0.111 an hour, of which Groq bills at least 10 seconds
        (Kind.STT, "groq", "whisper-large-v3", Quantities(audio_seconds=Decimal(3600)), "0.111"),
        (
            Kind.STT,
            "groq",
            "whisper-large-v3",
            Quantities(audio_seconds=Decimal(2)),
            "0.000308333333333333",
        ),
        (Kind.TTS, "groq", "canopylabs/orpheus-v1-english", Quantities(characters=1000), "0.022"),
        # $2.50 text in, $6 audio in, $10 out
        (
            Kind.STT,
            "openai",
            "gpt-4o-transcribe",
            Quantities(
                input_tokens=30, input_audio_tokens=20, output_tokens=10, audio_seconds=Decimal(3)
            ),
            "0.000245",
        ),
        # tokens are its only price, and seconds are no tokens
        (Kind.STT, "openai", "gpt-4o-transcribe", Quantities(audio_seconds=Decimal(60)), None),
        (Kind.TTS, "openai", "tts-1", Quantities(audio_seconds=Decimal(60)), None),
        (Kind.TTS, "openai", "whisper-1", Quantities(characters=10), None),
    ],
)
def test_speech_is_priced_by_what_it_is_sold_by(
    catalogue: Catalogue,
    kind: Kind,
    provider: str,
    model: str,
    quantities: Quantities,
    usd: str | None,
) -> None:
    found = cost_of(catalogue, kind, provider, model, None, NOVEMBER, quantities)
    assert (found and found[0].total) == (Decimal(usd) if usd else None)
