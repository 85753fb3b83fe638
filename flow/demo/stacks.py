"""The services that the bot of a demo call is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from flow.domain.calls.bot_part import CASCADE, BotPart
from flow.errors import ConfigurationError

REALTIME_SUFFIX = "-realtime"
EXAMPLES = "deepgram,anthropic,cartesia or openai-realtime"

# About half of what a call costs, so that save mode has something to do.
CASCADE_CAP_USD = Decimal("0.006")
REALTIME_CAP_USD = Decimal("0.02")

MODELS: Mapping[BotPart, Mapping[str, str]] = MappingProxyType(
    {
        BotPart.STT: {
            "openai": "gpt-4o-transcribe",
            "deepgram": "nova-3",
            "cartesia": "ink-whisper",
            "elevenlabs": "scribe_v2_realtime",
        },
        BotPart.LLM: {
            "openai": "gpt-4.1",
            "anthropic": "claude-sonnet-4-5",
            "azure": "gpt-4.1",
            "google": "gemini-2.5-flash",
        },
        BotPart.TTS: {
            "openai": "gpt-4o-mini-tts",
            "deepgram": "aura-2-thalia-en",
            "cartesia": "sonic-3",
            "elevenlabs": "eleven_flash_v2_5",
        },
        BotPart.REALTIME: {
            "openai": "gpt-realtime",
            "google": "gemini-2.5-flash-native-audio-preview-12-2025",
        },
    }
)
"""The vendors of each part that are stood in for, and a model of each."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Vendors and models.

    Args:
        bot: the fields of the ``bot`` of a join that name them; none for the service's defaults.
        vendors: the vendors of these, by name, without OpenAI's.
        cap_usd: a budget that the call uses up.
    """

    bot: Mapping[str, Any] = field(default_factory=dict)
    vendors: tuple[str, ...] = ()
    cap_usd: Decimal = CASCADE_CAP_USD


def parse_stack(text: str | None) -> Stack:
    """The stack that is written in ``text``: the vendors of ``stt,llm,tts``, or one that hears and
    speaks by itself, as in ``openai-realtime``. A vendor may have a model behind a slash.

    Raises:
        ConfigurationError: it is neither, or has a vendor that is not stood in for.
    """
    if text is None:
        return Stack()
    names = [name.strip() for name in text.split(",")]
    vendor, slash, model = names[0].partition("/")
    if len(names) == 1 and vendor.endswith(REALTIME_SUFFIX):
        names = [f"{vendor.removesuffix(REALTIME_SUFFIX)}{slash}{model}"]
        return _stack((BotPart.REALTIME,), names, REALTIME_CAP_USD)
    if len(names) == len(CASCADE):
        return _stack(CASCADE, names, CASCADE_CAP_USD)
    raise ConfigurationError(
        f"{text!r} is no stack: name the vendors of speech to text, language model and voice, or a"
        f" speech-to-speech one, such as {EXAMPLES}."
    )


def _stack(parts: Sequence[BotPart], names: Sequence[str], cap_usd: Decimal) -> Stack:
    chosen = {part: _service(part, name) for part, name in zip(parts, names, strict=True)}
    vendors = dict.fromkeys(service["provider"] for service in chosen.values())
    return Stack(
        {part.value: service for part, service in chosen.items()},
        tuple(vendor for vendor in vendors if vendor != "openai"),
        cap_usd,
    )


def _service(part: BotPart, name: str) -> dict[str, str]:
    vendor, _, model = name.partition("/")
    known = MODELS[part]
    if vendor not in known:
        able = ", ".join(sorted(known))
        raise ConfigurationError(f"The demo has no vendor {vendor!r} for {part}: use {able}.")
    return {"provider": vendor, "model": model or known[vendor]}
