"""A stand-in for Supabase Storage: one private bucket, behind ``/storage/v1`` of a project's URL.

Routes, fields and errors are those of supabase/storage's REST API.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.stand_in import StandIn
from flow.sandbox.storage.ranges import ranged

SERVICE_KEY = "sandbox_service_role_key_not_a_secret"
BUCKET = "recordings"
_BASE = "/storage/v1/object"


class SupabaseStorageSandbox(StandIn):
    """The app. ``objects`` are what is stored, by name; ``types`` their content types."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self._links: dict[str, tuple[str, float]] = {}
        self._now = now
        methods = ["GET", "POST", "PUT", "DELETE"]
        super().__init__(
            [
                Route(f"{_BASE}/sign/{{bucket}}/{{name:path}}", self._sign, methods=["POST"]),
                Route(f"{_BASE}/sign/{{bucket}}/{{name:path}}", self._read_by_link),
                Route(f"{_BASE}/{{bucket}}", self._remove, methods=["DELETE"]),
                Route(f"{_BASE}/{{bucket}}/{{name:path}}", self._serve_object, methods=methods),
            ],
            lambda status, message, _: _error(status, "internal", message),
        )

    async def _serve_object(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        name = request.path_params["name"]
        if request.method == "GET":
            if name not in self.objects:
                return _error(404, "not_found", "Object not found")
            return ranged(request, self.objects[name], self.types[name])
        if name in self.objects and request.headers.get("x-upsert") != "true":
            return _error(409, "Duplicate", "The resource already exists")
        self.objects[name] = await request.body()
        self.types[name] = request.headers.get("content-type", "")
        return JSONResponse({"Key": f"{BUCKET}/{name}", "Id": secrets.token_hex(16)})

    async def _remove(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        names = [n for n in (await _json(request))["prefixes"] if n in self.objects]
        for name in names:
            del self.objects[name]
        return JSONResponse([{"name": name, "bucket_id": BUCKET} for name in names])

    async def _sign(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        name = request.path_params["name"]
        if name not in self.objects:
            return _error(404, "not_found", "Object not found")
        token = secrets.token_urlsafe(24)
        lasts = int((await _json(request))["expiresIn"])
        self._links[token] = (name, self._now().timestamp() + lasts)
        return JSONResponse({"signedURL": f"/object/sign/{BUCKET}/{quote(name)}?token={token}"})

    async def _read_by_link(self, request: Request) -> Response:
        name, until = self._links.get(request.query_params.get("token", ""), ("", 0.0))
        if name != request.path_params["name"] or self._now().timestamp() >= until:
            return _error(400, "InvalidJWT", "jwt expired")
        if name not in self.objects:
            return _error(404, "not_found", "Object not found")
        return ranged(request, self.objects[name], self.types[name])

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {SERVICE_KEY}":
            return _error(403, "Unauthorized", "new row violates row-level security policy")
        if request.path_params["bucket"] != BUCKET:
            return _error(404, "Bucket not found", "Bucket not found")
        return None


async def _json(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await request.body())
    return found


def _error(status: int, error: str, message: str) -> Response:
    # The service says 400 in the head of most answers, and what it means in the body.
    body = {"statusCode": str(status), "error": error, "message": message}
    return JSONResponse(body, status if status >= 500 else 400)
