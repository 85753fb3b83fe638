"""A feature flag at PostHog, evaluated for each API key, and read without waiting.

PostHog is asked in the background, and its last answer holds until it is too old to trust. Where
there is none the value is unknown, which callers take for off: a feature fails closed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import structlog
from cachetools import LRUCache
from posthog import Posthog
from posthog.types import to_values
from prometheus_client import CollectorRegistry, Counter

log = structlog.get_logger(__name__)

COST_CONTROLS = "flow-cost-controls"

FRESH_SECS = 30.0
TRUSTED_SECS = 600.0
PAUSE_SECS = 10.0
WAIT_SECS = 4.0
MAX_KEYS = 10_000
MAX_ASKING = 64
ASKING_AT_ONCE = 2
_ON = (True, "on")


@dataclass(slots=True)
class _Known:
    """The last answer for one key of one team, and the request that is under way."""

    value: bool = False
    answered_at: float = -math.inf
    question: asyncio.Future[bool | None] | None = None


class FeatureFlag:
    """One flag; one object per process. Use it inside the event loop, and close it with `aclose`.

    The flag is on for a key if PostHog's value is true or the variant ``"on"``; any other variant
    is off, and so is a flag that PostHog does not have. It is evaluated for the key's id as
    ``distinct_id`` and for its team as group ``team``, and no ``$feature_flag_called`` is captured.

    When PostHog fails, nobody asks it again for ten seconds, and an answer goes on for ten minutes.

    Args:
        client: ``None``: there is no PostHog, and nothing is ever known. Its
            ``feature_flags_request_timeout_seconds`` bounds one question.
        fresh_secs: for how long an answer is not asked for again.
        clock: seconds that never go back.
        wait_secs: how long `refreshed` waits at most.
        registry: where ``flow_feature_flag_answers_total`` is counted.
    """

    def __init__(
        self,
        client: Posthog | None,
        name: str = COST_CONTROLS,
        *,
        fresh_secs: float = FRESH_SECS,
        clock: Callable[[], float] = time.monotonic,
        wait_secs: float = WAIT_SECS,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._fresh_secs = fresh_secs
        self._clock = clock
        self._wait_secs = wait_secs
        self._known: LRUCache[tuple[UUID, str], _Known] = LRUCache(MAX_KEYS)
        self._asking: set[asyncio.Future[bool | None]] = set()
        self._paused_until = -math.inf
        self._is_failing = False
        self._is_closed = False
        # Its own: a slow PostHog is not to take the threads of others.
        self._threads = ThreadPoolExecutor(ASKING_AT_ONCE, thread_name_prefix="posthog-flags")
        self._answers = Counter(
            "flow_feature_flag_answers",
            "Answers of PostHog about a feature flag.",
            ["flag", "answer"],
            registry=registry or CollectorRegistry(),
        )

    def enabled(self, key_id: UUID, team_id: str) -> bool | None:
        """The flag's value; ``None``: unknown, or too old to trust.

        Never waits. Where the answer is no longer fresh it is asked for in the background.
        """
        if self._client is None:
            return None
        known = self._of(key_id, team_id)
        self._ask_if_stale(self._client, known, key_id, team_id)
        return self._trusted(known)

    async def refreshed(self, key_id: UUID, team_id: str) -> bool | None:
        """The flag's value once the request that is under way, if any, has been answered.

        After ``wait_secs``, what was known before.
        """
        if self._client is None:
            return None
        known = self._of(key_id, team_id)
        self._ask_if_stale(self._client, known, key_id, team_id)
        if known.question is not None:
            await asyncio.wait({known.question}, timeout=self._wait_secs)
        return self._trusted(known)

    async def aclose(self) -> None:
        """Stop asking; a question that is at PostHog already is left to its timeout."""
        self._is_closed = True
        asking = list(self._asking)
        for question in asking:
            question.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _of(self, key_id: UUID, team_id: str) -> _Known:
        known = self._known.get((key_id, team_id))
        if known is None:
            known = self._known[key_id, team_id] = _Known()
        return known

    def _trusted(self, known: _Known) -> bool | None:
        return known.value if self._clock() - known.answered_at <= TRUSTED_SECS else None

    def _ask_if_stale(self, client: Posthog, known: _Known, key_id: UUID, team_id: str) -> None:
        now = self._clock()
        if (
            known.question is not None
            or now - known.answered_at < self._fresh_secs
            or now < self._paused_until
            or len(self._asking) >= MAX_ASKING
            or self._is_closed
        ):
            return
        question = asyncio.get_running_loop().run_in_executor(
            self._threads, self._ask, client, str(key_id), team_id
        )
        known.question = question
        self._asking.add(question)
        # The first callback there is: it runs before whoever waits for the question goes on.
        question.add_done_callback(lambda answered: self._take(known, answered))

    def _ask(self, client: Posthog, distinct_id: str, team_id: str) -> bool | None:
        """PostHog's answer, in a thread; ``None``: it gave none. Never raises."""
        if self._clock() < self._paused_until:
            return None
        try:
            # It logs why PostHog failed, and answers with nothing at all.
            answer = client.get_flags_decision(
                distinct_id,
                groups={"team": team_id} if team_id else {},
                person_properties={"distinct_id": distinct_id},
                group_properties={"team": {"$group_key": team_id}} if team_id else {},
                disable_geoip=True,
                flag_keys_to_evaluate=[self._name],
            )
            values = to_values(answer) or {}
            if self._name in values:
                return values[self._name] in _ON
            is_whole = answer.get("requestId") and not answer.get("errorsWhileComputingFlags")
            return False if is_whole else None
        except Exception as error:
            log.warning("feature_flag_unreadable", error_type=type(error).__name__)
            return None

    def _take(self, known: _Known, question: asyncio.Future[bool | None]) -> None:
        self._asking.discard(question)
        known.question = None
        if question.cancelled():
            return
        value = question.result()
        if value is None:
            self._paused_until = self._clock() + PAUSE_SECS
        else:
            known.value, known.answered_at = value, self._clock()
        self._answers.labels(self._name, {True: "on", False: "off", None: "none"}[value]).inc()
        self._note(is_failing=value is None)

    def _note(self, *, is_failing: bool) -> None:
        """One line when PostHog begins to fail and one when it is back, not one a question."""
        if is_failing and not self._is_failing:
            log.warning("feature_flag_unavailable", flag=self._name)
        elif self._is_failing and not is_failing:
            log.info("feature_flag_available", flag=self._name)
        self._is_failing = is_failing
