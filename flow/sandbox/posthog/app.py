"""A stand-in for PostHog: it takes events in every way PostHog's SDK sends them, and serves the
REST API of a project (`flow.sandbox.posthog.projects`)."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.posthog.events import BadEvent, Event, read_event
from flow.sandbox.posthog.projects import Projects
from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of

# The stand-in's own; a real one starts with "phc_".
PROJECT_KEY = "sandbox_project_key"

_CAPTURE = ("/batch", "/capture", "/e", "/i/v0/e", "/i/v0/ai/batch")
_CAPTURE_V1 = "/i/v1/analytics/events"

Flag = bool | str
"""On or off, or the variant."""


class PostHogSandbox(StandIn):
    """The app; an SDK takes its URL as ``host`` and ``api_key`` as its project key.

    ``events`` is all that arrived, repeats too; ``unique_events`` what PostHog shows in the end.
    ``flags`` are everybody's; ``flags_of`` has those of one ``distinct_id``, in their place.
    ``projects`` has the dashboards.
    """

    def __init__(
        self, *, api_key: str = PROJECT_KEY, flags: Mapping[str, Flag] | None = None
    ) -> None:
        self.events: list[Event] = []
        self.projects = Projects(lambda: self.unique_events)
        self.flags: dict[str, Flag] = dict(flags or {})
        self.flags_of: dict[str, dict[str, Flag]] = {}
        self._api_key = api_key
        capture, capture_v1 = self._guarded(self._capture), self._guarded(self._capture_v1)
        flags_of_user = self._guarded(self._flags)
        super().__init__(
            [
                *(Route(f"{path}/", capture, methods=["POST"]) for path in _CAPTURE),
                *(Route(path, capture, methods=["POST"]) for path in _CAPTURE),
                Route(_CAPTURE_V1, capture_v1, methods=["POST"]),
                Route("/flags/", flags_of_user, methods=["POST"]),
                Route("/flags", flags_of_user, methods=["POST"]),
                Route("/flags/definitions", self._definitions),
                Route(f"{OWN_PAGES}/events", self._list_events),
                *self.projects.routes,
            ],
            refuse,
        )

    @property
    def unique_events(self) -> list[Event]:
        """One event for each uuid, the last that arrived, in the order of first arrival."""
        return list({event.uuid: event for event in self.events}.values())

    def _guarded(self, take: Callable[[Any, Request], Response]) -> _Handler:
        async def serve(request: Request) -> Response:
            try:
                body = json.loads(_decompressed(request, await request.body()))
            except (ValueError, OSError, EOFError, zlib.error):
                return refuse(400, "The body is not JSON.", exchange_of(request).request_id)
            if self._key_in(body, request) != self._api_key:
                return refuse(401, "The project key is not valid.", exchange_of(request).request_id)
            try:
                return take(body, request)
            except BadEvent as error:
                return refuse(400, str(error), exchange_of(request).request_id)

        return serve

    def _key_in(self, body: Any, request: Request) -> str | None:
        if scheme_and_key := request.headers.get("authorization"):
            return scheme_and_key.removeprefix("Bearer ")
        first = body[0] if isinstance(body, list) and body else body
        if not isinstance(first, dict):
            return None
        found = first.get("api_key") or first.get("token")
        properties = first.get("properties")
        return found or (properties.get("token") if isinstance(properties, dict) else None)

    def _capture(self, body: Any, request: Request) -> Response:
        self._take(body, request)
        return JSONResponse({"status": "Ok"})

    def _capture_v1(self, body: Any, request: Request) -> Response:
        arrived = self._take(body, request)
        return JSONResponse({"results": {event.uuid: {"result": "ok"} for event in arrived}})

    def _take(self, body: Any, request: Request) -> list[Event]:
        """All of a batch or, when one event in it is wrong, none."""
        batch = body.get("batch", [body]) if isinstance(body, dict) else body
        if not isinstance(batch, list):
            raise BadEvent("The batch is not a list.")
        arrived = [read_event(raw, request.url.path) for raw in batch]
        self.events += arrived
        return arrived

    def _flags(self, body: Any, request: Request) -> Response:
        typed = request.query_params.get("v") not in (None, "1", "2", "3")
        said = body if isinstance(body, dict) else {}
        flags = self.flags | self.flags_of.get(str(said.get("distinct_id")), {})
        only = said.get("flag_keys_to_evaluate")
        return JSONResponse(
            {
                "flags": {
                    name: _evaluated(number, name, value, typed=typed)
                    for number, (name, value) in enumerate(flags.items(), 1)
                    if not isinstance(only, list) or name in only
                },
                "errorsWhileComputingFlags": False,
                "requestId": str(uuid4()),
                "evaluatedAt": int(time.time() * 1000),
            }
        )

    async def _definitions(self, request: Request) -> Response:
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return refuse(401, "A personal key is needed.", exchange_of(request).request_id)
        flags = [_definition(n, *flag) for n, flag in enumerate(self.flags.items(), 1)]
        return JSONResponse({"flags": flags, "group_type_mapping": {}, "cohorts": {}})

    async def _list_events(self, request: Request) -> Response:
        unique = request.query_params.get("unique", "").lower() in ("1", "true")
        shown = self.unique_events if unique else self.events
        return JSONResponse([event.to_json() for event in shown])


_Handler = Callable[[Request], Awaitable[Response]]


def _decompressed(request: Request, body: bytes) -> bytes:
    how = request.headers.get("content-encoding") or request.query_params.get("compression") or ""
    if how in ("gzip", "gzip-js"):
        return gzip.decompress(body)
    return zlib.decompress(body) if how == "deflate" else body


def _evaluated(number: int, name: str, value: Flag, *, typed: bool) -> dict[str, Any]:
    """One flag as ``/flags`` answers it: with a typed value from version 4 on."""
    reason = {"code": "condition_match", "condition_index": 0, "description": "Matched set 1"}
    metadata: dict[str, Any] = {"id": number, "version": 1, "description": None, "payload": None}
    if typed:
        metadata["description"] = ""
        return {"key": name, "value": value, "reason": reason, "metadata": metadata}
    variant = value if isinstance(value, str) else None
    return {
        "key": name,
        "enabled": bool(value),
        "variant": variant,
        "reason": reason,
        "metadata": metadata,
    }


def _definition(number: int, name: str, value: Flag) -> dict[str, Any]:
    """One flag for evaluation in the SDK: the same for everybody."""
    filters: dict[str, Any] = {"groups": [{"properties": [], "rollout_percentage": 100}]}
    if isinstance(value, str):
        filters["multivariate"] = {"variants": [{"key": value, "rollout_percentage": 100}]}
    return {
        "id": number,
        "key": name,
        "name": name,
        "active": bool(value),
        "deleted": False,
        "filters": filters,
        "ensure_experience_continuity": False,
    }


def refuse(status: int, detail: str, request_id: str) -> Response:
    """PostHog's error."""
    kind, code = _ERRORS.get(status, ("server_error", "error"))
    body = {"type": kind, "code": code, "detail": detail, "attr": None}
    return JSONResponse(body, status, headers={"x-request-id": request_id})


_ERRORS = {
    400: ("validation_error", "invalid_input"),
    401: ("authentication_error", "authentication_failed"),
    429: ("throttled_error", "throttled"),
}
