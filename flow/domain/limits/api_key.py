"""An API key as Flow knows it: Unkey's key, our row, the team it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A row of ``api_keys``. The secret itself is never stored; ``unkey_key_id`` names it."""

    id: UUID
    unkey_key_id: str
    team_id: str
    name: str | None
