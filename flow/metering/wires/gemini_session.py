"""What a Live session of Gemini's holds, as well as can be told from what goes over its wire."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.token_estimates import estimate_chat_tokens
from flow.metering.evidence import NOTHING
from flow.metering.sound import TYPICAL_CHARACTERS_A_SECOND, base64_size, pcm_seconds
from flow.metering.wires.gemini_content import field, functions, messages
from flow.metering.wires.json_exchange import objects, text

SOUND_TOKENS_A_SECOND = 25
"""Of Live's sound, both ways (ai.google.dev, "Live API best practices", on pricing)."""
_RATE_IN = 16_000
_RATE_OUT = 24_000


class SessionEstimate:
    """The tokens that the next generation will read.

    What was reported last, and what has come since. How much of the caller's sound Gemini takes
    for speech is told by its transcript alone; without one, all of it is taken.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self._known = NOTHING
        self._new_text = 0
        self._new_seconds = Decimal(0)
        self._transcript = ""
        self._written: list[dict[str, Any]] = []

    @property
    def content(self) -> list[dict[str, Any]]:
        """What has been said to the model since it last answered, as messages."""
        spoken = [{"role": "user", "content": self._transcript}] if self._transcript else []
        return [*self._written, *spoken]

    def sent(self, message: Mapping[str, Any]) -> None:
        """A message goes to Gemini."""
        if isinstance(setup := message.get("setup"), Mapping):
            self.model = text(setup.get("model")).removeprefix("models/") or None
            told = messages(field(setup, "systemInstruction"), None)
            self._write(told, functions(setup.get("tools")))
        if turns := field(message, "clientContent", "turns"):
            self._write(messages(None, turns))
        for answer in objects(field(message, "toolResponse", "functionResponses")):
            self._write(messages(None, [{"parts": [{"functionResponse": answer}]}]))
        realtime = field(message, "realtimeInput")
        if said := text(field(realtime, "text")).strip():
            self._write([{"role": "user", "content": said}])
        chunks = field(realtime, "mediaChunks")
        for blob in (field(realtime, "audio"), *objects(chunks)):
            self._new_seconds += sound_seconds(blob, _RATE_IN)

    def heard(self, transcript: str) -> None:
        """Gemini says what it has heard."""
        self._transcript += transcript

    def told(self, reported: Quantities) -> None:
        """A generation reports what it has read and made; the next one reads both."""
        count = reported.count
        kept = count("output_tokens") - count("reasoning_tokens")
        heard = count("input_audio_tokens") + count("cache_read_audio_tokens")
        self._known = Quantities(
            input_tokens=count("input_tokens") + count("cache_read_tokens") + kept,
            input_audio_tokens=heard + count("output_audio_tokens"),
        )

    def begun(self) -> None:
        """A generation has begun, and reads all that is there."""
        self._known = self.prompt()
        self._new_text, self._written = 0, []

    def made(self, tokens: int) -> None:
        """It has made so much sound, which the next one reads as well."""
        self._known = Quantities(
            input_tokens=self._known.count("input_tokens") + tokens,
            input_audio_tokens=self._known.count("input_audio_tokens") + tokens,
        )

    def answered(self) -> None:
        """It is over. The caller's sound until now was for it: no message says when it began."""
        self._new_seconds, self._transcript = Decimal(0), ""

    def prompt(self) -> Quantities:
        """What a generation reads that begins now."""
        seconds = Decimal(len(self._transcript)) / TYPICAL_CHARACTERS_A_SECOND
        sound = sound_tokens(seconds if self._transcript else self._new_seconds)
        return Quantities(
            input_tokens=self._known.count("input_tokens") + self._new_text + sound,
            input_audio_tokens=self._known.count("input_audio_tokens") + sound,
        )

    def _write(self, told: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> None:
        self._written += told
        self._new_text += estimate_chat_tokens(told, tools, model=self.model or "")


def sound_seconds(blob: Any, rate: int = _RATE_OUT) -> Decimal:
    """Seconds of 16-bit sound in Gemini's ``{"data": <base64>, "mimeType": "audio/pcm;rate=..."}``;
    none in anything else."""
    if not isinstance(blob, Mapping):
        return Decimal(0)
    kind = text(field(blob, "mimeType"))
    data = text(blob.get("data"))
    if not kind.startswith("audio/"):
        return Decimal(0)
    _, _, told = kind.partition("rate=")
    return pcm_seconds(base64_size(data), int(told) if told.isdigit() and int(told) else rate)


def sound_tokens(seconds: Decimal) -> int:
    """How many tokens so much sound is."""
    return round(seconds * SOUND_TOKENS_A_SECOND)
