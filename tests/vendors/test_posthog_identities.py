"""What PostHog calls a key and its team, over the real SDK."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast
from uuid import UUID

from posthog import Posthog
from pydantic import SecretStr

from flow.domain.limits.api_key import ApiKey
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from flow.sandbox.server import Served
from flow.vendors.posthog import get_posthog_client, shutdown_posthog
from flow.vendors.posthog_identities import PosthogIdentities

KEY = ApiKey(UUID(int=2), "key_unkey", "acme", "support line")
NAMELESS = ApiKey(UUID(int=3), "key_other", "acme", None)


async def test_a_key_and_its_team_are_described_once_and_again_when_they_change():
    app = PostHogSandbox()
    async with Served(app) as url:
        client = get_posthog_client(SecretStr(PROJECT_KEY), url)
        told = PosthogIdentities(client)
        for key in (KEY, KEY, NAMELESS, replace(KEY, name="sales"), replace(KEY, team_id="other")):
            told(key)
        assert await shutdown_posthog(client)
    persons = [event for event in app.events if event.name == "$set"]
    assert [(event.distinct_id, event.properties["$set"]) for event in persons] == [
        (str(KEY.id), said(KEY, "support line")),
        (str(NAMELESS.id), said(NAMELESS, "key_other")),
        (str(KEY.id), said(KEY, "sales")),
        (str(KEY.id), said(KEY, "support line", team="other")),
    ]
    groups = [event.properties for event in app.events if event.name == "$groupidentify"]
    assert [(one["$group_type"], one["$group_key"], one["$group_set"]) for one in groups] == [
        ("team", "acme", {"name": "acme"}),
        ("team", "other", {"name": "other"}),
    ]


async def test_what_was_dropped_is_told_with_the_next_request():
    class Full:
        """A client whose queue is full at first."""

        def __init__(self) -> None:
            self.asked: list[str] = []

        def capture(self, event: str, **_: Any) -> str | None:
            self.asked.append(event)
            return "queued" if len(self.asked) > 2 else None

    client = Full()
    told = PosthogIdentities(cast(Posthog, client))
    for _ in range(3):
        told(KEY)
    assert client.asked == ["$set", "$groupidentify"] * 2


async def test_without_posthog_nobody_is_told():
    PosthogIdentities(None)(KEY)


def said(key: ApiKey, name: str, team: str | None = None) -> dict[str, str]:
    return {"name": name, "unkey_key_id": key.unkey_key_id, "team_id": team or key.team_id}
