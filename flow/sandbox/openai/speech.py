"""``POST /v1/audio/speech``: text to sound, in 24 kHz 16-bit mono."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.openai.errors import ApiError, from_validation
from flow.sandbox.openai.models import served_model
from flow.sandbox.openai.tokens import AUDIO_TOKENS_PER_SEC, encode
from flow.sandbox.server import Stream
from flow.sandbox.stand_in import exchange_of

SAMPLE_RATE = 24_000
CHUNK_BYTES = 8_192
LONGEST_INPUT = 4_096


class Speak(Protocol):
    """A voice: `text` as 16-bit mono PCM. It may block; it is called in a thread."""

    def __call__(self, text: str, *, sample_rate: int = SAMPLE_RATE) -> bytes:
        """Say the text."""
        ...


class SpeechRequest(BaseModel):
    """The parts of a request that the stand-in minds."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[str, Field(min_length=1, max_length=LONGEST_INPUT)]
    voice: str | dict[str, Any]
    response_format: Literal["pcm", "wav", "mp3", "opus", "aac", "flac"] = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


class Speech:
    """Speaks, and bills every character of what it accepted, heard or not."""

    def __init__(self, bill: Bill, speak: Speak, chunk_secs: float = 0.0) -> None:
        self._bill = bill
        self._speak = speak
        self._chunk_secs = chunk_secs

    async def __call__(self, request: Request) -> Response:
        """Serve one request.

        Raises:
            ApiError: the request is refused.
        """
        wanted = await _parsed(request)
        samples = await asyncio.to_thread(self._speak, wanted.input, sample_rate=SAMPLE_RATE)
        samples = at_speed(samples, wanted.speed)
        exchange = exchange_of(request)
        line = Line(
            request_id=exchange.request_id,
            kind="tts",
            model=served_model(wanted.model),
            requested_model=wanted.model,
            headers=exchange.headers,
            stream=wanted.stream_format == "sse",
            amounts=Amounts(characters=len(wanted.input), audio_seconds=seconds(samples)),
        )
        self._bill.start(line)
        sse = wanted.stream_format == "sse"
        sound = samples if wanted.response_format == "pcm" else as_wav(samples)
        return Stream(
            self._events(line, wanted, sound) if sse else self._sound(line, sound),
            _media_type(wanted),
            on_end=lambda: self._bill.close(line, "disconnected"),
            headers={"x-request-id": line.request_id},
        )

    async def _sound(self, line: Line, sound: bytes) -> AsyncGenerator[bytes]:
        for start in range(0, len(sound), CHUNK_BYTES):
            await asyncio.sleep(self._chunk_secs)
            if start + CHUNK_BYTES >= len(sound):
                self._bill.close(line, "complete")
            yield sound[start : start + CHUNK_BYTES]
        self._bill.close(line, "complete")

    async def _events(
        self, line: Line, wanted: SpeechRequest, sound: bytes
    ) -> AsyncGenerator[bytes]:
        for start in range(0, len(sound), CHUNK_BYTES):
            await asyncio.sleep(self._chunk_secs)
            audio = base64.b64encode(sound[start : start + CHUNK_BYTES]).decode()
            yield event({"type": "speech.audio.delta", "audio": audio})
        self._bill.close(line, "complete")
        heard = len(encode(wanted.input))
        spoken = round(line.amounts.audio_seconds * AUDIO_TOKENS_PER_SEC * 2)
        usage = {"input_tokens": heard, "output_tokens": spoken, "total_tokens": heard + spoken}
        yield event({"type": "speech.audio.done", "usage": usage})


async def _parsed(request: Request) -> SpeechRequest:
    try:
        wanted = SpeechRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error) from None
    if wanted.response_format not in ("pcm", "wav"):
        said = f"This stand-in speaks 'pcm' and 'wav', not '{wanted.response_format}'."
        raise ApiError(400, said, param="response_format", code="unsupported_value")
    return wanted


def _media_type(wanted: SpeechRequest) -> str:
    if wanted.stream_format == "sse":
        return "text/event-stream; charset=utf-8"
    return "audio/pcm" if wanted.response_format == "pcm" else "audio/wav"


def at_speed(pcm: bytes, speed: float) -> bytes:
    """The samples read faster or slower, pitch and all."""
    if speed == 1.0 or not pcm:
        return pcm
    samples = np.frombuffer(pcm, dtype=np.int16)
    places = np.arange(0, len(samples), speed)
    resampled = np.interp(places, np.arange(len(samples)), samples).astype(np.int16)
    return bytes(resampled.tobytes())


def seconds(pcm: bytes, sample_rate: int = SAMPLE_RATE) -> Decimal:
    """How long 16-bit mono samples last, to the microsecond."""
    return (Decimal(len(pcm) // 2) / sample_rate).quantize(Decimal("0.000001"))


def as_wav(pcm: bytes, sample_rate: int = SAMPLE_RATE) -> bytes:
    """16-bit mono samples as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(pcm)
    return file.getvalue()


def event(data: object) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
