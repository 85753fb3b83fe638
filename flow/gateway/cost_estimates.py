"""What a request may cost, told before it is made: the most where it limits its answer, and the
likely where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from uuid import UUID, uuid4

from cachetools import LRUCache, TTLCache

from flow.domain.products.product import ModelName
from flow.domain.usage.events import Kind, Owner, Provenance, Quantities, UsageEvent
from flow.domain.usage.units import UNITS
from flow.gateway.admission import AdmissionRequest

REPLY_TOKENS = 1_024
"""What an answer without a limit counts as, until the key has had answers of the model."""
REPLY_MARGIN = Decimal("1.25")
"""By how much an answer may be longer than the longest of late."""
REPLY_DECAY = Decimal("0.9")
"""What is left of the longest answer after each further one."""
INPUT_MARGIN = Decimal("1.25")
"""By how much an input may cost more than it was counted as: vendors have tokenizers of their own,
and take a quarter more for what they are to cache (docs.claude.com, "Prompt caching")."""
PRICE_SECS = 600.0
"""For how long a price is remembered: one with times of the week may change."""
MAX_KNOWN = 10_000

USD_STEP = Decimal("1e-12")
"""The smallest amount that is held."""

_MEASURED = 1_000
_LARGE = 100_000
_OWNER = Owner(None, UUID(int=0), "", "", billable=False)


@dataclass(frozen=True, slots=True)
class Hold:
    """What is held for a request until it is settled."""

    usd: Decimal
    tokens: int


class CostEstimates:
    """Estimates requests, and learns how long answers without a limit are.

    Args:
        price: puts a cost on an event.
    """

    def __init__(self, price: Callable[[UsageEvent], UsageEvent]) -> None:
        self._price = price
        self._unit_usd: TTLCache[tuple[Kind, ModelName, str], Decimal] = TTLCache(
            MAX_KNOWN, PRICE_SECS
        )
        self._text_usd: TTLCache[ModelName, tuple[Decimal, Decimal]] = TTLCache(
            MAX_KNOWN, PRICE_SECS
        )
        self._replies: LRUCache[tuple[UUID, str], Decimal] = LRUCache(MAX_KNOWN)

    def hold(self, request: AdmissionRequest) -> Hold:
        """What to hold for a request; without a price it costs nothing."""
        kind, model, estimate = request.operation.kind, request.model, request.estimate
        if kind is Kind.LLM:
            sent = int(estimate.count("input_tokens") * INPUT_MARGIN)
            answered = self._reply_tokens(request)
            tokens = sent + answered
            if tokens <= _LARGE and len(estimate) <= ("input_tokens" in estimate):
                # Nearly every request; the rest is the same at length.
                of_input, of_output = self._of_text(model)
                usd = of_input * sent + of_output * answered
                return Hold(usd.quantize(USD_STEP, ROUND_UP), tokens)
            estimate = estimate.replaced(input_tokens=sent, output_tokens=answered)
        usd = self._usd(kind, model, estimate)
        # Few digits, so that what is taken and given back always comes out even.
        return Hold(usd.quantize(USD_STEP, ROUND_UP), estimate.total_tokens)

    def learn(self, event: UsageEvent) -> None:
        """Take note of an answer."""
        if event.kind is not Kind.LLM or event.owner.api_key_id is None:
            return
        place = (event.owner.api_key_id, event.requested_model or event.model)
        tokens = event.quantities.count("output_tokens")
        if tokens:
            longest = self._replies.get(place, Decimal(0)) * REPLY_DECAY
            self._replies[place] = max(longest, Decimal(tokens))

    def _reply_tokens(self, request: AdmissionRequest) -> int:
        if request.most_output is not None:
            return max(request.most_output, 0)
        longest = self._replies.get((request.key.id, request.model.model))
        return REPLY_TOKENS if longest is None else int(longest * REPLY_MARGIN) + 1

    def _usd(self, kind: Kind, model: ModelName, quantities: Quantities) -> Decimal:
        # Some vendors have other prices for large inputs, and a part has none without its whole.
        if quantities.total_tokens > _LARGE or any(UNITS[unit].part_of for unit in quantities):
            return self._priced(kind, model, quantities)
        return sum(
            (
                self._unit(kind, model, unit) * Decimal(amount)
                for unit, amount in quantities.items()
            ),
            Decimal(0),
        )

    def _of_text(self, model: ModelName) -> tuple[Decimal, Decimal]:
        """What a token of a language model's input and of its output costs."""
        known = self._text_usd.get(model)
        if known is None:
            known = self._text_usd[model] = (
                self._unit(Kind.LLM, model, "input_tokens"),
                self._unit(Kind.LLM, model, "output_tokens"),
            )
        return known

    def _unit(self, kind: Kind, model: ModelName, unit: str) -> Decimal:
        place = (kind, model, unit)
        known = self._unit_usd.get(place)
        if known is None:
            measured = self._priced(kind, model, Quantities({unit: _MEASURED}))
            known = self._unit_usd[place] = measured / _MEASURED
        return known

    def _priced(self, kind: Kind, model: ModelName, quantities: Quantities) -> Decimal:
        event = UsageEvent(
            owner=_OWNER,
            kind=kind,
            source="estimate",
            provider=model.provider,
            model=model.model,
            requested_model=model.model,
            quantities=quantities,
            provenance=Provenance.ESTIMATED,
            id=uuid4(),
        )
        cost = self._price(event).cost
        return Decimal(0) if cost is None else cost.total
