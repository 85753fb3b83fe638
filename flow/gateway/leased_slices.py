"""What a process holds of the limits of one key and product, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from flow.domain.limits.lease import LeaseAnswer, LeaseQuestion, Resource
from flow.gateway.cost_estimates import USD_STEP, Hold

ZERO = Decimal(0)
ONE = Decimal(1)
AHEAD = 3
"""How many times of what it uses between two questions a process wants to have in hand."""
LEAST_AHEAD = 8
"""How many requests it wants to have in hand at least, while there are any."""


@dataclass(slots=True)
class Slice:
    """A slice of one limit.

    Args:
        step: the smallest amount that is leased.
        free: what requests may still be let in for; ``None``: there is no limit. Negative: they
            have cost more than was held for them.
        held: what is held for requests that are not settled.
        taken: what was taken since the process last asked for more.
        demand: what is taken between two questions of late, and at least some requests' worth.
        leased: what the database holds for the process since then.
    """

    step: Decimal
    free: Decimal | None = None
    held: Decimal = ZERO
    taken: Decimal = ZERO
    demand: Decimal = ZERO
    leased: Decimal = ZERO

    def has(self, amount: Decimal) -> bool:
        """Whether so much is free."""
        return self.free is None or self.free >= amount

    def take(self, amount: Decimal) -> None:
        """Hold it for a request, free or not."""
        self.held += amount
        self.taken += amount
        self.demand = max(self.demand, self.taken, amount * LEAST_AHEAD / AHEAD)
        if self.free is not None:
            self.free -= amount

    def settle(self, held: Decimal, used: Decimal) -> None:
        """What was held was used so far, which counts against the limit itself from now on."""
        self.held -= held
        if self.free is not None:
            self.free += held - used

    def give_back(self, most: Decimal) -> None:
        """Keep no more than this free. What was spent beyond is in the ledger: nobody owes it."""
        if self.free is not None:
            self.free = min(max(self.free, ZERO), most)

    @property
    def in_hand(self) -> Decimal:
        """What the process wants to have free: nothing, when nobody asks."""
        ahead = self.demand * AHEAD if self.taken else ZERO
        return ahead.quantize(self.step, ROUND_DOWN)

    @property
    def kept(self) -> Decimal:
        """What is held, and what is free."""
        return self.held + (self.free or ZERO)

    @property
    def wanted(self) -> Decimal:
        """How much more the process would like to have in hand."""
        return max(self.in_hand - (self.free or ZERO), ZERO)


class LeasedSlices:
    """A process's slices of all limits of a key and product.

    What was granted holds until it is given back; so what is let in, and what is settled, while the
    database is being asked, is none of its business.
    """

    def __init__(self) -> None:
        steps = {Resource.USD: USD_STEP}
        self._slices = {resource: Slice(steps.get(resource, ONE)) for resource in Resource}
        self._usd = self._slices[Resource.USD]
        self._requests = self._slices[Resource.REQUESTS]
        self._tokens = self._slices[Resource.TOKENS]
        self._concurrency = self._slices[Resource.CONCURRENCY]
        self._done_requests = 0
        self._done_tokens = 0
        self._is_used_up = False

    @property
    def is_limited(self) -> bool:
        """Whether anything limits what is spent, or how many tokens are used."""
        return self._usd.free is not None or self._tokens.free is not None

    @property
    def is_low(self) -> bool:
        """Whether less is free than is used until an answer has come, and then some."""
        return any(
            one.free is not None and one.taken and one.free < one.demand
            for one in self._slices.values()
        )

    @property
    def is_to_be_told(self) -> bool:
        """Whether the database has more held for this process than its requests need, or does not
        know of all that was done."""
        is_counted = self._requests.free is not None or self._tokens.free is not None
        is_behind = is_counted and bool(self._done_requests or self._done_tokens)
        return is_behind or any(one.leased > one.held for one in self._slices.values())

    @property
    def is_empty(self) -> bool:
        """Whether no request is under way or unsettled."""
        return not any(one.held for one in self._slices.values())

    @property
    def held_usd(self) -> Decimal:
        """What is held for requests that are not settled."""
        return self._usd.held

    @property
    def held_tokens(self) -> int:
        """The same in tokens."""
        return int(self._tokens.held)

    def fits(self, hold: Hold) -> bool:
        """Whether a request can be let in."""
        return (
            self._usd.has(hold.usd)
            and self._requests.has(ONE)
            and self._tokens.has(Decimal(hold.tokens))
            and self._concurrency.has(ONE)
        )

    def fitting(self, hold: Hold) -> Hold:
        """As much of what a request may need as there is: it was granted although it is less."""
        usd, tokens = self._usd.free, self._tokens.free
        return Hold(
            hold.usd if usd is None else max(min(hold.usd, usd), ZERO),
            hold.tokens if tokens is None else max(min(hold.tokens, int(tokens)), 0),
        )

    def take(self, hold: Hold) -> None:
        """Let a request in."""
        self._requests.take(ONE)
        self._requests.held -= 1
        self._done_requests += 1
        self._concurrency.take(ONE)
        self.take_more(hold)

    def take_more(self, hold: Hold) -> None:
        """The request is made once more: what it has cost before stays held."""
        self._usd.take(hold.usd)
        self._tokens.take(Decimal(hold.tokens))

    def settle(self, hold: Hold, usd: Decimal, tokens: int) -> None:
        """The ledger has what it has cost."""
        self._usd.settle(hold.usd, usd)
        self._tokens.settle(Decimal(hold.tokens), Decimal(tokens))
        self._done_tokens += tokens
        if self._is_used_up:
            self._usd.give_back(ZERO)

    def end(self) -> None:
        """A request is no longer under way."""
        self._concurrency.settle(ONE, ZERO)

    def taken(self, resource: Resource) -> Decimal:
        """What was taken of a limit since the last answer."""
        return self._slices[resource].taken

    def forget_done(self) -> None:
        """All that was done is older than the minute for which it would count."""
        self._done_requests = self._done_tokens = 0

    def lose(self) -> None:
        """The lease has lapsed: nothing is free any more, and what is under way is still that."""
        for one in self._slices.values():
            if one.free is not None:
                one.free = ZERO

    def question(self, needed: Hold | None, *, is_leaving: bool = False) -> LeaseQuestion:
        """What to ask the database.

        Args:
            needed: for a request that waits.
            is_leaving: give back all that is free.
        """
        for one in self._slices.values():
            # Where nothing else is held, a request may have whatever is left: all of it, then.
            is_alone = needed is not None and not one.held
            one.give_back(ZERO if is_leaving or is_alone else one.in_hand)
        return LeaseQuestion(
            kept={resource: one.kept for resource, one in self._slices.items()},
            needed={} if needed is None else self._missing(needed),
            wanted={
                resource: ZERO if is_leaving else one.wanted
                for resource, one in self._slices.items()
            },
            done_requests=self._done_requests,
            done_tokens=self._done_tokens,
            running=int(self._concurrency.held),
        )

    def granted(self, question: LeaseQuestion, answer: LeaseAnswer) -> None:
        """What the database has answered."""
        self._done_requests -= question.done_requests
        self._done_tokens -= question.done_tokens
        for resource, one in self._slices.items():
            more = answer.granted[resource]
            one.free = None if more is None else (one.free or ZERO) + more
            one.leased = ZERO if more is None else question.kept[resource] + more
            one.demand = (one.demand + one.taken) / 2 if one.taken else ZERO
            one.taken = ZERO
        self._is_used_up = answer.is_used_up
        if self._is_used_up:
            self._usd.give_back(ZERO)

    def _missing(self, hold: Hold) -> Mapping[Resource, Decimal]:
        needs = {
            Resource.USD: hold.usd,
            Resource.REQUESTS: ONE,
            Resource.TOKENS: Decimal(hold.tokens),
            Resource.CONCURRENCY: ONE,
        }
        return {
            resource: max(need - (self._slices[resource].free or ZERO), ZERO)
            for resource, need in needs.items()
        }
