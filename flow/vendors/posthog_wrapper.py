"""What PostHog's OpenAI wrapper leaves out of its events, added before they are queued.

The wrapper captures a generation inside the call, when nobody has priced it yet, and gives it
an id of its own. Without our costs PostHog would put in those of its own catalogue, and the two
accounts would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import structlog
from posthog import Posthog

from flow.domain.analytics import cost_properties
from flow.domain.reported import certain, family_of, from_openai_usage
from flow.domain.usage import Kind, Outcome, Owner, Provenance, UsageEvent

log = structlog.get_logger(__name__)

Price = Callable[[UsageEvent], UsageEvent]
"""Puts a cost on an event, or leaves it unpriced."""

OnLost = Callable[[str, int], None]
"""Told why (``dropped``, ``upload_failed``) and how many events PostHog will not get. May be
called in any thread."""


class CompletingPosthog(Posthog):
    """A client that completes what the wrapper captures with it.

    The wrapper's events get the id of Flow's usage event, which they carry as ``$ai_span_id``,
    and the cost of the usage they report. Other events pass as they are, and so does one that
    cannot be read.
    """

    def __init__(
        self,
        api_key: str,
        *,
        price: Price | None = None,
        on_lost: OnLost = lambda _reason, _events: None,
        **options: Any,
    ) -> None:
        super().__init__(api_key, **options)
        self._price = price
        self._on_lost = on_lost

    def capture(self, event: str, **arguments: Any) -> str | None:
        """Queue an event; the id it was queued under, or ``None``. Never raises."""
        properties = arguments.get("properties") or {}
        if properties.get("$ai_lib") == "posthog-ai" and "$ai_span_id" in properties:
            try:
                arguments |= {
                    "uuid": properties["$ai_span_id"],
                    "properties": {**properties, **_left_out(properties, self._price)},
                }
            except Exception:
                log.exception(
                    "posthog_event_not_completed",
                    workflow_thread_id=str(properties.get("workflow_thread_id")),
                )
        queued: str | None = super().capture(event, **arguments)
        if queued is None:
            self._on_lost("dropped", 1)
        return queued


def _left_out(properties: Mapping[str, Any], price: Price | None) -> dict[str, Any]:
    usage, is_error = properties.get("$ai_usage"), bool(properties.get("$ai_is_error"))
    own: dict[str, Any] = {
        "$ai_is_error": is_error,
        "outcome": (Outcome.ERROR if is_error else Outcome.OK).value,
        "provenance": (Provenance.ESTIMATED if usage is None else Provenance.REPORTED).value,
    }
    if usage is None or price is None:
        return own
    priced = price(_event(properties, usage))
    if priced.price_version is not None:
        own["price_version"] = priced.price_version
    return own | cost_properties(priced.cost, Kind.LLM)


def _event(properties: Mapping[str, Any], usage: Any) -> UsageEvent:
    provider = str(properties["$ai_provider"])
    return UsageEvent(
        id=UUID(properties["$ai_span_id"]),
        owner=Owner(
            workflow_thread_id=UUID(properties["workflow_thread_id"]),
            api_key_id=UUID(properties["api_key_id"]),
            team_id=properties["team_id"],
            product=properties["ai_product"],
            billable=properties["$ai_billable"],
        ),
        kind=Kind.LLM,
        source=str(properties["usage_source"]),
        provider=provider,
        model=str(properties["$ai_model"]),
        service_tier=properties.get("$ai_service_tier"),
        quantities=certain(from_openai_usage(usage), family_of(provider)),
        provenance=Provenance.REPORTED,
    )
