"""The unit of account: one `UsageEvent` per piece of vendor work.

An event is made once, immutable, with its id fixed before anything is sent anywhere. Whatever
happens after (a retried flush, a replayed spool, a second process), the ledger keeps one row
per id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Any, Self
from uuid import UUID, uuid4

from flow.domain.usage.units import UNITS, Kind, Measure, component_of
from flow.errors import ContradictoryUsage

__all__ = [
    "EXACT_DIGITS",
    "Amount",
    "Cost",
    "CostControl",
    "Failure",
    "Kind",
    "Line",
    "Outcome",
    "Owner",
    "Provenance",
    "Quantities",
    "RequestIds",
    "UsageEvent",
]

EXACT_DIGITS = 100
_NEVER_LEFT = ("Connect", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError")

Amount = int | Decimal
"""Tokens and characters are whole numbers; seconds are decimals."""


class Provenance(StrEnum):
    """How the quantities are known: the vendor said so, Flow counted, Flow inferred, or not at
    all. *Unmetered* work has no lines and no cost: it says that a service worked and that nothing
    told how much."""

    REPORTED = "reported"
    MEASURED = "measured"
    ESTIMATED = "estimated"
    UNMETERED = "unmetered"


class Outcome(StrEnum):
    """How the piece of work ended."""

    OK = "ok"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class Quantities(Mapping[str, Amount]):
    """How much of each unit one piece of work used, by the unit's name (`flow.domain.usage.units`).

    Only what is not zero is in it; any other unit of the registry is found to be 0. Disjoint
    units share nothing, so they add up; a part is never more than its whole.

    Raises:
        ContradictoryUsage: a number is negative, or a part is larger than its whole.
        KeyError: there is no such unit.
        TypeError: what has no fractions has one.
    """

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[str, Amount] | None = None, /, **named: Amount) -> None:
        given = {**amounts, **named} if amounts else named
        self._amounts = {name: amount for name, amount in given.items() if amount}
        for name, amount in self._amounts.items():
            unit = UNITS[name]
            if unit.measure is not Measure.SECONDS and not isinstance(amount, int):
                raise TypeError(f"{name} is a whole number, not {amount!r}")
            if not amount > 0:
                raise ContradictoryUsage(f"{name} is negative: {amount}")
            if unit.part_of is not None and amount > self._amounts.get(unit.part_of, 0):
                raise ContradictoryUsage(
                    f"{name} ({amount}) is larger than {unit.part_of}"
                    f" ({self._amounts.get(unit.part_of, 0)}) which contains it"
                )

    def __getitem__(self, unit: str) -> Amount:
        amount = self._amounts.get(unit)
        if amount is None:
            UNITS[unit]  # a unit that does not exist is a mistake, not a 0
            return 0
        return amount

    def __contains__(self, unit: object) -> bool:
        return unit in self._amounts

    def __iter__(self) -> Iterator[str]:
        return (name for name in UNITS if name in self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __repr__(self) -> str:
        return f"Quantities({', '.join(f'{name}={self[name]}' for name in self)})"

    def count(self, unit: str) -> int:
        """A unit that has no fractions."""
        return int(self[unit])

    def seconds(self, unit: str = "audio_seconds") -> Decimal:
        """A unit of time."""
        return Decimal(self[unit])

    def replaced(self, **named: Amount) -> Self:
        """The same with other amounts of these units."""
        return type(self)(self._amounts, **named)

    @property
    def total_tokens(self) -> int:
        """Every token once."""
        return sum(
            int(amount)
            for name, amount in self._amounts.items()
            if UNITS[name].measure is Measure.TOKENS and UNITS[name].part_of is None
        )


class Cost(Mapping[str, Decimal]):
    """What each unit of one event cost in USD, exactly. Costs are disjoint; `total` is their sum.

    A unit that has no cost here was not what the vendor bills by, or is a part whose cost is in
    that of its whole.
    """

    __slots__ = ("_by_unit",)

    def __init__(self, by_unit: Mapping[str, Decimal] | None = None, /, **named: Decimal) -> None:
        self._by_unit = {**by_unit, **named} if by_unit else named
        for unit in self._by_unit:
            UNITS[unit]

    def __getitem__(self, unit: str) -> Decimal:
        return self._by_unit[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_unit)

    def __len__(self) -> int:
        return len(self._by_unit)

    def __hash__(self) -> int:
        return hash(frozenset(self._by_unit.items()))

    def __repr__(self) -> str:
        return f"Cost({', '.join(f'{name}={usd}' for name, usd in self._by_unit.items())})"

    @property
    def total(self) -> Decimal:
        """The exact sum."""
        return exact_sum(self._by_unit.values())

    def by_component(self, kind: Kind) -> dict[str, Decimal]:
        """The costs summed by the component they belong to in work of this kind."""
        found: dict[str, list[Decimal]] = {}
        for unit, usd in self._by_unit.items():
            found.setdefault(component_of(kind, unit), []).append(usd)
        return {component: exact_sum(parts) for component, parts in found.items()}


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """The sum to the last digit."""
    # The default context rounds to 28 digits, which the database does not.
    with localcontext() as exact:
        exact.prec = EXACT_DIGITS
        return sum(amounts, Decimal(0))


@dataclass(frozen=True, slots=True)
class Line:
    """One unit of one event, as the ledger keeps it.

    ``cost_usd`` is ``None`` where nothing is charged by this unit, or the event is unpriced.
    """

    unit: str
    quantity: Amount
    cost_usd: Decimal | None
    component: str
    part_of: str | None

    def to_json(self) -> dict[str, str | None]:
        """The line with its numbers as strings, since JSON parsers make floats of numbers."""
        return {
            "unit": self.unit,
            "quantity": format(self.quantity, "f")
            if isinstance(self.quantity, Decimal)
            else str(self.quantity),
            "cost_usd": None if self.cost_usd is None else format(self.cost_usd, "f"),
            "component": self.component,
            "part_of": self.part_of,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a piece of work failed, as far as it is known. ``message`` holds no prompt text."""

    type: str
    message: str
    http_status: int | None = None

    @property
    def consumed_nothing(self) -> bool:
        """Whether no vendor bills this: it refused or sent elsewhere by status, or the request
        never left.

        In any other case (no answer in time, a connection that closed) the vendor may have
        done the work, and then bills it.
        """
        if self.http_status is not None:
            return self.http_status >= 300
        return self.type.startswith(_NEVER_LEFT)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom usage belongs to; set by the server, never by a caller.

    ``workflow_thread_id`` is the call, where there is one: a request to the gateway has none.
    """

    workflow_thread_id: UUID | None
    api_key_id: UUID
    team_id: str
    product: str
    billable: bool


@dataclass(frozen=True, slots=True)
class CostControl:
    """What was done about a piece of work's cost: whether save mode was on, why it was or was
    not, and the tier of the key's budget at that time (``ok`` without a budget, ``None`` where
    nobody looked)."""

    save_mode: bool = False
    save_mode_reason: str | None = None
    budget_tier: str | None = None


@dataclass(frozen=True, slots=True)
class RequestIds:
    """What a request without a thread is found again by.

    ``request_id`` is that of its answer. The others are what the caller named: ``trace_id`` and
    ``session_id`` group requests in analytics, ``distinct_id`` is whom they were made for.
    """

    request_id: str | None = None
    trace_id: str | None = None
    session_id: str | None = None
    distinct_id: str | None = None


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One piece of vendor work, ready for the ledger.

    ``model`` is the one that served and ``requested_model`` the one the call asked for;
    ``sent_model`` is the one the vendor was asked for, where save mode put another. ``cost`` is
    ``None`` when no price is known: the event is *unpriced*, which is not the same as free.
    ``latency_secs`` and ``time_to_first_token_secs`` are in seconds. ``capture`` is false when
    somebody else (PostHog's wrapper or gateway) already sends this generation to PostHog.
    ``ids`` are those of a request without a thread, and ``properties`` what its caller says of it
    for analytics, as JSON; they are no part of the account.
    """

    owner: Owner
    kind: Kind
    source: str
    provider: str
    model: str
    quantities: Quantities
    provenance: Provenance
    outcome: Outcome = Outcome.OK
    requested_model: str | None = None
    sent_model: str | None = None
    service_tier: str | None = None
    cost: Cost | None = None
    price_version: str | None = None
    occurred_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    latency_secs: float | None = None
    time_to_first_token_secs: float | None = None
    stream: bool = False
    failure: Failure | None = None
    note: str | None = None
    capture: bool = True
    control: CostControl = CostControl()
    ids: RequestIds = RequestIds()
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)
    id: UUID = field(default_factory=uuid4)

    def priced(self, cost: Cost | None, price_version: str | None) -> Self:
        """The same event with its cost; `None` leaves it unpriced."""
        return replace(self, cost=cost, price_version=price_version)

    @property
    def lines(self) -> tuple[Line, ...]:
        """What was used, a line for each unit, with what each cost."""
        cost: Mapping[str, Decimal] = self.cost if self.cost is not None else {}
        return tuple(
            Line(
                unit=unit,
                quantity=self.quantities[unit],
                cost_usd=cost.get(unit),
                component=component_of(self.kind, unit),
                part_of=UNITS[unit].part_of,
            )
            for unit in self.quantities
        )

    def to_json(self) -> dict[str, Any]:
        """The event as one object; quantities, money and times are strings."""
        owner, control, failure = self.owner, self.control, self.failure
        thread_id = owner.workflow_thread_id
        return {
            "id": str(self.id),
            "workflow_thread_id": None if thread_id is None else str(thread_id),
            "api_key_id": str(owner.api_key_id),
            "team_id": owner.team_id,
            "product": owner.product,
            "billable": owner.billable,
            "request_id": self.ids.request_id,
            "trace_id": self.ids.trace_id,
            "session_id": self.ids.session_id,
            "distinct_id": self.ids.distinct_id,
            "kind": self.kind.value,
            "source": self.source,
            "provider": self.provider,
            "model": self.model,
            "requested_model": self.requested_model,
            "sent_model": self.sent_model,
            "service_tier": self.service_tier,
            "lines": [line.to_json() for line in self.lines],
            "total_cost_usd": None if self.cost is None else format(self.cost.total, "f"),
            "provenance": self.provenance.value,
            "outcome": self.outcome.value,
            "price_version": self.price_version,
            "occurred_at": self.occurred_at.isoformat(),
            "latency_secs": self.latency_secs,
            "time_to_first_token_secs": self.time_to_first_token_secs,
            "stream": self.stream,
            "failure": None
            if failure is None
            else {
                "type": failure.type,
                "message": failure.message,
                "http_status": failure.http_status,
            },
            "note": self.note,
            "capture": self.capture,
            "save_mode": control.save_mode,
            "save_mode_reason": control.save_mode_reason,
            "budget_tier": control.budget_tier,
            "properties": dict(self.properties),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The event that `to_json` wrote.

        Raises:
            KeyError, ValueError, TypeError: the object is not one `to_json` wrote.
        """
        thread_id, lines = data["workflow_thread_id"], data["lines"]
        cost = None
        if data["total_cost_usd"] is not None:
            cost = Cost(
                {
                    line["unit"]: Decimal(line["cost_usd"])
                    for line in lines
                    if line["cost_usd"] is not None
                }
            )
        return cls(
            id=UUID(data["id"]),
            owner=Owner(
                workflow_thread_id=None if thread_id is None else UUID(thread_id),
                api_key_id=UUID(data["api_key_id"]),
                team_id=data["team_id"],
                product=data["product"],
                billable=data["billable"],
            ),
            ids=RequestIds(*(data.get(name) for name in _IDS)),
            properties=data.get("properties") or {},
            kind=Kind(data["kind"]),
            source=data["source"],
            provider=data["provider"],
            model=data["model"],
            requested_model=data["requested_model"],
            sent_model=data["sent_model"],
            service_tier=data["service_tier"],
            quantities=Quantities({line["unit"]: _amount(line) for line in lines}),
            provenance=Provenance(data["provenance"]),
            outcome=Outcome(data["outcome"]),
            cost=cost,
            price_version=data["price_version"],
            occurred_at=datetime.fromisoformat(data["occurred_at"]),
            latency_secs=data["latency_secs"],
            time_to_first_token_secs=data["time_to_first_token_secs"],
            stream=data["stream"],
            failure=None if data["failure"] is None else Failure(**data["failure"]),
            note=data["note"],
            capture=data["capture"],
            control=CostControl(
                save_mode=data["save_mode"],
                save_mode_reason=data["save_mode_reason"],
                budget_tier=data["budget_tier"],
            ),
        )


_IDS = tuple(field.name for field in fields(RequestIds))


def _amount(line: Mapping[str, Any]) -> Amount:
    measure = UNITS[line["unit"]].measure
    return (Decimal if measure is Measure.SECONDS else int)(line["quantity"])
