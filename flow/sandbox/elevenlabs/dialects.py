"""The two endpoints of text to speech in contexts, which say the same in other words.

``/v1/text-to-speech/{voice}/multi-stream-input``
(https://elevenlabs.io/docs/api-reference/text-to-speech/v-1-text-to-speech-voice-id-multi-stream-input)
and ``/v1/text-to-dialogue/multi-stream-input``, which serves Eleven v3 and v4
(https://elevenlabs.io/docs/api-reference/text-to-dialogue/multi-context).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flow.sandbox.elevenlabs.connection import Connection, Failure

DIALOGUE_MODELS = ("eleven_v3", "eleven_v4")
"""How the models begin that Text to Dialogue serves, and it alone."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """Sound, and what is said in it: every character takes equally long."""

    sound: bytes
    characters: str
    seconds: float

    @property
    def starts_ms(self) -> list[int]:
        """When each character begins, from the beginning of the sound."""
        return [round(n * self._each_ms) for n in range(len(self.characters))]

    @property
    def durations_ms(self) -> list[int]:
        """How long each takes."""
        return [round(self._each_ms)] * len(self.characters)

    @property
    def _each_ms(self) -> float:
        return 1000 * self.seconds / max(len(self.characters), 1)


class Dialect(Protocol):
    """How one endpoint is spoken with."""

    def serves(self, model: str) -> bool:
        """Whether the endpoint has the model."""

    def text(self, message: Mapping[str, Any], *, is_open: bool) -> str | None:
        """What is to be spoken in the message's context, which is opened if it is not open yet;
        ``None`` where the message opens none.

        Raises:
            Failure: the message breaks a rule.
        """

    def is_enough(self, text: str) -> bool:
        """Whether so much is spoken without being told to."""

    def sound(self, context: str, aligned: Aligned) -> dict[str, Any]:
        """A chunk of sound."""

    def spoken(self, context: str) -> dict[str, Any] | None:
        """What is said when all text so far is spoken, if anything."""

    def final(self, context: str) -> dict[str, Any]:
        """The last word on a context."""


class Speech:
    """Text to speech."""

    def __init__(self, connection: Connection) -> None:
        self._is_automatic = connection.query.get("auto_mode") == "true"

    def serves(self, model: str) -> bool:
        """All models but those of the other endpoint."""
        return not model.startswith(DIALOGUE_MODELS)

    def text(self, message: Mapping[str, Any], *, is_open: bool) -> str | None:
        """The first text opens a context, and is a blank mostly; an empty one keeps it open."""
        text = message.get("text", "")
        if not isinstance(text, str):
            raise Failure("invalid_message", "The text is no text.")
        if is_open and "voice_settings" in message:
            raise Failure("invalid_message", "Voice settings belong in a context's first message.")
        return text if is_open or text else None

    def is_enough(self, text: str) -> bool:
        """All text is with ``auto_mode``, otherwise 120 characters are."""
        return self._is_automatic or len(text) >= 120

    def sound(self, context: str, aligned: Aligned) -> dict[str, Any]:
        """Sound with its alignment, of what is read and of how it is read."""
        alignment = {
            "chars": list(aligned.characters),
            "charStartTimesMs": aligned.starts_ms,
            "charDurationsMs": aligned.durations_ms,
        }
        return {
            "audio": b64encode(aligned.sound).decode(),
            "alignment": alignment,
            "normalizedAlignment": alignment,
            "contextId": context,
        }

    def spoken(self, context: str) -> dict[str, Any] | None:
        """Nothing."""

    def final(self, context: str) -> dict[str, Any]:
        """The last word on a context."""
        return {"isFinal": True, "contextId": context}


class Dialogue:
    """Text to Dialogue."""

    def __init__(self, connection: Connection) -> None:
        self._is_aligned = connection.query.get("sync_alignment") == "true"

    def serves(self, model: str) -> bool:
        """Eleven v3 and v4."""
        return model.startswith(DIALOGUE_MODELS)

    def text(self, message: Mapping[str, Any], *, is_open: bool) -> str | None:
        """The first message of a context names its voices, and no other does."""
        if not message.get("context_id"):
            raise Failure("invalid_message", "A message must have a context_id.")
        if is_open is bool(message.get("voices")):
            raise Failure("invalid_message", "The first message of a context registers its voices.")
        try:
            return "".join(str(line["text"]) for line in message.get("inputs", ()))
        except (KeyError, TypeError):
            raise Failure("invalid_message", "An input has no text.") from None

    def is_enough(self, text: str) -> bool:
        """About 40 characters and 8 words are."""
        return len(text) >= 40 and len(text.split()) >= 8

    def sound(self, context: str, aligned: Aligned) -> dict[str, Any]:
        """Sound, with its alignment where that is asked for."""
        alignment = {
            "chars": list(aligned.characters),
            "char_start_times_ms": aligned.starts_ms,
            "char_durations_ms": aligned.durations_ms,
        }
        return {
            "audio": b64encode(aligned.sound).decode(),
            "alignment": alignment if self._is_aligned else None,
            "normalized_alignment": None,
            "context_id": context,
        }

    def spoken(self, context: str) -> dict[str, Any] | None:
        """That a batch of text is spoken."""
        return {"is_final_audio_for_turn": True, "context_id": context}

    def final(self, context: str) -> dict[str, Any]:
        """The last word on a context."""
        return {"is_final": True, "context_id": context}
