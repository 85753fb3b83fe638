"""P1: a join against a bare INSERT.

Wall-clock ratios tell what a caller gets. CPU time a request, of the server and of Postgres, is
shown beside: on a machine that does other work it says more.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from tests.bench import processes, world
from tests.bench.cpu import cpu_secs, postmaster_of
from tests.bench.measure import Measure, Options, at_least, at_most, middle

KEYS = 20
SATURATING = 16
BODY = {"bot": {"system_prompt": "You take reservations.", "greeting": "Good evening!"}}


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load, the Postgres it writes to, and what it is asked."""

    port: int
    pid: int
    postmaster: int
    requests: Sequence[str]


Found = Mapping[str, Mapping[str, list[float]]]


async def joins(options: Options) -> list[Measure]:
    """The same load on both servers, which share a Postgres, in turn."""
    async with (
        world.database() as url,
        world.vendors(2 * KEYS) as vendors,
        processes.running("bare_process", {"url": url}) as bare,
        world.service(url, vendors["environment"]) as flow,
    ):
        free, capped = vendors["keys"][:KEYS], vendors["keys"][KEYS:]
        postmaster = postmaster_of(url)
        targets = {
            "bare": Target(bare["port"], bare["pid"], postmaster, [request("/join")]),
            "join": Target(flow.port, flow.pid, postmaster, joining(free)),
            "join_with_budget": Target(flow.port, flow.pid, postmaster, joining(capped)),
        }
        await warm(targets.values(), secs=1.0)
        await cap(url, f"team_{KEYS}")
        found = await rounds(targets, options, lambda: _forget(url))
    return [*_judged(found, "join", "a join"), *_judged(found, "join_with_budget", "with a budget")]


def request(path: str, key: str | None = None, content: Mapping[str, Any] = BODY) -> str:
    """A whole HTTP request with a JSON body."""
    body = json.dumps(content)
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{auth}content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    )


def joining(keys: Sequence[str]) -> list[str]:
    """A join with each of the keys."""
    return [request("/api/bot/join", key) for key in keys]


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


async def warm(targets: Iterable[Target], *, secs: float) -> None:
    """Have every server ready for its requests: keys verified, statements prepared."""
    for target in targets:
        await load(target.port, target.requests, connections=4, secs=secs)


async def cap(url: str, first_team: str) -> None:
    """Give each key of the second half a budget that it will not reach."""
    database = Database(await PostgresTransport.open(url))
    teams = int(first_team.removeprefix("team_"))
    for account in (await database.operating.list_api_keys()).items:
        if int(account.key.team_id.removeprefix("team_")) >= teams:
            await database.operating.set_budget(account.key.id, Decimal(1_000_000))
    await database.close()


async def rounds(
    targets: Mapping[str, Target], options: Options, forget: Callable[[], None]
) -> Found:
    """``p50_ms`` one by one, ``per_sec`` of many, and CPU milliseconds a request, each round's."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    secs = options.pick(2.0, 0.3)
    for _ in range(options.pick(options.rounds, 1)):
        for name, target in targets.items():
            forget()
            # A key is verified every ten seconds, which may be once a load or not at all.
            await warm([target], secs=0.3)
            one = await load(target.port, target.requests, connections=1, secs=secs)
            before = _cpu(target)
            many = await load(target.port, target.requests, connections=SATURATING, secs=secs)
            spent = [now - then for now, then in zip(_cpu(target), before, strict=True)]
            found[name]["p50_ms"].append(one["p50_ms"])
            found[name]["per_sec"].append(many["per_sec"])
            for unit, used in zip(("cpu_ms", "postgres_cpu_ms"), spent, strict=True):
                found[name][unit].append(1000 * used / sum(many["statuses"].values()))
    return found


def _cpu(target: Target) -> tuple[float, float]:
    return cpu_secs(target.pid), cpu_secs(target.postmaster)


def _forget(url: str) -> None:
    """Nobody has thousands of calls waiting: each round begins without any."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("delete from public.workflow_threads")
        connection.execute("vacuum analyze public.workflow_threads")


def ratio(found: Found, one: str, other: str, unit: str) -> float:
    """The median of the rounds' ratios."""
    pairs = zip(found[one][unit], found[other][unit], strict=True)
    return middle([ours / theirs for ours, theirs in pairs])


def numbers(found: Found, names: Sequence[str], *units: str) -> dict[str, float]:
    """The medians themselves."""
    return {
        f"{name}_{unit}": round(middle(found[name][unit]), 2) for unit in units for name in names
    }


def _judged(found: Found, name: str, what: str) -> tuple[Measure, ...]:
    names = (name, "bare")
    cpu = ratio(found, name, "bare", "cpu_ms")
    return (
        at_most(
            "P1",
            f"{what}: p50, one at a time",
            ratio(found, name, "bare", "p50_ms"),
            2.0,
            "x",
            **numbers(found, names, "p50_ms"),
        ),
        at_least(
            "P1",
            f"{what}: throughput",
            ratio(found, name, "bare", "per_sec"),
            0.5,
            "x",
            **numbers(found, names, "per_sec"),
        ),
        at_most(
            "P1",
            f"{what}: CPU of the server, a request",
            cpu,
            2.0,
            "x",
            **numbers(found, names, "cpu_ms", "postgres_cpu_ms"),
        ),
    )
