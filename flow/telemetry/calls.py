"""Metrics of running calls."""

from __future__ import annotations

from collections.abc import Mapping

from flow.domain.calls.ending import EndReason
from flow.domain.calls.latency import TurnLatency
from flow.domain.limits.budget import Tier
from flow.telemetry.metric_definitions import Metrics, known

NO_BUDGET = "none"
_REASONS = frozenset(EndReason)


class CallWatch:
    """Counts the calls of a process as they come and go."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # A tier that no call is in is shown as 0, and not left out.
        self.show_tiers({})

    def started(self, product: str) -> None:
        """A caller connected."""
        self._metrics.calls_started.labels(known(product, self._metrics.products)).inc()

    def ended(self, product: str, reason: EndReason) -> None:
        """The call is over."""
        product, label = known(product, self._metrics.products), known(reason, _REASONS)
        self._metrics.calls_ended.labels(product, label).inc()

    def answered(self, product: str, latency: TurnLatency) -> None:
        """A caller waited so long for a reply."""
        name = known(product, self._metrics.products)
        self._metrics.reply_secs.labels(name).observe(latency.total_secs)
        for part, secs in latency.parts.items():
            self._metrics.reply_part_secs.labels(part).observe(secs)

    def saving(self, reason: str) -> None:
        """Save mode went on in a running call, for a reason of `flow.domain.products.save_mode`."""
        self._metrics.save_mode.labels(reason).inc()

    def show_tiers(self, running: Mapping[Tier | None, int]) -> None:
        """How many calls run now at each tier; ``None``: without a budget."""
        for tier in (None, *Tier):
            name = NO_BUDGET if tier is None else tier.value
            self._metrics.calls_by_tier.labels(name).set(running.get(tier, 0))
