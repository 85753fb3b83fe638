"""P2: a join against a request to LiteLLM's proxy, which has virtual keys and spend in Postgres.

LiteLLM is no dependency of Flow: `FLOW_BENCH_LITELLM` names the ``litellm`` of an environment of
its own (docs/internals/speed.md says how to make one). Its requests go to a virtual key and a model
with a ``mock_response``: what is compared is admission and accounting, and no vendor.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

from psycopg.conninfo import conninfo_to_dict

from flow.db.embedded import embedded_postgres
from tests.bench import world
from tests.bench.cpu import postmaster_of
from tests.bench.join import KEYS, Target, joining, numbers, ratio, request, rounds, warm
from tests.bench.measure import Measure, Options, at_least, at_most, not_judged
from tests.ports import free_port

LITELLM = "FLOW_BENCH_LITELLM"
MASTER_KEY = "sk-bench-master-not-a-secret"
READY_SECS = 180.0
# Measured when Flow was designed, on a machine like that of the docs; this run has not seen it.
QUOTED = {"quoted_per_sec": "52-60", "quoted_p50_ms": 18}
WHAT = "a join against LiteLLM's proxy"
_CONFIG = {
    "model_list": [
        {
            "model_name": "mock",
            "litellm_params": {
                "model": "openai/gpt-4.1-mini",
                "api_key": "sk-nobody",
                "mock_response": "Good evening!",
            },
        }
    ],
    "general_settings": {"master_key": MASTER_KEY},
}


class _NotStarted(Exception):
    """The proxy did not come up with its database; says why."""


async def proxy(options: Options) -> list[Measure]:
    """The same load on both in turn, each with a Postgres of its own, one process each."""
    command = os.environ.get(LITELLM)
    if not command:
        return [not_judged("P2", WHAT, f"not run: {LITELLM} names no litellm", **QUOTED)]
    try:
        async with (
            _proxy(command) as (theirs, key),
            world.database() as url,
            world.vendors(KEYS) as vendors,
            world.service(url, vendors["environment"]) as flow,
        ):
            body = {"model": "mock", "messages": [{"role": "user", "content": "Hello"}]}
            asked = [request("/chat/completions", key, body)]
            targets = {
                "litellm": Target(theirs.port, theirs.pid, theirs.postmaster, asked),
                "join": Target(flow.port, flow.pid, postmaster_of(url), joining(vendors["keys"])),
            }
            await warm(targets.values(), secs=1.0)
            found = await rounds(targets, options, lambda: None)
    except _NotStarted as error:
        return [not_judged("P2", WHAT, f"not run: {error}", **QUOTED)]
    names = ("join", "litellm")
    throughput = ratio(found, "join", "litellm", "per_sec")
    p50 = ratio(found, "join", "litellm", "p50_ms")
    said = numbers(found, names, "per_sec", "cpu_ms")
    return [
        at_least("P2", f"{WHAT}: throughput", throughput, 20, "x", **said),
        at_most("P2", f"{WHAT}: p50", p50, 1 / 6, "x", **numbers(found, names, "p50_ms")),
    ]


@asynccontextmanager
async def _proxy(command: str) -> AsyncIterator[tuple[Target, str]]:
    """A proxy on an empty embedded Postgres, and a virtual key of it."""
    async with world.folder() as folder, embedded_postgres(folder / "pg") as url:
        config = folder / "config.json"  # which is YAML, too
        config.write_text(json.dumps(_CONFIG))
        port, log = free_port(), folder / "log"
        environment = {
            **os.environ,
            "PATH": f"{Path(command).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "DATABASE_URL": _with_host(url),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            child = await asyncio.create_subprocess_exec(
                command, *arguments, env=environment, stdout=output, stderr=output
            )
        try:
            await _ready(port, child, log)
            key = await asyncio.to_thread(_ask, port, "/key/generate", {})
            yield Target(port, child.pid, postmaster_of(url), []), str(key["key"])
        finally:
            if child.returncode is None:
                child.terminate()
            await child.wait()


async def _ready(port: int, child: asyncio.subprocess.Process, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_SECS):
            while child.returncode is None:
                try:
                    said = await asyncio.to_thread(_ask, port, "/health/readiness")
                except OSError:
                    await asyncio.sleep(0.5)
                    continue
                if said.get("db") == "connected":
                    return
                raise _NotStarted(f"LiteLLM's database is {said.get('db')!r}")
    except TimeoutError:
        raise _NotStarted(f"LiteLLM was not ready within {READY_SECS:.0f} s") from None
    told = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise _NotStarted(f"LiteLLM ended: {told[-1][:200] if told else 'without a word'}")


def _ask(port: int, path: str, body: dict[str, str] | None = None) -> dict[str, object]:
    sent = Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"},
    )
    with build_opener(ProxyHandler({})).open(sent, timeout=10) as answer:
        return dict(json.loads(answer.read()))


def _with_host(url: str) -> str:
    """The URL of a Postgres behind a Unix socket in the spelling that Prisma reads."""
    parts = conninfo_to_dict(url)
    return (
        f"postgresql://{parts['user']}@localhost/{parts['dbname']}?host={quote(str(parts['host']))}"
    )
