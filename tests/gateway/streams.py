"""Streams of each protocol, and all the ways in which the same events may be written."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

Event = Mapping[str, Any]
WORDS = ("Some", " words — ", "and 東京,", " and a 🎉", " too.")
INPUT, OUTPUT = 23, 9


@dataclass(frozen=True, slots=True)
class Spoken:
    """A request of a protocol, and the events of the answer to it.

    Args:
        ends_with_done: a last line says that there is no more.
    """

    path: str
    body: Event
    events: tuple[Event, ...]
    ends_with_done: bool = False

    @property
    def data(self) -> list[str]:
        """The data of each event."""
        texts = [json.dumps(event, ensure_ascii=False) for event in self.events]
        return [*texts, "[DONE]"] if self.ends_with_done else texts


def _chunk(text: str = "", finish: str | None = None, **more: Any) -> Event:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "model": "gpt-4.1", "choices": [choice], **more}


def chat_usage(output: int = OUTPUT) -> Event:
    """What has been used, as OpenAI says it."""
    return {"prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output}


CHAT = Spoken(
    "/v1/chat/completions",
    {"model": "openai/gpt-4.1", "stream": True, "messages": [{"role": "user", "content": "Hi"}]},
    (
        *map(_chunk, WORDS),
        _chunk(finish="stop"),
        {"id": "c", "model": "gpt-4.1", "choices": [], "usage": chat_usage()},
    ),
    ends_with_done=True,
)
CUMULATIVE = Spoken(
    CHAT.path,
    CHAT.body,
    (
        *(_chunk(word, usage=chat_usage(n)) for n, word in enumerate(WORDS)),
        _chunk(finish="stop", usage=chat_usage()),
    ),
    ends_with_done=True,
)

_STATE = {"id": "r", "object": "response", "model": "gpt-4.1", "output": [], "usage": None}
RESPONSES = Spoken(
    "/v1/responses",
    {"model": "openai/gpt-4.1", "stream": True, "input": "Hi"},
    (
        {"type": "response.created", "response": {**_STATE, "status": "in_progress"}},
        *({"type": "response.output_text.delta", "delta": word} for word in WORDS),
        {
            "type": "response.completed",
            "response": {
                **_STATE,
                "status": "completed",
                "usage": {
                    "input_tokens": INPUT,
                    "output_tokens": OUTPUT,
                    "total_tokens": INPUT + OUTPUT,
                },
            },
        },
    ),
)
MESSAGES = Spoken(
    "/v1/messages",
    {
        "model": "anthropic/claude-haiku-4-5",
        "stream": True,
        "max_tokens": 99,
        "messages": [{"role": "user", "content": "Hi"}],
    },
    (
        {
            "type": "message_start",
            "message": {
                "model": "claude-haiku-4-5",
                "usage": {"input_tokens": INPUT, "output_tokens": 1},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
            for word in WORDS
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": OUTPUT},
        },
        {"type": "message_stop"},
    ),
)
SPOKEN: Mapping[str, Spoken] = MappingProxyType(
    {"chat": CHAT, "cumulative": CUMULATIVE, "responses": RESPONSES, "messages": MESSAGES}
)

Write = Callable[[list[str]], bytes]


def plain(data: list[str], end: str = "\n") -> bytes:
    """Events as they usually are."""
    return "".join(f"data: {one}{end}{end}" for one in data).encode()


def _named(data: list[str]) -> bytes:
    lines = (f"event: x\nid: {n}\nretry: 10\ndata: {one}\n\n" for n, one in enumerate(data))
    return "".join(lines).encode()


def _commented(data: list[str]) -> bytes:
    return "".join(f": keep-alive\n\n: again\ndata: {one}\n: more\n\n" for one in data).encode()


def _in_lines(data: list[str]) -> bytes:
    """Each event on as many lines as its JSON can have."""
    pretty = (one if one == "[DONE]" else json.dumps(json.loads(one), indent=1) for one in data)
    return "".join(
        "".join(f"data: {line}\n" for line in one.splitlines()) + "\n" for one in pretty
    ).encode()


WRITTEN: Mapping[str, Write] = MappingProxyType(
    {
        "plain": plain,
        "CRLF": lambda data: plain(data, "\r\n"),
        "CR": lambda data: plain(data, "\r"),
        "no space": lambda data: plain(data).replace(b"data: ", b"data:"),
        "no final line end": lambda data: plain(data).rstrip(b"\n"),
        "no final empty line": lambda data: plain(data)[:-1],
        "byte order mark": lambda data: b"\xef\xbb\xbf" + plain(data),
        "named events": _named,
        "comments": _commented,
        "many lines an event": _in_lines,
        "empty events": lambda data: b"\n\n" + plain(data).replace(b"\n\n", b"\n\n\n\ndata:\n\n"),
    }
)
"""Ways to write the same events (WHATWG HTML, "Server-sent events")."""


def _members(body: bytes) -> bytes:
    """As those write it who compress each part on its own (RFC 1952, section 2.2)."""
    edges = [*range(0, len(body), 100), len(body)]
    return b"".join(gzip.compress(body[start:end]) for start, end in pairwise(edges))


def _flushed(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    parts = [packer.compress(one) + packer.flush(zlib.Z_SYNC_FLUSH) for one in cut(body, 50)]
    return b"".join([*parts, packer.flush()])


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


ENCODED: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = MappingProxyType(
    {
        "gzip": ("gzip", gzip.compress),
        "gzip, flushed": ("gzip", _flushed),
        "gzip, many members": ("gzip", _members),
        "x-gzip": ("x-gzip", gzip.compress),
        "deflate": ("deflate", zlib.compress),
        "deflate without a header": ("deflate", _raw_deflate),
    }
)
"""Content encodings, and what makes them."""


def cut(body: bytes, size: int) -> Iterator[bytes]:
    """The body in pieces."""
    return (body[at : at + size] for at in range(0, len(body), size))
