"""Whether a team may go on, as the operator's own billing service says, with a cache for outages.

`QuotaSource` keeps the last answer for each team, key and product, under these rules:

- A good answer is reused for seconds: 15 when the team may go on, 5 when it is limited, and
  never past the time its limit resets.
- After a failure the source is asked again on the next call; after that fails too, not before
  5, 10 and then always 20 s have passed. In between, the cache answers at once.
- While the source fails, it fails **open** for 60 s after the last good answer, if that was for
  this very team, key and product and said that the team may go on. Otherwise it fails
  **closed**: a limited team stays limited, and any other gets `QuotaUnavailable`. Each such
  decision is logged and counted.
- A refusal (4xx) never lets anybody in. It drops at once all that is kept of the team.

`flow.vendors.quota_client` has the wire protocol.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import structlog
from cachetools import LRUCache
from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr

from flow.domain.limits.api_key import ApiKey
from flow.errors import QuotaUnavailable
from flow.kit.single_flight import SingleFlight
from flow.vendors.quota_answer import QuotaState
from flow.vendors.quota_client import Answer, Failure, Question, QuotaClient, Refusal

__all__ = ["QuotaSource", "QuotaState"]

log = structlog.get_logger(__name__)

TIME_LIMIT_SECS = 2.0
REUSE_SECS = 15.0
REUSE_LIMITED_SECS = 5.0
REFUSAL_SECS = 1.0
OPEN_SECS = 60.0
BACKOFF_SECS = (0.0, 5.0, 10.0, 20.0)
MAX_KNOWN = 10_000


@dataclass(slots=True)
class _Known:
    """What is known about one question. Times are seconds on the source's clock.

    ``state`` is the last good answer, to a question asked at ``asked_at``; while it is limited it
    holds until ``resets_at``. ``problem`` is what has come instead of an answer since. Before
    ``ask_again_at`` the source is not asked.
    """

    state: QuotaState | None = None
    asked_at: float = -math.inf
    resets_at: float = math.inf
    problem: Failure | Refusal | None = None
    failures: int = 0
    ask_again_at: float = -math.inf

    def open_state(self, now: float) -> QuotaState | None:
        """The last good answer, if it lets the team go on while there is no other."""
        if self.state is None or self.state.limited or now - self.asked_at > OPEN_SECS:
            return None
        return self.state

    def limited_state(self, now: float) -> QuotaState | None:
        """The last good answer, if it still holds the team back."""
        if self.state is None or not self.state.limited or now >= self.resets_at:
            return None
        return self.state

    def fail(self, failure: Failure, now: float) -> None:
        """Note a failure: the more in a row, the longer the pause before the next question."""
        pause = BACKOFF_SECS[min(self.failures, len(BACKOFF_SECS) - 1)]
        self.failures += 1
        self.problem, self.ask_again_at = failure, now + pause


class _Cache(LRUCache[Question, _Known]):
    """What is known about each question, with an index of every team's questions.

    A source that refuses everybody would have the whole cache searched for each of them.
    """

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._of_team: defaultdict[str, set[Question]] = defaultdict(set)

    def __setitem__(self, question: Question, known: _Known) -> None:
        super().__setitem__(question, known)
        self._of_team[question.team_id].add(question)

    def __delitem__(self, question: Question) -> None:
        super().__delitem__(question)
        questions = self._of_team[question.team_id]
        questions.discard(question)
        if not questions:
            del self._of_team[question.team_id]

    def drop_team(self, team_id: str) -> None:
        """Drop every question about the team."""
        for question in list(self._of_team.get(team_id, ())):
            del self[question]


class QuotaSource:
    """Asks the billing service and keeps its answers; one per process. Close it with `aclose`.

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
        self._known = _Cache(MAX_KNOWN)
        self._questions: SingleFlight[Question, Answer] = SingleFlight()
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
            QuotaUnavailable: as `state` raises it.
        """
        state = await self.state(key, product)
        if state.limited:
            raise state.refusal(product, self._wall_clock())
        return state

    async def state(self, key: ApiKey, product: str) -> QuotaState:
        """The team's state, limited or not.

        Raises:
            QuotaUnavailable: the source fails and the cache does not let the team go on, or the
                source refuses the question. A refusal is the operator's to correct (a wrong URL
                or token, a team that billing does not know): to the caller the service is not
                available, and it lets nobody in.
        """
        question = Question(key.team_id, str(key.id), product)
        known = self._known.get(question)
        if known is None or self._clock() >= known.ask_again_at:
            return self._settle(question, await self._ask_once(question))
        if known.problem is not None:
            return self._settle(question, known.problem)
        assert known.state is not None
        self._outcomes.labels("remembered").inc()
        return known.state

    async def aclose(self) -> None:
        """End questions under way and close the connections."""
        await self._questions.aclose()
        await self._client.aclose()

    async def _ask_once(self, question: Question) -> Answer:
        """The source's answer; callers with the same question share one request."""
        answer = await self._questions.run(question, lambda: self._ask(question))
        return Failure("closed") if answer is None else answer

    async def _ask(self, question: Question) -> Answer:
        asked_at = self._clock()
        answer = await self._client.ask(question)
        if isinstance(answer, QuotaState):
            self._known[question] = self._good(answer, asked_at)
        elif isinstance(answer, Refusal):
            self._known.drop_team(question.team_id)
            again_at = self._clock() + REFUSAL_SECS
            self._known[question] = _Known(problem=answer, ask_again_at=again_at)
        else:
            known = self._known.setdefault(question, _Known())
            known.fail(answer, self._clock())
        return answer

    def _good(self, state: QuotaState, asked_at: float) -> _Known:
        """The answer is as old as its question: what happened since, it need not include."""
        resets_at, reuse_secs = math.inf, self._reuse_secs
        if state.limited:
            reuse_secs = min(REUSE_LIMITED_SECS, reuse_secs)
            if state.resets_at is not None:
                left_secs = state.resets_at.timestamp() - self._wall_clock()
                resets_at = self._clock() + left_secs
        ask_again_at = min(asked_at + reuse_secs, resets_at)
        return _Known(state, asked_at, resets_at, ask_again_at=ask_again_at)

    def _settle(self, question: Question, answer: Answer) -> QuotaState:
        """The outcome of ``answer`` for one caller; counted, and logged unless it is good."""
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
        """Decide from the cache alone."""
        known, now = self._known.get(question) or _Known(), self._clock()
        who = {"reason": failure.reason, **_who(question)}
        if (good := known.open_state(now)) is not None:
            self._outcomes.labels("failed_open").inc()
            age = round(now - known.asked_at, 1)
            log.warning("quota_source_failed_open", good_secs_ago=age, **who)
            return good
        limited = known.limited_state(now)
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
