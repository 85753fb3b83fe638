"""``WS /stt/websocket``: speech to text that is told when somebody has finished.

https://docs.cartesia.ai/api-reference/stt/stt. ``finalize`` has what came transcribed; ``close``,
which used to be called ``done``, also ends the connection.
"""

from __future__ import annotations

from typing import Any

from flow.sandbox.cartesia.connection import Connection, invalid
from flow.sandbox.cartesia.hearing import IDLE_SECS, Hearing
from flow.sandbox.speech.speech_finder import SpeechFinder

LONGEST_SECS = 3600.0
"""No pause is as long."""


class Listening:
    """One connection."""

    def __init__(self, connection: Connection, hearing: Hearing) -> None:
        self._connection = connection
        self._hearing = hearing
        self._finder = SpeechFinder(hearing.rate, silence_secs=LONGEST_SECS)
        self._language = connection.query.get("language", "en")

    async def serve(self) -> None:
        """Listen until one side closes."""
        try:
            async for message in self._connection.messages(IDLE_SECS):
                if isinstance(message, bytes):
                    self._hearing.bill(message)
                    self._listen(message)
                elif message in ("close", "done"):
                    await self._transcribe()
                    # Closed first: whoever has heard that it is done may look at the bill.
                    self._hearing.close("complete")
                    await self._send("done")
                    await self._connection.close()
                elif message == "finalize":
                    await self._transcribe()
                    await self._send("flush_done")
                else:
                    await self._connection.send_error(invalid("command"))
        finally:
            self._hearing.close("disconnected")

    def _listen(self, pcm16: bytes) -> None:
        for _ in self._finder.feed(pcm16):
            pass  # what is said ends when the client says so

    async def _transcribe(self) -> None:
        stretch = self._finder.cut()
        text = await self._hearing.text(stretch)
        if stretch is not None and text:
            lasted = round(stretch.end - stretch.start, 3)
            await self._send(
                "transcript", text=text, is_final=True, duration=lasted, language=self._language
            )

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._connection.send(
            {"type": kind, "request_id": self._connection.request_id, **fields}
        )
