"""P9: how long until the service is ready, and until the command line answers."""

from __future__ import annotations

import time

from tests.bench import processes, world
from tests.bench.measure import Measure, Options, at_most, middle


async def starting(options: Options) -> list[Measure]:
    """``flow serve`` on a migrated database, and ``flow --help``, each a process of its own."""
    ready, answers = [], []
    async with world.database() as url, world.vendors() as vendors:
        for _ in range(options.pick(options.rounds, 1)):
            begun = time.perf_counter()
            async with world.service(url, vendors["environment"]):
                ready.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            async with processes.command(["--help"], {}) as child:
                await child.communicate()
                answers.append(time.perf_counter() - begun)
    return [
        at_most("P9", "flow serve is ready", middle(ready), 5.0, "s"),
        at_most("P9", "flow --help", middle(answers), 0.4, "s"),
    ]
