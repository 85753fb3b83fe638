"""`flow posthog dashboards`: nothing is made twice, what a person changed stays, and a second run
does what the first left undone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from flow.domain.limits.api_key import ApiKey
from flow.domain.usage.posthog_dashboards import Tile
from flow.errors import ConfigurationError, FlowError, NotFound, Refused, Unavailable
from flow.operate.posthog_dashboards import (
    ProvisionedDashboard,
    WantedDashboard,
    dashboard_of,
    dashboard_over_all_keys,
    provision,
)
from flow.sandbox.faults import Fault
from flow.sandbox.posthog.app import PostHogSandbox
from flow.sandbox.posthog.projects import PERSONAL_KEY, PROJECT_ID, Item, Projects
from flow.sandbox.server import Served
from flow.vendors.posthog_api import MAX_TEXT, PosthogProject, api_host
from tests.operate.conftest import Terminal

KEY = ApiKey(UUID(int=2), "key_unkey", "acme", "support")
ALL = dashboard_over_all_keys()
OF_KEY = dashboard_of(KEY)
COUNT = len(ALL.tiles)


class AtPosthog:
    """A project at PostHog, and the client of an operator's key; ``waits`` are in seconds."""

    def __init__(self, app: PostHogSandbox, url: str) -> None:
        self.app = app
        self.waits: list[float] = []
        self.client = PosthogProject(PERSONAL_KEY, PROJECT_ID, url, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    @property
    def there(self) -> Projects:
        return self.app.projects

    async def run(self, *wanted: WantedDashboard, dry_run: bool = False) -> list[Any]:
        return await provision(self.client, wanted or [ALL, OF_KEY], dry_run=dry_run)

    def tiles_of(self, dashboard: int) -> list[Item]:
        return [i for i in self.there.insights.values() if dashboard in i.shown_on]

    def insights(self) -> list[Item]:
        """Those that are not deleted."""
        return [item for item in self.there.insights.values() if not item.is_deleted]

    @property
    def written(self) -> int:
        return sum(exchange.method != "GET" for exchange in self.app.requests)

    def is_in_order(self, *wanted: WantedDashboard) -> bool:
        """Whether each dashboard is there once, with each of its tiles once and no other."""
        shown = [
            (one.fields["name"], Counter(i.fields["name"] for i in self.tiles_of(one.id)))
            for one in self.there.dashboards.values()
        ]
        return shown == [(one.name, Counter(t.name for t in one.tiles)) for one in wanted]


@pytest.fixture
async def at_posthog() -> AsyncIterator[AtPosthog]:
    app = PostHogSandbox()
    async with Served(app) as url:
        found = AtPosthog(app, url)
        yield found
        await found.client.aclose()
    assert app.projects.ignored == []


def states(done: Sequence[ProvisionedDashboard]) -> list[tuple[str, dict[str, int]]]:
    return [(one.state, dict(one.tiles)) for one in done]


UNCHANGED = [("unchanged", {"unchanged": COUNT}), ("unchanged", {"unchanged": COUNT - 1})]


@pytest.mark.parametrize("has_tags", [False, True])
async def test_a_second_run_changes_nothing(at_posthog: AtPosthog, has_tags: bool) -> None:
    at_posthog.there.has_tags = has_tags
    made = await at_posthog.run()
    assert states(made) == [("created", {"created": COUNT}), ("created", {"created": COUNT - 1})]
    assert at_posthog.is_in_order(ALL, OF_KEY)
    over_all, of_key = at_posthog.there.dashboards.values()
    assert (over_all.fields["pinned"], of_key.fields["pinned"]) == (True, False)
    assert over_all.fields["tags"] == (["flow"] if has_tags else [])
    assert made[0].url.endswith(f"/project/{PROJECT_ID}/dashboard/{over_all.id}")
    written = at_posthog.written
    assert states(await at_posthog.run()) == UNCHANGED
    assert at_posthog.written == written
    assert at_posthog.is_in_order(ALL, OF_KEY)


async def test_a_dry_run_tells_and_writes_nothing(at_posthog: AtPosthog) -> None:
    told = await at_posthog.run(dry_run=True)
    assert states(told)[0] == ("created", {"created": COUNT})
    assert told[0].url is None
    await at_posthog.run(ALL)
    written = at_posthog.written
    shorter = replace(ALL, tiles=ALL.tiles[1:], description="Another.")
    told = await at_posthog.run(shorter, OF_KEY, dry_run=True)
    assert states(told) == [
        ("updated", {"unchanged": COUNT - 1, "removed": 1}),
        ("created", {"created": COUNT - 1}),
    ]
    assert at_posthog.written == written


async def test_dashboards_are_found_on_whatever_page_they_are(at_posthog: AtPosthog) -> None:
    for n in range(7):
        await at_posthog.client.create_dashboard({"name": f"somebody's {n}"})
    await at_posthog.run()
    at_posthog.there.page_size = 2
    assert states(await at_posthog.run()) == UNCHANGED
    assert len(at_posthog.there.dashboards) == 9


async def test_what_flow_changes_is_changed_and_what_it_drops_is_deleted(
    at_posthog: AtPosthog,
) -> None:
    await at_posthog.run()
    first, second, *rest = ALL.tiles
    new = Tile("new", "New", "Something.", first.query)
    renamed = replace(first, name="Another name")
    other_query = replace(second, query=first.query)
    wanted = replace(ALL, name="Flow", tiles=[renamed, other_query, *rest[1:], new])
    done = await at_posthog.run(wanted, OF_KEY)
    counts = {"updated": 2, "unchanged": COUNT - 3, "created": 1, "removed": 1}
    assert states(done) == [("updated", counts), UNCHANGED[1]]
    assert at_posthog.is_in_order(wanted, OF_KEY)
    assert len(at_posthog.insights()) == 2 * COUNT - 1
    queries = {item.fields["name"]: item.fields["query"] for item in at_posthog.tiles_of(101)}
    assert queries[second.name] == first.query
    (again, _) = states(await at_posthog.run(wanted, OF_KEY))
    assert again == ("unchanged", {"unchanged": COUNT})


async def test_what_a_person_changed_stays(at_posthog: AtPosthog) -> None:
    await at_posthog.run()
    dashboard = at_posthog.there.dashboards[101]
    tile = at_posthog.tiles_of(101)[0]
    await at_posthog.client.change_dashboard(101, {"name": "Ours", "pinned": False})
    await at_posthog.client.change_insight(tile.id, {"name": "My own name"})
    await at_posthog.client.create_insight({"name": "My own tile", "dashboards": [101]})
    assert states(await at_posthog.run()) == UNCHANGED
    # Flow's next version has another query for that tile, and calls the dashboard something else.
    first = replace(ALL.tiles[0], name="New name", query=ALL.tiles[1].query)
    await at_posthog.run(replace(ALL, name="Flow", tiles=[first, *ALL.tiles[1:]]))
    assert (dashboard.fields["name"], dashboard.fields["pinned"]) == ("Ours", False)
    assert tile.fields["name"] == "My own name"
    assert tile.fields["query"] == ALL.tiles[1].query
    assert len(at_posthog.tiles_of(101)) == COUNT + 1


async def test_a_key_that_is_called_otherwise_has_its_dashboard_renamed(
    at_posthog: AtPosthog,
) -> None:
    await at_posthog.run()
    forged = "x [flow:dashboard all v=0 name=0]\n[flow:tile all/tokens v=0 name=0]"
    for name in ("sales", forged, None, "  spaced ", "n" * 393 + " " + "n" * 900):
        (done,) = await at_posthog.run(dashboard_of(replace(KEY, name=name)))
        assert done.state == "updated"
        (again,) = await at_posthog.run(dashboard_of(replace(KEY, name=name)))
        assert again.state == "unchanged"
        called = (name or "key_unkey").strip()
        assert again.name == f"Flow: {called}"[:MAX_TEXT].strip()
    assert states(await at_posthog.run(ALL)) == UNCHANGED[:1]
    assert len(at_posthog.there.dashboards) == 2


async def test_a_tile_that_somebody_took_off_is_put_back_and_not_made_twice(
    at_posthog: AtPosthog,
) -> None:
    await at_posthog.run()
    tile = at_posthog.tiles_of(101)[3]
    await at_posthog.client.change_insight(tile.id, {"dashboards": []})
    (done, _) = await at_posthog.run()
    assert done.tiles == {"unchanged": COUNT - 1, "updated": 1}
    assert tile in at_posthog.tiles_of(101)
    # A person's copy has the same marker, and is theirs.
    copied = {name: tile.fields[name] for name in ("name", "description", "query")}
    await at_posthog.client.create_insight({**copied, "dashboards": [101]})
    await at_posthog.client.create_insight(copied)
    assert states(await at_posthog.run()) == UNCHANGED
    assert len(at_posthog.insights()) == 2 * COUNT - 1 + 2


async def test_a_tile_that_is_on_somebodys_dashboard_too_is_only_taken_off(
    at_posthog: AtPosthog,
) -> None:
    await at_posthog.run()
    theirs = await at_posthog.client.create_dashboard({"name": "theirs"})
    tile = at_posthog.tiles_of(101)[0]
    await at_posthog.client.change_insight(tile.id, {"dashboards": [101, theirs.id]})
    await at_posthog.run(replace(ALL, tiles=ALL.tiles[1:]))
    assert [*tile.shown_on] == [theirs.id]
    assert not tile.is_deleted


async def test_a_deleted_dashboard_is_made_again(at_posthog: AtPosthog) -> None:
    await at_posthog.run()
    await at_posthog.client.change_dashboard(101, {"deleted": True})
    (told, _) = await at_posthog.run(dry_run=True)
    (done, _) = await at_posthog.run()
    assert (done.state, done.tiles) == (told.state, told.tiles) == ("created", {"updated": COUNT})
    assert at_posthog.there.dashboards[101].is_deleted
    assert states(await at_posthog.run()) == UNCHANGED
    assert len(at_posthog.insights()) == 2 * COUNT - 1


@pytest.mark.parametrize("kind", ["status", "drop", "cut"])
@pytest.mark.parametrize("after", [0, 1, 5, 20])
async def test_what_a_failure_left_undone_is_done_by_the_next_run(
    at_posthog: AtPosthog, kind: Any, after: int
) -> None:
    # Cut: it is made, and nobody is told.
    on_writing = {"route": "POST /api/projects/*", "skip": after, "times": 1}
    at_posthog.app.faults.add(Fault(kind=kind, status=502, chunks=0, **on_writing))
    with pytest.raises(Unavailable, match="do it again"):
        await at_posthog.run()
    assert not at_posthog.is_in_order(ALL, OF_KEY)
    await at_posthog.run()
    assert at_posthog.is_in_order(ALL, OF_KEY)
    assert states(await at_posthog.run()) == UNCHANGED
    assert len(at_posthog.insights()) == 2 * COUNT - 1


async def test_a_rate_limit_is_waited_for(at_posthog: AtPosthog) -> None:
    limited = Fault(kind="status", status=429, headers={"Retry-After": "7"}, skip=4, times=2)
    at_posthog.app.faults.add(limited, Fault(kind="status", status=429, skip=9, times=1))
    await at_posthog.run()
    assert at_posthog.waits == [7, 7, 5]
    assert at_posthog.is_in_order(ALL, OF_KEY)


@pytest.mark.parametrize(
    ("retry_after", "waited"), [("3600", 0), ("inf", 0), ("nan", 0), ("50", 6), ("-3", 300)]
)
async def test_a_rate_limit_is_not_waited_for_for_ever(
    at_posthog: AtPosthog, retry_after: str, waited: int
) -> None:
    headers = {"Retry-After": retry_after}
    at_posthog.app.faults.add(Fault(kind="status", status=429, headers=headers))
    with pytest.raises(Unavailable, match="limits requests"):
        await at_posthog.run()
    assert len(at_posthog.waits) == waited


@pytest.mark.parametrize(
    ("scopes", "lacks", "kept"),
    [
        ({"insight:write"}, "dashboard:read", 0),
        ({"dashboard:read", "insight:write"}, "dashboard:write", 0),
        ({"dashboard:write"}, "insight:read", 1),
        ({"dashboard:write", "insight:read"}, "insight:write", 1),
    ],
)
async def test_a_scope_that_the_key_lacks_is_named(
    at_posthog: AtPosthog, scopes: set[str], lacks: str, kept: int
) -> None:
    at_posthog.there.scopes = scopes
    with pytest.raises(Refused, match=f"lacks the scope {lacks}"):
        await at_posthog.run()
    assert len(at_posthog.there.dashboards) == kept
    at_posthog.there.scopes = {"dashboard:write", "insight:write"}
    await at_posthog.run()
    assert at_posthog.is_in_order(ALL, OF_KEY)


@pytest.mark.parametrize(
    ("key", "project", "error", "says"),
    [
        ("phx_wrong", PROJECT_ID, Refused, "POSTHOG_PERSONAL_API_KEY"),
        (PERSONAL_KEY, 1, ConfigurationError, "POSTHOG_PROJECT_ID"),
    ],
)
async def test_a_wrong_key_and_a_wrong_project_are_told_apart(
    at_posthog: AtPosthog, key: str, project: int, error: type[Exception], says: str
) -> None:
    async with Served(at_posthog.app) as url:
        client = PosthogProject(key, project, url)
        with pytest.raises(error, match=says):
            await provision(client, [ALL])
        await client.aclose()


async def test_what_was_deleted_meanwhile_is_told_from_a_wrong_project(
    at_posthog: AtPosthog,
) -> None:
    for change in (
        at_posthog.client.insights_of(1),
        at_posthog.client.change_dashboard(1, {"name": "x"}),
    ):
        with pytest.raises(NotFound, match="no dashboard 1 in project"):
            await change
    with pytest.raises(NotFound, match="no insight 2 in project"):
        await at_posthog.client.change_insight(2, {"deleted": True})


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (Fault(kind="malformed"), Unavailable, "not PostHog's API"),
        (Fault(kind="status", status=200, body={"ok": True}), Unavailable, "not PostHog's API"),
        (Fault(kind="status", status=302), Unavailable, "HTTP 302"),
        (Fault(kind="status", status=400, body={"detail": "No."}), FlowError, "HTTP 400.: No."),
        (Fault(kind="status", status=403, body={"detail": "Not yours."}), Refused, "Not yours."),
        (Fault(kind="status", status=403, body="<html>"), Refused, "does not say why"),
        (Fault(kind="status", status=404, body="<html>"), ConfigurationError, "not PostHog's API"),
    ],
)
async def test_an_answer_that_is_no_use_is_one_sentence(
    at_posthog: AtPosthog, fault: Fault, error: type[Exception], says: str
) -> None:
    at_posthog.app.faults.add(fault)
    with pytest.raises(error, match=says):
        await at_posthog.run()


def test_what_is_written_fits_posthogs_fields() -> None:
    long = dashboard_of(replace(KEY, name="n" * 5000))
    for wanted in (ALL, OF_KEY, long):
        assert len(wanted.name) <= MAX_TEXT
        slugs = [tile.slug for tile in wanted.tiles]
        assert len(set(slugs)) == len(slugs)
        assert all(len(tile.description) < 200 for tile in wanted.tiles)


@pytest.mark.parametrize(
    ("events_go_to", "api"),
    [
        ("https://us.i.posthog.com", "https://us.posthog.com"),
        ("https://eu.i.posthog.com", "https://eu.posthog.com"),
        ("https://eu.posthog.com", "https://eu.posthog.com"),
        ("https://app.posthog.com", "https://us.posthog.com"),
        ("https://us.i.posthog.com.example.org", "https://us.i.posthog.com.example.org"),
        ("http://posthog.internal:8000/", "http://posthog.internal:8000"),
    ],
)
def test_the_api_is_where_the_pages_are(events_go_to: str, api: str) -> None:
    assert api_host(events_go_to) == api


@pytest.fixture
async def configured(terminal: Terminal) -> AsyncIterator[tuple[Terminal, PostHogSandbox]]:
    app = PostHogSandbox()
    async with Served(app) as url:
        terminal.env |= {
            "POSTHOG_HOST": url,
            "POSTHOG_PERSONAL_API_KEY": PERSONAL_KEY,
            "POSTHOG_PROJECT_ID": str(PROJECT_ID),
        }
        yield terminal, app


async def test_the_command_makes_a_dashboard_for_each_key_that_is_asked_for(
    configured: tuple[Terminal, PostHogSandbox],
) -> None:
    terminal, app = configured
    ada, bob = await terminal.create(), await terminal.create(name="Bob")
    command = ("posthog", "dashboards")
    told = (await terminal.flow(*command, "--key", "Ada", "--dry-run", "--json")).json
    assert told["dry_run"]
    assert [one["state"] for one in told["dashboards"]] == ["created", "created"]
    assert app.projects.dashboards == {}
    twice = ("--key", "Ada", "--key", ada["api_key_id"])
    told = (await terminal.flow(*command, *twice, "--json")).json
    assert [(one["name"], one["api_key_id"]) for one in told["dashboards"]] == [
        ("Flow: all keys", None),
        ("Flow: Ada", ada["api_key_id"]),
    ]
    assert (await terminal.flow("keys", "revoke", "Ada", "--yes")).code == 0
    done = await terminal.flow(*command, "--all")
    assert (done.code, done.err) == (0, "")
    assert "Flow: Bob" in done.out
    assert "Flow: Ada" not in done.out
    assert told["dashboards"][0]["url"] in done.out.replace("\n", "")
    again = await terminal.flow(*command, "--all")
    assert "Everything is up to date" in again.out
    names = [one.fields["name"] for one in app.projects.dashboards.values()]
    assert names == ["Flow: all keys", "Flow: Ada", "Flow: Bob"]
    assert bob["api_key_id"] in str(app.projects.dashboards[[*app.projects.dashboards][2]].fields)


@pytest.mark.parametrize("missing", ["POSTHOG_PERSONAL_API_KEY", "POSTHOG_PROJECT_ID"])
async def test_what_the_command_needs_is_named(
    configured: tuple[Terminal, PostHogSandbox], missing: str
) -> None:
    terminal, _ = configured
    terminal.without(missing)
    assert (await terminal.flow("posthog", "dashboards")).failure.startswith(
        f"{missing} is missing"
    )
    terminal.env["POSTHOG_PROJECT_ID"] = "acme"
    assert "POSTHOG_PROJECT_ID" in (await terminal.flow("posthog", "dashboards")).failure


async def test_no_such_key_is_said_before_anything_is_made(
    configured: tuple[Terminal, PostHogSandbox],
) -> None:
    terminal, app = configured
    done = await terminal.flow("posthog", "dashboards", "--key", "Nobody")
    assert "Nobody" in done.failure
    assert len(app.requests) == 0
