"""The step after a call that turns its transcript into structured insights."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from flow.domain.calls.join_request import Insights
from flow.domain.calls.thread import Thread
from flow.domain.insights.insight_schema import schema_problem
from flow.domain.insights.insights import (
    DEFAULT_SCHEMA,
    InsightsResult,
    Reason,
    Rendered,
    has_words,
    render_transcript,
)
from flow.domain.usage.events import CostControl, Owner
from flow.errors import ChecksUnavailable
from flow.insights.attempt import Asking, Attempts, Missed
from flow.insights.prompt import Question
from flow.insights.schema_checker import Checker
from flow.metering.request import Recording
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.posthog_wrapper import PosthogWrapper

log = structlog.get_logger(__name__)

TIME_LIMIT_SECS = 120.0
VENDOR_RETRIES = 2
ANSWER_RETRIES = 1
LONGEST_PAUSE_SECS = 10.0


class ExtractInsightsStep:
    """Extracts insights on PostHog's OpenAI wrapper, or on the plain client without PostHog.

    Args:
        endpoint: where the model is.
        model: the model to ask, as the vendor names it.
        recorder: takes an event for every request, as soon as it is answered.
        wrapper: PostHog's, if there is a PostHog.
        provider: the vendor's name in the account.
        capture_content: let PostHog have the transcript and the answer.
        time_limit_secs: for the whole step, with all its retries.
        first_pause_secs: before the first repetition after a vendor's error; doubles each time.
        checker: checks the answers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        recorder: Recording,
        *,
        wrapper: PosthogWrapper | None = None,
        provider: str = "openai",
        capture_content: bool = False,
        time_limit_secs: float = TIME_LIMIT_SECS,
        first_pause_secs: float = 0.5,
        checker: Checker | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._recorder = recorder
        self._wrapper = wrapper
        self._model = model
        self._provider = provider
        self._capture_content = capture_content
        self._time_limit_secs = time_limit_secs
        self._first_pause_secs = first_pause_secs
        self._checker = checker or Checker()

    async def run(
        self, thread: Thread, owner: Owner, asking: Asking | None = None
    ) -> InsightsResult:
        """Extract what the thread's join asked for. Vendor trouble is a result, not an error.

        ``asking`` takes the place of the step's own model.

        Asks nobody when insights are switched off, when nobody said anything, or when the
        customer's schema cannot be used.
        """
        wanted = thread.join.insights
        schema = wanted.json_schema or DEFAULT_SCHEMA
        if (settled := _without_asking(thread, wanted, schema)) is not None:
            return _done(owner, settled)
        asking = asking or Asking(self._model, self._model, CostControl())
        shown = render_transcript(thread.transcript, tool_calls=thread.tool_calls)
        attempts = Attempts(
            self._endpoint,
            owner,
            self._recorder,
            wrapper=self._wrapper,
            provider=self._provider,
            capture_content=self._capture_content,
            asking=asking,
        )
        question = Question.about(shown.text, schema, wanted.instructions)
        try:
            async with asyncio.timeout(self._time_limit_secs):
                result = await self._ask(attempts, question, shown, asking.model)
        except TimeoutError:
            result = _failed("timeout", f"no usable answer in {self._time_limit_secs:g} s")
        except ChecksUnavailable:
            result = _failed("timeout", "the answer could not be checked in time")
        return _done(owner, result)

    async def _ask(
        self, attempts: Attempts, question: Question, shown: Rendered, model: str
    ) -> InsightsResult:
        """Ask until there is an answer to use, or nothing more to try."""
        vendor_errors = bad_answers = 0
        while True:
            answer = await attempts.ask(question.request(model))
            if isinstance(answer, Missed):
                if answer.failure.http_status == 400 and question.mode != "json_object":
                    question = question.in_plain_json()
                    continue
                if not answer.may_pass or vendor_errors == VENDOR_RETRIES:
                    return _failed("vendor_error", answer.failure.message)
                await asyncio.sleep(self._pause_secs(vendor_errors, answer.retry_after_secs))
                vendor_errors += 1
                continue
            verdict = await self._checker.judge(answer, question.schema)
            if verdict.reason is None:
                return InsightsResult(
                    "ok", verdict.data, model=answer.model, omitted_turns=shown.omitted_turns
                )
            if verdict.reason not in _WORTH_REPEATING or bad_answers == ANSWER_RETRIES:
                return _failed(verdict.reason, verdict.detail, answer.model)
            bad_answers += 1
            if verdict.reason == "truncated":
                question = question.with_more_room()
            else:
                question = question.corrected(answer.text, verdict.problems)

    def _pause_secs(self, errors_before: int, asked_for: float | None) -> float:
        backoff: float = self._first_pause_secs * 2**errors_before
        return min(LONGEST_PAUSE_SECS, max(backoff, asked_for or 0.0))


_WORTH_REPEATING: frozenset[Reason] = frozenset({"invalid_output", "truncated"})


def _without_asking(
    thread: Thread, wanted: Insights, schema: dict[str, Any]
) -> InsightsResult | None:
    if not wanted.enabled:
        return InsightsResult("skipped", reason="disabled")
    if not has_words(thread.transcript):
        return InsightsResult("skipped", reason="empty_transcript")
    if (problem := schema_problem(schema)) is not None:
        return _failed("unusable_schema", problem)
    return None


def _failed(reason: Reason, detail: str | None, model: str | None = None) -> InsightsResult:
    return InsightsResult("failed", reason=reason, detail=detail, model=model)


def _done(owner: Owner, result: InsightsResult) -> InsightsResult:
    log.info(
        "insights_extracted",
        workflow_thread_id=str(owner.workflow_thread_id),
        status=result.status,
        reason=result.reason,
        detail=result.detail,
    )
    return result
