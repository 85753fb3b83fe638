"""What is remembered of a billing service's answers, and for how long it holds."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from dataclasses import dataclass

from flow.vendors.quota_answer import QuotaState
from flow.vendors.quota_client import Failure, Question, Refusal

OPEN_SECS = 60.0
BACKOFF_SECS = (0.0, 5.0, 10.0, 20.0)
MAX_KNOWN = 10_000


@dataclass(slots=True)
class Memory:
    """What is known about one question. Times are seconds on the clock of whoever asks.

    ``state`` is the last good answer, to a question asked at ``said_at``; while it is limited it
    holds until ``resets_at``. ``trouble`` is what has come instead of an answer since. Before
    ``ask_again_at`` there is no reason to ask.
    """

    state: QuotaState | None = None
    said_at: float = -math.inf
    resets_at: float = math.inf
    trouble: Failure | Refusal | None = None
    failures: int = 0
    ask_again_at: float = -math.inf

    def open_state(self, now: float) -> QuotaState | None:
        """The last good answer, if it lets the team go on while there is no other."""
        if self.state is None or self.state.limited or now - self.said_at > OPEN_SECS:
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
        self.trouble, self.ask_again_at = failure, now + pause


class Memories:
    """One `Memory` for each question; beyond 10,000, the one unused longest is forgotten."""

    def __init__(self) -> None:
        self._by_question: OrderedDict[Question, Memory] = OrderedDict()
        # A source that refuses everybody would have all memories gone through for each of them.
        self._of_team: defaultdict[str, set[Question]] = defaultdict(set)

    def get(self, question: Question) -> Memory | None:
        """The memory of the question, which is thereby used."""
        memory = self._by_question.get(question)
        if memory is not None:
            self._by_question.move_to_end(question)
        return memory

    def put(self, question: Question, memory: Memory) -> None:
        """Remember this of the question, and nothing else."""
        self._by_question[question] = memory
        self._by_question.move_to_end(question)
        self._of_team[question.team_id].add(question)
        if len(self._by_question) > MAX_KNOWN:
            oldest, _ = self._by_question.popitem(last=False)
            self._of_team[oldest.team_id].discard(oldest)
            if not self._of_team[oldest.team_id]:
                del self._of_team[oldest.team_id]

    def forget_team(self, team_id: str) -> None:
        """Forget every question about the team."""
        for question in self._of_team.pop(team_id, ()):
            del self._by_question[question]
