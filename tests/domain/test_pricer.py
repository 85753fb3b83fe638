"""Which price an event gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.pricing.genai_prices import Catalogue
from flow.domain.pricing.price_book import PriceBook
from flow.domain.pricing.pricer import Pricer
from flow.domain.usage.events import Cost, Kind, Outcome, Provenance, Quantities, UsageEvent
from tests.events import an_event, an_owner

NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)
OWNER = an_owner(workflow_thread_id=uuid4(), api_key_id=uuid4(), team_id="team")
TOKENS = Quantities(input_tokens=1000, cache_read_tokens=2000, output_tokens=300)
MINUTE = Quantities(audio_seconds=Decimal(60))

OPERATOR = """
[[price]]
vendor = "openai"
model = "gpt-4.1"
effective_from = 2026-11-01
per_million = { input_tokens = "1", cache_read_tokens = "0.1", output_tokens = "5" }
source = "contract 7"

[[price]]
vendor = "openai"
model = "gpt-4.1"
service_tier = "Priority"
effective_from = 2026-11-01
per_million = { input_tokens = "3", output_tokens = "9" }
source = "contract 7"

[[price]]
vendor = "vllm"
model = "*"
effective_from = 2020-01-01
per_million = { input_tokens = 0, output_tokens = 0 }
source = "our own machines"

[[price]]
vendor = "openai"
model = "whisper-1"
effective_from = 2026-11-10
per_minute = { audio_seconds = "0.005" }
source = "contract 7"

[[price]]
vendor = "flow"
model = "*"
effective_from = 2026-11-01
per_minute = { call_seconds = "0.02" }
source = "our price list"
"""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture(scope="module")
def pricer(catalogue: Catalogue) -> Pricer:
    return Pricer((PriceBook.shipped(),), catalogue)


@pytest.fixture(scope="module")
def operator(catalogue: Catalogue) -> Pricer:
    book = PriceBook.parse(OPERATOR, name="operator", where="prices.toml")
    return Pricer((book, PriceBook.shipped()), catalogue)


def event(kind: Kind, provider: str, model: str, quantities: Quantities, **more: Any) -> UsageEvent:
    more.setdefault("occurred_at", NOVEMBER)
    more.setdefault("provenance", Provenance.REPORTED)
    return an_event(
        OWNER,
        kind=kind,
        provider=provider,
        model=model,
        quantities=quantities,
        **more,
    )


@pytest.mark.parametrize(
    ("kind", "model", "quantities", "usd", "version"),
    [
        (Kind.LLM, "gpt-4.1", TOKENS, "0.0054", "genai-prices * openai/gpt-4.1"),
        (Kind.STT, "whisper-1", MINUTE, "0.006", "flow 2023-03-01 openai/whisper-1"),
        (Kind.STT, "gpt-4o-transcribe", MINUTE, "0.006", "flow 2025-03-20 *"),
        (Kind.STT, "gpt-4o-mini-transcribe", MINUTE, "0.003", "flow 2025-03-20 *"),
        (Kind.STT, "gpt-transcribe", MINUTE, "0.0045", "genai-prices *"),
        (Kind.TTS, "tts-1", Quantities(characters=1000), "0.015", "flow 2023-11-06 openai/tts-1"),
        (Kind.TTS, "tts-1-hd", Quantities(characters=1000), "0.03", "flow 2023-11-06 *"),
        (Kind.TTS, "gpt-4o-mini-tts", MINUTE, "0.015", "flow 2025-03-20 *"),
        (Kind.TTS, "gpt-4o-mini-tts-2025-12-15", MINUTE, "0.015", "flow 2025-03-20 *"),
    ],
)
def test_each_kind_of_openai_s_work_has_its_price(
    pricer: Pricer, kind: Kind, model: str, quantities: Quantities, usd: str, version: str
) -> None:
    priced = pricer.price(event(kind, "openai", model, quantities))
    assert priced.cost is not None
    assert priced.cost.total == Decimal(usd)
    assert priced.price_version is not None
    assert priced.price_version.startswith(version.partition("*")[0])


@pytest.mark.parametrize(
    ("kind", "provider", "model", "quantities", "usd"),
    [
        (Kind.STT, "deepgram", "nova-2", MINUTE, "0.0058"),
        (Kind.STT, "deepgram", "nova-3-general", MINUTE, "0.0048"),
        (Kind.STT, "deepgram", "nova-3-multilingual", MINUTE, "0.0058"),
        (Kind.STT, "deepgram", "nova-3-general-multilingual", MINUTE, "0.0058"),
        (Kind.STT, "deepgram", "flux-general-en", MINUTE, "0.0065"),
        (Kind.TTS, "deepgram", "aura-2-helena-en", Quantities(characters=1000), "0.03"),
        (Kind.TTS, "deepgram", "aura-asteria-en", Quantities(characters=1000), "0.015"),
        (Kind.TTS, "cartesia", "sonic-3", Quantities(characters=1000), "0.05"),
        (Kind.STT, "cartesia", "ink-whisper", MINUTE, "0.003"),
        (Kind.STT, "cartesia", "ink-whisper-2025-06-04", MINUTE, "0.003"),
        (Kind.STT, "cartesia", "ink-2", MINUTE, "0.009"),
        (Kind.STT, "cartesia", "ink-2-2026-05-22", MINUTE, "0.009"),
        (Kind.TTS, "elevenlabs", "eleven_flash_v2_5", Quantities(characters=1000), "0.05"),
        (Kind.TTS, "ElevenLabs", "eleven_multilingual_v2", Quantities(characters=1000), "0.1"),
        (
            Kind.STT,
            "elevenlabs",
            "scribe_v2_realtime",
            Quantities(audio_seconds=Decimal(3600)),
            "0.39",
        ),
    ],
)
def test_speech_vendors_have_their_prices(
    pricer: Pricer, kind: Kind, provider: str, model: str, quantities: Quantities, usd: str
) -> None:
    priced = pricer.price(event(kind, provider, model, quantities))
    assert priced.cost is not None
    (unit,) = quantities
    assert priced.cost == Cost({unit: Decimal(usd)})


HOUR = Quantities(audio_seconds=Decimal(3600))
MILLION = Quantities(characters=1_000_000)


@pytest.mark.parametrize(
    ("kind", "model", "quantities", "usd"),
    [
        (Kind.STT, "deepgram/nova-2-phonecall", HOUR, "0.348"),
        (Kind.STT, "deepgram/nova-3", HOUR, "0.288"),
        (Kind.STT, "deepgram/flux-general-en", HOUR, "0.39"),
        (Kind.STT, "deepgram/flux-general-multi", HOUR, "0.468"),
        (Kind.TTS, "deepgram/aura-asteria-en", MILLION, "15"),
        (Kind.TTS, "deepgram/aura-2-thalia-en", MILLION, "30"),
        (Kind.STT, "cartesia/ink-whisper", HOUR, "0.18"),
        (Kind.STT, "cartesia/ink-2", HOUR, "0.54"),
        (Kind.TTS, "cartesia/sonic-turbo", MILLION, "50"),
        (Kind.STT, "elevenlabs/scribe_v2_realtime", HOUR, "0.39"),
        (Kind.TTS, "elevenlabs/eleven_turbo_v2_5", MILLION, "50"),
        (Kind.TTS, "elevenlabs/eleven_multilingual_v2", MILLION, "100"),
        (Kind.TTS, "elevenlabs/eleven_v3_conversational", MILLION, "100"),
    ],
)
def test_an_hour_of_speech_and_a_million_characters_cost_what_the_vendor_lists(
    pricer: Pricer, kind: Kind, model: str, quantities: Quantities, usd: str
) -> None:
    """A price by the minute that is taken for one by the hour is sixty times too high."""
    priced = pricer.price(event(kind, *model.split("/"), quantities))
    assert priced.cost is not None
    assert priced.cost.total == Decimal(usd)


@pytest.mark.parametrize("tier", [None, "default", "auto", "Standard", "scale", " DEFAULT "])
def test_the_standard_tier_goes_by_many_names(pricer: Pricer, tier: str | None) -> None:
    priced = pricer.price(event(Kind.LLM, "openai", "gpt-4.1", TOKENS, service_tier=tier))
    assert priced.cost is not None
    assert priced.cost.total == Decimal("0.0054")


@pytest.mark.parametrize(
    ("provider", "model", "tier", "usd"),
    [
        # gpt-5-mini flex: $0.125 in, $0.0125 cached, $1 out; priority: $0.45, $0.045, $3.60
        ("openai", "gpt-5-mini", "flex", "0.00045"),
        ("openai", "gpt-5-mini", "FLEX", "0.00045"),
        ("openai", "gpt-5-mini", "priority", "0.00162"),
        # gpt-4.1 in a batch: $1 in, $4 out, and no price of its own for the cache
        ("openai", "gpt-4.1", "batch", "0.0032"),
        ("openai", "gpt-4.1", "flex", None),
        ("openai", "gpt-4.1", "turbo", None),
        # Groq's flex costs what on demand costs: llama-3.3-70b-versatile, $0.59 in, $0.79 out
        ("groq", "llama-3.3-70b-versatile", "flex", "0.002007"),
        ("groq", "llama-3.3-70b-versatile", "on_demand", "0.002007"),
        ("groq", "llama-3.3-70b-versatile", "performance", None),
    ],
)
def test_the_served_tier_decides_and_an_unknown_one_is_unpriced(
    pricer: Pricer, provider: str, model: str, tier: str, usd: str | None
) -> None:
    priced = pricer.price(event(Kind.LLM, provider, model, TOKENS, service_tier=tier))
    assert (priced.cost and priced.cost.total) == (Decimal(usd) if usd else None)


def test_an_unknown_model_is_unpriced_which_is_not_free(pricer: Pricer) -> None:
    priced = pricer.price(event(Kind.LLM, "openai", "gpt-none-such", TOKENS))
    assert (priced.cost, priced.price_version) == (None, None)


def test_an_old_cost_does_not_stay_on_an_event_without_a_price(pricer: Pricer) -> None:
    stale = event(Kind.LLM, "openai", "gpt-none-such", TOKENS).priced(Cost(), "old")
    assert pricer.price(stale).cost is None


def test_speech_measured_in_another_unit_than_its_price_is_unpriced(pricer: Pricer) -> None:
    characters = event(Kind.TTS, "openai", "gpt-4o-mini-tts", Quantities(characters=100))
    assert pricer.price(characters).cost is None
    assert pricer.price(event(Kind.TTS, "openai", "tts-1", MINUTE)).cost is None


def test_work_that_used_nothing_costs_nothing_whatever_the_model(pricer: Pricer) -> None:
    refused = event(Kind.LLM, "nobody", "none-such", Quantities(), outcome=Outcome.ERROR)
    priced = pricer.price(refused)
    assert (priced.cost, priced.price_version) == (Cost(), "flow:nothing-used")


@pytest.mark.parametrize("kind", [Kind.LLM, Kind.STT, Kind.CALL])
def test_unmetered_work_is_never_priced(operator: Pricer, kind: Kind) -> None:
    unmetered = event(kind, "vllm", "any", Quantities(), provenance=Provenance.UNMETERED)
    priced = operator.price(unmetered.priced(Cost(), "old"))
    assert (priced.cost, priced.price_version) == (None, None)


@pytest.mark.parametrize(
    ("provider", "served", "requested", "usd"),
    [
        ("openai", "gpt-4.1-mini", "gpt-4.1", "0.00108"),  # $0.40, cached $0.10, out $1.60
        ("openai", "gpt-4.1", None, "0.0054"),
        ("openai", "gpt-4.1-2025-04-14", None, "0.0054"),
        # a release that nobody knows yet, and a model under its vendor's path
        ("openai", "gpt-4.1-2027-01-31", "gpt-4.1", "0.0054"),
        ("google", "models/gemini-2.5-flash", "gemini-2.5-flash", "0.00111"),
        ("fireworks", "accounts/fireworks/models/none-such", "none-such", None),
        ("groq", "gpt-oss-20b", "openai/gpt-oss-20b", "0.00024"),
        # the vendor does not say which
        ("openai", "", "gpt-4.1", "0.0054"),
        ("openai", "unknown", "gpt-4.1", "0.0054"),
        ("openai", "unknown", None, None),
        # another model than the one asked for, and nobody knows it
        ("openai", "a-deployment", "gpt-4.1", None),
        ("openai", "gpt-4.1-ultra", "gpt-4.1", None),
        ("openai", "gpt-4.1-nano-2027-01-31", "gpt-4.1", None),
        ("openai", "elsewhere/gpt-4.1", "openai/gpt-4.1", None),
        ("openai", "a-deployment", "none-such", None),
    ],
)
def test_the_model_that_served_counts_and_the_one_asked_for_only_if_it_is_the_same(
    pricer: Pricer, provider: str, served: str, requested: str | None, usd: str | None
) -> None:
    priced = pricer.price(event(Kind.LLM, provider, served, TOKENS, requested_model=requested))
    assert (priced.cost and priced.cost.total) == (Decimal(usd) if usd else None)


def test_a_sibling_has_its_own_price_and_not_the_operator_s(operator: Pricer) -> None:
    """gpt-4.1-nano: $0.10 in, $0.40 out; the operator's book has gpt-4.1 only."""
    quantities = Quantities(input_tokens=10_000, output_tokens=2_000)
    nano = event(
        Kind.LLM, "openai", "gpt-4.1-nano-2025-04-14", quantities, requested_model="gpt-4.1"
    )
    priced = operator.price(nano)
    assert priced.cost is not None
    assert priced.cost.total == Decimal("0.0018")
    assert priced.price_version is not None
    assert priced.price_version.startswith("genai-prices")


@pytest.mark.parametrize("served", ["", "unknown", "gpt-4.1-nano-2025-04-14", "gpt-4.1-nano"])
@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.ERROR, Outcome.INTERRUPTED])
def test_what_save_mode_sent_is_priced_as_sent_whatever_the_vendor_names(
    catalogue: Catalogue, served: str, outcome: Outcome
) -> None:
    """The operator pays half a dollar for a million, and a hundred for the model that was meant."""
    text = OPERATOR.replace('"gpt-4.1"', '"gpt-4.1-nano"').replace('"1"', '"0.5"')
    dear = OPERATOR.replace('input_tokens = "1"', 'input_tokens = "100"')
    books = [PriceBook.parse(t, name="operator", where="prices.toml") for t in (text, dear)]
    sent = event(
        Kind.LLM,
        "openai",
        served,
        Quantities(input_tokens=1_000_000),
        requested_model="gpt-4.1",
        sent_model="gpt-4.1-nano",
        outcome=outcome,
    )
    priced = Pricer(tuple(books), catalogue).price(sent)
    assert priced.cost == Cost(input_tokens=Decimal("0.5"))
    assert priced.price_version == "operator 2026-11-01 openai/gpt-4.1-nano"


def test_the_operator_s_price_holds_for_the_same_model_under_a_path(catalogue: Catalogue) -> None:
    text = OPERATOR.replace('"openai"', '"google"').replace("gpt-4.1", "gemini-2.5-flash")
    pricer = Pricer((PriceBook.parse(text, name="operator", where="prices.toml"),), catalogue)
    priced = pricer.price(
        event(
            Kind.LLM,
            "google",
            "models/gemini-2.5-flash",
            TOKENS,
            requested_model="gemini-2.5-flash",
        )
    )
    assert priced.price_version == "operator 2026-11-01 google/gemini-2.5-flash"


@pytest.mark.parametrize(
    ("model", "at", "usd"),
    [
        ("deepseek-flash", "2026-11-28T02:00", "0.00276"),  # a Saturday
        ("deepseek-flash", "2026-11-29T09:59", "0.00276"),
        ("deepseek-flash", "2026-11-30T02:00", "0.00552"),
        ("deepseek-flash", "2026-11-27T00:59", "0.00276"),
        ("deepseek-flash", "2026-11-27T01:00", "0.00552"),
        ("deepseek-flash", "2026-11-27T03:59", "0.00552"),
        ("deepseek-flash", "2026-11-27T04:00", "0.00276"),
        ("deepseek-flash", "2026-11-27T06:00", "0.00552"),
        ("deepseek-flash", "2026-11-27T10:00", "0.00276"),
        ("deepseek-flash", "2026-10-01T02:00", "0.00276"),  # a public holiday, Thursday
        ("deepseek-v4-flash", "2026-11-28T02:00", "0.00276"),
        ("deepseek-v4-flash", "2026-09-05T02:00", "0.00366"),
        ("deepseek-v4-flash", "2026-09-04T02:00", "0.00732"),
        ("deepseek-v4-flash-vision-exp", "2026-11-27T02:00", "0.00552"),
        ("deepseek-v4-pro", "2026-11-28T02:00", "0.011"),
        ("deepseek-v4-pro-0813", "2026-11-27T02:00", "0.022"),
        ("deepseek-chat", "2026-07-01T02:00", "0.002016"),
        ("deepseek-reasoner", "2026-07-01T20:00", "0.002016"),
    ],
)
def test_deepseek_s_peak_hours_are_those_of_working_days(
    pricer: Pricer, model: str, at: str, usd: str
) -> None:
    quantities = Quantities(input_tokens=10_000, cache_read_tokens=20_000, output_tokens=2_000)
    when = datetime.fromisoformat(at).replace(tzinfo=UTC)
    priced = pricer.price(event(Kind.LLM, "deepseek", model, quantities, occurred_at=when))
    assert priced.cost is not None
    assert priced.cost.total == Decimal(usd)


@pytest.mark.parametrize(
    ("model", "by_token", "by_time"),
    [
        ("gpt-4o-transcribe", "0.000175", "0.0003"),
        ("gpt-4o-mini-transcribe", "0.0000875", "0.00015"),
        ("whisper-1", "0.0003", "0.0003"),
    ],
)
def test_transcription_is_priced_by_the_tokens_it_reports_and_else_by_time(
    pricer: Pricer, model: str, by_token: str, by_time: str
) -> None:
    seconds = Quantities(audio_seconds=Decimal(3))
    tokens = seconds.replaced(input_tokens=30, input_audio_tokens=30, output_tokens=10)
    for quantities, usd in [(tokens, by_token), (seconds, by_time)]:
        priced = pricer.price(event(Kind.STT, "openai", model, quantities))
        assert priced.cost is not None
        assert priced.cost.total == Decimal(usd)
        assert ("audio_seconds" in priced.cost) == (usd == by_time)


MULTIPLES = """
[[price]]
vendor = "openai"
model = "gpt-*"
effective_from = 2026-11-01
multiples = { reasoning_tokens = { of = "output_tokens", factor = "1.5" } }
source = "contract 7"

[[price]]
vendor = "google"
model = "gemini-*"
service_tier = "flex"
effective_from = 2026-11-01
multiples = { cache_read_audio_tokens = { of = "input_tokens", factor = "2" } }
source = "contract 7"
"""


@pytest.fixture(scope="module")
def multiplying(catalogue: Catalogue) -> Pricer:
    book = PriceBook.parse(OPERATOR + MULTIPLES, name="operator", where="prices.toml")
    return Pricer((book, PriceBook.shipped()), catalogue)


@pytest.mark.parametrize(
    ("model", "tier", "said", "thought", "version"),
    [
        ("gpt-4.1", None, "0.001", "0.00075", "operator 2026-11-01 openai/gpt-4.1"),
        ("gpt-5-mini", None, "0.0004", "0.0003", "genai-prices * openai/gpt-5-mini"),
        ("gpt-5-mini", "flex", "0.0002", "0.00015", "genai-prices * openai/gpt-5-mini flex"),
    ],
)
def test_a_line_of_multiples_adds_rates_to_a_price_from_anywhere(
    multiplying: Pricer, model: str, tier: str | None, said: str, thought: str, version: str
) -> None:
    quantities = Quantities(output_tokens=300, reasoning_tokens=100)
    priced = multiplying.price(event(Kind.LLM, "openai", model, quantities, service_tier=tier))
    assert priced.cost == Cost(output_tokens=Decimal(said), reasoning_tokens=Decimal(thought))
    assert priced.price_version is not None
    before, _, after = version.partition(" * ")
    assert priced.price_version.startswith(before)
    assert priced.price_version.endswith(f"{after} + operator 2026-11-01 openai/gpt-*")


def test_multiples_are_left_out_of_a_price_that_did_not_need_them(multiplying: Pricer) -> None:
    priced = multiplying.price(event(Kind.LLM, "openai", "gpt-4.1", TOKENS))
    assert priced.price_version == "operator 2026-11-01 openai/gpt-4.1"


def test_a_speech_to_speech_session_is_priced_by_the_time_it_was_open(pricer: Pricer) -> None:
    session = event(Kind.LLM, "openai", "gpt-live-1", Quantities(session_seconds=Decimal("90.5")))
    priced = pricer.price(session)
    assert priced.cost == Cost(session_seconds=Decimal("0.075416666666666667"))
    assert priced.cost.by_component(Kind.LLM) == {"llm_session": priced.cost.total}
    assert priced.price_version == "flow 2026-09-11 openai/gpt-live-1"
    assert pricer.has_price(Kind.LLM, "openai", "gpt-live-1")
    assert not pricer.has_price(Kind.LLM, "openai", "gpt-live-1.1")


OWN_CLAUDE = """
[[price]]
vendor = "anthropic"
model = "claude-opus-5"
effective_from = 2026-11-01
per_million = { input_tokens = "3", cache_write_tokens = "3.5", output_tokens = "15" }
source = "contract 8"
"""


@pytest.mark.parametrize(
    ("book", "provider", "model", "for_minutes", "for_an_hour", "multiplied"),
    [
        # $5 of input: $6.25 for five minutes, $10 for an hour
        ("", "anthropic", "claude-opus-5", "0.00375", "0.004", False),
        ("", "openrouter", "anthropic/claude-opus-5", "0.00375", "0.004", True),
        (OWN_CLAUDE, "anthropic", "claude-opus-5-20260723", "0.0021", "0.0024", True),
    ],
)
def test_a_cache_write_for_an_hour_costs_twice_the_input(
    catalogue: Catalogue,
    book: str,
    provider: str,
    model: str,
    for_minutes: str,
    for_an_hour: str,
    multiplied: bool,
) -> None:
    own = PriceBook.parse(book, name="operator", where="prices.toml")
    quantities = Quantities(cache_write_tokens=1000, cache_write_1h_tokens=400)
    priced = Pricer((own, PriceBook.shipped()), catalogue).price(
        event(Kind.LLM, provider, model, quantities)
    )
    assert priced.cost == Cost(
        cache_write_tokens=Decimal(for_minutes), cache_write_1h_tokens=Decimal(for_an_hour)
    )
    assert [line["component"] for line in priced.to_json()["lines"]] == ["llm_cache_write"] * 2
    assert priced.price_version is not None
    assert (" + flow 2025-05-22 " in priced.price_version) is multiplied


@pytest.mark.parametrize(
    ("kind", "provider", "model", "expected"),
    [
        (Kind.LLM, "openai", "gpt-4.1", True),
        (Kind.LLM, "openai", "gpt-4.1-2025-04-14", True),
        (Kind.LLM, "openai", "gpt-9-ultra", False),
        (Kind.LLM, "vllm", "whatever", True),
        (Kind.LLM, "ollama", "whatever", False),
        (Kind.LLM, "deepgram", "nova-3", False),
        (Kind.LLM, "openai", "text-embedding-3-small", False),  # no price of output
        (Kind.STT, "deepgram", "nova-3", True),
        (Kind.STT, "openai", "gpt-4o-transcribe", True),
        (Kind.STT, "groq", "whisper-large-v3", True),
        (Kind.STT, "deepgram", "nova-9", False),
        (Kind.TTS, "openai", "tts-1", True),
        (Kind.TTS, "groq", "canopylabs/orpheus-v1-english", True),
        (Kind.TTS, "elevenlabs", "none-such", False),
        (Kind.CALL, "flow", "call", True),
    ],
)
def test_it_can_be_asked_beforehand_whether_a_model_has_a_price(
    operator: Pricer, kind: Kind, provider: str, model: str, expected: bool
) -> None:
    assert operator.has_price(kind, provider, model) is expected


def test_a_model_may_have_a_price_only_from_a_day_on(operator: Pricer) -> None:
    before = datetime(2025, 1, 1, tzinfo=UTC)
    assert not operator.has_price(Kind.STT, "deepgram", "flux-general-en", before)
    assert operator.has_price(Kind.STT, "deepgram", "flux-general-en")


def test_the_operator_s_price_goes_first(operator: Pricer) -> None:
    priced = operator.price(event(Kind.LLM, "openai", "gpt-4.1", TOKENS))
    assert priced.cost == Cost(
        input_tokens=Decimal("0.001"),
        cache_read_tokens=Decimal("0.0002"),
        output_tokens=Decimal("0.0015"),
    )
    assert priced.price_version == "operator 2026-11-01 openai/gpt-4.1"


def test_the_operator_s_price_covers_dated_versions_of_the_model(operator: Pricer) -> None:
    for asked in ("gpt-4.1", None):
        dated = event(Kind.LLM, "openai", "gpt-4.1-2025-04-14", TOKENS, requested_model=asked)
        assert operator.price(dated).price_version == "operator 2026-11-01 openai/gpt-4.1"


def test_the_operator_s_price_for_a_tier_is_for_that_tier(operator: Pricer) -> None:
    priority = event(Kind.LLM, "openai", "gpt-4.1", TOKENS, service_tier="priority")
    priced = operator.price(priority)
    assert priced.cost is not None
    # without a price of its own, cached input costs what input costs
    assert priced.cost.total == Decimal("0.0117")
    assert priced.price_version == "operator 2026-11-01 openai/gpt-4.1 priority"


def test_a_price_of_zero_is_a_price(operator: Pricer) -> None:
    priced = operator.price(event(Kind.LLM, "vllm", "meta-llama/Llama-3", TOKENS))
    assert priced.cost is not None
    assert priced.cost.total == 0
    assert priced.price_version == "operator 2020-01-01 vllm/*"


def test_a_price_change_does_not_touch_the_past(operator: Pricer) -> None:
    last = datetime(2026, 11, 9, 23, 59, 59, 999999, tzinfo=UTC)
    before = operator.price(event(Kind.STT, "openai", "whisper-1", MINUTE, occurred_at=last))
    after = operator.price(
        event(
            Kind.STT, "openai", "whisper-1", MINUTE, occurred_at=datetime(2026, 11, 10, tzinfo=UTC)
        )
    )
    assert (before.cost, before.price_version) == (
        Cost(audio_seconds=Decimal("0.006")),
        "flow 2023-03-01 openai/whisper-1",
    )
    assert after.cost == Cost(audio_seconds=Decimal("0.005"))


def test_shipped_prices_change_by_date_too(pricer: Pricer) -> None:
    then = datetime(2026, 3, 1, tzinfo=UTC)
    old = pricer.price(event(Kind.STT, "deepgram", "nova-3", MINUTE, occurred_at=then))
    assert old.cost == Cost(audio_seconds=Decimal("0.0077"))


def test_call_minutes_cost_what_the_operator_says_and_otherwise_nothing(
    pricer: Pricer, operator: Pricer
) -> None:
    call = event(Kind.CALL, "flow", "call", Quantities(call_seconds=Decimal(90)))
    assert operator.price(call).cost == Cost(call_seconds=Decimal("0.03"))
    free = pricer.price(call)
    assert (free.cost, free.price_version) == (Cost(), "flow:no-call-price")


def test_a_call_whose_line_prices_another_unit_is_unpriced_rather_than_free(
    catalogue: Catalogue,
) -> None:
    text = OPERATOR.replace("call_seconds", "audio_seconds")
    pricer = Pricer((PriceBook.parse(text, name="operator", where="prices.toml"),), catalogue)
    call = event(Kind.CALL, "flow", "call", Quantities(call_seconds=Decimal(90)))
    assert pricer.price(call).cost is None


def test_pricing_changes_nothing_but_the_price(pricer: Pricer) -> None:
    before = event(Kind.LLM, "openai", "gpt-4.1", TOKENS, note="kept")
    after = pricer.price(before)
    assert replace(after, cost=None, price_version=None) == before
    assert pricer.price(after) == after


@given(
    seconds=st.decimals(0, 20_000, places=6),
    model=st.sampled_from(["deepgram/nova-3", "openai/gpt-4o-mini-tts", "elevenlabs/scribe_v1"]),
)
def test_speech_costs_are_exact_or_cut_far_below_a_cent(
    pricer: Pricer, seconds: Decimal, model: str
) -> None:
    provider, _, name = model.partition("/")
    kind = Kind.TTS if "tts" in name else Kind.STT
    per_second = {"nova-3": "0.0048", "gpt-4o-mini-tts": "0.015", "scribe_v1": "0.22"}[name]
    per = 3600 if name == "scribe_v1" else 60
    priced = pricer.price(event(kind, provider, name, Quantities(audio_seconds=seconds)))
    assert priced.cost is not None
    if seconds:
        assert set(priced.cost) == {"audio_seconds"}
    assert abs(priced.cost.total * per - seconds * Decimal(per_second)) <= Decimal("1e-14")
    exponent = priced.cost.total.as_tuple().exponent
    assert isinstance(exponent, int)
    assert exponent >= -18


def test_reading_takes_the_operator_s_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(OPERATOR)
    call = event(Kind.CALL, "flow", "call", Quantities(call_seconds=Decimal(60)))
    assert Pricer.read(file).price(call).cost == Cost(call_seconds=Decimal("0.02"))
    assert Pricer.read().price(call).cost == Cost()
