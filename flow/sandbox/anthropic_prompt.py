"""Counting a prompt's tokens for Anthropic's stand-in, and what of it the prompt cache holds.

Anthropic's vocabulary is not public: tokens are counted in OpenAI's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flow.sandbox.openai.tokens import TOKENS_OF_PRIMING, TOKENS_PER_MESSAGE, encode

# Anthropic's guide to prompt caching: shorter prompts of most models are not cached.
CACHE_MINIMUM = 1024
TOKENS_PER_IMAGE = 1_000

_FILLER = -1


class WrongOrder(ValueError):
    """A breakpoint of an hour comes after one of five minutes."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as tokens. ``breakpoints`` say where cached prefixes end, and whether they last an
    hour."""

    tokens: tuple[int, ...]
    breakpoints: tuple[tuple[int, bool], ...]


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Tokens read from the cache, written to it, and how many of these for an hour."""

    read: int = 0
    written: int = 0
    written_for_an_hour: int = 0


def read_prompt(request: Mapping[str, Any]) -> Prompt:
    """The whole prompt in Anthropic's order: tools, system, messages.

    Raises:
        WrongOrder: Anthropic refuses its breakpoints.
    """
    tokens: list[int] = []
    breakpoints: list[tuple[int, bool]] = []
    for block, text in _blocks(request):
        tokens += text
        control = block.get("cache_control")
        if isinstance(control, Mapping):
            breakpoints.append((len(tokens), control.get("ttl") == "1h"))
    if isinstance(control := request.get("cache_control"), Mapping):
        breakpoints.append((len(tokens), control.get("ttl") == "1h"))
    lifetimes = [is_hour for _, is_hour in breakpoints]
    if lifetimes != sorted(lifetimes, reverse=True):
        raise WrongOrder("a ttl='1h' cache_control block must not come after a ttl='5m' one")
    return Prompt((*tokens, *[_FILLER] * TOKENS_OF_PRIMING), tuple(breakpoints))


class PromptCache:
    """The prefixes that this process has written. Nothing is forgotten."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def use(self, model: str, prompt: Prompt) -> CacheUse:
        """What a prompt reads and writes, by the rule of Anthropic's guide ("Mixing TTLs")."""
        ends = [end for end, _ in prompt.breakpoints if end >= CACHE_MINIMUM]
        if not ends:
            return CacheUse()
        prefixes = {end: hash((model, prompt.tokens[:end])) for end in ends}
        read = max((end for end in ends if prefixes[end] in self._seen), default=0)
        self._seen.update(prefixes.values())
        for_an_hour = max([read, *(end for end, is_hour in prompt.breakpoints if is_hour)])
        return CacheUse(read, max(ends) - read, for_an_hour - read)


def _blocks(request: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Each block of the prompt with its tokens."""
    for tool in request.get("tools") or ():
        known = {name: value for name, value in tool.items() if name != "cache_control"}
        yield tool, encode(json.dumps(known, separators=(",", ":")))
    schema = ((request.get("output_config") or {}).get("format") or {}).get("schema")
    if schema:
        yield {}, encode(json.dumps(schema, separators=(",", ":")))
    messages = [
        *([{"role": "system", "content": request["system"]}] if request.get("system") else []),
        *request["messages"],
    ]
    for message in messages:
        yield {}, [_FILLER] * TOKENS_PER_MESSAGE + encode(message["role"])
        for block in as_blocks(message["content"]):
            is_image = block.get("type") == "image"
            yield block, [_FILLER] * TOKENS_PER_IMAGE if is_image else encode(text_of(block))


def as_blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content as blocks, whichever way it is written."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def text_of(block: Mapping[str, Any]) -> str:
    """The text of a block, or of a tool's call or result."""
    if block.get("type") == "tool_use":
        return f"{block.get('name')}{json.dumps(block.get('input') or {}, separators=(',', ':'))}"
    if block.get("type") == "tool_result":
        return "".join(text_of(part) for part in as_blocks(block.get("content") or ""))
    return str(block.get("text") or "")
