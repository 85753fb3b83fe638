"""Putting a price on what was used.

A price is looked for in the operator's price book, then in Flow's own, then in `genai-prices`,
as it was when the work happened and for the service tier that was served. The model that served
counts. The one that was asked for stands for it only where it is the same model: the served one
is a release of it, has a path before its name, or was not named. A model that no source knows is
unpriced, however much its name is like another's.

No price found is not a price of 0: the event stays unpriced, and so does one of which nothing was
metered. Two things cost nothing and are known to: work that used nothing, such as a request that
was refused, and the seconds of a call, which are Flow's own and cost what the operator's book
says, if it says anything.

A price version says how an event's price is found again: the source, the day from which the
price was in force or the release of the data, the vendor, the model or pattern, the tier unless
it is the standard one, and the times of the week where the line has some.
``flow 2023-03-01 openai/whisper-1``, ``operator 2026-11-01 vllm/*``,
``genai-prices 0.2.3 openai/gpt-5-mini flex``. A line of multiples that was needed follows after
a plus sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from flow.domain.pricing.genai_prices import Catalogue
from flow.domain.pricing.model_names import is_unnamed, stands_for
from flow.domain.pricing.price_book import PriceBook
from flow.domain.pricing.rates import Price, Rates
from flow.domain.pricing.tier_names import normal_tier
from flow.domain.usage.events import Cost, Provenance, Quantities, UsageEvent
from flow.domain.usage.units import UNITS, Kind, Measure

NO_CALL_PRICE = "flow:no-call-price"
NOTHING_USED = "flow:nothing-used"


class Pricer:
    """Prices events.

    Args:
        books: in order of precedence, before the catalogue.
        catalogue: prices kept by others, asked last.
    """

    def __init__(self, books: tuple[PriceBook, ...], catalogue: Catalogue) -> None:
        self._books = books
        self._catalogue = catalogue

    @classmethod
    def read(cls, operator_file: Path | None = None) -> Self:
        """A pricer with the operator's book, if there is one, and Flow's own.

        Raises:
            ConfigurationError: the operator's file cannot be read, or has mistakes.
        """
        operator = (PriceBook.load(operator_file),) if operator_file else ()
        return cls((*operator, PriceBook.shipped()), Catalogue())

    def price(self, event: UsageEvent) -> UsageEvent:
        """The event with its cost and price version, both ``None`` where there is no price."""
        if event.provenance is Provenance.UNMETERED:
            return event.priced(None, None)
        work = _Work(
            event.kind,
            event.provider,
            _models(event),
            normal_tier(event.provider, event.service_tier),
            event.occurred_at,
        )
        covered = False
        for price in self._prices(work):
            covered = True
            extended = self._extended(price, work, event.quantities)
            cost = extended.charges.cost(event.quantities)
            if cost is not None:
                return event.priced(cost, extended.version)
        if event.kind is Kind.CALL and not covered:
            return event.priced(Cost(), NO_CALL_PRICE)
        if not event.quantities:
            return event.priced(Cost(), NOTHING_USED)
        return event.priced(None, None)

    def has_price(self, kind: Kind, provider: str, model: str, at: datetime | None = None) -> bool:
        """Whether work of this kind by this model has a price at the standard tier, now or ``at``.

        Speech has one if it is priced by tokens, characters or seconds, whichever; a language
        model if both its input and its output have one, or its sessions do.
        """
        return self._has_price(kind, provider, model, None, at)

    def has_tier_price(self, kind: Kind, provider: str, model: str, tier: str) -> bool:
        """The same at a service tier, as a request asks for it, now."""
        return self._has_price(kind, provider, model, normal_tier(provider, tier), None)

    def _has_price(
        self, kind: Kind, provider: str, model: str, tier: str | None, at: datetime | None
    ) -> bool:
        if kind is Kind.CALL:
            return True
        work = _Work(kind, provider, (model,), tier, at or datetime.now(UTC))
        return any(
            price.charges.cost(quantities) is not None
            for price in self._prices(work)
            for quantities in _SAMPLES[kind]
        )

    def models_of(self, provider: str) -> Iterator[str]:
        """The models of a provider that are known by name; whether each has a price now is
        another question."""
        for book in self._books:
            for line in book.lines:
                if line.vendor == provider and not line.is_pattern:
                    yield line.model
        yield from self._catalogue.models_of(provider)

    def _prices(self, work: _Work) -> Iterator[Price]:
        """Every price that might be the one, the one that goes first at first."""
        for book in self._books:
            for model in work.models:
                line = book.find(work.provider, model, work.tier, work.at)
                if line is not None:
                    yield Price(line.rates, f"{book.name} {line}")
        for model in work.models:
            found = self._catalogue.find(work.kind, work.provider, model, work.tier, work.at)
            if found is not None:
                yield found

    def _extended(self, price: Price, work: _Work, quantities: Quantities) -> Price:
        """The price with the multiples that these quantities need."""
        rates, version = price.charges, price.version
        if not isinstance(rates, Rates):
            return price
        for book in self._books:
            for model in work.models:
                for line in book.find_multiples(work.provider, model, work.tier, work.at):
                    needed = {u: m for u, m in line.multiples.items() if u in quantities}
                    extended = rates.extended(needed)
                    if extended is not rates:
                        rates, version = extended, f"{version} + {book.name} {line}"
        return Price(rates, version)


class _Work(NamedTuple):
    """What a price is looked for: by which names of a model, at which tier and time."""

    kind: Kind
    provider: str
    models: tuple[str, ...]
    tier: str | None
    at: datetime


def _models(event: UsageEvent) -> tuple[str, ...]:
    """The names of the model that served: its own, and the one that stands for it.

    A model that save mode replaced has no say: it would be the wrong price.
    """
    served, asked = event.model, event.sent_model or event.requested_model
    if not asked or served == asked or not stands_for(served, asked):
        return (served,)
    return (asked,) if is_unnamed(served) else (served, asked)


def _samples(kind: Kind) -> tuple[Quantities, ...]:
    """A little of each measure that work of this kind is billed by."""
    if kind is Kind.EMBEDDING:  # its output is numbers, which nobody bills
        return (Quantities(input_tokens=1),)
    return (
        Quantities(input_tokens=1, output_tokens=1),
        *(
            Quantities({unit.name: 1})
            for unit in UNITS.values()
            if unit.measure is not Measure.TOKENS
            and unit.part_of is None
            and unit.component != Kind.CALL
            and (kind is Kind.LLM) == unit.component.startswith("llm_")
        ),
    )


_SAMPLES = {kind: _samples(kind) for kind in Kind}
