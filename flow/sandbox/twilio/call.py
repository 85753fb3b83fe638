"""Calls by telephone: Twilio's side of a media stream, from the webhook to the hang-up.

The protocol is https://www.twilio.com/docs/voice/media-streams/websocket-messages, with the
bidirectional stream of ``<Connect><Stream>``.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from flow.errors import InvalidInput
from flow.kit.tls import trusted
from flow.sandbox.callers import mulaw
from flow.sandbox.callers.caller import open_socket
from flow.sandbox.callers.conversation import CallerEvent, Conversation
from flow.sandbox.callers.frames import Audio, Frame, Interruption
from flow.sandbox.callers.pipecat_phone import Phone
from flow.sandbox.twilio.app import TwilioSandbox
from flow.sandbox.twilio.rest_api import ACCOUNT_SID, TwilioCall

SAMPLE_RATE = 8_000
CHUNK_BYTES = 320


@dataclass(frozen=True, slots=True)
class Telephone:
    """The telephone as a `flow.sandbox.callers.caller.Carrier`; ``calls`` are at the stand-in."""

    twilio: TwilioSandbox
    transport: str = "twilio"
    sample_rate: int = SAMPLE_RATE
    chunk_bytes: int = CHUNK_BYTES

    @asynccontextmanager
    async def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AsyncIterator[Phone]:
        """A phone on the stream that the join's webhook asks for.

        Raises:
            Refused, InvalidInput: as for `TwilioSandbox.ask`.
        """
        call = self.twilio.begin()
        # Twilio has no API key of the customer's.
        async with httpx.AsyncClient(trust_env=False, verify=trusted()) as stranger:
            noun = await self.twilio.ask(stranger, connection["twiml_url"], call)
        async with open_socket(noun.url) as socket:
            stream = TwilioStream(call, noun.parameters)
            async with TwilioPhone(socket, stream, conversation, on_event, call.hung_up) as phone:
                yield phone
        call.end()


@dataclass(frozen=True, slots=True)
class CalledParty:
    """Somebody whom Flow calls, as a `flow.sandbox.callers.caller.Carrier`.

    ``answered_by`` is what Twilio takes whoever answers for, where it was asked to find out.
    """

    twilio: TwilioSandbox
    answered_by: str = "human"
    transport: str = "twilio"
    sample_rate: int = SAMPLE_RATE
    chunk_bytes: int = CHUNK_BYTES

    @asynccontextmanager
    async def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AsyncIterator[Phone]:
        """A phone that has been rung, and taken off the hook.

        Raises:
            Refused, InvalidInput: as for `TwilioSandbox.ask`.
        """
        async with httpx.AsyncClient(trust_env=False, verify=trusted()) as stranger:
            call = await self.twilio.placed()
            noun = await self.twilio.answer(stranger, call, self.answered_by)
            async with open_socket(noun.url) as socket:
                stream = TwilioStream(call, noun.parameters)
                phone = TwilioPhone(socket, stream, conversation, on_event, call.hung_up)
                async with phone:
                    yield phone
            call.end(seconds=61)
            await self.twilio.tell(stranger, call)


class TwilioStream:
    """What Twilio sends on the stream of a call, message by message."""

    def __init__(self, call: TwilioCall, parameters: Mapping[str, str]) -> None:
        self.sid = f"MZ{uuid4().hex}"
        self._call = call
        self._parameters = dict(parameters)
        self._sequence = 0
        self._chunks = 0

    def connected(self) -> str:
        """The first message."""
        return json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})

    def start(self) -> str:
        """The second."""
        told = {
            "accountSid": ACCOUNT_SID,
            "streamSid": self.sid,
            "callSid": self._call.sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": SAMPLE_RATE, "channels": 1},
            "customParameters": self._parameters,
        }
        return self._numbered("start", told)

    def media(self, pcm16: bytes) -> str:
        """Sound of the caller."""
        self._chunks += 1
        milliseconds = self._chunks * 1000 * CHUNK_BYTES // (2 * SAMPLE_RATE)
        told = {
            "track": "inbound",
            "chunk": str(self._chunks),
            "timestamp": str(milliseconds),
            "payload": b64encode(mulaw.encode(pcm16)).decode(),
        }
        return self._numbered("media", told)

    def dtmf(self, digit: str) -> str:
        """A key that was pressed."""
        return self._numbered("dtmf", {"track": "inbound_track", "digit": digit})

    def mark(self, name: str) -> str:
        """The sound before the service's mark of this name was played, or thrown away."""
        return self._numbered("mark", {"name": name})

    def stop(self) -> str:
        """The last: the call is over."""
        return self._numbered("stop", {"accountSid": ACCOUNT_SID, "callSid": self._call.sid})

    def heard(self, wire: str | bytes) -> tuple[str, Any]:
        """The kind of a message of the service's, and its sound or its name if it has one.

        Raises:
            InvalidInput: Twilio would not take it.
        """
        try:
            message = json.loads(wire) if isinstance(wire, str) else {}
            if message.get("streamSid") == self.sid:
                match message.get("event"):
                    case "media":
                        return "media", b64decode(message["media"]["payload"], validate=True)
                    case "mark":
                        return "mark", str(message["mark"]["name"])
                    case "clear":
                        return "clear", None
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        raise InvalidInput(f"{len(wire)} bytes from the service are no message of a stream.")

    def _numbered(self, event: str, told: dict[str, Any]) -> str:
        self._sequence += 1
        sequence = str(self._sequence)
        return json.dumps(
            {"event": event, "sequenceNumber": sequence, event: told, "streamSid": self.sid}
        )


class TwilioPhone(Phone):
    """A phone whose sound travels in Twilio's messages; it can be hung up at Twilio as well."""

    def __init__(
        self,
        socket: ClientConnection,
        stream: TwilioStream,
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
        hung_up: asyncio.Event,
    ) -> None:
        super().__init__(socket, conversation, on_event)
        self._stream = stream
        self._hung_up = hung_up
        self._marks: list[tuple[float, str]] = []

    async def __aenter__(self) -> Self:
        for wire in (self._stream.connected(), self._stream.start()):
            await self._socket.send(wire)
        self._watching = asyncio.create_task(self._watch())
        return await super().__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        await super().__aexit__(*raised)

    async def hang_up(self) -> None:
        """End the call: say so and close the stream."""
        with suppress(ConnectionClosed):
            await self._socket.send(self._stream.stop())
        await super().hang_up()

    async def _watch(self) -> None:
        await self._hung_up.wait()
        await self.hang_up()

    def _wire(self, chunk: bytes) -> Iterable[str | bytes]:
        now = self.now()
        played = [name for due, name in self._marks if due <= now]
        self._marks = [mark for mark in self._marks if mark[0] > now]
        return (*map(self._stream.mark, played), self._stream.media(chunk))

    def _frames(self, wire: str | bytes) -> Iterable[Frame]:
        kind, told = self._stream.heard(wire)
        if kind == "media":
            return (Audio(mulaw.decode(told), SAMPLE_RATE),)
        if kind == "clear":
            self._marks = [(0.0, name) for _, name in self._marks]
            return (Interruption(),)
        self._marks.append((self._conversation.playback.ends_at(self.now()), told))
        return ()
