"""Metrics of the wait of events between a call and the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from uuid import UUID

from flow.telemetry.metrics import Metrics

# While the ledger is away the spool may grow without bound; what is kept of it in memory may not.
MOST_TIMED = 100_000


class FlushWatch:
    """Follows events from `Recorder.record` to the ledger's acknowledgement.

    Of the events that wait, the first ``most`` are timed, so the oldest always is.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST_TIMED,
    ) -> None:
        self._most = most
        self._metrics = metrics
        self._clock = clock
        self._recorded_at: dict[UUID, float] = {}

    @property
    def oldest_secs(self) -> float:
        """How long the oldest event has waited; 0 when none does."""
        first = next(iter(self._recorded_at.values()), None)
        return 0.0 if first is None else self._clock() - first

    def recorded(self, event_id: UUID) -> None:
        """An event waits from now on."""
        if len(self._recorded_at) < self._most:
            self._recorded_at[event_id] = self._clock()

    def committed(self, event_ids: Iterable[UUID], *, is_all: bool) -> None:
        """These wait no longer. ``is_all``: nor does any other."""
        now = self._clock()
        for event_id in event_ids:
            if (since := self._recorded_at.pop(event_id, None)) is not None:
                self._metrics.flush_lag_secs.observe(now - since)
        if is_all:
            self._recorded_at.clear()

    def rejected(self, events: int) -> None:
        """The ledger put so many aside."""
        self._metrics.rejected.inc(events)

    def failed(self) -> None:
        """The ledger could not be reached; everything goes on waiting."""
        self._metrics.flush_failures.inc()
