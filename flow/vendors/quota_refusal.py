"""How a team that its billing service calls limited is refused."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from flow.domain.limits.quota import plain
from flow.errors import Refused
from flow.vendors.quota_answer import QuotaState

DEFAULT_RETRY_SECS = 60
MAX_RETRY_SECS = 24 * 3600


def exceeded(state: QuotaState, product: str, now: float) -> Refused:
    """The error ``quota_exceeded`` for a call of ``product``; ``now`` is seconds since 1970."""
    return Refused(
        "quota_exceeded",
        _sentence(state),
        _retry_after_secs(state.resets_at, now),
        _limit(state, product),
    )


def _retry_after_secs(resets_at: datetime | None, now: float) -> int:
    if resets_at is None:
        return DEFAULT_RETRY_SECS
    return min(max(math.ceil(resets_at.timestamp() - now), 1), MAX_RETRY_SECS)


def _sentence(state: QuotaState) -> str:
    resource = state.resource and state.resource.replace("_", " ")
    if state.limit is None:
        quota = f"quota of {resource}" if resource else "quota"
    else:
        quota = f"quota of {plain(state.limit)}" + (f" {resource}" if resource else "")
    used = "" if state.used is None else f": {plain(state.used)} used"
    anew = "" if state.resets_at is None else f" It starts anew at {_written(state.resets_at)}."
    return (
        f"The billing service says that this team's {quota} is used up{used}.{anew}"
        " Whoever handles the team's billing can raise it."
    )


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _limit(state: QuotaState, product: str) -> dict[str, Any]:
    """The limit that was reached; amounts are strings, which keep every digit."""
    return {
        "resource": state.resource or "external",
        "scope": "team",
        "product": product,
        "used": None if state.used is None else plain(state.used),
        "reserved": None,
        "limit": None if state.limit is None else plain(state.limit),
        "limited": state.limited,
        "resets_at": state.resets_at,
        "source": "external",
    }
