"""How long a call was: its one usage event, renewed as it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from flow.domain.usage.events import CostControl, Kind, Owner, Provenance, Quantities, UsageEvent
from flow.metering.request import Recording
from flow.metering.sound import MICROSECOND

UNTIL_ACCEPTED = "counted to the last sign of life that was accepted"


class CallSeconds:
    """The seconds of one call, from the caller's connection to the end.

    A call that is not ours any more counts up to the last sign of life that the database accepted:
    what came later is in the account of whoever has the call by then, or nobody's. All times are
    seconds of one clock.

    Args:
        control: the cost control that is on record with the call.
    """

    def __init__(
        self, owner: Owner, recorder: Recording, control: Callable[[], CostControl]
    ) -> None:
        self._recorder = recorder
        self._control = control
        self._connected_at: float | None = None
        self._accepted_at = 0.0
        self._is_ours = True
        self._event = UsageEvent(
            owner=owner,
            kind=Kind.CALL,
            source="bot",
            provider="flow",
            model="call",
            quantities=Quantities(),
            provenance=Provenance.MEASURED,
            control=control(),
        )

    @property
    def is_running(self) -> bool:
        """Whether the caller has come."""
        return self._connected_at is not None

    @property
    def is_ours(self) -> bool:
        """Whether nobody has said that it is another's, or over."""
        return self._is_ours

    def begin(self, now: float) -> None:
        """The caller has come."""
        self._connected_at = self._accepted_at = now
        self.renew(now)

    def accept(self, sent_at: float) -> None:
        """The database took a sign of life, given then, for a call that was still ours."""
        self._accepted_at = max(self._accepted_at, sent_at)

    def lose(self) -> None:
        """The call is not ours any more."""
        self._is_ours = False

    def renew(self, now: float) -> None:
        """Note how long it has been, so that a killed process loses seconds, not the call."""
        if (event := self._counted(now)) is not None:
            self._recorder.begin(event)

    def end(self, over_at: float) -> None:
        """The call is over, if it ever began."""
        if (event := self._counted(over_at)) is not None:
            self._recorder.record(event)

    def _counted(self, now: float) -> UsageEvent | None:
        if self._connected_at is None:
            return None
        until = now if self._is_ours else self._accepted_at
        seconds = Decimal(repr(until - self._connected_at)).quantize(MICROSECOND)
        return replace(
            self._event,
            quantities=Quantities(call_seconds=seconds),
            control=self._control(),
            note=None if self._is_ours else UNTIL_ACCEPTED,
        )
