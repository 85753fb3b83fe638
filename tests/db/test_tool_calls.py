"""Uses of tools in the database: each once, by its id, whatever comes first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from flow.db.database import Database
from flow.domain.calls.thread import Status
from flow.domain.calls.tool_call import ThreadToolCall, ToolCall, ToolOutcome
from tests.db.making import a_key, a_thread, move

RUNNING = ToolCall(
    UUID(int=1), "find_booking", {"name": "A\x00da", "n": 2.5}, datetime(2026, 1, 2, tzinfo=UTC)
)
OK = replace(RUNNING, outcome=ToolOutcome.OK, seconds=0.5, status=200, result={"result": [1]})
UNKNOWN = replace(RUNNING, outcome=ToolOutcome.UNKNOWN)
FAILED = replace(RUNNING, outcome=ToolOutcome.FAILED, seconds=1.0, result={"error": "failed"})


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([[RUNNING]], RUNNING),
        ([[RUNNING], [OK]], OK),
        ([[RUNNING, OK]], OK),
        ([[OK], [RUNNING]], OK),
        ([[OK], [FAILED]], OK),
        ([[RUNNING], [UNKNOWN], [OK]], OK),
        ([[OK], [UNKNOWN]], OK),
        ([[RUNNING, UNKNOWN, OK]], OK),
    ],
)
async def test_the_first_outcome_of_a_use_that_says_something_stands(
    database: Database, batches: list[list[ToolCall]], expected: ToolCall
) -> None:
    thread = await a_thread(database, await a_key(database))
    for batch in batches:
        calls = [ThreadToolCall(thread.id, call) for call in batch]
        assert await database.save_tool_calls(calls) == frozenset()
    (kept,) = (await database.get_workflow_thread_data(thread.id)).tool_calls
    assert kept == replace(expected, arguments={"name": "Ada", "n": 2.5})


async def test_a_use_that_was_cut_off_with_its_process_is_told_so_when_the_call_is_over(
    database: Database,
) -> None:
    thread = await a_thread(database, await a_key(database))
    await database.save_tool_calls([ThreadToolCall(thread.id, RUNNING)])
    await move(database, thread, Status.IN_CALL)
    (during,) = (await database.get_workflow_thread_data(thread.id)).tool_calls
    (after,) = (await database.finish_thread(thread.id, Status.FAILED)).tool_calls
    assert (during.outcome, after.outcome) == ("running", "unknown")


async def test_uses_of_a_thread_that_is_gone_are_told(database: Database) -> None:
    gone = uuid4()
    assert await database.save_tool_calls([ThreadToolCall(gone, OK)]) == {gone}
