"""The conversation of a session: its items, and the prompt that they are to the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any
from uuid import uuid4

from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.tokens import AUDIO_TOKENS_PER_SEC, TOKENS_PER_MESSAGE, encode

OUTPUT_AUDIO_TOKENS_PER_SEC = 20
"""Of sound that the model makes, and of the same sound where it is read again: 1 per 50 ms
(platform.openai.com/docs/guides/realtime-costs)."""

CACHE_STEP = 64
"""In what steps the beginning of a prompt that was read before comes from the cache, as field
reports have it; it is kept for the session."""

_FORMAT = -1


@dataclass(slots=True)
class Item:
    """One item, as the wire has it.

    ``audio_secs`` is how long the sound in it is, and ``words`` what is said in that.
    """

    value: dict[str, Any]
    audio_secs: float = 0.0
    words: str = ""

    @property
    def id(self) -> str:
        """What it is called."""
        return str(self.value["id"])

    @property
    def is_spoken_by_model(self) -> bool:
        """Whether its sound is the model's own."""
        return self.value.get("role") == "assistant"

    @property
    def audio_tokens(self) -> int:
        """The tokens of its sound, where it is read."""
        a_second = OUTPUT_AUDIO_TOKENS_PER_SEC if self.is_spoken_by_model else AUDIO_TOKENS_PER_SEC
        return ceil(round(self.audio_secs * a_second, 6))

    @property
    def text(self) -> str:
        """All of it that is text, and read as such."""
        called = [self.value.get(name) for name in ("name", "arguments", "output")]
        said = [part.get("text") for part in self.value.get("content") or []]
        return "".join(text for text in (*called, *said) if isinstance(text, str))

    def as_message(self) -> dict[str, Any]:
        """The item as a message of a chat."""
        if self.value["type"] == "function_call":
            function = {"name": self.value.get("name"), "arguments": self.value.get("arguments")}
            return {"role": "assistant", "tool_calls": [{"function": function}]}
        if self.value["type"] == "function_call_output":
            return {"role": "tool", "content": self.value.get("output") or ""}
        return {"role": self.value.get("role") or "user", "content": self.text or self.words}


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt as it is read: how many tokens, how many of them sound, and of each how many from
    the cache."""

    tokens: int
    audio: int
    cached: int
    cached_audio: int


class Conversation:
    """The items of a session in their order, and what its cache holds of the prompt before."""

    def __init__(self) -> None:
        self.id = f"conv_{uuid4().hex[:24]}"
        self.items: list[Item] = []
        self._number = 0
        self._numbers: dict[str, int] = {}
        self._cached: tuple[int, ...] = ()

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put an item at the end, or after another; the id of the one before it is returned.

        Raises:
            ApiError: there is no item to put it after.
        """
        place = len(self.items) if after is None else self.index(after) + 1
        self.items.insert(place, item)
        self._number += 1
        self._numbers[item.id] = self._number
        return self.items[place - 1].id if place else None

    def index(self, item_id: str) -> int:
        """Where an item stands.

        Raises:
            ApiError: nowhere.
        """
        for place, item in enumerate(self.items):
            if item.id == item_id:
                return place
        said = f"Item with id '{item_id}' not found."
        raise ApiError(400, said, param="item_id", code="item_not_found")

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Forget what the user did not hear of the model's sound, and all of its words.

        Raises:
            ApiError: there is no such sound.
        """
        item = self.items[self.index(item_id)]
        if not item.is_spoken_by_model or audio_end_ms > round(item.audio_secs * 1000):
            lasts = round(item.audio_secs * 1000)
            said = f"Audio content of {lasts}ms is already shorter than {audio_end_ms}ms"
            raise ApiError(400, said, param="audio_end_ms", code="invalid_value")
        item.audio_secs = audio_end_ms / 1000
        item.words = ""
        for part in item.value["content"]:
            part.pop("transcript", None)

    def messages(self, instructions: str) -> list[dict[str, Any]]:
        """The conversation as a chat."""
        told = [{"role": "system", "content": instructions}] if instructions else []
        return [*told, *(item.as_message() for item in self.items)]

    def read(self, instructions: str, tools: Iterable[Mapping[str, Any]]) -> Reading:
        """Have the model read all of it, and keep it in the cache."""
        tokens = tuple(self._tokens(instructions, tools))
        same = [a == b for a, b in zip(tokens, self._cached, strict=False)]
        common = same.index(False) if False in same else len(same)
        cached = common // CACHE_STEP * CACHE_STEP
        self._cached = tokens
        return Reading(
            tokens=len(tokens),
            audio=sum(map(_is_audio, tokens)),
            cached=cached,
            cached_audio=sum(map(_is_audio, tokens[:cached])),
        )

    def _tokens(self, instructions: str, tools: Iterable[Mapping[str, Any]]) -> Iterator[int]:
        yield from encode(instructions)
        for tool in tools:
            yield from encode(json.dumps(tool, separators=(",", ":")))
        for item in self.items:
            yield from [_FORMAT] * TOKENS_PER_MESSAGE
            yield from encode(item.text)
            # No two sounds are the same, whatever was said before them.
            first = _FORMAT - 1 - self._numbers[item.id] * 2**20
            yield from range(first, first - item.audio_tokens, -1)


def _is_audio(token: int) -> bool:
    return token < _FORMAT
