"""P3: what metering costs. P7: how many calls one process carries. P8: and several processes.
P10: what one more call takes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.bench import processes, world
from tests.bench.measure import Measure, Options, at_least, at_most, middle, not_judged

LAG_MS = 60.0
STEPS = {"default": range(4, 29, 2), "flow": range(8, 65, 4)}


@asynccontextmanager
async def _stage() -> AsyncIterator[dict[str, Any]]:
    """What every task of calls holds."""
    async with world.database() as url, world.vendors() as vendors, world.folder() as folder:
        yield {
            "environment": vendors["environment"],
            "database_url": url,
            "folder": str(folder),
        }


async def _calls(
    stage: Mapping[str, Any], pipeline: str, calls: int, secs: float
) -> dict[str, Any]:
    return await processes.ask(
        "calls_process", {**stage, "pipeline": pipeline, "calls": calls, "secs": secs}
    )


async def metering(options: Options) -> list[Measure]:
    """P3: the CPU time of calls with metering, ledger, capture and session, against without."""
    calls, secs = options.pick((4, 20.0), (1, 2.0))
    ratios, cpu = [], []
    async with _stage() as stage:
        for _ in range(options.pick(options.rounds, 1)):
            bare = await _calls(stage, "bare", calls, secs)
            flow = await _calls(stage, "flow", calls, secs)
            ratios.append(flow["cpu_secs"] / bare["cpu_secs"])
            cpu.append((flow["cpu_secs"], bare["cpu_secs"]))
    per_minute = 60 / (secs * calls)
    return [
        at_most(
            "P3",
            "CPU of a call, metered / bare",
            middle(ratios),
            1.02,
            "x",
            flow_cpu_secs_a_minute=round(middle([one for one, _ in cpu]) * per_minute, 2),
            bare_cpu_secs_a_minute=round(middle([one for _, one in cpu]) * per_minute, 2),
            rounds=[round(ratio, 3) for ratio in ratios],
        )
    ]


async def at_once(options: Options) -> list[Measure]:
    """P7: the most calls at which audio is on time, found by halving what is left.

    On a machine with other work audio is late for reasons of its own; what a call costs in CPU
    time, of which a process has one core's, says as much and is steadier.
    """
    async with _stage() as stage:
        measures = [await _cost(stage, options)]
        if options.quick:
            return measures
        found, seen = {}, {}
        for name, steps in STEPS.items():
            found[name], seen[name] = await _most(stage, name, steps)
    what = "calls at once on time, Flow's metered / Pipecat's default"
    details: dict[str, Any] = {f"{name}_calls": most for name, most in found.items()}
    details |= {f"{name}_lag_ms_by_calls": lags for name, lags in seen.items()}
    if not all(found.values()):
        why = "audio is late with a few calls: the machine is busy with other work"
        return [*measures, not_judged("P7", what, why, **details)]
    return [*measures, at_least("P7", what, found["flow"] / found["default"], 2.0, "x", **details)]


async def _cost(stage: Mapping[str, Any], options: Options) -> Measure:
    calls, secs = options.pick((3, 10.0), (1, 1.5))
    cpu = []
    for _ in range(options.pick(options.rounds, 1)):
        answers = [await _calls(stage, name, calls, secs) for name in ("default", "flow")]
        cpu.append(tuple(answer["cpu_secs"] * 60 / secs / calls for answer in answers))
    return at_least(
        "P7",
        "CPU of a call, Pipecat's default / Flow's metered",
        middle([theirs / ours for theirs, ours in cpu]),
        2.0,
        "x",
        default_cpu_secs_a_minute=round(middle([theirs for theirs, _ in cpu]), 2),
        flow_cpu_secs_a_minute=round(middle([ours for _, ours in cpu]), 2),
    )


async def workers(options: Options) -> list[Measure]:
    """P8: as many calls in each of N processes as fit into one."""
    cores = os.cpu_count() or 1
    what = "calls at once, N processes / one"
    if cores < 3 or options.quick:
        why = f"needs N cores and one for the vendors' stand-ins; here are {cores}"
        return [not_judged("P8", what, why)]
    count = cores - 1
    async with _stage() as stage:
        most, _ = await _most(stage, "flow", STEPS["flow"])
        each = most
        while each > 1:
            answers = await asyncio.gather(
                *(_calls(stage, "flow", each, 10.0) for _ in range(count))
            )
            if all(_lag(answer) <= LAG_MS for answer in answers):
                break
            each -= 1
    ratio = each * count / max(most, 1)
    return [at_least("P8", what, ratio, 0.9 * count, "x", processes=count, one=most, each=each)]


async def one_more(options: Options) -> list[Measure]:
    """P10: the memory of one more call, and the time until it is ready."""
    calls = options.pick(6, 1)
    memory, setup = [], []
    async with _stage() as stage:
        for _ in range(options.pick(options.rounds, 1)):
            answers = {name: await _calls(stage, name, calls, 1.0) for name in STEPS}
            memory.append(tuple(_growth(answers[name], calls) for name in ("flow", "default")))
            setup.append(tuple(middle(answers[n]["setup_ms"]) for n in ("flow", "default")))
    return [
        at_most(
            "P10",
            "memory of one more call",
            middle([ours / theirs for ours, theirs in memory]),
            0.2,
            "x",
            flow_mb=round(middle([ours for ours, _ in memory]), 1),
            default_mb=round(middle([theirs for _, theirs in memory]), 1),
        ),
        at_most(
            "P10",
            "time from connect to a running pipeline",
            middle([ours / theirs for ours, theirs in setup]),
            0.15,
            "x",
            flow_ms=round(middle([ours for ours, _ in setup]), 1),
            default_ms=round(middle([theirs for _, theirs in setup]), 1),
        ),
    ]


async def _most(stage: Mapping[str, Any], name: str, steps: range) -> tuple[int, dict[str, float]]:
    """The most calls of ``steps`` with audio on time, and the p95 lags (ms) seen on the way.

    The steps are halved again and again, so that few runs are needed and their time is bounded.
    A number of calls is too many when audio is late twice: once may be the machine's doing.
    """
    lags: dict[str, float] = {}
    fit, too_many = 0, len(steps)
    while fit < too_many:
        middle_one = (fit + too_many) // 2
        calls = steps[middle_one]
        for _ in range(2):
            lag = round(_lag(await _calls(stage, name, calls, 10.0)), 1)
            lags[str(calls)] = min(lag, lags.get(str(calls), lag))
            if lag <= LAG_MS:
                break
        if lags[str(calls)] <= LAG_MS:
            fit = middle_one + 1
        else:
            too_many = middle_one
    return (steps[fit - 1] if fit else 0), dict(sorted(lags.items(), key=lambda one: int(one[0])))


def _lag(answer: Mapping[str, Any]) -> float:
    return float(max(answer["heard_p95_ms"], answer["played_p95_ms"]))


def _growth(answer: Mapping[str, Any], calls: int) -> float:
    before, after, _ = answer["memory_mb"]
    return float(max((after - before) / calls, 0.01))
