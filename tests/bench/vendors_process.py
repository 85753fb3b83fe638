"""The vendors' stand-ins, with as many API keys as are asked for."""

from __future__ import annotations

import asyncio
import logging

from flow.sandbox.all_vendors import vendors
from tests.bench.processes import say, task_given, until_dismissed

KEY = "flow_bench_key_{}_not_a_secret"


async def main() -> None:
    """Run them until nobody needs them any more."""
    logging.disable()  # callers who hang up in mid-request are no news
    keys = [KEY.format(n) for n in range(task_given()["keys"])]
    async with vendors() as running:
        for n, key in enumerate(keys):
            running.unkey.add_key(key, name=f"bench {n}", team_id=f"team_{n}")
        say({"environment": dict(running.environment), "keys": keys})
        await until_dismissed()


if __name__ == "__main__":
    asyncio.run(main())
