"""The place in a distributed trace that something belongs to (W3C Trace Context, level 1).

See https://www.w3.org/TR/trace-context/: the header ``traceparent`` is
``00-<16 bytes trace id>-<8 bytes span id>-<flags>``, in lower-case hexadecimal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

BYTES = 25

_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A span of some trace; ``is_sampled`` says whether its trace is being recorded."""

    trace_id: int
    span_id: int
    is_sampled: bool

    @classmethod
    def from_header(cls, header: str) -> Self | None:
        """What a ``traceparent`` header says; ``None`` if it is none that may be used.

        A later version than ours is read as far as we know it, as the standard demands.
        """
        found = _HEADER.fullmatch(header)
        if found is None or (found[1] == "00" and found[5] is not None):
            return None
        return cls._valid(int(found[2], 16), int(found[3], 16), int(found[4], 16))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self | None:
        """What `to_bytes` gave; ``None`` for no bytes at all."""
        if len(raw) != BYTES:
            return None
        return cls._valid(
            int.from_bytes(raw[:16], "big"), int.from_bytes(raw[16:24], "big"), raw[24]
        )

    def to_header(self) -> str:
        """The value of a ``traceparent`` header."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"

    def to_bytes(self) -> bytes:
        """The same in as few bytes as there are."""
        ids = self.trace_id.to_bytes(16, "big") + self.span_id.to_bytes(8, "big")
        return ids + bytes([int(self.is_sampled)])

    @classmethod
    def _valid(cls, trace_id: int, span_id: int, flags: int) -> Self | None:
        if not trace_id or not span_id:  # all zero is invalid
            return None
        return cls(trace_id, span_id, bool(flags & _SAMPLED))
