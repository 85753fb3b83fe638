"""Every metric of Flow, defined once.

A `Metrics` is made at the composition root and passed on as a value; there is no registry but
the one it is given. No label names a key, a thread, a team or a model: those are open-ended, and
the ledger answers for them. A label's values come from code or from the operator's
configuration; whatever else turns up is counted as ``other``.

Counters are floats, of money too: they are for graphs and alerts. The ledger is exact, and
invoices are made of it.
"""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from flow.domain.usage.units import Measure

OTHER = "other"

# From a fast answer on loopback to one that nobody would wait for.
_SHORT_SECS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG_SECS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.5, 1, 5, 15, 60, 300)
_SPEECH_SECS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
_REPLY_SECS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2, 3, 5, 10)
_PART_SECS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2.5, 5)
_CALL_SECS = (5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400)


def known(value: str, names: Collection[str]) -> str:
    """The value as a label: itself if it is one of ``names``, else ``other``."""
    return value if value in names else OTHER


class Metrics:
    """The metrics of one process.

    Args:
        registry: where they are registered.
        products: names of the products; a call of any other counts as ``other``.
        providers: names of the vendors; usage of any other counts as ``other``.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        products: Collection[str] = (),
        providers: Collection[str] = (),
    ) -> None:
        self.registry = registry
        self.products = frozenset(products)
        self.providers = frozenset(providers)
        self._define_calls()
        self._define_usage()
        self._define_ledger()
        self._define_requests()

    def _define_calls(self) -> None:
        self.calls_started = self._counter(
            "flow_calls_started", "Calls that a caller connected to.", "product"
        )
        self.calls_ended = self._counter(
            "flow_calls_ended", "Calls that are over, by why they ended.", "product", "reason"
        )
        self.calls_running = self._gauge("flow_calls_running", "Calls running.")
        self.calls_capacity = self._gauge(
            "flow_calls_capacity", "Calls that may run at once, in processes that drain too."
        )
        self.draining = self._gauge(
            "flow_draining", "Processes that are being shut down and take no more calls."
        )
        self.calls_by_tier = self._gauge(
            "flow_calls_by_budget_tier",
            "Calls running, by the tier of their key's budget; none: the key has no budget.",
            "tier",
        )
        self.call_secs = self._histogram(
            "flow_call_duration_seconds",
            "Seconds from connection to hang-up, of calls that are in the ledger.",
            _CALL_SECS,
            "product",
        )
        self.reply_secs = self._histogram(
            "flow_reply_seconds",
            "Seconds from the end of a caller's speech to the bot's first sound.",
            _REPLY_SECS,
            "product",
        )
        self.reply_part_secs = self._histogram(
            "flow_reply_part_seconds",
            "Seconds of that by what was waited for; the parts of a reply add up to all of it.",
            _PART_SECS,
            "part",
        )
        self.save_mode = self._counter(
            "flow_save_mode_engagements", "Running calls in which save mode went on.", "reason"
        )

    def _define_usage(self) -> None:
        self.events = self._counter(
            "flow_usage_events",
            "Ledger rows written.",
            "kind",
            "provider",
            "outcome",
            "provenance",
        )
        used = ("kind", "provider", "unit")
        self.used = {
            measure: self._counter(
                f"flow_usage_{measure}",
                f"{measure.capitalize()} in the ledger; no two units share any.",
                *used,
            )
            for measure in Measure
        }
        self.used_parts = {
            measure: self._counter(
                f"flow_usage_{measure.removesuffix('s')}_parts",
                f"Of which: in flow_usage_{measure}_total too, in the unit that contains them.",
                *used,
            )
            for measure in Measure
        }
        self.cost = self._counter(
            "flow_usage_cost_usd",
            "Cost in the ledger in USD, as a float: for graphs, not for invoices.",
            "kind",
            "component",
            "billable",
        )
        self.unpriced = self._counter(
            "flow_unpriced_events", "Ledger rows for which no price is known.", "kind"
        )
        self.unmetered = self._counter(
            "flow_unmetered_services",
            "Ledger rows that say that a service worked and nothing told how much.",
            "kind",
            "provider",
        )
        self.vendor_errors = self._counter(
            "flow_vendor_errors",
            "Vendor work that failed: 429, 4xx, 5xx, other, or none (no answer).",
            "provider",
            "kind",
            "status",
        )
        self.first_token_secs = self._histogram(
            "flow_llm_first_token_seconds",
            "Seconds to the first token of a streamed generation.",
            _SPEECH_SECS,
            "provider",
        )
        self.first_audio_secs = self._histogram(
            "flow_tts_first_audio_seconds",
            "Seconds to the first sound of a sentence.",
            _SPEECH_SECS,
            "provider",
        )

    def _define_ledger(self) -> None:
        self.spool_events = self._gauge("flow_spool_events", "Events waiting for the ledger.")
        self.spool_oldest_secs = self._gauge(
            "flow_spool_oldest_age_seconds",
            "How long the oldest event has been waiting for the ledger.",
            mode="livemax",
        )
        self.flush_lag_secs = self._histogram(
            "flow_flush_lag_seconds", "Seconds from an event's record to its commit.", _LAG_SECS
        )
        self.flush_failures = self._counter(
            "flow_flush_failures", "Batches the ledger could not take; they are sent again."
        )
        self.rejected = self._counter(
            "flow_rejected_events", "Events the ledger refused and put aside with the reason."
        )
        self.database_calls = self._counter(
            "flow_database_calls",
            "Calls of the database: ok, refused (a rule said no), unavailable, error, cancelled.",
            "function",
            "outcome",
        )
        self.database_secs = self._histogram(
            "flow_database_call_seconds",
            "Seconds a call of the database took.",
            _SHORT_SECS,
            "function",
        )
        self.posthog_sent = self._counter(
            "flow_posthog_events_sent",
            "Events queued for PostHog; flow_posthog_events_lost_total has those of them that the"
            " upload lost.",
        )
        self.posthog_lost = self._counter(
            "flow_posthog_events_lost",
            "Events PostHog will not get: dropped (queue full) or upload_failed.",
            "reason",
        )

    def _define_requests(self) -> None:
        self.joins = self._counter(
            "flow_joins",
            "Joins: created, replayed, a refusal's code, failed, or abandoned by the caller.",
            "outcome",
        )
        self.requests = self._counter(
            "flow_http_requests",
            "Requests answered; a WebSocket counts when it is over.",
            "route",
            "method",
            "status",
        )
        self.request_secs = self._histogram(
            "flow_http_request_seconds",
            "Seconds a request took; WebSockets are not in it.",
            _SHORT_SECS,
            "route",
            "method",
        )

        self.log_lines_dropped = self._counter(
            "flow_log_lines_dropped", "Log lines dropped because nobody read standard error."
        )

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str, mode: str = "livesum") -> Gauge:
        # The mode is for several processes: the living ones are added up, or the largest taken.
        assert mode in ("livesum", "livemax")
        return Gauge(
            name,
            documentation,
            labels,
            registry=self.registry,
            multiprocess_mode="livesum" if mode == "livesum" else "livemax",
        )

    def _histogram(
        self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)
