"""What a realtime session is set to and what has been said in it, which every response reads.

It is for estimates: of a response that the vendor never accounted for. Sound that the user sends
is a token per 100 ms, sound that the model makes one per 50 ms, then and when it is read again
(platform.openai.com/docs/guides/realtime-costs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.token_estimates import estimate_chat_tokens
from flow.metering.evidence import Opening
from flow.metering.sound import MICROSECOND, base64_size
from flow.metering.wires.json_exchange import objects, text, within

INPUT_TOKENS_PER_SEC = 10
OUTPUT_TOKENS_PER_SEC = 20
# By the type of a format: 16-bit samples of 24 kHz, or a byte a sample of 8 kHz.
_BYTES_PER_SEC = {"audio/pcm": 48_000, "audio/pcmu": 8_000, "audio/pcma": 8_000}
_ADDED = frozenset(
    {
        "conversation.item.added",
        "conversation.item.created",
        "conversation.item.done",
        "response.output_item.added",
    }
)


@dataclass(slots=True)
class Item:
    """One item. ``heard`` and ``spoken`` are sound in bytes, the user's and the model's."""

    role: str = ""
    text: str = ""
    transcript: str = ""
    heard: int = 0
    spoken: int = 0


class Conversation:
    """Follows a session's events.

    Args:
        model: the model of the session, until the vendor names it.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._session: Mapping[str, Any] = {}
        self._items: dict[str, Item] = {}
        self._buffered = 0
        self._speech_began: dict[str, int] = {}
        self._heard: dict[str, int] = {}

    @property
    def transcription_model(self) -> str | None:
        """The model that writes down what the user says, if one does."""
        transcription = within(self._session, "audio", "input", "transcription")
        return text(within(transcription, "model")) or None

    def opening(self) -> Opening:
        """A response that is to read all of it now."""
        told = {"role": "system", "content": text(self._session.get("instructions"))}
        items = self._items.values()
        tools = self._session.get("tools")
        prompt = estimate_chat_tokens(
            [told, *({"role": item.role, "content": item.text} for item in items)],
            tools if isinstance(tools, list) else None,
            self.model,
        )
        audio = sum(map(self._audio_tokens, items))
        return Opening(
            estimate=Quantities(input_tokens=prompt + audio, input_audio_tokens=audio),
            model=self.model or None,
            stream=True,
            content=[told, *map(_message, items)],
        )

    def heard_seconds(self, item_id: str) -> Decimal:
        """How long the sound is that became this item."""
        return _seconds(self._heard.get(item_id, 0), self._a_second("input"))

    def spoken_tokens(self, item_id: str) -> int:
        """The tokens of what the model has spoken of this item so far."""
        item = self._items.get(item_id)
        return 0 if item is None else self._tokens(item.spoken, "output", OUTPUT_TOKENS_PER_SEC)

    def sent(self, event: Mapping[str, Any]) -> None:
        """A client event goes to the vendor."""
        if event.get("type") == "input_audio_buffer.append":
            self._buffered += base64_size(text(event.get("audio")))

    def received(self, kind: str, event: Mapping[str, Any]) -> None:
        """A server event has come."""
        item_id = text(event.get("item_id"))
        match kind:
            case "session.created" | "session.updated":
                session = event.get("session")
                self._session = session if isinstance(session, Mapping) else self._session
                self.model = text(self._session.get("model")) or self.model
            case "input_audio_buffer.cleared":
                self._buffered = 0
            case "input_audio_buffer.speech_started":
                self._speech_began[item_id] = _whole(event.get("audio_start_ms"))
            case "input_audio_buffer.speech_stopped" if item_id in self._speech_began:
                lasted = _whole(event.get("audio_end_ms")) - self._speech_began.pop(item_id)
                self._heard[item_id] = max(lasted, 0) * self._a_second("input") // 1000
            case "input_audio_buffer.committed":
                self._heard.setdefault(item_id, self._buffered)
                self._buffered = 0
            case "conversation.item.truncated" if item_id in self._items:
                heard_ms = _whole(event.get("audio_end_ms"))
                self._items[item_id].spoken = heard_ms * self._a_second("output") // 1000
            case "conversation.item.deleted":
                self._items.pop(item_id, None)
            case _ if kind in _ADDED:
                self._add(event.get("item"))
            case _ if item_id in self._items:
                self._grow(self._items[item_id], kind, event)

    def _add(self, value: Any) -> None:
        item_id = text(within(value, "id"))
        item = self._items.setdefault(item_id, Item())
        item.role = text(within(value, "role")) or "tool"
        item.heard = self._heard.get(item_id, item.heard)
        said = [text(within(value, name)) for name in ("name", "arguments", "output")]
        said += [text(part.get("text")) for part in objects(within(value, "content"))]
        item.text = "".join(said) or item.text

    def _grow(self, item: Item, kind: str, event: Mapping[str, Any]) -> None:
        match kind:
            case "response.output_audio.delta":
                item.spoken += base64_size(text(event.get("delta")))
            case "response.output_audio_transcript.delta":
                item.transcript += text(event.get("delta"))
            case "response.output_text.delta":
                item.text += text(event.get("delta"))
            case "conversation.item.input_audio_transcription.completed":
                item.transcript = text(event.get("transcript"))

    def _audio_tokens(self, item: Item) -> int:
        heard = self._tokens(item.heard, "input", INPUT_TOKENS_PER_SEC)
        return heard + self._tokens(item.spoken, "output", OUTPUT_TOKENS_PER_SEC)

    def _tokens(self, size: int, side: str, a_second: int) -> int:
        return ceil(_seconds(size, self._a_second(side)) * a_second)

    def _a_second(self, side: str) -> int:
        """How many bytes of sound are a second."""
        named = text(within(self._session, "audio", side, "format", "type"))
        return _BYTES_PER_SEC.get(named, 48_000)


def _message(item: Item) -> dict[str, str]:
    return {"role": item.role, "content": item.text or item.transcript}


def _seconds(size: int, a_second: int) -> Decimal:
    return (Decimal(size) / a_second).quantize(MICROSECOND)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
