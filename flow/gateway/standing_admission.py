"""Admission by how a key stands, as the database said lately."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from cachetools import TTLCache

from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget, Standing, Tier
from flow.domain.limits.key_standing import KeyStanding
from flow.domain.limits.quota import BUDGET, CALL_SECONDS, CONCURRENT_CALLS, LimitState, Terms
from flow.domain.limits.quota import refused as refusal_by
from flow.domain.pricing.unpriced_models import price_hint
from flow.domain.products.product import Product
from flow.domain.usage.events import UsageEvent
from flow.errors import DatabaseUnavailable, UnpricedModel
from flow.gateway.admission import AdmissionRequest
from flow.kit.single_flight import SingleFlight

STANDING_SECS = 1.0
MAX_KEYS = 10_000
RETRY_SECS = 60
_OF_CALLS = (CALL_SECONDS, CONCURRENT_CALLS)


class KeyStandings(Protocol):
    """Where standings are read: `flow.db.database.Database`."""

    async def get_key_standing(self, api_key_id: UUID, terms: Terms) -> KeyStanding:
        """How a key stands now; raises `Unavailable`."""
        ...


class ExternalQuotas(Protocol):
    """A source beside Flow that says whether a team may go on."""

    async def check(self, key: ApiKey, product: str) -> object:
        """Return when it may; raises `Refused` or `QuotaUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class StandingKey:
    """A request that was let in: an `Admitted` for which nothing is held."""

    standing: Standing
    budget: Budget | None

    def attempted(self, event_id: UUID) -> None:
        """Nothing is held."""

    def closed(self) -> None:
        """Nothing is held."""


class StandingAdmission:
    """A `flow.gateway.admission.GatewayAdmission` that asks the database at most once in
    `STANDING_SECS` a key and product.

    It holds nothing for what is under way: requests that race may spend more than is left.

    Args:
        terms: what a product says about limits.
        quotas: asked for every request, where there is one.
    """

    def __init__(
        self,
        standings: KeyStandings,
        terms: Callable[[Product], Terms],
        quotas: ExternalQuotas | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._standings = standings
        self._terms = terms
        self._quotas = quotas
        self._known: TTLCache[tuple[UUID, str], KeyStanding] = TTLCache(
            MAX_KEYS, STANDING_SECS, timer=clock
        )
        self._questions: SingleFlight[tuple[UUID, str], KeyStanding] = SingleFlight()

    async def admit(self, request: AdmissionRequest) -> StandingKey:
        """Let a request in, or raise what `GatewayAdmission` says."""
        if self._quotas is not None:
            await self._quotas.check(request.key, request.product.name)
        found = await self._standing(request.key, request.product)
        tier = None if found.budget is None else found.budget.tier
        if not request.operation.is_free:
            for limit in found.limits:
                _require_room(limit, tier)
            if not request.is_priced and tier not in (None, Tier.OVERRIDE):
                raise _unpriced(request)
        return StandingKey(Standing(tier, found.save_mode), found.budget)

    def recorded(self, events: Sequence[UsageEvent]) -> None:
        """Nothing is held that could be given back."""

    async def aclose(self) -> None:
        """End questions under way."""
        await self._questions.aclose()

    async def _standing(self, key: ApiKey, product: Product) -> KeyStanding:
        place = (key.id, product.name)
        known = self._known.get(place)
        if known is not None:
            return known
        terms = self._terms(product)
        found = await self._questions.run(
            place, lambda: self._standings.get_key_standing(key.id, terms)
        )
        if found is None:
            raise DatabaseUnavailable
        self._known[place] = found
        return found


def _require_room(limit: LimitState, tier: Tier | None) -> None:
    is_lifted = limit.resource == BUDGET and tier is Tier.OVERRIDE
    if limit.resource in _OF_CALLS or is_lifted or not limit.is_reached:
        return
    code = "budget_exceeded" if limit.resource == BUDGET else "quota_exceeded"
    raise refusal_by(code, limit, _secs_until_room(limit))


def _secs_until_room(limit: LimitState) -> int:
    assert limit.limit is not None
    if limit.resets_at is None or limit.used < limit.limit:  # what calls hold is given back
        return RETRY_SECS
    return max(1, int(limit.resets_at.timestamp() - time.time()))


def _unpriced(request: AdmissionRequest) -> UnpricedModel:
    return UnpricedModel(
        f"No price is known for {request.model}, and this key has a budget, which cannot hold what"
        " has no price. Use a model that has one.",
        hint=price_hint(request.product.name),
    )
