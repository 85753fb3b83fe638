"""A bot's function has so much time before its call, and so much after it, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
import structlog
from pipecat.processors.filters.identity_filter import IdentityFilter
from structlog.testing import capture_logs

from flow.bot.custom.bot_run import BotRun
from flow.bot.custom.handover import Handover
from flow.domain.calls.ending import EndReason
from flow.errors import ConfigurationError

SOON_SECS = 0.05


def at_work(work: Coroutine[Any, Any, Any], handover: Handover, secs: float = 10.0) -> BotRun:
    log = structlog.get_logger(__name__)
    return BotRun("booking", work, handover, log, give_secs=secs, clear_up_secs=secs)


async def never() -> None:
    await asyncio.Event().wait()


async def deaf_once(handover: Handover) -> None:
    """Goes on when it is cancelled for the first time."""
    handover.given.set_result([IdentityFilter()])  # type: ignore[no-untyped-call]
    with suppress(asyncio.CancelledError):
        await never()
    await never()


async def test_a_bot_that_gives_no_pipeline_in_time_is_ended() -> None:
    run = at_work(never(), Handover(), SOON_SECS)
    with pytest.raises(ConfigurationError, match=r"no pipeline within 0\.05 s") as refused:
        await run.given()
    async with asyncio.timeout(10):
        await run.give_up(refused.value)


@pytest.mark.parametrize("is_over", [True, False], ids=["after-its-call", "without-a-call"])
async def test_a_bot_that_does_not_end_holds_nothing_up(is_over: bool) -> None:
    handover = Handover()
    run = at_work(deaf_once(handover), handover, SOON_SECS)
    await run.given()
    with capture_logs() as logged:
        async with asyncio.timeout(10):
            if is_over:
                await run.finish(EndReason.CALLER_HUNG_UP)
            else:
                await run.give_up(ConfigurationError("Nothing meters it."))
    assert [line["event"] for line in logged] == ["bot_cut_off"]


async def test_a_bot_that_runs_its_pipeline_is_told_why_the_call_ended() -> None:
    handover, told = Handover(), []

    async def bot() -> None:
        handover.given.set_result([])
        told.append(await handover.over)

    run = at_work(bot(), handover)
    assert await run.given() == []
    await run.finish(EndReason.IDLE_TIMEOUT)
    assert told == [EndReason.IDLE_TIMEOUT]


async def test_a_bot_whose_pipeline_cannot_be_run_may_clear_up() -> None:
    handover, told = Handover(), []

    async def bot() -> None:
        handover.given.set_result([])
        try:
            await handover.over
        except ConfigurationError as error:
            told.append(str(error))

    run = at_work(bot(), handover)
    await run.given()
    await run.give_up(ConfigurationError("Nothing meters it."))
    assert told == ["Nothing meters it."]
