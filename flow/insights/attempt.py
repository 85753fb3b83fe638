"""Asking the model, and keeping the account of each time it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import structlog

from flow.domain.analytics import control_properties
from flow.domain.attribution import attribution_properties
from flow.domain.estimate import count_tokens, estimate_chat_tokens
from flow.domain.reported import accepted, from_openai_usage
from flow.domain.usage import (
    CostControl,
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    UsageEvent,
)
from flow.insights.answer import Answer
from flow.vendors.openai import OpenAIClients, failure_of, may_pass, retry_after_secs

log = structlog.get_logger(__name__)

SOURCE = "insights"


@dataclass(frozen=True, slots=True)
class Missed:
    """A request that brought no answer."""

    failure: Failure
    may_pass: bool
    retry_after_secs: float | None


class Attempts:
    """Every request of one extraction. ``events`` has the account of each, in order.

    Args:
        begin: told of each request before it goes out, with an estimate of what it consumes.
        asked_for: the model that was meant, where save mode asks another.
        control: what is done about the cost.
    """

    def __init__(
        self,
        clients: OpenAIClients,
        owner: Owner,
        *,
        provider: str,
        capture_content: bool,
        begin: Callable[[UsageEvent], None] | None,
        asked_for: str,
        control: CostControl,
    ) -> None:
        self._clients = clients
        self._owner = owner
        self._provider = provider
        self._capture_content = capture_content
        self._begin = begin
        self._asked_for = asked_for
        self._control = control
        self._client: Any = None
        self._is_wrapped = False
        self.events: list[UsageEvent] = []

    async def ask(self, request: dict[str, Any]) -> Answer | Missed:
        """Send one request. Whatever becomes of it, one event is added to ``events``."""
        # In a thread: the first time, the SDK and a tokenizer's vocabulary take seconds to load.
        opening = await asyncio.to_thread(self._opening, request)
        if self._begin is not None:
            self._begin(opening)
        started = perf_counter()
        options = self._posthog_options(opening) if self._is_wrapped else {}
        try:
            completion = await self._client.chat.completions.create(**request, **options)
            answer = _answer(completion)
        except asyncio.CancelledError:
            self._failed(opening, started, Failure("Cancelled", "no answer in time"))
            raise
        except Exception as error:
            failure = failure_of(error)
            self._failed(opening, started, failure)
            return Missed(failure, may_pass(error), retry_after_secs(error))
        self._answered(opening, started, completion, answer)
        return answer

    def _opening(self, request: dict[str, Any]) -> UsageEvent:
        if self._client is None:
            self._client, self._is_wrapped = self._clients.insights_client(self._owner)
        model = str(request["model"])
        # A schema is part of the prompt, and billed with it.
        schema = request["response_format"].get("json_schema")
        prompt = estimate_chat_tokens(request["messages"], model=model)
        prompt += count_tokens(json.dumps(schema, separators=(",", ":")), model) if schema else 0
        return UsageEvent(
            owner=self._owner,
            kind=Kind.LLM,
            source=SOURCE,
            provider=self._provider,
            model=model,
            requested_model=self._asked_for,
            sent_model=model if model != self._asked_for else None,
            quantities=Quantities(input_tokens=prompt),
            provenance=Provenance.ESTIMATED,
            capture=not (self._is_wrapped or self._clients.gateway_captures),
            control=self._control,
        )

    def _posthog_options(self, opening: UsageEvent) -> dict[str, Any]:
        """What PostHog's wrapper takes besides the request; ours win over what it finds out."""
        thread_id = str(self._owner.workflow_thread_id)
        return {
            "posthog_distinct_id": str(self._owner.api_key_id),
            "posthog_trace_id": thread_id,
            "posthog_groups": {"team": self._owner.team_id} if self._owner.team_id else None,
            "posthog_privacy_mode": not self._capture_content,
            "posthog_properties": {
                "$ai_session_id": thread_id,
                "$ai_span_id": str(opening.id),
                "$ai_span_name": f"{SOURCE} {Kind.LLM.value}",
                "$ai_provider": self._provider,
                "$ai_stream": False,
                # The wrapper leaves it to PostHog's default, which goes by the provider.
                "$ai_cache_reporting_exclusive": False,
                "usage_kind": Kind.LLM.value,
                "usage_source": SOURCE,
                "requested_model": self._asked_for,
                **control_properties(self._control),
                **attribution_properties(self._owner),
            },
        }

    def _answered(
        self, opening: UsageEvent, started: float, completion: Any, answer: Answer
    ) -> None:
        quantities, provenance, note = self._quantities(opening, completion.usage, answer)
        self.events.append(
            replace(
                opening,
                model=answer.model,
                service_tier=completion.service_tier,
                quantities=quantities,
                provenance=provenance,
                note=note,
                latency_secs=round(perf_counter() - started, 6),
            )
        )

    def _quantities(
        self, opening: UsageEvent, usage: Any, answer: Answer
    ) -> tuple[Quantities, Provenance, str | None]:
        if usage is None:
            said = answer.text or answer.refusal or ""
            estimate = replace(opening.quantities, output_tokens=count_tokens(said, opening.model))
            return estimate, Provenance.ESTIMATED, "the vendor reported no usage"
        quantities, note = accepted(from_openai_usage(usage), self._provider)
        if note is not None:
            log.warning(
                "contradictory_usage",
                workflow_thread_id=str(self._owner.workflow_thread_id),
                provider=self._provider,
                error=note,
            )
        return quantities, Provenance.REPORTED, note

    def _failed(self, opening: UsageEvent, started: float, failure: Failure) -> None:
        """Where the vendor may have done the work and bills it, the prompt is estimated."""
        nothing = failure.consumed_nothing
        self.events.append(
            replace(
                opening,
                quantities=Quantities() if nothing else opening.quantities,
                provenance=Provenance.MEASURED if nothing else Provenance.ESTIMATED,
                outcome=Outcome.ERROR,
                failure=failure,
                latency_secs=round(perf_counter() - started, 6),
            )
        )


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
