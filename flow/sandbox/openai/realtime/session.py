"""One connection: what a client asks for, and what the session does about it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket, WebSocketDisconnect

from flow.sandbox.bill import Amounts, Line
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.generator import Generator
from flow.sandbox.openai.realtime.configuration import SESSION_SECS, Configuration
from flow.sandbox.openai.realtime.conversation import Conversation, Item
from flow.sandbox.openai.realtime.input_audio import BYTES_PER_MS, InputAudio, SpeechEdge
from flow.sandbox.openai.realtime.response import RealtimeResponse, Reply
from flow.sandbox.openai.realtime.transcriber import Transcriber, heard_amounts
from flow.sandbox.openai.reply_pieces import generate
from flow.sandbox.openai.speech import SAMPLE_RATE, Speak
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.stand_in import exchange_of, hits_of

LEAST_COMMITTED_MS = 100
GOING_AWAY = 1001
_CALL = "function_call"


@dataclass(frozen=True, slots=True)
class Voice:
    """How the model of a session hears, thinks and speaks.

    ``session_secs`` is how long a session may last.
    """

    generator: Generator
    pace: Pace
    speak: Speak
    hear: Hear
    session_secs: float = SESSION_SECS


class Session:
    """A session over one WebSocket."""

    def __init__(self, websocket: WebSocket, voice: Voice, model: str) -> None:
        self._websocket = websocket
        self._voice = voice
        self._bill = voice.generator.bill
        self._exchange = exchange_of(websocket)
        self._hits = hits_of(websocket)
        self._configuration = Configuration(model)
        self._conversation = Conversation()
        self._audio = InputAudio()
        self._response: RealtimeResponse | None = None
        self._transcriber = Transcriber(self._bill, self._send, voice.pace, self._hits)
        self._next_item_id = _item_id()

    async def run(self) -> None:
        """Serve until the client leaves or the session is too old."""
        await self._send("session.created", session=self._configuration.value)
        try:
            async with asyncio.timeout(self._voice.session_secs):
                while True:
                    await self._take(await self._websocket.receive_text())
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            minutes = round(SESSION_SECS / 60)
            said = f"Your session hit the maximum duration of {minutes} minutes."
            await self._refuse(ApiError(400, said, code="session_expired"), None)
            await self._websocket.close(GOING_AWAY)
        finally:
            await self._drop()

    async def _drop(self) -> None:
        if self._response is not None:
            await self._response.drop()
        await self._transcriber.drop()

    async def _take(self, message: str) -> None:
        event: Any = None
        try:
            event = _parsed(message)
            await self._dispatch(event)
        except ApiError as error:
            event_id = event.get("event_id") if isinstance(event, dict) else None
            await self._refuse(error, event_id)

    async def _dispatch(self, event: Mapping[str, Any]) -> None:
        match event.get("type"):
            case "session.update":
                self._configuration.update(_field(event, "session", dict))
                await self._send("session.updated", session=self._configuration.value)
            case "input_audio_buffer.append":
                await self._append(_field(event, "audio", str))
            case "input_audio_buffer.commit":
                sound = self._audio.sound
                self._audio.clear()
                await self._commit(sound)
            case "input_audio_buffer.clear":
                self._audio.clear()
                await self._send("input_audio_buffer.cleared")
            case "conversation.item.create":
                await self._create_item(event)
            case "conversation.item.truncate":
                await self._truncate(event)
            case "conversation.item.delete":
                item_id = _field(event, "item_id", str)
                del self._conversation.items[self._conversation.index(item_id)]
                await self._send("conversation.item.deleted", item_id=item_id)
            case "conversation.item.retrieve":
                place = self._conversation.index(_field(event, "item_id", str))
                value = self._conversation.items[place].value
                await self._send("conversation.item.retrieved", item=value)
            case "response.create":
                await self._respond(event.get("response") or {})
            case "response.cancel":
                await self._cancel()
            case other:
                said = f"Invalid value: '{other}'."
                raise ApiError(400, said, param="type", code="invalid_value")

    async def _append(self, audio: str) -> None:
        try:
            sound = base64.b64decode(audio, validate=True)
        except binascii.Error:
            raise ApiError(400, "Invalid 'audio'.", param="audio", code="invalid_value") from None
        for edge in self._audio.append(sound, self._configuration.turn_detection):
            await self._turn(edge)

    async def _turn(self, edge: SpeechEdge) -> None:
        detection = self._configuration.turn_detection or {}
        item_id = self._next_item_id
        if edge.kind == "started":
            told = {"audio_start_ms": edge.at_ms, "item_id": item_id}
            await self._send("input_audio_buffer.speech_started", **told)
            if detection.get("interrupt_response") and self._is_responding:
                await self._interrupt("turn_detected")
            return
        told = {"audio_end_ms": edge.at_ms, "item_id": item_id}
        await self._send("input_audio_buffer.speech_stopped", **told)
        await self._commit(edge.sound)
        if detection.get("create_response") and not self._is_responding:
            await self._respond({})

    async def _commit(self, sound: bytes) -> None:
        if len(sound) < LEAST_COMMITTED_MS * BYTES_PER_MS:
            lasts = len(sound) / BYTES_PER_MS
            said = f"Error committing input audio buffer: buffer too small, it has {lasts:.2f}ms."
            raise ApiError(400, said, code="input_audio_buffer_commit_empty")
        content = [{"type": "input_audio", "transcript": None}]
        item = Item(
            {
                "id": self._next_item_id,
                "object": "realtime.item",
                "type": "message",
                "status": "completed",
                "role": "user",
                "content": content,
            },
            audio_secs=len(sound) / BYTES_PER_MS / 1000,
        )
        item.words = await asyncio.to_thread(self._voice.hear, sound, SAMPLE_RATE)
        self._next_item_id = _item_id()
        before = self._conversation.add(item)
        placed = {"previous_item_id": before, "item_id": item.id}
        await self._send("input_audio_buffer.committed", **placed)
        await self._add(item, before)
        if (model := self._configuration.transcription_model) is not None:
            line = self._line("stt", model, heard_amounts(sound, model), None)
            self._transcriber.begin(item, line)

    async def _create_item(self, event: Mapping[str, Any]) -> None:
        value = {"id": _item_id(), "object": "realtime.item", "status": "completed"}
        value |= _field(event, "item", dict)
        if value.get("type") not in ("message", _CALL, "function_call_output"):
            said = f"Invalid value: '{value.get('type')}'."
            raise ApiError(400, said, param="item.type", code="invalid_value")
        item = Item(value)
        after = event.get("previous_item_id")
        before = self._conversation.add(item, None if after in (None, "root") else after)
        await self._add(item, before)

    async def _add(self, item: Item, before: str | None) -> None:
        placed = {"previous_item_id": before, "item": item.value}
        await self._send("conversation.item.added", **placed)
        await self._send("conversation.item.done", **placed)

    async def _truncate(self, event: Mapping[str, Any]) -> None:
        item_id, end = _field(event, "item_id", str), _field(event, "audio_end_ms", int)
        self._conversation.truncate(item_id, end)
        told = {"item_id": item_id, "content_index": 0, "audio_end_ms": end}
        await self._send("conversation.item.truncated", **told)

    @property
    def _is_responding(self) -> bool:
        return self._response is not None and not self._response.is_over

    async def _interrupt(self, reason: str) -> None:
        assert self._response is not None
        await self._response.cancel(reason)

    async def _cancel(self) -> None:
        if not self._is_responding:
            said = "Cancellation failed: no active response found"
            raise ApiError(400, said, code="response_cancel_not_active")
        await self._interrupt("client_cancelled")

    async def _respond(self, asked: Mapping[str, Any]) -> None:
        if self._is_responding:
            said = "Conversation already has an active response in progress."
            raise ApiError(400, said, code="conversation_already_has_active_response")
        session = self._configuration.value
        settings = {**session, **{name: v for name, v in asked.items() if v is not None}}
        instructions, tools = settings["instructions"] or "", settings["tools"] or []
        reply = await self._reply(settings, instructions, tools)
        reading = self._conversation.read(instructions, tools)
        response_id = f"resp_{uuid4().hex[:24]}"
        amounts = Amounts(
            prompt_tokens=reading.tokens,
            prompt_audio_tokens=reading.audio,
            cached_tokens=reading.cached,
            cached_audio_tokens=reading.cached_audio,
        )
        line = self._line("llm", self._configuration.model, amounts, response_id)
        self._bill.start(line)
        self._response = RealtimeResponse(
            line,
            reply,
            {
                "output_modalities": [reply.modality],
                "max_output_tokens": settings["max_output_tokens"],
                "audio": {"output": _spoken_as(session)},
            },
            conversation=self._conversation,
            bill=self._bill,
            send=self._send,
            pace=self._voice.pace,
            hits=self._hits,
        )

    async def _reply(
        self, settings: Mapping[str, Any], instructions: str, tools: list[dict[str, Any]]
    ) -> Reply:
        chat = {
            "messages": self._conversation.messages(instructions),
            "tools": [{"type": "function", "function": tool} for tool in tools],
            "tool_choice": settings["tool_choice"],
        }
        said = self._voice.generator.reply(chat, self._hits, param="tool_choice")
        most = settings["max_output_tokens"]
        modality = str((settings["output_modalities"] or ["audio"])[0])
        sound = b""
        if modality == "audio" and (text := said.refusal or said.text):
            sound = await asyncio.to_thread(self._voice.speak, text, sample_rate=SAMPLE_RATE)
        return Reply(generate(said, most if isinstance(most, int) else None), sound, modality)

    def _line(self, kind: Any, model: str, amounts: Amounts, response_id: str | None) -> Line:
        return Line(
            request_id=self._exchange.request_id,
            kind=kind,
            model=model,
            requested_model=model,
            headers=self._exchange.headers,
            response_id=response_id,
            stream=True,
            amounts=amounts,
        )

    async def _refuse(self, error: ApiError, event_id: str | None) -> None:
        told = {
            "type": "invalid_request_error",
            "code": error.code,
            "message": str(error),
            "param": error.param,
            "event_id": event_id,
        }
        await self._send("error", error=told)

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{uuid4().hex[:24]}", **fields}
        await self._websocket.send_text(json.dumps(event, separators=(",", ":")))


def _spoken_as(session: Mapping[str, Any]) -> dict[str, Any]:
    output = session["audio"]["output"]
    return {"format": output["format"], "voice": output["voice"]}


def _item_id() -> str:
    return f"item_{uuid4().hex[:24]}"


def _parsed(message: str) -> dict[str, Any]:
    try:
        event = json.loads(message)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ApiError(400, "The event is not a JSON object.", code="invalid_json")
    return event


def _field(event: Mapping[str, Any], name: str, kind: type) -> Any:
    value = event.get(name)
    if not isinstance(value, kind):
        said = f"Missing required parameter: '{name}'."
        raise ApiError(400, said, param=name, code="missing_required_parameter")
    return value
