"""R15: the LLM gateway under everything that ends a request before its time.

Conservation is by key here: requests to the gateway belong to no thread.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any
from urllib.parse import urlsplit

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.faults import Fault
from flow.sandbox.reconcile import reconcile_all
from tests.chaos.conservation import disagreements, put_aside, rollups, spooled
from tests.chaos.experiment import Findings, Scale
from tests.chaos.hosts import Host
from tests.chaos.wire import connected
from tests.chaos.world import World, customer

FAULT = "a gateway killed or stopped in mid-stream; clients that vanish; upstreams that fail"
LONGEST_SECS = 1800.0
LONGEST_SHORT_SECS = 400.0

SETTLE_SECS = 60.0
LOOK_SECS = 0.25
SILENCE_SECS = 3.0
# The longest that an idle connection to a vendor is kept (flow.gateway.upstream).
IDLE_SECS = 15.0
AT_ONCE = 6
# About as long as a reply takes.
LATEST_SECS = 3.0
PRODUCTS = """
[voice_bot]
billable = true

[gateway]
billable = true
calls = false
gateway = true

[backed]
billable = true
calls = false
gateway = true
fallbacks = ["google/gemini-2.5-flash", "openai/gpt-4.1-mini"]
"""


@dataclass(frozen=True, slots=True)
class Asking:
    """A kind of request."""

    path: str
    body: Mapping[str, Any]

    def streamed(self, stream: bool = True) -> bytes:
        """Its body."""
        return json.dumps({**self.body, "stream": stream}).encode()


def _askings(sentences: int) -> tuple[Asking, ...]:
    """A request of each kind, for a reply of some length."""
    reply = " ".join(f"This is word number {n} of many." for n in range(sentences))
    said = f"Say this, word for word, and nothing else: {reply}"
    asked = [{"role": "user", "content": said}]
    chat = "/v1/chat/completions"
    return (
        Asking(chat, {"model": "openai/gpt-4.1", "messages": asked}),
        Asking("/v1/responses", {"model": "openai/gpt-4.1", "input": asked}),
        Asking(
            "/v1/messages",
            {"model": "anthropic/claude-haiku-4-5", "messages": asked, "max_tokens": 2_000},
        ),
        Asking(chat, {"model": "google/gemini-2.5-flash", "messages": asked}),
    )


# Brief ones come in one piece, too, before their vendor counts as silent.
LONG, BRIEF = _askings(18), _askings(3)
BACKED = Asking("/backed/v1/chat/completions", BRIEF[0].body)


@dataclass(slots=True)
class Client:
    """What a client has seen of its answer.

    Attributes:
        status: of the answer, if one has begun.
        event_id: that of its row.
        is_ended: whether the answer was ended as one that is whole.
        is_whole: whether the last event of its protocol was in it.
    """

    status: int | None = None
    event_id: str | None = None
    is_ended: bool = False
    is_whole: bool = False

    async def ask(
        self, url: str, key: str, asking: Asking, *, stream: bool = True, most: int | None = None
    ) -> Client:
        """Send a request; read the answer, or ``most`` bytes of it and vanish."""
        body = asking.streamed(stream)
        netloc = urlsplit(url).netloc
        request = (
            f"POST {asking.path} HTTP/1.1\r\nHost: {netloc}\r\nAuthorization: Bearer {key}\r\n"
            f"Connection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            async with connected(url) as wire:
                await wire.send(request.encode() + body)
                said = await wire.answer(60.0, most)
                self._note(said.raw)
                if most is not None:
                    wire.reset()
        return self

    def _note(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        if not body and not raw.endswith(b"\r\n\r\n"):
            return
        self.status = int(lines[0].split()[1])
        fields = dict(line.split(": ", 1) for line in lines[1:])
        self.event_id = fields.get("x-flow-event-id")
        size = fields.get("content-length")
        self.is_ended = body.endswith(b"0\r\n\r\n") if size is None else len(body) == int(size)
        ends = (b"[DONE]", b"response.completed", b"message_stop")
        self.is_whole = any(end in body[-4_000:] for end in ends)


@dataclass(slots=True)
class Crowd:
    """All clients there have been."""

    standing: Vendors
    chance: Random
    clients: list[Client] = field(default_factory=list)

    async def ask(self, url: str, asking: Asking, **more: Any) -> Client:
        """One more of them."""
        client = Client()
        self.clients.append(client)
        return await client.ask(url, self.standing.api_key, asking, **more)

    def begin(self, url: str, latest_secs: float) -> list[asyncio.Task[Client]]:
        """Some that come within that time, and some of whom vanish."""

        async def come(n: int) -> Client:
            most = self.chance.choice([None, None, self.chance.randrange(1, 6_000)])
            await asyncio.sleep(self.chance.uniform(0, latest_secs))
            return await self.ask(url, LONG[n % len(LONG)], most=most)

        return [asyncio.create_task(come(n)) for n in range(AT_ONCE)]


async def run(world: World, scale: Scale, found: Findings) -> None:
    products = world.folder / "products.toml"
    products.write_text(PRODUCTS)
    own = {
        "FLOW_PRODUCTS_FILE": str(products),
        "FLOW_GATEWAY_SILENCE_SECS": str(SILENCE_SECS),
        "FLOW_WORKFLOWS": "off",
    }
    async with (
        world.vendors(models=["anthropic", "google"]) as standing,
        world.host(standing, **own) as host,
    ):
        crowd = Crowd(standing, scale.random())
        kills = await _killed(host, crowd, scale)
        stops, codes = await _stopped(host, crowd, scale)
        cut = [c for c in crowd.clients if c.is_ended and c.status == 200 and not c.is_whole]
        await _vanished(host, crowd, scale)
        found.none(
            "vendors that served more than there are rows", await _unrecorded(host, standing)
        )
        await _failing(host, crowd, scale)
        found.holds("times it was killed in mid-stream", scale.pick(25, 3), kills)
        found.holds("times it was asked to stop in mid-stream", scale.pick(25, 2), stops)
        found.holds("exit codes of those that were asked", {0}, codes)
        found.none("streams that were cut off and ended as if whole", cut)
        await _conserved(world, found, host, crowd)
        await _let_go(found, host, standing)


async def _killed(host: Host, crowd: Crowd, scale: Scale) -> int:
    for _ in range(rounds := scale.pick(25, 3)):
        asking = crowd.begin(host.url, LATEST_SECS / 3)
        await asyncio.sleep(crowd.chance.uniform(0.1, LATEST_SECS))
        await host.kill()
        await asyncio.gather(*asking)
        await host.start()
    return rounds


async def _stopped(host: Host, crowd: Crowd, scale: Scale) -> tuple[int, set[int]]:
    codes = set()
    for _ in range(rounds := scale.pick(25, 2)):
        asking = crowd.begin(host.url, LATEST_SECS / 3)
        await asyncio.sleep(crowd.chance.uniform(0.1, LATEST_SECS))
        codes.add(await host.stop())
        await asyncio.gather(*asking)
        await host.start()
    return rounds, codes


async def _vanished(host: Host, crowd: Crowd, scale: Scale) -> None:
    """Clients that vanish after each number of bytes, or in short after some."""
    sizes = range(1, 3_000, scale.pick(1, 100))
    for start in range(0, len(sizes), AT_ONCE):
        some = sizes[start : start + AT_ONCE]
        await asyncio.gather(
            *(
                crowd.ask(host.url, LONG[(start + n) % len(LONG)], most=size)
                for n, size in enumerate(some)
            )
        )


async def _unrecorded(host: Host, standing: Vendors) -> list[str]:
    """Vendors that have served requests of which there is no row; as long as none has failed, each
    row is of one that was sent."""
    deadline = asyncio.get_running_loop().time() + SETTLE_SECS
    while True:
        rows = Counter(row["provider"] for row in await _rows(host, standing))
        served = {name: len(lines) for name, lines in (await standing.billed()).items()}
        missing = [f"{name}: {n - rows[name]}" for name, n in served.items() if n > rows[name]]
        if not missing or asyncio.get_running_loop().time() > deadline:
            return missing
        await asyncio.sleep(LOOK_SECS)


async def _failing(host: Host, crowd: Crowd, scale: Scale) -> None:
    vendors = crowd.standing.models
    for fault in _faults(scale):
        for vendor in vendors.values():
            vendor.faults.add(fault)
        # Of work that is lost in one piece nobody could tell how much it was.
        forms = (True,) if fault.kind in ("cut", "stall") else (True, False)
        await asyncio.gather(
            *(
                crowd.ask(host.url, asking, stream=stream)
                for asking in (*BRIEF, BACKED)
                for stream in forms
            )
        )
        for vendor in vendors.values():
            vendor.faults.clear()


def _faults(scale: Scale) -> Iterator[Fault]:
    yield Fault(kind="status", status=429, headers={"retry-after": "1"})
    yield Fault(kind="status", status=503)
    yield Fault(kind="status", status=401)
    yield Fault(kind="drop")
    yield Fault(kind="hang")
    yield Fault(kind="malformed")
    yield Fault(kind="no_usage")
    yield Fault(kind="cumulative_usage")
    for chunks in scale.pick(range(1, 40, 3), (1, 7)):
        yield Fault(kind="cut", chunks=chunks)
        yield Fault(kind="stall", chunks=chunks)
        yield Fault(kind="error_chunk", chunks=chunks)
        yield Fault(kind="malformed_chunk", chunks=chunks)


async def _conserved(world: World, found: Findings, host: Host, crowd: Crowd) -> None:
    """Wait until nothing is on its way, and note whether all accounts agree."""
    deadline = asyncio.get_running_loop().time() + SETTLE_SECS
    while True:
        wrong = await _wrong(world, host, crowd)
        if not any(wrong.values()) or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(LOOK_SECS)
    for what, seen in wrong.items():
        found.none(what, seen)
    rows = await _rows(host, crowd.standing)
    answered = sum(client.event_id is not None for client in crowd.clients)
    found.holds("rows are at least as many as answers", True, len(rows) >= answered)
    outcomes = Counter(row["outcome"] for row in rows)
    found.holds("outcomes there are", {"ok", "error", "interrupted"}, set(outcomes))


async def _wrong(world: World, host: Host, crowd: Crowd) -> dict[str, list[str]]:
    rows = await _rows(host, crowd.standing)
    ids = Counter(row["id"] for row in rows)
    answered = [client.event_id for client in crowd.clients if client.event_id]
    billed = await crowd.standing.billed()
    sums = [
        row["id"]
        for row in rows
        if sum((Decimal(line["cost_usd"] or 0) for line in row["lines"]), Decimal(0))
        != Decimal(row["total_cost_usd"] or 0)
    ]
    return {
        "answers without a row": [id_ for id_ in answered if id_ not in ids],
        "rows that are there twice": [id_ for id_, count in ids.items() if count > 1],
        "rows whose parts are not their sum": sums,
        "vendors whose bill is not the ledger": disagreements(reconcile_all(rows, billed)),
        "keys whose rollup is not the ledger's sum": await rollups(world.postgres),
        "events put aside": await put_aside(world.postgres, [host.folder]),
        "lines left in a spool": spooled(host.folder),
    }


async def _rows(host: Host, standing: Vendors) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 200}
    async with customer(host.url, standing) as http:
        while True:
            page = (await http.get("/api/requests", params=query)).json()
            found += page["requests"]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]


async def _let_go(found: Findings, host: Host, standing: Vendors) -> None:
    """No connection to a vendor is left, once one that is idle may be expected to be closed."""
    ports = {urlsplit(url).port for url in standing.model_urls.values()}

    def held() -> list[str]:
        return [
            f"{connection.raddr.port} {connection.status}"
            for connection in host.process.net_connections("tcp")
            if connection.raddr and connection.raddr.port in ports
        ]

    await _until(lambda: not held(), IDLE_SECS + 5)
    found.none("connections to vendors that are left", held())


async def _until(holds: Callable[[], bool], secs: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(secs):
            while not holds():
                await asyncio.sleep(LOOK_SECS)
