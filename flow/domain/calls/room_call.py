"""A call in a room that any process may take up, at first or when another has left it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.room import Room
from flow.domain.calls.thread import Thread

# Beyond the longest call: the bot ends it, and the vendor only if no bot is left to do so.
MARGIN = timedelta(seconds=120)

TURNS_OF_A_LEASE = 10_000
"""Each process that takes a call up numbers its turns from a multiple of this: what was said to a
bot that is gone may come to the database later, and has its numbers."""

BACK = "Sorry, I was cut off for a moment. I am here again."


def lasts_until(caller_until: datetime, longest_secs: int) -> datetime:
    """When a room and the ways into it end, for a caller who may come until ``caller_until``."""
    return caller_until + timedelta(seconds=longest_secs) + MARGIN


@dataclass(frozen=True, slots=True)
class OpenRoom:
    """What is kept of a room for those who enter it later.

    Its `Room` has no token: one is made for each who enters, good until ``lasts_until``.
    ``trace`` is the span of the join as a ``traceparent`` header, where calls are traced.
    """

    room: Room
    lasts_until: datetime
    trace: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is stored; a token never is."""
        return {
            "type": self.room.type,
            "url": self.room.url,
            "name": self.room.name,
            "lasts_until": self.lasts_until.isoformat(),
            "trace": self.trace,
        }

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> OpenRoom:
        """What `to_json` gave."""
        room = Room(kept["type"], kept["url"], None, kept["name"])
        return cls(room, datetime.fromisoformat(kept["lasts_until"]), kept["trace"])


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a call in the queue: whose it is, and how often it was to be taken up before.

    An ``attempt`` is taken by one process at most. ``tries`` counts those that had no room for it.
    """

    thread_id: UUID
    api_key_id: UUID
    attempt: int = 0
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A call as the process that took it finds it.

    ``wait_secs`` is how long its caller may take to come, or to be found again.
    ``elapsed_secs`` counts from the caller's first coming; ``None``: nobody has come yet.
    """

    thread: Thread
    open_room: OpenRoom
    wait_secs: float
    elapsed_secs: float | None

    @property
    def is_under_way(self) -> bool:
        """Whether the caller has been talking with another bot of this call."""
        return self.elapsed_secs is not None

    def join(self, back: str = BACK) -> JoinRequest:
        """The join for what is left of the call: a bot that comes back says so, and no greeting."""
        join = self.thread.join
        if self.elapsed_secs is None:
            return join
        assert join.max_duration_secs is not None, "the join was not resolved"
        left = max(0, round(join.max_duration_secs - self.elapsed_secs))
        bot = join.bot.model_copy(update={"greeting": back})
        return join.model_copy(update={"bot": bot, "max_duration_secs": left})
