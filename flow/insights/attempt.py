"""Asking the model, metered on the wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from flow.domain.usage.events import CostControl, Failure, Kind, Owner, UsageEvent
from flow.domain.usage.owner_labels import attribution_properties, control_properties
from flow.domain.usage.token_estimates import warm_up
from flow.insights.answer import Answer
from flow.metering.evidence import Opening
from flow.metering.meter import Meter, Service
from flow.metering.request import Recording
from flow.metering.taps.answer import EVENT_ID_HEADER
from flow.metering.taps.http import MeteredTransport
from flow.metering.wires.openai_chat import OpenAIChat
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import failure_of, may_pass, openai_client, retry_after_secs
from flow.vendors.posthog_wrapper import PosthogWrapper

SOURCE = "insights"


@dataclass(frozen=True, slots=True)
class Asking:
    """Which model is asked, which one it stands in for, and what is done about the cost."""

    model: str
    asked_for: str
    control: CostControl


@dataclass(frozen=True, slots=True)
class Missed:
    """A request that brought no answer."""

    failure: Failure
    may_pass: bool
    retry_after_secs: float | None


class Attempts:
    """Every request of one extraction, each one attempt, one event, one row of the ledger.

    PostHog's wrapper captures them, unless there is no PostHog or the gateway captures by itself.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        owner: Owner,
        recorder: Recording,
        *,
        wrapper: PosthogWrapper | None,
        provider: str,
        capture_content: bool,
        asking: Asking,
    ) -> None:
        self._owner = owner
        self._provider = provider
        self._capture_content = capture_content
        self._asking = asking
        self._events: dict[UUID, UsageEvent] = {}
        self._is_wrapped = wrapper is not None and not endpoint.gateway_captures
        meter = Meter(
            Service(
                Kind.LLM,
                provider,
                asking.model,
                source=SOURCE,
                capture=not (self._is_wrapped or endpoint.gateway_captures),
            ),
            owner,
            recorder,
            control=lambda: asking.control,
            on_closed=self._closed,
        )
        transport = MeteredTransport(
            endpoint.transport(owner, lambda: asking.control),
            meter,
            OpenAIChat(),
            asked_for=asking.asked_for,
        )
        self._client = openai_client(
            endpoint,
            transport,
            max_retries=0,
            make=wrapper.openai_class(self._events.get) if wrapper and self._is_wrapped else None,
        )

    async def ask(self, request: dict[str, Any]) -> Answer | Missed:
        """Send one request."""
        # In a thread: the first time, a tokenizer's vocabulary takes a while to load.
        await asyncio.to_thread(warm_up)
        event_id = uuid4()
        options = self._posthog_options(event_id) if self._is_wrapped else {}
        try:
            completion = await self._client.chat.completions.create(
                **request, extra_headers={EVENT_ID_HEADER: str(event_id)}, **options
            )
            return _answer(completion)
        except Exception as error:
            return Missed(failure_of(error), may_pass(error), retry_after_secs(error))

    def _closed(self, event: UsageEvent, _: Opening, __: str) -> None:
        self._events[event.id] = event

    def _posthog_options(self, event_id: UUID) -> dict[str, Any]:
        """What PostHog's wrapper takes besides the request; ours win over what it finds out."""
        thread_id = str(self._owner.workflow_thread_id)
        return {
            "posthog_distinct_id": str(self._owner.api_key_id),
            "posthog_trace_id": thread_id,
            "posthog_groups": {"team": self._owner.team_id} if self._owner.team_id else None,
            "posthog_privacy_mode": not self._capture_content,
            "posthog_properties": {
                "$ai_session_id": thread_id,
                "$ai_span_id": str(event_id),
                "$ai_span_name": f"{SOURCE} {Kind.LLM.value}",
                "$ai_provider": self._provider,
                "$ai_stream": False,
                # The wrapper leaves it to PostHog's default, which goes by the provider.
                "$ai_cache_reporting_exclusive": False,
                "usage_kind": Kind.LLM.value,
                "usage_source": SOURCE,
                "requested_model": self._asking.asked_for,
                **control_properties(self._asking.control),
                **attribution_properties(self._owner),
            },
        }


class _MalformedAnswer(Exception):
    """A 200 that is no chat completion."""


def _answer(completion: Any) -> Answer:
    choices = getattr(completion, "choices", None) or [None]
    message = getattr(choices[0], "message", None)
    if message is None:
        raise _MalformedAnswer
    return Answer(
        text=message.content if isinstance(message.content, str) else "",
        refusal=getattr(message, "refusal", None),
        finish_reason=choices[0].finish_reason,
        model=str(completion.model),
    )
