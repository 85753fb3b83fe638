"""Which usage frame is counted where: each once, in one place, on its way downstream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest
from pipecat.frames.frames import EndFrame, Frame, LLMTextFrame, MetricsFrame, TextFrame
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
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.workers.runner import WorkerRunner

from flow.bot.services import CallServices, vendor_of
from flow.bot.usage_metrics import FROM_FRAMES, UsageMetricsProcessor
from flow.domain.usage.events import Kind, Owner, Provenance, Quantities
from flow.errors import ConfigurationError
from flow.metering.meter import Meter, Service
from tests.notebook import Notebook


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


def counting(
    owner: Owner, notebook: Notebook, name: str = "service", provider: str = "openai"
) -> UsageMetricsProcessor:
    """The processor of a pipeline in which one service is known by its frames."""
    meters = {
        f"{name}": Meter(Service(Kind.LLM, provider, "m"), owner, notebook),
        "tts": Meter(Service(Kind.TTS, "cartesia", "m"), owner, notebook),
        "stt": Meter(Service(Kind.STT, "deepgram", "m"), owner, notebook),
    }
    return UsageMetricsProcessor(meters)


async def run(processors: Sequence[FrameProcessor], frames: Sequence[Frame]) -> None:
    worker = PipelineWorker(
        Pipeline(list(processors)),
        params=PipelineParams(
            enable_metrics=True, enable_usage_metrics=True, send_initial_empty_metrics=False
        ),
        enable_rtvi=False,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    for frame in (*frames, EndFrame()):
        await worker.queue_frame(frame)
    await asyncio.wait_for(runner.run(), 10)


def tokens(processor: str = "service", **counts: int | None) -> LLMUsageMetricsData:
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
            tokens(cache_read_input_tokens=64, total_tokens=184),  # the total says: beside it
            Kind.LLM,
            Quantities(input_tokens=100, cache_read_tokens=64, output_tokens=20),
            Provenance.REPORTED,
        ),
        (
            tokens(cache_read_input_tokens=30, cache_creation_input_tokens=50),
            Kind.LLM,
            Quantities(
                input_tokens=20, cache_read_tokens=30, cache_write_tokens=50, output_tokens=20
            ),
            Provenance.REPORTED,
        ),
        (
            tokens(
                cache_read_input_tokens=30,
                input_audio_tokens=60,
                cache_read_input_audio_tokens=10,
                output_audio_tokens=15,
            ),
            Kind.LLM,
            Quantities(
                input_tokens=70,
                input_audio_tokens=50,
                cache_read_tokens=30,
                cache_read_audio_tokens=10,
                output_tokens=20,
                output_audio_tokens=15,
            ),
            Provenance.REPORTED,
        ),
        (
            TTSUsageMetricsData(processor="tts", model="m", value=42),
            Kind.TTS,
            Quantities(characters=42),
            Provenance.MEASURED,
        ),
        (
            STTUsageMetricsData(processor="stt", model="m", value=STTUsage(audio_seconds=1.25)),
            Kind.STT,
            Quantities(audio_seconds=Decimal("1.25")),
            Provenance.MEASURED,
        ),
    ],
    ids=["llm-gross", "llm-cached", "llm-net", "llm-written", "llm-sound", "tts", "stt"],
)
async def test_a_usage_frame_becomes_one_event(
    data: MetricsData,
    kind: Kind,
    quantities: Quantities,
    provenance: Provenance,
    owner: Owner,
    notebook: Notebook,
) -> None:
    await run([counting(owner, notebook), Pass()], [MetricsFrame(data=[data])])
    (event,) = notebook.events
    assert (event.kind, event.quantities, event.provenance) == (kind, quantities, provenance)
    assert event.owner == owner
    assert event.note == FROM_FRAMES


async def test_a_frame_seen_twice_or_coming_back_is_counted_once(
    owner: Owner, notebook: Notebook
) -> None:
    frame = MetricsFrame(data=[tokens()])
    await run([counting(owner, notebook), Echo()], [frame, frame])
    assert len(notebook.events) == 1


class EchoAnew(Pass):
    """Sends what every metrics frame says back upstream, in a frame with an id of its own."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, MetricsFrame) and direction is FrameDirection.DOWNSTREAM:
            await self.push_frame(MetricsFrame(data=frame.data), FrameDirection.UPSTREAM)


async def test_a_frame_that_goes_upstream_is_not_counted_though_its_id_is_new(
    owner: Owner, notebook: Notebook
) -> None:
    await run([counting(owner, notebook), EchoAnew()], [MetricsFrame(data=[tokens()])])
    assert len(notebook.events) == 1


async def test_two_frames_with_the_same_numbers_are_two_events(
    owner: Owner, notebook: Notebook
) -> None:
    frames = [MetricsFrame(data=[tokens()]) for _ in range(2)]
    await run([counting(owner, notebook)], frames)
    assert len({event.id for event in notebook.events}) == 2


async def test_services_that_are_tapped_on_their_wire_are_not_counted_again(
    owner: Owner, notebook: Notebook
) -> None:
    frame = MetricsFrame(data=[tokens("llm"), tokens("other")])
    await run([counting(owner, notebook, "other", "groq")], [frame])
    assert [event.provider for event in notebook.events] == ["groq"]


async def test_timing_frames_cost_nothing_and_give_the_time_to_the_first_byte(
    owner: Owner, notebook: Notebook
) -> None:
    name = "service"
    timing = [
        TTFBMetricsData(processor=name, value=0.25),
        ProcessingMetricsData(processor=name, value=1.0),
    ]
    frames = [MetricsFrame(data=timing), MetricsFrame(data=[tokens(name)])]
    await run([counting(owner, notebook)], frames)
    assert [event.time_to_first_token_secs for event in notebook.events] == [0.25]


async def test_a_report_that_contradicts_itself_is_recorded_with_what_is_certain(
    owner: Owner, notebook: Notebook
) -> None:
    data = tokens(prompt_tokens=10, cache_read_input_tokens=50, total_tokens=30)
    await run([counting(owner, notebook), Pass()], [MetricsFrame(data=[data])])
    (event,) = notebook.events
    assert event.quantities["output_tokens"] == 20
    assert event.note is not None
    assert "10" in event.note
    assert "50" in event.note


class Stranger(OpenAILLMService):
    """A service of somebody's own, for which there is no spec."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await FrameProcessor.process_frame(self, frame, direction)
        if isinstance(frame, TextFrame):
            await self.push_frame(LLMTextFrame("said"))
            if frame.text == "count":
                await self.start_llm_usage_metrics(
                    LLMTokenUsage(prompt_tokens=7, completion_tokens=2, total_tokens=9)
                )
        else:
            await self.push_frame(frame, direction)


class Silent(Stranger):
    """Reports no usage, whatever it does."""

    def can_generate_metrics(self) -> bool:
        return False


def stranger(kind: type[Stranger] = Stranger) -> Stranger:
    return kind(api_key="sk-fake", settings=kind.Settings(model="theirs"))


async def adopted(owner: Owner, notebook: Notebook, text: str) -> None:
    """A call with a pipeline of somebody's own."""
    services = CallServices(owner, notebook, {})
    pipeline = [stranger(), services.usage_processor, Pass()]
    services.adopt(pipeline)
    await run(pipeline, [TextFrame(text)])
    await services.close()


async def test_a_service_without_a_spec_is_counted_by_its_frames(
    owner: Owner, notebook: Notebook
) -> None:
    await adopted(owner, notebook, "count")
    (event,) = notebook.events
    assert event.quantities == Quantities(input_tokens=7, output_tokens=2)
    assert (event.provider, event.model, event.kind) == ("openai", "theirs", Kind.LLM)
    assert (event.provenance, event.note) == (Provenance.REPORTED, FROM_FRAMES)


async def test_a_service_that_worked_and_reported_nothing_is_on_record(
    owner: Owner, notebook: Notebook
) -> None:
    await adopted(owner, notebook, "do not count")
    (event,) = notebook.events
    assert (event.provenance, event.quantities) == (Provenance.UNMETERED, Quantities())
    assert (event.provider, event.model, event.cost) == ("openai", "theirs", None)


async def test_a_service_that_did_nothing_is_not(owner: Owner, notebook: Notebook) -> None:
    services = CallServices(owner, notebook, {})
    services.adopt([stranger()])
    await services.close()
    assert notebook.events == []


async def test_a_service_that_nothing_can_meter_is_refused_by_name(
    owner: Owner, notebook: Notebook
) -> None:
    with pytest.raises(ConfigurationError, match="Nothing meters Silent"):
        CallServices(owner, notebook, {}).adopt([stranger(Silent)])


@pytest.mark.parametrize(
    ("module", "name", "vendor"),
    [
        ("pipecat.services.deepgram.flux.stt", "DeepgramFluxSTTService", "deepgram"),
        ("pipecat.services.cartesia.turns.stt", "CartesiaTurnsSTTService", "cartesia"),
        ("pipecat.services.elevenlabs.tts", "ElevenLabsHttpTTSService", "elevenlabs"),
        ("pipecat.services.openai.realtime.llm", "OpenAIRealtimeLLMService", "openai"),
        ("my_company.services", "MyService", "myservice"),
    ],
)
def test_the_vendor_is_the_package_that_a_services_class_comes_from(
    module: str, name: str, vendor: str
) -> None:
    kind = type(name, (), {"__module__": module})
    assert vendor_of(kind()) == vendor
    mine = type("Mine", (kind,), {"__module__": "my_company.bots"})
    assert vendor_of(mine()) == (vendor if vendor != "myservice" else "mine")


async def test_handlers_of_a_service_see_every_frame_beside_flows_own(
    owner: Owner, notebook: Notebook
) -> None:
    service = OpenAILLMService(api_key="sk-fake", name="llm")
    services, seen = CallServices(owner, notebook, {}), []
    services.adopt([service])
    service.add_event_handler("on_after_push_frame", lambda _, frame: seen.append(frame))
    frames = [LLMTextFrame("One."), LLMTextFrame("Two.")]
    for frame in frames:
        await service.push_frame(frame)
        await asyncio.sleep(0)
    assert seen == frames
