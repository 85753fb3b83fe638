"""Gemini's ``usageMetadata``, from what the stand-in's bill says."""

from __future__ import annotations

from typing import Any

from flow.sandbox.bill import Amounts


def usage_metadata(amounts: Amounts, *, details: bool = True) -> dict[str, Any]:
    """The amounts as ``GenerateContentResponse.UsageMetadata``; what is zero is left out.

    The prompt contains what was read from the cache; thoughts lie beside the candidates.
    """
    thoughts = amounts.reasoning_tokens
    candidates = amounts.completion_tokens - thoughts
    usage: dict[str, Any] = {
        "promptTokenCount": amounts.prompt_tokens,
        "cachedContentTokenCount": amounts.cached_tokens,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": amounts.prompt_tokens + amounts.completion_tokens,
    }
    if details:
        usage |= {
            "promptTokensDetails": by_modality(amounts.prompt_tokens, amounts.prompt_audio_tokens),
            "cacheTokensDetails": by_modality(amounts.cached_tokens, 0),
            "candidatesTokensDetails": by_modality(candidates, amounts.completion_audio_tokens),
        }
    return {name: value for name, value in usage.items() if value}


def live_usage_metadata(amounts: Amounts, *, details: bool = True) -> dict[str, Any]:
    """The amounts as Live's ``UsageMetadata``, which calls the candidates the response and leaves
    the thoughts out of its total."""
    usage = {
        name.replace("candidates", "response"): value
        for name, value in usage_metadata(amounts, details=details).items()
    }
    return usage | {"totalTokenCount": usage["totalTokenCount"] - amounts.reasoning_tokens}


def by_modality(total: int, audio: int) -> list[dict[str, Any]]:
    """Tokens of text and of sound, as a list of ``ModalityTokenCount``."""
    counts = {"TEXT": total - audio, "AUDIO": audio}
    return [{"modality": name, "tokenCount": count} for name, count in counts.items() if count]
