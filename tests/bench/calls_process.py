"""Calls at once in one process. Its task: ``pipeline``, ``calls``, ``secs``, ``environment`` of
the vendors, and for metered calls ``database_url`` and ``folder``.

It tells of the process's CPU time while all calls were running, of lags, of memory before and
after, and of how long each call took from being connected to being ready.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop
from pipecat.pipeline.worker import PipelineWorker
from pipecat.workers.runner import WorkerRunner
from pydantic import SecretStr

from flow.bot.calls.lease import CallLease
from flow.bot.cost_control import Spending
from flow.bot.pipeline import BotSettings, build_pipeline
from flow.bot.session import CallSession
from flow.bot.speech_detection import USUAL_STOP_SECS, ListeningModels, SharedVAD
from flow.bot.transports.spec import SPEECH
from flow.bot.vendors import vendors_by_part
from flow.bot.warmup import rehearse
from flow.db.database import Database, Recorded
from flow.db.postgres_transport import PostgresTransport
from flow.domain.calls.ending import EndReason
from flow.domain.calls.join_request import JoinRequest
from flow.domain.pricing.pricer import Pricer
from flow.domain.products.product_file import read_products
from flow.domain.usage.token_estimates import warm_up
from flow.ledger.recorder import Recorder
from flow.sandbox.speech.synthesis import recordings
from flow.telemetry import logs as log
from flow.vendors.openai_client import openai_endpoint
from flow.vendors.posthog import capture_llm_generation, get_posthog_client, shutdown_posthog
from tests.bench import lines
from tests.bench.measure import percentile
from tests.bench.processes import say, task_given, until_dismissed
from tests.call_tools import UNUSED_TOOLS

UTTERANCE = "Hello, are you open today? I would like to come by in the afternoon."
CYCLE_SECS = 10
JOIN = JoinRequest.model_validate(
    {
        "bot": {
            "greeting": lines.GREETING,
            "llm": {"provider": "openai", "model": "gpt-4.1"},
            "stt": {"provider": "openai", "model": "gpt-4o-transcribe"},
            "tts": {"provider": "openai", "model": "gpt-4o-mini-tts", "voice": "alloy"},
        },
        "max_duration_secs": 1800,
    }
)

Start = Callable[[lines.Lags, bytes], Awaitable["Call"]]


class Call:
    """One running call, ``begun`` when its caller connected; ``stop`` hangs up."""

    def __init__(
        self,
        begun: float,
        task: asyncio.Task[Any],
        worker: PipelineWorker,
        stop: Callable[[], Any],
    ) -> None:
        self._task = task
        self._stop = stop
        self.begun = begun
        self.ready = asyncio.Event()

        async def started(*_: Any) -> None:
            self.ready.set()

        worker.add_event_handler("on_pipeline_started", started)

    async def end(self) -> None:
        """Hang up and wait until all is over."""
        result = self._stop()
        if result is not None:
            await result
        await asyncio.wait({self._task}, timeout=10)


def unmetered(
    make: Callable[[lines.Stage, lines.Microphone], PipelineWorker], *, takes_in_directly: bool
) -> Start:
    """Calls that are a pipeline alone."""

    async def start(lags: lines.Lags, speech: bytes) -> Call:
        begun = time.perf_counter()
        microphone = lines.Microphone(speech, lags)
        stage = lines.Stage(microphone, lags, takes_in_directly=takes_in_directly)
        worker = make(stage, microphone)
        lines.greet(stage, worker)
        runner = WorkerRunner(handle_sigint=False, check_dangling_tasks=False)
        await runner.add_workers(worker)
        return Call(begun, asyncio.create_task(runner.run()), worker, worker.cancel)

    return start


class _Watched(ListeningModels):
    """The same models, whose next analyzer notes what it hears."""

    microphone: lines.Microphone

    def vad(self, stop_secs: float = USUAL_STOP_SECS) -> SharedVAD:
        analyzer = super().vad(stop_secs)
        self.microphone.watched(analyzer)
        return analyzer


@asynccontextmanager
async def metered(task: dict[str, Any]) -> AsyncIterator[Start]:
    """Calls as Flow runs them: metered, recorded in the ledger, captured at PostHog."""
    environment = task["environment"]
    price = Pricer.read(None).price
    posthog = get_posthog_client(
        SecretStr(environment["POSTHOG_API_KEY"]),
        environment["POSTHOG_HOST"],
        capture_content=False,
    )
    database = Database(await PostgresTransport.open(task["database_url"]))
    key = await database.resolve_api_key(f"key_{uuid4().hex}", "team_bench", "bench")

    def on_recorded(events: Any, recorded: Recorded) -> None:
        for event in events:
            capture_llm_generation(posthog, event)

    spool = Path(task["folder"]) / uuid4().hex
    recorder = Recorder(database, spool, price=price, on_recorded=on_recorded)
    recorder.start()
    openai = openai_endpoint(
        SecretStr(environment["OPENAI_API_KEY"]), environment["OPENAI_BASE_URL"]
    )
    models = await asyncio.to_thread(_Watched, "silence")
    settings = BotSettings({"openai": openai}, models, 600.0, "estimate", None, UNUSED_TOOLS)
    product = read_products(None, vendors_by_part()).for_call("voice_bot")
    models.microphone = lines.Microphone(b"", lines.Lags())
    await rehearse(JOIN, settings, product)

    async def start(lags: lines.Lags, speech: bytes) -> Call:
        models.microphone = microphone = lines.Microphone(speech, lags)
        stage = lines.Stage(microphone, lags, takes_in_directly=True)
        joined = await database.join_thread(
            key, uuid4(), JOIN, billable=True, idempotency_key=None, fingerprint=""
        )
        owner = joined.thread.owner
        begun = time.perf_counter()
        await database.claim_thread(joined.thread.id, "bench")
        spending = Spending(product, cache_key=str(joined.thread.id))
        line = build_pipeline(JOIN, owner, stage, SPEECH, recorder, settings, spending)
        touch = partial(database.touch_thread, joined.thread.id)
        unused: Any = None
        lease = CallLease(
            joined.thread, JOIN, unused, unused, touch=touch, end=unused, claim="bench/1"
        )
        session = CallSession(lease, line, stage, recorder, spending)
        running = asyncio.create_task(session.run())
        return Call(begun, running, line.worker, lambda: session.end(EndReason.ENDED_BY_API))

    yield start
    await recorder.close()
    await openai.close()
    await shutdown_posthog(posthog)
    await database.close()


@asynccontextmanager
async def starting(task: dict[str, Any]) -> AsyncIterator[Start]:
    """How the calls of this task are started, after one that warms the process up."""
    environment = task["environment"]
    if task["pipeline"] == "flow":
        async with metered(task) as start:
            yield start
        return
    if task["pipeline"] == "bare":
        models = ListeningModels("silence")
        yield unmetered(
            lambda stage, mic: lines.bare_worker(stage, mic, environment, models),
            takes_in_directly=True,
        )
    else:
        yield unmetered(
            lambda stage, mic: lines.default_worker(stage, mic, environment),
            takes_in_directly=False,
        )


async def main() -> None:
    """Start the calls one after another, watch them all for a while, and hang up."""
    log.set_up("warning", "json", content=False)
    task = task_given()
    speech = recordings([UTTERANCE], sample_rate=lines.RATE_IN)[UTTERANCE]
    cycle = (speech + bytes(2 * lines.RATE_IN * CYCLE_SECS))[: 2 * lines.RATE_IN * CYCLE_SECS]
    await asyncio.to_thread(warm_up)
    lags = lines.Lags()
    calls: list[Call] = []
    setups: list[float] = []
    async with starting(task) as start:
        first = await _timed(start, lags, cycle, setups)
        before = _memory_mb()
        for n in range(task["calls"]):
            turn = (n * 2 * lines.RATE_IN * CYCLE_SECS // max(task["calls"], 1)) & ~1
            calls.append(await _timed(start, lags, cycle[turn:] + cycle[:turn], setups))
        after = _memory_mb()
        await first.end()
        await asyncio.sleep(task.get("settle_secs", 2.0))
        lags.measuring = True
        cpu, begun = time.process_time(), time.monotonic()
        await asyncio.sleep(task["secs"])
        cpu, wall = time.process_time() - cpu, time.monotonic() - begun
        lags.measuring = False
        settled = _memory_mb()
        await asyncio.gather(*(call.end() for call in calls))
    say(
        {
            "cpu_secs": cpu,
            "wall_secs": wall,
            "heard_p95_ms": percentile(lags.heard, 95) * 1000,
            "played_p95_ms": percentile(lags.played, 95) * 1000,
            "heard": len(lags.heard),
            "seconds_played": lags.seconds_played,
            "setup_ms": [1000 * secs for secs in setups[1:]],
            "first_setup_ms": 1000 * setups[0],
            "memory_mb": (before, after, settled),
        }
    )
    await until_dismissed()


async def _timed(start: Start, lags: lines.Lags, speech: bytes, setups: list[float]) -> Call:
    call = await start(lags, speech)
    async with asyncio.timeout(30):
        await call.ready.wait()
    setups.append(time.perf_counter() - call.begun)
    return call


def _memory_mb() -> float:
    """What this process alone holds: pages that it has written to."""
    kb = 0
    with open("/proc/self/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith(("Private_Dirty:", "Private_Clean:", "Swap:")):
                kb += int(line.split()[1])
    return kb / 1024


if __name__ == "__main__":
    if os.environ.get("FLOW_BENCH_LOOP") == "asyncio":
        asyncio.run(main())
    else:
        uvloop.run(main())
