"""Tasks that run as long as the service does."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from structlog.testing import capture_logs

from flow.app.background_work import run_until_left


async def test_a_task_that_fails_is_heard_of_at_once() -> None:
    async def fail() -> None:
        raise ValueError("a row that nobody can read")

    async def go_on() -> None:
        await asyncio.Event().wait()

    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            run_until_left(stack, fail(), "telephone")
            run_until_left(stack, go_on(), "heartbeat")
            async with asyncio.timeout(5):
                while not logs:
                    await asyncio.sleep(0)
            [log] = logs
            assert (log["event"], log["task"]) == ("background_task_failed", "telephone")
            assert "a row that nobody can read" in str(log["exc_info"])
    assert len(logs) == 1, "one that was stopped has not failed"
