"""PostHog's OpenAI wrapper, whose captures are corrected to agree with the ledger.

The wrapper captures a generation by itself, inside the call: under the model that was asked for,
with the vendor's counts as they came and no costs, for which PostHog would take those of its own
catalogue. The ledger has the model that served and what it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

# The wrapper reads `client.beta`, which takes half a second to import: not on the loop on which the
# first call of a process ends, beside others that go on.
import openai.resources.beta.beta  # noqa: F401
import structlog
from posthog import Posthog, new_context
from posthog.ai.openai import AsyncOpenAI as CapturingAsyncOpenAI

from flow.domain.usage.events import UsageEvent
from flow.vendors.posthog import generation_arguments

log = structlog.get_logger(__name__)

Price = Callable[[UsageEvent], UsageEvent]
"""Puts a cost on an event, or leaves it unpriced."""

Finished = Callable[[UUID], UsageEvent | None]
"""The event of a metered request that is over, by its id; ``None`` if it is not there."""

_LEDGERS = (
    "$ai_input_tokens",
    "$ai_output_tokens",
    "$ai_cache_read_input_tokens",
    "$ai_cache_creation_input_tokens",
    "$ai_reasoning_tokens",
    "$ai_latency",
    "$ai_service_tier",
    "$ai_error",
    "$ai_http_status",
)
"""What the ledger's event says or leaves out on purpose, so that the wrapper's word on it must
not stay beside it."""


class PosthogWrapper:
    """PostHog's OpenAI wrapper over one client, with the ledger's word on what it captures.

    Args:
        client: what sends.
        price: puts costs on events.
    """

    def __init__(self, client: Posthog, price: Price) -> None:
        self._client = client
        self._price = price

    def openai_class(self, finished: Finished) -> Callable[..., CapturingAsyncOpenAI]:
        """Makes clients as ``openai.AsyncOpenAI`` does, whose requests PostHog captures."""
        capture: Any = LedgerCapture(self._client, finished=finished, price=self._price)
        return partial(CapturingAsyncOpenAI, posthog_client=capture)


class LedgerCapture:
    """A PostHog client for PostHog's OpenAI wrapper.

    Each request to the wrapper carries the id of its usage event, as ``$ai_span_id`` in
    ``posthog_properties``. What the wrapper captures for it is sent under that id, with the
    properties of the ledger's event over those of the wrapper, of which the rest is kept
    (parameters, tools, why it stopped, and content where that may leave). Where there is no such
    event, the wrapper's goes as it is, without a cost.

    Everything else that the wrapper asks of a client (``posthog.ai.utils``: ``privacy_mode``,
    ``enable_full_ai_capture``) is the real client's.

    Args:
        client: what sends.
        finished: finds the metered event of an id. It is asked when the request is over, before
            the wrapper hands on its answer or error.
        price: puts costs on that event.
    """

    def __init__(self, client: Posthog, finished: Finished, price: Price) -> None:
        self._client = client
        self._finished = finished
        self._price = price

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def capture(self, event: str, **arguments: Any) -> str | None:
        """Queue an event; the id it was queued under, or ``None``. Never raises."""
        return self._send(self._client.capture, event, arguments)

    def capture_ai(self, event: str, **arguments: Any) -> str | None:
        """The same, the way that the wrapper takes with ``enable_full_ai_capture``."""
        return self._send(self._client.capture_ai, event, arguments)

    def _send(
        self, send: Callable[..., str | None], event: str, arguments: dict[str, Any]
    ) -> str | None:
        # The wrapper has put into a context of its own what it says, and the SDK would add it
        # to each event from there; all of it is in the properties already.
        with new_context(fresh=True, capture_exceptions=False, client=self._client):
            return send(event, **self._as_in_the_ledger(arguments))

    def _as_in_the_ledger(self, arguments: dict[str, Any]) -> dict[str, Any]:
        said = arguments.get("properties") or {}
        try:
            event_id = UUID(said["$ai_span_id"])
        except (KeyError, ValueError, TypeError, AttributeError):
            return arguments  # not one of ours
        try:
            if (event := self._finished(event_id)) is None:
                log.warning("posthog_event_without_usage", usage_event_id=str(event_id))
                return {**arguments, "uuid": str(event_id)}
            ours = generation_arguments(self._price(event))
        except Exception:
            log.exception("posthog_event_not_completed", usage_event_id=str(event_id))
            return {**arguments, "uuid": str(event_id)}
        kept = {name: value for name, value in said.items() if name not in _LEDGERS}
        properties = {**kept, "$ai_tokens_source": "passthrough", **ours["properties"]}
        return {**arguments, **ours, "properties": properties}
