"""What a call's customer has its bot say or know, made into frames of the call's pipeline."""

from __future__ import annotations

from collections import deque
from typing import Any

from pipecat.frames.frames import (
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.utils.time import time_now_iso8601

from flow.bot.pipeline import CallPipeline, spoken_by_model
from flow.bot.transcript import Transcript
from flow.bot.vendors.context_frames import ConversationNote, ordered_interruption
from flow.domain.calls.command import MessageRequest, Order, SayRequest

MUTE = "The bot's own pipeline has no voice: it cannot be made to speak."
DEAF = "The bot's own pipeline keeps no conversation that a message could be added to."
_INSTRUCTION = "An instruction of the service that you work for, which the caller did not say: "


class Steering:
    """Carries out orders, in the order in which they come.

    A model that speaks by itself drops what it is saying when it is told anything, so without
    ``interrupt`` it is told when its answer is over, or the one that is due to what it was told
    before.
    """

    def __init__(self, pipeline: CallPipeline, transcript: Transcript) -> None:
        self._pipeline = pipeline
        self._transcript = transcript
        self._is_answering = False
        self._later: deque[list[Frame]] = deque()
        self._is_model = pipeline.speak is spoken_by_model
        if pipeline.tells_when_said and (assistant := pipeline.assistant) is not None:
            assistant.add_event_handler("on_assistant_turn_started", self._answers)
            assistant.add_event_handler("on_assistant_turn_stopped", self._has_answered)

    async def carry_out(self, order: Order) -> str | None:
        """Do it, or say why the bot of this call cannot."""
        if isinstance(order, SayRequest):
            return await self._say(order)
        return await self._tell(order)

    async def _say(self, say: SayRequest) -> str | None:
        if not self._pipeline.can_speak:
            return MUTE
        spoken = [self._pipeline.speak(say.text)] if self._is_model else _as_reply(say.text)
        if say.interrupt:
            await self._queue([ordered_interruption(), *spoken])
        else:
            await self._queue_in_turn(spoken)
        return None

    async def _tell(self, message: MessageRequest) -> str | None:
        if not self._pipeline.can_be_told:
            return DEAF
        if message.role == "user":
            self._transcript.add("user", message.text, time_now_iso8601())
            told: Any = {"role": "user", "content": message.text}
        else:
            if (tools := self._pipeline.tools) is not None:
                tools.spoken_to()
            # Not every vendor tells this role from the caller's.
            told = {"role": "developer", "content": _INSTRUCTION + message.text}
        if self._is_model:
            known = LLMMessagesAppendFrame([told], run_llm=False)
            await self._queue_in_turn([known, ConversationNote(told, respond=message.respond)])
            return None
        appended = LLMMessagesAppendFrame([told], run_llm=message.respond)
        # From the end of the pipeline: what gathers the bot's words has it answer when nobody
        # speaks, with all that was said.
        await self._pipeline.worker.queue_frame(appended, FrameDirection.UPSTREAM)
        return None

    async def _queue_in_turn(self, frames: list[Frame]) -> None:
        if self._is_answering or self._later:
            self._later.append(frames)
        else:
            await self._queue_next(frames)

    async def _queue_next(self, frames: list[Frame]) -> None:
        """Queue them; what comes after something that is answered waits until it is."""
        last = frames[-1]
        is_answered = not isinstance(last, ConversationNote) or last.respond
        self._is_answering = is_answered and self._pipeline.tells_when_said
        await self._queue(frames)

    async def _queue(self, frames: list[Frame]) -> None:
        await self._pipeline.worker.queue_frames(frames)

    async def _answers(self, *_: Any) -> None:
        self._is_answering = True

    async def _has_answered(self, *_: Any) -> None:
        self._is_answering = False
        while self._later and not self._is_answering:
            await self._queue_next(self._later.popleft())


def _as_reply(text: str) -> list[Frame]:
    """Has a voice say a text as it says a model's reply: sentence by sentence, so that of one that
    is cut off the transcript has what was heard."""
    return [LLMFullResponseStartFrame(), LLMTextFrame(text), LLMFullResponseEndFrame()]
