"""How Deepgram's connections say what sound goes over them: in the query of their URL."""

from __future__ import annotations

from collections.abc import Mapping

from flow.metering.sound import RawSound

_SAMPLE_BYTES = {"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}


def raw_sound(query: Mapping[str, str], default_rate: int) -> RawSound | None:
    """What measures the sound of a connection; ``None`` where it is compressed.

    Args:
        default_rate: samples a second where the query has none.
    """
    sample_bytes = _SAMPLE_BYTES.get(query.get("encoding", "linear16"))
    rate = number(query, "sample_rate", default_rate)
    if sample_bytes is None or not rate:
        return None
    return RawSound(rate, sample_bytes=sample_bytes, channels=number(query, "channels", 1) or 1)


def number(query: Mapping[str, str], name: str, default: int) -> int:
    """A whole number in the query, or ``default``."""
    value = query.get(name, "")
    return int(value) if value.isdecimal() else default
