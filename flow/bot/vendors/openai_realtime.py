"""OpenAI's Realtime API: a session that hears and speaks by itself."""

from __future__ import annotations

from typing import Any, cast

from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.metered_sockets import socket_url
from flow.bot.vendors.openai_realtime_service import metered_realtime
from flow.bot.vendors.spec import Build, pipecat_class

TRANSCRIPTION_MODEL = "gpt-4o-mini-transcribe"
"""Writes down what the caller says, for the transcript: the realtime model does not."""


def realtime(build: Build) -> FrameProcessor:
    """The service of a call. The server detects turns, and cancels what is interrupted."""
    from pipecat.services.openai.realtime import events

    kind = pipecat_class("openai.realtime.llm:OpenAIRealtimeLLMService")
    options = build.choice.options
    heard = events.InputAudioTranscription(TRANSCRIPTION_MODEL, _language(options.get("language")))
    made = metered_realtime(kind)(
        build.socket,
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
                ),
                tools=ToolsSchema(standard_tools=[*build.tools]) if build.tools else None,
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
