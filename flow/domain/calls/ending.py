"""Why a call ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class EndReason(StrEnum):
    """Why a call ended, or why it ended in one process. The values are stored and shown."""

    BOT_HUNG_UP = "bot_hung_up"
    """The bot took its leave, by its tool ``end_call``."""
    BUDGET_EXCEEDED = "budget_exceeded"
    CALLER_HUNG_UP = "caller_hung_up"
    CANCELLED = "cancelled"
    """Nothing ran: the call was claimed, and its room could not be entered."""
    ENDED_BY_API = "ended_by_api"
    """Somebody asked for it."""
    ERROR = "error"
    GIVEN_UP = "given_up"
    """Nothing was heard of the call for too long: whoever gave it up finishes its thread."""
    HANDED_OVER = "handed_over"
    """The process stops: the call is to go on in another."""
    IDLE_TIMEOUT = "idle_timeout"
    MAX_DURATION = "max_duration"
    NOBODY_CAME = "nobody_came"
    """There was no call, only a bot in an empty room."""
    PIPELINE_ENDED = "pipeline_ended"
    PROCESS_LOST = "process_lost"
    """The process that ran the call is gone. Also written by the database."""
    SHUTDOWN = "shutdown"
    TAKEN_OVER = "taken_over"
    """Another process has the call by now, and it goes on there."""
    VENDOR_FAILURE = "vendor_failure"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a call ended. ``error`` is set when it was not the caller's or the operator's doing."""

    reason: EndReason
    error: dict[str, Any] | None = None

    @classmethod
    def failure(cls, code: str, message: str, reason: EndReason = EndReason.ERROR) -> Ending:
        """The ending of a call that failed; the code and message are shown with its thread."""
        return cls(reason, {"code": code, "message": message})


def process_lost() -> Ending:
    """The ending of a call whose process is gone."""
    return Ending.failure(
        EndReason.PROCESS_LOST.value,
        "the process that ran the call is gone",
        EndReason.PROCESS_LOST,
    )
