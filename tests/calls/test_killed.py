"""A service process that dies in a call: the next one brings its usage to the ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from flow.db.functions import Database
from flow.sandbox.caller import call
from flow.sandbox.conversation import CallerEvent, EventKind
from flow.sandbox.reconcile import reconcile
from flow.sandbox.vendors import Vendors
from tests.calls.conftest import SECRET
from tests.calls.test_call import JOIN, LONG, stood_in


class Process:
    """A ``flow serve`` of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)


@asynccontextmanager
async def process(standing: Vendors, database_url: str, folder: Path) -> AsyncIterator[Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        **standing.environment,
        "DATABASE_URL": database_url,
        "FLOW_DATA_DIR": str(folder),
        "FLOW_SECRET": SECRET,
        "FLOW_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-c", "from flow.cli import main; main()", "serve"]
    running = await asyncio.create_subprocess_exec(*command, "--port", str(port), env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        await _ready(url)
        yield Process(running, url)
    finally:
        with suppress(ProcessLookupError):
            running.terminate()
        await asyncio.wait_for(running.wait(), 40)


async def _ready(url: str) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as http:
        while True:
            with suppress(httpx.TransportError):
                if (await http.get(f"{url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("speaking_secs", [0.2, 3.0], ids=["at-once", "in-mid-reply"])
async def test_a_killed_process_loses_no_usage(
    speaking_secs: float, database: Database, postgres_url: str, tmp_path: Path
) -> None:
    script = replace(LONG, token_secs=0.05)
    loop = asyncio.get_running_loop()
    thread_id = ""
    async with stood_in(script) as standing:
        async with process(standing, postgres_url, tmp_path) as first:
            said = False

            def hear(event: CallerEvent) -> None:
                nonlocal said, thread_id
                if event.kind is EventKind.JOINED:
                    thread_id = event.detail
                said = said or event.kind is EventKind.LINE_ENDED
                if said and event.kind is EventKind.BOT_STARTED:
                    loop.call_later(speaking_secs, first.kill)

            with suppress(Exception):
                await call(first.url, standing.api_key, script, join=JOIN, on_progress=hear)
        async with asyncio.timeout(5):
            lines = await standing.openai.bill.settled()
        async with process(standing, postgres_url, tmp_path):
            async with asyncio.timeout(20):
                while any(spool.stat().st_size for spool in tmp_path.glob("spool/*.jsonl")):
                    await asyncio.sleep(0.1)
            thread = await database.get_workflow_thread_data(UUID(thread_id))
            rows = await database.get_thread_usage(thread.id)
    assert [one for one in reconcile(rows, lines) if not one.agrees] == []
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    (generation,) = [row for row in rows if row["kind"] == "llm"]
    assert (generation["provenance"], generation["outcome"]) == ("estimated", "interrupted")
    total = sum((Decimal(row["total_cost_usd"]) for row in rows), Decimal(0))
    assert Decimal(thread.usage_stats["total_cost_usd"]) == total > 0
