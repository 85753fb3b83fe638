"""R9: one customer tries everything on another's threads, tokens and usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx

from flow.domain.calls import join_token as tokens
from flow.sandbox.all_vendors import Vendors
from tests.calls.conftest import SECRET
from tests.chaos import wire
from tests.chaos.conservation import FINAL, conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.postgres import Postgres
from tests.chaos.world import Caller, World

FAULT = "key A tries every route, token and list on what is key B's"
OWN_KEY = "flow_chaos_key_a_not_a_secret"
OTHER_KEY = "flow_chaos_key_b_not_a_secret"
TWILIO = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "not-a-secret-of-twilio",
    "TWILIO_BASE_URL": "http://127.0.0.1:9",
}
BODIES: Mapping[tuple[str, str], dict[str, Any]] = {
    ("post", "offer"): {"json": {"sdp": "v=0\r\n", "type": "offer"}},
    ("patch", "offer"): {"json": {"pc_id": "x", "candidates": []}},
    ("post", "say"): {"json": {"text": "x"}},
    ("post", "message"): {"json": {"text": "x"}},
    ("post", "twiml"): {"data": {"CallSid": "CA" + "0" * 32}},
}
"""What a route needs to get as far as asking whose thread it is."""
BY_TOKEN = (("post", "offer"), ("patch", "offer"), ("post", "twiml"))

SNAPSHOT = """
select 'thread', to_jsonb(t) - 'heartbeat_at' - 'updated_at' from workflow_threads t
 where api_key_id = %(key)s
union all select 'event', to_jsonb(e) from usage_events e where api_key_id = %(key)s
union all select 'day', to_jsonb(d) from usage_daily d where api_key_id = %(key)s
order by 1, 2
"""


Try = tuple[str, int, set[int]]
"""What was tried, the status it was answered with, and those it may be."""


@dataclass(frozen=True, slots=True)
class Owned:
    """What key B has: its threads by their transport, with their tokens."""

    key_id: UUID
    threads: Mapping[str, str]
    tokens: Mapping[str, str]


async def run(world: World, scale: Scale, found: Findings) -> None:
    async with world.vendors() as standing, world.host(standing, **TWILIO) as host:
        # Two customers: the key of the stand-ins is an operator's.
        standing.unkey.add_key(OWN_KEY, name="a", team_id="team_a")
        standing.unkey.add_key(OTHER_KEY, name="b", team_id="team_b")
        async with _client(host.url, OWN_KEY) as a, _client(host.url, OTHER_KEY) as b:
            theirs = await _owned(b, world.postgres, await _spoken(host.url, standing))
            ours = await _owned(a, world.postgres, {})
            of_both = await _same_key(a, b)
            await _settled(world.postgres, theirs.threads["finished"])
            before = await world.postgres.rows(SNAPSHOT, key=theirs.key_id)
            tried = [one async for one in _every_route(a, theirs)]
            tried += [one async for one in _tokens(a, host.url, ours, theirs)]
            found.none(
                f"of {len(tried)} tries, those not refused",
                [f"{said}: {status}" for said, status, allowed in tried if status not in allowed],
            )
            found.none("what A's lists and reports hold of B's", await _leaks(a, b, theirs))
            found.none("joins of A under B's Idempotency-Key that got B's thread", of_both)
            after = await world.postgres.rows(SNAPSHOT, key=theirs.key_id)
            found.holds(f"of B's {len(before)} rows, all are as they were", True, after == before)
            for client in (a, b):
                await _end_all(client)
        await conserved(found, world.postgres, standing, [host.folder])


def _client(url: str, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False)


async def _spoken(url: str, standing: Vendors) -> dict[str, str]:
    """A whole call of B's, so that there is something to steal."""
    caller = await Caller().call(url, replace(standing, api_key=OTHER_KEY))
    assert caller.thread_id is not None, caller.refusal or caller.failure
    return {"finished": caller.thread_id}


async def _owned(client: httpx.AsyncClient, postgres: Postgres, threads: dict[str, str]) -> Owned:
    threads, found = dict(threads), {}
    for kind in ("websocket", "webrtc", "twilio"):
        answer = await client.post("/api/bot/join", json={"transport": {"type": kind}})
        joined = answer.raise_for_status().json()
        threads[kind] = joined["workflow_thread_id"]
        way = joined["connection"].get("twiml_url") or joined["connection"]["url"]
        found[kind] = parse_qs(urlsplit(way).query)["token"][0]
    ((key_id,),) = await postgres.rows(
        "select api_key_id from workflow_threads where id = %(id)s", id=threads["websocket"]
    )
    return Owned(key_id, threads, found)


async def _every_route(a: httpx.AsyncClient, theirs: Owned) -> AsyncIterator[Try]:
    """Every route of the API that names a thread, with each of B's."""
    paths = (await a.get("/openapi.json")).json()["paths"]
    for path, operations in paths.items():
        if "{thread_id}" not in path:
            continue
        name = path.rpartition("/")[2]
        allowed = {403} if path.startswith("/api/admin/") else {404}
        for method in operations:
            if name == "twiml":
                continue  # takes a token and no key: see `_tokens`
            for kind, thread_id in theirs.threads.items():
                way = path.replace("{thread_id}", thread_id)
                answer = await a.request(method, way, **BODIES.get((method, name), {}))
                yield f"{method} {path} ({kind})", answer.status_code, allowed


async def _tokens(a: httpx.AsyncClient, url: str, ours: Owned, theirs: Owned) -> AsyncIterator[Try]:
    """Every way in that takes a token, with every token that is not this thread's."""
    for said, thread_id, token in _wrong_tokens(ours, theirs):
        for method, name in BY_TOKEN:
            way = f"/api/bot/{thread_id}/{name}?token={token}"
            answer = await a.request(method, way, **BODIES[method, name])
            # Whoever was let into a call is told that it is over, however late.
            over = {409} if said == "an expired token on B's finished" else set[int]()
            yield f"{method} {name} with {said}", answer.status_code, {401, 404} | over
        for key in ({}, {"Authorization": a.headers["Authorization"]}):
            socket_url = f"{url}/api/bot/{thread_id}/ws?token={token}"
            async with wire.upgraded(socket_url, key) as (_, status):
                yield f"ws with {said}{' and the key' if key else ''}", status, {401, 404}
    for path in (f"{theirs.threads['websocket']}/ws", f"{theirs.threads['webrtc']}/offer"):
        status = (await a.post(f"/api/bot/{path}", json={})).status_code
        yield (
            f"post {path.rpartition('/')[2]} with the key and no token",
            status,
            {401, 404, 405, 422},
        )


def _wrong_tokens(ours: Owned, theirs: Owned) -> Iterator[tuple[str, str, str]]:
    """What is wrong with the token, the thread it is tried on, and the token."""
    now, secret = datetime.now(UTC), SECRET.encode()
    for kind, thread_id in theirs.threads.items():
        their_id = UUID(thread_id)
        later, bearer = now + timedelta(minutes=5), "CA" + "1" * 32
        yield f"A's token on B's {kind}", thread_id, ours.tokens["websocket"]
        yield f"no token on B's {kind}", thread_id, ""
        yield (
            f"a token signed with another secret on B's {kind}",
            thread_id,
            tokens.sign(b"another secret" * 4, their_id, later),
        )
        yield (
            f"an expired token on B's {kind}",
            thread_id,
            tokens.sign(secret, their_id, now - timedelta(seconds=1)),
        )
        yield (
            f"a token of another bearer on B's {kind}",
            thread_id,
            tokens.sign(secret, their_id, later, bearer=bearer),
        )
        yield f"nonsense on B's {kind}", thread_id, "A" * 80
    for kind, token in theirs.tokens.items():
        yield f"B's {kind} token on A's thread", ours.threads["websocket"], token
        yield f"B's {kind} token on no thread", str(uuid4()), token
        flipped = ("B" if token[0] != "B" else "C") + token[1:]
        yield f"B's {kind} token, forged", theirs.threads[kind], flipped
        yield f"B's {kind} token, cut", theirs.threads[kind], token[:-4]
        yield f"B's {kind} token, spelt otherwise", theirs.threads[kind], f"{token}%3D"


async def _leaks(a: httpx.AsyncClient, b: httpx.AsyncClient, theirs: Owned) -> list[str]:
    """Wherever something of B's turns up in an answer to A."""
    page = (await b.get("/api/threads", params={"limit": 1})).json()
    reads: list[tuple[str, dict[str, Any]]] = [
        ("/api/threads", {}),
        ("/api/threads", {"limit": 200, "cursor": page["next_cursor"]}),
        ("/api/threads", {"status": "completed"}),
        ("/api/threads", {"api_key_id": str(theirs.key_id)}),
        ("/api/usage", {"group_by": "day,model"}),
        ("/api/usage", {"api_key_id": str(theirs.key_id), "group_by": "kind"}),
        ("/api/limits", {"team_id": "team_b"}),
        ("/api/products", {}),
    ]
    secrets = {*theirs.threads.values(), *theirs.tokens.values(), str(theirs.key_id), "team_b"}
    leaks = []
    for path, params in reads:
        answer = await a.get(path, params=params)
        leaks += [f"{path} {params}: {one}" for one in secrets if one in answer.text]
        if answer.status_code >= 500:
            leaks.append(f"{path} {params}: {answer.status_code}")
        if path == "/api/usage" and answer.is_success:
            leaks += [f"{path}: {row}" for row in answer.json()["rows"] if row["events"]]
    return leaks


async def _same_key(a: httpx.AsyncClient, b: httpx.AsyncClient) -> list[str]:
    headers = {"Idempotency-Key": "the same of both"}
    of_b = (await b.post("/api/bot/join", json={}, headers=headers)).json()
    of_a = (await a.post("/api/bot/join", json={}, headers=headers)).json()
    same = of_a["workflow_thread_id"] == of_b["workflow_thread_id"]
    return [of_b["workflow_thread_id"]] if same else []


async def _settled(postgres: Postgres, thread_id: str) -> None:
    """Return when nothing more will happen to a thread by itself."""
    query = "select status from workflow_threads where id = %(id)s"
    async with asyncio.timeout(60):
        while (await postgres.rows(query, id=thread_id))[0][0] not in FINAL:
            await asyncio.sleep(0.1)


async def _end_all(client: httpx.AsyncClient) -> None:
    for thread in (await client.get("/api/threads")).json()["threads"]:
        await client.post(f"/api/bot/{thread['workflow_thread_id']}/end")
