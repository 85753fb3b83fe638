"""How the WebSocket of a call is closed, by why the call ended.

1000, 1011 and 1012 mean what RFC 6455 (section 7.4) and IANA's registry of close codes say; codes
from 4000 on are an application's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flow.domain.calls.room import NOBODY_CAME
from flow.domain.calls.room_call import HANDED_OVER, PROCESS_LOST, TAKEN_OVER
from flow.domain.calls.thread import ENDED_BY_API, GIVEN_UP

MAX_REASON_BYTES = 123
"""What a close frame has room for."""


class Close(NamedTuple):
    """A close code, and a reason that programs may rely on up to the first colon."""

    code: int
    reason: str


CLOSE_CODES: Mapping[str, int] = {
    "caller_hung_up": 1000,
    "pipeline_ended": 1000,
    ENDED_BY_API: 1000,
    "vendor_failure": 1011,
    "shutdown": 1012,
    HANDED_OVER: 1012,
    "max_duration": 4001,
    "idle_timeout": 4002,
    "budget_exceeded": 4003,
    TAKEN_OVER: 4004,
    GIVEN_UP: 4005,
    PROCESS_LOST: 4006,
    NOBODY_CAME: 4007,
    "cancelled": 4008,
    "error": 4011,
}
"""The close code of each reason why a call may end. A new one has the next free number."""


def close_of(reason: str | None, error: Mapping[str, Any] | None = None) -> Close:
    """How a call's socket is closed.

    Args:
        reason: why the call ended; ``None`` while nobody has said so: by itself, then.
        error: that of the thread; the service that failed is named in the reason.
    """
    reason = reason or "pipeline_ended"
    said = "ended" if reason == "pipeline_ended" else reason
    detail = (error or {}).get("service") or (error or {}).get("code")
    if detail and detail != reason:
        said = f"{said}: {detail}"
    return Close(
        CLOSE_CODES.get(reason, 1000), said.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    )
