"""Telephone calls as a carrier has them, and what Flow keeps of each.

A thread has one leg with its caller, and one more for each attempt to transfer it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5


class State(StrEnum):
    """How far Flow is with a leg.

    ``queued``: to be dialled. ``dialling``: the carrier was asked to, and has not answered; it is
    looked for there before it is dialled again. ``live``: the carrier has it. ``over``: it has
    ended, and has no price yet. ``done``: its price is in the ledger, or it has none.
    """

    QUEUED = "queued"
    DIALLING = "dialling"
    LIVE = "live"
    OVER = "over"
    DONE = "done"


class Leg(StrEnum):
    """Whom a leg connects to the call: the caller or callee of the bot, or a transfer's target."""

    CALLER = "caller"
    TRANSFER = "transfer"


class Direction(StrEnum):
    """Who placed the call."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class CarrierStatus(StrEnum):
    """What a carrier says of a call, in Twilio's words.

    https://www.twilio.com/docs/voice/api/call-resource#call-status-values
    """

    QUEUED = "queued"
    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, or will never be."""
        return self in _OVER


_OVER = frozenset(
    {
        CarrierStatus.COMPLETED,
        CarrierStatus.BUSY,
        CarrierStatus.NO_ANSWER,
        CarrierStatus.FAILED,
        CarrierStatus.CANCELED,
    }
)


class Voicemail(StrEnum):
    """What is to become of a call that a machine answers. ``talk``: nobody asks whether one did."""

    HANG_UP = "hang_up"
    LEAVE_MESSAGE = "leave_message"
    TALK = "talk"


FAX = "fax"
"""What the carrier says of a fax that answered."""


@dataclass(frozen=True, slots=True)
class Price:
    """What the carrier charges for a call: ``amount`` of ``currency`` (ISO 4217), not negative."""

    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class CarrierCall:
    """A call as the carrier has it. ``price`` is ``None`` until the carrier has rated it."""

    call_id: str
    status: CarrierStatus
    from_number: str
    to_number: str
    created_at: datetime | None = None
    ended_at: datetime | None = None
    duration_secs: int | None = None
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class DialOrder:
    """What a carrier is to be told when it is to dial.

    Args:
        document_url: asked by the carrier what to do once somebody answers.
        status_url: told by the carrier how the call gets on.
        machine_url: told whether a person or a machine answered.
        document: what to do, in place of ``document_url``.
        ring_secs: how long it may ring.
        longest_secs: after so long the carrier ends the call, if nobody else has.
    """

    ring_secs: int
    longest_secs: int
    document_url: str | None = None
    status_url: str | None = None
    machine_url: str | None = None
    voicemail: Voicemail = Voicemail.TALK
    document: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "ring_secs": self.ring_secs,
            "longest_secs": self.longest_secs,
            "document_url": self.document_url,
            "status_url": self.status_url,
            "machine_url": self.machine_url,
            "voicemail": self.voicemail.value,
            "document": self.document,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> DialOrder:
        """What `to_json` gave."""
        return cls(**{**kept, "voicemail": Voicemail(kept["voicemail"])})


@dataclass(frozen=True, slots=True)
class PhoneCall:
    """A leg of a thread's call, as the database keeps it.

    Args:
        id: of the leg, and of the ledger's row with its price.
        order: how it is to be dialled; ``None`` of a call that came in.
        call_id: the carrier's; ``None`` until it is known.
        dials: how often the carrier was asked to dial.
        tries: what was tried in this state without result: looks for it, or for its price.
        status: the carrier's last word.
        answered_by: ``human``, or what Twilio says of the machine that answered.
        transferred_at: when the caller was passed on, and the bot had done its part.
    """

    id: UUID
    thread_id: UUID
    carrier: str
    leg: Leg
    direction: Direction
    from_number: str
    to_number: str
    state: State
    order: DialOrder | None
    call_id: str | None
    dial_until: datetime | None
    dialled_at: datetime | None
    dials: int
    tries: int
    status: CarrierStatus | None
    answered_by: str | None
    transferred_at: datetime | None
    price: Price | None
    created_at: datetime

    @property
    def is_at_a_machine(self) -> bool:
        """Whether a machine answered: voicemail, or a fax."""
        return is_machine(self.answered_by)


def is_machine(answered_by: str | None) -> bool:
    """Whether the carrier took what answered for a machine; what it does not know is a person.

    https://www.twilio.com/docs/voice/answering-machine-detection#async-amd
    """
    said = answered_by or ""
    return said.startswith("machine_") or said == FAX


def caller_leg(thread_id: UUID) -> UUID:
    """The id of the leg that a thread has with its caller: always the same, so that a repeated
    join orders no second call."""
    return uuid5(thread_id, Leg.CALLER)
