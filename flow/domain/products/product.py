"""Products: what a call is sold as, which models it may use, and its limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal, Self

from flow.domain.limits.quota import RATES, Terms
from flow.domain.products.save_mode import SaveMode
from flow.errors import Refused

INSIGHTS = "insights"

# What only a call has, so what a product without calls has no use for.
CALL_FIELDS = (
    "aliases", "max_duration_secs", "reservation_usd", "reservation_secs", "concurrency_per_key",
    "on_exceeded", "wrap_up_secs", "goodbye", "early_replies", "stt", "tts", "realtime",
)  # fmt: skip

# Of these, what the gateway uses as well.
GATEWAY_FIELDS = ("aliases", "stt", "tts")

OnExceeded = Literal["finish", "wrap_up"]
Unpriced = Literal["refuse", "allow"]


@dataclass(frozen=True, slots=True)
class ModelName:
    """A vendor's model, written ``provider/model``; the model may hold further slashes."""

    provider: str
    model: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name written in ``text``, the provider in lower case.

        Raises:
            ValueError: it is not ``provider/model``, or holds blanks.
        """
        provider, _, model = text.partition("/")
        if not provider or not model or not text.isprintable() or " " in text:
            raise ValueError(f"{text!r} is no provider/model such as openai/gpt-4.1")
        return cls(provider.lower(), model)

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one part of a bot.

    ``default`` is used where a join names none; ``None`` leaves that to the service.
    ``allowed`` holds patterns of ``provider/model`` with ``*``, ``?`` and ``[...]``; ``None``
    allows any. ``voice`` goes with a default model that speaks.
    """

    default: ModelName | None = None
    allowed: tuple[str, ...] | None = None
    voice: str | None = None

    def allows(self, provider: str, model: str) -> bool:
        """Whether this model may be used; case does not matter."""
        name = f"{provider}/{model}".lower()
        return self.allowed is None or any(fnmatchcase(name, p.lower()) for p in self.allowed)

    def to_json(self) -> dict[str, Any]:
        """Default and patterns, without the voice."""
        return {
            "default": None if self.default is None else str(self.default),
            "allowed": None if self.allowed is None else list(self.allowed),
        }


@dataclass(frozen=True, slots=True)
class Saving:
    """What save mode does; what is not set here it leaves alone.

    ``models`` says for a ``provider/model`` which ``provider/model`` of the same vendor to use
    instead. ``max_tokens`` limits a reply, ``instruction`` is added to the messages,
    ``prompt_cache`` asks the vendor to keep cached prompts for longer.
    """

    models: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    max_tokens: int | None = None
    instruction: str | None = None
    prompt_cache: bool = False

    def cheaper(self, provider: str, model: str) -> str | None:
        """The vendor's model to use instead, without the vendor; case does not matter."""
        asked = f"{provider}/{model}".lower()
        for costly, cheap in self.models.items():
            if costly.lower() == asked:
                return ModelName.parse(cheap).model
        return None

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return {
            "models": dict(self.models),
            "max_tokens": self.max_tokens,
            "instruction": self.instruction,
            "prompt_cache": self.prompt_cache,
        }


@dataclass(frozen=True, slots=True)
class Product:
    """One line of business.

    Attributes:
        billable: whether its usage is charged to the team.
        calls: whether calls can be joined for it. Where not, the fields in `CALL_FIELDS` say
            nothing, but for those in `GATEWAY_FIELDS` where the gateway serves it.
        gateway: whether the LLM gateway takes requests for it.
        permission: what a key must be permitted at Unkey to use it; ``None``: nothing.
        fallbacks: the language models that the gateway asks, one after the other, when the one
            that was asked for cannot answer.
        credit_bucket: the team's quota that its billable cost counts against.
        max_duration_secs: the longest call, in seconds.
        reservation_usd: USD held from the key's budget while a call has recorded less.
        reservation_secs: seconds of calls held from the team's quota likewise.
        concurrency_per_key: calls one key may have at once; ``None`` is no limit.
        requests_per_minute, tokens_per_minute, concurrent_requests: what one key may ask of the
            gateway; ``None`` is no limit.
        on_exceeded: whether a running call goes on when the budget is exceeded, or says
            ``goodbye`` and ends within ``wrap_up_secs`` seconds.
        early_replies: whether the model may be asked for a reply before the caller's turn is surely
            over. That is faster; a reply that is thrown away because the caller goes on is paid for
            all the same. Save mode does not.
        save_mode: what holds where neither the key nor the join says.
        unpriced: whether a key with a budget may use a model that has no price. What it spends
            there is in no sum, so the budget cannot hold it.
    """

    name: str
    billable: bool
    aliases: tuple[str, ...] = ()
    calls: bool = True
    gateway: bool = False
    permission: str | None = None
    fallbacks: tuple[ModelName, ...] = ()
    credit_bucket: str = "ai_credits"
    max_duration_secs: int = 1800
    reservation_usd: Decimal = Decimal("0.10")
    reservation_secs: int = 60
    concurrency_per_key: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    on_exceeded: OnExceeded = "finish"
    wrap_up_secs: int = 15
    goodbye: str = "I am sorry, I have to end our call here. Goodbye."
    early_replies: bool = True
    save_mode: SaveMode = SaveMode.AUTO
    unpriced: Unpriced = "refuse"
    llm: Models = Models()
    stt: Models = Models()
    tts: Models = Models()
    realtime: Models = Models()
    saving: Saving = Saving()

    @property
    def rates(self) -> dict[str, int]:
        """The limits of its requests to the gateway, by resource."""
        if not self.gateway:
            return {}
        limits = {name: getattr(self, name) for name in RATES}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def to_json(self) -> dict[str, Any]:
        """The product for a reader: money as text, and nothing that it has no use for."""
        said = {
            "name": self.name,
            "aliases": list(self.aliases),
            "billable": self.billable,
            "calls": self.calls,
            "gateway": self.gateway,
            "fallbacks": list(map(str, self.fallbacks)),
            "credit_bucket": self.credit_bucket,
            "max_duration_secs": self.max_duration_secs,
            "reservation_usd": format(self.reservation_usd, "f"),
            "reservation_secs": self.reservation_secs,
            "concurrency_per_key": self.concurrency_per_key,
            **{name: getattr(self, name) for name in RATES},
            "on_exceeded": self.on_exceeded,
            "wrap_up_secs": self.wrap_up_secs,
            "goodbye": self.goodbye,
            "early_replies": self.early_replies,
            "save_mode": self.save_mode.value,
            "unpriced": self.unpriced,
            "llm": self.llm.to_json(),
            "stt": self.stt.to_json(),
            "tts": {**self.tts.to_json(), "voice": self.tts.voice},
            "realtime": {**self.realtime.to_json(), "voice": self.realtime.voice},
            "saving": self.saving.to_json(),
        }
        useless = set() if self.calls else set(CALL_FIELDS)
        useless |= set() if self.gateway else set(RATES)
        return {
            name: value
            for name, value in said.items()
            if name not in useless or (self.gateway and name in GATEWAY_FIELDS)
        }


class Products:
    """Every product there is, in the order of the file; never changed.

    Raises:
        ValueError: a name or alias occurs twice, or there is no product ``insights``.
    """

    __slots__ = ("_buckets", "_by_name", "_products", "_terms")

    def __init__(self, products: Iterable[Product]) -> None:
        self._products = tuple(products)
        self._by_name: dict[str, Product] = {}
        for product in self._products:
            for name in (product.name, *product.aliases):
                if self._by_name.setdefault(name, product) is not product:
                    raise ValueError(f"two products go by {name!r}")
        if INSIGHTS not in self._by_name:
            raise ValueError(f"there is no product {INSIGHTS!r}")
        # Every join asks for them.
        self._buckets: dict[str, list[str]] = {}
        for product in sorted(self._products, key=lambda p: (p.credit_bucket, p.name)):
            if product.billable:
                self._buckets.setdefault(product.credit_bucket, []).append(product.name)
        self._terms = {one.name: self._terms_of([one]) for one in self._products}

    def __iter__(self) -> Iterator[Product]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)

    @property
    def insights(self) -> Product:
        """What the step after a call may use, and whether it is charged."""
        return self._by_name[INSIGHTS]

    def for_call(self, name: str) -> Product:
        """The product of that name or alias.

        Raises:
            Refused: code ``unknown_product``; there is none, or it takes no calls.
        """
        product = self._by_name.get(name)
        if product is not None and product.calls:
            return product
        raise self._unknown(name, "takes no calls", [p.name for p in self._products if p.calls])

    def for_gateway(self, name: str) -> Product:
        """The product of that name or alias.

        Raises:
            Refused: code ``unknown_product``; there is none, or the gateway does not serve it.
        """
        product = self._by_name.get(name)
        if product is not None and product.gateway:
            return product
        served = [p.name for p in self._products if p.gateway]
        raise self._unknown(name, "is not served by the gateway", served)

    def _unknown(self, name: str, lacks: str, able: list[str]) -> Refused:
        wrong = f"{name!r} {lacks}" if name in self._by_name else f"There is no product {name!r}"
        return Refused("unknown_product", f"{wrong}: use {', '.join(sorted(able)) or 'none'}.")

    def terms(self, product: Product | None = None) -> Terms:
        """What the products say about limits; of one product, what its next call is subject to."""
        return self._terms_of(self._products) if product is None else self._terms[product.name]

    def _terms_of(self, considered: Iterable[Product]) -> Terms:
        return Terms(
            buckets={
                one.credit_bucket: self._buckets[one.credit_bucket]
                for one in considered
                if one.billable
            },
            concurrency={
                one.name: one.concurrency_per_key
                for one in considered
                if one.concurrency_per_key is not None
            },
            rates={one.name: one.rates for one in considered if one.rates},
        )

    def buckets(self) -> dict[str, list[str]]:
        """Each credit bucket with the billable products that count against it, sorted."""
        return {name: list(products) for name, products in self._buckets.items()}
