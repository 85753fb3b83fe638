"""What the caller presses on the telephone's keys, as turns of the conversation."""

from __future__ import annotations

from typing import Any

from pipecat.frames.frames import LLMMessagesAppendFrame
from pipecat.processors.aggregators.dtmf_aggregator import DTMFAggregator

PRESSED = "on_pressed"
"""The caller has pressed keys. Handlers get the processor, and the keys as the model is told."""

PREFIX = "DTMF: "
PAUSE_SECS = 2.0
MAX_KEYS = 64


class PressedKeys(DTMFAggregator):
    """Tells the model of keys that were pressed in a row: up to ``#``, or a pause.

    Pipecat would make a transcription of them, which only counts where somebody was heard to speak:
    a turn here begins with a voice. The first key interrupts the bot, as a voice would.
    """

    def __init__(self) -> None:
        super().__init__(timeout=PAUSE_SECS, prefix=PREFIX, name="keys")
        self._register_event_handler(PRESSED, sync=True)

    async def _flush_aggregation(self) -> None:
        keys, self._aggregation = self._aggregation[:MAX_KEYS], ""
        if not keys:
            return
        text = f"{PREFIX}{keys}"
        await self._call_event_handler(PRESSED, text)
        message: Any = {"role": "user", "content": text}
        await self.push_frame(LLMMessagesAppendFrame(messages=[message], run_llm=True))
