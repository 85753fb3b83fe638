"""The unit of account: one `UsageEvent` per piece of vendor work.

An event is made once, immutable, with its id fixed before anything is sent anywhere. Whatever
happens after (a retried flush, a replayed spool, a second process), the ledger keeps one row
per id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from enum import StrEnum
from operator import attrgetter
from typing import Any, Self
from uuid import UUID, uuid4

from flow.errors import ContradictoryUsage

EXACT_DIGITS = 100
_NEVER_LEFT = ("Connect", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError")


class Kind(StrEnum):
    """What was consumed."""

    LLM = "llm"
    TTS = "tts"
    STT = "stt"
    CALL = "call"


class Provenance(StrEnum):
    """How the quantities are known: the vendor said so, Flow counted, or Flow inferred."""

    REPORTED = "reported"
    MEASURED = "measured"
    ESTIMATED = "estimated"


class Outcome(StrEnum):
    """How the piece of work ended."""

    OK = "ok"
    INTERRUPTED = "interrupted"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Quantities:
    """Disjoint amounts of one piece of work.

    Tokens: ``input_tokens`` (uncached), ``cache_read_tokens``, ``cache_write_tokens`` and
    ``output_tokens`` share no token, so they add up to the total. ``reasoning_tokens`` and the
    audio tokens are *of which* parts: ``reasoning_tokens`` and ``output_audio_tokens`` of
    ``output_tokens``, ``input_audio_tokens`` of ``input_tokens``, ``cache_read_audio_tokens``
    of ``cache_read_tokens``.

    Speech: ``characters`` sent to a voice, ``audio_seconds`` of sound made, heard or of call.

    Raises:
        ContradictoryUsage: a number is negative, or a part is larger than its whole.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    cache_read_audio_tokens: int = 0
    characters: int = 0
    audio_seconds: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        # Spelled out, since the audio path makes one with every event; the message takes its time.
        if (
            0 <= self.reasoning_tokens <= self.output_tokens
            and 0 <= self.output_audio_tokens <= self.output_tokens
            and 0 <= self.input_audio_tokens <= self.input_tokens
            and 0 <= self.cache_read_audio_tokens <= self.cache_read_tokens
            and self.cache_write_tokens >= 0
            and self.characters >= 0
            and self.audio_seconds >= 0
        ):
            return
        self._refuse()

    def _refuse(self) -> None:
        for f in fields(self):
            if getattr(self, f.name) < 0:
                raise ContradictoryUsage(f"{f.name} is negative: {getattr(self, f.name)}")
        for part, whole in _PARTS:
            if getattr(self, part) > getattr(self, whole):
                raise ContradictoryUsage(
                    f"{part} ({getattr(self, part)}) is larger than {whole}"
                    f" ({getattr(self, whole)}) which contains it"
                )

    @property
    def total_tokens(self) -> int:
        """Every token once."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
            + self.output_tokens
        )


_PARTS = (
    ("reasoning_tokens", "output_tokens"),
    ("output_audio_tokens", "output_tokens"),
    ("input_audio_tokens", "input_tokens"),
    ("cache_read_audio_tokens", "cache_read_tokens"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one event cost in USD, part by part. The parts are disjoint; `total` is their sum.

    ``audio_input`` and ``audio_output`` are the audio tokens' share of an LLM generation and
    are not inside ``input`` and ``output``. ``cache_read`` and ``cache_write`` are not inside
    ``input``.
    """

    input: Decimal = Decimal(0)
    cache_read: Decimal = Decimal(0)
    cache_write: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    audio_input: Decimal = Decimal(0)
    audio_output: Decimal = Decimal(0)
    tts: Decimal = Decimal(0)
    stt: Decimal = Decimal(0)
    call: Decimal = Decimal(0)

    @property
    def total(self) -> Decimal:
        """The exact sum of the parts."""
        # The default context rounds to 28 digits, which the database does not.
        with localcontext() as exact:
            exact.prec = EXACT_DIGITS
            return sum((getattr(self, part) for part in COST_PARTS), Decimal(0))


COST_PARTS = tuple(f.name for f in fields(Cost))
AMOUNTS = tuple(f.name for f in fields(Quantities))
_amounts = attrgetter(*AMOUNTS)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a piece of work failed, as far as it is known. ``message`` holds no prompt text."""

    type: str
    message: str
    http_status: int | None = None

    @property
    def consumed_nothing(self) -> bool:
        """Whether no vendor bills this: it refused by status, or the request never left.

        In any other case (no answer in time, a connection that closed) the vendor may have
        done the work, and then bills it.
        """
        if self.http_status is not None:
            return self.http_status >= 400
        return self.type.startswith(_NEVER_LEFT)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a call's usage belongs to; set by the server, never by a caller."""

    workflow_thread_id: UUID
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
class UsageEvent:
    """One piece of vendor work, ready for the ledger.

    ``model`` is the one that served and ``requested_model`` the one the call asked for;
    ``sent_model`` is the one the vendor was asked for, where save mode put another. ``cost`` is
    ``None`` when no price is known: the event is *unpriced*, which is not the same as free.
    ``latency_secs`` and ``time_to_first_token_secs`` are in seconds. ``capture`` is false when
    somebody else (PostHog's wrapper or gateway) already sends this generation to PostHog.
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
    id: UUID = field(default_factory=uuid4)

    def priced(self, cost: Cost | None, price_version: str | None) -> Self:
        """The same event with its cost; `None` leaves it unpriced."""
        return replace(self, cost=cost, price_version=price_version)

    def to_json(self) -> dict[str, Any]:
        """The event as `record_usage` takes it: money and seconds as strings, one flat object."""
        q, c = self.quantities, self.cost
        return {
            "id": str(self.id),
            "workflow_thread_id": str(self.owner.workflow_thread_id),
            "api_key_id": str(self.owner.api_key_id),
            "team_id": self.owner.team_id,
            "product": self.owner.product,
            "billable": self.owner.billable,
            "kind": str(self.kind),
            "source": self.source,
            "provider": self.provider,
            "model": self.model,
            "requested_model": self.requested_model,
            "sent_model": self.sent_model,
            "service_tier": self.service_tier,
            **dict(zip(AMOUNTS, _amounts(q), strict=True)),
            "audio_seconds": str(q.audio_seconds),
            "provenance": str(self.provenance),
            "outcome": str(self.outcome),
            "cost": None
            if c is None
            else {part: format(getattr(c, part), "f") for part in COST_PARTS},
            "price_version": self.price_version,
            "occurred_at": self.occurred_at.isoformat(),
            "latency_secs": self.latency_secs,
            "time_to_first_token_secs": self.time_to_first_token_secs,
            "stream": self.stream,
            "failure": None
            if self.failure is None
            else {
                "type": self.failure.type,
                "message": self.failure.message,
                "http_status": self.failure.http_status,
            },
            "note": self.note,
            "capture": self.capture,
            "save_mode": self.control.save_mode,
            "save_mode_reason": self.control.save_mode_reason,
            "budget_tier": self.control.budget_tier,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The event that `to_json` wrote.

        Raises:
            KeyError, ValueError, TypeError: the object is not one `to_json` wrote.
        """
        amounts: dict[str, Any] = {
            name: Decimal(data[name]) if name == "audio_seconds" else int(data[name])
            for name in AMOUNTS
        }
        cost = data["cost"]
        return cls(
            id=UUID(data["id"]),
            owner=Owner(
                workflow_thread_id=UUID(data["workflow_thread_id"]),
                api_key_id=UUID(data["api_key_id"]),
                team_id=data["team_id"],
                product=data["product"],
                billable=data["billable"],
            ),
            kind=Kind(data["kind"]),
            source=data["source"],
            provider=data["provider"],
            model=data["model"],
            requested_model=data["requested_model"],
            sent_model=data.get("sent_model"),
            service_tier=data["service_tier"],
            quantities=Quantities(**amounts),
            provenance=Provenance(data["provenance"]),
            outcome=Outcome(data["outcome"]),
            cost=None if cost is None else Cost(**{k: Decimal(v) for k, v in cost.items()}),
            price_version=data["price_version"],
            occurred_at=datetime.fromisoformat(data["occurred_at"]),
            latency_secs=data["latency_secs"],
            time_to_first_token_secs=data["time_to_first_token_secs"],
            stream=data["stream"],
            failure=None if data["failure"] is None else Failure(**data["failure"]),
            note=data["note"],
            capture=data["capture"],
            control=CostControl(
                # A spool may have been written before there was a save mode.
                save_mode=data.get("save_mode", False),
                save_mode_reason=data.get("save_mode_reason"),
                budget_tier=data.get("budget_tier"),
            ),
        )
