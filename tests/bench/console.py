"""P13: what the console's pages ask of the API takes no longer on a database of very many calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from playwright.async_api import Request

from flow.api.pages import STATIC
from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.sandbox.all_vendors import vendors
from tests import call_history
from tests.bench import world
from tests.bench.measure import Measure, Options, at_most, not_judged, percentile
from tests.chromium import CHROMIUM, chromium

KEY = "flow_console_key_not_a_secret"
ASKED = 15
SETTLE_MS = 500
# As a customer and an operator look at them, with the filters that find little.
VIEWS = (
    "", "?days=90", "/calls", "/calls?status=running", "/calls?status=failed",
    "/calls?status=created", "/calls?product=insights", "/calls?from=2026-01-01&to=2026-01-31",
    "/usage", "/usage?group_by=day,model,provider,product,kind,source", "/requests",
    "/requests?product=none", "/limits", "/operator/calls", "/operator/calls?status=",
    "/operator/calls?status=failed", "/operator/usage", "/operator/keys", "/operator/teams",
    "/operator/webhooks", "/operator/webhooks?dead=false", "/operator/hosts", "/operator/ledger",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Console:
    """What the console's pages asked the API for, and the scripts that they loaded."""

    calls: Sequence[str]
    scripts: Sequence[str]


async def pages(options: Options) -> list[Measure]:
    """Every call that a page makes of the API, timed by itself on a warm server."""
    if CHROMIUM is None:
        return [not_judged("P13", "the console", "Chromium is missing")]
    if not (STATIC / "console.html").is_file():
        return [not_judged("P13", "the console", "the pages are not built: make web")]
    threads = options.pick(100_000, 300)
    async with _served(threads) as url:
        console = await _looked_at(url, options.pick(VIEWS, VIEWS[:3]))
        took = await _timed(url, console.calls, options.pick(ASKED, 3))
        (empty,) = (await _timed(url, ["/healthz"], options.pick(ASKED, 3))).values()
        size = _script_bytes(console)
    p50 = {call: percentile(times, 50) * 1000 for call, times in took.items()}
    slowest, *others = sorted(p50, key=lambda call: -p50[call])
    numbers = {
        "p95_ms": round(percentile(took[slowest], 95) * 1000, 1),
        "empty_call_ms": round(percentile(empty, 50) * 1000, 1),
        "calls": len(took),
        "next": ", ".join(f"{call} {p50[call]:.0f} ms" for call in others[:3]),
    }
    return [
        at_most(
            "P13",
            f"slowest API call of a page, {threads:,} threads, p50",
            p50[slowest],
            150,
            "ms",
            call=slowest,
            **numbers,
        ),
        at_most("P13", "scripts of the console, gzip", size / 1000, 250, "kB"),
    ]


@asynccontextmanager
async def _served(threads: int) -> AsyncIterator[str]:
    """A service whose one key has this many threads."""
    async with world.database() as database_url, vendors() as stand_ins:
        stand_ins.unkey.add_key(
            KEY, name="console", team_id="team_bench", permissions=["flow.admin", "flow.content"]
        )
        async with world.service(database_url, stand_ins.environment) as served:
            url = f"http://127.0.0.1:{served.port}"
            async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}) as client:
                asked = (await client.get("/api/key")).raise_for_status().json()
            database = Database(await PostgresTransport.open(database_url))
            key = (await database.operating.get_api_key(asked["api_key_id"])).key
            await database.close()
            await asyncio.to_thread(call_history.bulk, database_url, key, threads)
            yield url


async def _looked_at(url: str, views: Sequence[str]) -> Console:
    """Look at each page, and at the call and the second page that the list of calls leads to."""
    calls: dict[str, None] = {}
    scripts: dict[str, None] = {}

    def note(request: Request) -> None:
        parts = urlsplit(request.url)
        where = f"{parts.path}?{parts.query}" if parts.query else parts.path
        if parts.path.startswith("/api/"):
            calls[where] = None
        elif request.resource_type == "script":
            scripts[where] = None

    async with chromium() as browser:
        page = await browser.new_page()
        await page.add_init_script(f"sessionStorage.setItem('flow.api_key', '{KEY}')")
        page.on("request", note)
        for view in views:
            await page.goto(f"{url}/console{view}", wait_until="networkidle")
        await page.goto(f"{url}/console/calls", wait_until="networkidle")
        await page.get_by_role("button", name="Older").click()
        await page.wait_for_timeout(SETTLE_MS)
        await page.locator("table a").first.click()
        await page.wait_for_timeout(SETTLE_MS)
    return Console([*calls], [*scripts])


async def _timed(url: str, calls: Sequence[str], times: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {call: [] for call in calls}
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, timeout=60) as client:
        for call in calls:
            (await client.get(call)).raise_for_status()
            for _ in range(times):
                begun = time.perf_counter()
                await client.get(call)
                took[call].append(time.perf_counter() - begun)
    return took


def _script_bytes(console: Console) -> int:
    """The bytes on the wire of all scripts that the pages loaded."""
    return sum((STATIC / f"{name[1:]}.gz").stat().st_size for name in console.scripts)
