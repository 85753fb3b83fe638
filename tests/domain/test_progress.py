"""What is told of a thread, and what of it again to somebody who comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.progress import Progress, Seen, ThreadEvent, events_of
from flow.domain.calls.room_call import TURNS_OF_A_LEASE
from flow.domain.calls.thread import Status, Turn
from flow.domain.calls.tool_call import ToolCall, ToolOutcome
from flow.domain.limits.budget import Tier
from flow.errors import InvalidInput

T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
USAGE = {
    "total_cost_usd": Decimal("0.0213"),
    "total_tokens": 5120,
    "llm_calls": 7,
    "call_seconds": Decimal("95.0"),
    "models_used": {},
}
LATENCY = TurnLatency(0.2, 0.1, 0.3)


def turn(seq: int, role: str = "user") -> Turn:
    latency = LATENCY if role == "assistant" else None
    return Turn(seq, role, f"line {seq}", T0 + timedelta(seconds=seq % 100), latency=latency)


def progress(status: Status = Status.IN_CALL, turns: Sequence[Turn] = (), **given: Any) -> Progress:
    talked = status not in {Status.CREATED, Status.CONNECTING, Status.EXPIRED, Status.CANCELLED}
    over = talked and status is not Status.IN_CALL
    return Progress(
        **{
            "status": status,
            "created_at": T0,
            "connected_at": T0 + timedelta(seconds=1) if talked else None,
            "ended_at": T0 + timedelta(seconds=99) if over else None,
            "completed_at": T0 + timedelta(seconds=100) if status.is_final else None,
            "end_reason": "caller_hung_up" if over else None,
            "error": None,
            "usage_stats": USAGE,
            "tier": Tier.OK,
            "turns": tuple(turns),
            **given,
        }
    )


def told(events: Sequence[ThreadEvent]) -> list[str]:
    return [str(event.data.get("status", event.data.get("seq", event.type))) for event in events]


def test_a_whole_call_is_told_in_its_order() -> None:
    whole = progress(Status.COMPLETED, [turn(0, "assistant"), turn(1)])
    events = [*events_of(whole, Seen())]
    assert told(events) == ["created", "in_call", "0", "1", "usage", "ended", "completed"]
    assert [event.type for event in events][-2:] == ["status", "end"]
    reply = events[2].data
    assert reply["latency"] == {"total_secs": LATENCY.total_secs, **LATENCY.to_json()}
    assert events[4].data["budget_tier"] == "ok"
    assert events[4].data["total_cost_usd"] == Decimal("0.0213")
    assert events[-1].data["end_reason"] == "caller_hung_up"
    assert [event.seen.is_all for event in events] == 6 * [False] + [True]
    assert [*events_of(replace(whole, turns=()), events[-1].seen)] == []


def test_a_caller_is_told_what_was_said_and_nothing_of_the_service() -> None:
    failed = progress(Status.FAILED, [turn(0, "assistant")], error={"code": "vendor_failure"})
    events = [*events_of(failed, Seen(), whole=False)]
    assert told(events) == ["created", "in_call", "0", "ended", "failed"]
    assert not {"latency", "error"} & {name for event in events for name in event.data}


@pytest.mark.parametrize(
    "status", [Status.CREATED, Status.CONNECTING, Status.EXTRACTING, Status.EXPIRED]
)
def test_a_status_without_a_time_is_told_while_it_lasts(status: Status) -> None:
    assert str(status) in told([*events_of(progress(status), Seen())])


def use(number: int, outcome: ToolOutcome = ToolOutcome.RUNNING) -> ToolCall:
    return ToolCall(UUID(int=number), "find", {"n": number}, T0, outcome)


def test_uses_of_tools_are_told_when_they_begin_and_when_they_are_over() -> None:
    both = progress(tool_calls=((7, use(1)), (8, use(2))))
    *_, seen = [event.seen for event in events_of(both, Seen())]
    assert Seen.from_event_id(seen.event_id) == seen
    assert seen.tools == 8
    (first,) = events_of(progress(tool_calls=((9, use(1, ToolOutcome.FAILED)),)), seen)
    assert (first.type, first.data["outcome"], first.data["arguments"]) == (
        "tool_call",
        "failed",
        {"n": 1},
    )
    assert first.seen.tools == 9
    assert not [e for e in events_of(both, Seen(), whole=False) if e.type == "tool_call"]


def test_an_account_is_told_when_it_changes() -> None:
    [*first] = events_of(progress(), Seen())
    seen = first[-1].seen
    assert [*events_of(progress(), seen)] == []
    dearer = {**USAGE, "total_cost_usd": Decimal("0.0214")}
    assert told([*events_of(progress(usage_stats=dearer), seen)]) == ["usage"]
    assert told([*events_of(progress(tier=Tier.WARN), seen)]) == ["usage"]


STORY = [turn(0), turn(1), turn(TURNS_OF_A_LEASE), turn(2), turn(TURNS_OF_A_LEASE + 1), turn(3)]
"""The turns of a process that died come between those of the next."""


@given(st.lists(st.integers(1, len(STORY) - 1)), st.integers(0, 20))
def test_nothing_is_told_twice_or_never_however_often_somebody_comes_back(
    looks: list[int], forgotten: int
) -> None:
    heard: list[ThreadEvent] = []
    seen = Seen()
    for many in [*sorted(looks), len(STORY)]:
        new = [one for one in STORY[:many] if _is_new(one, seen)]
        status = Status.COMPLETED if many == len(STORY) else Status.IN_CALL
        events = [*events_of(progress(status, new), seen)]
        if many < len(STORY):
            # The connection breaks before all has come.
            events = events[: max(len(events) - forgotten, 0)]
        heard += events
        seen = Seen.from_event_id(heard[-1].seen.event_id) if heard else Seen()
    turns = [event.data["seq"] for event in heard if event.type == "turn"]
    assert sorted(turns) == sorted(one.seq for one in STORY)
    statuses = [event.data["status"] for event in heard if "status" in event.data]
    assert statuses == ["created", "in_call", "ended", "completed"]


def _is_new(one: Turn, seen: Seen) -> bool:
    lease = one.seq // TURNS_OF_A_LEASE
    return one.seq > seen.turns.get(lease, lease * TURNS_OF_A_LEASE - 1)


@pytest.mark.parametrize(
    "text",
    [
        *("x", "2", "6..", "2.0-1_.zz", "2.0.", "-2..", "2..\n", "1" * 9999),
        *("2.0-1_.", "2._0-1.", "2.0-11-1.", "2.0-1" + "_1-1" * 64 + "."),
        # Were there two ways to read it, this would take for ever.
        "2.0-" + "111111-" * 60 + "x",
    ],
)
def test_what_is_no_id_of_an_event_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Seen.from_event_id(text)
