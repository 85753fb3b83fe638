"""Admission of requests from slices of the limits that a process leases.

Most requests are let in without asking anybody. What a request may cost is held from when it is let
in until the ledger has its events. Where a limit is nearly used up, slices shrink to what one
request needs, and requests wait for those under way to be settled, in the order of coming.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol
from uuid import UUID, uuid4

import structlog

from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget, Standing, Tier
from flow.domain.limits.lease import Rates
from flow.domain.limits.quota import Terms
from flow.domain.pricing.unpriced_models import price_hint
from flow.domain.products.product import Product
from flow.domain.usage.events import UsageEvent
from flow.errors import DatabaseUnavailable, Refused, UnpricedModel
from flow.gateway.admission import AdmissionRequest
from flow.gateway.cost_estimates import CostEstimates, Hold
from flow.gateway.key_lease import KeyLease, Leases, Leasing, again, is_lasting

log = structlog.get_logger(__name__)

WAIT_SECS = 30.0
"""How long a request waits at most for those before it to be settled."""
WAIT_FOR_RATES_SECS = 2.0
"""The same for what other processes hold of limits a minute and of requests at once."""
PAUSE_SECS = 0.02
LONGEST_PAUSE_SECS = 0.25
KEEP_SECS = 0.5
FORGET_SECS = 300.0
"""How often what dead processes and idle keys have left in the database is removed."""
RENEWALS_AT_ONCE = 4
FORGOTTEN_SECS = 3600.0
"""After this an event will not be recorded any more: it lies in quarantine."""

_NOTHING = Hold(Decimal(0), 0)
_OF_RATES = ("rate_limited", "concurrency_exceeded")
_CROWD = Refused(
    "rate_limited",
    "Too many requests of this key wait for those before them to be accounted for. Try again.",
    5,
)


class ExternalQuotas(Protocol):
    """A source beside Flow that says whether a team may go on."""

    async def check(self, key: ApiKey, product: str) -> object:
        """Return when it may; raises `Refused` or `QuotaUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """An attempt whose event is not recorded yet."""

    lease: KeyLease
    hold: Hold
    began_at: float


class HeldRequest:
    """A request that was let in: an `Admitted` that holds something of a lease.

    Args:
        unsettled: where its attempts are noted until they are recorded.
        hold: ``None``: it is free of charge, and counts nowhere.
    """

    __slots__ = ("_clock", "_hold", "_is_attempted", "_lease", "_unsettled", "budget", "standing")

    def __init__(
        self,
        lease: KeyLease,
        hold: Hold | None,
        unsettled: dict[UUID, _Unsettled],
        clock: Callable[[], float],
    ) -> None:
        self.standing: Standing = Standing(lease.tier, lease.answer.save_mode)
        self.budget: Budget | None = lease.answer.budget
        self._lease = lease
        self._hold = hold
        self._unsettled = unsettled
        self._clock = clock
        self._is_attempted = False

    def attempted(self, event_id: UUID) -> None:
        """A vendor is asked; once more, if it has been before."""
        if self._hold is None:
            return
        if self._is_attempted:
            self._lease.slices.take_more(self._hold)
        self._is_attempted = True
        self._unsettled[event_id] = _Unsettled(self._lease, self._hold, self._clock())

    def closed(self) -> None:
        """The request is over."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        self._lease.slices.end()
        if not self._is_attempted:
            self._lease.slices.settle(hold, Decimal(0), 0)
        self._lease.settled()


class LeasedAdmission:
    """A `flow.gateway.admission.GatewayAdmission` by leases. Start it, and close it with `aclose`.

    Args:
        terms: what a product says about limits.
        price: puts a cost on an event.
        quotas: asked for every request, where there is one.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        leases: Leases,
        terms: Callable[[Product], Terms],
        price: Callable[[UsageEvent], UsageEvent],
        quotas: ExternalQuotas | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leasing = Leasing(uuid4(), leases, terms, clock)
        self._clock = clock
        self._quotas = quotas
        self._estimates = CostEstimates(price)
        self._leases: dict[tuple[UUID, str], KeyLease] = {}
        self._unsettled: dict[UUID, _Unsettled] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Renew leases and give back slices from now on."""
        self._task = asyncio.create_task(self._run(), name="gateway-leases")

    async def aclose(self) -> None:
        """Give back what is free."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(lease.aclose() for lease in self._leases.values()))

    async def admit(self, request: AdmissionRequest) -> HeldRequest:
        """Let a request in, or raise what `GatewayAdmission` says."""
        if self._quotas is not None:
            await self._quotas.check(request.key, request.product.name)
        lease = self._lease(request.key, request.product)
        await lease.refresh()
        hold = None
        if not request.operation.is_free:
            if not request.is_priced and lease.tier not in (None, Tier.OVERRIDE):
                raise _unpriced(request)
            hold = self._taken(lease, request) or await self._waited(lease, request)
            lease.used()
        return HeldRequest(lease, hold, self._unsettled, self._clock)

    def rates(self, key: ApiKey, product: Product) -> Rates | None:
        """How far the limits a minute have got."""
        return self._lease(key, product).rates()

    def recorded(self, events: Sequence[UsageEvent]) -> None:
        """Settle what was held for these events."""
        for event in events:
            found = self._unsettled.pop(event.id, None)
            if found is None:
                continue
            cost = Decimal(0) if event.cost is None else event.cost.total
            self._estimates.learn(event)
            found.lease.slices.settle(found.hold, cost, event.quantities.total_tokens)
            found.lease.settled()

    def _lease(self, key: ApiKey, product: Product) -> KeyLease:
        place = (key.id, product.name)
        lease = self._leases.get(place)
        if lease is None:
            lease = self._leases[place] = KeyLease(self._leasing, key, product)
        return lease.sought()

    def _hold(self, lease: KeyLease, request: AdmissionRequest) -> Hold:
        return self._estimates.hold(request) if lease.slices.is_limited else _NOTHING

    def _taken(self, lease: KeyLease, request: AdmissionRequest) -> Hold | None:
        """What is held for a request that is let in at once."""
        if lease.queue.locked():
            return None
        hold = self._hold(lease, request)
        if not lease.slices.fits(hold):
            return None
        lease.slices.take(hold)
        return hold

    async def _waited(self, lease: KeyLease, request: AdmissionRequest) -> Hold:
        """The same for one that is let in as soon as there is room, if there soon is."""
        refused: Refused | None = None
        began_at = self._clock()
        pause = PAUSE_SECS
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECS), lease.queue:
                while True:
                    found = await self._asked(lease, request)
                    if isinstance(found, Hold):
                        return found
                    refused = found
                    is_of_rates = refused.code in _OF_RATES
                    if is_of_rates and self._clock() - began_at > WAIT_FOR_RATES_SECS:
                        break
                    await lease.change(pause)
                    pause = min(pause * 1.5, LONGEST_PAUSE_SECS)
        raise again(refused or lease.answer.refused or _CROWD)

    async def _asked(self, lease: KeyLease, request: AdmissionRequest) -> Hold | Refused:
        """What is held for a request, or why there is no room for it now; raises it where waiting
        is of no use."""
        while True:
            hold = self._hold(lease, request)
            if lease.slices.fits(hold):
                break
            known = lease.refusal()
            if known is not None:
                raise known
            answer = await lease.renew(hold)
            if answer.refused is not None:
                if not answer.may_be_freed or is_lasting(answer.refused):
                    raise again(answer.refused)
                return answer.refused
            if hold == self._hold(lease, request):  # and no limit has come up since
                hold = lease.slices.fitting(hold)
                break
        lease.slices.take(hold)
        return hold

    async def _run(self) -> None:
        forgets_at = self._clock() + FORGET_SECS
        while True:
            await asyncio.sleep(KEEP_SECS)
            try:
                await self._keep()
                if self._clock() > forgets_at:
                    forgets_at = self._clock() + FORGET_SECS
                    await self._leasing.leases.forget()
            except DatabaseUnavailable as error:
                log.warning("leases_not_forgotten", error=str(error))
            except Exception:
                # Without signs of life, every lease of the process would lapse.
                log.exception("leases_not_kept")

    async def _keep(self) -> None:
        turns = asyncio.Semaphore(RENEWALS_AT_ONCE)
        await asyncio.gather(*(_kept(lease, turns) for lease in self._leases.values()))
        self._leases = {
            place: lease for place, lease in self._leases.items() if not lease.is_forgettable
        }
        self._forget(self._clock() - FORGOTTEN_SECS)

    def _forget(self, began_before: float) -> None:
        old = [id_ for id_, one in self._unsettled.items() if one.began_at < began_before]
        for event_id in old:
            one = self._unsettled.pop(event_id)
            one.lease.slices.settle(one.hold, Decimal(0), 0)


async def _kept(lease: KeyLease, turns: asyncio.Semaphore) -> None:
    async with turns:
        await lease.keep()


def _unpriced(request: AdmissionRequest) -> UnpricedModel:
    return UnpricedModel(
        f"No price is known for {request.model}, and this key has a budget, which cannot hold what"
        " has no price. Use a model that has one.",
        hint=price_hint(request.product.name),
    )
