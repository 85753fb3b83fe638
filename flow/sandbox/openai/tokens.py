"""Counting a prompt's tokens as OpenAI does, and what of it the prompt cache holds."""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from flow.domain.usage.tokenizer import Vocabulary, dictionary, tokenizer, well_formed

# OpenAI's cookbook, "How to count tokens with tiktoken".
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_OF_PRIMING = 3

# OpenAI's prompt caching guide: prefixes of 1,024 tokens and more, in steps of 128.
CACHE_MINIMUM = 1024
CACHE_STEP = 128
CACHED_PREFIXES = 100_000

# OpenAI's pricing page: audio tokens of an input are 1 per 100 ms.
AUDIO_TOKENS_PER_SEC = 10
_PCM_BYTES_PER_SEC = 48_000

Message = Mapping[str, Any]

_VOCABULARY: Vocabulary = "o200k_base"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as tokens. ``audio`` of them stand for sound and are at the end of their message."""

    tokens: tuple[int, ...]
    audio: int = 0


def encode(text: str) -> list[int]:
    """The text's tokens in o200k_base; special tokens in it are plain text."""
    tokens: list[int] = tokenizer(_VOCABULARY).encode(well_formed(text))
    return tokens


def token_bytes(token: int) -> bytes:
    """What one token stands for; part of a character, sometimes."""
    try:
        found: bytes = tokenizer(_VOCABULARY).decode([token]).encode()
    except ValueError:
        found = dictionary(_VOCABULARY).decode_single_token_bytes(token)
    return found


def read_prompt(messages: Sequence[Message], extras: Iterable[Any] = ()) -> Prompt:
    """The whole prompt, with the chat format's overhead.

    ``extras`` (tools, a response schema) come before the messages, as compact JSON: OpenAI
    bills them and does not say how it writes them down.
    """
    tokens: list[int] = []
    for extra in extras:
        tokens += encode(json.dumps(extra, separators=(",", ":")))
    audio = 0
    for message in messages:
        text, seconds = _content(message)
        heard = ceil(seconds * AUDIO_TOKENS_PER_SEC)
        audio += heard
        tokens += [_FILLER] * TOKENS_PER_MESSAGE + encode(str(message.get("role", ""))) + text
        tokens += [_FILLER] * heard
        if name := message.get("name"):
            tokens += encode(name) + [_FILLER] * TOKENS_PER_NAME
    return Prompt((*tokens, *[_FILLER] * TOKENS_OF_PRIMING), audio)


# The format's own tokens are not public; any number outside the vocabulary will do.
_FILLER = -1


def _content(message: Message) -> tuple[list[int], float]:
    """A message's text as tokens, and the seconds of sound in it."""
    content = message.get("content")
    parts: list[dict[str, Any]] = content or []
    if isinstance(content, str):
        parts = [{"type": "text", "text": content}]
    said = [str(part.get("text") or part.get("refusal") or "") for part in parts]
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        said += [str(function.get("name", "")), str(function.get("arguments", ""))]
    sound = [part.get("input_audio") or {} for part in parts if part.get("type") == "input_audio"]
    return [token for text in said for token in encode(text)], sum(map(_seconds, sound))


def _seconds(audio: Mapping[str, Any]) -> float:
    try:
        return len(base64.b64decode(audio.get("data", ""))) / _PCM_BYTES_PER_SEC
    except (binascii.Error, TypeError):
        return 0.0


class PromptCache:
    """The prefixes seen by this process, the least recently used forgotten first."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def read_and_write(self, scope: str, prompt: Prompt) -> tuple[int, int]:
        """How many of the prompt's tokens were cached, and how many are now written to it.

        ``scope`` parts caches that share nothing: the model, and the request's
        ``prompt_cache_key``.
        """
        cached = written = 0
        prefix = hash(scope)
        for end in range(CACHE_STEP, len(prompt.tokens) + 1, CACHE_STEP):
            prefix = hash((prefix, prompt.tokens[end - CACHE_STEP : end]))
            if end < CACHE_MINIMUM:
                continue
            if prefix in self._seen:
                cached = end
            written = end
            self._seen[prefix] = None
            self._seen.move_to_end(prefix)
        while len(self._seen) > CACHED_PREFIXES:
            self._seen.popitem(last=False)
        return cached, written - cached
