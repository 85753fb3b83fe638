"""Which of Deepgram's services a join means, and with what voice it speaks."""

from __future__ import annotations

from typing import Any

import pytest

from flow.bot.vendors.deepgram import VENDOR, voice_of
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart


def choice(model: str, **options: Any) -> Choice:
    return Choice("deepgram", model, options)


@pytest.mark.parametrize(
    ("model", "options", "voice"),
    [
        ("aura-2-zeus-en", {}, "aura-2-zeus-en"),
        ("aura-2-zeus-en", {"voice": None, "language": "de"}, "aura-2-zeus-en"),
        ("aura-2", {"voice": "aura-2-zeus-en", "language": "de"}, "aura-2-zeus-en"),
        ("aura-2-thalia-en", {"voice": "aura-2-zeus-en"}, "aura-2-zeus-en"),
        ("aura-2", {"voice": "Zeus", "language": "en-US"}, "aura-2-zeus-en"),
        ("aura-2-thalia-en", {"voice": "viktoria", "language": "de"}, "aura-2-viktoria-de"),
        ("aura-2", {}, "aura-2-thalia-en"),
        ("aura-2", {"language": "es-MX"}, "aura-2-celeste-es"),
        ("aura-2", {"language": "tlh"}, "aura-2-thalia-en"),
        ("aura", {"language": "de"}, "aura-asteria-en"),
        ("aura", {"voice": "luna"}, "aura-luna-en"),
    ],
)
def test_the_voice_is_what_deepgram_calls_the_model(
    model: str, options: dict[str, Any], voice: str
) -> None:
    asked = choice(model, **options)
    assert VENDOR.service(BotPart.TTS, asked) is not None
    assert voice_of(asked) == voice


@pytest.mark.parametrize(
    ("model", "voice"),
    [
        ("aura-2", "aura-asteria-en"),
        ("aura", "aura-2-thalia-en"),
        ("nova-3", None),
        ("", "zeus"),
        ("aura-2", "zeus&mip_opt_out=false"),
        ("aura-2-zeus-en&speed=1.5", None),
    ],
)
def test_what_can_be_no_voice_of_the_family_is_refused(model: str, voice: str | None) -> None:
    assert VENDOR.service(BotPart.TTS, choice(model, voice=voice)) is None


def test_a_model_cannot_add_to_the_url_of_flux() -> None:
    assert VENDOR.service(BotPart.STT, choice("flux-general-en&tag=x")) is None


@pytest.mark.parametrize(
    ("model", "tells_turns"),
    [("nova-3", False), ("nova-2-phonecall", False), ("flux-general-en", True)],
)
def test_flux_tells_turns_and_nova_does_not(model: str, tells_turns: bool) -> None:
    service = VENDOR.service(BotPart.STT, choice(model))
    assert service is not None
    assert service.tells_turns is tells_turns
