"""Every metric, from the definitions themselves."""

from __future__ import annotations

from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter

from flow.telemetry.metric_definitions import Metrics
from flow.vendors.key_verification_cache import KeyVerifier
from flow.vendors.posthog_flags import FeatureFlag
from flow.vendors.quota_cache import QuotaSource
from flow.workflows.webhook_delivery import Deliverer
from generate.markdown import Descriptions, code, page, table

_INTRO = """\
`/metrics` shows them in Prometheus' text format. [Watching it](../guides/watching.md) says how
processes are added up, and what is worth an alert. Counters are floats, of money too: for graphs
and alerts, not for invoices. What is not among the configured products and vendors counts as
`other`."""


def metrics_page(descriptions: Descriptions) -> str:
    """The reference of the metrics, in the order in which they are defined."""
    rows = [_row(one, descriptions) for one in _collectors()]
    return page("Metrics", _INTRO, table(["metric", "kind", "labels", "meaning"], rows))


def _collectors() -> list[Any]:
    """All that a service counts in; nobody is asked for anything."""
    registry = CollectorRegistry()
    nobody = cast(Any, None)
    Metrics(registry)
    KeyVerifier("no root key", registry=registry)
    QuotaSource("http://127.0.0.1", registry=registry)
    FeatureFlag(None, registry=registry)
    Deliverer(nobody, nobody, registry=registry)
    return list(dict.fromkeys(registry._names_to_collectors.values()))


def _row(metric: Any, descriptions: Descriptions) -> list[str]:
    name = f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
    return [
        code(name),
        type(metric).__name__.lower(),
        ", ".join(map(code, metric._labelnames)),
        descriptions.of(f"metric {name}", metric._documentation),
    ]
