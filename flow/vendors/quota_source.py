"""Whether a team may go on, as the operator's own billing service says, and what holds when it
says nothing. What goes over the wire is in `flow.vendors.quota_client`.

`QuotaSource` remembers what was said for each team, key and product, under these rules:

- A good answer is reused for seconds: 15 when the team may go on, 5 when it is limited, and
  never past the time its limit resets.
- After a failure the source is asked again on the next call; after that fails too, not before
  5, 10 and then always 20 s have passed. In between, memory answers at once.
- While the source fails, it fails **open** for 60 s after the last good answer, if that was for
  this very team, key and product and said that the team may go on. Otherwise it fails
  **closed**: a limited team stays limited, and about any other it cannot be told. Each such
  decision is logged and counted.
- A refusal (4xx) never lets anybody in. It drops at once all that is remembered of the team.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import NoReturn

import structlog
from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr

from flow.domain.limits.api_key import ApiKey
from flow.errors import QuotaUnavailable
from flow.vendors.quota_answer import QuotaState
from flow.vendors.quota_client import Answer, Failure, Question, QuotaClient, Refusal
from flow.vendors.quota_memory import Memories, Memory
from flow.vendors.quota_refusal import exceeded

__all__ = ["QuotaSource", "QuotaState"]

log = structlog.get_logger(__name__)

TIME_LIMIT_SECS = 2.0
REUSE_SECS = 15.0
REUSE_LIMITED_SECS = 5.0
REFUSAL_SECS = 1.0


class QuotaSource:
    """Asks the billing service and remembers; one per process. Close it with `aclose`.

    Args:
        url: where to ask; may have a query of its own.
        token: sent as a bearer token, where given.
        clock: seconds that never go back; ages are measured on it.
        wall_clock: seconds since 1970; only the time a limit resets is read against it.
        registry: where ``flow_quota_checks_total`` is counted.
        time_limit_secs: how long one caller waits at most, connecting included.
        reuse_secs: how long a good answer is reused.

    Raises:
        ConfigurationError: the URL or the token cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: SecretStr | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        registry: CollectorRegistry | None = None,
        time_limit_secs: float = TIME_LIMIT_SECS,
        reuse_secs: float = REUSE_SECS,
    ) -> None:
        self._client = QuotaClient(url, token, time_limit_secs=time_limit_secs)
        self._clock = clock
        self._wall_clock = wall_clock
        self._reuse_secs = reuse_secs
        self._known = Memories()
        self._flights: dict[Question, asyncio.Task[Answer]] = {}
        self._outcomes = Counter(
            "flow_quota_checks",
            "Questions about quotas to the billing service, by how they were decided.",
            ["outcome"],
            registry=registry or CollectorRegistry(),
        )

    async def check(self, key: ApiKey, product: str) -> QuotaState:
        """The team's state, when a call of ``product`` may go on.

        Raises:
            Refused: ``quota_exceeded``; the team is limited.
            QuotaUnavailable: it cannot be told.
        """
        state = await self.state(key, product)
        if state.limited:
            raise exceeded(state, product, self._wall_clock())
        return state

    async def state(self, key: ApiKey, product: str) -> QuotaState:
        """The team's state, limited or not.

        Raises:
            QuotaUnavailable: the source fails and what is remembered does not let the team go
                on, or the source refuses the question. A refusal is the operator's to mend (a
                wrong URL or token, a team that billing does not know): to the caller the service
                is not available, and nobody is let in on the strength of it.
        """
        question = Question(key.team_id, str(key.id), product)
        memory = self._known.get(question)
        if memory is None or self._clock() >= memory.ask_again_at:
            return self._settle(question, await self._ask_once(question))
        if memory.trouble is not None:
            return self._settle(question, memory.trouble)
        assert memory.state is not None
        self._outcomes.labels("remembered").inc()
        return memory.state

    async def aclose(self) -> None:
        """Stop asking and close the connections."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await self._client.aclose()

    async def _ask_once(self, question: Question) -> Answer:
        """One flight at a time per question; a caller who gives up does not end it for others."""
        flight = self._flights.get(question)
        if flight is None:
            flight = asyncio.create_task(self._ask(question))
            self._flights[question] = flight
            flight.add_done_callback(lambda _: self._flights.pop(question, None))
        await asyncio.wait([flight])
        return Failure("closed") if flight.cancelled() else flight.result()

    async def _ask(self, question: Question) -> Answer:
        asked_at = self._clock()
        answer = await self._client.ask(question)
        if isinstance(answer, QuotaState):
            self._known.put(question, self._good(answer, asked_at))
        elif isinstance(answer, Refusal):
            self._known.forget_team(question.team_id)
            again_at = self._clock() + REFUSAL_SECS
            self._known.put(question, Memory(trouble=answer, ask_again_at=again_at))
        else:
            memory = self._known.get(question) or Memory()
            memory.fail(answer, self._clock())
            self._known.put(question, memory)
        return answer

    def _good(self, state: QuotaState, asked_at: float) -> Memory:
        """The answer is as old as its question: what the source did not know then it did not
        say."""
        resets_at, reuse_secs = math.inf, self._reuse_secs
        if state.limited:
            reuse_secs = min(REUSE_LIMITED_SECS, reuse_secs)
            if state.resets_at is not None:
                left = state.resets_at.timestamp() - self._wall_clock()
                resets_at = self._clock() + left
        ask_again_at = min(asked_at + reuse_secs, resets_at)
        return Memory(state, asked_at, resets_at, ask_again_at=ask_again_at)

    def _settle(self, question: Question, answer: Answer) -> QuotaState:
        """What ``answer`` means for one caller; counted, and logged unless it is a good one."""
        if isinstance(answer, QuotaState):
            self._outcomes.labels("answered").inc()
            return answer
        if isinstance(answer, Refusal):
            self._refuse(question, answer)
        return self._fall_back(question, answer)

    def _refuse(self, question: Question, refusal: Refusal) -> NoReturn:
        self._outcomes.labels("refused").inc()
        log.error("quota_source_refused", status=refusal.status, **_who(question))
        raise QuotaUnavailable(
            f"The billing service refused the question about this team (HTTP {refusal.status}):"
            " whoever operates this service has to mend that."
        )

    def _fall_back(self, question: Question, failure: Failure) -> QuotaState:
        """Decide from memory alone."""
        memory, now = self._known.get(question) or Memory(), self._clock()
        who = {"reason": failure.reason, **_who(question)}
        if (good := memory.open_state(now)) is not None:
            self._outcomes.labels("failed_open").inc()
            age = round(now - memory.said_at, 1)
            log.warning("quota_source_failed_open", good_secs_ago=age, **who)
            return good
        limited = memory.limited_state(now)
        self._outcomes.labels("failed_closed").inc()
        log.error("quota_source_failed_closed", limited=limited is not None, **who)
        if limited is None:
            raise QuotaUnavailable
        return limited


def _who(question: Question) -> dict[str, str]:
    return {
        "team_id": question.team_id,
        "api_key_id": question.api_key_id,
        "product": question.product,
    }
