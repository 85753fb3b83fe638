"""What Nova and Flux have in common here: how they hear, how fast, and what that costs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal

from flow.sandbox.bill import Bill, Line
from flow.sandbox.deepgram.connection import Connection, Refused, number
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.speech.speech_finder import Stretch

LEAST_SECS = Decimal(1)
_MICROSECOND = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class HearingPace:
    """How fast what is said is understood, in seconds.

    Args:
        final: from the end of speech to the final words; a pause as long ends a stretch of speech.
        interim: of speech from one guess to the next.
        end_of_turn: how long a pause ends a turn, for Flux; it sees one coming at half of it.
    """

    final: float = 0.1
    interim: float = 0.5
    end_of_turn: float = 0.3


class Listening:
    """The sound of one connection, and its line on the bill.

    Every second that is received costs, and one at least, times the channels heard apart.

    Raises:
        Refused: it is a format that this stand-in cannot read.
    """

    def __init__(self, connection: Connection, bill: Bill, hear: Hear) -> None:
        query = connection.query
        if query.get("encoding", "linear16") != "linear16":
            raise Refused(400, "This stand-in reads 'linear16' alone.")
        if not query.get("model"):
            raise Refused(400, "Invalid query string: model is missing.")
        self.rate = number(query, "sample_rate", 16_000)
        self.channels = number(query, "channels", 1)
        self.is_multichannel = query.get("multichannel") == "true"
        self._bill = bill
        self._hear = hear
        self._bytes = 0
        other = connection.hits.of("other_usage")
        self._factor = Decimal(str(other.factor)) if other else Decimal(1)
        is_multilingual = query.get("language") == "multi"
        model = f"{query['model']}-multilingual" if is_multilingual else query["model"]
        self._line = Line(
            request_id=connection.request_id,
            kind="stt",
            model=model,
            requested_model=query["model"],
            headers=connection.exchange.headers,
            stream=True,
            billed_by=("audio_seconds",),
        )

    def begin(self) -> None:
        """The connection is made."""
        self._bill.start(self._line)
        self._charge()

    def take(self, sound: bytes) -> None:
        """Sound has come."""
        self._bytes += len(sound)
        self._charge()

    def end(self) -> None:
        """The connection is over."""
        self._bill.close(self._line, "complete")

    @property
    def heard_channels(self) -> int:
        """How many channels are heard apart."""
        return self.channels if self.is_multichannel else 1

    @property
    def duration(self) -> Decimal:
        """How many seconds there have been, as the vendor says."""
        seconds = Decimal(self._bytes) / (2 * self.channels * self.rate) * self._factor
        return seconds.quantize(_MICROSECOND)

    async def words(self, stretch: Stretch | None) -> str:
        """What was said; nothing in silence."""
        if stretch is None:
            return ""
        return await asyncio.to_thread(self._hear, stretch.pcm16, self.rate)

    def _charge(self) -> None:
        self._line.amounts.audio_seconds = max(self.duration, LEAST_SECS) * self.heard_channels


Job = Callable[[], Awaitable[None]]


class Answers:
    """Does one thing after another, in the background: what is heard is answered in its order."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[tuple[float, Job]] = asyncio.Queue()
        self._worker = asyncio.create_task(self._work())

    def add(self, job: Job, delay_secs: float = 0.0) -> None:
        """Something to do, not before ``delay_secs`` from now."""
        self._jobs.put_nowait((asyncio.get_running_loop().time() + delay_secs, job))

    async def finish(self) -> None:
        """Wait until all is done."""
        await self._jobs.join()

    async def drop(self) -> None:
        """Leave what is still to do."""
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, job = await self._jobs.get()
            await asyncio.sleep(max(due - clock(), 0))
            await job()
            self._jobs.task_done()
