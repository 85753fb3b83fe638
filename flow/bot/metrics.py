"""Counting the usage frames of services that do not count themselves."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Mapping
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

from flow.bot.metering import MICROSECOND, Recording
from flow.domain.reported import ReportedTokens, accepted
from flow.domain.usage import CostControl, Kind, Owner, Provenance, Quantities, UsageEvent

log = structlog.get_logger(__name__)

REMEMBERED_FRAMES = 256


class UsageMetricsProcessor(FrameProcessor):
    """Turns each usage `MetricsFrame` that passes into one event of the ledger.

    It stands after the last service, where the usage of STT, LLM and TTS passes once, on its
    way downstream; a frame going upstream, or seen before, is passed on uncounted.

    Args:
        owner: whom the usage belongs to.
        recorder: takes the events; never blocks.
        metered: names of processors that count themselves, whose frames are passed over.
        providers: vendor of a processor by its name, where the name does not tell.
        control: what is done about the call's cost at the moment.
    """

    def __init__(
        self,
        owner: Owner,
        recorder: Recording,
        *,
        metered: Collection[str] = (),
        providers: Mapping[str, str] | None = None,
        control: Callable[[], CostControl] = CostControl,
        **options: Any,
    ) -> None:
        # It never waits, so it needs no task and queues of its own.
        super().__init__(enable_direct_mode=True, **options)
        self._owner = owner
        self._log = log.bind(workflow_thread_id=str(owner.workflow_thread_id))
        self._recorder = recorder
        self._metered = frozenset(metered)
        self._providers = dict(providers or {})
        self._control = control
        self._seen: deque[int] = deque(maxlen=REMEMBERED_FRAMES)
        self._first_byte: dict[str, float] = {}

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Count a usage frame and pass every frame on."""
        await super().process_frame(frame, direction)
        is_passing = direction is FrameDirection.DOWNSTREAM and frame.id not in self._seen
        if isinstance(frame, MetricsFrame) and is_passing:
            self._seen.append(frame.id)
            for data in frame.data:
                self._count(data)
        await self.push_frame(frame, direction)

    def _count(self, data: MetricsData) -> None:
        if isinstance(data, TTFBMetricsData):
            self._first_byte[data.processor] = data.value
        if data.processor in self._metered:
            return
        if isinstance(data, LLMUsageMetricsData):
            self._count_tokens(data)
        elif isinstance(data, TTSUsageMetricsData):
            amount = Quantities(characters=data.value)
            self._record(data, Kind.TTS, amount, Provenance.MEASURED)
        elif isinstance(data, STTUsageMetricsData):
            seconds = Decimal(repr(data.value.audio_seconds)).quantize(MICROSECOND)
            amount = Quantities(audio_seconds=seconds)
            self._record(data, Kind.STT, amount, Provenance.MEASURED)

    def _count_tokens(self, data: LLMUsageMetricsData) -> None:
        quantities, note = accepted(_reported(data.value), self._provider(data))
        if note is not None:
            self._log.warning("contradictory_usage", processor=data.processor, error=note)
        self._record(data, Kind.LLM, quantities, Provenance.REPORTED, note=note)

    def _record(
        self,
        data: MetricsData,
        kind: Kind,
        quantities: Quantities,
        provenance: Provenance,
        note: str | None = None,
    ) -> None:
        self._recorder.record(
            UsageEvent(
                owner=self._owner,
                kind=kind,
                source="bot",
                provider=self._provider(data),
                model=data.model or "unknown",
                requested_model=data.model,
                quantities=quantities,
                provenance=provenance,
                time_to_first_token_secs=self._first_byte.pop(data.processor, None),
                note=note,
                control=self._control(),
            )
        )

    def _provider(self, data: MetricsData) -> str:
        return self._providers.get(data.processor) or provider_of(data.processor)


def provider_of(processor: str) -> str:
    """The vendor in a Pipecat processor name: ``OpenAILLMService#3`` is ``openai``."""
    found = re.match(r"(\w+?)(HTTP|Http|Realtime)?(LLM|TTS|STT)", processor)
    return found.group(1).lower() if found else processor.partition("#")[0].lower()


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
