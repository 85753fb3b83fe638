"""How the WebSocket of a call is closed, by why the call ended.

1000, 1011 and 1012 mean what RFC 6455 (section 7.4) and IANA's registry of close codes say; codes
from 4000 on are an application's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flow.domain.calls.ending import Ending, EndReason

MAX_REASON_BYTES = 123
"""What a close frame has room for."""


class Close(NamedTuple):
    """A close code, and a reason that programs may rely on up to the first colon."""

    code: int
    reason: str


CLOSE_CODES: Mapping[EndReason, int] = {
    EndReason.CALLER_HUNG_UP: 1000,
    EndReason.PIPELINE_ENDED: 1000,
    EndReason.ENDED_BY_API: 1000,
    EndReason.VENDOR_FAILURE: 1011,
    EndReason.SHUTDOWN: 1012,
    EndReason.HANDED_OVER: 1012,
    EndReason.MAX_DURATION: 4001,
    EndReason.IDLE_TIMEOUT: 4002,
    EndReason.BUDGET_EXCEEDED: 4003,
    EndReason.TAKEN_OVER: 4004,
    EndReason.GIVEN_UP: 4005,
    EndReason.PROCESS_LOST: 4006,
    EndReason.NOBODY_CAME: 4007,
    EndReason.CANCELLED: 4008,
    EndReason.BOT_HUNG_UP: 4009,
    EndReason.ERROR: 4011,
}
"""The close code of each reason why a call may end. A new one has the next free number."""


def close_of(ending: Ending | None) -> Close:
    """How a call's socket is closed.

    Args:
        ending: why the call ended; ``None`` while nobody has said so: by itself, then. The service
            that failed is named in the reason.
    """
    if ending is None or ending.reason is EndReason.PIPELINE_ENDED:
        return Close(CLOSE_CODES[EndReason.PIPELINE_ENDED], "ended")
    said, error = ending.reason.value, ending.error or {}
    detail = error.get("service") or error.get("code")
    if detail and detail != ending.reason:
        said = f"{said}: {detail}"
    reason = said.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    return Close(CLOSE_CODES[ending.reason], reason)
