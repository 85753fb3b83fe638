"""What a join says of recording its call, and what there is of a recording afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_DAYS = 3_650


class RecordingRequest(BaseModel):
    """How the call is to be recorded.

    ``retention_days`` is how long the recording is kept; left out: as long as the operator keeps
    recordings, which is also the longest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    retention_days: Annotated[int, Field(ge=1, le=MOST_DAYS)] | None = Field(
        default=None, description="How long it is kept; left out: as long as the service does."
    )


def _spelt_out(value: Any) -> Any:
    """``true`` is a recording with nothing said about it, ``false`` is none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


RecordingOption = Annotated[
    RecordingRequest | None,
    BeforeValidator(_spelt_out, json_schema_input_type=bool | RecordingRequest | None),
]
"""``true``, an object, or nothing."""


class RecordingStatus(StrEnum):
    """Where a recording is: its call runs, it is being stored, or what became of it.

    ``NONE``: nothing sounded that could be recorded.
    """

    NONE = "none"
    RECORDING = "recording"
    STORING = "storing"
    READY = "ready"
    FAILED = "failed"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class RecordingPart:
    """What one process recorded of a call, ``size`` in bytes. ``path``, ``seconds`` and ``size``
    are ``None`` until it is stored; ``complete``: nothing that sounded meanwhile is missing."""

    id: UUID
    started_at: datetime
    path: str | None = None
    seconds: float | None = None
    size: int | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class CallRecording:
    """The recording of a call. ``complete``: nothing that sounded is missing; known once it is
    ready. Then ``parts`` has one part, which is all of it, kept until ``expires_at``."""

    status: RecordingStatus
    complete: bool
    parts: tuple[RecordingPart, ...]
    expires_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def whole(self) -> RecordingPart | None:
        """All of it, once it is ready."""
        return self.parts[0] if self.status is RecordingStatus.READY else None

    @property
    def is_stored(self) -> bool:
        """Whether every part of it is in the storage."""
        return all(part.path is not None for part in self.parts)
