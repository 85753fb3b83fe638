"""Which vendors and models a join can choose from."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from flow.bot.model_choices import VendorModelChoices
from flow.domain.calls.bot_part import BotPart
from flow.domain.pricing.genai_prices import Catalogue
from flow.domain.pricing.price_book import PriceBook
from flow.domain.pricing.pricer import Pricer
from flow.domain.products.product import Models, Product

PRICER = Pricer((PriceBook.shipped(),), Catalogue())


def choices(
    part: BotPart, product: Product, reachable: Iterable[str] = ("openai", "elevenlabs", "groq")
) -> dict[str, tuple[str, ...]]:
    """The models of each vendor that can be chosen."""
    found = VendorModelChoices([*reachable], PRICER.has_price, PRICER.models_of)
    return {one.name: one.models for one in found.of(product, part)}


ANY = Product("voice_bot", billable=True)


@pytest.mark.parametrize(
    ("part", "vendor", "model", "others"),
    [
        (BotPart.LLM, "openai", "gpt-4.1", {"gpt-realtime", "whisper-1", "tts-1"}),
        (BotPart.REALTIME, "openai", "gpt-realtime", {"gpt-4.1", "whisper-1", "tts-1"}),
        (BotPart.STT, "openai", "whisper-1", {"gpt-4.1", "gpt-realtime", "tts-1"}),
        (BotPart.TTS, "openai", "tts-1", {"gpt-4.1", "gpt-realtime", "whisper-1"}),
        (BotPart.STT, "elevenlabs", "scribe_v2_realtime", {"eleven_v3"}),
        (BotPart.TTS, "elevenlabs", "eleven_v3", {"scribe_v2_realtime"}),
    ],
)
def test_a_model_is_offered_for_what_it_does(
    part: BotPart, vendor: str, model: str, others: set[str]
) -> None:
    offered = choices(part, ANY)[vendor]
    assert model in offered
    assert not others & set(offered)


def test_only_vendors_are_offered_that_are_set_up_and_do_this() -> None:
    assert set(choices(BotPart.LLM, ANY)) == {"openai", "groq"}
    assert set(choices(BotPart.LLM, ANY, ["elevenlabs"])) == set()


def test_only_what_the_product_allows_is_offered() -> None:
    few = Product("few", billable=True, llm=Models(allowed=("openai/gpt-4.1-*",)))
    assert choices(BotPart.LLM, few) == {"openai": ("gpt-4.1-mini", "gpt-4.1-nano")}


def test_voices_are_told_where_they_are_known() -> None:
    found = VendorModelChoices(["openai", "elevenlabs"], PRICER.has_price, PRICER.models_of)
    voices = {one.name: one.voices for one in found.of(ANY, BotPart.TTS)}
    assert voices["elevenlabs"] is None
    assert "alloy" in (voices["openai"] or ())
