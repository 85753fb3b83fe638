"""What both of Cartesia's speech-to-text endpoints do: take sound, bill it, and recognize it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from flow.sandbox.bill import Bill, Outcome
from flow.sandbox.cartesia.connection import UNKNOWN_MODEL, Connection, Refused, invalid
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.speech.speech_finder import Stretch

IDLE_SECS = 180.0
"""https://docs.cartesia.ai/api-reference/stt/stt"""


@dataclass(frozen=True, slots=True)
class HearingPace:
    """How long the ears take.

    ``final_secs`` pass from the end of what is transcribed to its text. A turn is over when the
    caller has been silent for ``turn_end_secs``, and thought to be at a third of that.
    """

    final_secs: float = 0.0
    turn_end_secs: float = 0.3


LIFELIKE = HearingPace(final_secs=0.1)
"""As hosted ears have it."""


class Hearing:
    """The sound of one connection: 16-bit mono samples, all of which are billed.

    Args:
        model: the beginning of the names of the models that there are.

    Raises:
        Refused: a parameter is missing, or asks for what there is not.
    """

    def __init__(
        self, connection: Connection, bill: Bill, hear: Hear, pace: HearingPace, model: str
    ) -> None:
        query = connection.query
        if not query.get("model", "").startswith(model):
            raise Refused(UNKNOWN_MODEL)
        if query.get("encoding") != "pcm_s16le":
            raise Refused(invalid("encoding"))
        self.rate = _rate(query)
        self._connection = connection
        self._hear = hear
        self._final_secs = pace.final_secs
        self._bill = bill
        self._line = connection.line("stt", query["model"], billed_by="audio_seconds")
        self._samples = 0

    def bill(self, pcm16: bytes) -> None:
        """Charge for sound, silent or not."""
        if not self._samples:
            self._bill.start(self._line)
        self._samples += len(pcm16) // 2
        lasted = Decimal(self._samples) / self.rate
        self._line.amounts.audio_seconds = lasted.quantize(Decimal("0.000001"))

    async def text(self, stretch: Stretch | None) -> str:
        """The words of what was said, when they are due."""
        await asyncio.sleep(self._final_secs + self._connection.result_delay_secs)
        if stretch is None:
            return ""
        return await asyncio.to_thread(self._hear, stretch.pcm16, self.rate)

    def close(self, outcome: Outcome) -> None:
        """Make out the bill."""
        self._bill.close(self._line, outcome)


def _rate(query: Mapping[str, str]) -> int:
    rate = query.get("sample_rate", "")
    if not rate.isdecimal() or not 8_000 <= int(rate) <= 48_000:
        raise Refused(invalid("sample_rate"))
    return int(rate)
