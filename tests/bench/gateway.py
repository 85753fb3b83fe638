"""P12: the gateway against a bare pass-through, in front of the same vendor."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from tests.bench import processes, world
from tests.bench.cpu import cpu_secs
from tests.bench.join import Found, cap, load, numbers, ratio, request
from tests.bench.measure import Measure, Options, at_least, at_most, middle

KEYS = 8
SATURATING = 16
STREAMS = 500
PATH = "/v1/chat/completions"
BODY = {
    "model": "gpt-4.1",
    "messages": [{"role": "user", "content": "How long is the coast of Norway?"}],
    "max_tokens": 200,
}
PIECES = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
HELD = {**PIECES, "user": "held"}


@dataclass(frozen=True, slots=True)
class Target:
    """A server and what it is asked: for whole answers and for streams."""

    port: int
    pid: int
    whole: Sequence[str]
    streamed: Sequence[str]


async def requests(options: Options) -> list[Measure]:
    """The same load on both, in turn, with keys that have a budget and keys that have none."""
    async with (
        world.database() as url,
        world.vendors(2 * KEYS) as vendors,
        processes.running("model_vendor_process", {}) as vendor,
        _bare(vendor) as bare,
        world.service(url, vendors["environment"] | _leading_to(vendor)) as flow,
    ):
        free, capped = vendors["keys"][:KEYS], vendors["keys"][KEYS:]
        targets = {
            "bare": Target(bare["port"], bare["pid"], *_asked([None])),
            "gateway": Target(flow.port, flow.pid, *_asked(capped)),
            "without_budget": Target(flow.port, flow.pid, *_asked(free)),
        }
        for target in targets.values():
            await load(target.port, target.whole, connections=4, secs=1.0)
        await cap(url, f"team_{KEYS}")
        found = await _rounds(targets, options)
        count = options.pick(STREAMS, 50)
        kilobytes = await _memory(flow, capped[0], count)
    return [
        *_judged(found),
        at_most("P12", f"memory of {count} streams, each", kilobytes, 60, "kB"),
    ]


def _bare(vendor: Mapping[str, Any]) -> Any:
    url = f"http://127.0.0.1:{vendor['port']}"
    return processes.running("passthrough_process", {"url": url})


def _leading_to(vendor: Mapping[str, Any]) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"http://127.0.0.1:{vendor['port']}/v1"}


def _asked(keys: Sequence[str | None]) -> tuple[list[str], list[str]]:
    return [request(PATH, key, BODY) for key in keys], [request(PATH, key, PIECES) for key in keys]


async def _rounds(targets: Mapping[str, Target], options: Options) -> Found:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    secs = options.pick(2.0, 0.4)
    for _ in range(options.pick(options.rounds, 1)):
        for name, target in targets.items():
            await load(target.port, target.whole, connections=4, secs=0.3)
            one = await load(target.port, target.whole, connections=1, secs=secs)
            stream = await load(target.port, target.streamed, connections=1, secs=secs)
            before = cpu_secs(target.pid)
            many = await load(target.port, target.whole, connections=SATURATING, secs=secs)
            cpu = cpu_secs(target.pid) - before
            streams = await load(target.port, target.streamed, connections=SATURATING, secs=secs)
            found[name]["p50_ms"].append(one["p50_ms"])
            found[name]["first_byte_ms"].append(stream["first_byte_p50_ms"])
            found[name]["per_sec"].append(many["per_sec"])
            found[name]["streams_per_sec"].append(streams["per_sec"])
            found[name]["cpu_ms"].append(1000 * cpu / sum(many["statuses"].values()))
    return found


async def _memory(served: world.Served, key: str, count: int) -> float:
    """What one more stream takes, in kB, while so many are open."""
    body = request(PATH, key, HELD).encode()
    await _opened(served.port, body, count // 5)  # what is made once
    process = psutil.Process(served.pid)
    before = process.memory_info().rss
    writers = await _opened(served.port, body, count, is_kept=True)
    during = process.memory_info().rss
    for writer in writers:
        writer.close()
    return (during - before) / count / 1000


async def _opened(
    port: int, body: bytes, count: int, *, is_kept: bool = False
) -> list[asyncio.StreamWriter]:
    async def opened() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(body)
        await reader.readuntil(b"data: ")
        return writer

    writers = await asyncio.gather(*(opened() for _ in range(count)))
    if not is_kept:
        for writer in writers:
            writer.close()
        await asyncio.sleep(1)
    return list(writers)


def _more(found: Found, name: str, unit: str) -> float:
    """The median of what the gateway adds."""
    pairs = zip(found[name][unit], found["bare"][unit], strict=True)
    return middle([ours - bare for ours, bare in pairs])


def _judged(found: Found) -> list[Measure]:
    judged: list[Measure] = []
    for name in ("gateway", "without_budget"):
        names = (name, "bare")
        what = "" if name == "gateway" else ", a key without a budget"
        judged += [
            at_least(
                "P12",
                f"{said} a second{what}",
                ratio(found, name, "bare", unit),
                0.35,
                "x",
                **numbers(found, names, unit),
            )
            for said, unit in (("requests", "per_sec"), ("streams", "streams_per_sec"))
        ]
        judged += [
            at_most(
                "P12",
                f"{said}{what}",
                _more(found, name, unit),
                1.5,
                "ms",
                **numbers(found, names, unit),
            )
            for said, unit in (
                ("added to a request", "p50_ms"),
                ("to a first byte", "first_byte_ms"),
            )
        ]
    names = ("gateway", "bare")
    judged.append(
        at_most(
            "P12",
            "CPU of the server, a request",
            ratio(found, "gateway", "bare", "cpu_ms"),
            1 / 0.35,
            "x",
            **numbers(found, names, "cpu_ms"),
        )
    )
    return judged
