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

FRAME_SECS = 0.02
SHORTEST_SPEECH_SECS = 0.06
EAGER_SHARE = 1 / 3


class Turns:
    """One connection."""

    def __init__(self, connection: Connection, hearing: Hearing, turn_end_secs: float) -> None:
        self._connection = connection
        self._hearing = hearing
        self._end_secs = turn_end_secs
        self._is_turn = False
        self._loud_secs = self._silent_secs = 0.0
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
                    if self._is_turn:
                        await self._end()
                    self._hearing.close("complete")
                    await self._connection.close()
                elif json_object(message).get("type") != "config":
                    await self._connection.send_error(invalid("type"))
        finally:
            self._hearing.close("disconnected")

    async def _hear(self, frame: bytes) -> None:
        is_speech = self._hearing.listen(frame)
        self._loud_secs = self._loud_secs + FRAME_SECS if is_speech else 0.0
        self._silent_secs = 0.0 if is_speech else self._silent_secs + FRAME_SECS
        if not self._is_turn:
            if self._loud_secs >= SHORTEST_SPEECH_SECS:
                self._is_turn = True
                await self._send("turn.start")
        elif is_speech and self._eager_text is not None:
            self._eager_text = None
            await self._send("turn.resume")
        elif self._silent_secs >= self._end_secs:
            await self._end()
        elif self._silent_secs >= self._end_secs * EAGER_SHARE and self._eager_text is None:
            self._eager_text = await self._hearing.text()
            await self._send("turn.update", transcript=self._eager_text)
            await self._send("turn.eager_end", transcript=self._eager_text)

    async def _end(self) -> None:
        text = await self._hearing.text() if self._eager_text is None else self._eager_text
        self._hearing.forget()
        self._is_turn, self._eager_text = False, None
        await self._send("turn.end", transcript=text)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._connection.send(
            {"type": kind, "request_id": self._connection.request_id, **fields}
        )


def _frames(pcm16: bytes, rate: int) -> Iterator[bytes]:
    size = 2 * round(rate * FRAME_SECS)
    return (pcm16[start : start + size] for start in range(0, len(pcm16), size))
