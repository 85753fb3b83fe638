"""Which of the models that are asked for, or configured, have no price."""

from __future__ import annotations

from typing import Any

import pytest

from flow.domain.calls.join_request import JoinRequest
from flow.domain.pricing.unpriced_models import of_configuration, of_join, remembered
from flow.domain.products.product import ModelName, Models, Product, Products, Saving
from flow.domain.usage.units import Kind

PRICED = {
    (Kind.STT, "openai", "ears"),
    (Kind.LLM, "openai", "mind"),
    (Kind.LLM, "openai", "small"),
    (Kind.TTS, "openai", "voice"),
}
BOT = {
    "stt": {"provider": "openai", "model": "ears"},
    "llm": {"provider": "openai", "model": "mind"},
    "tts": {"provider": "openai", "model": "voice"},
}
DEFAULTS = {**BOT, "realtime": BOT["llm"]}
INSIGHTS = Product("insights", billable=True, calls=False)
ODD = ModelName("openai", "odd")


def has_price(kind: Kind, provider: str, model: str) -> bool:
    return (kind, provider, model) in PRICED


@pytest.mark.parametrize(
    ("bot", "found"),
    [
        (BOT, {}),
        ({**BOT, "llm": {"provider": "openai", "model": "odd"}}, {"bot.llm.model": "openai/odd"}),
        ({**BOT, "stt": {"provider": "vox", "model": "ears"}}, {"bot.stt.model": "vox/ears"}),
        # A model has a price for the work it does, not for any.
        ({**BOT, "tts": BOT["llm"]}, {"bot.tts.model": "openai/mind"}),
        (
            {part: {"provider": "a", "model": "b"} for part in BOT},
            dict.fromkeys(("bot.stt.model", "bot.llm.model", "bot.tts.model"), "a/b"),
        ),
        ({}, {}),
        ({"realtime": {"provider": "openai", "model": "mind"}}, {}),
        (
            {"realtime": {"provider": "openai", "model": "odd"}},
            {"bot.realtime.model": "openai/odd"},
        ),
    ],
    ids=[
        "all-priced",
        "a-model",
        "a-provider",
        "another-kind-of-work",
        "none-priced",
        "no-models",
        "realtime",
        "realtime-model",
    ],
)
def test_a_join_s_models_without_a_price_are_found_by_field(
    bot: dict[str, Any], found: dict[str, str]
) -> None:
    unpriced = of_join(JoinRequest.model_validate({"bot": bot}), has_price)
    assert {field: str(name) for field, name in unpriced.items()} == found


@pytest.mark.parametrize(
    ("product", "service", "insights", "found"),
    [
        ({}, {}, "small", {}),
        ({}, {"llm": "odd"}, "small", {"FLOW_LLM_MODEL"}),
        ({}, {"realtime": "odd"}, "small", {"FLOW_REALTIME_MODEL"}),
        ({}, {"stt": "odd", "tts": "odd"}, "odd",
         {"FLOW_STT_MODEL", "FLOW_TTS_MODEL", "FLOW_INSIGHTS_MODEL"}),
        ({"llm": Models(ODD)}, {}, "small", {"bot.llm.default"}),
        ({"llm": Models(ModelName("openai", "mind"))}, {"llm": "odd"}, "small", set()),
        ({"saving": Saving({"openai/mind": "openai/odd"})}, {}, "small",
         {"bot.saving.models.openai/mind"}),
        ({"llm": Models(ODD), "unpriced": "allow"}, {"llm": "odd"}, "small", set()),
    ],
    ids=[
        "all-priced", "service", "realtime", "three", "product", "product-first", "save-mode",
        "allowed",
    ],
)  # fmt: skip
def test_what_is_configured_without_a_price_is_found_by_where_it_is_set(
    product: dict[str, Any], service: dict[str, str], insights: str, found: set[str]
) -> None:
    defaults = {
        part: {**default, "model": service.get(part, default["model"])}
        for part, default in DEFAULTS.items()
    }
    products = Products([Product("bot", billable=True, **product), INSIGHTS])
    unpriced = of_configuration(products, defaults, ModelName("openai", insights), has_price)
    assert set(unpriced) == set(found)
    assert set(unpriced.values()) <= {ODD}


def test_the_step_after_a_call_may_name_models_of_its_own() -> None:
    own = Product(
        "insights",
        billable=True,
        calls=False,
        llm=Models(ODD),
        saving=Saving({"openai/mind": "openai/odder"}),
    )
    products = Products([Product("bot", billable=True), own])
    unpriced = of_configuration(products, DEFAULTS, ModelName("openai", "small"), has_price)
    assert {where: str(name) for where, name in unpriced.items()} == {
        "insights.llm.default": "openai/odd",
        "insights.saving.models.openai/mind": "openai/odder",
    }


def test_a_model_is_looked_up_once_a_minute() -> None:
    asked: list[str] = []
    times = iter((60.0, 90.0, 119.9, 120.0, 179.9))

    def look_up(kind: Kind, provider: str, model: str) -> bool:
        asked.append(model)
        return len(asked) > 1

    has = remembered(look_up, lambda: next(times))
    found = [has(Kind.LLM, "openai", "new") for _ in range(5)]
    assert found == [False, False, False, True, True]
    assert asked == ["new", "new"]
