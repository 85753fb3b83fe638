"""Putting a price on what was used.

A price is looked for in the operator's price book, then in Flow's own, then in `genai-prices`,
as it was when the work happened and for the service tier that was served. The model that served
counts; the one that was asked for stands in for it where no source knows the other, and stands
beside it where the served one is a dated version of it, so that an operator who writes
``gpt-4.1`` also means ``gpt-4.1-2025-04-14``.

No price found is not a price of 0: the event stays unpriced. Two things cost nothing and are
known to: work that used nothing, such as a request that was refused, and the seconds of a call,
which are Flow's own and cost what the operator's book says, if it says anything.

A price version says how an event's price is found again: the source, the day from which the
price was in force or the release of the data, the vendor, the model or pattern, and the tier
unless it is the standard one. ``flow 2023-03-01 openai/whisper-1``, ``operator 2026-11-01
vllm/*``, ``genai-prices 0.2.3 openai/gpt-5-mini flex``.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Self

from flow.domain.catalogue import Catalogue
from flow.domain.price_book import PriceBook
from flow.domain.tier import normal_tier
from flow.domain.usage import Cost, Kind, Quantities, UsageEvent

NO_CALL_PRICE = "flow:no-call-price"
NOTHING_USED = "flow:nothing-used"

_NOTHING = Quantities(audio_seconds=Decimal(0))


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
        tier = normal_tier(event.provider, event.service_tier)
        for models in _models(event):
            for found in self._found(event, models, tier):
                return event.priced(*found)
        if event.kind is Kind.CALL:
            return event.priced(Cost(), NO_CALL_PRICE)
        if event.quantities == _NOTHING:
            return event.priced(Cost(), NOTHING_USED)
        return event.priced(None, None)

    def _found(
        self, event: UsageEvent, models: list[str], tier: str | None
    ) -> Iterator[tuple[Cost, str]]:
        kind, at, quantities = event.kind, event.occurred_at, event.quantities
        for book in self._books:
            for model in models:
                line = book.find(kind, event.provider, model, tier, at)
                cost = line.rates.cost(kind, quantities) if line else None
                if cost is not None:
                    yield cost, f"{book.name} {line}"
        for model in models:
            found = self._catalogue.cost(kind, event.provider, model, tier, at, quantities)
            if found is not None:
                yield found


def _models(event: UsageEvent) -> Iterator[list[str]]:
    """The names to look under: of the model that served, then of the one the vendor was asked for.

    A model that save mode replaced has no say: it would be the wrong price.
    """
    served, requested = event.model, event.sent_model or event.requested_model
    if requested and requested != served and served.startswith(requested):
        yield [served, requested]
    else:
        yield [served]
        if requested and requested != served:
            yield [requested]
