"""``WS /stt/turns/websocket``: speech to text that tells the caller's turns by itself.

https://docs.cartesia.ai/api-reference/stt/turns/websocket. Where the vendor has a model of turns
this stand-in goes by how long it is silent. A problem with what is asked for is said in place of
``connected``, and ends the connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flow.sandbox.cartesia.connection import Connection, invalid, json_object
from flow.sandbox.cartesia.hearing import IDLE_SECS, Hearing
from flow.sandbox.speech.speech_finder import SpeechFinder, Started, Stretch

FRAME_SECS = 0.02
EAGER_SHARE = 1 / 3


class Turns:
    """One connection."""

    def __init__(self, connection: Connection, hearing: Hearing, turn_end_secs: float) -> None:
        self._connection = connection
        self._hearing = hearing
        self._eager_secs = turn_end_secs * EAGER_SHARE
        self._finder = SpeechFinder(hearing.rate, turn_end_secs)
        self._eager_text: str | None = None
        """What was transcribed when the turn was thought to be over."""

    async def serve(self) -> None:
        """Listen until one side closes."""
        try:
            await self._send("connected")
            async for message in self._connection.messages(IDLE_SECS):
                if isinstance(message, bytes):
                    self._hearing.bill(message)
                    for frame in _frames(message, self._hearing.rate):
                        await self._hear(frame)
                elif json_object(message).get("type") == "close":
                    if (turn := self._finder.cut()) is not None:
                        await self._end(turn)
                    self._hearing.close("complete")
                    await self._connection.close()
                elif json_object(message).get("type") != "config":
                    await self._connection.send_error(invalid("type"))
        finally:
            self._hearing.close("disconnected")

    async def _hear(self, frame: bytes) -> None:
        for found in self._finder.feed(frame):
            if isinstance(found, Started):
                await self._send("turn.start")
            else:
                await self._end(found)
        if (current := self._finder.current) is None:
            return
        if self._eager_text is not None and not self._finder.silent_secs:
            self._eager_text = None
            await self._send("turn.resume")
        elif self._eager_text is None and self._finder.silent_secs >= self._eager_secs:
            self._eager_text = await self._hearing.text(current)
            await self._send("turn.update", transcript=self._eager_text)
            await self._send("turn.eager_end", transcript=self._eager_text)

    async def _end(self, turn: Stretch) -> None:
        text = self._eager_text
        if text is None:
            text = await self._hearing.text(turn)
        self._eager_text = None
        await self._send("turn.end", transcript=text)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._connection.send(
            {"type": kind, "request_id": self._connection.request_id, **fields}
        )


def _frames(pcm16: bytes, rate: int) -> Iterator[bytes]:
    size = 2 * round(rate * FRAME_SECS)
    return (pcm16[start : start + size] for start in range(0, len(pcm16), size))
