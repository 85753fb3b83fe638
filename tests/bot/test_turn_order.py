"""The order in which turns are written, where an answer is interrupted in its first moment."""

from __future__ import annotations

import asyncio
from typing import Any

from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputTransportMessageFrame,
    TranscriptionFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)

from flow.bot.turn_order import OrderedTurns
from tests.bot.running import Witness, started

ASKED, BEGUN, MORE = "Tell me a story.", "Once upon", "No, stop."


def heard(text: str) -> Frame:
    return TranscriptionFrame(text, "caller", "2026-11-21T12:00:00Z")


async def written(
    pair: LLMContextAggregatorPair, context: LLMContext, *frames: Frame
) -> list[tuple[str, str]]:
    """What stands in the context, after these frames have passed one after the other."""
    end = Witness()
    async with started([pair.user(), pair.assistant(), end]) as worker:
        for frame in frames:
            await worker.queue_frame(frame)
            # Not `sees`: text would be a part of the answer.
            passes = frame
            if not isinstance(frame, InterruptionFrame):
                passes = OutputTransportMessageFrame({})
                await worker.queue_frame(passes)
            async with asyncio.timeout(10):
                while not any(one is passes for one, _ in end.seen):
                    await asyncio.sleep(0.001)
    return [(str(one["role"]), str(one["content"])) for one in _messages(context)]


def _messages(context: LLMContext) -> list[Any]:
    return [*context.get_messages()]


def interrupted() -> list[Frame]:
    return [
        heard(ASKED),
        LLMFullResponseStartFrame(),
        LLMTextFrame(BEGUN),
        InterruptionFrame(),
    ]


async def test_the_callers_turn_comes_before_the_answer_that_was_cut_off() -> None:
    context = LLMContext()
    pair = OrderedTurns(context, LLMUserAggregatorParams(), realtime=True)
    assert (await written(pair, context, *interrupted()))[:2] == [
        ("user", ASKED),
        ("assistant", BEGUN),
    ]


async def test_words_that_come_before_an_answer_are_one_turn() -> None:
    context = LLMContext()
    pair = OrderedTurns(context, LLMUserAggregatorParams(), realtime=True)
    first = [heard("Hello,"), InterruptionFrame(), heard("are you open?")]
    (turn, *_) = await written(
        pair, context, *first, LLMFullResponseStartFrame(), LLMTextFrame(BEGUN), InterruptionFrame()
    )
    assert turn == ("user", "Hello, are you open?")


async def test_a_caller_who_is_not_listened_to_is_not_heard_further_down_either() -> None:
    pair = OrderedTurns(LLMContext(), LLMUserAggregatorParams(), realtime=True)
    before, after = (InputAudioRawFrame(sound, 16_000, 1) for sound in (b"\0\0", b"\1\0"))
    end = Witness()
    async with started([pair.user(), end]) as worker:
        await worker.queue_frame(before)
        await end.sees(worker)
        pair.user().stop_listening()
        await worker.queue_frame(after)
        await end.sees(worker)
    assert end.of(InputAudioRawFrame) == [before]
