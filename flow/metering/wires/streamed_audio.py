"""Sound streamed to a speech-to-text service, counted in pieces.

A connection may last for an hour. What it has cost by then should be in the ledger long before, so
its sound is cut into pieces of work of `PIECE_SECS`, in order, each an event of its own. Vendors
tell the length of all of it once, at the end: what the pieces before it did not account for is the
last one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from flow.domain.usage.events import Failure, Quantities
from flow.metering.evidence import (
    NOTHING,
    Completed,
    Ended,
    Failed,
    Opening,
    Output,
    Reported,
    Sent,
    Unbilled,
)
from flow.metering.sound import MICROSECOND
from flow.metering.wires.socket import Begun, Closing, Over, Refused, Seen, Shown

PIECE_SECS = Decimal(30)
NOTED_SECS = Decimal(1)
"""How much sound goes by before it is put on record, should the process die."""
NOTABLE_DIFFERENCE = Decimal("0.02")
MOST_BEYOND_SECS = Decimal(3_600)
"""How much more than was sent a vendor may say that it has taken: what says more is a mistake."""


class StreamedAudio:
    """The sound of one connection.

    Args:
        model: the model that hears it; ``None`` where the wire does not say.
        least: how many seconds of a connection are billed at the least, sent or not.
    """

    def __init__(self, model: str | None = None, *, least: Decimal = Decimal(0)) -> None:
        self._model = model
        self._least = least
        self._total = Decimal(0)
        self._recorded = Decimal(0)
        """In pieces that are over."""
        self._piece = 0
        self._in_piece = Decimal(0)
        self._unnoted = Decimal(0)
        self._is_open = False
        self._has_failed = False
        self._told: Decimal | None = None
        self._sent_since = Decimal(0)
        """After the vendor has told."""

    def sent(self, seconds: Decimal) -> Iterator[Seen]:
        """So much sound goes to the vendor."""
        if not seconds:
            return
        if not self._is_open:
            yield from self._begin()
        self._total += seconds
        self._sent_since += seconds
        self._in_piece += seconds
        self._unnoted += seconds
        if self._unnoted >= NOTED_SECS:
            yield from self._note()
        if self._in_piece >= PIECE_SECS:
            yield from self._end()

    def heard(self) -> Iterator[Seen]:
        """The vendor has recognized something. Text is free of charge where sound is billed."""
        yield Shown(self._piece, Output())

    def failed(self, failure: Failure) -> Iterator[Seen]:
        """The vendor says what is wrong. Before any sound that costs no more than a connection."""
        if self._least and not self._total and not self._is_open:
            yield from self._begin()
        if self._is_open:
            yield Shown(self._piece, Failed(failure))
        elif not self._total and not self._has_failed:
            yield Refused(failure)
        self._has_failed = True

    def refused(self, failure: Failure) -> Iterator[Seen]:
        """The vendor will hear none of it, which costs nothing."""
        if not self._is_open:
            yield Refused(failure)
            return
        yield from self._note()
        yield Shown(self._piece, Unbilled(Quantities(audio_seconds=self._in_piece)))
        yield Over(self._piece, Ended.BROKEN, failure)
        self._next()

    def told(self, seconds: Decimal) -> None:
        """The vendor says how much sound it has taken on this connection, from its beginning.

        What is sent afterwards comes on top. An account that cannot be is passed over.
        """
        if seconds <= self._total + MOST_BEYOND_SECS:
            self._told, self._sent_since = seconds, Decimal(0)

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """The connection has ended. Hanging up interrupts nothing here: what was sent was heard.

        Where it broke off without a word the last piece is left to be closed as broken.
        """
        if self._told is not None:
            yield from self._reconcile(self._told + self._sent_since)
        elif self._total < self._least:
            yield from self.sent(self._least - self._total)
        if not self._is_open:
            return
        yield from self._note()
        if closing.is_clean or self._has_failed:
            yield from self._end()

    def _begin(self) -> Iterator[Seen]:
        self._is_open = True
        is_first = self._least and not self._piece
        least = Quantities(audio_seconds=self._least) if is_first else NOTHING
        yield Begun(self._piece, Opening(estimate=least, model=self._model, stream=True))

    def _note(self) -> Iterator[Seen]:
        if self._unnoted:
            yield Shown(self._piece, Sent(Quantities(audio_seconds=self._unnoted)))
        self._unnoted = Decimal(0)

    def _end(self) -> Iterator[Seen]:
        yield from self._note()
        yield Shown(self._piece, Completed())
        yield Over(self._piece, Ended.DONE)
        self._recorded += self._in_piece
        self._next()

    def _next(self) -> None:
        self._in_piece = Decimal(0)
        self._piece += 1
        self._is_open = self._has_failed = False

    def _reconcile(self, told: Decimal) -> Iterator[Seen]:
        """What the vendor says wins. Less than is on record already cannot be taken back."""
        billed = max(told, self._least)
        rest = max(billed - self._recorded, Decimal(0)).quantize(MICROSECOND)
        if not self._is_open and not rest:
            return
        if not self._is_open:
            yield from self._begin()
        note = None
        if abs(told - self._total) > self._total * NOTABLE_DIFFERENCE:
            note = f"the vendor heard {told} s of {self._total.normalize():f} s that were sent"
        yield Shown(self._piece, Reported(Quantities(audio_seconds=rest), note))
