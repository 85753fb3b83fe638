"""Prices out of ``genai-prices``: the data of the installed release, never fetched.

Its own calculator gives input and output only. Here its price data, chosen by it for the time
and the tier of a request, becomes `Rates`, which give the cost of each unit; they add up to its
total, because both charge a token at the narrowest price that is set for it and both choose the
step of a long-context price by the gross input. A model with a price that Flow cannot apply (per
message, per page, ...) is not priced at all rather than in part, and so is one without any: the
data does not tell a free model from one whose price is not known.

Its data finds many models by the beginning or a part of their names. A name that it finds so and
that says more than a path, a release or a preview is another model, which it does not know.

Not applied: prices of images and video (those tokens are reported as input and output), and of
tool calls such as web searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from flow.domain.pricing.model_names import names_model
from flow.domain.pricing.rates import Price, Rate, Rates, shortened
from flow.domain.usage.events import Cost, Quantities
from flow.domain.usage.units import UNITS, Kind

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, Provider, TieredPrices

PROVIDERS: Mapping[str, tuple[str, ...]] = {
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
"""Names that occur for providers, letters and digits only, by genai-prices' id."""

# Units that genai-prices calls otherwise: its ``input_mtok`` is the price of ``input_tokens``.
_UNITS = {
    "cache_audio_read_tokens": "cache_read_audio_tokens",
    "output_reasoning_tokens": "reasoning_tokens",
}
# Prices that are not applied unless the registry has a unit for them.
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
    """``genai-prices`` as Flow asks it.

    Args:
        providers: the names that occur for a provider, letters and digits only, by its id.
    """

    def __init__(self, providers: Mapping[str, Iterable[str]] = PROVIDERS) -> None:
        # Here, not above: the data takes a while to import.
        from genai_prices.data import providers as data
        from genai_prices.data_snapshot import DataSnapshot

        self._ids = {name: id_ for id_, names in providers.items() for name in names}
        # A snapshot of our own, so that nothing can update it while the process runs.
        self._snapshot = DataSnapshot(providers=data, from_auto_update=False)
        self._find = lru_cache(maxsize=4096)(self._look_up)
        # By identity: the standard prices of a model are one object as long as the snapshot.
        self._compiled: dict[int, Rates | None] = {}
        self.name = f"genai-prices {version('genai-prices')}"

    def find(
        self, kind: Kind, provider: str, model: str, tier: str | None, at: datetime
    ) -> Price | None:
        """The price of a model, or ``None``: there is none.

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
        given = _set_prices(prices).keys()
        if given and (given <= _HEARD or given <= _SPOKEN):
            if kind is not (Kind.STT if given <= _HEARD else Kind.TTS):
                return None
            charges: _Calculator | Rates | None = _Calculator(kind, vendor, info, at, context)
        else:
            charges = self._rates(prices, keep=not context)
        if charges is None:
            return None
        return Price(charges, f"{self.name} {vendor.id}/{info.id}" + (f" {tier}" if tier else ""))

    def models_of(self, provider: str) -> Iterator[str]:
        """The models of a provider, by the names that the data gives them."""
        id_ = self._ids.get("".join(c for c in provider.lower() if c.isalnum()))
        for one in self._snapshot.providers:
            if one.id == id_:
                yield from (model.id for model in one.models)

    def _look_up(self, provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
        # By a known name only: left to itself, genai-prices takes "not-openai" for OpenAI.
        id_ = self._ids.get("".join(c for c in provider.lower() if c.isalnum()))
        if id_ is None:
            return None
        try:
            found = self._snapshot.find_provider_model(model, None, id_, None)
        except LookupError:
            return None
        name, info = model.lower(), found[1]
        return found if names_model(name, info.id) or _means(info.match, name) else None

    def _rates(self, prices: ModelPrice, *, keep: bool) -> Rates | None:
        if not keep:
            return _rates(prices)
        key = id(prices)
        if key not in self._compiled:
            self._compiled[key] = _rates(prices)
        return self._compiled[key]


@dataclass(frozen=True, slots=True)
class _Calculator:
    """The calculator of genai-prices, for speech: it knows the shortest time that Groq bills."""

    kind: Kind
    provider: Provider
    model: ModelInfo
    at: datetime
    context: Mapping[str, str]

    def cost(self, quantities: Quantities) -> Cost | None:
        """What that much costs, or ``None``: it was not measured in what the model is sold by."""
        from genai_prices import Usage

        if self.kind is Kind.STT:
            unit, seconds = "audio_seconds", quantities.seconds()
            usage = Usage(audio_seconds=seconds, input_audio_seconds=seconds)
        else:
            unit = "characters"
            usage = Usage(input_characters=quantities.count(unit))
        if unit not in quantities:
            return None
        found = self.model.calc_price(
            usage,
            self.provider,
            genai_request_timestamp=self.at,
            price_context=dict(self.context),
        )
        return Cost({unit: shortened(found.total_price)})


def _means(match: MatchLogic, name: str) -> bool:
    """Whether a name that the data finds a model by means that model, rather than a sibling."""
    if either := getattr(match, "or_", None):
        return any(_means(clause, name) for clause in either)
    if every := getattr(match, "and_", None):
        named = (clause for clause in every if not hasattr(clause, "regex"))
        return match.is_match(name) and any(_means(clause, name) for clause in named)
    if hasattr(match, "regex"):
        return match.is_match(name)
    return names_model(name, next(iter(vars(match).values())))


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


def _rates(prices: ModelPrice) -> Rates | None:
    """The rates of a model sold by the token."""
    given = _set_prices(prices)
    rates: dict[str, Rate] = {}
    for key, price in given.items():
        name = key.removesuffix("mtok") + "tokens"
        unit = _UNITS.get(name, name)
        if key.endswith("_mtok") and unit in UNITS:
            rates[unit] = _rate(price)
        elif key not in _NOT_APPLIED and key != "requests_kcount":
            return None
    if not rates:
        return None
    return Rates(rates, given.get("requests_kcount", Decimal(0)).scaleb(-3))


def _rate(price: Decimal | TieredPrices) -> Rate:
    if isinstance(price, Decimal):
        return Rate(price, 1_000_000)
    return Rate(price.base, 1_000_000, tuple((tier.start, tier.price) for tier in price.tiers))
