"""R5: Unkey is down, slow, refuses, or lies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.faults import Fault
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import World

FAULT = "Unkey hangs, drops, is slow, answers 401 to 500, or answers what is not so"
LONGEST_SECS = 600.0

WITHIN_SECS = 3.0
# Older than what a write takes without asking: each known key is then asked about again.
STALE_SECS = 11.0
KNOWN = "flow_chaos_known_{}_not_a_secret"
STRANGER = "flow_chaos_stranger_{}_{}_not_a_secret"


def told(data: Any) -> Fault:
    """Unkey answers 200 with this about every key."""
    body = {"meta": {"requestId": "req_1"}, "data": data} if data is not None else {"meta": {}}
    return Fault(kind="status", status=200, body=body)


GOOD = {"valid": True, "code": "VALID", "keyId": "key_of_a_lie"}
FAULTS: Mapping[str, Fault] = {
    "hangs": Fault(kind="hang"),
    "drops": Fault(kind="drop"),
    "slow": Fault(kind="delay", delay_secs=20),
    "500": Fault(kind="status", status=500),
    "429": Fault(kind="status", status=429, headers={"retry-after": "60"}),
    "401, the root key": Fault(kind="status", status=401),
    "403, the root key": Fault(kind="status", status=403),
    "404": Fault(kind="status", status=404),
    "302 elsewhere": Fault(kind="status", status=302, headers={"location": "/elsewhere"}),
    "breaks off": Fault(kind="cut", chunks=0),
    "stalls": Fault(kind="stall", chunks=0),
    "JSON that breaks off": Fault(kind="malformed"),
    "HTML with 200": Fault(kind="status", status=200, body="<html>all is well</html>"),
    "nothing with 204": Fault(kind="status", status=204, body=""),
    "a list": Fault(kind="status", status=200, body=[GOOD]),
    "no data": told(None),
    "data is null": Fault(kind="status", status=200, body={"meta": {}, "data": None}),
    "data is a list": told([GOOD]),
    "data is empty": told({}),
    "valid is 'true'": told(GOOD | {"valid": "true"}),
    "valid is 'yes'": told(GOOD | {"valid": "yes"}),
    "valid is 1": told(GOOD | {"valid": 1}),
    "valid is 1.0": told(GOOD | {"valid": 1.0}),
    "valid is null": told(GOOD | {"valid": None}),
    "valid is a list": told(GOOD | {"valid": [True]}),
    "valid, but NOT_FOUND": told(GOOD | {"code": "NOT_FOUND"}),
    "valid, but no code": told({"valid": True, "keyId": "key_of_a_lie"}),
    "valid, with a code in lower case": told(GOOD | {"code": "valid"}),
    "valid, without a key id": told({"valid": True, "code": "VALID"}),
    "valid, with an empty key id": told(GOOD | {"keyId": ""}),
    "valid, with a key id that is a number": told(GOOD | {"keyId": 7}),
    "valid, with a NUL in the key id": told(GOOD | {"keyId": "key\0x"}),
    "valid, with line ends in the team": told(
        GOOD | {"identity": {"id": "i", "externalId": "a\r\nx: y"}}
    ),
    "valid, long ago expired": told(GOOD | {"expires": 1}),
    "valid, but disabled": told(GOOD | {"enabled": False}),
    "valid, with permissions that are no list": told(GOOD | {"permissions": "budget.override"}),
    "valid, with an identity that is no object": told(GOOD | {"identity": "team_b"}),
}
"""By what is wrong: the fault. None of them is a yes."""
IN_SHORT = (
    "hangs",
    "drops",
    "500",
    "429",
    "JSON that breaks off",
    "valid is 'true'",
    "valid is 1",
    "valid, but NOT_FOUND",
    "valid, without a key id",
)


@dataclass(frozen=True, slots=True)
class Tried:
    """What a request was answered under a fault, and after how long."""

    fault: str
    status: int
    code: str
    secs: float
    retry_after: str | None

    def __str__(self) -> str:
        return f"{self.fault}: {self.status} {self.code} after {self.secs:.1f} s"


async def run(world: World, scale: Scale, found: Findings) -> None:
    faults = scale.pick(FAULTS, {name: FAULTS[name] for name in IN_SHORT})
    async with world.vendors() as standing, world.host(standing) as host:
        for n, _ in enumerate(faults):
            standing.unkey.add_key(KNOWN.format(n), name=f"known {n}", team_id="team_known")
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=host.url, timeout=30, trust_env=False, limits=limits
        ) as http:
            verified = [await _join(http, "known", KNOWN.format(n)) for n in range(len(faults))]
            assert {one.status for one in verified} == {201}, verified
            await asyncio.sleep(STALE_SECS)
            known: list[Tried] = []
            strangers: list[Tried] = []
            unasked: list[str] = []
            for n, (name, fault) in enumerate(faults.items()):
                standing.unkey.faults.add(fault)
                asked = len(standing.unkey.requests)
                of_known, *of_strangers = await asyncio.gather(
                    _join(http, name, KNOWN.format(n)),
                    *(_join(http, name, STRANGER.format(n, i)) for i in range(3)),
                    _read(http, name, STRANGER.format(n, "reader")),
                )
                known.append(of_known)
                strangers += of_strangers
                if len(standing.unkey.requests) < asked + 5:
                    unasked.append(name)
                standing.unkey.faults.clear()
            found.none(
                f"of {len(known)} keys verified within 10 minutes, those that did not go on",
                [str(one) for one in known if one.status != 201],
            )
            found.none(
                f"of {len(strangers)} unknown keys, those not answered 503 with Retry-After",
                [
                    str(one)
                    for one in strangers
                    if (one.status, one.code) != (503, "auth_unavailable") or not one.retry_after
                ],
            )
            slowest = max((*known, *strangers), key=lambda one: one.secs)
            found.within(f"the slowest answer in s ({slowest.fault})", WITHIN_SECS, slowest.secs)
            found.none("faults about which Unkey was not asked for every key", unasked)
            await asyncio.sleep(1.1)  # for so long a refusal may be remembered
            after = await _join(http, "well again", STRANGER.format(0, 0))
            found.holds(
                "a stranger, when Unkey is well again",
                "401 invalid_api_key",
                f"{after.status} {after.code}",
            )
            await _flood(http, standing, found)
        made = await world.postgres.rows(
            "select name, unkey_key_id from api_keys where unkey_key_id <> all(%(ids)s)",
            ids=[_id(standing, KNOWN.format(n)) for n in range(len(faults))],
        )
        found.none("keys let in that nobody knows", [str(row) for row in made])
        await _end_all(host.url, [KNOWN.format(n) for n in range(len(faults))])
        await conserved(found, world.postgres, standing, [host.folder])


async def _flood(http: httpx.AsyncClient, standing: Vendors, found: Findings) -> None:
    """Hundreds of made-up keys while Unkey hangs, and a known key among them."""
    standing.unkey.faults.add(Fault(kind="hang"))
    flood = [asyncio.create_task(_join(http, "flood", f"flow_flood_{n}")) for n in range(80)]
    await asyncio.sleep(0.2)
    known = await _join(http, "among a flood", KNOWN.format(0))
    answers = await asyncio.gather(*flood)
    standing.unkey.faults.clear()
    found.holds("a known key among 80 unknown ones while Unkey hangs", 201, known.status)
    found.none("of the 80, those let in", [str(one) for one in answers if one.status != 503])


async def _join(http: httpx.AsyncClient, fault: str, key: str) -> Tried:
    return await _tried(http, fault, key, "POST", "/api/bot/join")


async def _read(http: httpx.AsyncClient, fault: str, key: str) -> Tried:
    return await _tried(http, fault, key, "GET", "/api/threads")


async def _tried(http: httpx.AsyncClient, fault: str, key: str, method: str, path: str) -> Tried:
    begun = time.monotonic()
    body = {} if method == "POST" else None
    answer = await http.request(method, path, json=body, headers={"X-API-Key": key})
    secs = time.monotonic() - begun
    code = answer.json().get("code", "") if answer.content else ""
    return Tried(fault, answer.status_code, code, secs, answer.headers.get("retry-after"))


def _id(standing: Vendors, secret: str) -> str:
    from flow.sandbox.unkey.keys import hash_of

    return f"key_{hash_of(secret)[:16]}"


async def _end_all(url: str, keys: list[str]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        for key in keys:
            headers = {"X-API-Key": key}
            for thread in (await http.get("/api/threads", headers=headers)).json()["threads"]:
                await http.post(f"/api/bot/{thread['workflow_thread_id']}/end", headers=headers)
