"""R8: whatever is sent, the answer is a clear refusal: no 5xx, no hang, no bloated process."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from flow.sandbox.all_vendors import Vendors
from tests.chaos import hostile, wire
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.hosts import Host
from tests.chaos.world import World, customer

FAULT = "fuzzing of the whole OpenAPI, hostile headers and bodies, bad audio and WebSocket frames"
LONGEST_SECS = 900.0
LONGEST_SHORT_SECS = 400.0

TWILIO = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "not-a-secret-of-twilio",
    "TWILIO_BASE_URL": "http://127.0.0.1:9",
}
ANSWER_SECS = 20.0
WELL_SECS = 2.0
GROWTH_MB = 200.0
SLOW_AT_ONCE = 100
# A head may take 15 s and a body as long; then the connection is closed.
SLOW_SECS = 30.0
CALL_SECS = 10
# Stated refusals: this process, or this service, can take no more at the moment.
STATED_503 = {"at_capacity", "auth_unavailable", "database_unavailable", "transport_unavailable"}

# Left out: what an OpenAPI schema cannot say (a cursor that is one, days that are in order; that an
# agent archived by DELETE can still be read).
CHECKS = "all"
NOT_CHECKED = "positive_data_acceptance,response_headers_conformance,use_after_free"
# Whatever it asks of a thread or an agent is about one that there is. Too large is a refusal like
# any other.
CONFIG = """
[parameters]
thread_id = "{thread}"
agent_id = "{agent}"
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "429"]
"""


async def run(world: World, scale: Scale, found: Findings) -> None:
    settings = {"FLOW_IDLE_TIMEOUT_SECS": "5", "FLOW_MAX_CALLS": "60", **TWILIO}
    async with (
        world.vendors() as standing,
        world.host(standing, **settings) as host,
        customer(host.url, standing) as http,
    ):
        before = _memory(host)
        slowly = asyncio.create_task(_slow(host.url))
        await _requests(host.url, standing, http, found)
        await _handshakes(host.url, http, found)
        await _frames(host.url, http, scale, found)
        found.none("connections that never came to the point, and were kept", await slowly)
        await _schemathesis(world.folder, host.url, standing, http, scale, found)
        found.within("growth of the process's memory in MB", GROWTH_MB, _memory(host) - before)
        for thread in await _open(http):
            await http.post(f"/api/bot/{thread}/end")
        await conserved(found, world.postgres, standing, [host.folder])
        found.none("failures that nobody foresaw, in its log", _unforeseen(host))


async def _requests(url: str, standing: Vendors, http: httpx.AsyncClient, found: Findings) -> None:
    """Requests by hand, each on a connection of its own."""
    sent = hostile.requests(standing.api_key)
    wrong: list[str] = []
    for name, raw in sent.items():
        async with wire.connected(url) as line:
            sending = asyncio.create_task(line.send(raw))
            answer = await line.answer(ANSWER_SECS)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if said := _wrong(name, answer):
            wrong.append(f"{name}: {said}")
        if said := await _unwell(http):
            wrong.append(f"after {name}: {said}")
    found.none(f"of {len(sent)} hostile requests, those not refused clearly", wrong)


def _wrong(name: str, answer: wire.Answer) -> str | None:
    """What is wrong with the answer, if anything is."""
    if not answer.closed:
        return f"no end after {ANSWER_SECS:g} s"
    if answer.status is None:
        return None if answer.reset or hostile.is_no_http(name) else "no answer"
    if answer.status >= 500:
        return f"{answer.status} {answer.body[:200]!r}"
    if answer.status >= 400 and not hostile.is_no_http(name):
        head = answer.raw.partition(b"\r\n\r\n")[0].lower()
        if b"application/problem+json" not in head:
            return f"{answer.status} without a problem: {answer.body[:80]!r}"
        if not _first_json(answer.body).get("code"):
            return f"{answer.status} without a code: {answer.body[:80]!r}"
    return None


def _first_json(body: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        found, _ = json.JSONDecoder().raw_decode(body.decode("utf-8", "replace"))
        return dict(found)
    return {}


async def _unwell(http: httpx.AsyncClient) -> str | None:
    """What is wrong with the service right now: it must answer others as if nothing happened."""
    begun = time.monotonic()
    answer = await http.get("/api/threads", params={"limit": 1})
    secs = time.monotonic() - begun
    if answer.status_code != 200:
        return f"{answer.status_code} to somebody else"
    return f"somebody else waited {secs:.1f} s" if secs > WELL_SECS else None


async def _handshakes(url: str, http: httpx.AsyncClient, found: Findings) -> None:
    """WebSockets that are none, or lead nowhere."""
    way = (await _joined(http))["url"].replace("ws://", "http://")
    base, _, token = way.partition("?token=")
    tries: Mapping[str, tuple[str, dict[str, str]]] = {
        "no token": (base, {}),
        "a token of a megabyte": (f"{base}?token={'t' * 60_000}", {}),
        "many tokens": (f"{base}?" + "&".join(f"token={token[:-1]}" for _ in range(50)), {}),
        "no thread": (f"{url}/api/bot/nothing/ws?token={token}", {}),
        "another version": (way, {"Sec-WebSocket-Version": "8"}),
        "no key": (way, {"Sec-WebSocket-Key": ""}),
        "a key that is none": (way, {"Sec-WebSocket-Key": "\u00e9" * 100}),
        "a header of 60 kB": (base, {"X-Long": "a" * 60_000}),
        "extensions of nonsense": (
            base,
            {"Sec-WebSocket-Extensions": "permessage-deflate; x=" + "y" * 5_000},
        ),
        "a method that does not go": (f"{url}/api/bot/join", {}),
    }
    wrong = []
    for name, (where, headers) in tries.items():
        async with wire.upgraded(where, headers) as (_, status):
            if not 400 <= status < 500:
                wrong.append(f"{name}: {status}")
    found.none(f"of {len(tries)} bad handshakes, those not refused with 4xx", wrong)


async def _frames(url: str, http: httpx.AsyncClient, scale: Scale, found: Findings) -> None:
    """Calls whose callers send what nobody should; somebody else's call is held beside them."""
    wrong: list[str] = []
    sent = hostile.frames(scale.random())
    names = list(sent)
    for start in range(0, len(names), 9):
        batch = names[start : start + 9]
        wrong += [
            said
            for said in await asyncio.gather(*(_framed(name, sent[name], http) for name in batch))
            if said
        ]
        if said := await _unwell(http):
            wrong.append(f"after {batch}: {said}")
    found.none(f"of {len(sent)} calls with bad frames, those that hung or failed", wrong)


async def _framed(name: str, pieces: Iterator[bytes], http: httpx.AsyncClient) -> str | None:
    joined = await _joined(http)
    async with wire.upgraded(joined["url"].replace("ws://", "http://")) as (line, status):
        if status != 101:
            return f"{name}: the handshake was answered {status}"
        reading = asyncio.create_task(line.answer(CALL_SECS + 25))

        async def send() -> None:
            for piece in pieces:
                if reading.done() or not await line.send(piece):
                    return
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        answer = await reading
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return None if answer.closed else f"{name}: still open after {CALL_SECS + 25} s"


async def _slow(url: str) -> list[str]:
    """Many connections that begin to say something: each must be ended by the service."""

    async def crawl(name: str) -> str | None:
        async with wire.connected(url) as line:
            answering = asyncio.create_task(line.answer(SLOW_SECS))
            for piece in hostile.slow(name):
                if answering.done() or not await line.send(piece):
                    break
                await asyncio.sleep(0.5)
            answer = await answering
        return None if answer.closed else f"{name}: after {SLOW_SECS:g} s"

    kinds = ("silent", "half a line", "half a head", "half a body")
    kept = await asyncio.gather(*(crawl(kinds[n % 4]) for n in range(SLOW_AT_ONCE)))
    return [said for said in kept if said]


async def _schemathesis(
    folder: Path,
    url: str,
    standing: Vendors,
    http: httpx.AsyncClient,
    scale: Scale,
    found: Findings,
) -> None:
    """The whole OpenAPI, by the tool that is made for it, in a process of its own."""
    report, config = folder / "schemathesis.json", folder / "schemathesis.toml"
    thread = (await _joined(http))["url"].split("/api/bot/")[1].split("/")[0]
    agent = (await http.post("/api/agents", json={"name": "fuzzed"})).raise_for_status().json()
    config.write_text(CONFIG.format(thread=thread, agent=agent["id"]))
    described = (await http.get("/openapi.json")).raise_for_status().json()["paths"]
    # With a time to spend it goes on until that is spent; without, until all has been tried once.
    much = ("--max-time", "240", "--max-examples", "400")
    secs = scale.pick(240, 120)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run"),
        f"{url}/openapi.json",
        *("--header", f"Authorization: Bearer {standing.api_key}"),
        *("--header", f"X-API-Key: {standing.api_key}"),
        *("--checks", CHECKS, "--exclude-checks", NOT_CHECKED),
        *scale.pick(much, ("--max-examples", "10")),
        *(
            "--seed",
            str(scale.seed),
            "--request-timeout",
            str(ANSWER_SECS),
            "--continue-on-failure",
        ),
        *("--report", "json", "--report-json-path", str(report), "--no-color"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(secs + 60):
            said, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    text = said.decode()
    lines = [line.strip() for line in text.splitlines()]
    cases = next((line for line in lines if " generated, " in line), f"none: {text[-300:]}")
    operations = sum(map(len, described.values()))
    found.holds("schemathesis tested every operation", operations, _tested(lines))
    found.holds(
        f"schemathesis's verdict ({cases})", "0, none", f"{process.returncode}, {_failures(lines)}"
    )


def _tested(lines: list[str]) -> int:
    return next((int(line.split()[1]) for line in lines if line.startswith("Tested:")), 0)


def _failures(lines: list[str]) -> str:
    """What failed, and the operations it failed at."""
    kinds = [line for line in lines if line.startswith("❌ ST")]
    return "; ".join([*kinds, *filter(None, map(_operation, lines))]) if kinds else "none"


def _operation(line: str) -> str | None:
    """Of the head of a report's section."""
    found = re.fullmatch(r"_+ ([A-Z]+ /\S*) _+", line)
    return found and found[1]


async def _joined(http: httpx.AsyncClient) -> dict[str, str]:
    body = {
        "max_duration_secs": CALL_SECS,
        "bot": {"greeting": "Hi."},
        "insights": {"enabled": False},
    }
    answer = await http.post("/api/bot/join", json=body)
    connection: dict[str, str] = answer.raise_for_status().json()["connection"]
    return connection


async def _open(http: httpx.AsyncClient) -> list[str]:
    """The threads that still wait for somebody."""
    found: list[str] = []
    params: dict[str, Any] = {"status": "created", "limit": 200}
    while True:
        page = (await http.get("/api/threads", params=params)).json()
        found += [thread["workflow_thread_id"] for thread in page["threads"]]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


def _memory(host: Host) -> float:
    """Of the process and its children, in MB."""
    everybody = [host.process, *host.process.children(recursive=True)]
    total = 0
    for process in everybody:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / (1 << 20)


def _unforeseen(host: Host) -> list[str]:
    """What Flow logged as an error: each is something that nobody thought of.

    The web server's own word about what it could not read is left out, as is Pipecat's.
    """
    return [
        str({name: line.get(name) for name in ("event", "path", "error", "exception")})[:300]
        for line in host.log
        if line.get("level") in {"error", "critical"}
        and line.get("event") != "pipecat"
        and not str(line.get("logger")).startswith(("uvicorn", "websockets"))
    ]
