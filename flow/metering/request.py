"""One piece of vendor work, from the moment it is asked for to its one event in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

import structlog

from flow.domain.usage.events import (
    Amount,
    Failure,
    Outcome,
    Provenance,
    Quantities,
    UsageEvent,
)
from flow.domain.usage.token_estimates import count_tokens
from flow.domain.usage.units import UNITS, Measure
from flow.metering.evidence import (
    NOTHING,
    Completed,
    Ended,
    EndOfAnswer,
    Evidence,
    Failed,
    Noted,
    Opening,
    Output,
    Reported,
    Sent,
    Served,
    Unbilled,
    Uncertain,
)

log = structlog.get_logger(__name__)

LONGEST_NAME = 200
RENEWED_CHARACTERS = 32
"""How much more text puts a new estimate on record, should the process die."""
COUNTED_CHARACTERS = 8_192
"""How much text is counted at once, which takes half a millisecond."""
RENEWED_SECS = 0.05
"""How long after the last one, at least: what comes at once is put on record at once."""
RENEWED_TOKENS = 10
"""How many more tokens of sound do."""


class Recording(Protocol):
    """What metering needs of `flow.ledger.recorder.Recorder`."""

    def begin(self, event: UsageEvent) -> None:
        """Note that work has begun, or what it is estimated at by now."""

    def record(self, event: UsageEvent) -> None:
        """Take the finished account."""


class Known(Enum):
    """How much is known of what it consumed."""

    REPORTED = "the vendor reported all of it"
    PARTLY_REPORTED = "the vendor reported less than there was"
    COUNTED = "all that is billed was counted on the wire"
    GUESSED = "some of it can only be estimated"
    UNKNOWN = "nothing tells how much there was"
    NOTHING = "no vendor bills it"


RULES: dict[tuple[Known, Ended], tuple[Provenance, Outcome]] = {
    (Known.REPORTED, Ended.DONE): (Provenance.REPORTED, Outcome.OK),
    (Known.REPORTED, Ended.INCOMPLETE): (Provenance.REPORTED, Outcome.ERROR),
    (Known.REPORTED, Ended.BROKEN): (Provenance.REPORTED, Outcome.ERROR),
    (Known.REPORTED, Ended.ABANDONED): (Provenance.REPORTED, Outcome.INTERRUPTED),
    (Known.PARTLY_REPORTED, Ended.DONE): (Provenance.ESTIMATED, Outcome.OK),
    (Known.PARTLY_REPORTED, Ended.INCOMPLETE): (Provenance.ESTIMATED, Outcome.ERROR),
    (Known.PARTLY_REPORTED, Ended.BROKEN): (Provenance.ESTIMATED, Outcome.ERROR),
    (Known.PARTLY_REPORTED, Ended.ABANDONED): (Provenance.ESTIMATED, Outcome.INTERRUPTED),
    (Known.COUNTED, Ended.DONE): (Provenance.MEASURED, Outcome.OK),
    (Known.COUNTED, Ended.INCOMPLETE): (Provenance.ESTIMATED, Outcome.ERROR),
    (Known.COUNTED, Ended.BROKEN): (Provenance.ESTIMATED, Outcome.ERROR),
    (Known.COUNTED, Ended.ABANDONED): (Provenance.MEASURED, Outcome.INTERRUPTED),
    (Known.GUESSED, Ended.DONE): (Provenance.ESTIMATED, Outcome.OK),
    (Known.GUESSED, Ended.INCOMPLETE): (Provenance.ESTIMATED, Outcome.ERROR),
    (Known.GUESSED, Ended.BROKEN): (Provenance.ESTIMATED, Outcome.ERROR),
    (Known.GUESSED, Ended.ABANDONED): (Provenance.ESTIMATED, Outcome.INTERRUPTED),
    (Known.UNKNOWN, Ended.DONE): (Provenance.UNMETERED, Outcome.OK),
    (Known.UNKNOWN, Ended.INCOMPLETE): (Provenance.UNMETERED, Outcome.ERROR),
    (Known.UNKNOWN, Ended.BROKEN): (Provenance.UNMETERED, Outcome.ERROR),
    (Known.UNKNOWN, Ended.ABANDONED): (Provenance.UNMETERED, Outcome.INTERRUPTED),
    (Known.NOTHING, Ended.DONE): (Provenance.MEASURED, Outcome.OK),
    (Known.NOTHING, Ended.INCOMPLETE): (Provenance.MEASURED, Outcome.ERROR),
    (Known.NOTHING, Ended.BROKEN): (Provenance.MEASURED, Outcome.ERROR),
    (Known.NOTHING, Ended.ABANDONED): (Provenance.MEASURED, Outcome.INTERRUPTED),
    (Known.NOTHING, Ended.REFUSED): (Provenance.MEASURED, Outcome.ERROR),
}
"""What becomes of a piece of work, by what is known and how it ended. The other pairs cannot be:
what was refused is known to cost nothing."""


class MeteredRequest:
    """Gathers evidence about one piece of work and ends as one event, however it ends.

    What the vendor reported wins over what was counted or estimated, unless it reports less than
    there was. Once closed, nothing changes any more.

    Args:
        recorder: keeps the estimate from now on, and takes the event in the end.
        event: the event as far as it is known, with the opening's estimate for its quantities.
        opening: what the wire showed of the request.
        on_closed: told the finished event and the text of the answer.
    """

    def __init__(
        self,
        recorder: Recording,
        event: UsageEvent,
        opening: Opening,
        on_closed: Callable[[UsageEvent, Opening, str], None],
    ) -> None:
        self._recorder = recorder
        self._event = event
        self._opening = opening
        self._model = event.model
        self._tier = event.service_tier
        self._on_closed = on_closed
        self._started = time.monotonic()
        self._first_output: float | None = None
        self._sent = opening.sent
        self._made = NOTHING
        self._text: list[str] = []
        self._counted_parts = 0
        self._counted_tokens = 0
        self._uncounted = 0
        self._unrenewed = ""
        self._renewed_at = self._started
        self._unrenewed_tokens = 0
        self._audio_seconds: Decimal | None = Decimal(0)
        self._report: Reported | None = None
        self._failure: Failure | None = None
        self._doubt: str | None = None
        self._notes: list[str] = []
        self._is_reduced = False
        self._is_complete = False
        self._is_outdated = False
        self._is_over = False
        self._is_answered = False
        self._is_ending = False
        self.is_closed = False
        recorder.begin(self._event)

    @property
    def id(self) -> UUID:
        """The id of the event, before and after it is recorded."""
        return self._event.id

    @property
    def is_whole(self) -> bool:
        """Whether the vendor has said that the work is done, and all that it says of it."""
        is_told = self._report is not None and self._report.is_final
        return self._is_complete and (is_told or self._is_over)

    def answered(self) -> None:
        """The vendor has begun to answer, and not with an error."""
        self._is_answered = True

    def ending(self) -> None:
        """All that will come has come: the event takes the place of further estimates."""
        self._is_ending = True

    def take(self, evidence: Evidence) -> None:
        """Take in what the wire showed."""
        if self.is_closed:
            return
        match evidence:
            case Output():
                self._take_output(evidence)
            case Reported():
                # Some vendors send an empty or all-zero report after the real one.
                if evidence.quantities or self._report is None or not self._report.quantities:
                    self._report = evidence
                    self._is_outdated = False
            case Served():
                self._model = _name(evidence.model) or self._model
                self._tier = _name(evidence.service_tier) or self._tier
            case Sent():
                self._sent = _added(self._sent, evidence.quantities)
                self._renew(_most(self._event.quantities, self._sent))
            case Unbilled():
                self._sent = _without(self._sent, evidence.quantities)
                self._is_reduced = True
            case Uncertain():
                self._doubt = evidence.note
            case Completed():
                self._is_complete = True
            case EndOfAnswer():
                self._is_over = True
            case Failed():
                self._failure = self._failure or evidence.failure
            case Noted():
                self._notes.append(evidence.note)

    def closed(self, ended: Ended, failure: Failure | None = None) -> None:
        """The work is over; only the first call counts."""
        if self.is_closed:
            return
        self.is_closed = True
        failure = failure or self._failure
        if failure is not None and ended is not Ended.REFUSED:
            ended = Ended.BROKEN
        if ended is Ended.DONE and not self._is_complete:
            ended = Ended.INCOMPLETE
        if ended is Ended.INCOMPLETE:
            failure = Failure("IncompleteAnswer", "the answer ended before it was whole")
        quantities, known, note = self._consumed(ended, failure)
        provenance, outcome = RULES[known, ended]
        event = self._event.replaced(
            model=self._model,
            service_tier=self._tier,
            quantities=quantities,
            provenance=provenance,
            outcome=outcome,
            failure=failure,
            note="; ".join(filter(None, [note, *self._notes])) or None,
            latency_secs=round(time.monotonic() - self._started, 6),
            time_to_first_token_secs=self._first_output,
        )
        # Before anything else is done with it: what was consumed must not be lost to a mistake.
        self._recorder.record(event)
        self._on_closed(event, self._opening, "".join(self._text))

    def _take_output(self, output: Output) -> None:
        if self._first_output is None:
            self._first_output = round(time.monotonic() - self._started, 6)
        if output.audio_seconds is None or self._audio_seconds is None:
            self._audio_seconds = None
        elif output.audio_seconds:
            self._audio_seconds += output.audio_seconds
        if output.estimate is not NOTHING and output.estimate:
            self._made = _added(self._made, output.estimate)
            self._is_outdated = True
            self._unrenewed_tokens += output.estimate.total_tokens
            if self._unrenewed_tokens >= RENEWED_TOKENS:
                self._unrenewed_tokens = 0
                self._renew(_most(self._event.quantities, self._made))
        if not output.text:
            return
        self._text.append(output.text)
        if self._made is not NOTHING and self._made:
            # The text is what the sound says, and not billed beside it.
            return
        self._uncounted += len(output.text)
        if self._uncounted >= COUNTED_CHARACTERS:
            self._count_text()
        self._is_outdated = True
        self._unrenewed += output.text
        if len(self._unrenewed) >= RENEWED_CHARACTERS and self._is_renewal_due():
            so_far = self._event.quantities
            more = count_tokens(self._unrenewed, self._model)
            self._unrenewed = ""
            self._renew(so_far.replaced(output_tokens=so_far.count("output_tokens") + more))

    def _count_text(self) -> None:
        """Count the text that has not been: of a long one not all at once, in the end."""
        text = "".join(self._text[self._counted_parts :])
        self._counted_tokens += count_tokens(text, self._model)
        self._counted_parts, self._uncounted = len(self._text), 0

    def _is_renewal_due(self) -> bool:
        now = time.monotonic()
        if self._is_ending or now - self._renewed_at < RENEWED_SECS:
            return False
        self._renewed_at = now
        return True

    def _renew(self, estimate: Quantities) -> None:
        self._event = self._event.replaced(
            model=self._model, service_tier=self._tier, quantities=estimate
        )
        self._recorder.begin(self._event)

    def _consumed(
        self, ended: Ended, failure: Failure | None
    ) -> tuple[Quantities, Known, str | None]:
        """What it consumed, how well that is known, and what is to be noted about it."""
        is_refused = ended is Ended.REFUSED or (failure is not None and failure.consumed_nothing)
        is_unbilled = self._is_reduced and not self._sent
        if is_unbilled or (is_refused and not self._is_answered):
            return NOTHING, Known.NOTHING, None
        counted = self._counted()
        if self._report is not None:
            return self._reported(self._report, counted)
        if counted and self._is_answered and self._covers(counted, ended):
            return counted, Known.GUESSED if self._doubt else Known.COUNTED, self._doubt
        guess = self._guess()
        if not guess:
            return NOTHING, Known.UNKNOWN, "nothing told how much was used"
        note = "the vendor reported no usage" if self._text_is_billed else None
        return guess, Known.GUESSED, note

    @property
    def _text_is_billed(self) -> bool:
        return any(UNITS[unit].measure is Measure.TOKENS for unit in self._opening.estimate)

    def _counted(self) -> Quantities | None:
        """What was counted on the wire; ``None`` where its sound could not be."""
        if self._audio_seconds is None:
            return None
        if not self._audio_seconds:
            return self._sent
        return _added(self._sent, Quantities(audio_seconds=self._audio_seconds))

    def _covers(self, counted: Quantities, ended: Ended) -> bool:
        """Whether what was counted is all: of an answer that was cut off, the vendor may have made
        more than had arrived."""
        if self._text_is_billed:
            return False
        known = counted if ended is Ended.DONE else self._sent
        return all(unit in known for unit in self._opening.estimate)

    def _guess(self) -> Quantities:
        """The estimate, and as much more as was counted."""
        guess = _most(self._opening.estimate, self._counted() or self._sent)
        if self._made:
            return _added(guess, self._made)
        if self._text:
            self._count_text()
            guess = guess.replaced(output_tokens=self._counted_tokens)
        return guess

    def _missing(self, report: Reported) -> dict[str, Amount]:
        """What a report leaves out, as estimated. It is counted only where it may: that takes time
        for long texts."""
        reported = report.quantities
        if not self._text_is_billed or not (reported or not report.is_final):
            return {}
        has_input = any(UNITS[u].side == "input" for u in reported if u.endswith("_tokens"))
        is_last = report.is_final and not self._is_outdated
        is_whole = bool(self._is_complete and is_last and reported["output_tokens"])
        if has_input and is_whole:
            return {}
        guess = self._guess()
        missing: dict[str, Amount] = {}
        if not has_input and guess["input_tokens"]:
            missing["input_tokens"] = guess["input_tokens"]
        if guess["output_tokens"] > reported["output_tokens"] and not is_whole:
            missing["output_tokens"] = guess["output_tokens"]
        return missing

    def _reported(
        self, report: Reported, counted: Quantities | None
    ) -> tuple[Quantities, Known, str | None]:
        reported = report.quantities
        missing = self._missing(report)
        # A report is of one measure; what was counted in another stands beside it.
        measures = {UNITS[unit].measure for unit in reported}
        beside = {
            unit: amount
            for unit, amount in (counted or self._sent).items()
            if UNITS[unit].measure not in measures
        }
        quantities = Quantities({**beside, **reported, **missing})
        if not missing and report.is_final:
            return quantities, Known.REPORTED, report.note
        note = "the vendor reported only part of the usage"
        return quantities, Known.PARTLY_REPORTED, f"{note}; {report.note}" if report.note else note


def _name(told: str | None) -> str | None:
    """A name that a vendor gave, if it is fit to be one."""
    is_name = told and len(told) <= LONGEST_NAME and told.isprintable()
    return told if is_name else None


def _added(one: Quantities, other: Quantities) -> Quantities:
    if not other:
        return one
    sums: dict[str, Any] = {unit: one[unit] + other[unit] for unit in {*one, *other}}
    return Quantities(sums)


def _without(one: Quantities, less: Quantities) -> Quantities:
    rest: dict[str, Any] = {unit: max(amount - less[unit], 0) for unit, amount in one.items()}
    return Quantities(rest)


def _most(one: Quantities, other: Quantities) -> Quantities:
    return Quantities({unit: max(one[unit], other[unit]) for unit in {*one, *other}})
