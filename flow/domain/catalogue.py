"""Prices out of ``genai-prices``: the data of the installed release, never fetched.

Its own calculator gives input and output only. Here its price data, chosen by it for the time
and the tier of a request, becomes `TokenRates`, which give each component on its own; they add
up to its total, because both charge a token at the narrowest price that is set for it and both
choose the step of a long-context price by the gross input. A model with a price that Flow
cannot apply (per message, per page, ...) is not priced at all rather than in part, and so is one
without any: the data does not tell a free model from one whose price is not known.

Not applied: prices of images and video (those tokens are reported as input and output), of tool
calls such as web searches, and of cache writes kept for an hour (writes count as the usual ones).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from flow.domain.rates import Rate, TokenRates, speech_cost
from flow.domain.usage import Cost, Kind, Quantities

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

# Names that occur for providers, letters and digits only, by genai-prices' id.
_PROVIDERS = {
    "anthropic": ("anthropic",),
    "aws": ("aws", "awsbedrock", "bedrock", "amazonbedrock"),
    "azure": ("azure", "azureopenai"),
    "cerebras": ("cerebras",),
    "cohere": ("cohere",),
    "deepseek": ("deepseek",),
    "elevenlabs": ("elevenlabs",),
    "fireworks": ("fireworks", "fireworksai"),
    "google": ("google", "gemini", "geminilive", "googlevertex", "vertex", "vertexai"),
    "groq": ("groq",),
    "minimax": ("minimax",),
    "mistral": ("mistral", "mistralai"),
    "moonshotai": ("moonshot", "moonshotai"),
    "novita": ("novita", "novitaai"),
    "openai": ("openai", "openairesponses"),
    "openrouter": ("openrouter",),
    "perplexity": ("perplexity",),
    "together": ("together", "togetherai"),
    "x-ai": ("xai", "grok"),
    "zai": ("zai",),
}
_IDS = {name: id_ for id_, names in _PROVIDERS.items() for name in names}

_RATES = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "cache_audio_read_mtok": "audio_cache_read",
    "output_audio_mtok": "audio_output",
}
_NOT_APPLIED = frozenset(
    {
        "cache_write_5m_mtok", "cache_write_1h_mtok", "input_image_mtok", "cache_image_read_mtok",
        "output_image_mtok", "input_video_mtok", "output_video_mtok", "web_searches_kcount",
        "social_searches_kcount", "storage_searches_kcount", "code_executions_kcount",
    }
)  # fmt: skip
_HEARD = frozenset({"audio_hours", "input_audio_hours"})
_SPOKEN = frozenset({"input_mchars"})


class Catalogue:
    """``genai-prices`` as Flow asks it."""

    def __init__(self) -> None:
        # Here, not above: the data takes a while to import.
        from genai_prices.data import providers
        from genai_prices.data_snapshot import DataSnapshot

        # A snapshot of our own, so that nothing can update it while the process runs.
        self._snapshot = DataSnapshot(providers=providers, from_auto_update=False)
        self._find = lru_cache(maxsize=4096)(self._look_up)
        # By identity: the standard prices of a model are one object as long as the snapshot.
        self._compiled: dict[int, TokenRates | None] = {}
        self.name = f"genai-prices {version('genai-prices')}"

    def cost(
        self,
        kind: Kind,
        provider: str,
        model: str,
        tier: str | None,
        at: datetime,
        quantities: Quantities,
    ) -> tuple[Cost, str] | None:
        """The cost and its price version, or ``None``: there is no price for this.

        ``tier`` is ``None`` for standard. A tier that the data does not have for the model has
        no price: the standard one would be wrong, most often by half or twice.
        """
        found = self._find(provider, model)
        if found is None or kind is Kind.CALL:
            return None
        vendor, info = found
        context = _context(vendor, info, tier, at)
        if context is None:
            return None
        prices = info.get_prices(at, context)
        if kind is Kind.LLM:
            rates = self._rates(prices, keep=not context)
            cost = rates.cost(kind, quantities) if rates else None
        else:
            cost = _speech(kind, vendor, info, prices, at, context, quantities)
        if cost is None:
            return None
        return cost, f"{self.name} {vendor.id}/{info.id}" + (f" {tier}" if tier else "")

    def _look_up(self, provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
        # By a known name only: left to itself, genai-prices takes "not-openai" for OpenAI.
        id_ = _IDS.get("".join(c for c in provider.lower() if c.isalnum()))
        if id_ is None:
            return None
        try:
            return self._snapshot.find_provider_model(model, None, id_, None)
        except LookupError:
            return None

    def _rates(self, prices: ModelPrice, *, keep: bool) -> TokenRates | None:
        if not keep:
            return _token_rates(prices)
        key = id(prices)
        if key not in self._compiled:
            self._compiled[key] = _token_rates(prices)
        return self._compiled[key]


def _context(
    provider: Provider, model: ModelInfo, tier: str | None, at: datetime
) -> dict[str, str] | None:
    """What selects the tier's prices; ``None`` where the data has none for it at that time."""
    if tier is None:
        return {}
    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
    # A model of another provider that this one resells has only standard prices here.
    own = any(model is one for one in provider.models)
    known = own and any(
        variant.when == context and (variant.constraint is None or variant.constraint.active(at))
        for variant in model.price_variants or ()
    )
    return context if known else None


def _set_prices(prices: ModelPrice) -> Mapping[str, Any]:
    return {key: value for key, value in vars(prices).items() if value is not None}


def _token_rates(prices: ModelPrice) -> TokenRates | None:
    given = _set_prices(prices)
    if not given or set(given) - {*_RATES, *_NOT_APPLIED, "requests_kcount"}:
        return None
    rates: dict[str, Any] = {
        name: _rate(given[key]) for key, name in _RATES.items() if key in given
    }
    if "requests_kcount" in given:
        rates["per_request"] = given["requests_kcount"].scaleb(-3)
    return TokenRates(**rates)


def _rate(price: Decimal | TieredPrices) -> Rate:
    if isinstance(price, Decimal):
        return Rate(price)
    return Rate(price.base, tuple((tier.start, tier.price) for tier in price.tiers))


def _speech(
    kind: Kind,
    provider: Provider,
    model: ModelInfo,
    prices: ModelPrice,
    at: datetime,
    context: Mapping[str, str],
    quantities: Quantities,
) -> Cost | None:
    """By the calculator of genai-prices, which knows the shortest time that Groq bills."""
    from genai_prices import Usage

    given, q = set(_set_prices(prices)), quantities
    if kind is Kind.STT and given and given <= _HEARD:
        usage = Usage(audio_seconds=q.audio_seconds, input_audio_seconds=q.audio_seconds)
        unmeasured = bool(q.characters) and not q.audio_seconds
    elif kind is Kind.TTS and given == _SPOKEN:
        usage = Usage(input_characters=q.characters)
        unmeasured = bool(q.audio_seconds) and not q.characters
    else:
        return None
    if unmeasured:
        return None
    found = model.calc_price(
        usage, provider, genai_request_timestamp=at, price_context=dict(context)
    )
    return speech_cost(kind, found.total_price)
