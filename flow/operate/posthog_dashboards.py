"""Flow's dashboards at PostHog, made and kept up to date.

Each dashboard and each tile has a marker as the last line of its description, by which it is found
again. The marker has digests of what was written, so that a second run changes nothing, what a
person renamed keeps its name, and what has no marker is left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flow.domain.limits.api_key import ApiKey
from flow.domain.usage.posthog_dashboards import Query, Tile, tiles
from flow.vendors.posthog_api import MAX_TEXT, Dashboard, Insight, PosthogProject

OVER_ALL_KEYS = "all"
REMOVED = "removed"
State = Literal["created", "updated", "unchanged"]

_CREATED: State = "created"
_UPDATED: State = "updated"
_UNCHANGED: State = "unchanged"

_MARKER = re.compile(
    r"\[flow:(?P<id>dashboard [\w-]+|tile [\w-]+/[\w-]+) v=(?P<version>\w+) name=(?P<name>\w+)\]"
)


@dataclass(frozen=True, slots=True)
class WantedDashboard:
    """A dashboard as it is to be; ``scope`` is ``all`` or the id of a key."""

    scope: str
    name: str
    description: str
    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True)
class ProvisionedDashboard:
    """What became of a dashboard, or would: ``tiles`` counts what was ``created``, ``updated``,
    ``removed`` or left ``unchanged``. Without a ``url`` it is not there yet."""

    scope: str
    name: str
    url: str | None
    state: State
    tiles: Mapping[str, int]


def dashboard_over_all_keys() -> WantedDashboard:
    """The dashboard of the whole service."""
    return WantedDashboard(
        OVER_ALL_KEYS, "Flow: all keys", "What all keys of Flow use and cost.", tiles()
    )


def dashboard_of(key: ApiKey) -> WantedDashboard:
    """A key's own dashboard."""
    called = (key.name or key.unkey_key_id).strip()
    said = f"What the key {called} ({key.unkey_key_id}) of team {key.team_id} uses and costs."
    return WantedDashboard(str(key.id), f"Flow: {called}"[:MAX_TEXT].strip(), said, tiles(key.id))


async def provision(
    project: PosthogProject, wanted: Iterable[WantedDashboard], *, dry_run: bool = False
) -> list[ProvisionedDashboard]:
    """Make what is missing and change what is not as wanted; with ``dry_run``, only say so.

    Whatever an error leaves undone, the next run does: nothing is made twice.

    Raises:
        FlowError: what `PosthogProject` raises.
    """
    present: dict[str, Dashboard] = {}
    for dashboard in sorted(await project.list_dashboards(), key=lambda one: one.id):
        if (marker := _marker(dashboard.description)) is not None:
            present.setdefault(marker["id"], dashboard)
    return [
        await _Provisioning(project, one, dry_run=dry_run).run(
            present.get(f"dashboard {one.scope}")
        )
        for one in wanted
    ]


class _Provisioning:
    """The work on one dashboard."""

    def __init__(self, project: PosthogProject, wanted: WantedDashboard, *, dry_run: bool) -> None:
        self._project = project
        self._wanted = wanted
        self._writes = not dry_run
        self._done: Counter[str] = Counter()

    async def run(self, present: Dashboard | None) -> ProvisionedDashboard:
        wanted, project = self._wanted, self._project
        fields = _fields(f"dashboard {wanted.scope}", wanted.name, wanted.description)
        dashboard, state = present, _UNCHANGED
        if present is None:
            state = _CREATED
            # PostHog keeps tags only where the plan has them: they are for people.
            new = {**fields, "pinned": wanted.scope == OVER_ALL_KEYS, "tags": ["flow"]}
            dashboard = await project.create_dashboard(new) if self._writes else None
        elif changed := _changes(present, fields):
            state = _UPDATED
            if self._writes:
                await project.change_dashboard(present.id, changed)
        await self._tiles(dashboard, is_new=present is None)
        if state == _UNCHANGED and set(self._done) - {_UNCHANGED}:
            state = _UPDATED
        return ProvisionedDashboard(
            scope=wanted.scope,
            name=wanted.name if present is None else _name(present, fields),
            url=None if dashboard is None else project.url_of(dashboard.id),
            state=state,
            tiles=dict(self._done),
        )

    async def _tiles(self, dashboard: Dashboard | None, *, is_new: bool) -> None:
        there = [] if is_new or dashboard is None else await self._insights_of(dashboard)
        by_slug = dict(reversed(there))
        slugs = [tile.slug for tile in self._wanted.tiles]
        loose = {} if set(slugs) <= set(by_slug) else await self._loose_insights()
        for tile in self._wanted.tiles:
            insight = by_slug.get(tile.slug)
            await self._tile(tile, dashboard, insight, loose.get(tile.slug))
        for slug, insight in there:
            if slug not in slugs and dashboard is not None:
                await self._remove(insight, dashboard)

    async def _tile(
        self,
        tile: Tile,
        dashboard: Dashboard | None,
        insight: Insight | None,
        loose: Insight | None,
    ) -> None:
        fields = _fields(
            f"tile {self._wanted.scope}/{tile.slug}", tile.name, tile.description, tile.query
        )
        found = insight or loose
        changed = fields if found is None else _changes(found, fields)
        if insight is None:
            changed["dashboards"] = [] if dashboard is None else [dashboard.id]
        self._done[_CREATED if found is None else _UPDATED if changed else _UNCHANGED] += 1
        if not self._writes or not changed:
            return
        if found is None:
            await self._project.create_insight(changed)
        else:
            await self._project.change_insight(found.id, changed)

    async def _insights_of(self, dashboard: Dashboard) -> list[tuple[str, Insight]]:
        """The tiles with this dashboard's marker, by slug and age. A person's copy of a tile has
        its marker as well, and is younger."""
        found = await self._project.insights_of(dashboard.id)
        return self._marked(found)

    async def _loose_insights(self) -> dict[str, Insight]:
        """Tiles of this dashboard that are on none: somebody took them off, or deleted it."""
        found = await self._project.find_insights(f"[flow:tile {self._wanted.scope}/")
        return dict(reversed(self._marked(one for one in found if not one.dashboards)))

    def _marked(self, insights: Iterable[Insight]) -> list[tuple[str, Insight]]:
        prefix, found = f"tile {self._wanted.scope}/", []
        for insight in sorted(insights, key=lambda one: one.id):
            marker = _marker(insight.description)
            if marker is not None and marker["id"].startswith(prefix):
                found.append((marker["id"].removeprefix(prefix), insight))
        return found

    async def _remove(self, insight: Insight, dashboard: Dashboard) -> None:
        """Delete a tile that Flow has no more, unless a person has put it somewhere else too."""
        self._done[REMOVED] += 1
        if not self._writes:
            return
        others = [one for one in insight.dashboards if one != dashboard.id]
        gone: dict[str, Any] = {"dashboards": others} if others else {"deleted": True}
        await self._project.change_insight(insight.id, gone)


def _fields(marked: str, name: str, description: str, query: Query | None = None) -> dict[str, Any]:
    """What is written of a dashboard, or of a tile with its ``query``."""
    version = _digest([name, description, query])
    marker = f"\n[flow:{marked} v={version} name={_digest(name)}]"
    fields = {"name": name, "description": description[: MAX_TEXT - len(marker)] + marker}
    return fields if query is None else {**fields, "query": query}


def _changes(present: Dashboard, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What to write of ``fields`` where something else was written before."""
    was, is_to_be = _marker(present.description), _marker(fields["description"])
    if was is None or is_to_be is None or was["version"] == is_to_be["version"]:
        return {}
    return {**fields, "name": _name(present, fields)}


def _name(present: Dashboard, fields: Mapping[str, Any]) -> str:
    """The name to be: that which a person gave it, if one did."""
    marker, name = _marker(present.description), present.name or ""
    is_ours = marker is not None and marker["name"] == _digest(name)
    return fields["name"] if is_ours else name


def _marker(description: str | None) -> re.Match[str] | None:
    found = list(_MARKER.finditer(description or ""))
    return found[-1] if found else None  # a key's name is before it, and may look like one


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
