"""The vendor, model and voice of each part of a bot, as the settings have them."""

from __future__ import annotations

import pytest

from flow.app.bots import bot_defaults
from flow.domain.calls.bot_part import BotPart
from flow.errors import ConfigurationError
from flow.settings import Settings


def defaults(**settings: str) -> dict[str, dict[str, str]]:
    return bot_defaults(Settings(debug=True, **settings))  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("part", BotPart)
def test_another_vendor_needs_a_model_of_its_own(part: BotPart) -> None:
    with pytest.raises(ConfigurationError, match=f"FLOW_{part.upper()}_MODEL is missing"):
        defaults(**{f"{part}_provider": "acme"})
    chosen = defaults(**{f"{part}_provider": "acme", f"{part}_model": "roadrunner"})
    assert chosen[part] == {"provider": "acme", "model": "roadrunner"}


@pytest.mark.parametrize("part", [BotPart.TTS, BotPart.REALTIME])
def test_the_usual_voice_is_the_usual_vendors(part: BotPart) -> None:
    assert defaults()[part]["voice"] == "alloy"
    own = {f"{part}_provider": "acme", f"{part}_model": "m", f"{part}_voice": "wile"}
    assert defaults(**own)[part]["voice"] == "wile"
