"""Keys as Unkey keeps them, and the verdict on a key that is presented."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(slots=True)
class Ratelimit:
    """So many verifications in ``duration`` ms. One that is not ``auto_apply`` is checked only
    when the request names it."""

    name: str
    limit: int
    duration: int
    auto_apply: bool = True
    id: str = field(default_factory=lambda: f"rl_{uuid4().hex[:16]}")
    window: int = -1
    used: int = 0

    def take(self, now_ms: int, cost: int = 1) -> dict[str, Any]:
        """Count a verification in the window ``now_ms`` is in, unless it is full."""
        window = now_ms // self.duration
        if window != self.window:
            self.window, self.used = window, 0
        exceeded = self.used + cost > self.limit
        self.used += 0 if exceeded else cost
        return {
            "exceeded": exceeded,
            "id": self.id,
            "name": self.name,
            "limit": self.limit,
            "duration": self.duration,
            "reset": (window + 1) * self.duration,
            "remaining": max(self.limit - self.used, 0),
            "autoApply": self.auto_apply,
        }


@dataclass(slots=True)
class Key:
    """A key without its secret, of which only a hash is kept. ``expires`` is in Unix ms."""

    id: str
    hash: str
    start: str
    created_at: int
    name: str | None = None
    external_id: str | None = None
    meta: dict[str, Any] | None = None
    enabled: bool = True
    forbidden: bool = False
    expires: int | None = None
    credits: int | None = None
    permissions: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    ratelimits: list[Ratelimit] = field(default_factory=list)
    updated_at: int | None = None
    last_used_at: int | None = None

    def describe(self) -> dict[str, Any]:
        """What verifications and look-ups both tell about the key; nothing for what is unset."""
        identity = None
        if self.external_id is not None:
            identity = {
                "id": f"id_{hash_of(self.external_id)[:16]}",
                "externalId": self.external_id,
            }
        told = {
            "keyId": self.id,
            "name": self.name,
            "meta": self.meta,
            "expires": self.expires,
            "enabled": self.enabled,
            "permissions": self.permissions or None,
            "roles": self.roles or None,
            "identity": identity,
        }
        return {name: value for name, value in told.items() if value is not None}


def hash_of(secret: str) -> str:
    """How a secret is remembered: its SHA-256, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def verify(key: Key | None, request: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """The verdict: ``data`` of ``keys.verifyKey``.

    The checks come in Unkey's order, and only a key that passes all others pays: omitting
    ``credits`` costs one, ``{"cost": 0}`` costs none.

    Raises:
        ValueError: the permission query cannot be read.
    """
    if key is None:
        return {"valid": False, "code": "NOT_FOUND"}
    limits: list[dict[str, Any]] = []
    code = _standing(key, now_ms) or _permitted(key, request.get("permissions"))
    if code is None:
        limits = _take_limits(key, request.get("ratelimits") or [], now_ms)
        code = "RATE_LIMITED" if any(limit["exceeded"] for limit in limits) else _pay(key, request)
    key.last_used_at = now_ms
    verdict: dict[str, Any] = {"valid": code is None, "code": code or "VALID", **key.describe()}
    if key.credits is not None:
        verdict["credits"] = key.credits
    if limits:
        verdict["ratelimits"] = limits
    return verdict


def _standing(key: Key, now_ms: int) -> str | None:
    if not key.enabled:
        return "DISABLED"
    if key.expires is not None and key.expires <= now_ms:
        return "EXPIRED"
    return "FORBIDDEN" if key.forbidden else None


def _permitted(key: Key, query: str | None) -> str | None:
    if not query or _Query(query, key.permissions).holds():
        return None
    return "INSUFFICIENT_PERMISSIONS"


def _take_limits(key: Key, asked: Sequence[Mapping[str, Any]], now_ms: int) -> list[dict[str, Any]]:
    costs = {limit["name"]: limit.get("cost", 1) for limit in asked}
    own = [limit for limit in key.ratelimits if limit.auto_apply or limit.name in costs]
    return [limit.take(now_ms, costs.get(limit.name, 1)) for limit in own]


def _pay(key: Key, request: Mapping[str, Any]) -> str | None:
    cost = (request.get("credits") or {}).get("cost", 1)
    if key.credits is None:
        return None
    if key.credits < cost:
        return "USAGE_EXCEEDED"
    key.credits -= cost
    return None


class _Query:
    """A permission query: names joined by AND (which binds closer), OR and parentheses."""

    def __init__(self, text: str, held: Sequence[str]) -> None:
        self._words = re.findall(r"[()]|[^\s()]+", text)
        self._held = held

    def holds(self) -> bool:
        result = self._either()
        if self._words:
            raise ValueError(f"unexpected {self._words[0]!r} in the permission query")
        return result

    def _either(self) -> bool:
        result = self._both()
        while self._next_is("OR"):
            result = self._both() or result
        return result

    def _both(self) -> bool:
        result = self._one()
        while self._next_is("AND"):
            result = self._one() and result
        return result

    def _one(self) -> bool:
        if self._next_is("("):
            result = self._either()
            if not self._next_is(")"):
                raise ValueError("a parenthesis is not closed in the permission query")
            return result
        if not self._words or self._words[0].upper() in ("AND", "OR", ")"):
            raise ValueError("a permission is missing in the permission query")
        return self._words.pop(0) in self._held

    def _next_is(self, word: str) -> bool:
        found = bool(self._words) and self._words[0].upper() == word
        if found:
            self._words.pop(0)
        return found
