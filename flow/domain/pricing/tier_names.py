"""Service tiers: what vendors call the speed at which a request was served."""

from __future__ import annotations

# "auto" leaves the choice to the vendor, "scale" is paid for beforehand and billed per token as
# standard (OpenAI); "on_demand" is Groq's and Vertex AI's name for it, "standard_only" Anthropic's.
_STANDARD = frozenset({"", "default", "auto", "standard", "standard_only", "scale", "on_demand"})

# Tiers that cost what standard costs. Groq: https://console.groq.com/docs/flex-processing.
_SAME_PRICE = frozenset({("groq", "flex")})


def normal_tier(vendor: str, tier: str | None) -> str | None:
    """The tier in lower case, or ``None`` where it costs what the standard tier costs."""
    name = (tier or "").strip().lower().replace("-", "_")
    return None if name in _STANDARD or (vendor.lower(), name) in _SAME_PRICE else name
