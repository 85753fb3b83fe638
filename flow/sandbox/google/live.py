"""``BidiGenerateContent``, Gemini's Live API over a WebSocket (ai.google.dev/api/live)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from starlette.websockets import WebSocket, WebSocketDisconnect

from flow.sandbox.google.generate_request import Content
from flow.sandbox.google.live_generation import Generation, Speaker
from flow.sandbox.google.live_memory import Memory
from flow.sandbox.google.prompt import decoded
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.speech.activity import SpeechActivity, Started, Stopped
from flow.sandbox.stand_in import exchange_of, hits_of

RATE_IN = 16_000
SILENCE_SECS = 0.5
# RFC 6455: the peer said what cannot be used.
_INVALID = 1007

_TURNS = TypeAdapter(list[Content])


class _Setup(BaseModel):
    """The parts of a setup that the stand-in minds."""

    model_config = ConfigDict(
        extra="allow", alias_generator=to_camel, validate_by_alias=True, validate_by_name=True
    )

    model: str
    system_instruction: Content | None = None
    tools: list[dict[str, Any]] | None = None
    realtime_input_config: dict[str, Any] | None = None
    session_resumption: dict[str, Any] | None = None

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions that the model may call."""
        return [f for tool in self.tools or () for f in tool.get("functionDeclarations") or ()]

    @property
    def detects_activity(self) -> bool:
        """Whether Gemini listens for the end of speech by itself."""
        config = camel(self.realtime_input_config or {}).get("automaticActivityDetection") or {}
        return not camel(config).get("disabled")


@dataclass
class Live:
    """Serves sessions, and bills each generation by Google's rule: all that is in the session.

    ``session_secs`` is how long a connection lasts until Gemini says that it will go away, once it
    has said what it is saying; one in which a session is resumed lasts. ``sessions`` are those that
    can be resumed, by their handles.
    """

    speaker: Speaker
    hear: Hear
    session_secs: float | None = None
    sessions: dict[str, Memory] = field(default_factory=dict)

    async def __call__(self, socket: WebSocket) -> None:
        """Serve one connection."""
        session = _Session(self, socket)
        with suppress(WebSocketDisconnect):
            try:
                await session.serve()
            finally:
                await session.end()


class _Refused(Exception):
    """Gemini says why it closes the connection."""


class _Session:
    """One connection."""

    def __init__(self, live: Live, socket: WebSocket) -> None:
        self._live = live
        self._socket = socket
        self._memory = Memory()
        self._setup = _Setup(model="")
        self._activity = SpeechActivity(RATE_IN, SILENCE_SECS)
        self._speech: bytearray | None = None
        """What is said between the marks that the client sets, where it does."""
        self._generating: asyncio.Task[None] | None = None
        self._is_asked = False
        self._is_resumed = False

    async def serve(self) -> None:
        """Answer until somebody leaves."""
        await self._socket.accept()
        try:
            await self._begin(await self._receive())
            async with asyncio.timeout(None if self._is_resumed else self._live.session_secs):
                while True:
                    await self._take(await self._receive())
        except TimeoutError:
            if self._generating is not None:
                await asyncio.gather(self._generating, return_exceptions=True)
            await self._send({"goAway": {"timeLeft": "0s"}})
            await self._socket.close(1000)
        except (_Refused, ValidationError) as error:
            await self._socket.close(_INVALID, str(error)[:100])

    async def end(self) -> None:
        """The connection is gone, and with it what was being said."""
        if self._generating is not None:
            self._generating.cancel()
            await asyncio.gather(self._generating, return_exceptions=True)

    async def _receive(self) -> Mapping[str, Any]:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        told = json.loads(message.get("text") or message.get("bytes") or "null")
        if not isinstance(told, dict):
            raise _Refused("Invalid JSON payload received.")
        return camel(told)

    async def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        await self._socket.send_bytes(data.encode())

    async def _begin(self, message: Mapping[str, Any]) -> None:
        if "setup" not in message:
            raise _Refused("setup must be the first message and only the first")
        self._setup = setup = _Setup.model_validate(message["setup"])
        handle = (setup.session_resumption or {}).get("handle")
        if handle and handle not in self._live.sessions:
            raise _Refused("BidiGenerateContent session not found")
        self._is_resumed = bool(handle)
        if handle:
            self._memory = self._live.sessions[handle].copy()
        else:
            self._memory.describe(setup.functions)
            if setup.system_instruction:
                self._memory.write(setup.system_instruction, "system")
        await self._send({"setupComplete": {}})

    async def _take(self, message: Mapping[str, Any]) -> None:
        if content := message.get("clientContent"):
            await self._take_content(camel(content))
        elif realtime := message.get("realtimeInput"):
            await self._take_realtime(camel(realtime))
        elif answer := message.get("toolResponse"):
            self._memory.use_tools(camel(answer).get("functionResponses"), "tool")
            self._generate()

    async def _take_content(self, content: Mapping[str, Any]) -> None:
        await self._interrupt()
        for turn in _TURNS.validate_python(content.get("turns") or []):
            self._memory.write(turn)
        if content.get("turnComplete"):
            # Gemini 3 waits for something in real time as well.
            self._is_asked = "gemini-3" in self._setup.model
            if not self._is_asked:
                self._generate()

    async def _take_realtime(self, realtime: Mapping[str, Any]) -> None:
        said = realtime.get("text")
        if said is not None and (said.strip() or self._is_asked):
            if said.strip():
                await self._interrupt()
                self._memory.write(Content.model_validate({"parts": [{"text": said}]}))
            self._is_asked = False
            self._generate()
        if "activityStart" in realtime:
            await self._interrupt()
            self._speech = bytearray()
        if audio := realtime.get("audio"):
            await self._hear(decoded(audio["data"]))
        if "activityEnd" in realtime and self._speech is not None:
            spoken, self._speech = bytes(self._speech), None
            await self._understand(spoken)

    async def _hear(self, pcm16: bytes) -> None:
        if self._speech is not None:
            self._speech += pcm16
        if not self._setup.detects_activity:
            return
        for change in self._activity.feed(pcm16):
            match change:
                case Started():
                    await self._interrupt()
                case Stopped():
                    await self._understand(change.pcm16)

    async def _understand(self, pcm16: bytes) -> None:
        words = await asyncio.to_thread(self._live.hear, pcm16, RATE_IN)
        self._memory.hear(len(pcm16) / 2 / RATE_IN, words)
        if words:
            await self._send({"serverContent": {"inputTranscription": {"text": words}}})
        self._generate()

    def _generate(self) -> None:
        exchange, hits = exchange_of(self._socket), hits_of(self._socket)
        generation = Generation(
            self._memory,
            model=self._setup.model.removeprefix("models/"),
            functions=self._setup.functions,
            request_id=exchange.request_id,
            headers=exchange.headers,
            hits=hits,
            send=self._send,
            speaker=self._live.speaker,
        )
        self._generating = asyncio.create_task(self._answer(generation))

    async def _answer(self, generation: Generation) -> None:
        with suppress(WebSocketDisconnect):
            await generation.run()
            if self._setup.session_resumption is not None:
                handle = uuid4().hex
                self._live.sessions[handle] = self._memory.copy()
                update = {"newHandle": handle, "resumable": True}
                await self._send({"sessionResumptionUpdate": update})

    async def _interrupt(self) -> None:
        """Whoever speaks, or writes, makes the model stop."""
        if self._generating is None or self._generating.done():
            return
        self._generating.cancel()
        await asyncio.gather(self._generating, return_exceptions=True)


def camel(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under the names that are documented: Google takes ``snake_case`` as well."""
    return {to_camel(name): inner for name, inner in value.items()}
