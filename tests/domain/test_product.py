"""What a product allows, and which product a join means."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from flow.domain.products.product import CALL_FIELDS, ModelName, Models, Product, Products, Saving
from flow.domain.products.save_mode import SaveMode
from flow.errors import Refused

INSIGHTS = Product("insights", billable=True, calls=False)


def products(*more: Product) -> Products:
    return Products((*more, INSIGHTS))


@pytest.mark.parametrize(
    ("text", "provider", "model"),
    [
        ("openai/gpt-4.1", "openai", "gpt-4.1"),
        ("OpenAI/GPT-4.1", "openai", "GPT-4.1"),
        ("openrouter/openai/gpt-4.1", "openrouter", "openai/gpt-4.1"),
    ],
)
def test_a_model_is_written_with_its_vendor(text: str, provider: str, model: str) -> None:
    name = ModelName.parse(text)
    assert (name.provider, name.model) == (provider, model)
    assert str(name) == f"{provider}/{model}"


@pytest.mark.parametrize("text", ["", "/", "gpt-4.1", "openai/", "/gpt", "openai/gpt 4", "a/b\n"])
def test_a_model_without_a_vendor_or_with_blanks_is_no_model(text: str) -> None:
    with pytest.raises(ValueError, match="is no provider/model"):
        ModelName.parse(text)


@pytest.mark.parametrize(
    ("allowed", "model", "is_allowed"),
    [
        (None, "anyone/anything", True),
        (["openai/gpt-4.1"], "openai/gpt-4.1", True),
        (["openai/gpt-4.1"], "openai/gpt-4.1-mini", False),
        (["openai/gpt-4.1"], "openai/gpt-4x1", False),
        (["openai/gpt-4.1"], "groq/openai/gpt-4.1", False),
        (["openai/GPT-4.1"], "OpenAI/gpt-4.1", True),
        (["openai/*"], "openai/gpt-4.1", True),
        (["openai/*"], "openai/a/b", True),
        (["openai/*"], "openai2/gpt-4.1", False),
        (["openai/gpt-4.1*"], "openai/gpt-4.1-2025-04-14", True),
        (["openai/gpt-?.1"], "openai/gpt-5.1", True),
        (["openai/gpt-?.1"], "openai/gpt-.1", False),
        (["openai/gpt-[45]"], "openai/gpt-5", True),
        (["openai/gpt-[!45]"], "openai/gpt-5", False),
        (["groq/*", "openai/o?"], "openai/o3", True),
        (["groq/*", "openai/o?"], "openai/gpt-5", False),
        (["*/gpt-oss-*"], "cerebras/gpt-oss-20b", True),
        (["*"], "openai/gpt-4.1", True),
        (["openai/gpt-4.1"], "openai/gpt-4.1\n", False),
        ([], "openai/gpt-4.1", False),
    ],
)
def test_a_model_is_allowed_by_a_pattern_of_its_whole_name(
    allowed: list[str] | None, model: str, is_allowed: bool
) -> None:
    models = Models(allowed=None if allowed is None else tuple(allowed))
    assert models.allows(*model.split("/", 1)) is is_allowed


@pytest.mark.parametrize(
    ("provider", "model", "cheaper"),
    [
        ("openai", "gpt-4.1", "gpt-4.1-mini"),
        ("OpenAI", "GPT-4.1", "gpt-4.1-mini"),
        ("openai", "gpt-4.1-mini", None),
        ("groq", "gpt-4.1", None),
        ("openrouter", "qwen/Big", "qwen/Small"),
    ],
)
def test_saving_names_the_same_vendor_s_cheaper_model(
    provider: str, model: str, cheaper: str | None
) -> None:
    saving = Saving(
        {
            "openai/gpt-4.1": "openai/gpt-4.1-mini",
            "OpenRouter/qwen/BIG": "openrouter/qwen/Small",
        }
    )
    assert saving.cheaper(provider, model) == cheaper


def test_a_join_names_a_product_or_one_of_its_aliases() -> None:
    bot = Product("voice_bot", billable=True, aliases=("voice", "voice-bot"))
    found = products(bot, Product("demo", billable=False))
    assert {found.for_call(name).name for name in ("voice_bot", "voice", "voice-bot")} == {
        "voice_bot"
    }
    assert found.for_call("demo").billable is False


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("voicebot", "There is no product 'voicebot': use demo, voice_bot."),
        ("Voice_Bot", "There is no product 'Voice_Bot': use demo, voice_bot."),
        ("insights", "'insights' takes no calls: use demo, voice_bot."),
        ("old", "'old' takes no calls: use demo, voice_bot."),
    ],
)
def test_a_product_that_takes_no_call_is_refused_with_those_that_do(name: str, said: str) -> None:
    found = products(
        Product("voice_bot", billable=True),
        Product("old", billable=True, calls=False),
        Product("demo", billable=False),
    )
    with pytest.raises(Refused) as raised:
        found.for_call(name)
    assert (raised.value.code, str(raised.value)) == ("unknown_product", said)


def test_the_gateway_serves_the_products_that_say_so() -> None:
    found = products(
        Product("apps", billable=True, aliases=("app",), gateway=True),
        Product("bot", billable=True),
    )
    assert found.for_gateway("app").name == "apps"
    for name, said in (
        ("bot", "'bot' is not served by the gateway: use apps."),
        ("ap", "There is no product 'ap': use apps."),
    ):
        with pytest.raises(Refused) as raised:
            found.for_gateway(name)
        assert (raised.value.code, str(raised.value)) == ("unknown_product", said)


def test_products_keep_their_order_and_have_one_for_insights() -> None:
    found = products(Product("z", billable=True), Product("a", billable=True))
    assert [product.name for product in found] == ["z", "a", "insights"]
    assert len(found) == 3
    assert found.insights is INSIGHTS


def test_buckets_hold_the_billable_products_that_count_against_them() -> None:
    found = products(
        Product("voice_bot", billable=True),
        Product("survey", billable=True, credit_bucket="survey_credits"),
        Product("demo", billable=False, credit_bucket="demo_credits"),
        Product("concierge", billable=True),
    )
    assert found.buckets() == {
        "ai_credits": ["concierge", "insights", "voice_bot"],
        "survey_credits": ["survey"],
    }


@pytest.mark.parametrize(
    "given",
    [
        [Product("a", billable=True), Product("a", billable=False), INSIGHTS],
        [Product("a", billable=True), Product("b", billable=True, aliases=("a",)), INSIGHTS],
        [Product("a", billable=True)],
    ],
    ids=["a name twice", "an alias that is a name", "none for insights"],
)
def test_products_that_cannot_be_told_apart_are_no_collection(given: list[Product]) -> None:
    with pytest.raises(ValueError, match="product"):
        Products(given)


def test_a_product_is_shown_whole_with_money_as_text() -> None:
    product = Product(
        "voice_bot",
        billable=True,
        aliases=("voice",),
        gateway=True,
        permission="product.voice",
        fallbacks=(ModelName("groq", "b"),),
        reservation_usd=Decimal("1E-7"),
        concurrency_per_key=2,
        on_exceeded="wrap_up",
        goodbye="Bye.",
        early_replies=False,
        save_mode=SaveMode.ON,
        llm=Models(ModelName("openai", "gpt-4.1"), ("openai/*",)),
        tts=Models(voice="alloy"),
        saving=Saving({"openai/a": "openai/b"}, 100, "Be brief.", prompt_cache=True),
    )
    assert json.loads(json.dumps(product.to_json())) == {
        "name": "voice_bot",
        "aliases": ["voice"],
        "billable": True,
        "calls": True,
        "gateway": True,
        "fallbacks": ["groq/b"],
        "credit_bucket": "ai_credits",
        "max_duration_secs": 1800,
        "reservation_usd": "0.0000001",
        "reservation_secs": 60,
        "concurrency_per_key": 2,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "concurrent_requests": None,
        "on_exceeded": "wrap_up",
        "wrap_up_secs": 15,
        "goodbye": "Bye.",
        "early_replies": False,
        "save_mode": "on",
        "unpriced": "refuse",
        "llm": {"default": "openai/gpt-4.1", "allowed": ["openai/*"]},
        "stt": {"default": None, "allowed": None},
        "tts": {"default": None, "allowed": None, "voice": "alloy"},
        "realtime": {"default": None, "allowed": None, "voice": None},
        "saving": {
            "models": {"openai/a": "openai/b"},
            "max_tokens": 100,
            "instruction": "Be brief.",
            "prompt_cache": True,
        },
    }


def test_a_product_without_calls_shows_nothing_that_only_a_call_has() -> None:
    whole = Product("voice_bot", billable=True).to_json()
    assert set(whole) - set(INSIGHTS.to_json()) == set(CALL_FIELDS)
