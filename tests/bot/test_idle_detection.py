"""A call is idle when nobody has spoken for long enough, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from pipecat.frames.frames import (
    BotSpeakingFrame,
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    TextFrame,
    UserSpeakingFrame,
    UserStartedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection

from flow.bot.idle_detection import IdleWatch
from tests.bot.running import Witness, started

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM


async def test_a_pipeline_that_never_started_is_not_idle() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(IdleWatch(0.01).idle(), 0.1)


@pytest.mark.parametrize(
    ("frame", "direction", "is_sign"),
    [
        (UserSpeakingFrame, DOWN, True),
        (UserStartedSpeakingFrame, DOWN, True),
        (lambda: LLMContextFrame(LLMContext()), DOWN, True),
        (BotSpeakingFrame, UP, True),
        (lambda: TextFrame("words"), DOWN, False),
        (lambda: InputAudioRawFrame(bytes(640), 16_000, 1), DOWN, False),
    ],
    ids=["user", "user-started", "context", "bot", "text", "audio"],
)
async def test_somebody_speaking_starts_the_wait_anew_and_nothing_else_does(
    frame: Callable[[], Frame], direction: FrameDirection, is_sign: bool
) -> None:
    clock = 100.0
    watch, before, behind = IdleWatch(60, now=lambda: clock), Witness(), Witness()
    async with started([before, watch, behind]) as worker:
        clock = 150.0
        assert watch.left_secs == 10
        passed = frame()
        await worker.queue_frame(passed, direction)
        seen = behind if direction is DOWN else before
        async with asyncio.timeout(10):
            while not seen.of(type(passed)):
                await asyncio.sleep(0.001)
        assert watch.left_secs == (60 if is_sign else 10)


async def test_the_wait_ends_when_nobody_has_spoken_for_so_long() -> None:
    watch = IdleWatch(0.05)
    async with started([watch]), asyncio.timeout(10):
        await watch.idle()
        assert watch.left_secs <= 0
