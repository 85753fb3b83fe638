"""Bots as an operator may write them: what works, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pipecat.frames.frames import (
    AggregationType,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMRunFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIProcessor
from pipecat.services.llm_service import LLMService
from pipecat.services.tts_service import TTSService

from flow.bots import Call

CLEARED_UP = "Sum up the call."
NOTES, CHEAPER = "You take notes.", "gpt-4.1-mini"
GREETING = "Hello!"
OPENING = "Hello, are you open today?"
OWN = "tests.calls.own_bots"
"""This module, as ``FLOW_BOTS`` names it."""


def by_bot(join: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The same join, for a bot of that name; ``None``: for the built-in one."""
    return join if name is None else {**join, "bot": {**join.get("bot", {}), "name": name}}


by_each_bot = pytest.mark.parametrize("bot", [None, "usual"], ids=["built-in", "ones-own"])


class Voice(TTSService):
    """A voice that a bot brings along: a tone, as long as there is something to say."""

    def __init__(self, *, reports: bool = True, **options: Any) -> None:
        super().__init__(push_start_frame=True, push_stop_frames=True, **options)
        self._reports = reports

    def can_generate_metrics(self) -> bool:
        return self._reports

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        await self.start_tts_usage_metrics(text)
        second = b"\x10\x10" * self.sample_rate
        yield TTSAudioRawFrame(second, self.sample_rate, 1, context_id=context_id)


class OwnModel(LLMService):
    """A language model that a bot brings along."""

    usage = LLMTokenUsage(prompt_tokens=7, completion_tokens=5, total_tokens=12)

    def can_generate_metrics(self) -> bool:
        return True

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        await self.answer(str(frame.context.get_messages()[-1]["content"]))
        await self.push_frame(LLMFullResponseEndFrame())
        await self.start_llm_usage_metrics(self.usage)

    async def answer(self, said: str) -> None:
        raise NotImplementedError


class Parrot(OwnModel):
    """Says what was said."""

    async def answer(self, said: str) -> None:
        await self.push_frame(LLMTextFrame(said))

    async def run_inference(self, *_: Any, **__: Any) -> str | None:
        return "a summary"


class Talker(OwnModel):
    """Speaks by itself: a second of sound for whatever it is told."""

    usage = LLMTokenUsage(
        prompt_tokens=100,
        completion_tokens=40,
        total_tokens=140,
        input_audio_tokens=60,
        output_audio_tokens=30,
        cache_read_input_tokens=20,
        cache_read_input_audio_tokens=10,
    )

    async def answer(self, said: str) -> None:
        text = TTSTextFrame(GREETING, aggregated_by=AggregationType.SENTENCE)
        text.includes_inter_frame_spaces = True
        await self.push_frame(TTSStartedFrame())
        await self.push_frame(TTSAudioRawFrame(b"\x10\x10" * 24_000, 24_000, 1))
        await self.push_frame(text)
        await self.push_frame(TTSStoppedFrame())


class Stuck(FrameProcessor):
    """A processor that never gets ready."""

    async def setup(self, setup: Any) -> None:
        await super().setup(setup)
        await asyncio.Event().wait()


class OnlyNotes(FrameProcessor):
    """Keeps what a second model says from the caller."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(
            frame, LLMTextFrame | LLMFullResponseStartFrame | LLMFullResponseEndFrame
        ):
            await self.push_frame(frame, direction)


def line(call: Call, *thinking: FrameProcessor, voice: FrameProcessor | None = None) -> Any:
    user, assistant = call.aggregators(call.context())
    return [
        call.transport.input(),
        call.stt(),
        user,
        *(thinking or [call.llm()]),
        voice or call.tts(),
        call.transport.output(),
        assistant,
    ]


async def usual(call: Call) -> Any:
    return line(call)


async def nested(call: Call) -> Any:
    return Pipeline([Pipeline(line(call))])


async def clears_up(call: Call) -> None:
    llm: Any = call.llm()
    reason = await call.run(line(call, llm))
    await llm.run_inference(LLMContext([{"role": "user", "content": f"{CLEARED_UP} {reason}"}]))


async def infers_unseen(call: Call) -> None:
    parrot = Parrot(name="parrot")
    await call.run(line(call, parrot))
    await parrot.run_inference(call.context())


async def speaks_first(call: Call) -> Any:
    async def connected(*_: Any) -> None:
        await call.queue_frames(TTSSpeakFrame(GREETING))

    call.transport.add_event_handler("on_client_connected", connected)
    return line(call)


async def speaks_itself(call: Call) -> Any:
    user, assistant = call.aggregators(call.context())
    return [
        call.transport.input(),
        call.stt(),
        user,
        Talker(name="talker"),
        call.transport.output(),
        assistant,
    ]


async def begins_by_itself(call: Call) -> Any:
    user, assistant = call.aggregators(call.context([{"role": "user", "content": OPENING}]))

    async def connected(*_: Any) -> None:
        await call.queue_frames(LLMRunFrame())

    call.transport.add_event_handler("on_client_connected", connected)
    return [call.transport.input(), user, call.realtime(), call.transport.output(), assistant]


async def stuck(call: Call) -> Any:
    return line(call, call.llm(), Stuck())


async def two_models(call: Call) -> Any:
    notes = call.llm(model=CHEAPER, system_instruction=NOTES)
    return line(call, ParallelPipeline([call.llm()], [notes, OnlyNotes()]))


async def own_services(call: Call) -> Any:
    return line(call, ParallelPipeline([Parrot(name="parrot")]), voice=Voice(name="voice"))


async def without_aggregators(call: Call) -> Any:
    return [call.transport.input(), call.tts(), call.transport.output()]


async def slow(call: Call) -> Any:
    await asyncio.sleep(1)
    return line(call)


async def raises(call: Call) -> None:
    raise KeyError("what was said")


def caller_of(call: Call) -> asyncio.Event:
    """Set once the caller is there."""
    came = asyncio.Event()

    async def connected(*_: Any) -> None:
        came.set()

    call.transport.add_event_handler("on_client_connected", connected)
    return came


async def raises_in_mid_call(call: Call) -> None:
    came = caller_of(call)

    async def later() -> None:
        await came.wait()
        await asyncio.sleep(0.5)
        raise KeyError("what was said")

    await asyncio.gather(call.run(line(call)), later())


async def returns_in_mid_call(call: Call) -> None:
    came = caller_of(call)
    running = asyncio.create_task(call.run(line(call)))
    await came.wait()
    await asyncio.wait({running}, timeout=0.5)


async def raises_afterwards(call: Call) -> None:
    await call.run(line(call))
    raise KeyError("what was said")


async def gives_nothing(call: Call) -> None:
    call.llm()


async def gives_a_number(call: Call) -> Any:
    return 7


async def gives_a_name(call: Call) -> Any:
    return [call.transport.input(), "llm"]


async def deaf(call: Call) -> Any:
    return [call.tts(), call.transport.output()]


async def speaks_rtvi_itself(call: Call) -> Any:
    return [RTVIProcessor(), *line(call)]


async def unmetered(call: Call) -> Any:
    voice = Voice(reports=False, name="voice")
    return line(call, voice=Pipeline([ParallelPipeline([voice], [OnlyNotes()])]))


async def unmetered_when_run(call: Call) -> None:
    await call.run(line(call, voice=Voice(reports=False, name="voice")))


async def one_name_twice(call: Call) -> Any:
    return line(call, Parrot(name="tts"))


async def no_such_vendor(call: Call) -> None:
    call.llm("acme", "acme-1")


async def no_model(call: Call) -> None:
    call.llm("anthropic")


async def no_realtime(call: Call) -> None:
    call.realtime()


async def no_part(call: Call) -> None:
    call.service("ears", "openai", "whisper-1")


async def gives_a_worker(call: Call) -> Any:
    return PipelineWorker(Pipeline(line(call)))


async def no_key(call: Call) -> None:
    call.llm("groq", "llama-3.3-70b-versatile")


BOTS = {
    function.__name__: function
    for function in (
        usual, begins_by_itself, nested, speaks_first, infers_unseen, stuck, speaks_itself,
        clears_up, two_models,
        own_services, without_aggregators, slow, raises, raises_in_mid_call, returns_in_mid_call,
        raises_afterwards, gives_nothing, gives_a_number, gives_a_name, gives_a_worker, deaf,
        speaks_rtvi_itself, unmetered, unmetered_when_run, one_name_twice, no_such_vendor,
        no_model, no_realtime, no_part, no_key,
    )
}  # fmt: skip
