"""The calls of `flow.db.database` about recordings.

Any call may raise `DatabaseUnavailable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.transport import TypedCalls
from flow.domain.calls.recording import CallRecording, RecordingPart, RecordingStatus


class CallRecordings(TypedCalls):
    """The calls; each is one round trip and one transaction."""

    async def begin_part(
        self, thread_id: UUID, part_id: UUID, started_at: datetime, days: int
    ) -> bool:
        """Note that a part is being recorded; ``False``: the thread or its recording is deleted."""
        return bool(
            await self._call(
                "begin_recording_part", **_part_of(thread_id, part_id, started_at, days)
            )
        )

    async def store_part(self, thread_id: UUID, part: RecordingPart, days: int) -> bool:
        """Note where a part is stored; ``False`` as for `begin_part`: it is not to be kept."""
        return bool(
            await self._call(
                "store_recording_part",
                **_part_of(thread_id, part.id, part.started_at, days),
                p_path=part.path,
                p_seconds=part.seconds,
                p_size=part.size,
                p_complete=part.complete,
            )
        )

    async def get(self, thread_id: UUID) -> CallRecording | None:
        """A call's recording; ``None`` where nothing was recorded."""
        row = await self._call("get_recording", p_thread_id=str(thread_id))
        return None if row is None else _recording(row)

    async def drop_lost_parts(self, lost_secs: int) -> int:
        """Give up parts that nobody stored for so long after their call; of how many calls."""
        return int(await self._call("drop_lost_recording_parts", p_lost_secs=lost_secs))

    async def unsettled(self) -> list[UUID]:
        """Some threads whose parts are all stored and whose recording is not settled."""
        return [UUID(found) for found in await self._call("list_unsettled_recordings")]

    async def settle(
        self, thread_id: UUID, parts: Sequence[UUID], whole: RecordingPart | None = None
    ) -> bool:
        """Make a recording of exactly these parts ready, or failed where there are none.

        ``whole`` takes their place. ``False``: there are others, or it is settled.
        """
        made = whole and {
            "id": str(whole.id),
            "started_at": whole.started_at.isoformat(),
            "path": whole.path,
            "seconds": whole.seconds,
            "size": whole.size,
        }
        return bool(
            await self._call(
                "settle_recording",
                p_thread_id=str(thread_id),
                p_parts=[str(part) for part in parts],
                p_whole=made,
            )
        )

    async def expire(self) -> int:
        """Delete recordings whose time is over; how many those were. Their files follow."""
        return int(await self._call("expire_recordings"))

    async def claim_removals(self) -> list[str]:
        """Some files for this process to remove from the storage; others look away meanwhile."""
        found: list[str] = await self._call("claim_recording_removals")
        return found

    async def forget_removals(self, paths: Sequence[str]) -> None:
        """These files are removed."""
        await self._call("forget_recording_removals", p_paths=list(paths))


def _part_of(thread_id: UUID, part_id: UUID, started_at: datetime, days: int) -> dict[str, Any]:
    return {
        "p_thread_id": str(thread_id),
        "p_part_id": str(part_id),
        "p_started_at": started_at.isoformat(),
        "p_days": days,
    }


def _recording(row: Mapping[str, Any]) -> CallRecording:
    return CallRecording(
        status=RecordingStatus(row["status"]),
        complete=row["complete"],
        parts=tuple(map(_part, row["parts"])),
        expires_at=rows.maybe_utc(row["expires_at"]),
        deleted_at=rows.maybe_utc(row["deleted_at"]),
    )


def _part(row: Mapping[str, Any]) -> RecordingPart:
    seconds = row["seconds"]
    return RecordingPart(
        id=UUID(row["id"]),
        started_at=rows.utc(row["started_at"]),
        path=row["path"],
        seconds=None if seconds is None else float(seconds),
        size=row["size"],
        complete=row["complete"],
    )
