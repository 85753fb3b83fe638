"""Bringing a caller's audio and messages into the pipeline, and no further than is needed.

Every frame costs the same at every step it takes, however short it is, and a call has fifty a
second: so frames are few, and take no step for nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import structlog
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    StartFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_input import BaseInputTransport

from flow.bot.rtvi import MOST_MESSAGES

CHUNK_SECS = 0.04
MOST_EARLY_MESSAGES = MOST_MESSAGES[0] + 1
"""One more than may come in a second: whoever sends more is told that some were dropped."""

log = structlog.get_logger(__name__)


class _Intake(BaseInputTransport):
    """An input that sends audio on in chunks of at least `CHUNK_SECS`, from where it arrives.

    Pipecat's own hands each frame to a queue and a task, for filters that can be slow. There
    is none here.
    """

    _held: InputAudioRawFrame | None = None
    _early: tuple[InputTransportMessageFrame, ...] = ()
    _dropped = 0
    _is_ready = False

    async def set_transport_ready(self, frame: StartFrame) -> None:
        """The caller can be heard: there is no queue to set up for it."""
        self._is_ready = True
        if self._dropped:
            log.warning("caller_messages_dropped", reason="too many", count=self._dropped)
        for early in self._early:
            await self.push_frame(early, FrameDirection.UPSTREAM)

    async def broadcast_frame(self, frame_cls: type[Frame], **kwargs: Any) -> None:
        """A message of the caller's goes up to what speaks RTVI, where anything does, and never
        down to what would take it unjudged. Some may come before the pipeline has started; of more
        than fit in a second the client is told, as later."""
        if not issubclass(frame_cls, InputTransportMessageFrame):
            await super().broadcast_frame(frame_cls, **kwargs)
        elif self._is_ready:
            await self.push_frame(frame_cls(**kwargs), FrameDirection.UPSTREAM)
        elif len(self._early) < MOST_EARLY_MESSAGES:
            self._early = (*self._early, frame_cls(**kwargs))
        else:
            self._dropped += 1

    async def push_audio_frame(self, frame: InputAudioRawFrame) -> None:
        """Send ``frame`` on, together with what was too short before it."""
        if not self._params.audio_in_enabled or self._paused:
            return
        held, self._held = self._held, None
        if held is not None and _is_alike(held, frame):
            held.audio += frame.audio
            held.num_frames += frame.num_frames
            frame = held
        elif held is not None:
            await self.push_frame(held)
        if frame.num_frames < CHUNK_SECS * frame.sample_rate:
            self._held = frame
        else:
            await self.push_frame(frame)


@cache
def direct(kind: type[BaseInputTransport]) -> Any:
    """The same kind of input, taking audio in directly. It must have no ``audio_in_filter``."""
    return type(f"Direct{kind.__name__}", (_Intake, kind), {})


class AudioEnd(FrameProcessor):
    """Where one kind of audio ends: behind this, nothing has a use for it.

    It works in the task of whoever hands it a frame, so passing it costs little.
    """

    def __init__(self, kind: type[Frame], **options: Any) -> None:
        super().__init__(enable_direct_mode=True, **options)
        self._kind = kind

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass on all other frames."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, self._kind) or direction is FrameDirection.UPSTREAM:
            await self.push_frame(frame, direction)


def _is_alike(one: InputAudioRawFrame, other: InputAudioRawFrame) -> bool:
    return (
        type(one) is type(other)
        and one.sample_rate == other.sample_rate
        and one.num_channels == other.num_channels
        and one.transport_source == other.transport_source
        and getattr(one, "user_id", None) == getattr(other, "user_id", None)
    )
