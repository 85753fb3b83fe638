"""Streams of each vendor, as its reference describes them, and what each comes to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.units import Kind
from flow.metering.wires.anthropic_messages import AnthropicMessages
from flow.metering.wires.gemini_generate import GeminiGenerate
from flow.metering.wires.openai_audio import OpenAISpeech, OpenAITranscription
from flow.metering.wires.openai_chat import OpenAIChat
from flow.metering.wires.openai_responses import OpenAIResponses
from flow.metering.wires.reader import Exchange, HttpRequest, HttpWire
from tests.metering.wires.reading import EVENT_STREAM, JSON, event_stream, opened, post

SAID = "Grüße 👋 — the parcel is on its way."
WORDS = ("Grüße 👋", " — the parcel", " is on", " its way.")


@dataclass(frozen=True)
class Recording:
    """A request and the stream that answers it. ``usage`` is what the vendor bills."""

    name: str
    wire: Callable[[], HttpWire]
    request: HttpRequest
    events: tuple[Any, ...]
    usage: Quantities
    kind: Kind = Kind.LLM
    is_named: bool = False
    content_type: str = EVENT_STREAM

    def exchange(self) -> Exchange:
        return opened(self.wire(), self.request)

    def body(self, newline: str = "\n") -> bytes:
        if self.content_type == JSON:
            return json.dumps(self.events, ensure_ascii=False, indent=2).encode()
        return event_stream(self.events, named=self.is_named, newline=newline)


# --- OpenAI, chat completions -------------------------------------------------------------------

CHAT_REQUEST = {
    "model": "gpt-4.1",
    "messages": [{"role": "user", "content": "Where is my parcel?"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def chat_chunk(*choices: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "gpt-4.1-2025-04-14",
        "service_tier": "default",
        "system_fingerprint": None,
        "choices": list(choices),
        **more,
    }


def chat_delta(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


CHAT_USAGE = {
    "prompt_tokens": 1_200,
    "completion_tokens": 44,
    "total_tokens": 1_244,
    "prompt_tokens_details": {"cached_tokens": 1_024, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 20,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
CHAT_EVENTS = (
    chat_chunk(chat_delta(role="assistant", content="", refusal=None), usage=None),
    *(chat_chunk(chat_delta(content=word), usage=None) for word in WORDS),
    chat_chunk(chat_delta("stop"), usage=None),
    chat_chunk(usage=CHAT_USAGE),
    "[DONE]",
)
CHAT = Recording(
    "openai chat",
    OpenAIChat,
    post("/v1/chat/completions", CHAT_REQUEST),
    CHAT_EVENTS,
    Quantities(input_tokens=176, cache_read_tokens=1_024, output_tokens=44, reasoning_tokens=20),
)

# --- Anthropic, messages ------------------------------------------------------------------------

MESSAGE_REQUEST = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 1_024,
    "system": "You answer the telephone of a shop.",
    "messages": [{"role": "user", "content": "Where is my parcel?"}],
    "stream": True,
}
MESSAGE_START_USAGE = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 2_000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 1,
    "service_tier": "standard",
}


def message_start(**usage: Any) -> dict[str, Any]:
    return {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "claude-sonnet-4-6-20260101",
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 25, "output_tokens": 1, **usage},
        },
    }


def block_start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def block_delta(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def block_stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def message_delta(stop_reason: str | None = "end_turn", **usage: Any) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": None},
        "usage": usage,
    }


PING = {"type": "ping"}
MESSAGE_STOP = {"type": "message_stop"}
MESSAGE_EVENTS = (
    message_start(**MESSAGE_START_USAGE),
    PING,
    block_start(0, type="thinking", thinking="", signature=""),
    block_delta(0, type="thinking_delta", thinking="They ask for a parcel."),
    block_delta(0, type="signature_delta", signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3h"),
    block_stop(0),
    block_start(1, type="text", text=""),
    *(block_delta(1, type="text_delta", text=word) for word in WORDS),
    block_stop(1),
    block_start(2, type="tool_use", id="toolu_1", name="find_parcel", input={}),
    block_delta(2, type="input_json_delta", partial_json=""),
    block_delta(2, type="input_json_delta", partial_json='{"order": '),
    block_delta(2, type="input_json_delta", partial_json='"A 17"}'),
    block_stop(2),
    message_delta("tool_use", output_tokens=89),
    MESSAGE_STOP,
)
MESSAGES = Recording(
    "anthropic messages",
    AnthropicMessages,
    post("/v1/messages", MESSAGE_REQUEST),
    MESSAGE_EVENTS,
    Quantities(
        input_tokens=25,
        cache_read_tokens=2_000,
        cache_write_tokens=300,
        cache_write_1h_tokens=200,
        output_tokens=89,
    ),
    is_named=True,
)

# --- OpenAI, responses --------------------------------------------------------------------------

RESPONSE_REQUEST = {
    "model": "gpt-5.1",
    "instructions": "You answer the telephone of a shop.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Where is my parcel?"}]},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "on its way"},
    ],
    "stream": True,
}
RESPONSE_USAGE = {
    "input_tokens": 328,
    "input_tokens_details": {"cached_tokens": 128, "cache_write_tokens": 0},
    "output_tokens": 52,
    "output_tokens_details": {"reasoning_tokens": 16},
    "total_tokens": 380,
}
MESSAGE_ITEM = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": SAID, "annotations": [], "logprobs": []}],
}
CALL_ITEM = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "c2",
    "name": "find_parcel",
    "arguments": '{"order":"A 17"}',
    "status": "completed",
}


def response(status: str, usage: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000.0,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "gpt-5.1-2025-11-13",
        "output": [MESSAGE_ITEM, CALL_ITEM] if status == "completed" else [],
        "parallel_tool_calls": True,
        "service_tier": "default",
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
        **more,
    }


def response_event(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": name, "sequence_number": 1, **fields}


def in_item(item: str, **fields: Any) -> dict[str, Any]:
    return {"item_id": item, "output_index": 0, **fields}


RESPONSE_BEGUN = (
    response_event("response.created", response=response("in_progress")),
    response_event("response.in_progress", response=response("in_progress")),
    response_event(
        "response.output_item.added",
        output_index=0,
        item={"id": "rs_1", "type": "reasoning", "summary": []},
    ),
    response_event(
        "response.reasoning_summary_text.delta",
        **in_item("rs_1", summary_index=0, delta="They ask for a parcel."),
    ),
    response_event(
        "response.output_item.added",
        output_index=1,
        item={**MESSAGE_ITEM, "status": "in_progress", "content": []},
    ),
    *(
        response_event(
            "response.output_text.delta",
            **in_item("msg_1", content_index=0, delta=word, logprobs=[]),
        )
        for word in WORDS
    ),
    response_event(
        "response.output_text.done", **in_item("msg_1", content_index=0, text=SAID, logprobs=[])
    ),
    response_event(
        "response.output_item.added",
        output_index=2,
        item={**CALL_ITEM, "arguments": "", "status": "in_progress"},
    ),
    response_event("response.function_call_arguments.delta", **in_item("fc_1", delta='{"order":')),
    response_event("response.function_call_arguments.delta", **in_item("fc_1", delta='"A 17"}')),
    response_event("response.output_item.done", output_index=2, item=CALL_ITEM),
)
RESPONSE_EVENTS = (
    *RESPONSE_BEGUN,
    response_event("response.completed", response=response("completed", RESPONSE_USAGE)),
)
RESPONSES = Recording(
    "openai responses",
    OpenAIResponses,
    post("/v1/responses", RESPONSE_REQUEST),
    RESPONSE_EVENTS,
    Quantities(input_tokens=200, cache_read_tokens=128, output_tokens=52, reasoning_tokens=16),
    is_named=True,
)

# --- Gemini -------------------------------------------------------------------------------------

GENERATE_REQUEST = {
    "systemInstruction": {"parts": [{"text": "You answer the telephone of a shop."}]},
    "contents": [{"role": "user", "parts": [{"text": "Where is my parcel?"}]}],
}


def generate_chunk(
    *parts: Mapping[str, Any], finish: str | None = None, usage: Any = None
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    chunk = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "r1"}
    return chunk | ({"usageMetadata": usage} if usage else {})


def modality(name: str, count: int) -> dict[str, Any]:
    return {"modality": name, "tokenCount": count}


GENERATE_USAGE = {
    "promptTokenCount": 1_500,
    "cachedContentTokenCount": 1_024,
    "candidatesTokenCount": 30,
    "thoughtsTokenCount": 70,
    "totalTokenCount": 1_600,
    "promptTokensDetails": [modality("TEXT", 1_200), modality("AUDIO", 300)],
    "cacheTokensDetails": [modality("TEXT", 924), modality("AUDIO", 100)],
}
GENERATE_EVENTS = (
    generate_chunk(
        {"text": "They ask for a parcel.", "thought": True},
        usage={"promptTokenCount": 1_500, "thoughtsTokenCount": 50, "totalTokenCount": 1_550},
    ),
    *(
        generate_chunk(
            {"text": word},
            usage={
                "promptTokenCount": 1_500,
                "candidatesTokenCount": 5 * n,
                "thoughtsTokenCount": 70,
                "totalTokenCount": 1_570 + 5 * n,
            },
        )
        for n, word in enumerate(WORDS, start=1)
    ),
    generate_chunk(
        {"functionCall": {"name": "find_parcel", "args": {"order": "A 17"}}},
        finish="STOP",
        usage=GENERATE_USAGE,
    ),
)
GENERATED = Quantities(
    input_tokens=476,
    input_audio_tokens=200,
    cache_read_tokens=1_024,
    cache_read_audio_tokens=100,
    output_tokens=100,
    reasoning_tokens=70,
)
GENERATE_PATH = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
GENERATE = Recording(
    "gemini events", GeminiGenerate, post(GENERATE_PATH, GENERATE_REQUEST), GENERATE_EVENTS,
    GENERATED,
)  # fmt: skip
GENERATE_ARRAY = Recording(
    "gemini array", GeminiGenerate, post(GENERATE_PATH, GENERATE_REQUEST), GENERATE_EVENTS,
    GENERATED, content_type=JSON,
)  # fmt: skip

# --- OpenAI, audio ------------------------------------------------------------------------------

SPEECH_REQUEST = {
    "model": "gpt-4o-mini-tts",
    "input": SAID,
    "voice": "alloy",
    "response_format": "pcm",
    "stream_format": "sse",
}
SPEECH_EVENTS = (
    {"type": "speech.audio.delta", "audio": "AAAAAAAA"},
    {"type": "speech.audio.delta", "audio": "AAAAAAAAAAA="},
    {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115},
    },
)
SPEECH = Recording(
    "openai speech",
    OpenAISpeech,
    post("/v1/audio/speech", SPEECH_REQUEST),
    SPEECH_EVENTS,
    Quantities(input_tokens=14, output_tokens=101, output_audio_tokens=101),
    Kind.TTS,
)
TRANSCRIPT_USAGE = {
    "type": "tokens",
    "input_tokens": 30,
    "output_tokens": 10,
    "total_tokens": 40,
    "input_token_details": {"audio_tokens": 30, "text_tokens": 0},
}
TRANSCRIPT_EVENTS = (
    *({"type": "transcript.text.delta", "delta": word} for word in WORDS),
    {"type": "transcript.text.done", "text": SAID, "usage": TRANSCRIPT_USAGE},
)


def form(**fields: bytes | str) -> HttpRequest:
    """A ``multipart/form-data`` request to transcribe."""
    parts = []
    for name, value in fields.items():
        file = '; filename="audio.wav"' if name == "file" else ""
        head = f'Content-Disposition: form-data; name="{name}"{file}'
        data = value if isinstance(value, bytes) else value.encode()
        parts.append(b"--limit\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n")
    body = b"".join(parts) + b"--limit--\r\n"
    kind = "multipart/form-data; boundary=limit"
    return post("/v1/audio/transcriptions", body, kind)


def wav(seconds: int, rate: int = 16_000) -> bytes:
    data = bytes(2 * rate * seconds)
    number = lambda value, size=4: value.to_bytes(size, "little")  # noqa: E731
    layout = number(1, 2) + number(1, 2) + number(rate) + number(2 * rate) + number(2, 2)
    return b"".join(
        (
            b"RIFF" + number(36 + len(data)) + b"WAVE",
            b"fmt " + number(16) + layout + number(16, 2),
            b"data" + number(len(data)) + data,
        )
    )


TRANSCRIPT = Recording(
    "openai transcription",
    OpenAITranscription,
    form(model="gpt-4o-transcribe", stream="true", file=wav(3)),
    TRANSCRIPT_EVENTS,
    Quantities(input_tokens=30, input_audio_tokens=30, output_tokens=10),
    Kind.STT,
)

RECORDINGS = (CHAT, MESSAGES, RESPONSES, GENERATE, GENERATE_ARRAY, SPEECH, TRANSCRIPT)
