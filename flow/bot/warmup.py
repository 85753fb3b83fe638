"""A call to nobody, so that the first call of a process finds everything loaded and ready."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from pipecat.frames.frames import EndFrame, Frame, InputAudioRawFrame, StartFrame
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport

from flow.bot.cost_control import Spending
from flow.bot.pipeline import BotSettings, build_pipeline
from flow.bot.pipeline_runner import RunningPipeline
from flow.bot.transports.spec import SPEECH
from flow.bot.vendors.spec import Build, ServiceSpec, Vendor
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product import Product
from flow.domain.usage.events import Owner, UsageEvent

LONGEST_SECS = 10.0
SILENCE_SECS = 1


async def rehearse(join: JoinRequest, settings: BotSettings, product: Product) -> None:
    """Build the pipeline that ``join`` asks for, let it hear a second of silence, and take it down.

    Nothing is sent to any vendor, and nothing recorded or traced. ``join`` is a resolved one.
    """
    stage = EmptyStage()
    settings = replace(settings, joined=None, vendors=_undialled(settings.vendors))
    nobody = Owner(UUID(int=0), UUID(int=0), "", product.name, False)
    spending = Spending(product, cache_key="rehearsal")
    built = await asyncio.to_thread(
        build_pipeline, join, nobody, stage, SPEECH, _Unrecorded(), settings, spending
    )
    pipeline = await RunningPipeline.start(built.worker, "rehearsal")
    try:
        # Not cancelled: it is to hear the silence first.
        await built.worker.queue_frame(EndFrame(reason="the rehearsal is over"))
        await asyncio.wait({pipeline.task}, timeout=LONGEST_SECS)
    finally:
        await pipeline.stop(LONGEST_SECS)
        await built.close()


def _undialled(vendors: Mapping[str, Vendor]) -> dict[str, Vendor]:
    """The same vendors, whose services over WebSockets are made and then left out: they would dial
    as soon as a pipeline starts, and a connection costs."""
    return {
        name: replace(vendor, services=tuple(map(_left_out, vendor.services)))
        for name, vendor in vendors.items()
    }


def _left_out(spec: ServiceSpec) -> ServiceSpec:
    if spec.socket_wire is None:
        return spec

    def make(build: Build) -> FrameProcessor:
        spec.make(build)
        return IdentityFilter(name=build.name)  # type: ignore[no-untyped-call]

    return replace(spec, make=make)


class EmptyStage(BaseTransport):
    """A transport with nobody at the other end."""

    def __init__(self) -> None:
        super().__init__()
        self._silence, self._nowhere = _Silence(), IdentityFilter()  # type: ignore[no-untyped-call]

    def input(self) -> FrameProcessor:
        """Where a second of silence comes from."""
        return self._silence

    def output(self) -> FrameProcessor:
        """Where whatever comes this far goes on."""
        return self._nowhere


class _Silence(FrameProcessor):
    """Says a second of silence as soon as it is started."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass every frame on, and the silence behind the first."""
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            silence = bytes(2 * SPEECH.sample_rate_in * SILENCE_SECS)
            await self.push_frame(InputAudioRawFrame(silence, SPEECH.sample_rate_in, 1))


class _Unrecorded:
    """Takes the place of the recorder."""

    def begin(self, event: UsageEvent) -> None:
        """Nothing begins."""

    def record(self, event: UsageEvent) -> None:
        """Nothing happens."""

    def discard(self, event: UsageEvent) -> None:
        """Nothing ends."""
