"""Keys, quotas and usage as JSON: money as strings, times in UTC."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flow.db.rows import KeyAccount
from flow.domain.limits.budget import Budget
from flow.domain.limits.quota import plain
from flow.vendors.unkey_admin import KeyDetails


def document(value: Any) -> str:
    """The value as one JSON document."""
    return json.dumps(value, default=_text, ensure_ascii=False, indent=2)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def account(one: KeyAccount) -> dict[str, Any]:
    """A key with its limits."""
    return {
        "api_key_id": one.key.id,
        "unkey_key_id": one.key.unkey_key_id,
        "team_id": one.key.team_id,
        "name": one.key.name,
        "created_at": one.created_at,
        "revoked_at": one.revoked_at,
        "budget": _budget(one.budget),
        "override_until": one.override_until,
        "save_mode": one.save_mode,
        "running_calls": one.running_calls,
        "rates": dict(one.rates),
    }


def details(one: KeyDetails) -> dict[str, Any]:
    """What Unkey adds about a key."""
    return {
        "enabled": one.enabled,
        "start": one.start,
        "name": one.name,
        "team_id": one.team_id,
        "permissions": one.permissions,
        "created_at": one.created_at,
        "expires_at": one.expires_at,
        "last_used_at": one.last_used_at,
    }


def _budget(one: Budget) -> dict[str, Any]:
    return {
        "tier": one.tier,
        "cap_usd": one.cap_usd,
        "spent_usd": one.spent_usd,
        "reserved_usd": one.reserved_usd,
        "remaining_usd": one.remaining_usd,
        "resets_at": one.resets_at,
    }
