"""R1: a process that is killed at any instant of its calls loses none of them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.server import Served
from flow.sandbox.webhooks import WebhookReceiver
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.hosts import Host
from tests.chaos.scripts import SHOP, first
from tests.chaos.spoken import missing, spoken
from tests.chaos.world import Caller, World, customer

FAULT = "kill -9 of the process at random instants of its calls"
LONGEST_SECS = 3600.0
LONGEST_SHORT_SECS = 240.0

HOSTS = 2
CALLERS = 3
LATEST_SECS, LATEST_SHORT_SECS = 12.0, 6.0
# How long what was said may be on its way to the database.
ON_ITS_WAY_SECS = 1.5
WEBHOOK_SECS = 60.0

_THREADS = """
select t.id, t.status, t.connected_at, t.insights, t.created_at, t.completed_at,
  (
    select coalesce(jsonb_agg(jsonb_build_array(u.role, u.content) order by u.seq), '[]')
    from workflow_thread_turns u where u.workflow_thread_id = t.id
  ),
  (
    select count(*) from usage_events e
    where e.workflow_thread_id = t.id and e.kind = 'llm' and e.source = 'insights'
  )
from workflow_threads t
"""


class Row(NamedTuple):
    """A thread in the end; ``turns`` are pairs of role and content."""

    id: UUID
    status: str
    connected_at: datetime | None
    insights: dict[str, Any] | None
    created_at: datetime
    completed_at: datetime
    turns: list[tuple[str, str]]
    asked: int


@dataclass(frozen=True, slots=True)
class Killed:
    """A call, and when its host was killed, by `time.monotonic`."""

    caller: Caller
    at: float


async def run(world: World, scale: Scale, found: Findings) -> None:
    chance = scale.random()
    rounds = scale.pick(100, 4) // HOSTS
    receiver = WebhookReceiver()
    latest = scale.pick(LATEST_SECS, LATEST_SHORT_SECS)
    killed: list[Killed] = []
    kills: list[datetime] = []
    async with (
        world.vendors(SHOP) as standing,
        Served(receiver) as webhooks,
        AsyncExitStack() as stack,
    ):
        own = {"FLOW_DEBUG": "true", "FLOW_WEBHOOKS_ALLOW_PRIVATE": "true"}
        hosts = [world.host(standing, name=f"host{n}", **own) for n in range(HOSTS)]
        await asyncio.gather(*(stack.enter_async_context(host) for host in hosts))

        async def kill_one(host: Host, instant: float, seed: float) -> None:
            join = {"webhook_url": f"{webhooks}/ended"}
            killed.extend(await _killed(host, standing, join, instant, Random(seed)))
            kills.append(datetime.now(UTC))
            await host.start()

        for _ in range(rounds):
            some = [(host, chance.uniform(0, latest), chance.random()) for host in hosts]
            await asyncio.gather(*(kill_one(*one) for one in some))
        await _end_unused(world, hosts[0], standing)
        await conserved(found, world.postgres, standing, [host.folder for host in hosts])
        threads = [Row(*row) for row in await world.postgres.rows(_THREADS)]
        await _delivered(receiver, threads)
    found.holds("kills", rounds * HOSTS, len(kills))
    _check_threads(found, threads, killed, kills)
    _check_webhooks(found, receiver, threads)


async def _killed(
    host: Host, standing: Vendors, join: dict[str, Any], instant: float, chance: Random
) -> list[Killed]:
    """Some calls, begun one after the other, whose host is killed at an instant."""
    callers = [Caller() for _ in range(CALLERS)]

    async def come(caller: Caller) -> None:
        await asyncio.sleep(chance.uniform(0, instant / 2))
        await caller.call(host.url, standing, first(chance.choice([0, 1, 1, 2])), join=join)

    calling = [asyncio.create_task(come(caller)) for caller in callers]
    await asyncio.sleep(instant)
    at = monotonic()
    await host.kill()
    await asyncio.gather(*calling)
    return [Killed(caller, at) for caller in callers]


async def _end_unused(world: World, host: Host, standing: Vendors) -> None:
    """End the threads whose caller had joined and not yet connected, as their customer would."""
    unused = await world.postgres.rows("select id from workflow_threads where status = 'created'")
    async with customer(host.url, standing) as http:
        for (thread_id,) in unused:
            await http.post(f"/api/bot/{thread_id}/end")


async def _delivered(receiver: WebhookReceiver, threads: Sequence[Row]) -> None:
    """Wait for the webhooks: what a killed process had claimed is sent when its lease is over."""
    deadline = monotonic() + WEBHOOK_SECS
    while set(_told(receiver)) < _to_be_told(threads) and monotonic() < deadline:
        await asyncio.sleep(0.25)


def _to_be_told(threads: Sequence[Row]) -> set[tuple[str, str]]:
    ends = {
        (str(row.id), f"thread.{row.status}")
        for row in threads
        if row.status in ("completed", "failed")
    }
    return ends | {(str(row.id), "thread.started") for row in threads if row.connected_at}


def _told(receiver: WebhookReceiver) -> dict[tuple[str, str], set[str]]:
    """By thread and what was told of it: the ids under which that was."""
    told: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in receiver.received:
        told[str(one.data["workflow_thread_id"]), one.type].add(one.webhook_id)
    return told


def _check_threads(
    found: Findings, threads: Sequence[Row], killed: Sequence[Killed], kills: Sequence[datetime]
) -> None:
    rows = {str(row.id): row for row in threads}
    calls = [one.caller.thread_id for one in killed if one.caller.thread_id is not None]
    found.none("answered joins without a thread", [one for one in calls if one not in rows])
    states = Counter(row.status for row in threads)
    found.holds(f"threads, {dict(states)}", len(calls), len(set(calls) & set(rows)))
    # One whose process is killed while it is connecting has failed without having been connected.
    ends = {True: {"completed", "failed"}, False: {"failed", "cancelled", "expired"}}
    odd = [
        f"{row.id} {row.status}"
        for row in threads
        if row.status not in ends[row.connected_at is not None]
    ]
    found.none("calls neither completed nor failed, and others that are", odd)
    found.none("transcripts that lack what had been said", _forgotten(rows, killed))
    without = [str(row.id) for row in threads if row.connected_at and row.insights is None]
    found.none("calls without insights, or why there are none", without)
    found.none("calls asked for insights oftener than they were broken off", _asked(threads, kills))


def _forgotten(rows: dict[str, Row], killed: Sequence[Killed]) -> list[str]:
    return [
        f"{row.id} lacks {lacking}"
        for one in killed
        if (row := rows.get(one.caller.thread_id or "")) is not None
        if (lacking := missing(spoken(one.caller, one.at - ON_ITS_WAY_SECS), row.turns))
    ]


def _asked(threads: Sequence[Row], kills: Sequence[datetime]) -> list[str]:
    """An answer that was not stored anywhere may be asked for again, once for each kill."""
    return [
        f"{row.id} was asked {row.asked} times"
        for row in threads
        if row.asked > 1 + sum(row.created_at < kill < row.completed_at for kill in kills)
    ]


def _check_webhooks(found: Findings, receiver: WebhookReceiver, threads: Sequence[Row]) -> None:
    told, due = _told(receiver), _to_be_told(threads)
    found.none("starts and ends that the customer was not told of", sorted(due - set(told)))
    found.none("starts and ends told that were none", sorted(set(told) - due))
    found.none(
        "starts and ends told under two ids", [one for one, ids in told.items() if len(ids) > 1]
    )
