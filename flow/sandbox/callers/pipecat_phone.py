"""A phone off the hook: a conversation carried over a Pipecat WebSocket in real time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from flow.errors import Unavailable
from flow.sandbox.callers.conversation import CallerEvent, Conversation, EventKind
from flow.sandbox.callers.frames import Audio, Data, Frame, Interruption, decode, encode

SAMPLE_RATE = 16_000
CHUNK_BYTES = 640

# Of any protocol: it is how often the microphone gives something.
_CHUNK_SECS = CHUNK_BYTES / 2 / SAMPLE_RATE
_FAREWELL_SECS = 30.0


class Phone:
    """``async with Phone(...) as phone``: it listens for as long as the block lasts.

    A subclass speaks another protocol: see `_wire` and `_frames`.

    Args:
        socket: a connected socket of the service.
        conversation: what is heard and said.
        on_event: told when the call is connected and how it ends.
    """

    def __init__(
        self,
        socket: ClientConnection,
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> None:
        self._socket = socket
        self._conversation = conversation
        self._on_event = on_event
        self._chunks_sent = 0
        self._began = monotonic()
        self._ended: float | None = None

    async def __aenter__(self) -> Self:
        self._tell(EventKind.CONNECTED)
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    @property
    def seconds_sent(self) -> float:
        """Audio sent so far, speech and silence."""
        return self._chunks_sent * _CHUNK_SECS

    def now(self) -> float:
        """Seconds since the call was connected, until it ended."""
        return (monotonic() if self._ended is None else self._ended) - self._began

    async def talk(self) -> bool:
        """Be a microphone until the caller hangs up, which is true, or the service does."""
        while not self._listening.done():
            chunk = self._conversation.say(self.now())
            if chunk is None:
                self._tell(EventKind.HUNG_UP)
                return True
            try:
                for wire in self._wire(chunk):
                    await self._socket.send(wire)
            except ConnectionClosed:
                break
            self._chunks_sent += 1
            # A microphone that was held up gives at once what it picked up in the meantime.
            await asyncio.sleep(max(self.seconds_sent - self.now(), 0.0))
        return False

    async def hang_up(self) -> None:
        """End the call as one does."""
        await self._socket.close()

    def drop(self) -> None:
        """Let the connection break without a word."""
        self._socket.transport.abort()

    async def ended(self) -> None:
        """Wait until the call has been closed from the other end as well.

        Raises:
            Unavailable: that does not happen.
            InvalidInput: what the service sent is no frame.
        """
        done, _ = await asyncio.wait([self._listening], timeout=_FAREWELL_SECS)
        if not done:
            raise Unavailable(f"The service keeps the call open for {_FAREWELL_SECS:g} s.")
        self._listening.result()

    async def _listen(self) -> None:
        try:
            with suppress(ConnectionClosed):
                async for wire in self._socket:
                    for frame in self._frames(wire):
                        self._conversation.hear(frame, self.now())
        finally:
            self._ended = monotonic()
        why = f"{self._socket.close_code} {self._socket.close_reason or ''}".strip()
        self._tell(EventKind.CLOSED, why)

    def _wire(self, chunk: bytes) -> Iterable[str | bytes]:
        """What to send for a chunk of the microphone's."""
        return (encode(Audio(chunk, SAMPLE_RATE)),)

    def _frames(self, wire: str | bytes) -> Iterable[Frame]:
        """What there is to hear in a message of the service."""
        return (decode(wire),) if isinstance(wire, bytes) else ()

    def _tell(self, kind: EventKind, detail: str = "") -> None:
        self._on_event(CallerEvent(kind, self.now(), detail))


class RtviPhone(Phone):
    """Speaks RTVI as well, as Pipecat's JavaScript client does over its WebSocket transport.

    Such a client is sent no interruptions: it stops playing when it is told that its user speaks.
    """

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self._socket.send(encode(Data(json.dumps(_CLIENT_READY))))
        return self

    def _frames(self, wire: str | bytes) -> Iterable[Frame]:
        for frame in super()._frames(wire):
            yield frame
            if isinstance(frame, Data) and rtvi_message(frame.json)[0] == "user-started-speaking":
                yield Interruption()


def rtvi_message(text: str) -> tuple[str, dict[str, Any]]:
    """Type and data of an RTVI message; an empty type for what is none."""
    message = json.loads(text)
    if not isinstance(message, dict) or message.get("label") != _RTVI:
        return "", {}
    return str(message["type"]), message.get("data") or {}


_RTVI = "rtvi-ai"
_CLIENT_READY = {
    "label": _RTVI,
    "type": "client-ready",
    "id": "ready",
    "data": {"version": "2.1.0", "about": {"library": "flow-caller"}},
}
