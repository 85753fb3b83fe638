"""The stacks that a demo call can be made on."""

from __future__ import annotations

import pytest

from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Choice
from flow.demo.stacks import MODELS, parse_stack
from flow.domain.calls.bot_part import BotPart
from flow.errors import ConfigurationError
from flow.sandbox.model_vendors import MODEL_VENDORS


@pytest.mark.parametrize(
    ("text", "bot", "vendors"),
    [
        (None, {}, ()),
        (
            "openai, anthropic/claude-haiku-4-5,openai",
            {
                "stt": {"provider": "openai", "model": "gpt-4o-transcribe"},
                "llm": {"provider": "anthropic", "model": "claude-haiku-4-5"},
                "tts": {"provider": "openai", "model": "gpt-4o-mini-tts"},
            },
            ("anthropic",),
        ),
        (
            "openai-realtime/gpt-realtime-mini",
            {"realtime": {"provider": "openai", "model": "gpt-realtime-mini"}},
            (),
        ),
    ],
)
def test_a_stack_names_vendors_and_may_name_models(
    text: str | None, bot: dict[str, dict[str, str]], vendors: tuple[str, ...]
) -> None:
    stack = parse_stack(text)
    assert (stack.bot, stack.vendors) == (bot, vendors)


@pytest.mark.parametrize(
    "text", ["", "openai", "openai,openai", "acme,openai,openai", "acme-realtime"]
)
def test_what_is_no_stack_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no stack|no vendor"):
        parse_stack(text)


@pytest.mark.parametrize("part", BotPart)
def test_every_service_of_a_stack_can_be_made_and_is_stood_in_for(part: BotPart) -> None:
    for vendor, model in MODELS[part].items():
        assert VENDORS[vendor].service(part, Choice(vendor, model, {})), vendor
        assert vendor in MODEL_VENDORS
