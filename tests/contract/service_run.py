"""One service of a vendor in a pipeline of its own, metered as in a call, driven as in a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from flow.bot.services import CallServices
from flow.bot.tools.call_tools import CallTools
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.usage.units import Kind

RATE_IN, RATE_OUT = 16_000, 24_000
FRAME_SECS = 0.04
# For what must come, however slow the machine is.
PATIENCE_SECS = 60.0
SENTENCE = "This is a sentence of a reasonable length, spoken by a machine that never tires of it."
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me everything, please."}]

_OUTPUT: dict[Kind, type[Frame]] = {
    Kind.LLM: LLMTextFrame,
    Kind.STT: TranscriptionFrame,
    Kind.TTS: TTSAudioRawFrame,
}
_END: dict[Kind, tuple[type[Frame], ...]] = {
    Kind.LLM: (LLMFullResponseEndFrame,),
    Kind.STT: (TranscriptionFrame,),
    Kind.TTS: (TTSStoppedFrame,),
}


class _End(FrameProcessor):
    """Counts what comes out of the service."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(name="end")
        self._kind = kind
        self.outputs = 0
        self.ended = 0
        self.started = asyncio.Event()
        self.changed = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.outputs += isinstance(frame, _OUTPUT[self._kind])
        self.ended += isinstance(frame, _END[self._kind])
        self.changed.set()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self.started.set()


class ServiceRun:
    """A running service. ``segment_secs`` of sound are what a recogniser hears at a time."""

    def __init__(
        self, kind: Kind, service: FrameProcessor, worker: PipelineWorker, end: _End
    ) -> None:
        self.kind = kind
        self.service = service
        self.errors: list[ErrorFrame] = []
        self._worker = worker
        self._end = end

        @worker.event_handler("on_pipeline_error")
        async def failed(_: Any, frame: ErrorFrame) -> None:
            self.errors.append(frame)
            end.changed.set()

    @property
    def worker(self) -> PipelineWorker:
        """What runs the pipeline."""
        return self._worker

    @property
    def ended(self) -> int:
        """How many pieces of work have come to their end."""
        return self._end.ended

    @property
    def outputs(self) -> int:
        """How many frames of output have come."""
        return self._end.outputs

    async def ask(self, segment_secs: float = 1.0) -> None:
        """Ask for one piece of work, without waiting for it."""
        if self.kind is Kind.LLM:
            await self._worker.queue_frame(LLMContextFrame(LLMContext(list(MESSAGES))))
        elif self.kind is Kind.TTS:
            await self._worker.queue_frame(TTSSpeakFrame(SENTENCE))
        else:
            sound = b"\x10\x20" * int(RATE_IN * FRAME_SECS)
            frames = [
                InputAudioRawFrame(sound, RATE_IN, 1)
                for _ in range(round(segment_secs / FRAME_SECS))
            ]
            await self._worker.queue_frames(
                [VADUserStartedSpeakingFrame(), *frames, VADUserStoppedSpeakingFrame()]
            )

    async def tell(self) -> None:
        """The bot is told to speak, unasked by the caller."""
        told: Any = {"role": "developer", "content": "Tell the caller everything."}
        await self.send(LLMMessagesAppendFrame([told], run_llm=True))

    async def send(self, *frames: Frame) -> None:
        """Send frames down the pipeline."""
        await self._worker.queue_frames(frames)

    async def until(self, condition: Callable[[ServiceRun], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(PATIENCE_SECS):
            while not condition(self):
                self._end.changed.clear()
                await self._end.changed.wait()

    async def output(self, frames: int = 1) -> None:
        """Wait for so many frames of output."""
        await self.until(lambda run: run._end.outputs >= frames)

    async def completed(self, times: int = 1) -> None:
        """Wait until so many pieces of work have come to their end."""
        await self.until(lambda run: run._end.ended >= times)

    async def finished(self, times: int = 1) -> None:
        """Wait until the service has ended its work, or has failed at it."""
        await self.until(lambda run: run._end.ended + len(run.errors) >= times)

    async def interrupt(self) -> None:
        """The caller begins to speak."""
        await self._worker.queue_frame(InterruptionFrame())

    async def hang_up(self) -> None:
        """The call is over at once."""
        await self._worker.cancel(reason="the caller hung up")


@asynccontextmanager
async def running(
    services: CallServices,
    part: BotPart,
    choice: Choice,
    *,
    before: Sequence[FrameProcessor] = (),
    after: Sequence[FrameProcessor] = (),
    tools: CallTools | None = None,
) -> AsyncIterator[ServiceRun]:
    """A service in a pipeline, between others; leaving the block ends the call."""
    kind = part.kind
    schemas = () if tools is None else tools.schemas
    service, end = services.build(part, choice, schemas), _End(kind)
    if tools is not None:
        tools.register(service)  # type: ignore[arg-type]
    worker = PipelineWorker(
        Pipeline([*before, service, services.usage_processor, end, *after]),
        params=PipelineParams(
            audio_in_sample_rate=RATE_IN,
            audio_out_sample_rate=RATE_OUT,
            enable_metrics=True,
            enable_usage_metrics=True,
            send_initial_empty_metrics=False,
        ),
        idle_timeout_secs=None,
        enable_rtvi=False,
        enable_turn_tracking=False,
    )
    runner = WorkerRunner(handle_sigint=False, check_dangling_tasks=False)
    await runner.add_workers(worker)
    task = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(PATIENCE_SECS):
            await end.started.wait()
        yield ServiceRun(kind, service, worker, end)
    finally:
        await worker.cancel(reason="the test is over")
        await asyncio.wait_for(task, PATIENCE_SECS)
        await services.close()
