"""The models the stand-in offers, and which dated one serves when a name is asked for."""

from __future__ import annotations

from typing import Any

_SERVED = {
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-5-nano": "gpt-5-nano-2025-08-07",
    "o3": "o3-2025-04-16",
    "o4-mini": "o4-mini-2025-04-16",
}
CHAT_MODELS = tuple(_SERVED)
_SPEECH = (
    *("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
    *("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
)

# From this family on OpenAI bills what is written to the prompt cache.
_BILLS_CACHE_WRITES = "gpt-5.6"

# `fast` and `priority` are one tier, shown as the latter.
_TIERS = {"flex": "flex", "scale": "scale", "priority": "priority", "fast": "priority"}


def served_model(requested: str) -> str:
    """The dated model behind an alias; any other name serves as itself."""
    return _SERVED.get(requested, requested)


def served_tier(requested: str | None) -> str:
    """The service tier a request gets when there is room for it."""
    return _TIERS.get(requested or "auto", "default")


def bills_cache_writes(model: str) -> bool:
    """Whether tokens written to the prompt cache are reported and billed for this model."""
    return model.startswith(_BILLS_CACHE_WRITES)


def transcribes_by_tokens(model: str) -> bool:
    """Whether a transcription model is billed by tokens rather than by the second."""
    return not model.startswith("whisper")


def all_models() -> list[dict[str, Any]]:
    """Every model as ``GET /v1/models`` lists it."""
    names = sorted({*_SERVED, *_SERVED.values(), *_SPEECH})
    return [
        {"id": name, "object": "model", "created": 1744316542, "owned_by": "system"}
        for name in names
    ]
