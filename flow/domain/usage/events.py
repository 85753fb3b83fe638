"""The unit of account: one `UsageEvent` per piece of vendor work.

An event is made once, immutable, with its id fixed before anything is sent anywhere. Whatever
happens after (a retried flush, a replayed spool, a second process), the ledger keeps one row
per id.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from enum import StrEnum
from operator import attrgetter
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
    "Outcome",
    "Owner",
    "Provenance",
    "Quantities",
    "RequestIds",
    "UsageEvent",
]

EXACT_DIGITS = 100
_place = {name: place for place, name in enumerate(UNITS)}.__getitem__
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
        if len(self._amounts) > 1:
            self._amounts = {n: self._amounts[n] for n in sorted(self._amounts, key=_place)}
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
        return iter(self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __repr__(self) -> str:
        return f"Quantities({', '.join(f'{name}={self[name]}' for name in self)})"

    def items(self) -> ItemsView[str, Amount]:
        """The units in the order of the registry, with their amounts."""
        return self._amounts.items()

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


NO_CONTROL = CostControl()
NO_IDS = RequestIds()


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
    control: CostControl = NO_CONTROL
    ids: RequestIds = NO_IDS
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)
    id: UUID = field(default_factory=uuid4)

    def priced(self, cost: Cost | None, price_version: str | None) -> Self:
        """The same event with its cost; `None` leaves it unpriced."""
        return self.replaced(cost=cost, price_version=price_version)

    def replaced(self, **known: Any) -> Self:
        """The same event with these fields: `dataclasses.replace` in half of its time."""
        return type(self)(**{**dict(zip(_FIELDS, _fields(self), strict=True)), **known})

    def to_json(self) -> dict[str, Any]:
        """The event as one object, without what is not known; money, fractions and times are
        strings.

        It is made twice for each event, and hundreds go in one call of the database.
        """
        owner, control, ids, cost = self.owner, self.control, self.ids, self.cost
        data: dict[str, Any] = {
            "id": str(self.id),
            "api_key_id": str(owner.api_key_id),
            "team_id": owner.team_id,
            "product": owner.product,
            "billable": owner.billable,
            "kind": str(self.kind),
            "source": self.source,
            "provider": self.provider,
            "model": self.model,
            "lines": [self._line(unit, amount) for unit, amount in self.quantities.items()],
            "provenance": str(self.provenance),
            "outcome": str(self.outcome),
            "occurred_at": self.occurred_at.isoformat(),
            "stream": self.stream,
            "capture": self.capture,
        }
        if owner.workflow_thread_id is not None:
            data["workflow_thread_id"] = str(owner.workflow_thread_id)
        seldom = zip(_SELDOM, _seldom(self), strict=True)
        data |= {name: value for name, value in seldom if value is not None}
        if ids is not NO_IDS:
            data |= {name: value for name in _IDS if (value := getattr(ids, name)) is not None}
        if control is not NO_CONTROL:
            known = ((name, getattr(control, name)) for name in _CONTROL)
            data |= {name: value for name, value in known if value not in (None, False)}
        if cost is not None:
            data["total_cost_usd"] = format(cost.total, "f")
        if self.failure is not None:
            data["failure"] = asdict(self.failure)
        if self.properties:
            data["properties"] = dict(self.properties)
        return data

    def _line(self, unit: str, amount: Amount) -> dict[str, Any]:
        """One unit as the ledger keeps it. ``cost_usd`` is left out where nothing is charged by
        it, or the event is unpriced."""
        line = {
            "unit": unit,
            "quantity": format(amount, "f") if isinstance(amount, Decimal) else amount,
            "component": component_of(self.kind, unit),
        }
        if self.cost is not None and unit in self.cost:
            line["cost_usd"] = format(self.cost[unit], "f")
        if (whole := UNITS[unit].part_of) is not None:
            line["part_of"] = whole
        return line

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The event that `to_json` wrote.

        Raises:
            KeyError, ValueError, TypeError: the object is not one `to_json` wrote.
        """
        thread_id, lines = data.get("workflow_thread_id"), data["lines"]
        cost = None
        if data.get("total_cost_usd") is not None:
            cost = Cost(
                {
                    line["unit"]: Decimal(line["cost_usd"])
                    for line in lines
                    if line.get("cost_usd") is not None
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
            requested_model=data.get("requested_model"),
            sent_model=data.get("sent_model"),
            service_tier=data.get("service_tier"),
            quantities=Quantities({line["unit"]: _amount(line) for line in lines}),
            provenance=Provenance(data["provenance"]),
            outcome=Outcome(data["outcome"]),
            cost=cost,
            price_version=data.get("price_version"),
            occurred_at=datetime.fromisoformat(data["occurred_at"]),
            latency_secs=data.get("latency_secs"),
            time_to_first_token_secs=data.get("time_to_first_token_secs"),
            stream=data["stream"],
            failure=Failure(**failure) if (failure := data.get("failure")) else None,
            note=data.get("note"),
            capture=data["capture"],
            control=CostControl(
                save_mode=data.get("save_mode", False),
                save_mode_reason=data.get("save_mode_reason"),
                budget_tier=data.get("budget_tier"),
            ),
        )


_FIELDS = tuple(field.name for field in fields(UsageEvent))
_fields = attrgetter(*_FIELDS)
_IDS = tuple(field.name for field in fields(RequestIds))
_CONTROL = tuple(field.name for field in fields(CostControl))
_SELDOM = (
    "requested_model",
    "sent_model",
    "service_tier",
    "price_version",
    "latency_secs",
    "time_to_first_token_secs",
    "note",
)
_seldom = attrgetter(*_SELDOM)


def _amount(line: Mapping[str, Any]) -> Amount:
    measure = UNITS[line["unit"]].measure
    return (Decimal if measure is Measure.SECONDS else int)(line["quantity"])
