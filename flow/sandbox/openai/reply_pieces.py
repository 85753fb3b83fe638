"""One generation: a reply in tokens, as the pieces a stream sends one by one."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from flow.sandbox.bill import Amounts
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.openai.tokens import encode, token_bytes

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream adds at one step, and the tokens it took; ``delta`` may be empty."""

    delta: dict[str, Any]
    tokens: int = 1
    reasoning_tokens: int = 0
    audio_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole reply, cut to the tokens it was allowed."""

    pieces: Sequence[Piece]
    finish_reason: FinishReason


def generate(reply: Reply, most_tokens: int | None) -> Generation:
    """The reply as pieces of one token each; thinking and sound are one piece each."""
    left = most_tokens
    pieces: list[Piece] = []
    for piece in _pieces(reply):
        if left is not None:
            if piece.tokens > left:
                return Generation(pieces, "length")
            left -= piece.tokens
        pieces.append(piece)
    return Generation(pieces, "tool_calls" if reply.tool_calls else "stop")


def _pieces(reply: Reply) -> Iterator[Piece]:
    for _ in range(reply.reasoning_tokens):
        yield Piece({}, reasoning_tokens=1)
    for text in _text_of_tokens(reply.text if reply.refusal is None else ""):
        yield Piece({"content": text} if text else {})
    for text in _text_of_tokens(reply.refusal or ""):
        yield Piece({"refusal": text} if text else {})
    for index, call in enumerate(reply.tool_calls):
        yield from _tool_pieces(index, call)
    for _ in range(reply.audio_tokens):
        yield Piece({}, audio_tokens=1)


def _tool_pieces(index: int, call: ToolCall) -> Iterator[Piece]:
    opening = {
        "index": index,
        "id": f"call_{uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    yield Piece({"tool_calls": [opening]}, tokens=len(encode(call.name)))
    for text in _text_of_tokens(call.arguments):
        part = {"index": index, "function": {"arguments": text}}
        yield Piece({"tool_calls": [part]} if text else {})


def _text_of_tokens(text: str) -> Iterator[str]:
    """One string per token; a token that ends inside a character adds nothing yet."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in encode(text):
        yield decoder.decode(token_bytes(token))


def message_of(pieces: Sequence[Piece]) -> dict[str, Any]:
    """The assistant's message that the pieces add up to."""
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for piece in pieces for part in piece.delta.get("tool_calls", [])):
        if "id" in part:
            calls[part["index"]] = {
                "id": part["id"],
                "type": "function",
                "function": dict(part["function"]),
            }
        else:
            calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    content = "".join(piece.delta.get("content", "") for piece in pieces)
    refusal = "".join(piece.delta.get("refusal", "") for piece in pieces)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refusal or (calls and not content) else content,
        "refusal": refusal or None,
        "annotations": [],
    }
    return message | ({"tool_calls": list(calls.values())} if calls else {})


def count(amounts: Amounts, piece: Piece) -> None:
    """Add a piece to what is billed."""
    amounts.completion_tokens += piece.tokens
    amounts.reasoning_tokens += piece.reasoning_tokens
    amounts.completion_audio_tokens += piece.audio_tokens


def usage_of(amounts: Amounts, *, details: bool = True) -> dict[str, Any]:
    """The amounts as the API's ``usage`` object."""
    return {
        "prompt_tokens": amounts.prompt_tokens,
        "completion_tokens": amounts.completion_tokens,
        "total_tokens": amounts.prompt_tokens + amounts.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": amounts.cached_tokens,
            "audio_tokens": amounts.prompt_audio_tokens,
            "cache_write_tokens": amounts.cache_write_tokens,
        }
        if details
        else None,
        "completion_tokens_details": {
            "reasoning_tokens": amounts.reasoning_tokens,
            "audio_tokens": amounts.completion_audio_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        }
        if details
        else None,
    }
