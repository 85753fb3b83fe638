"""Processes of a benchmark: each has its own interpreter, so that its CPU time is its own.

A process is a module of this package. It reads its task as JSON from the first line of its
standard input, says one JSON line when it is ready or done, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LONGEST_LINE = 1 << 22
READY_SECS = 120.0
STOP_SECS = 20.0


@asynccontextmanager
async def running(module: str, task: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """A process for as long as the block lasts; yields what it said when it was ready."""
    child = await _start(["-m", f"tests.bench.{module}"], {})
    try:
        yield await _told(child, task)
    finally:
        await _stop(child)


async def ask(module: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """What a process says of its task."""
    async with running(module, task) as answer:
        return answer


@asynccontextmanager
async def command(
    arguments: list[str], environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """``flow`` with these arguments; it is told to stop at the end of the block."""
    start = "from flow.cli import main; main()"
    child = await _start(["-c", start, *arguments], environment)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        await _stop(child)


def task_given() -> dict[str, Any]:
    """In a process: its task."""
    return dict(json.loads(sys.stdin.readline()))


def say(answer: Mapping[str, Any]) -> None:
    """In a process: its one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def until_dismissed() -> None:
    """In a process: wait until nobody needs it any more."""
    await asyncio.to_thread(sys.stdin.read)


async def _start(arguments: list[str], extra: Mapping[str, str]) -> asyncio.subprocess.Process:
    # Where Python may not keep what it compiled, every start would compile all of it.
    own = ("FLOW_", "OPENAI_", "UNKEY_", "POSTHOG_", "SUPABASE_", "DATABASE_")
    own += ("PYTHONDONTWRITEBYTECODE",)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
        cwd=ROOT,
        env={**kept, **extra},
    )


async def _told(child: asyncio.subprocess.Process, task: Mapping[str, Any]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(task).encode() + b"\n")
    await child.stdin.drain()
    async with asyncio.timeout(READY_SECS):
        line = await child.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the benchmark failed with exit code {await child.wait()}")
    return dict(json.loads(line))


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.stdin is not None:
        child.stdin.close()
    try:
        async with asyncio.timeout(STOP_SECS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
