"""P11: how long callers wait for the bot over a real WebSocket, against a plain Pipecat pipeline
on the same stand-ins; how many turns end too soon; and how fast the bot falls silent."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any
from uuid import uuid4

import httpx

from flow.domain.calls.latency import TurnLatency
from tests.bench import processes, world
from tests.bench.measure import Measure, Options, at_most, middle, percentile
from tests.bench.talking import Heard, talk
from tests.bench.utterances import UTTERANCES, recorded

AT_ONCE = 10
BARGE_INS = 5
STACK = {
    "stt": {"provider": "deepgram", "model": "nova-3"},
    "tts": {"provider": "cartesia", "model": "sonic-3"},
}


class Run:
    """Some calls at once, and what came of them.

    Args:
        heard: what each caller heard.
        turns: how many turns of the callers each call was taken to have.
        waits: what each thread says of its replies; nothing of a plain pipeline.
    """

    def __init__(
        self, heard: Sequence[Heard], turns: int, waits: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.waits_ms = [wait * 1000 for one in heard for wait in one.waits]
        self.barge_ins_ms = [secs * 1000 for one in heard for secs in one.barge_ins]
        self.utterances = len(self.waits_ms) + len(self.barge_ins_ms)
        self.early = max(turns - self.utterances, sum(wait < 0 for wait in self.waits_ms))
        self._waits = waits

    def wait_ms(self, percent: float) -> float:
        """A percentile of the waits."""
        return percentile(self.waits_ms, percent)

    @property
    def parts_ms(self) -> dict[str, float]:
        """The median of each part of a wait, as the threads have them."""
        return {
            part: round(middle([wait[f"{part}_secs"] for wait in self._waits]) * 1000)
            for part in TurnLatency().parts
        }


class _Flow:
    """Calls of the service."""

    def __init__(self, port: int, key: str, turn_detection: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False
        )
        self._turn_detection = turn_detection

    async def run(self, calls: int, count: int, parts: Mapping[str, bytes], barge_ins: int) -> Run:
        body = {"bot": {**STACK, "turn_detection": self._turn_detection}}
        joins = [
            (await self._http.post("/api/bot/join", json=body)).raise_for_status().json()
            for _ in range(calls)
        ]
        urls = [join["connection"]["url"] for join in joins]
        heard = await _talking(urls, count, parts, barge_ins)
        turns, waits = 0, []
        for join in joins:
            thread = await self._settled(join["workflow_thread_id"])
            turns += sum(turn["role"] == "user" for turn in thread["transcript"])
            waits += thread["latency"]["turns"]
        return Run(heard, turns, waits)

    async def _settled(self, thread_id: str) -> Any:
        async with asyncio.timeout(60):
            while True:
                answer = await self._http.get(f"/api/threads/{thread_id}")
                thread = answer.raise_for_status().json()
                if thread["status"] in {"completed", "failed"}:
                    return thread
                await asyncio.sleep(0.2)


async def turns(options: Options) -> list[Measure]:
    """A call of Flow's beside one of the plain pipeline's; then ten of each, one after the other.

    Calls with Smart Turn, which was not made for a synthetic voice, are among the details.
    """
    count, at_once = options.pick((len(UTTERANCES), AT_ONCE), (2, 2))
    barge_ins = options.pick(BARGE_INS, 1)
    parts = await asyncio.to_thread(recorded)
    async with (
        world.database() as database,
        processes.running("lifelike_process", {}) as vendors,
        world.service(database, vendors["environment"] | {"FLOW_MAX_CALLS": "20"}) as served,
    ):
        flow = {
            name: _Flow(served.port, vendors["key"], name)
            for name in options.pick(("silence", "smart"), ("silence",))
        }
        # The first call of a process is slower than those after it.
        await flow["silence"].run(1, 1, parts, 0)
        one, plain = await _both(
            flow["silence"].run(1, count, parts, barge_ins),
            _plain(vendors, "silence", 1, count, parts, barge_ins),
        )
        many = await flow["silence"].run(at_once, max(count // 3, 1), parts, 0)
        plain_many = await _plain(vendors, "silence", at_once, max(count // 3, 1), parts, 0)
        others = {}
        if "smart" in flow:
            smart, plain_smart = await _both(
                flow["smart"].run(1, count // 2, parts, 0),
                _plain(vendors, "smart", 1, count // 2, parts, 0),
            )
            others = {
                "smart_ms": round(smart.wait_ms(50)),
                "plain_smart_ms": round(plain_smart.wait_ms(50)),
            }
    return [
        *_waits("one call", one, plain, **others),
        *_waits(f"{at_once} calls at once", many, plain_many),
        at_most(
            "P11",
            "turns that end too soon",
            100 * one.early / one.utterances,
            2,
            "%",
            utterances=one.utterances,
            plain_percent=round(100 * plain.early / plain.utterances, 1),
        ),
        at_most(
            "P11",
            "from the caller's barge-in to the last of the bot, p50",
            percentile(one.barge_ins_ms, 50),
            300,
            "ms",
            plain_ms=round(percentile(plain.barge_ins_ms, 50)),
        ),
    ]


def _waits(calls: str, flow: Run, plain: Run, **others: Any) -> list[Measure]:
    what = f"voice to voice, {calls}"
    return [
        at_most("P11", f"{what}, p50", flow.wait_ms(50), 800, "ms", **flow.parts_ms, **others),
        at_most("P11", f"{what}, p95", flow.wait_ms(95), 1_000, "ms"),
        at_most(
            "P11",
            f"{what}, Flow / plain Pipecat, p50",
            flow.wait_ms(50) / plain.wait_ms(50),
            0.6,
            "x",
            plain_ms=round(plain.wait_ms(50)),
            plain_p95_ms=round(plain.wait_ms(95)),
        ),
    ]


async def _both(flow: Coroutine[Any, Any, Run], plain: Coroutine[Any, Any, Run]) -> tuple[Run, Run]:
    async with asyncio.TaskGroup() as group:
        ours, theirs = group.create_task(flow), group.create_task(plain)
    return ours.result(), theirs.result()


async def _plain(
    vendors: Mapping[str, Any],
    detection: str,
    calls: int,
    count: int,
    parts: Mapping[str, bytes],
    barge_ins: int,
) -> Run:
    task = {"environment": vendors["environment"], "turns": detection}
    async with processes.running("plain_process", task) as ready:
        base = f"127.0.0.1:{ready['port']}"
        await _talking([f"ws://{base}/calls/first"], 1, parts, 0)
        names = [uuid4().hex for _ in range(calls)]
        heard = await _talking(
            [f"ws://{base}/calls/{name}" for name in names], count, parts, barge_ins
        )
        async with httpx.AsyncClient(trust_env=False) as http:
            said = (await http.get(f"http://{base}/turns")).json()
    return Run(heard, sum(len(said[name]) for name in names))


async def _talking(
    urls: Sequence[str], count: int, parts: Mapping[str, bytes], barge_ins: int
) -> list[Heard]:
    """All calls at once, each beginning a little after the one before, as calls do."""

    async def after(n: int, url: str) -> Heard:
        await asyncio.sleep(0.37 * n)
        shifted = [UTTERANCES[(n + at) % len(UTTERANCES)] for at in range(count)]
        return await talk(url, shifted, parts, interruptions=barge_ins)

    return list(await asyncio.gather(*(after(n, url) for n, url in enumerate(urls))))
