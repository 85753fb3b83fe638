"""How a call goes on, as events: what is new of a thread to somebody who has seen so much of it.

An event's id says what was seen with it, so whoever brings it goes on from there, in any process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self
from zlib import crc32

from flow.domain.calls.room_call import TURNS_OF_A_LEASE
from flow.domain.calls.thread import Status, Turn
from flow.domain.calls.tool_call import ToolCall
from flow.domain.limits.budget import Tier
from flow.errors import FieldProblem, InvalidInput

_STEPS = (Status.CREATED, Status.CONNECTING, Status.IN_CALL, Status.ENDED, Status.EXTRACTING)
_NOTHING = -1
_BEFORE_CALL = _STEPS.index(Status.IN_CALL)
FINAL = len(_STEPS)
"""The step of every final state."""

# Matched before any key is looked at: a text can be read in one way only, so that none takes long.
_ID = re.compile(
    r"(-1|[0-5])\.((?:\d{1,5}-\d{1,9}(?:_\d{1,5}-\d{1,9}){0,63})?)\.([0-9a-f]{0,8})"
    r"(?:\.(\d{1,18}))?"
)
MAX_ID_CHARS = 1_200


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody has seen of a thread.

    Args:
        step: of the last status.
        turns: the last turn of each process that had the call, by its place among them: those
            of one that died may come after others of the next.
        usage: a digest of the last account.
        tools: the highest place of a use of a tool. A use has a higher one when it is over.
    """

    step: int = _NOTHING
    turns: Mapping[int, int] = field(default_factory=dict)
    usage: str = ""
    tools: int = 0

    @property
    def event_id(self) -> str:
        """All of it, as the id of an event."""
        turns = "_".join(f"{lease}-{seq}" for lease, seq in sorted(self.turns.items()))
        known = f"{self.step}.{turns}.{self.usage}"
        return f"{known}.{self.tools}" if self.tools else known

    @classmethod
    def from_event_id(cls, text: str) -> Self:
        """What had been seen with an event, by its id.

        Raises:
            InvalidInput: it is no id of an event.
        """
        found = _ID.fullmatch(text) if len(text) <= MAX_ID_CHARS else None
        if found is None:
            problem = FieldProblem("Last-Event-ID", "is not the id of an event of a thread")
            raise InvalidInput("The request is not valid.", [problem])
        step, turns, usage, tools = found.groups()
        pairs = (pair.split("-") for pair in turns.split("_")) if turns else ()
        seqs = {int(lease): int(seq) for lease, seq in pairs}
        return cls(int(step), seqs, usage, int(tools or 0))

    @property
    def is_all(self) -> bool:
        """Whether nothing more comes."""
        return self.step == FINAL


@dataclass(frozen=True, slots=True)
class Progress:
    """How a thread stands, with those of its turns and tool calls that were not seen yet.

    ``tier`` is that of the key's budget; ``None``: it has none. Uses of tools are in the order of
    their places, which come with them.
    """

    status: Status
    created_at: datetime
    connected_at: datetime | None
    ended_at: datetime | None
    completed_at: datetime | None
    end_reason: str | None
    error: Mapping[str, Any] | None
    usage_stats: Mapping[str, Any]
    tier: Tier | None
    turns: tuple[Turn, ...] = ()
    tool_calls: tuple[tuple[int, ToolCall], ...] = ()


@dataclass(frozen=True, slots=True)
class ThreadEvent:
    """One thing that happened. ``seen`` is what somebody has seen with it."""

    type: str
    data: Mapping[str, Any]
    seen: Seen


def events_of(progress: Progress, seen: Seen, *, whole: bool = True) -> Iterator[ThreadEvent]:
    """What is new to somebody who has seen so much, in the order in which it is told.

    Without ``whole`` it is told as to the caller: what was said, and neither cost nor errors.
    """
    steps = [*_steps(progress)]
    for step, data in steps:
        if seen.step < step <= _BEFORE_CALL:
            seen = replace(seen, step=step)
            yield ThreadEvent("status", data, seen)
    for turn in progress.turns:
        seen = replace(seen, turns={**seen.turns, turn.seq // TURNS_OF_A_LEASE: turn.seq})
        yield ThreadEvent("turn", _turn(turn, whole=whole), seen)
    for place, call in progress.tool_calls if whole else ():
        seen = replace(seen, tools=place)
        yield ThreadEvent("tool_call", _tool_call(call), seen)
    usage = _usage(progress)
    digest = f"{crc32(repr(usage).encode()):08x}"
    if whole and digest != seen.usage:
        seen = replace(seen, usage=digest)
        yield ThreadEvent("usage", usage, seen)
    for step, data in steps:
        if seen.step < step and step > _BEFORE_CALL:
            seen = replace(seen, step=step)
            yield ThreadEvent("status", data, seen)
    if progress.status.is_final and not seen.is_all:
        yield ThreadEvent("end", _end(progress, whole=whole), replace(seen, step=FINAL))


def _steps(progress: Progress) -> Iterator[tuple[int, dict[str, Any]]]:
    """The statuses that the thread has come by so far, as far as that is known."""
    times = {
        Status.CREATED: progress.created_at,
        Status.IN_CALL: progress.connected_at,
        Status.ENDED: progress.ended_at,
    }
    for step, status in enumerate(_STEPS):
        at = times.get(status)
        if at is not None or status is progress.status:
            yield step, {"status": status, "at": at}


def _turn(turn: Turn, *, whole: bool) -> dict[str, Any]:
    latency = turn.latency
    told = {
        "seq": turn.seq,
        "role": turn.role,
        "content": turn.content,
        "started_at": turn.started_at,
        "interrupted": turn.interrupted,
    }
    if not whole:
        return told
    waited = latency and {"total_secs": latency.total_secs, **latency.to_json()}
    return {**told, "latency": waited}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "name": call.name,
        "arguments": dict(call.arguments),
        "started_at": call.started_at,
        "outcome": call.outcome,
        "seconds": call.seconds,
        "transition_to": call.transition_to,
    }


def _usage(progress: Progress) -> dict[str, Any]:
    names = ("total_cost_usd", "total_tokens", "llm_calls", "call_seconds")
    known = {name: progress.usage_stats[name] for name in names}
    return {**known, "budget_tier": progress.tier and progress.tier.value}


def _end(progress: Progress, *, whole: bool) -> dict[str, Any]:
    told = {
        "status": progress.status,
        "at": progress.completed_at,
        "end_reason": progress.end_reason,
    }
    return {**told, "error": progress.error} if whole else told
