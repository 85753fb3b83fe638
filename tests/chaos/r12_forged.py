"""R12: URLs that lead inwards, headers that inject, and attribution that a caller made up."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import httpx

from flow.domain.usage.owner_labels import HEADER_NAMES, PREFIX, PROPERTIES_HEADER, PROPERTY_NAMES
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.frames import Audio, encode
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.speech.synthesis import recordings
from flow.sandbox.webhooks import WebhookReceiver
from tests.calls.test_call import SHORT
from tests.chaos import wire
from tests.chaos.conservation import THREAD_HEADER, conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import World, customer

FAULT = "SSRF by every URL a caller can give, header injection, spoofed attribution"
LONGEST_SECS = 300.0
LONGEST_SHORT_SECS = 150.0

RATE = 16_000
TEAM = "team ünïcode 100%0d%0aX-Injected: yes"
TEAM_KEY = "flow_chaos_team_key_not_a_secret"
PUBLIC_URL = "https://flow.example.com"

NAMES: Mapping[str, list[str]] = {
    "loop.hooks.example": ["127.0.0.1"],
    "metadata.hooks.example": ["169.254.169.254"],
    "ten.hooks.example": ["10.0.0.1"],
    "six.hooks.example": ["::1"],
    "local6.hooks.example": ["fd00::1"],
    "mapped.hooks.example": ["::ffff:127.0.0.1"],
    "translated.hooks.example": ["64:ff9b::7f00:1"],
    "mixed.hooks.example": ["127.0.0.1", "93.184.216.34"],
    "zero.hooks.example": ["0.0.0.0"],
}
"""Names that look public and are not, and what the resolver is made to say of them."""

# The system's own resolver cannot be made to say such things without being root: so Python's door
# to it is, in the process of the service, before anything of the service is imported.
RESOLVER = """
import socket
NAMES = {names!r}
ask = socket.getaddrinfo
def getaddrinfo(host, port, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name not in NAMES:
        return ask(host, port, *args, **kwargs)
    return [found for one in NAMES[name] for found in ask(one, port, *args, **kwargs)]
socket.getaddrinfo = getaddrinfo
"""

REFUSED_WEBHOOKS = (
    "http://example.com/plain",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://sub.localhost/",
    "https://db.internal/",
    "https://printer.local/",
    "https://metadata/",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.0.1/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://0.0.0.0/",
    "https://255.255.255.255/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fd00::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://user:password@example.com/",
    "https://example.com:99999/",
    "https://exam ple.com/",
    "https://example.com/\r\nX-Injected: yes",
    "https:///nowhere",
    "https://",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "javascript:alert(1)",
    "//example.com/",
    "",
)
REFUSED_ROOMS = (
    ("daily", "https://127.0.0.1/room"),
    ("daily", "http://flow.daily.co/room"),
    ("daily", "https://flow.daily.co.evil.example/room"),
    ("daily", "https://evil.example/flow.daily.co/room"),
    ("daily", "https://flow.daily.co:8443/room"),
    ("daily", "https://flow.daily.co@evil.example/room"),
    ("daily", "https://flow.daily.co/room?t=token"),
    ("daily", "https://flow.daily.co/../v1/rooms"),
    ("daily", "https://flow.daily.co/room\r\nX-Injected: yes"),
    ("livekit", "ws://127.0.0.1:6379"),
    ("livekit", "wss://evil.example"),
    ("livekit", "wss://livekit.example.com.evil.example"),
    ("livekit", "wss://livekit.example.com@evil.example"),
    ("livekit", "wss://livekit.example.com/?x=y"),
    ("websocket", "https://example.com/room"),
    ("twilio", "https://example.com/room"),
)
SPOOFED: Mapping[str, Any] = {
    "team_id": "team_evil",
    "api_key_id": "00000000-0000-0000-0000-000000000000",
    "workflow_thread_id": "00000000-0000-0000-0000-000000000000",
    "ai_product": "free_product",
    "billable": False,
    "$ai_billable": False,
    "posthog_trace_id": "spoofed",
    "properties": {"$ai_billable": False},
    "headers": {"x-posthog-property-team_id": "team_evil"},
    "OPENAI_BASE_URL": "CANARY",
    "base_url": "CANARY",
    "openai_base_url": "CANARY",
    "api_key": "sk-evil-not-a-secret",
    "extra": {"base_url": "CANARY"},
    "extra_headers": {"Authorization": "Bearer evil"},
}
"""Fields that no join has, at any depth; ``CANARY`` stands for a URL that must not be asked."""
SPOOFED_HEADERS: Mapping[str, str] = {
    "X-PostHog-Property-Team_Id": "team_evil",
    "x-posthog-property-api_key_id": "00000000-0000-0000-0000-000000000000",
    "x-posthog-property-ai_product": "free_product",
    "x-posthog-property-workflow_thread_id": "00000000-0000-0000-0000-000000000000",
    "x-posthog-property-billable": "false",
    "x-posthog-property-$ai_billable": "false",
    "X-PostHog-Properties": '{"team_id": "team_evil", "$ai_billable": false}',
    "x-posthog-distinct-id": "evil",
    "x-posthog-trace-id": "evil",
    "$ai_billable": "false",
    "OpenAI-Organization": "org-evil",
    "OpenAI-Base-Url": "CANARY",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "javascript",
    "Forwarded": "host=evil.example;proto=http",
    "X-Original-URL": "/api/limits",
    "X-HTTP-Method-Override": "DELETE",
}


@dataclass(slots=True)
class Canary:
    """A server that nobody must ever connect to."""

    url: str = ""
    port: int = 0
    visits: list[str] = field(default_factory=list)


@asynccontextmanager
async def canary() -> AsyncIterator[Canary]:
    """A listening canary."""
    made = Canary()

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(1):
                first = await reader.read(200)
                made.visits.append(first[:80].decode("latin-1"))
        writer.close()

    server = await asyncio.start_server(visited, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    made.url = f"http://127.0.0.1:{made.port}"
    try:
        yield made
    finally:
        server.close()


async def run(world: World, scale: Scale, found: Findings) -> None:
    async with world.vendors() as standing, canary() as bird:
        standing.unkey.add_key(TEAM_KEY, name="team", team_id=TEAM)
        await _redirected(world, standing, bird, found)
        settings = {
            "FLOW_PUBLIC_URL": PUBLIC_URL,
            "DAILY_API_KEY": "not-a-secret-of-daily",
            "DAILY_API_URL": bird.url,
            "LIVEKIT_URL": "wss://livekit.example.com",
            "LIVEKIT_API_KEY": "not-a-secret",
            "LIVEKIT_API_SECRET": "not-a-secret-of-livekit-but-long-enough",
            "PYTHONPATH": _resolver(world.folder / "resolver"),
        }
        async with (
            world.host(standing, name="strict", **settings) as host,
            customer(host.url, standing) as http,
        ):
            await _refused(http, bird, found)
            await _resolved(world, http, host.url, bird, found)
            await _attributed(world, standing, http, host.url, bird, found)
            await _injected(http, host.url, found)
            found.none("connections to where nobody was to be led", bird.visits)
            folders = [world.data("lenient"), world.data("strict")]
            await conserved(found, world.postgres, standing, folders)


async def _redirected(world: World, standing: Vendors, bird: Canary, found: Findings) -> None:
    """A webhook's receiver that sends us elsewhere: on a host that may call this machine."""
    receiver = WebhookReceiver()
    for status in (301, 302, 303, 307, 308):
        away = {"location": f"{bird.url}/secret"}
        receiver.faults.add(Fault(kind="status", route=f"/{status}", status=status, headers=away))
    lenient = {"FLOW_DEBUG": "true", "FLOW_WEBHOOKS_ALLOW_PRIVATE": "true"}
    async with (
        Served(receiver) as url,
        world.host(standing, name="lenient", **lenient) as host,
        customer(host.url, standing) as http,
    ):
        for status in (301, 302, 303, 307, 308):
            await _brief_call(http, host.url, {"webhook_url": f"{url}/{status}"})
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                while len({arrival.path for arrival in receiver.arrivals}) < 5:
                    await asyncio.sleep(0.1)
        # Whatever follows a redirect does so at once.
        await asyncio.sleep(1)
        came = sorted({arrival.path for arrival in receiver.arrivals})
        found.holds("webhooks that were answered with a redirect", 5, len(came))
        found.none("redirects of a webhook that were followed", list(bird.visits))
        # Nothing of these is to be left for the next host, which may not call this machine.
        receiver.faults.clear()
        for (_,) in await world.postgres.rows(
            "update webhook_deliveries set next_attempt_at = now() where delivered_at is null"
            " returning event_id"
        ):
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)


async def _refused(http: httpx.AsyncClient, bird: Canary, found: Findings) -> None:
    """Joins that must make nothing: by URL, and by fields that no join has."""
    bodies: list[tuple[str, dict[str, Any]]] = [
        (f"webhook_url {url!r}", {"webhook_url": url}) for url in REFUSED_WEBHOOKS
    ]
    bodies += [
        (f"{kind} room_url {url!r}", {"transport": {"type": kind, "room_url": url}})
        for kind, url in REFUSED_ROOMS
    ]
    for name, value in SPOOFED.items():
        value = bird.url if value == "CANARY" else value
        given = {name: value}
        bodies += [
            (f"{name}", given),
            (f"bot.{name}", {"bot": given}),
            (f"bot.llm.{name}", {"bot": {"llm": given}}),
            (f"bot.tts.{name}", {"bot": {"tts": given}}),
            (f"transport.{name}", {"transport": given}),
            (f"insights.{name}", {"insights": given}),
        ]
    for part in ("llm", "stt", "tts"):
        for evil in (
            bird.url,
            "openai\r\nX-Injected: yes",
            "../../etc/passwd",
            "file:///etc/passwd",
        ):
            bodies.append((f"bot.{part}.provider {evil!r}", {"bot": {part: {"provider": evil}}}))
            if "\r" in evil:
                bodies.append((f"bot.{part}.model {evil!r}", {"bot": {part: {"model": evil}}}))
    wrong = []
    for what, body in bodies:
        answer = await http.post("/api/bot/join", json=body, headers=_spoofed(bird))
        problem = answer.json()
        if answer.status_code not in {403, 422} or not problem.get("code"):
            wrong.append(f"{what}: {answer.status_code} {problem.get('code')}")
        elif answer.status_code == 422 and not problem.get("errors"):
            wrong.append(f"{what}: names no field")
    found.none(f"of {len(bodies)} joins that lead inwards or spoof, those not refused", wrong)
    # A schema may not be fetched from anywhere, either.
    for name in ("$ref", "$schema", "$id", "$dynamicRef"):
        schema = {"type": "object", name: f"{bird.url}/schema.json"}
        await http.post("/api/bot/join", json={"insights": {"schema": schema}})


async def _resolved(
    world: World, http: httpx.AsyncClient, url: str, bird: Canary, found: Findings
) -> None:
    """Webhooks to names that look public until they are looked up."""
    await asyncio.gather(
        *(
            _brief_call(http, url, {"webhook_url": f"https://{name}:{bird.port}/hook"})
            for name in NAMES
        )
    )
    rows: list[tuple[Any, ...]] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            while len(rows) < len(NAMES):
                rows = await world.postgres.rows(
                    "select url, last_error from webhook_deliveries"
                    " where url like %(like)s and attempts > 0 and last_error is not null",
                    like="%.hooks.example%",
                )
                await asyncio.sleep(0.2)
    refused = [url for url, error in rows if "is not a public address" in error]
    found.holds("webhooks to names of private addresses, refused as such", len(NAMES), len(refused))


async def _attributed(
    world: World,
    standing: Vendors,
    http: httpx.AsyncClient,
    url: str,
    bird: Canary,
    found: Findings,
) -> None:
    """Whole calls of a caller who claims to be somebody else, everywhere one can."""
    claims = {name: value for name, value in SPOOFED.items() if value != "CANARY"}
    headers = _spoofed(bird)
    spoken = recordings([line.text for line in SHORT.lines], voice=SHORT.voice)
    bot = {"system_prompt": SHORT.system_prompt, "greeting": "Hello!"}
    wrong: list[str] = []
    for product, billable, key in (
        ("voice_bot", True, standing.api_key),
        ("playground", False, TEAM_KEY),
    ):
        body = {"product": product, "metadata": claims | {"$ai_billable": not billable}, "bot": bot}
        joined = await http.post(
            "/api/bot/join", json=body, headers=headers | {"Authorization": f"Bearer {key}"}
        )
        thread_id = UUID(joined.raise_for_status().json()["workflow_thread_id"])
        shown = joined.json()["connection"]["url"]
        if not shown.startswith("wss://flow.example.com/"):
            wrong.append(f"the join sends its caller to {shown}")
        await _said(_local(shown, url), spoken[SHORT.lines[0].text], headers)
        await _settled(world, thread_id)
        team = TEAM if key == TEAM_KEY else None
        wrong += await _wrongly_attributed(world, standing, thread_id, product, billable, team)
    found.none("what a caller's claims changed in the ledger, at PostHog or the gateway", wrong)
    sent = [
        f"{name}: {value}"
        for exchange in standing.openai.requests
        for name, value in exchange.headers.items()
        if "evil" in value or "injected" in name
    ]
    found.none("headers of callers that went on to the gateway", sent)


async def _wrongly_attributed(
    world: World,
    standing: Vendors,
    thread_id: UUID,
    product: str,
    billable: bool,
    team: str | None,
) -> list[str]:
    """Wherever a thread's work is said to be somebody else's."""
    ((key_id, team_id),) = await world.postgres.rows(
        "select api_key_id::text, team_id from workflow_threads where id = %(id)s", id=thread_id
    )
    wrong = [] if team in (None, team_id) else [f"the thread is of {team_id!r}"]
    owner = {
        "team_id": team_id,
        "api_key_id": key_id,
        "product": product,
        "workflow_thread_id": str(thread_id),
    }
    rows = await world.postgres.rows(
        "select team_id, api_key_id::text, product, workflow_thread_id::text, billable, kind,"
        " id::text, total_cost_usd from usage_events where workflow_thread_id = %(id)s",
        id=thread_id,
    )
    wrong += [f"ledger {row}" for row in rows if [*row[:5]] != [*owner.values(), billable]]
    kinds = {row[5] for row in rows}
    wrong += [] if kinds == {"call", "llm", "stt", "tts"} else [f"the ledger has only {kinds}"]
    generations = {row[6] for row in rows if row[5] != "call"}
    with suppress(TimeoutError):
        async with asyncio.timeout(15):
            while not generations <= {event.uuid for event in standing.posthog.events}:
                await asyncio.sleep(0.2)
    told = {event.uuid: event for event in standing.posthog.unique_events}
    expected = {
        "team_id": team_id,
        "api_key_id": key_id,
        "ai_product": product,
        "workflow_thread_id": str(thread_id),
        "$ai_billable": billable,
        "$ai_trace_id": str(thread_id),
    }
    for id_ in generations:
        if id_ not in told:
            wrong.append(f"PostHog has no event {id_}")
            continue
        seen = {name: told[id_].properties.get(name) for name in expected}
        if seen != expected or told[id_].distinct_id != key_id:
            wrong.append(f"PostHog {told[id_].distinct_id} {seen}")
    asked = [x for x in standing.openai.requests if x.headers.get(THREAD_HEADER) == str(thread_id)]
    del expected["$ai_trace_id"]
    wrong += [
        f"the gateway was told {dict(one.headers)}"
        for one in asked
        if not _tells(one.headers, expected)
    ]
    return wrong if asked else [*wrong, "the gateway was asked nothing"]


def _tells(headers: Mapping[str, str], expected: Mapping[str, Any]) -> bool:
    """Whether a gateway was told this, in both ways, and no more than the server says."""
    together = json.loads(headers[PROPERTIES_HEADER])
    apart = {name: unquote(headers.get(PREFIX + name, "")) for name in expected}
    return (
        set(headers) <= set(HEADER_NAMES)
        and set(together) <= set(PROPERTY_NAMES)
        and {name: together.get(name) for name in expected} == expected
        and apart == {n: str(v).lower() if v in (True, False) else v for n, v in expected.items()}
    )


async def _injected(http: httpx.AsyncClient, url: str, found: Findings) -> None:
    """Line ends, and what stands for them, in everything that may come back in an answer."""
    wrong = []
    evil = ("a%0d%0aX-Injected: yes", "a\rX-Injected: yes", "a\tb", "\u560d\u560aX-Injected: yes")
    for text in evil:
        for name in ("X-Request-Id", "Idempotency-Key", "Host", "Accept", "traceparent", "Origin"):
            async with wire.connected(url) as line:
                head = (
                    b"POST /api/bot/join HTTP/1.1\r\nContent-Type: application/json\r\n"
                    b"Connection: close\r\nContent-Length: 2\r\n"
                    + (b"" if name == "Host" else b"Host: flow.example\r\n")
                    + f"Authorization: {http.headers['Authorization']}\r\n".encode()
                )
                await line.send(head + name.encode() + b": " + text.encode() + b"\r\n\r\n{}")
                answer = await line.answer(10)
            lines = answer.raw.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
            if any(one.startswith(b"x-injected") for one in lines):
                wrong.append(f"{name} {text!r} came back as a header")
            if answer.status is None or answer.status >= 500 or b"evil" in answer.body:
                wrong.append(f"{name} {text!r}: {answer.status}")
    for thread in (await http.get("/api/threads", params={"status": "created"})).json()["threads"]:
        await http.post(f"/api/bot/{thread['workflow_thread_id']}/end")
    found.none("headers that injected, or were answered with an error of ours", wrong)


async def _brief_call(http: httpx.AsyncClient, url: str, body: Mapping[str, Any]) -> None:
    """A call whose caller hangs up at once; its webhook is then due."""
    joined = (await http.post("/api/bot/join", json=body)).raise_for_status().json()
    async with wire.upgraded(_local(joined["connection"]["url"], url)) as (line, _):
        await line.send(wire.frame(b"\x03\xe8", wire.CLOSE))
        await line.answer(5)


async def _said(url: str, speech: bytes, headers: Mapping[str, str]) -> None:
    """Connect, say something, wait for a reply to begin, and hang up."""
    chunk = 2 * RATE // 50
    sound = bytes(2 * RATE) + speech + bytes(2 * RATE * 4)
    async with wire.upgraded(url, headers) as (line, _):
        reading = asyncio.create_task(line.answer(60))
        for at in range(0, len(sound), chunk):
            piece = sound[at : at + chunk].ljust(chunk, b"\0")
            await line.send(wire.frame(encode(Audio(piece, RATE))))
            await asyncio.sleep(0.02)
        await line.send(wire.frame(b"\x03\xe8", wire.CLOSE))
        await asyncio.wait({reading}, timeout=5)
        reading.cancel()


async def _settled(world: World, thread_id: UUID) -> None:
    async with asyncio.timeout(60):
        while True:
            ((status,),) = await world.postgres.rows(
                "select status from workflow_threads where id = %(id)s", id=thread_id
            )
            if status in {"completed", "failed", "expired", "cancelled"}:
                return
            await asyncio.sleep(0.1)


def _local(shown: str, url: str) -> str:
    """The URL of a join's answer, at the host that really serves it."""
    return url + "/api/" + shown.partition("/api/")[2]


def _spoofed(bird: Canary) -> dict[str, str]:
    return {name: value.replace("CANARY", bird.url) for name, value in SPOOFED_HEADERS.items()}


def _resolver(folder: Path) -> str:
    """A folder for ``PYTHONPATH`` that makes names lead where `NAMES` says."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(RESOLVER.format(names=dict(NAMES)))
    return os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
