"""The scripted caller over real sockets, against a service that speaks as Pipecat does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import uvicorn
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
)
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from flow.errors import InvalidInput, Refused, Unavailable
from flow.sandbox.callers.caller import CallReport, call
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.sandbox.callers.script import SUPPORT_CALL, AfterBot, Cue, Interrupt, Line, Script
from flow.sandbox.speech.recognition import Ears
from flow.sandbox.speech.synthesis import recordings

KEY = "a-key"
THREAD = "6f1c7a0e-0000-4000-8000-000000000001"
HELLO, STOP = "Hello there.", "Please stop."
RATE = 16_000


def script(*lines: Line, hang_up: Cue | None = None) -> Script:
    return Script(
        "Be brief.", "Hi.", lines, SUPPORT_CALL.insights, hang_up or AfterBot(0.4), patience_secs=2
    )


def is_loud(pcm16: bytes | bytearray) -> bool:
    return bool(np.abs(np.frombuffer(bytes(pcm16), np.int16).astype(int)).max() > 1_000)


@dataclass
class Service:
    """A bot that greets for half a second, echoes what it hears and stops when spoken over."""

    url: str = ""
    greeting_secs: float = 0.5
    join_answer: Callable[[], Response] | None = None
    socket: Callable[[WebSocket], Awaitable[None]] | None = None
    joins: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    closed_with: list[int] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _wire: ProtobufFrameSerializer = field(default_factory=ProtobufFrameSerializer)
    _open: WebSocket | None = None
    _speaking: asyncio.Task[None] | None = None
    _echo: bytearray = field(default_factory=bytearray)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/bot/join", self._join, methods=["POST"]),
                Route(f"/api/bot/{THREAD}/end", self._end, methods=["POST"]),
                WebSocketRoute("/voice", self.socket or self._call),
            ]
        )

    async def _join(self, request: Request) -> Response:
        self.joins.append((dict(request.headers), await request.json()))
        if self.join_answer:
            return self.join_answer()
        url = self.url.replace("http", "ws") + "/voice?token=abc"
        connection = {"type": "websocket", "url": url}
        return JSONResponse({"workflow_thread_id": THREAD, "connection": connection}, 201)

    async def _end(self, _request: Request) -> Response:
        assert self._open is not None
        await self._open.close(1000, "ended")
        return Response(status_code=202)

    async def _call(self, socket: WebSocket) -> None:
        await socket.accept()
        self._open = socket
        await self._send(OutputTransportMessageFrame({"type": "bot-ready"}))
        tone = np.sin(np.arange(self.greeting_secs * RATE) / 5) * 8_000
        self._speak(tone.astype(np.int16).tobytes())
        try:
            while True:
                frame = await self._wire.deserialize(await socket.receive_bytes())
                assert isinstance(frame, InputAudioRawFrame)
                await self._hear(frame)
        except (WebSocketDisconnect, RuntimeError) as gone:
            if isinstance(gone, WebSocketDisconnect):
                self.closed_with.append(gone.code)
        finally:
            if self._speaking:
                self._speaking.cancel()
            self.left.set()

    async def _hear(self, frame: InputAudioRawFrame) -> None:
        """Echo when a third of a second was silent; be silent when spoken to."""
        assert (frame.sample_rate, frame.num_channels) == (RATE, 1)
        self.heard += frame.audio
        self._echo += frame.audio
        if is_loud(frame.audio) and self._speaking and not self._speaking.done():
            self._speaking.cancel()
            await self._send(InterruptionFrame())
        if is_loud(self._echo) and not is_loud(self._echo[-2 * (RATE // 3) :]):
            self._speak(bytes(self._echo))
            self._echo.clear()

    def _speak(self, pcm16: bytes) -> None:
        self._speaking = asyncio.create_task(self._play(pcm16))

    async def _play(self, pcm16: bytes) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            for start in range(0, len(pcm16), 1280):
                await self._send(OutputAudioRawFrame(pcm16[start : start + 1280], RATE, 1))
                await asyncio.sleep(0.04)

    async def _send(self, frame: Frame) -> None:
        wire = await self._wire.serialize(frame)
        assert isinstance(wire, bytes)
        assert self._open is not None
        await self._open.send_bytes(wire)


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[Service]:
    config = uvicorn.Config(service.app(), port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    service.url = f"http://127.0.0.1:{port}"
    try:
        yield service
    finally:
        server.should_exit = server.force_exit = True
        await running


def kinds(report: CallReport) -> list[EventKind]:
    return [event.kind for event in report.events]


async def test_a_call_is_joined_talked_through_and_hung_up():
    progress: list[CallerEvent] = []
    async with serving(Service()) as service:
        report = await call(
            service.url,
            KEY,
            script(Line(HELLO, "", AfterBot(0.4))),
            on_progress=progress.append,
            join={"metadata": {"from": "test"}},
            idempotency_key="once",
        )
        await asyncio.wait_for(service.left.wait(), 5)

    assert kinds(report) == [
        EventKind.JOINED,
        EventKind.CONNECTED,
        EventKind.MESSAGE,
        EventKind.BOT_STARTED,
        EventKind.BOT_STOPPED,
        EventKind.LINE_STARTED,
        EventKind.LINE_ENDED,
        EventKind.BOT_STARTED,
        EventKind.BOT_STOPPED,
        EventKind.HUNG_UP,
        EventKind.CLOSED,
    ]
    assert progress == list(report.events)
    assert report.workflow_thread_id == THREAD
    assert report.ended_by == "caller"
    assert report.interruptions == ()
    assert report.interrupted_after_secs is None
    assert report.silenced_after_secs is None

    headers, body = service.joins[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["idempotency-key"] == "once"
    assert body["bot"] == {"system_prompt": "Be brief.", "greeting": "Hi."}
    assert body["metadata"] == {"from": "test"}
    assert service.closed_with == [1000]


async def test_the_line_arrives_word_for_word_and_its_echo_is_heard():
    async with serving(Service()) as service:
        report = await call(service.url, KEY, script(Line(HELLO, "", AfterBot(0.4))))
        await asyncio.wait_for(service.left.wait(), 5)
    voice = recordings([HELLO], sample_rate=RATE, voice=SUPPORT_CALL.voice)
    assert Ears(voice, RATE).transcribe(bytes(service.heard), RATE) == HELLO
    assert voice[HELLO] in bytes(service.heard)
    assert report.seconds_sent == pytest.approx(len(service.heard) / 2 / RATE, abs=0.1)
    echo_secs = len(voice[HELLO]) / 2 / RATE
    assert report.seconds_heard > 0.5 + echo_secs


async def test_an_interruption_silences_the_bot():
    async with serving(Service(greeting_secs=5.0)) as service:
        report = await call(service.url, KEY, script(Line(STOP, "", Interrupt(0.6))))
    (said,) = report.interruptions
    assert said.line == STOP
    assert said.after_secs == report.interrupted_after_secs
    assert said.after_secs >= 0.6
    assert EventKind.INTERRUPTION in kinds(report)
    assert report.silenced_after_secs is not None
    assert report.silenced_after_secs < 2
    assert report.seconds_heard < 5


async def test_a_caller_may_drop_off_without_a_word():
    async with serving(Service()) as service:
        report = await call(service.url, KEY, script(), hangup="abort")
        await asyncio.wait_for(service.left.wait(), 5)
    assert report.ended_by == "caller"
    assert service.closed_with in ([1005], [1006])  # no close frame came


async def test_a_caller_may_ask_to_be_hung_up_on():
    async with serving(Service()) as service:
        report = await call(service.url, KEY, script(), hangup="end_api")
    assert report.ended_by == "caller"
    assert kinds(report)[-2:] == [EventKind.HUNG_UP, EventKind.CLOSED]
    assert report.events[-1].detail == "1000 ended"


async def test_a_service_that_hangs_up_first_is_reported():
    async def hang_up(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(4000, "call is over")

    async with serving(Service(socket=hang_up)) as service:
        report = await call(service.url, KEY, script(Line(HELLO, "")))
    assert report.ended_by == "service"
    assert report.events[-1].kind is EventKind.CLOSED
    assert report.events[-1].detail == "4000 call is over"


async def test_a_refused_join_says_why():
    problem = {"code": "quota_exceeded", "detail": "No seconds left this month.", "status": 429}
    answer = JSONResponse(problem, 429, headers={"Retry-After": "60"})
    async with serving(Service(join_answer=lambda: answer)) as service:
        with pytest.raises(Refused, match="429 quota_exceeded: No seconds left") as refused:
            await call(service.url, KEY, script())
    assert (refused.value.code, refused.value.retry_after_secs) == ("quota_exceeded", 60)


@pytest.mark.parametrize(
    "answer",
    [PlainTextResponse("Bad gateway", 502), JSONResponse(["what?"], 502)],
    ids=["text", "list"],
)
async def test_a_refusal_that_is_no_problem_has_its_status_for_a_code(answer: Response):
    async with serving(Service(join_answer=lambda: answer)) as service:
        with pytest.raises(Refused, match="502 http_502") as refused:
            await call(service.url, KEY, script())
    assert refused.value.code == "http_502"


@pytest.mark.parametrize(
    "answer",
    [PlainTextResponse("fine"), JSONResponse({}), JSONResponse([1]), JSONResponse(None)],
    ids=["text", "empty", "list", "null"],
)
async def test_an_answer_that_is_no_join_is_said_so(answer: Response):
    async with serving(Service(join_answer=lambda: answer)) as service:
        with pytest.raises(Unavailable, match="answer to the join"):
            await call(service.url, KEY, script())


@pytest.mark.parametrize("path", ["nothing-here", "voice"], ids=["not found", "not a scheme"])
async def test_a_socket_that_does_not_open_is_said_so(path: str):
    service = Service()
    url = lambda: service.url.replace("http", "ws" if path != "voice" else "http")  # noqa: E731
    service.join_answer = lambda: JSONResponse(
        {"workflow_thread_id": THREAD, "connection": {"url": f"{url()}/{path}"}}
    )
    async with serving(service):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await call(service.url, KEY, script())


async def test_a_service_that_is_not_there_is_said_so():
    async with serving(Service()) as service:
        gone = service.url
    with pytest.raises(Unavailable, match="cannot be reached"):
        await call(gone, KEY, script())


async def test_a_call_that_never_ends_is_ended_and_says_where_it_stood():
    async def babble(socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            while True:
                await socket.receive()

    endless = Script("", "", (), SUPPORT_CALL.insights, patience_secs=1_000)
    async with serving(Service(socket=babble)) as service:
        with pytest.raises(Unavailable, match=r"longer than 0.5 s.*: connected"):
            await call(service.url, KEY, endless, time_limit_secs=0.5)


async def test_what_is_no_frame_ends_the_call():
    async def gibberish(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("text is passed over")
        await socket.send_bytes(b"\xff\xff")
        with suppress(WebSocketDisconnect):
            while True:
                await socket.receive_bytes()

    async with serving(Service(socket=gibberish)) as service:
        with pytest.raises(InvalidInput, match="no frame"):
            await call(service.url, KEY, script(Line(HELLO, "")))
