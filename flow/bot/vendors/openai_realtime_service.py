"""Pipecat's service for OpenAI's Realtime API, with its connection metered and made again.

The service dials by itself, and not through `WebsocketService._websocket_connect`. It lets a
session be lost without a word, and OpenAI ends each after an hour: here the conversation goes on
in another one. `tests/bot/test_openai_realtime.py` fails when Pipecat changes what this relies on.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    TTSStoppedFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext, standard_message_text
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.utils.types import is_given
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from flow.bot.vendors.context_frames import ContextFrames, ConversationNote, is_ordered
from flow.bot.vendors.function_calls import as_json, with_checked_arguments
from flow.metering.taps.socket import SocketTap, metered_connection

DIAL_WAITS = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each attempt to dial again, as long as no session comes of it."""


@cache
def metered_realtime(kind: Any) -> Any:
    """The service whose constructor takes the `SocketTap` first."""

    class MeteredRealtime(with_checked_arguments(kind)):  # type: ignore[misc]
        _websocket: Any
        _current_assistant_response: Any
        _context: Any
        _api_session_ready: bool
        _response_active: bool

        def __init__(self, tap: SocketTap, **options: Any) -> None:
            self._tap = tap
            self._dialling: asyncio.Task[None] | None = None
            self._dials = 0
            self._frames = ContextFrames()
            self._is_stopping = False
            self._is_to_speak = False
            super().__init__(**options)

        async def setup(self, setup: FrameProcessorSetup) -> None:
            """Connect, and go on trying: nobody hears of an error yet."""
            await super().setup(setup)
            if not self._websocket:
                self._dialling = self.create_task(self._dial_again())

        async def cleanup(self) -> None:
            """The call is over: no other session is wanted."""
            dialling, self._dialling = self._dialling, None
            if dialling is not None:
                await self.cancel_task(dialling)
            await super().cleanup()

        async def _connect(self) -> None:
            """Pipecat's own, but for how the connection is made."""
            if self._websocket:
                return
            metered = metered_connection(ClientConnection, self._tap, self.base_url)
            try:
                self._websocket = await connect(
                    self.base_url,
                    additional_headers=await self._auth_headers(),
                    create_connection=metered,
                )
            except Exception as error:
                self._tap.refused(error)
                await self.push_error(error_msg=f"Error connecting: {error}", exception=error)
                return
            self._receive_task = self.create_task(self._receive_task_handler())

        async def _disconnect(self) -> None:
            """Cancel what is under way first: its account comes at once, and it costs no more."""
            is_open = self._websocket and self._websocket.state is State.OPEN
            if is_open and self._response_active:
                from pipecat.services.openai.realtime import events

                await self.send_client_event(events.ResponseCancelEvent())
            await super()._disconnect()

        async def _ws_send(self, realtime_message: Any) -> None:
            """What is said while there is no session is lost; Pipecat's own would be an error for
            every frame of sound."""
            if self._websocket and self._websocket.state is State.OPEN:
                await super()._ws_send(realtime_message)

        async def _receive_task_handler(self) -> None:
            lost: Exception | None = None
            try:
                await super()._receive_task_handler()
            except Exception as error:
                lost = error
            if self._disconnecting or not self._websocket:
                return
            # After an error that the vendor tells, Pipecat has said so and reads no more.
            if lost or self._websocket.state is not State.OPEN:
                said = f"The session is lost: {lost or 'it was closed'}"
                await self.push_error(error_msg=said, exception=lost)
            self._dialling = self.create_task(self._dial_again())

        async def _dial_again(self) -> None:
            """Begin another session; in it the conversation so far is told."""
            while self._dials < len(DIAL_WAITS):
                await asyncio.sleep(DIAL_WAITS[self._dials])
                self._dials += 1
                await self._disconnect()
                await self._end_response()
                self._llm_needs_conversation_setup = True
                if self._context is not None:
                    await self._process_completed_function_calls(send_new_results=False)
                await self._connect()
                if self._websocket:
                    return

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            """As Pipecat's, which does not tell the caller's turns from being asked to speak."""
            self._frames.note(frame, direction)
            if isinstance(frame, ConversationNote):
                await self._take_note(frame)
                return
            if is_ordered(frame) and self._response_active:
                self._is_stopping = True
            await super().process_frame(frame, direction)

        async def _handle_context(self, context: Any, direction: FrameDirection) -> None:
            """What the caller has said the server has heard, and answers by itself; what the bot is
            told to say it has not.

            Pipecat has the server answer the first context that comes, and none after that.
            """
            is_first, is_asked = self._context is None, self._frames.asks(direction)
            instruction = self._frames.new_instruction(context)
            if is_first and not is_asked and direction is FrameDirection.DOWNSTREAM:
                await self._begin_with_caller(context)
                return
            self._is_to_speak = self._is_to_speak or is_asked
            if not is_first or self._response_active:
                self._context = context
                if is_asked:
                    await self._speak_on(instruction)
            # Nothing but the answers to tools that it brings is new, or all of it is.
            await super()._handle_context(context, direction)

        async def _begin_with_caller(self, context: Any) -> None:
            """The caller has spoken first: only what was before that is yet to be told."""
            self._context = context
            await self._process_completed_function_calls(send_new_results=False)
            if self._api_session_ready:
                if is_given(context.tools):
                    await self._send_session_update()
                await self._tell_conversation(LLMContext(context.get_messages()[:-1]))

        async def _speak_on(self, instruction: Any) -> None:
            """Have the model speak in place of whatever it is saying."""
            if self._api_session_ready:
                if self._llm_needs_conversation_setup:
                    await self._tell_conversation(self._context)
                elif said := instruction and standard_message_text(instruction):
                    await self._send_message_item(said)
                await self._stop_response()
            self._results_awaiting_response = True
            await self._create_response()

        async def _take_note(self, note: ConversationNote) -> None:
            """Tell the server what it has not heard; what it is yet to be told has the note."""
            if self._context is None:
                if note.respond:
                    await self.push_frame(LLMRunFrame(), FrameDirection.UPSTREAM)
                return
            self._frames.new_instruction(self._context)
            if self._api_session_ready and not self._llm_needs_conversation_setup:
                role = "user" if note.message["role"] == "user" else "system"
                await self._send_message_item(note.message["content"], role)
            if note.respond:
                self._is_to_speak = True
                await self._speak_on(None)

        async def _stop_response(self) -> None:
            from pipecat.services.openai.realtime import events

            if self._response_active:
                self._is_stopping = True
                await self.send_client_event(events.ResponseCancelEvent())
                await self._truncate_current_audio_response()
                await self.broadcast_frame(InterruptionFrame)

        async def _maybe_handle_evt_retrieve_conversation_item_error(self, evt: Any) -> bool:
            """The server may begin to answer the caller as the bot is told to speak, and refuses
            that then: Pipecat would say no more of it."""
            if evt.error.code == "conversation_already_has_active_response" and self._is_to_speak:
                self._is_to_speak = False
                self._response_active = True
                self._response_create_owed = self._results_awaiting_response = True
                await self._stop_response()
            handled = await super()._maybe_handle_evt_retrieve_conversation_item_error(evt)
            return bool(handled)

        async def _handle_evt_audio_delta(self, evt: Any) -> None:
            if not self._is_stopping:
                await super()._handle_evt_audio_delta(evt)

        async def _handle_evt_audio_transcript_delta(self, evt: Any) -> None:
            if not self._is_stopping:
                await super()._handle_evt_audio_transcript_delta(evt)

        async def _handle_evt_response_done(self, evt: Any) -> None:
            self._is_stopping = self._is_to_speak = False
            await super()._handle_evt_response_done(evt)

        async def _handle_evt_function_call_arguments_done(self, evt: Any) -> None:
            """As Pipecat's, which tells nobody of arguments that it cannot read."""
            read = evt.model_copy(update={"arguments": as_json(evt.arguments)})
            await super()._handle_evt_function_call_arguments_done(read)

        async def _end_response(self) -> None:
            """Nothing more comes of a response that was under way."""
            self._current_audio_response = None
            self._is_stopping = False
            if self._current_assistant_response is not None:
                self._current_assistant_response = None
                await self.push_frame(LLMFullResponseEndFrame())
                await self.push_frame(TTSStoppedFrame())

        async def _handle_evt_session_updated(self, evt: Any) -> None:
            self._dials = 0
            await super()._handle_evt_session_updated(evt)
            if self._llm_needs_conversation_setup and self._context is not None:
                await self._tell_conversation(self._context)

        async def _tell_conversation(self, context: Any) -> None:
            from pipecat.services.openai.realtime import events

            self._llm_needs_conversation_setup = False
            params = await self.get_llm_adapter().get_llm_invocation_params(context)
            for item in params["messages"]:
                created = events.ConversationItemCreateEvent(item=item)
                self._messages_added_manually[created.item.id] = True
                await self.send_client_event(created)

    MeteredRealtime.__name__ = MeteredRealtime.__qualname__ = kind.__name__
    return MeteredRealtime
