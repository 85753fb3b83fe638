"""What Cartesia's WebSockets have in common: errors, encodings, and fields that may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flow.domain.usage.events import Failure
from flow.metering.sound import RawSound
from flow.metering.wires.reader import names_a_code

_SAMPLE_BYTES = {
    "pcm_s16le": 2,
    "pcm_s32le": 4,
    "pcm_f16le": 2,
    "pcm_f32le": 4,
    "pcm_mulaw": 1,
    "pcm_alaw": 1,
}
"""https://docs.cartesia.ai/build-with-cartesia/stt/audio-input"""


def raw_sound(told: Any) -> RawSound | None:
    """What measures sound, by its ``encoding`` and ``sample_rate``; ``None`` if they are unknown.

    In an URL's query the rate is text, in a message a number.
    """
    if not isinstance(told, Mapping):
        return None
    sample_bytes = _SAMPLE_BYTES.get(str(told.get("encoding")))
    rate = str(told.get("sample_rate"))
    if sample_bytes is None or not rate.isdecimal() or not int(rate):
        return None
    return RawSound(int(rate), sample_bytes=sample_bytes)


def failure_in(error: Mapping[str, Any]) -> Failure:
    """Why the vendor failed. Its sentence may quote what was said, so its code alone is kept."""
    code = error.get("error_code")
    said = f": {code}" if names_a_code(code) else ""
    return Failure("APIError", f"the vendor failed{said}", number_in(error, "status_code") or None)


def text_in(message: Mapping[str, Any], field: str) -> str | None:
    """A text of a message; ``None`` if it is not one."""
    value = message.get(field)
    return value if isinstance(value, str) else None


def number_in(message: Mapping[str, Any], field: str) -> int:
    """A whole number of a message; 0 if it is not one, or negative."""
    value = message.get(field)
    return value if isinstance(value, int) and value > 0 else 0
