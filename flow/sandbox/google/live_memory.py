"""What a Live session has in its context: every generation reads, and is billed for, all of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from flow.sandbox.google.generate_request import Content
from flow.sandbox.google.prompt import turn_tokens
from flow.sandbox.openai.tokens import encode

# ai.google.dev, "Live API best practices", on pricing: of sound, both ways.
LIVE_AUDIO_TOKENS_PER_SEC = 25

Message = dict[str, Any]


@dataclass(slots=True)
class Memory:
    """Tokens by modality, and what was said in the words of a chat."""

    text_tokens: int = 0
    audio_tokens: int = 0
    said: list[Message] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """All of it."""
        return self.text_tokens + self.audio_tokens

    def copy(self) -> Memory:
        """The same, for another session to go on with."""
        return Memory(self.text_tokens, self.audio_tokens, list(self.said))

    def describe(self, tools: list[dict[str, Any]]) -> None:
        """The model may call these functions."""
        for tool in tools:
            self.text_tokens += len(encode(json.dumps(tool, separators=(",", ":"))))

    def write(self, content: Content, role: str | None = None) -> None:
        """Somebody has written."""
        spoken_by = role or ("assistant" if content.role == "model" else "user")
        self.text_tokens += len(turn_tokens(content))
        self.said.append({"role": spoken_by, "content": content.text})

    def hear(self, seconds: float, words: str) -> None:
        """The caller has spoken."""
        self.audio_tokens += ceil(seconds * LIVE_AUDIO_TOKENS_PER_SEC)
        self.said.append({"role": "user", "content": words})

    def speak(self, tokens: int, words: str) -> None:
        """The model has spoken."""
        self.audio_tokens += tokens
        self.said.append({"role": "assistant", "content": words})

    def use_tools(self, told: Any, role: str) -> None:
        """The model has called functions, or they have answered."""
        written = json.dumps(told, separators=(",", ":"))
        self.text_tokens += len(encode(written))
        self.said.append({"role": role, "content": written})
