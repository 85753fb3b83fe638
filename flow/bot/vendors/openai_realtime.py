"""OpenAI's Realtime API: a session that hears and speaks by itself."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.socket_doors import socket_url
from flow.bot.vendors.spec import Build, pipecat_class
from flow.metering.taps.socket import SocketTap, metered_connection

TRANSCRIPTION_MODEL = "gpt-4o-mini-transcribe"
"""Writes down what the caller says, for the transcript: the realtime model does not."""


def realtime(build: Build) -> FrameProcessor:
    """The service of a call. The server detects turns, and cancels what is interrupted."""
    from pipecat.services.openai.realtime import events

    kind = pipecat_class("openai.realtime.llm:OpenAIRealtimeLLMService")
    options, tap = build.choice.options, build.socket
    assert tap is not None
    heard = events.InputAudioTranscription(TRANSCRIPTION_MODEL, _language(options.get("language")))
    made = _with_tap(kind)(
        tap,
        api_key=build.endpoint.api_key,
        base_url=socket_url(build.endpoint.base_url, "/realtime"),
        name=build.name,
        settings=kind.Settings(
            model=build.choice.model,
            system_instruction=options.get("system_instruction"),
            session_properties=events.SessionProperties(
                audio=events.AudioConfiguration(
                    input=events.AudioInput(transcription=heard),
                    output=events.AudioOutput(voice=options.get("voice")),
                )
            ),
        ),
    )
    return cast(FrameProcessor, made)


def voices() -> frozenset[str]:
    """The voices that a session may speak with (``openai/types/realtime/realtime_response.py``)."""
    return frozenset(
        {
            "alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar",
        }
    )  # fmt: skip


def _language(language: Any) -> str | None:
    """The language as OpenAI takes it: its code, without a region."""
    return str(language).partition("-")[0] if language else None


@cache
def _with_tap(kind: Any) -> Any:
    """The service with its connection metered.

    It dials by itself, and not through `WebsocketService._websocket_connect`: `_connect` is
    Pipecat's own, but for how the connection is made.
    """

    class WithTap(kind):  # type: ignore[misc]
        _websocket: Any

        def __init__(self, tap: SocketTap, **options: Any) -> None:
            self._tap = tap
            super().__init__(**options)

        async def _connect(self) -> None:
            from websockets.asyncio.client import ClientConnection, connect

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
            if self._websocket and self._response_active:
                from pipecat.services.openai.realtime import events

                await self.send_client_event(events.ResponseCancelEvent())
            await super()._disconnect()

    WithTap.__name__ = WithTap.__qualname__ = kind.__name__
    return WithTap
