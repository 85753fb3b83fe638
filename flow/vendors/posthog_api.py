"""PostHog's REST API of one project, with a personal API key: its dashboards and insights.

Not where events go, and another key. See https://posthog.com/docs/api. Things are found again by
text in their descriptions: tags are lost without a word where the plan has none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from flow.errors import ConfigurationError, FlowError, NotFound, Refused, Unavailable
from flow.kit.tls import trusted

MAX_TEXT = 400
"""The most characters that a name or an insight's description has (PostHog's OpenAPI)."""

PAGE_SIZE = 100
TIME_LIMIT_SECS = 30.0
LONGEST_WAIT_SECS = 60.0
MAX_WAITED_SECS = 300.0
DEFAULT_WAIT_SECS = 5.0

T = TypeVar("T", bound=BaseModel)
M = TypeVar("M", bound=BaseModel)

_CLOUD = re.compile(r"(us|eu)(\.i)?\.posthog\.com")
_SCOPE = re.compile(r"required scope '([a-z_]+:[a-z]+)'")
_ITEM = re.compile(r"/(dashboard|insight)s/([0-9]+)/")
_NO_DETAIL = "it does not say why."
_KEYS = "in PostHog under Settings, Personal API keys"


def api_host(ingestion_host: str) -> str:
    """Where PostHog's REST API and pages are, by the host that events are sent to.

    PostHog's cloud has a host of its own for events (``us.i.posthog.com``); any other is both.
    """
    host = urlsplit(ingestion_host).hostname or ""
    if host == "app.posthog.com":
        return "https://us.posthog.com"
    if found := _CLOUD.fullmatch(host):
        return f"https://{found[1]}.posthog.com"
    return ingestion_host.rstrip("/")


class Dashboard(BaseModel):
    """A dashboard, without its tiles."""

    id: int
    name: str | None
    description: str | None


class Insight(Dashboard):
    """A saved query; ``dashboards`` are the ids of those that it is a tile of."""

    dashboards: tuple[int, ...] = ()


class _Tile(BaseModel):
    insight: Insight | None = None


class _Tiled(BaseModel):
    tiles: tuple[_Tile, ...]


class _Page(BaseModel, Generic[T]):
    results: tuple[T, ...]
    next: str | None


class PosthogProject:
    """One project. Close it with `aclose`.

    Reading may be repeated and writing is not: what becomes of a request that was not answered is
    seen when it is looked for again. A rate limit is waited for, for five minutes in all.

    Args:
        personal_key: ``phx_...``, with the scopes ``dashboard:write`` and ``insight:write``.
        project_id: its number, as in the addresses of its pages.
        host: see `api_host`.
        sleep: waits for a number of seconds.

    Every method may raise:
        Refused: ``posthog_key_unknown``, ``posthog_scope_missing`` (which it names) or
            ``posthog_access_denied``.
        ConfigurationError: there is no such project, or no PostHog.
        NotFound: the dashboard or insight is gone.
        Unavailable: PostHog cannot be reached, fails, or limits for too long.
        FlowError: PostHog does not take a request, and why.
    """

    def __init__(
        self,
        personal_key: str,
        project_id: int,
        host: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        time_limit_secs: float = TIME_LIMIT_SECS,
    ) -> None:
        self._project_id = project_id
        self._host = host
        self._sleep = sleep
        self._waited_secs = 0.0
        # No redirects: the key goes to the host it is meant for.
        self._http = httpx.AsyncClient(
            base_url=f"{host}/api/projects/{project_id}",
            headers={"authorization": f"Bearer {personal_key}"},
            timeout=time_limit_secs,
            verify=trusted(),
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def url_of(self, dashboard_id: int) -> str:
        """The page of a dashboard."""
        return f"{self._host}/project/{self._project_id}/dashboard/{dashboard_id}"

    async def list_dashboards(self) -> list[Dashboard]:
        """Every dashboard that is not deleted."""
        return await self._pages(_Page[Dashboard], "/dashboards/", {})

    async def insights_of(self, dashboard_id: int) -> list[Insight]:
        """The insights among a dashboard's tiles."""
        found = await self._request(_Tiled, "GET", f"/dashboards/{dashboard_id}/")
        return [tile.insight for tile in found.tiles if tile.insight is not None]

    async def find_insights(self, text: str) -> list[Insight]:
        """The insights, on dashboards or not, that have a text in their description."""
        # PostHog seeks in names and tags as well, and without regard to case.
        query = {"search": text, "basic": "true"}
        found = await self._pages(_Page[Insight], "/insights/", query)
        return [insight for insight in found if text in (insight.description or "")]

    async def create_dashboard(self, fields: Mapping[str, Any]) -> Dashboard:
        """Make a dashboard of ``name``, ``description``, ``pinned`` and ``tags``."""
        return await self._request(Dashboard, "POST", "/dashboards/", fields)

    async def change_dashboard(self, dashboard_id: int, fields: Mapping[str, Any]) -> None:
        """Change some fields of a dashboard."""
        await self._request(Dashboard, "PATCH", f"/dashboards/{dashboard_id}/", fields)

    async def create_insight(self, fields: Mapping[str, Any]) -> None:
        """Make an insight of ``name``, ``description``, ``query`` and ``dashboards`` (their ids;
        PostHog calls that field deprecated, and no other can be written)."""
        await self._request(Insight, "POST", "/insights/", fields)

    async def change_insight(self, insight_id: int, fields: Mapping[str, Any]) -> None:
        """Change some fields of an insight; ``deleted`` removes it from every dashboard."""
        await self._request(Insight, "PATCH", f"/insights/{insight_id}/", fields)

    async def _pages(self, page: type[_Page[T]], path: str, query: Mapping[str, str]) -> list[T]:
        found: list[T] = []
        while True:
            asked = {**query, "limit": PAGE_SIZE, "offset": len(found)}
            read = await self._request(page, "GET", path, query=asked)
            found += read.results
            # The address of the next page is not followed: it may be anybody's.
            if not read.next or not read.results:
                return found

    async def _request(
        self,
        model: type[M],
        method: str,
        path: str,
        fields: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> M:
        while True:
            try:
                response = await self._http.request(method, path, json=fields, params=query)
            except httpx.HTTPError as error:
                raise Unavailable(
                    f"PostHog at {self._host} did not answer ({type(error).__name__}). What was"
                    " done so far stays: do it again for the rest."
                ) from None
            if response.status_code != 429:
                return self._answer(model, path, response)
            await self._wait(response)

    async def _wait(self, response: httpx.Response) -> None:
        try:
            asked = float(response.headers.get("retry-after", ""))
        except ValueError:
            asked = DEFAULT_WAIT_SECS
        seconds = max(asked, 1.0)
        if not seconds <= LONGEST_WAIT_SECS or self._waited_secs + seconds > MAX_WAITED_SECS:
            raise Unavailable(
                f"PostHog limits requests and asks to wait {seconds:.0f} s. What was done so far"
                " stays: do it again later for the rest."
            )
        self._waited_secs += seconds
        await self._sleep(seconds)

    def _answer(self, model: type[M], path: str, response: httpx.Response) -> M:
        if not response.is_success:
            raise self._error(path, response)
        try:
            return model.model_validate_json(response.content)
        except ValidationError:
            raise Unavailable(f"What answers at {self._host} is not PostHog's API.") from None

    def _error(self, path: str, response: httpx.Response) -> FlowError:
        status, detail = response.status_code, _detail(response)
        if status == 401:
            return Refused(
                "posthog_key_unknown",
                "PostHog does not know the key in POSTHOG_PERSONAL_API_KEY: make a personal API"
                f" key (phx_...) {_KEYS}.",
            )
        if status == 403 and (scope := _SCOPE.search(detail)):
            return Refused(
                "posthog_scope_missing",
                f"The key in POSTHOG_PERSONAL_API_KEY lacks the scope {scope[1]}: add it {_KEYS}.",
            )
        if status == 403:
            return Refused(
                "posthog_access_denied",
                "The key in POSTHOG_PERSONAL_API_KEY may not do this in project"
                f" {self._project_id}: {detail}",
            )
        if status == 404 and (item := _ITEM.fullmatch(path)):
            return NotFound(
                f"PostHog has no {item[1]} {item[2]} in project {self._project_id}: somebody has"
                " deleted it meanwhile. What was done so far stays: do it again for the rest."
            )
        if status == 404 and detail == _NO_DETAIL:
            return ConfigurationError(
                f"What answers at {self._host} is not PostHog's API (HTTP 404): set POSTHOG_HOST to"
                " the address of its pages."
            )
        if status == 404:
            return ConfigurationError(
                f"PostHog at {self._host} has no project {self._project_id} for this key: set"
                " POSTHOG_PROJECT_ID to the number in the address of its pages, and POSTHOG_HOST"
                " to its region."
            )
        if status >= 500 or status < 400:
            return Unavailable(
                f"PostHog at {self._host} failed (HTTP {status}). What was done so far stays: do it"
                " again for the rest."
            )
        return FlowError(f"PostHog does not take a request (HTTP {status}): {detail}")


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
        attr = f"{body['attr']}: " if body.get("attr") else ""
        return f"{attr}{body['detail']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return _NO_DETAIL
