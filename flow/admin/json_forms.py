"""Keys, teams, threads, hosts and webhooks as JSON, for the command line and over HTTP alike.

Times and amounts are left as they are: both write times in UTC, and amounts of money as strings.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from flow.db.rows import KeyAccount
from flow.domain.calls.host import Host
from flow.domain.calls.thread import Thread
from flow.domain.calls.thread_overview import ThreadOverview
from flow.domain.limits.budget import Budget
from flow.domain.limits.quota import plain
from flow.domain.limits.team import Team
from flow.domain.webhooks.webhook import Delivery
from flow.vendors.unkey_admin import KeyDetails


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
        "permissions": list(one.permissions),
        "created_at": one.created_at,
        "expires_at": one.expires_at,
        "last_used_at": one.last_used_at,
    }


def team(one: Team) -> dict[str, Any]:
    """A team with what it spent this month, and every limit."""
    return {
        "team_id": one.team_id,
        "keys": one.keys,
        "running_calls": one.running_calls,
        "spent_usd": plain(one.spent_usd),
        "billable_usd": plain(one.billable_usd),
        "resets_at": one.resets_at,
        "limits": [state.to_json() for state in one.limits],
    }


def thread(one: ThreadOverview) -> dict[str, Any]:
    """A thread without its content."""
    # `asdict` would copy every account of a long list.
    return {field.name: getattr(one, field.name) for field in fields(one)}


def content(one: Thread) -> dict[str, Any]:
    """What was said in a call, asked for it and extracted from it."""
    return {
        "request": one.join.shown(),
        "insights": one.insights,
        "metadata": one.metadata,
        "transcript": [turn.to_json() for turn in one.transcript],
    }


def host(one: Host) -> dict[str, Any]:
    """A process; ``report`` is what it last said of itself."""
    told = asdict(one)
    told.pop("is_stopped")
    return {**told, "state": one.state, "silent_secs": round(one.silent_secs, 1)}


def delivery(one: Delivery, *, with_content: bool = True) -> dict[str, Any]:
    """A webhook; its payload as what is sent, where it is known.

    Without content the payload has no insights and no metadata, which are the customer's own.
    """
    told = asdict(one)
    text = told.pop("payload")
    if text is None:
        return told
    payload = json.loads(text)
    if not with_content:
        for name in _CONTENT & payload["data"].keys():
            payload["data"][name] = None
    return {**told, "payload": payload}


_CONTENT = {"insights", "metadata"}


def _budget(one: Budget) -> dict[str, Any]:
    return {
        "tier": one.tier,
        "cap_usd": None if one.cap_usd is None else plain(one.cap_usd),
        "spent_usd": plain(one.spent_usd),
        "reserved_usd": plain(one.reserved_usd),
        "remaining_usd": None if one.remaining_usd is None else plain(one.remaining_usd),
        "resets_at": one.resets_at,
    }
