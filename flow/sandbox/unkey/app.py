"""A stand-in for Unkey's API, version 2: verifying keys, and managing them."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of
from flow.sandbox.unkey.keys import Key, Ratelimit, hash_of, verify
from flow.sandbox.unkey.wire import (
    CreateKey,
    LimitGiven,
    NamedKey,
    UpdateKey,
    VerifyKey,
    details,
    problem,
)

ROOT_KEY = "sandbox_root_key"
API_IDS = frozenset({"api_sandbox", "api_1"})
KEPT_VERIFICATIONS = 10_000


@dataclass(frozen=True, slots=True)
class Verification:
    """One verification: what was asked, by its hash alone, and the verdict."""

    request_id: str
    key_hash: str
    key_id: str | None
    code: str
    cost: int


class UnkeySandbox(StandIn):
    """The app; an SDK takes its URL as ``server_url`` and ``root_key`` as its root key.

    ``may_verify=False`` plays a root key without that permission. ``now_ms`` is the clock.
    """

    def __init__(
        self,
        *,
        root_key: str = ROOT_KEY,
        may_verify: bool = True,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.verifications: deque[Verification] = deque(maxlen=KEPT_VERIFICATIONS)
        self._keys: dict[str, Key] = {}
        self._by_hash: dict[str, Key] = {}
        self._root_key = root_key
        self._may_verify = may_verify
        self._now_ms = now_ms
        calls = {
            "keys.verifyKey": self._verify,
            "keys.createKey": self._create,
            "keys.getKey": self._get,
            "keys.updateKey": self._update,
            "keys.deleteKey": self._delete,
        }
        routes = [
            Route(f"/v2/{name}", self._guarded(call), methods=["POST"])
            for name, call in calls.items()
        ]
        listing = Route(f"{OWN_PAGES}/verifications", self._list_verifications)
        super().__init__([*routes, listing], problem)

    def add_key(
        self,
        secret: str,
        *,
        name: str | None = None,
        team_id: str | None = None,
        meta: dict[str, Any] | None = None,
        enabled: bool = True,
        expires: int | None = None,
        credits: int | None = None,  # noqa: A002 - Unkey's own word
        permissions: Sequence[str] = (),
        roles: Sequence[str] = (),
        ratelimits: Sequence[Ratelimit] = (),
    ) -> str:
        """Add a key and return its id. ``team_id`` becomes its identity's external id;
        ``expires`` is in Unix milliseconds.

        Raises:
            ValueError: there is a key with this secret.
        """
        if hash_of(secret) in self._by_hash:
            raise ValueError("there is a key with this secret already")
        key = Key(
            # The same secret is the same key wherever and whenever the stand-in runs.
            id=f"key_{hash_of(secret)[:16]}",
            hash=hash_of(secret),
            start=secret[:4],
            created_at=self._now_ms(),
            name=name,
            external_id=team_id,
            meta=meta,
            enabled=enabled,
            expires=expires,
            credits=credits,
            permissions=list(permissions),
            roles=list(roles),
            ratelimits=list(ratelimits),
        )
        self._keys[key.id] = self._by_hash[key.hash] = key
        return key.id

    def key(self, key_id: str) -> Key:
        """The key as it is kept; change it to disable, expire or forbid it, or set its credits.

        Raises:
            KeyError: there is none with this id.
        """
        return self._keys[key_id]

    def remove_key(self, key_id: str) -> None:
        """Revoke a key: from now on nothing is found for its secret."""
        del self._by_hash[self._keys.pop(key_id).hash]

    def _guarded(self, call: _Call) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            request_id = exchange_of(request).request_id
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not key:
                return problem(400, "Authorization header is missing or malformed.", request_id)
            if not secrets.compare_digest(key.encode(), self._root_key.encode()):
                return problem(401, "The root key is not known.", request_id)
            try:
                data = call(await request.body(), request_id)
            except ValidationError as error:
                return problem(400, "The request is not valid.", request_id, details(error))
            except ValueError as error:
                return problem(400, str(error), request_id)
            except KeyError:
                return problem(404, "The key does not exist.", request_id)
            except LookupError as error:
                return problem(404, str(error), request_id)
            except PermissionError as error:
                return problem(403, str(error), request_id)
            return JSONResponse({"meta": {"requestId": request_id}, "data": data})

        return serve

    def _verify(self, body: bytes, request_id: str) -> dict[str, Any]:
        if not self._may_verify:
            raise PermissionError("The root key lacks the permission 'api.*.verify_key'.")
        asked = VerifyKey.model_validate_json(body)
        key = self._by_hash.get(hash_of(asked.key))
        verdict = verify(key, asked.model_dump(exclude_none=True), self._now_ms())
        self.verifications.append(
            Verification(
                request_id=request_id,
                key_hash=hash_of(asked.key),
                key_id=verdict.get("keyId"),
                code=verdict["code"],
                cost=1 if asked.credits is None else asked.credits.cost,
            )
        )
        return verdict

    def _create(self, body: bytes, _request_id: str) -> dict[str, Any]:
        asked = CreateKey.model_validate_json(body)
        if asked.api_id not in API_IDS:
            raise LookupError("The API does not exist.")
        prefix = f"{asked.prefix}_" if asked.prefix else ""
        secret = prefix + secrets.token_urlsafe(asked.byte_length)
        key_id = self.add_key(
            secret,
            name=asked.name,
            team_id=asked.external_id,
            meta=asked.meta,
            enabled=asked.enabled,
            expires=asked.expires,
            credits=asked.credits.remaining if asked.credits else None,
            permissions=asked.permissions,
            roles=asked.roles,
            ratelimits=_ratelimits(asked.ratelimits),
        )
        return {"keyId": key_id, "key": secret}

    def _get(self, body: bytes, _request_id: str) -> dict[str, Any]:
        key = self.key(NamedKey.model_validate_json(body).key_id)
        told = {
            "start": key.start,
            "createdAt": key.created_at,
            "updatedAt": key.updated_at,
            "lastUsedAt": key.last_used_at,
            "credits": None if key.credits is None else {"remaining": key.credits},
        }
        return key.describe() | {name: value for name, value in told.items() if value is not None}

    def _update(self, body: bytes, _request_id: str) -> dict[str, Any]:
        asked = UpdateKey.model_validate_json(body)
        key = self.key(asked.key_id)
        for name in asked.model_fields_set - {"key_id", "external_id", "credits", "ratelimits"}:
            setattr(key, name, getattr(asked, name))
        if "external_id" in asked.model_fields_set:
            key.external_id = asked.external_id
        if "credits" in asked.model_fields_set:
            key.credits = asked.credits.remaining if asked.credits else None
        if "ratelimits" in asked.model_fields_set:
            key.ratelimits = _ratelimits(asked.ratelimits)
        key.updated_at = self._now_ms()
        return {}

    def _delete(self, body: bytes, _request_id: str) -> dict[str, Any]:
        self.remove_key(NamedKey.model_validate_json(body).key_id)
        return {}

    async def _list_verifications(self, _request: Request) -> Response:
        return JSONResponse([asdict(one) for one in self.verifications])


_Call = Callable[[bytes, str], dict[str, Any]]


def _ratelimits(given: Sequence[LimitGiven] | None) -> list[Ratelimit]:
    return [Ratelimit(one.name, one.limit, one.duration, one.auto_apply) for one in given or []]
