"""P9: how long until the service is ready, and until the command line answers.

The CPU time of both is shown beside: on a machine that does other work it says more.
"""

from __future__ import annotations

import time

from tests.bench import processes, world
from tests.bench.cpu import children_secs, cpu_secs
from tests.bench.measure import Measure, Options, at_most, middle


async def starting(options: Options) -> list[Measure]:
    """``flow serve`` on a migrated database, and ``flow --help``, each a process of its own."""
    ready, ready_cpu, answers, answers_cpu = [], [], [], []
    async with world.database() as url, world.vendors() as vendors:
        # Not measured: it leaves Python's compiled files, and the tables of the workflows.
        async with world.service(url, vendors["environment"]):
            pass
        for _ in range(options.pick(options.rounds, 1)):
            begun = time.perf_counter()
            async with world.service(url, vendors["environment"]) as served:
                ready.append(time.perf_counter() - begun)
                ready_cpu.append(cpu_secs(served.pid))
            spent, begun = children_secs(), time.perf_counter()
            async with processes.command(["--help"], {}) as child:
                await child.communicate()
                answers.append(time.perf_counter() - begun)
            answers_cpu.append(children_secs() - spent)
    serve, answer = round(middle(ready_cpu), 2), round(middle(answers_cpu), 2)
    return [
        at_most("P9", "flow serve is ready", middle(ready), 5.0, "s", cpu_secs=serve),
        at_most("P9", "flow --help", middle(answers), 0.4, "s", cpu_secs=answer),
    ]
