"""Which usage frame is counted where: each once, in one place, on its way downstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest
from pipecat.frames.frames import EndFrame, Frame, MetricsFrame
from pipecat.metrics.metrics import (
    LLMTokenUsage,
    LLMUsageMetricsData,
    MetricsData,
    ProcessingMetricsData,
    STTUsage,
    STTUsageMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from flow.bot.metrics import UsageMetricsProcessor, provider_of
from flow.domain.usage import Kind, Owner, Provenance, Quantities
from tests.bot.conftest import Notebook


class Pass(FrameProcessor):
    """Passes everything on, as a service downstream would."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


class Echo(Pass):
    """Sends every metrics frame back upstream as well, as a broadcast does."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, MetricsFrame) and direction is FrameDirection.DOWNSTREAM:
            await self.push_frame(frame, FrameDirection.UPSTREAM)


async def run(processors: Sequence[FrameProcessor], frames: Sequence[Frame]) -> None:
    worker = PipelineWorker(
        Pipeline(list(processors)),
        params=PipelineParams(send_initial_empty_metrics=False),
        enable_rtvi=False,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    for frame in (*frames, EndFrame()):
        await worker.queue_frame(frame)
    await asyncio.wait_for(runner.run(), 10)


def tokens(processor: str = "OpenAILLMService#0", **counts: int | None) -> LLMUsageMetricsData:
    known = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, **counts}
    return LLMUsageMetricsData(processor=processor, model="m", value=LLMTokenUsage(**known))


@pytest.mark.parametrize(
    ("data", "kind", "quantities", "provenance"),
    [
        (
            tokens(),
            Kind.LLM,
            Quantities(input_tokens=100, output_tokens=20),
            Provenance.REPORTED,
        ),
        (
            tokens(cache_read_input_tokens=64, reasoning_tokens=5),
            Kind.LLM,
            Quantities(input_tokens=36, cache_read_tokens=64, output_tokens=20, reasoning_tokens=5),
            Provenance.REPORTED,
        ),
        (
            tokens("AnthropicLLMService#2", cache_read_input_tokens=64, total_tokens=184),
            Kind.LLM,
            Quantities(input_tokens=100, cache_read_tokens=64, output_tokens=20),
            Provenance.REPORTED,
        ),
        (
            TTSUsageMetricsData(processor="CartesiaTTSService#0", model="m", value=42),
            Kind.TTS,
            Quantities(characters=42),
            Provenance.MEASURED,
        ),
        (
            STTUsageMetricsData(
                processor="DeepgramSTTService#0", model="m", value=STTUsage(audio_seconds=1.25)
            ),
            Kind.STT,
            Quantities(audio_seconds=Decimal("1.25")),
            Provenance.MEASURED,
        ),
    ],
    ids=["llm-gross", "llm-cached", "llm-net", "tts", "stt"],
)
async def test_a_usage_frame_becomes_one_event(
    data: MetricsData,
    kind: Kind,
    quantities: Quantities,
    provenance: Provenance,
    owner: Owner,
    notebook: Notebook,
) -> None:
    await run([UsageMetricsProcessor(owner, notebook), Pass()], [MetricsFrame(data=[data])])
    (event,) = notebook.events
    assert (event.kind, event.quantities, event.provenance) == (kind, quantities, provenance)
    assert event.owner == owner


async def test_a_frame_seen_twice_or_coming_back_is_counted_once(
    owner: Owner, notebook: Notebook
) -> None:
    frame = MetricsFrame(data=[tokens()])
    await run([UsageMetricsProcessor(owner, notebook), Echo()], [frame, frame])
    assert len(notebook.events) == 1


async def test_two_frames_with_the_same_numbers_are_two_events(
    owner: Owner, notebook: Notebook
) -> None:
    frames = [MetricsFrame(data=[tokens()]) for _ in range(2)]
    await run([UsageMetricsProcessor(owner, notebook)], frames)
    assert len({event.id for event in notebook.events}) == 2


async def test_services_that_count_themselves_are_not_counted_again(
    owner: Owner, notebook: Notebook
) -> None:
    frame = MetricsFrame(data=[tokens("llm"), tokens("GroqLLMService#1")])
    await run([UsageMetricsProcessor(owner, notebook, metered=["llm"])], [frame])
    assert [event.provider for event in notebook.events] == ["groq"]


async def test_timing_frames_cost_nothing_and_give_the_time_to_the_first_byte(
    owner: Owner, notebook: Notebook
) -> None:
    name = "OpenAILLMService#0"
    timing = [
        TTFBMetricsData(processor=name, value=0.25),
        ProcessingMetricsData(processor=name, value=1.0),
    ]
    frames = [MetricsFrame(data=timing), MetricsFrame(data=[tokens(name)])]
    await run([UsageMetricsProcessor(owner, notebook)], frames)
    assert [event.time_to_first_token_secs for event in notebook.events] == [0.25]


async def test_a_report_that_contradicts_itself_is_recorded_with_what_is_certain(
    owner: Owner, notebook: Notebook
) -> None:
    data = tokens(prompt_tokens=10, cache_read_input_tokens=50, total_tokens=30)
    await run([UsageMetricsProcessor(owner, notebook), Pass()], [MetricsFrame(data=[data])])
    (event,) = notebook.events
    assert event.quantities.output_tokens == 20
    assert event.note is not None
    assert "10" in event.note
    assert "50" in event.note


@pytest.mark.parametrize(
    ("processor", "provider"),
    [
        ("OpenAILLMService#0", "openai"),
        ("ElevenLabsHttpTTSService#3", "elevenlabs"),
        ("DeepgramSTTService", "deepgram"),
        ("OpenAIRealtimeLLMService#1", "openai"),
        ("llm", "llm"),
    ],
)
def test_the_vendor_is_read_from_the_processors_name(processor: str, provider: str) -> None:
    assert provider_of(processor) == provider
