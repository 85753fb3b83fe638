"""``WS /stt/websocket``: speech to text that is told when somebody has finished.

https://docs.cartesia.ai/api-reference/stt/stt. ``finalize`` has what came transcribed; ``close``,
which used to be called ``done``, also ends the connection.
"""

from __future__ import annotations

from typing import Any

from flow.sandbox.bill import Bill, Outcome
from flow.sandbox.cartesia.connection import Connection, Refused, invalid
from flow.sandbox.cartesia.hearing import IDLE_SECS, Hearing, HearingPace
from flow.sandbox.openai.transcription import Hear


class Listening:
    """One connection."""

    def __init__(self, connection: Connection, bill: Bill, hear: Hear, pace: HearingPace) -> None:
        self._connection = connection
        self._begin = lambda: Hearing(connection, bill, hear, pace, model="ink")
        self._language = connection.query.get("language", "en")

    async def serve(self) -> None:
        """Listen until one side closes."""
        try:
            hearing = self._begin()
        except Refused as refused:
            await self._connection.send_error(refused.problem)
            await self._connection.close()
            return
        outcome: Outcome = "disconnected"
        try:
            async for message in self._connection.messages(IDLE_SECS):
                if isinstance(message, bytes):
                    hearing.bill(message)
                    hearing.listen(message)
                elif message in ("close", "done"):
                    await self._transcribe(hearing)
                    outcome = "complete"
                    # Closed first: whoever has heard that it is done may look at the bill.
                    hearing.close(outcome)
                    await self._send("done")
                    await self._connection.close()
                elif message == "finalize":
                    await self._transcribe(hearing)
                    await self._send("flush_done")
                else:
                    await self._connection.send_error(invalid("command"))
        finally:
            hearing.close(outcome)

    async def _transcribe(self, hearing: Hearing) -> None:
        lasted = hearing.unheard_secs
        if text := await hearing.text():
            await self._send(
                "transcript", text=text, is_final=True, duration=lasted, language=self._language
            )
        hearing.forget()

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._connection.send(
            {"type": kind, "request_id": self._connection.request_id, **fields}
        )
