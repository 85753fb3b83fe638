"""What a vendor's wire shows about one piece of work."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

from flow.domain.usage.events import Failure, Quantities
from flow.domain.usage.units import Kind

NOTHING = Quantities()


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known of a piece of work when it is asked for.

    Args:
        estimate: what it will consume, as well as can be told.
        sent: the part of the estimate that is counted, not guessed: what goes to the vendor.
        model: the model that is asked; ``None`` where the wire does not say.
        stream: whether the answer comes bit by bit.
        content: what a language model is told, in its protocol's own shape, for analytics where
            capturing content is on.
        kind: what the work is, where that is not what the service is for: some transcribe beside
            their own work, and are paid for it apart.
    """

    estimate: Quantities
    sent: Quantities = NOTHING
    model: str | None = None
    stream: bool = False
    content: Any = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """More has gone to the vendor, beyond what `Opening.sent` said."""

    quantities: Quantities


@dataclass(frozen=True, slots=True)
class Unbilled:
    """So much of what went to the vendor is not billed: it was never begun, or failed."""

    quantities: Quantities


@dataclass(frozen=True, slots=True)
class Uncertain:
    """Whether all that was counted is billed, nothing tells; ``note`` says why."""

    note: str


@dataclass(frozen=True, slots=True)
class Output:
    """The vendor made something: text, tool calls and reasoning as ``text``, or seconds of sound.

    ``audio_seconds`` is ``None`` for sound whose length cannot be told. ``estimate`` is what the
    vendor bills of it, where that is neither its text nor its seconds: tokens of sound.
    """

    text: str = ""
    audio_seconds: Decimal | None = field(default=Decimal(0))
    estimate: Quantities = NOTHING


@dataclass(frozen=True, slots=True)
class Served:
    """Which model serves, and at which service tier, as far as the vendor says."""

    model: str | None = None
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """The vendor's own account of all work so far; ``note`` says how it contradicts itself.

    One that is not final comes before the work is done: more may be consumed than it says.
    """

    quantities: Quantities
    note: str | None = None
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class Completed:
    """The vendor says that the work is done."""


@dataclass(frozen=True, slots=True)
class EndOfAnswer:
    """The vendor says that nothing more comes, whether the work is done or not."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The vendor says that the work failed, or says something that cannot be read."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that whoever reads the account should know."""

    note: str


Evidence = (
    Sent
    | Unbilled
    | Uncertain
    | Output
    | Served
    | Reported
    | Completed
    | EndOfAnswer
    | Failed
    | Noted
)


class Ended(Enum):
    """How a piece of work ended on the wire."""

    DONE = "the answer came to its end, and the vendor says it is whole"
    INCOMPLETE = "the answer came to its end before it was whole"
    BROKEN = "the wire failed, or the vendor said that the work did"
    ABANDONED = "nobody wanted the rest of it"
    REFUSED = "the vendor answered with an error, or the request never left"
