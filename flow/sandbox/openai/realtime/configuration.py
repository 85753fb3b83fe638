"""What a session is set to, and what a client may change of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any
from uuid import uuid4

from flow.sandbox.openai.errors import ApiError

INSTRUCTIONS = "Your knowledge cutoff is 2024-09. You are a helpful, witty and friendly AI."
SESSION_SECS = 3600
_PCM = {"type": "audio/pcm", "rate": 24_000}
_SERVER_VAD: dict[str, Any] = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
_FIXED = ("type", "object", "id", "expires_at")


class Configuration:
    """The session object (platform.openai.com/docs/api-reference/realtime-sessions).

    Sound is 16-bit mono PCM of 24 kHz both ways: the other formats are refused.
    """

    def __init__(self, model: str) -> None:
        self.value: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": f"sess_{uuid4().hex[:24]}",
            "model": model,
            "output_modalities": ["audio"],
            "instructions": INSTRUCTIONS,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "tracing": None,
            "prompt": None,
            "expires_at": int(time.time()) + SESSION_SECS,
            "audio": {
                "input": {
                    "format": _PCM,
                    "transcription": None,
                    "noise_reduction": None,
                    "turn_detection": _SERVER_VAD,
                },
                "output": {"format": _PCM, "voice": "marin", "speed": 1.0},
            },
            "include": None,
            "reasoning": None,
            "truncation": "auto",
        }

    @property
    def model(self) -> str:
        """The model of the session, which stays."""
        return str(self.value["model"])

    @property
    def turn_detection(self) -> Mapping[str, Any] | None:
        """How the server detects turns; ``None`` where the client does."""
        given: Mapping[str, Any] | None = self.value["audio"]["input"]["turn_detection"]
        return None if given is None else {**_SERVER_VAD, **given}

    @property
    def transcription_model(self) -> str | None:
        """The model that writes down what the user says, if one does."""
        given = self.value["audio"]["input"]["transcription"]
        return None if given is None else str(given.get("model") or "whisper-1")

    def update(self, changes: Mapping[str, Any]) -> None:
        """Change what a ``session.update`` names.

        Raises:
            ApiError: it names what there is not, or what cannot be changed.
        """
        value = deepcopy(self.value)
        if changes.get("model") not in (None, self.model):
            raise ApiError(
                400, "Cannot update the model of a session.", param="session.model",
                code="session_model_not_updatable",
            )  # fmt: skip
        for name, new in changes.items():
            if name == "audio":
                self._update_audio(value["audio"], new or {})
            elif name not in _FIXED:
                value[_known(name, value, "session")] = new
        for side in ("input", "output"):
            if (form := value["audio"][side]["format"]) and form.get("type") != "audio/pcm":
                said = f"This stand-in takes and gives 'audio/pcm', not '{form.get('type')}'."
                raise ApiError(400, said, param=f"session.audio.{side}.format")
        self.value = value

    def _update_audio(self, audio: dict[str, Any], changes: Mapping[str, Any]) -> None:
        for side, of_side in changes.items():
            known = audio[_known(side, audio, "session.audio")]
            for name, new in (of_side or {}).items():
                known[_known(name, known, f"session.audio.{side}")] = new


def _known(name: str, within: Mapping[str, Any], path: str) -> str:
    if name not in within:
        said = f"Unknown parameter: '{path}.{name}'."
        raise ApiError(400, said, param=f"{path}.{name}", code="unknown_parameter")
    return name
