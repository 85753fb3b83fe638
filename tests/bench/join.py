"""P1: a join against a bare INSERT. P2: against LiteLLM's proxy, where there is one."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import psycopg

from flow.db.functions import Database
from flow.db.postgres import PostgresTransport
from tests.bench import processes, world
from tests.bench.measure import Measure, Options, at_least, at_most, middle, not_judged

KEYS = 20
SATURATING = 16
BODY = {"bot": {"system_prompt": "You take reservations.", "greeting": "Good evening!"}}
LITELLM = "FLOW_BENCH_LITELLM"


async def joins(options: Options) -> list[Measure]:
    """The same load on both servers, which share a Postgres, in turn."""
    async with (
        world.database() as url,
        world.vendors(2 * KEYS) as vendors,
        processes.running("bare_process", {"url": url}) as bare,
        world.service(url, vendors["environment"]) as port,
    ):
        free, capped = vendors["keys"][:KEYS], vendors["keys"][KEYS:]
        targets = {
            "bare": (bare["port"], [_request("/join")]),
            "join": (port, [_request("/api/bot/join", key) for key in free]),
            "join_with_budget": (port, [_request("/api/bot/join", key) for key in capped]),
        }
        await _warm(targets)
        await _cap(url, f"team_{KEYS}")
        found = await _rounds(url, targets, options)
    return [*_judged(found, "join", "a join"), *_judged(found, "join_with_budget", "with a budget")]


async def litellm(options: Options) -> list[Measure]:
    """The same load on LiteLLM's proxy, which is no dependency: somebody must have started one.

    Its requests go to a virtual key and a model with ``mock_response``, so that what is compared
    is admission and accounting, and no vendor.
    """
    what = "a join against LiteLLM's proxy"
    url, key = os.environ.get(LITELLM), os.environ.get(f"{LITELLM}_KEY", "")
    if not url:
        why = f"start one on Postgres with a mock model; set {LITELLM}=http://127.0.0.1:PORT, _KEY"
        return [not_judged("P2", what, why)]
    body = {"model": "mock", "messages": [{"role": "user", "content": "Hello"}]}
    proxy = urlsplit(url).port or 4000
    async with (
        world.database() as database,
        world.vendors(KEYS) as vendors,
        world.service(database, vendors["environment"]) as port,
    ):
        joins = [_request("/api/bot/join", one) for one in vendors["keys"]]
        targets = {
            "litellm": (proxy, [_request("/chat/completions", key, body)]),
            "join": (port, joins),
        }
        await _warm(targets)
        found = await _rounds(database, targets, options)
    per_sec, p50 = _ratio(found, "join", "litellm", "per_sec"), _ratio(found, "join", "litellm")
    return [
        at_least("P2", f"{what}: throughput", per_sec, 20, "x"),
        at_most("P2", f"{what}: p50, one by one", p50, 1 / 6, "x"),
    ]


def _request(path: str, key: str | None = None, content: Mapping[str, Any] = BODY) -> str:
    body = json.dumps(content)
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{auth}content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    )


async def load(
    port: int, requests: Sequence[str], *, connections: int, secs: float
) -> dict[str, Any]:
    """What a load came to.

    Raises:
        RuntimeError: some requests did not succeed.
    """
    task = {"port": port, "requests": requests, "connections": connections, "secs": secs}
    answer = await processes.ask("load_process", task)
    if any(not status.startswith("2") for status in answer["statuses"]):
        raise RuntimeError(f"not all requests succeeded: {answer['statuses']}")
    return answer


async def _warm(targets: Mapping[str, tuple[int, list[str]]]) -> None:
    for port, requests in targets.values():
        await load(port, requests, connections=4, secs=1.0)


async def _cap(url: str, first_team: str) -> None:
    """Give each key of the second half a budget that it will not reach."""
    database = Database(await PostgresTransport.open(url))
    teams = int(first_team.removeprefix("team_"))
    for account in await database.list_api_keys():
        if int(account.key.team_id.removeprefix("team_")) >= teams:
            await database.set_budget(account.key.id, Decimal(1_000_000))
    await database.close()


async def _rounds(
    url: str, targets: Mapping[str, tuple[int, list[str]]], options: Options
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    secs = options.pick(2.0, 0.3)
    for _ in range(options.pick(options.rounds, 1)):
        for name, (port, requests) in targets.items():
            _forget(url)
            one = await load(port, requests, connections=1, secs=secs)
            many = await load(port, requests, connections=SATURATING, secs=secs)
            found[name]["p50_ms"].append(one["p50_ms"])
            found[name]["per_sec"].append(many["per_sec"])
    return found


def _forget(url: str) -> None:
    """Nobody has thousands of calls waiting: each round begins without any."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("delete from public.workflow_threads")
        connection.execute("vacuum analyze public.workflow_threads")


def _ratio(
    found: Mapping[str, Mapping[str, list[float]]], one: str, other: str, unit: str = "p50_ms"
) -> float:
    """The median of the rounds' ratios."""
    pairs = zip(found[one][unit], found[other][unit], strict=True)
    return middle([ours / theirs for ours, theirs in pairs])


def _judged(
    found: Mapping[str, Mapping[str, list[float]]], name: str, what: str
) -> tuple[Measure, Measure]:
    def ratio(unit: str) -> float:
        return _ratio(found, name, "bare", unit)

    def numbers(unit: str) -> dict[str, float]:
        return {f"{one}_{unit}": round(middle(found[one][unit]), 2) for one in (name, "bare")}

    return (
        at_most(
            "P1", f"{what}: p50, one at a time", ratio("p50_ms"), 2.0, "x", **numbers("p50_ms")
        ),
        at_least("P1", f"{what}: throughput", ratio("per_sec"), 0.5, "x", **numbers("per_sec")),
    )
