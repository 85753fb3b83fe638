"""What a bot is to say or know comes to its model one after the other."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from pipecat.frames.frames import Frame, LLMMessagesAppendFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregatorParams

from flow.bot.pipeline import CallPipeline, spoken_by_model, spoken_by_voice
from flow.bot.steering import Steering
from flow.bot.turn_order import OrderedTurns
from flow.domain.calls.command import SayRequest

STARTED, STOPPED = "on_assistant_turn_started", "on_assistant_turn_stopped"


class Queue:
    """A pipeline's worker that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    async def queue_frames(self, frames: list[Frame]) -> None:
        self.frames += frames

    @property
    def told(self) -> list[str]:
        """What a model was told to say."""
        found = [frame for frame in self.frames if isinstance(frame, LLMMessagesAppendFrame)]
        return [str(frame.messages[0]).partition("nothing else: ")[2][:3] for frame in found]


def steering(speak: Any, *, is_gathered: bool = True) -> tuple[Steering, Queue, Any]:
    assistant = OrderedTurns(LLMContext(), LLMUserAggregatorParams(), realtime=True).assistant()
    queue: Any = Queue()
    nobody: Any = None
    pipeline = CallPipeline(
        queue, nobody, assistant if is_gathered else None, nobody, nobody, nobody, nobody,
        speak=speak,
    )  # fmt: skip
    return Steering(pipeline, nobody), queue, assistant


async def happens(assistant: Any, event: str, *about: Any) -> None:
    """What the gatherer of the bot's words tells, to those who are told in tasks of their own."""
    await assistant._call_event_handler(event, *about)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_model_that_speaks_says_one_thing_after_the_other() -> None:
    steered, queue, assistant = steering(spoken_by_model)
    for text in ("one", "two", "six"):
        assert await steered.carry_out(SayRequest(text=text)) is None
    assert queue.told == ["one"]
    for told in (["one"], ["one", "two"], ["one", "two", "six"]):
        await happens(assistant, STARTED)
        assert queue.told == told
        await happens(assistant, STOPPED, SimpleNamespace())
    assert queue.told == ["one", "two", "six"]


@pytest.mark.parametrize(
    ("speak", "is_gathered"),
    [(spoken_by_voice, True), (spoken_by_model, False)],
    ids=["a-voice-has-a-queue-of-its-own", "nobody-tells-of-answers"],
)
async def test_where_no_answer_is_waited_for_all_of_it_is_queued(
    speak: Any, is_gathered: bool
) -> None:
    steered, queue, _ = steering(speak, is_gathered=is_gathered)
    for text in ("one", "two"):
        assert await steered.carry_out(SayRequest(text=text)) is None
    before = len(queue.frames)
    assert await steered.carry_out(SayRequest(text="six")) is None
    assert len(queue.frames) > before
