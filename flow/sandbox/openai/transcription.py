"""``POST /v1/audio/transcriptions``: sound to text."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.models import served_model, transcribes_by_tokens
from flow.sandbox.openai.speech import event, seconds
from flow.sandbox.openai.tokens import AUDIO_TOKENS_PER_SEC, encode, token_bytes
from flow.sandbox.server import Stream
from flow.sandbox.stand_in import exchange_of

# Quieter than this, on a scale to 32,767, nobody said anything.
_SILENCE = 200


class Hear(Protocol):
    """Ears: 16-bit mono PCM to text. They may block; they are called in a thread."""

    def __call__(self, pcm16: bytes, sample_rate: int) -> str:
        """The words in the sound; nothing when there are none."""
        ...


def hear_something(pcm16: bytes, sample_rate: int) -> str:
    """Ears that understand nothing but notice whether somebody spoke."""
    samples = np.frombuffer(pcm16, dtype=np.int16)
    loud = len(samples) > sample_rate // 10 and int(np.abs(samples.astype(np.int32)).max())
    return "I would like some help, please." if loud and loud > _SILENCE else ""


@dataclass(frozen=True, slots=True)
class _Wanted:
    model: str
    response_format: str
    stream: bool
    language: str
    prompt: str
    logprobs: bool
    pcm16: bytes
    sample_rate: int


class Transcription:
    """Listens, and bills the seconds it was given."""

    def __init__(self, bill: Bill, hear: Hear, delta_secs: float = 0.0) -> None:
        self._bill = bill
        self._hear = hear
        self._delta_secs = delta_secs

    async def __call__(self, request: Request) -> Response:
        """Serve one request.

        Raises:
            ApiError: the request is refused.
        """
        async with request.form() as form:
            wanted = await _parsed(form)
        line = self._line(wanted, request)
        self._bill.start(line)
        try:
            text = await asyncio.to_thread(self._hear, wanted.pcm16, wanted.sample_rate)
            line.amounts.completion_tokens = len(encode(text)) if _by_tokens(wanted) else 0
        except BaseException:
            self._bill.close(line, "failed")
            raise
        headers = {"x-request-id": line.request_id}
        if line.stream:
            return Stream(
                self._events(line, wanted, text),
                "text/event-stream; charset=utf-8",
                on_end=lambda: self._bill.close(line, "disconnected"),
                headers=headers,
            )
        self._bill.close(line, "complete")
        if wanted.response_format == "text":
            return PlainTextResponse(f"{text}\n", headers=headers)
        return JSONResponse(_answer(wanted, text, line.amounts), headers=headers)

    def _line(self, wanted: _Wanted, request: Request) -> Line:
        exchange = exchange_of(request)
        lasted = seconds(wanted.pcm16, wanted.sample_rate)
        amounts = Amounts(audio_seconds=lasted)
        if _by_tokens(wanted):
            amounts.prompt_audio_tokens = ceil(lasted * AUDIO_TOKENS_PER_SEC)
            amounts.prompt_tokens = amounts.prompt_audio_tokens + len(encode(wanted.prompt))
        return Line(
            request_id=exchange.request_id,
            kind="stt",
            model=served_model(wanted.model),
            requested_model=wanted.model,
            headers=exchange.headers,
            stream=wanted.stream and _by_tokens(wanted),
            amounts=amounts,
        )

    async def _events(self, line: Line, wanted: _Wanted, text: str) -> AsyncGenerator[bytes]:
        for token in encode(text):
            await asyncio.sleep(self._delta_secs)
            delta = token_bytes(token).decode("utf-8", "replace")
            yield event({"type": "transcript.text.delta", "delta": delta})
        self._bill.close(line, "complete")
        done = {"type": "transcript.text.done", "text": text, "usage": usage_of(line.amounts)}
        yield event(done | ({"logprobs": _logprobs(text)} if wanted.logprobs else {}))
        yield b"data: [DONE]\n\n"


async def _parsed(form: FormData) -> _Wanted:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise ApiError(400, "Missing required parameter: 'file'.", param="file")
    model = _text(form, "model")
    if not model:
        raise ApiError(400, "Missing required parameter: 'model'.", param="model")
    response_format = _text(form, "response_format") or "json"
    known = ("json", "text") if transcribes_by_tokens(model) else ("json", "text", "verbose_json")
    if response_format not in known:
        said = f"response_format '{response_format}' is not compatible with model '{model}'."
        raise ApiError(400, said, param="response_format", code="unsupported_value")
    pcm16, sample_rate = read_wav(await file.read())
    return _Wanted(
        model=model,
        response_format=response_format,
        stream=_text(form, "stream").lower() == "true",
        language=_text(form, "language") or "en",
        prompt=_text(form, "prompt"),
        logprobs="logprobs" in form.getlist("include[]") + form.getlist("include"),
        pcm16=pcm16,
        sample_rate=sample_rate,
    )


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _by_tokens(wanted: _Wanted) -> bool:
    return transcribes_by_tokens(wanted.model)


def read_wav(file: bytes) -> tuple[bytes, int]:
    """A 16-bit WAV file as mono samples and their rate.

    Raises:
        ApiError: it is something else.
    """
    try:
        with wave.open(io.BytesIO(file)) as reader:
            channels, width, rate = reader.getparams()[:3]
            frames = reader.readframes(reader.getnframes())
    except (wave.Error, EOFError, ValueError):
        channels, width, rate, frames = 0, 0, 0, b""
    if width != 2 or rate <= 0:
        said = "Audio file might be corrupted or unsupported: this stand-in reads 16-bit WAV."
        raise ApiError(400, said, param="file", code="invalid_value")
    if channels > 1:
        samples = np.frombuffer(frames, dtype=np.int16).reshape(-1, channels)
        frames = samples.mean(axis=1).astype(np.int16).tobytes()
    return frames, rate


def _answer(wanted: _Wanted, text: str, amounts: Amounts) -> dict[str, Any]:
    if wanted.response_format == "verbose_json":
        return _verbose(wanted, text, amounts)
    answer = {"text": text, "usage": usage_of(amounts)}
    return answer | ({"logprobs": _logprobs(text)} if wanted.logprobs else {})


def _verbose(wanted: _Wanted, text: str, amounts: Amounts) -> dict[str, Any]:
    lasted = float(amounts.audio_seconds)
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": lasted,
        "text": text,
        "tokens": encode(text),
        "temperature": 0.0,
        "avg_logprob": -0.05,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.01,
    }
    return {
        "task": "transcribe",
        "language": "english" if wanted.language == "en" else wanted.language,
        "duration": lasted,
        "text": text,
        "segments": [segment] if text else [],
        "usage": usage_of(amounts),
    }


def usage_of(amounts: Amounts) -> dict[str, Any]:
    """The amounts as the ``usage`` of a transcription."""
    if not amounts.prompt_tokens:
        return {"type": "duration", "seconds": float(amounts.audio_seconds)}
    text = amounts.prompt_tokens - amounts.prompt_audio_tokens
    return {
        "type": "tokens",
        "input_tokens": amounts.prompt_tokens,
        "input_token_details": {"audio_tokens": amounts.prompt_audio_tokens, "text_tokens": text},
        "output_tokens": amounts.completion_tokens,
        "total_tokens": amounts.prompt_tokens + amounts.completion_tokens,
    }


def _logprobs(text: str) -> list[dict[str, Any]]:
    parts = [token_bytes(token) for token in encode(text)]
    return [
        {"token": part.decode("utf-8", "replace"), "logprob": -0.05, "bytes": list(part)}
        for part in parts
    ]
