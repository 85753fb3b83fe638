"""The lease of one key and product: what this process holds, and how it asks for more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol, Self
from uuid import UUID

import structlog

from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Tier
from flow.domain.limits.lease import (
    Amounts,
    LeaseAnswer,
    LeaseQuestion,
    Rate,
    Rates,
    Resource,
)
from flow.domain.limits.quota import REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, LimitState, Terms
from flow.domain.products.product import Product
from flow.errors import DatabaseUnavailable, FlowError, Refused
from flow.gateway.cost_estimates import Hold
from flow.gateway.leased_slices import LeasedSlices

log = structlog.get_logger(__name__)

FRESH_SECS = 1.0
"""For how long an answer of the database is relied on while the database can be asked."""
RENEW_SECS = 0.5
"""How old an answer is when the next request has a new one asked for, beside."""
LOW_SECS = 0.05
"""The same where little is left of a slice, or of the limit itself."""
COALESCE_SECS = 0.01
HEARTBEAT_SECS = 15.0
"""How often the lease of requests that take long is renewed."""
FORGOTTEN_SECS = 300.0
"""How long after the last request a lease of nothing is kept in memory."""
AWAY_SECS = 0.25
"""How soon after the database could not be asked it is tried again."""
PATIENCE_SECS = 0.5
"""How long a request waits for news of what is known already, if not by heart."""
COUNTED_SECS = 60.0
"""For how long what was done counts against the limits a minute."""
VALID_SECS = 50.0
"""For how long a lease is relied on while the database is away; it counts for 60 s."""


class Leases(Protocol):
    """Where leases are renewed: `flow.db.gateway_leases.GatewayLeases`."""

    async def renew(
        self,
        process_id: UUID,
        api_key_id: UUID,
        product: str,
        *,
        billable: bool,
        question: LeaseQuestion,
        terms: Terms,
    ) -> LeaseAnswer:
        """Renew the lease; raises `Unavailable`, `NotFound` or `Refused`."""
        ...

    async def forget(self) -> None:
        """Remove leases and counts that are over; raises `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Leasing:
    """How this process leases: as whom, from where, and by which clock."""

    process_id: UUID
    leases: Leases
    terms: Callable[[Product], Terms]
    clock: Callable[[], float] = time.monotonic


class KeyLease:
    """What this process holds for requests with one key for one product.

    It is renewed by one task at a time; whatever is let in or settled meanwhile stays as it is.
    """

    def __init__(self, leasing: Leasing, key: ApiKey, product: Product) -> None:
        self.slices = LeasedSlices()
        self.answer = LeaseAnswer(dict.fromkeys(Resource))
        self.queue = asyncio.Lock()
        """Whoever waits for room does so in the order of coming."""
        self._leasing = leasing
        self._key = key
        self._product = product
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._asked_at = float("-inf")
        self._failed_at = float("-inf")
        self._refreshing: asyncio.Task[LeaseAnswer] | None = None
        self._sought_at = leasing.clock()
        self._done_at = float("-inf")
        self._kept: Amounts = {}
        self._beside: asyncio.Task[None] | None = None
        self._is_tight = False

    @property
    def age_secs(self) -> float:
        """How long ago the database was asked for what is known."""
        return self._leasing.clock() - self._asked_at

    @property
    def tier(self) -> Tier | None:
        """That of the budget which rules."""
        return None if self.answer.budget is None else self.answer.budget.tier

    @property
    def is_forgettable(self) -> bool:
        """Whether the database holds nothing for this process, and nobody asks."""
        is_over = self.slices.is_empty and not self.slices.is_to_be_told
        is_idle = self._leasing.clock() - self._sought_at > FORGOTTEN_SECS
        return is_over and is_idle and not (self.queue.locked() or self._turn.locked())

    def sought(self) -> Self:
        """Note that somebody is about to ask it: a second one of the same key and product, made
        while this is in use, would share its row of the database."""
        self._sought_at = self._leasing.clock()
        return self

    def refusal(self) -> Refused | None:
        """Why the last one who asked was refused, while that is sure to be so still."""
        refused = self.answer.refused
        if refused is None or self.age_secs > RENEW_SECS or not is_used_up(refused):
            return None
        return again(refused)

    async def renew(
        self, needed: Hold | None = None, *, is_leaving: bool = False, unless_fresh: bool = False
    ) -> LeaseAnswer:
        """Ask the database; raises as `Leases.renew` does.

        Args:
            needed: for a request that waits.
            is_leaving: give back all that is free.
            unless_fresh: not if somebody else just has.
        """
        async with self._turn:
            if unless_fresh and self.age_secs < FRESH_SECS:
                return self.answer
            asked_at = self._leasing.clock()
            if self.age_secs > VALID_SECS:
                self.slices.lose()
            self._require_database()
            if asked_at - self._done_at > COUNTED_SECS:
                # Without limits a minute nobody was told of the last of it.
                self.slices.forget_done()
            question = self.slices.question(needed, is_leaving=is_leaving)
            answer = await self._asked(question)
            self.slices.granted(question, answer)
            self.answer, self._asked_at, self._kept = answer, asked_at, question.kept
            self._is_tight = answer.refused is not None or _is_short(question, answer)
        return answer

    def _require_database(self) -> None:
        """Those who have waited while it was asked in vain need not find out one by one."""
        if self._leasing.clock() - self._failed_at < AWAY_SECS:
            raise DatabaseUnavailable

    async def _asked(self, question: LeaseQuestion) -> LeaseAnswer:
        try:
            return await self._leasing.leases.renew(
                self._leasing.process_id,
                self._key.id,
                self._product.name,
                billable=self._product.billable,
                question=question,
                terms=self._leasing.terms(self._product),
            )
        except DatabaseUnavailable:
            self._failed_at = self._leasing.clock()
            raise

    async def refresh(self) -> None:
        """Have something to rely on: what is known already, where the database takes its time.

        Raises:
            DatabaseUnavailable: it cannot be asked, and what is known is too old.
        """
        if self.age_secs < FRESH_SECS:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self.renew(unless_fresh=True))
            self._refreshing.add_done_callback(_seen)
        asking = self._refreshing
        is_known = self.age_secs <= VALID_SECS
        await asyncio.wait([asking], timeout=PATIENCE_SECS if is_known else None)
        if not asking.done():
            return
        try:
            asking.result()
        except DatabaseUnavailable:
            if self.age_secs > VALID_SECS:
                raise

    def used(self) -> None:
        """A request was let in: ask for more beside, if it is time to."""
        self._done_at = self._leasing.clock()
        is_short = self._is_tight or self.slices.is_low
        if self.age_secs > (LOW_SECS if is_short else RENEW_SECS):
            self._renew_beside()

    def settled(self) -> None:
        """Something is over: whoever waits has room now, here or in another process."""
        self._done_at = self._leasing.clock()
        self._changed.set()
        if self._is_tight and not self.queue.locked():
            self._renew_beside()

    async def change(self, within_secs: float) -> None:
        """Return when something has been settled, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_secs):
                await self._changed.wait()
        self._changed.clear()

    async def keep(self) -> None:
        """Give back what is not needed, and show a sign of life; called every now and then."""
        if self.slices.is_to_be_told:
            is_due = self.age_secs > RENEW_SECS
        else:
            is_due = self.age_secs > HEARTBEAT_SECS and not self.slices.is_empty
        if is_due:
            await self._quietly_renewed()

    def rates(self) -> Rates | None:
        """How far the limits a minute have got."""
        if not self.answer.rates:
            return None
        requests = self._rate(REQUESTS_PER_MINUTE, Resource.REQUESTS)
        tokens = self._rate(TOKENS_PER_MINUTE, Resource.TOKENS)
        return Rates(requests, tokens) if requests or tokens else None

    async def aclose(self) -> None:
        """Give back what is free. What is held for requests lapses by itself."""
        if asking := [one for one in (self._beside, self._refreshing) if one is not None]:
            await asyncio.wait(asking)
        if self.slices.is_limited and not (self.slices.is_empty and not self.slices.is_to_be_told):
            await self._quietly_renewed(is_leaving=True)

    def _renew_beside(self) -> None:
        if self._beside is None or self._beside.done():
            self._beside = asyncio.create_task(self._soon_renewed(), name="gateway-lease")

    async def _soon_renewed(self) -> None:
        await asyncio.sleep(COALESCE_SECS)
        await self._quietly_renewed()

    async def _quietly_renewed(self, *, is_leaving: bool = False) -> None:
        try:
            await self.renew(is_leaving=is_leaving)
        except FlowError as error:
            # Whoever asks next is told.
            log.warning("lease_not_renewed", api_key_id=str(self._key.id), error=str(error))

    def _rate(self, resource: str, slice_: Resource) -> Rate | None:
        found = [limit for limit in self.answer.rates if limit.resource == resource]
        if not found:
            return None
        ruling = min(found, key=_room)
        left = _room(ruling) + self._kept.get(slice_, Decimal(0)) - self.slices.taken(slice_)
        return Rate(
            int(ruling.limit or 0), max(int(left), 0), ruling.resets_at or datetime.now(UTC)
        )


def again(refused: Refused) -> Refused:
    """The same refusal for somebody else."""
    code, said, secs = refused.code, str(refused), refused.retry_after_secs
    return Refused(code, said, secs, refused.limit, hint=refused.hint)


def _seen(asking: asyncio.Task[LeaseAnswer]) -> None:
    """Whoever has not waited for it is told the next time."""
    if not asking.cancelled():
        asking.exception()


def is_used_up(refused: Refused) -> bool:
    """Whether a limit was used up by what is settled, so that nothing which ends makes room."""
    limit = refused.limit or {}
    return Decimal(limit.get("used") or 0) >= Decimal(limit.get("limit") or 0)


def is_lasting(refused: Refused) -> bool:
    """Whether a refusal holds for longer than anybody should wait: its limit is used up, or so much
    of a limit a minute that a request does not fit before some of the minute is over."""
    is_late = refused.code == "rate_limited" and (refused.retry_after_secs or 0) > 1
    return is_late or is_used_up(refused)


def _room(limit: LimitState) -> Decimal:
    return (limit.limit or Decimal(0)) - limit.used - limit.reserved


def _is_short(question: LeaseQuestion, answer: LeaseAnswer) -> bool:
    return any(
        more is not None and more < question.wanted.get(resource, Decimal(0))
        for resource, more in answer.granted.items()
    )
