"""Silence ends a caller's turn, and the model may have been asked before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    Frame,
    InterimTranscriptionFrame,
    LLMContextFrame,
    TranscriptionFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMUserAggregator,
    LLMUserAggregatorParams,
)
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from flow.bot.turn_stop import SilenceTurnStop, is_sentence
from tests.bot.running import Witness, started

SILENCE_SECS = 0.4
WHOLE, PART = "Are you open today?", "I would like a table for"


class Call:
    """A caller's turn as the aggregator sees it, and what it makes of it."""

    def __init__(self, worker: PipelineWorker, witness: Witness, context: LLMContext) -> None:
        self.worker, self.witness, self.context = worker, witness, context

    async def speaks(self) -> None:
        await self.worker.queue_frame(VADUserStartedSpeakingFrame(start_secs=0.2))

    async def falls_silent(self) -> None:
        """The silence is noticed at once, 0.2 s after it began."""
        await asyncio.sleep(0.03)  # its frame overtakes those of words
        await self.worker.queue_frame(VADUserStoppedSpeakingFrame(stop_secs=0.2))

    async def is_understood(self, text: str, *, final: bool = True) -> None:
        frame = TranscriptionFrame(text, "caller", "2026-11-21T12:00:00Z")
        frame.finalized = final
        await self.worker.queue_frame(frame)

    async def says(self, text: str) -> None:
        await self.speaks()
        await self.falls_silent()
        await self.is_understood(text)

    async def seen(self, kind: type[Frame], within_secs: float = 3.0) -> float:
        """How long it took until a frame of the kind passed."""
        begun = time.monotonic()
        async with asyncio.timeout(within_secs):
            while not self.witness.of(kind):
                await asyncio.sleep(0.005)
        return time.monotonic() - begun

    def passed(self, *kinds: type[Frame]) -> list[str]:
        return [type(f).__name__ for f, _ in self.witness.seen if isinstance(f, kinds)]

    @property
    def asked(self) -> list[tuple[str, bool]]:
        """What the model was asked, and whether the turn was not surely over."""
        frames = self.witness.of(LLMContextFrame)
        return [(str(f.context.messages[-1]["content"]), f.speculation) for f in frames]


@asynccontextmanager
async def calling(
    *, early: bool = False, may_be_speech: Callable[[], bool] = lambda: False
) -> AsyncIterator[Call]:
    stop = SilenceTurnStop(SILENCE_SECS, may_ask_early=lambda: early, may_be_speech=may_be_speech)
    context = LLMContext()
    user = LLMUserAggregator(
        context,
        params=LLMUserAggregatorParams(
            user_turn_strategies=UserTurnStrategies(start=[VADUserTurnStartStrategy()], stop=[stop])
        ),
    )
    witness = Witness()
    async with started([user, witness]) as worker:
        yield Call(worker, witness, context)


@pytest.mark.parametrize(("text", "share"), [(WHOLE, 0.5), (PART, 1.0)])
async def test_a_turn_ends_sooner_after_a_sentence(text: str, share: float) -> None:
    async with calling() as call:
        await call.says(text)
        took = await call.seen(UserStoppedSpeakingFrame)
        assert took == pytest.approx(SILENCE_SECS * share, abs=0.1)
        assert call.asked == [(text, False)]


async def test_a_transcript_that_comes_late_ends_the_turn_at_once() -> None:
    async with calling() as call:
        await call.speaks()
        await call.falls_silent()
        await asyncio.sleep(1.5 * SILENCE_SECS)
        assert not call.passed(UserStoppedSpeakingFrame)
        await call.is_understood(WHOLE)
        assert await call.seen(UserStoppedSpeakingFrame) < 0.1


async def test_a_caller_who_goes_on_is_not_cut_off() -> None:
    async with calling() as call:
        await call.says("I would like a table.")
        await asyncio.sleep(0.25 * SILENCE_SECS)
        await call.says("For four, please.")
        await call.seen(UserStoppedSpeakingFrame)
        assert call.asked == [("I would like a table. For four, please.", False)]


async def test_sound_that_may_be_speech_is_waited_for() -> None:
    sounds = True
    async with calling(may_be_speech=lambda: sounds) as call:
        await call.says(WHOLE)
        await asyncio.sleep(0.5 * SILENCE_SECS + 0.1)
        assert not call.passed(UserStoppedSpeakingFrame)
        sounds = False
        assert await call.seen(UserStoppedSpeakingFrame) < 0.1


async def test_a_microphone_that_falls_silent_in_a_sound_holds_up_nothing() -> None:
    async with calling(may_be_speech=lambda: True) as call:
        await call.says(WHOLE)
        assert 0.5 * SILENCE_SECS < await call.seen(UserStoppedSpeakingFrame) < 2


class TestTheModelIsAskedEarly:
    """Before the turn is over, and once for what the caller has said."""

    async def test_and_not_again_when_the_turn_is_over(self) -> None:
        async with calling(early=True) as call:
            await call.says(WHOLE)
            assert await call.seen(LLMContextFrame) < 0.1
            assert not call.passed(UserStoppedSpeakingFrame)
            assert not call.context.messages
            await call.seen(UserStoppedSpeakingFrame)
            await asyncio.sleep(0.05)
            assert call.asked == [(WHOLE, True)]
            assert call.context.messages == [{"role": "user", "content": WHOLE}]
            assert not call.passed(EagerEndOfTurnCancelFrame)

    async def test_and_later_where_more_is_likely_to_come(self) -> None:
        async with calling(early=True) as call:
            await call.says(PART)
            took = await call.seen(LLMContextFrame)
            assert took == pytest.approx(SILENCE_SECS * 0.5, abs=0.1)
            await call.seen(UserStoppedSpeakingFrame)
            await asyncio.sleep(0.05)
            assert call.asked == [(PART, True)]

    async def test_and_again_when_the_caller_goes_on(self) -> None:
        async with calling(early=True) as call:
            await call.says("I would like a table.")
            await call.seen(LLMContextFrame)
            await call.says("For four, please.")
            await call.seen(UserStoppedSpeakingFrame)
            both = "I would like a table. For four, please."
            assert call.asked == [("I would like a table.", True), (both, True)]
            assert call.passed(LLMContextFrame, EagerEndOfTurnCancelFrame) == [
                "LLMContextFrame",
                "EagerEndOfTurnCancelFrame",
                "LLMContextFrame",
            ]
            await asyncio.sleep(0.05)
            assert call.context.messages == [{"role": "user", "content": both}]

    async def test_and_again_when_more_words_come_without_speech(self) -> None:
        async with calling(early=True) as call:
            await call.says("I would like a table.")
            await call.seen(LLMContextFrame)
            await call.is_understood("For four.", final=False)
            await call.seen(UserStoppedSpeakingFrame)
            assert call.asked[-1][0] == "I would like a table. For four."
            cancelled = call.passed(EagerEndOfTurnCancelFrame, UserStoppedSpeakingFrame)
            assert cancelled == ["EagerEndOfTurnCancelFrame", "UserStoppedSpeakingFrame"]

    async def test_of_words_that_came_before_the_silence_was_noticed(self) -> None:
        async with calling(early=True) as call:
            await call.speaks()
            await call.is_understood(WHOLE, final=False)
            await call.falls_silent()
            assert await call.seen(LLMContextFrame) < 0.1
            await call.seen(UserStoppedSpeakingFrame)
            assert call.asked == [(WHOLE, True)]

    async def test_but_not_while_more_words_are_coming(self) -> None:
        async with calling(early=True) as call:
            await call.speaks()
            await call.is_understood(WHOLE, final=False)
            await call.worker.queue_frame(
                InterimTranscriptionFrame("And", "caller", "2026-11-21T12:00:00Z")
            )
            await call.falls_silent()
            await call.seen(UserStoppedSpeakingFrame)
            await asyncio.sleep(0.05)
            assert call.asked == [(WHOLE, False)]

    async def test_and_once_more_after_it_wanted_a_tool(self) -> None:
        """Its service withdraws the reply then, since a tool may have effects."""
        async with calling(early=True) as call:
            await call.says(WHOLE)
            await call.seen(LLMContextFrame)
            await call.worker.queue_frame(EagerEndOfTurnCancelFrame())
            await call.seen(UserStoppedSpeakingFrame)
            await asyncio.sleep(0.05)
            assert call.asked == [(WHOLE, True), (WHOLE, False)]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Yes.", True),
        ("What is it for?", True),
        ("He said \u201cno.\u201d", True),
        ("It costs $3.50.", True),
        ("\u4e88\u7d04\u3057\u305f\u3044\u3002", True),
        ("Yes", False),
        ("I would like a table for.", False),
        ("I would like a table,", False),
        ("Um.", False),
        ("Well...", False),
        ("And\u2026", False),
        ("", False),
    ],
)
def test_a_sentence_is_told_by_its_end(text: str, whole: bool) -> None:
    assert is_sentence(text) is whole
