"""PostHog's REST API of a project, as a personal API key uses it: dashboards, insights, queries.

From PostHog's OpenAPI description and ``posthog/api/insight.py``. As there, a field that is unknown
or read-only is ignored without a word, tags are lost where the plan has none, a list is paged, and
what is deleted is only marked so.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.posthog.events import Event
from flow.sandbox.posthog.queries import BadQuery, Json, answer
from flow.sandbox.posthog.query_schema import QUERY

# The stand-in's own; a real one starts with "phx_".
PERSONAL_KEY = "sandbox_personal_key"
PROJECT_ID = 12345
MAX_TEXT = 400
ALL_SCOPES = frozenset({"dashboard:write", "insight:write", "query:read"})

_WRITABLE = {
    "dashboard": {"name", "description", "pinned", "deleted", "tags"},
    "insight": {"name", "description", "query", "dashboards", "deleted", "tags", "favorited"},
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": (str, type(None)),
    "description": (str, type(None)),
    "pinned": bool,
    "deleted": bool,
    "favorited": bool,
    "tags": list,
    "dashboards": list,
    "query": (dict, type(None)),
}


class Rejected(Exception):
    """A request that PostHog answers with an error."""

    def __init__(self, status: int, code: str, detail: str, attr: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        kind = {400: "validation_error", 404: "invalid_request"}.get(status, "authentication_error")
        self.body = {"type": kind, "code": code, "detail": detail, "attr": attr}


@dataclass(slots=True)
class Item:
    """A dashboard or an insight. ``shown_on`` are an insight's dashboards, by tile."""

    id: int
    fields: Json
    shown_on: dict[int, int] = field(default_factory=dict)

    @property
    def is_deleted(self) -> bool:
        """Whether it is marked as deleted, and so in no list."""
        return bool(self.fields["deleted"])


class Projects:
    """The project ``project_id`` behind the API.

    ``scopes`` are those of the personal key; ``page_size`` is the most that a page has.
    ``has_tags`` says whether the plan keeps tags. ``ignored`` are the fields that were sent and had
    no effect, as ``dashboard.tiles``.

    Args:
        events: what queries are answered from.
        now: the present.
    """

    def __init__(
        self,
        events: Callable[[], Iterable[Event]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._events = events
        self._now = now
        self._last_id = 100
        self.project_id = PROJECT_ID
        self.scopes = set(ALL_SCOPES)
        self.page_size = 100
        self.has_tags = False
        self.ignored: list[str] = []
        self.dashboards: dict[int, Item] = {}
        self.insights: dict[int, Item] = {}
        root = "/api/projects/{project}"
        self.routes = [
            *self._of("dashboard", f"{root}/dashboards", self.dashboards, self._dashboard),
            *self._of("insight", f"{root}/insights", self.insights, self._insight),
            Route(f"{root}/query/", self._guarded("query:read", self._query), methods=["POST"]),
        ]

    def _of(
        self, kind: str, path: str, items: dict[int, Item], shown: Callable[[Item], Json]
    ) -> list[Route]:
        async def list_(request: Request) -> Json:
            return self._page(request, kind, [i for i in items.values() if not i.is_deleted])

        async def create(request: Request) -> Json:
            item = Item(self._id(), {**_new(kind), "created_at": self._now().isoformat()})
            self._change(kind, item, await _body(request))
            items[item.id] = item
            return shown(item)

        async def read(request: Request) -> Json:
            return shown(_found(request, items))

        async def update(request: Request) -> Json:
            body = await _body(request)
            # What is deleted can be asked for only to have it back.
            item = _found(request, items, deleted_too=body.get("deleted") is False)
            self._change(kind, item, body)
            return shown(item)

        one = f"{path}/{{id:int}}/"
        return [
            Route(f"{path}/", self._guarded(f"{kind}:read", list_), methods=["GET"]),
            Route(f"{path}/", self._guarded(f"{kind}:write", create, 201), methods=["POST"]),
            Route(one, self._guarded(f"{kind}:read", read), methods=["GET"]),
            Route(one, self._guarded(f"{kind}:write", update), methods=["PATCH"]),
        ]

    def _guarded(
        self, scope: str, take: Callable[[Request], Awaitable[Json]], status: int = 200
    ) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            try:
                self._authorize(request, scope)
                return JSONResponse(await take(request), status)
            except Rejected as error:
                return JSONResponse(error.body, error.status)

        return serve

    def _authorize(self, request: Request, scope: str) -> None:
        if request.headers.get("authorization") != f"Bearer {PERSONAL_KEY}":
            raise Rejected(
                401,
                "authentication_failed",
                "Personal API key found in request Authorization header is invalid.",
            )
        if request.path_params["project"] != str(self.project_id):
            raise Rejected(404, "not_found", "Project not found.")
        # The scope to write has that to read in it.
        if not {scope, scope.replace(":read", ":write")} & self.scopes:
            raise Rejected(403, "permission_denied", f"API key missing required scope '{scope}'")

    def _id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _page(self, request: Request, kind: str, items: Sequence[Item]) -> Json:
        asked = request.query_params
        if sought := asked.get("search", "").lower():
            items = [
                item
                for item in items
                if any(sought in str(item.fields[f] or "").lower() for f in ("name", "description"))
            ]
        limit = min(int(asked.get("limit", 100)), self.page_size)
        offset = int(asked.get("offset", 0))
        more = offset + limit < len(items)
        after = request.url.include_query_params(limit=limit, offset=offset + limit)
        shown = self._basic if kind == "dashboard" else self._insight
        return {
            "count": len(items),
            "next": str(after) if more else None,
            "previous": None,
            "results": [shown(item) for item in items[offset : offset + limit]],
        }

    def _change(self, kind: str, item: Item, body: Mapping[str, Any]) -> None:
        # As Django's REST framework does: text has no space at its ends.
        said = {n: v.strip() if isinstance(v, str) else v for n, v in body.items()}
        known = {name: value for name, value in said.items() if name in _WRITABLE[kind]}
        self.ignored += [f"{kind}.{name}" for name in body if name not in known]
        _check(known)
        if not self.has_tags:
            known.pop("tags", None)
        dashboards = known.pop("dashboards", None)
        if dashboards is not None:
            self._show_on(item, dashboards)
        item.fields |= known
        if kind == "insight" and item.is_deleted:
            item.shown_on.clear()
        elif kind == "dashboard" and item.is_deleted:
            for insight in self.insights.values():
                insight.shown_on.pop(item.id, None)

    def _show_on(self, insight: Item, dashboards: Sequence[Any]) -> None:
        for one in dashboards:
            if one not in self.dashboards:
                raise Rejected(
                    400,
                    "does_not_exist",
                    f'Invalid pk "{one}" - object does not exist.',
                    "dashboards",
                )
        wanted = [one for one in dashboards if not self.dashboards[one].is_deleted]
        insight.shown_on = {one: insight.shown_on.get(one) or self._id() for one in wanted}

    def _basic(self, dashboard: Item) -> Json:
        return {"id": dashboard.id, **dashboard.fields, "team_id": self.project_id}

    def _dashboard(self, dashboard: Item) -> Json:
        tiles = [
            {
                "id": insight.shown_on[dashboard.id],
                "insight": self._insight(insight),
                "text": None,
                "layouts": {},
                "color": None,
            }
            for insight in self.insights.values()
            if dashboard.id in insight.shown_on
        ]
        return {**self._basic(dashboard), "filters": {}, "variables": {}, "tiles": tiles}

    def _insight(self, insight: Item) -> Json:
        tiles = [{"id": tile, "dashboard_id": one} for one, tile in insight.shown_on.items()]
        return {
            "id": insight.id,
            "short_id": f"in{insight.id:06}",
            **insight.fields,
            "dashboards": [*insight.shown_on],
            "dashboard_tiles": tiles,
            "result": None,
        }

    async def _query(self, request: Request) -> Json:
        body = await _body(request)
        try:
            return answer(QUERY.validate_python(body.get("query")), self._events(), self._now())
        except (ValidationError, BadQuery) as error:
            raise Rejected(400, "invalid_input", str(error), "query") from None


def _new(kind: str) -> Json:
    common = {"name": "", "description": "", "deleted": False, "tags": []}
    return {**common, **({"pinned": False} if kind == "dashboard" else {"query": None})}


def _check(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if not isinstance(value, _TYPES[name]):
            raise Rejected(400, "invalid_input", "Not a valid value.", name)
        if isinstance(value, str) and len(value) > MAX_TEXT:
            detail = f"Ensure this field has no more than {MAX_TEXT} characters."
            raise Rejected(400, "max_length", detail, name)
    if fields.get("query") is not None:
        try:
            QUERY.validate_python(fields["query"])
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise Rejected(400, "invalid_input", f"{where}: {problem['msg']}", "query") from None


def _found(request: Request, items: Mapping[int, Item], *, deleted_too: bool = False) -> Item:
    item = items.get(request.path_params["id"])
    if item is None or (item.is_deleted and not deleted_too):
        raise Rejected(404, "not_found", "Not found.")
    return item


async def _body(request: Request) -> Json:
    try:
        body = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Rejected(400, "parse_error", "JSON parse error")
    return body
