"""Gemini's Live API: a session that hears and speaks by itself."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from typing import Any, cast

from pipecat.frames.frames import Frame, InputAudioRawFrame, LLMRunFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from flow.bot.vendors.context_frames import ContextFrames, ConversationNote
from flow.bot.vendors.function_calls import with_checked_arguments
from flow.bot.vendors.gemini_schemas import with_gemini_schemas
from flow.bot.vendors.metered_sockets import socket_url
from flow.bot.vendors.spec import Build, pipecat_class
from flow.kit.tls import trusted
from flow.metering.taps.socket import SocketTap, metered_connection

DIAL_WAITS = (0.5, 1.0)
"""Seconds before each further attempt to connect."""
MOST_HELD_SECS = 10.0
"""Of what the caller says while there is no session."""

# RFC 6455 and the registry of close codes: lost, failed within, restarting, overloaded.
_PASSING_CODES = (1006, 1011, 1012, 1013)


def live(build: Build) -> FrameProcessor:
    """The service of a call.

    Gemini detects turns by itself and stops when it is interrupted, but does not say when the
    caller begins or ends.
    """
    from google.genai.types import HttpOptions
    from pipecat.transcriptions.language import Language

    kind = pipecat_class("google.gemini_live.llm:GeminiLiveLLMService")
    tap, url = build.socket, str(build.endpoint.base_url)
    assert tap is not None
    options = build.choice.given
    if "language" in options:  # Gemini wants a region with it, which Pipecat adds.
        options["language"] = Language(options["language"])
    made = _with_tap(kind)(
        tap,
        socket_url(build.endpoint.base_url),
        api_key=build.endpoint.api_key,
        http_options=HttpOptions(
            base_url=url,
            # What the SDK hands on to `websockets.connect`, among others.
            async_client_args={
                "create_connection": metered_connection(ClientConnection, tap, url),
                "ssl": trusted(),
            },
            client_args={"verify": trusted()},
        ),
        name=build.name,
        tools=[*build.tools] or None,
        settings=kind.Settings(model=build.choice.model, **options),
    )
    return cast(FrameProcessor, made)


@cache
def _with_tap(kind: Any) -> Any:
    """The service that says what became of its connections.

    Its constructor takes the tap and the address of the API's WebSockets first.
    """

    class WithTap(with_gemini_schemas(with_checked_arguments(kind))):  # type: ignore[misc]
        _context: Any
        _connection_start_time: float | None
        _session: Any
        _bot_is_responding: bool
        _consecutive_failures: int
        _ready_for_realtime_input: bool
        _disconnecting: bool

        def __init__(self, tap: SocketTap, url: str, **options: Any) -> None:
            self._tap = tap
            self._url = url
            self._frames = ContextFrames()
            self._held = bytearray()
            super().__init__(**options)

        def create_client(self) -> None:
            super().create_client()
            if self._url.startswith("ws:"):
                _allow_plain(self._client, self._url)

        async def _connection_task_handler(self, config: Any) -> None:
            """As Pipecat's, which does not try again to make a connection, and tells nobody of one
            that cannot be made."""
            for wait_secs in (*DIAL_WAITS, None):
                before = self._connection_start_time
                try:
                    await super()._connection_task_handler(config)
                    return
                except Exception as error:
                    is_refused = self._connection_start_time == before
                    if is_refused:
                        self._tap.refused(error)
                    if not is_refused or wait_secs is None or not _may_pass(error):
                        await self.push_error(
                            f"Error connecting: {error}", error, force_treat_as_permanent=True
                        )
                        return
                await asyncio.sleep(wait_secs)

        async def _handle_connection_error(self, error: Exception) -> bool:
            """A session that is lost again and again is lost for good, and the call with it."""
            from pipecat.services.google.gemini_live.llm import MAX_CONSECUTIVE_FAILURES

            if self._consecutive_failures + 1 >= MAX_CONSECUTIVE_FAILURES:
                await self.set_usable(False)
            return bool(await super()._handle_connection_error(error))

        async def _disconnect(self) -> None:
            """Stop the answer first: Gemini says what it has cost, and it costs no more."""
            if self._session is not None and self._bot_is_responding:
                with suppress(ConnectionClosed):
                    await self._session.send_client_content(turn_complete=False)
            await super()._disconnect()

        async def _handle_send_error(self, error: Exception) -> None:
            """What is said before a lost connection is noticed is lost, and another one is made;
            Pipecat's would be an error for every frame of sound."""
            if not isinstance(error, ConnectionClosed):
                await super()._handle_send_error(error)

        async def _handle_session_ready(self, session: Any) -> None:
            await super()._handle_session_ready(session)
            if self._context is None:
                # Pipecat would let the caller be heard only once the bot has been told to speak.
                self._ready_for_realtime_input = True

        async def _send_user_audio(self, frame: Any) -> None:
            """What the caller says before Gemini can hear it is told as soon as it can; Pipecat's
            loses the first words of a caller who does not wait for the bot."""
            if self._session is None or not self._ready_for_realtime_input:
                most = round(MOST_HELD_SECS * frame.sample_rate) * 2
                self._held += b"" if self._disconnecting else frame.audio
                del self._held[:-most]
                return
            if self._held:
                said, self._held = bytes(self._held), bytearray()
                frame = InputAudioRawFrame(said + frame.audio, frame.sample_rate, 1)
            await super()._send_user_audio(frame)

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            """As Pipecat's, which does not tell the caller's turns from being asked to speak."""
            self._frames.note(frame, direction)
            if isinstance(frame, ConversationNote):
                await self._take_note(frame)
                return
            await super().process_frame(frame, direction)

        async def _handle_context(
            self, context: Any, direction: FrameDirection = FrameDirection.DOWNSTREAM
        ) -> None:
            """What the caller has said, Gemini has heard; what the bot is told to say, it has not.

            Pipecat has Gemini answer the first context that comes, and none after that.
            """
            is_first, is_asked = self._context is None, self._frames.asks(direction)
            instruction = self._frames.new_instruction(context)
            if is_first and not is_asked:
                self._context = context
                return
            await super()._handle_context(context, direction)
            if is_asked and not is_first:
                await self._speak_on(instruction)

        async def _take_note(self, note: ConversationNote) -> None:
            """Tell Gemini what it has not heard; a context that is yet to be told has the note."""
            if self._context is None:
                if note.respond:
                    await self.push_frame(LLMRunFrame(), FrameDirection.UPSTREAM)
                return
            self._frames.new_instruction(self._context)
            if note.respond:
                await self._speak_on(note.message)
            elif self._session is not None:
                turn = {"role": "user", "parts": [{"text": note.message["content"]}]}
                await self._session.send_client_content(turns=[turn], turn_complete=False)

        async def _speak_on(self, instruction: Any) -> None:
            """Have the model speak in place of whatever it is saying."""
            if self._session is None:
                self._run_llm_when_session_ready = True
            elif instruction is not None:
                await self._create_single_response([instruction])
            else:
                await self._session.send_client_content(turn_complete=True)

    WithTap.__name__ = WithTap.__qualname__ = kind.__name__
    return WithTap


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may go better: not where Gemini has said why it refuses."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        return status in (408, 429) or status >= 500
    code: int | None  # Google's SDK says it of a connection that it was setting up.
    if isinstance(error, ConnectionClosed):
        code = 1006 if error.rcvd is None else error.rcvd.code
    else:
        code = getattr(error, "code", None)
    is_passing = code in _PASSING_CODES
    return is_passing if code else isinstance(error, OSError | TimeoutError | WebSocketException)


def _allow_plain(client: Any, url: str) -> None:
    """Let Google's client dial an address without TLS: with an API key it insists on it."""
    api = client._api_client
    api._websocket_base_url = lambda *_, **__: url
    api._websocket_ssl_ctx = {**api._websocket_ssl_ctx, "ssl": None}
