"""A process that captures many events at once at the PostHog of a URL, and says what that took."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from decimal import Decimal

import psutil
from pydantic import SecretStr

from flow.domain.usage.events import Cost, Quantities
from flow.sandbox.posthog.app import PROJECT_KEY
from flow.telemetry import logs as log
from flow.vendors.posthog import capture_llm_generation, get_posthog_client, shutdown_posthog
from tests.events import an_event, an_owner

ROUNDS = 3


async def main(url: str, events: int) -> None:
    """Capture ``events`` in each of three rounds, on the event loop, as the recorder does."""
    log.set_up("critical", "json", content=False)
    logging.disable()
    lost: list[int] = []
    client = get_posthog_client(SecretStr(PROJECT_KEY), url, on_lost=lambda _, n: lost.append(n))
    assert client is not None
    owner = an_owner(team_id="team")
    memory = [_memory()]
    longest = cpu = 0.0
    for n in range(ROUNDS * events):
        event = an_event(
            owner,
            quantities=Quantities(input_tokens=100, output_tokens=20),
            cost=Cost(input_tokens=Decimal("0.0002"), output_tokens=Decimal("0.00016")),
        )
        begun, begun_cpu = time.perf_counter(), time.thread_time()
        capture_llm_generation(client, event)
        cpu += time.thread_time() - begun_cpu
        longest = max(longest, time.perf_counter() - begun)
        if n % 100 == 0:
            await asyncio.sleep(0)
        if (n + 1) % events == 0:
            memory.append(_memory())
    begun = time.perf_counter()
    await shutdown_posthog(client)
    answer = {
        "cpu_ms": 1000 * cpu / (ROUNDS * events),
        "longest_ms": 1000 * longest,
        "memory_mb": memory,
        "lost": sum(lost),
        "shutdown_secs": time.perf_counter() - begun,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _memory() -> float:
    return float(psutil.Process().memory_info().rss) / (1 << 20)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
