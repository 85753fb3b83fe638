"""What tools have the bot say: "one moment, please" into a silence, and last words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

BOT_HANGS_UP = "on_bot_hangs_up"


class ToolVoice(FrameProcessor):
    """Stands before the model. Knows who is speaking, and puts what tools say into the pipeline.

    The event ``on_bot_hangs_up`` is for whoever ends the call, with the bot's last words, and
    whether the model is to reply before, to what it is being asked.

    Args:
        speak: makes the frame that has the bot say a text.
        now: seconds that go on.
    """

    def __init__(
        self,
        speak: Callable[[str], Frame],
        *,
        now: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        # It never waits, so it needs no task and queues of its own.
        super().__init__(enable_direct_mode=True, **options)
        self._speak = speak
        self._now = now
        self._bot_speaks = self._caller_speaks = False
        self._quiet_since = 0.0
        self._is_quiet, self._is_spoken = asyncio.Event(), asyncio.Event()
        self._is_quiet.set()
        self._register_event_handler(BOT_HANGS_UP)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note who speaks, and pass every frame on."""
        await super().process_frame(frame, direction)
        match frame:
            case BotStartedSpeakingFrame():
                self._bot_speaks = True
            case BotStoppedSpeakingFrame():
                self._bot_speaks = False
                self._is_spoken.set()
            case UserStartedSpeakingFrame():
                self._caller_speaks = True
            case UserStoppedSpeakingFrame():
                self._caller_speaks = False
        if self._bot_speaks or self._caller_speaks:
            self._is_quiet.clear()
        elif not self._is_quiet.is_set():
            self._quiet_since = self._now()
            self._is_quiet.set()
        await self.push_frame(frame, direction)

    async def silence(self, secs: float) -> None:
        """Return when nobody has spoken for so long, counted from now at the earliest."""
        since = self._now()
        while True:
            await self._is_quiet.wait()
            left = secs - (self._now() - max(self._quiet_since, since))
            if left <= 0:
                return
            await asyncio.sleep(left)

    async def say(self, text: str, within_secs: float = 0.0) -> None:
        """Have the bot say a text, and return when it is said, or that time is over."""
        self._is_spoken.clear()
        await self.pipeline_worker.queue_frame(self._speak(text))
        with suppress(TimeoutError):
            async with asyncio.timeout(within_secs):
                await self._is_spoken.wait()

    async def hang_up(self, last_words: str, *, after_reply: bool = False) -> None:
        """Have whoever ends the call do so, with these words after what the bot is saying.

        ``after_reply``: and after what the model replies to what it is being asked.
        """
        await self._call_event_handler(BOT_HANGS_UP, last_words, after_reply)
