"""The processor that counts what Pipecat's usage frames alone tell."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Any

import structlog
from pipecat.frames.frames import Frame, MetricsFrame
from pipecat.metrics.metrics import (
    LLMTokenUsage,
    LLMUsageMetricsData,
    MetricsData,
    STTUsageMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from flow.domain.usage.events import Provenance, Quantities
from flow.domain.usage.vendor_reports import ReportedTokens, accepted, counting_of
from flow.metering.meter import Meter
from flow.metering.sound import MICROSECOND

log = structlog.get_logger(__name__)

REMEMBERED_FRAMES = 256
FROM_FRAMES = "counted from Pipecat's usage frames"


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
