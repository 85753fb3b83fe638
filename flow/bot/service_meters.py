"""The meters of a pipeline's services, and the processor that counts what frames alone tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import structlog
from pipecat.frames.frames import (
    Frame,
    FunctionCallsStartedFrame,
    LLMTextFrame,
    MetricsFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.metrics.metrics import (
    LLMTokenUsage,
    LLMUsageMetricsData,
    MetricsData,
    STTUsageMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.ai_service import AIService
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

from flow.domain.reported import ReportedTokens, accepted, counting_of
from flow.domain.usage import CostControl, Kind, Owner, Provenance, Quantities
from flow.errors import ConfigurationError
from flow.metering.meter import Meter, Service
from flow.metering.request import Recording
from flow.metering.sound import MICROSECOND

log = structlog.get_logger(__name__)

REMEMBERED_FRAMES = 256
FROM_FRAMES = "counted from Pipecat's usage frames"

_KINDS = ((LLMService, Kind.LLM), (STTService, Kind.STT), (TTSService, Kind.TTS))
_OUTPUT = (LLMTextFrame, FunctionCallsStartedFrame, TranscriptionFrame, TTSAudioRawFrame)


class ServiceMeters:
    """The meter of each service of one pipeline, by the service's name.

    A service is either tapped on its wire, or counted from its usage frames by the `processor`,
    which stands after the last service. One that neither sees is refused.
    """

    def __init__(
        self,
        owner: Owner,
        recorder: Recording,
        control: Callable[[], CostControl] = CostControl,
    ) -> None:
        self._owner = owner
        self._recorder = recorder
        self._control = control
        self._meters: dict[str, Meter] = {}
        self._worked: set[str] = set()
        self._by_frames: dict[str, Meter] = {}
        self.processor = UsageMetricsProcessor(self._by_frames, name="usage")

    def add(self, service: FrameProcessor, meter: Meter, *, by_frames: bool = False) -> None:
        """A service is built, with a tap on its wire unless it is counted ``by_frames``."""
        self._meters[service.name] = meter
        if by_frames:
            self._by_frames[service.name] = meter
        worked = self._worked

        async def pushed(_: FrameProcessor, frame: Frame) -> None:
            if isinstance(frame, _OUTPUT):
                worked.add(service.name)
                service.remove_event_handler("on_after_push_frame", pushed)

        service.add_event_handler("on_after_push_frame", pushed)

    def adopt(self, processors: Iterable[FrameProcessor]) -> None:
        """Meter the services among these that somebody else has built: by their frames.

        Raises:
            ConfigurationError: a service reports no usage in frames, so nothing would meter it.
        """
        for service in processors:
            if not isinstance(service, AIService) or service.name in self._meters:
                continue
            kind = next((kind for base, kind in _KINDS if isinstance(service, base)), None)
            if kind is None or not service.can_generate_metrics():
                raise ConfigurationError(
                    f"Nothing meters {type(service).__name__}: it has no tap, and reports no usage"
                    " in frames."
                )
            model = getattr(getattr(service, "_settings", None), "model", None)
            known = Service(kind, vendor_of(service), str(model or "unknown"))
            meter = Meter(known, self._owner, self._recorder, control=self._control)
            self.add(service, meter, by_frames=True)

    def close(self) -> None:
        """The call is over: count what is under way, and say which services nothing has counted."""
        for name, meter in self._meters.items():
            meter.close()
            if name in self._worked and not meter.recorded:
                meter.report_unmetered()


class UsageMetricsProcessor(FrameProcessor):
    """Turns each usage `MetricsFrame` that passes into one event of the ledger.

    It stands after the last service, where the usage of STT, LLM and TTS passes once, on its
    way downstream; a frame going upstream, or seen before, is passed on uncounted, and so is one
    of a service that is tapped on its wire.

    Args:
        meters: those of the services that are known by frames alone, by name. It may grow until
            the pipeline starts.
    """

    def __init__(self, meters: dict[str, Meter], **options: Any) -> None:
        # It never waits, so it needs no task and queues of its own.
        super().__init__(enable_direct_mode=True, **options)
        self._meters = meters
        self._seen: deque[int] = deque(maxlen=REMEMBERED_FRAMES)
        self._first_byte: dict[str, float] = {}

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Count a usage frame and pass every frame on."""
        await super().process_frame(frame, direction)
        is_passing = direction is FrameDirection.DOWNSTREAM and frame.id not in self._seen
        if isinstance(frame, MetricsFrame) and is_passing:
            self._seen.append(frame.id)
            for data in frame.data:
                if (meter := self._meters.get(data.processor)) is not None:
                    self._count(data, meter)
        await self.push_frame(frame, direction)

    def _count(self, data: MetricsData, meter: Meter) -> None:
        if isinstance(data, TTFBMetricsData):
            self._first_byte[data.processor] = data.value
        elif isinstance(data, LLMUsageMetricsData):
            counting = counting_of(meter.service.provider)
            quantities, note = accepted(_reported(data.value), counting)
            if note is not None:
                log.warning("contradictory_usage", processor=data.processor, error=note)
            self._record(data, meter, quantities, Provenance.REPORTED, note)
        elif isinstance(data, TTSUsageMetricsData):
            self._record(data, meter, Quantities(characters=data.value), Provenance.MEASURED)
        elif isinstance(data, STTUsageMetricsData):
            seconds = Decimal(repr(data.value.audio_seconds)).quantize(MICROSECOND)
            self._record(data, meter, Quantities(audio_seconds=seconds), Provenance.MEASURED)

    def _record(
        self,
        data: MetricsData,
        meter: Meter,
        quantities: Quantities,
        provenance: Provenance,
        note: str | None = None,
    ) -> None:
        meter.record(
            quantities,
            provenance,
            model=data.model,
            time_to_first_token_secs=self._first_byte.pop(data.processor, None),
            note=FROM_FRAMES if note is None else f"{FROM_FRAMES}; {note}",
        )


def vendor_of(service: object) -> str:
    """The vendor of a Pipecat service: the package of Pipecat's that its class comes from.

    The class's name does not tell (``CartesiaTurnsSTTService``), and a class of somebody's own
    has a base from Pipecat's packages.
    """
    for kind in type(service).__mro__:
        match kind.__module__.split("."):
            case ["pipecat", "services", vendor, _, *_]:
                return vendor
    return type(service).__name__.lower()


def _reported(usage: LLMTokenUsage) -> ReportedTokens:
    return ReportedTokens(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cache_read_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        cache_read_audio_tokens=usage.cache_read_input_audio_tokens,
    )
