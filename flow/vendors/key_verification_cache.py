"""Verification of API keys by Unkey, with a cache that bridges its outages.

`KeyVerifier` asks Unkey about a key and remembers good answers, under these rules:

- An answer is reused for as long as the caller allows: seconds, not minutes.
- While Unkey fails (no answer, 5xx, a rate-limited workspace, a refused root key, an answer that
  contradicts itself), verification fails **open** for a key that Unkey called good within the last
  ten minutes, and **closed** for every other. Both are logged and counted.
- A refusal is final at once: it drops what was remembered.

Secrets are remembered only as SHA-256 digests, and never logged.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import stamina
import structlog
from cachetools import LRUCache, TTLCache
from prometheus_client import CollectorRegistry, Counter

from flow.domain.limits.permissions import ADMIN, CONTENT, TEAM_LIMITS
from flow.errors import AuthUnavailable, Refused
from flow.kit.single_flight import SingleFlight
from flow.vendors.unkey_client import Answer, Failure, Good, Refusal, UnkeyClient, VerifiedKey

__all__ = ["DebugKeys", "KeyVerifier", "VerifiedKey"]

log = structlog.get_logger(__name__)

TIME_LIMIT_SECS = 2.5
REUSE_SECS = 600.0
ASK_AGAIN_SECS = 10.0
REFUSAL_SECS = 1.0
CONTACT_SECS = 60.0
MAX_KNOWN = 10_000
MAX_REFUSALS = 1_000
# Beyond this, unknown keys wait for each other, so that a flood of made-up keys leaves connections
# for keys that are known.
MAX_UNKNOWN_AT_ONCE = 32
# Pauses of 0.1 and 0.3 s.
ATTEMPTS = 3
FIRST_PAUSE_SECS = 0.1
PAUSE_FACTOR = 3.0

_PLAUSIBLE_SECRET = re.compile(r"[\x21-\x7e]{1,512}")
_PROBE = "flow_readiness_probe"


@dataclass(slots=True)
class _Known:
    """A good answer, and when Unkey is next worth asking after it failed."""

    good: Good
    ask_again_at: float = -math.inf

    def age(self, now: float) -> float:
        return now - self.good.key.verified_at

    def may_go_on(self, now: float) -> bool:
        return now < self.good.expires_at and self.age(now) <= REUSE_SECS


class _Transient(Exception):
    """Unkey failed in a way that another attempt may mend."""


class KeyVerifier:
    """Verifies keys with Unkey; one per process. Close it with `aclose`.

    Args:
        root_key: Unkey's root key; it needs ``api.*.verify_key``.
        base_url: where Unkey is, when it is not Unkey's own cloud.
        clock: seconds that never go back; ages are measured on it.
        wall_clock: seconds since 1970; only a key's own expiry is read against it.
        registry: where ``flow_key_verifications_total`` is counted.
        time_limit_secs: how long one caller waits at most, retries included.
    """

    def __init__(
        self,
        root_key: str,
        *,
        base_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        registry: CollectorRegistry | None = None,
        time_limit_secs: float = TIME_LIMIT_SECS,
    ) -> None:
        self._unkey = UnkeyClient(root_key, base_url, clock=clock, wall_clock=wall_clock)
        self._clock = clock
        self._time_limit_secs = time_limit_secs
        self._known: LRUCache[bytes, _Known] = LRUCache(MAX_KNOWN)
        self._refused: TTLCache[bytes, Refusal] = TTLCache(MAX_REFUSALS, REFUSAL_SECS, timer=clock)
        self._questions: SingleFlight[bytes, Answer] = SingleFlight()
        self._unknown = asyncio.Semaphore(MAX_UNKNOWN_AT_ONCE)
        self._last_contact = -math.inf
        outcomes = Counter(
            "flow_key_verifications",
            "Keys checked, by where the answer came from.",
            ["outcome"],
            registry=registry or CollectorRegistry(),
        )
        self._outcome = cache(outcomes.labels)

    async def verify(self, secret: str, *, max_age_secs: float) -> VerifiedKey:
        """The key of ``secret``, as Unkey described it at most ``max_age_secs`` ago.

        Raises:
            Refused: ``invalid_api_key``, ``expired_api_key``, ``disabled_api_key``,
                ``insufficient_permissions``, ``rate_limited`` or ``quota_exceeded``.
            AuthUnavailable: Unkey cannot say, and did not call this key good lately.
        """
        if not _PLAUSIBLE_SECRET.fullmatch(secret):
            raise Refused("invalid_api_key", "The API key is not valid.")
        digest = sha256(secret.encode()).digest()
        if (known := self._remembered(digest, max_age_secs)) is not None:
            return known
        refusal = self._refused.get(digest)
        if refusal is not None:
            raise refusal.error()
        return self._settle(digest, await self._ask_once(digest, secret))

    async def check(self) -> None:
        """Return when keys can be verified, or Unkey failed so lately that known keys go on.

        Raises:
            AuthUnavailable: Unkey has not answered for longer than that, or refuses the root key.
        """
        if self._clock() - self._last_contact <= CONTACT_SECS:
            return
        await self._ask_once(sha256(_PROBE.encode()).digest(), _PROBE)
        if self._clock() - self._last_contact > REUSE_SECS:
            raise AuthUnavailable

    async def aclose(self) -> None:
        """End questions under way and close the connections."""
        await self._questions.aclose()
        await self._unkey.aclose()

    def _remembered(self, digest: bytes, max_age_secs: float) -> VerifiedKey | None:
        known, now = self._known.get(digest), self._clock()
        if known is None or not known.may_go_on(now):
            return None
        fresh = known.age(now) <= max_age_secs
        if not fresh and now >= known.ask_again_at:
            return None
        self._outcome("remembered" if fresh else "reused").inc()
        return known.good.key

    async def _ask_once(self, digest: bytes, secret: str) -> Answer:
        """Unkey's answer; callers with the same key share one question."""
        answer = await self._questions.run(digest, lambda: self._ask(digest, secret))
        return Failure("closed") if answer is None else answer

    async def _ask(self, digest: bytes, secret: str) -> Answer:
        answer: Answer
        try:
            async with asyncio.timeout(self._time_limit_secs):
                if digest in self._known:
                    answer = await self._unkey.ask(secret)
                else:
                    answer = await self._ask_with_retries(secret)
        except TimeoutError:
            answer = Failure("timeout")
        self._remember(digest, answer)
        return answer

    async def _ask_with_retries(self, secret: str) -> Answer:
        """For an unknown key: no earlier answer bridges a transient failure."""
        answer: Answer = Failure("not asked")
        with suppress(_Transient):
            async with self._unknown:
                async for attempt in stamina.retry_context(
                    on=_Transient,
                    attempts=ATTEMPTS,
                    timeout=None,
                    wait_initial=FIRST_PAUSE_SECS,
                    wait_exp_base=PAUSE_FACTOR,
                    wait_jitter=0,
                ):
                    with attempt:
                        answer = await self._unkey.ask(secret)
                        if isinstance(answer, Failure) and answer.transient:
                            raise _Transient(answer.reason)
        return answer

    def _remember(self, digest: bytes, answer: Answer) -> None:
        if isinstance(answer, Failure):
            self._remember_failure(digest, answer)
            return
        self._last_contact = self._clock()
        if isinstance(answer, Refusal):
            self._known.pop(digest, None)
            self._refused[digest] = answer
            self._outcome("refused").inc()
        else:
            self._known[digest] = _Known(answer)
            self._outcome("verified").inc()

    def _remember_failure(self, digest: bytes, failure: Failure) -> None:
        known, now = self._known.get(digest), self._clock()
        if known is None or not known.may_go_on(now):
            self._known.pop(digest, None)
            self._outcome("unavailable").inc()
            log.error("unkey_unavailable", reason=failure.reason)
            return
        known.ask_again_at = now + ASK_AGAIN_SECS
        self._outcome("reused").inc()
        log.warning(
            "unkey_unavailable_key_reused",
            reason=failure.reason,
            unkey_key_id=known.good.key.unkey_key_id,
            verified_secs_ago=round(known.age(now), 1),
        )

    def _settle(self, digest: bytes, answer: Answer) -> VerifiedKey:
        if isinstance(answer, Refusal):
            raise answer.error()
        if isinstance(answer, Good):
            return answer.key
        known = self._known.get(digest)
        if known is None or not known.may_go_on(self._clock()):
            raise AuthUnavailable
        return known.good.key


class DebugKeys:
    """One local key, for debug mode on one machine without Unkey.

    Its key id and its team are ``debug``. Whoever has it is the operator of that machine.
    """

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._digest = sha256(secret.encode()).digest()
        self._clock = clock

    async def verify(self, secret: str, *, max_age_secs: float) -> VerifiedKey:
        """The debug key, if ``secret`` is its secret; there is no answer that could grow old.

        Raises:
            Refused: ``invalid_api_key``.
        """
        digest = sha256(secret.encode("utf-8", "surrogatepass")).digest()
        if not hmac.compare_digest(digest, self._digest):
            raise Refused("invalid_api_key", "The API key is not valid.")
        permissions = frozenset({ADMIN, CONTENT, TEAM_LIMITS})
        return VerifiedKey("debug", "debug", "debug", permissions, {}, self._clock())

    async def check(self) -> None:
        """Do nothing: there is no service to ask."""

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""
