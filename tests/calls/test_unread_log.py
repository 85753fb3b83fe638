"""A service whose log nobody reads answers, counts what it dropped, and stops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.calls.conftest import SETTLE_SECS
from tests.calls.processes import environment_of
from tests.calls.test_call import SHORT, stood_in
from tests.ports import free_port

# More than a pipe's 64 KiB take.
REQUESTS = 600


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_service_whose_log_nobody_reads_goes_on(
    workers: int, postgres_url: str, tmp_path: Path
) -> None:
    port = free_port()
    command = ["serve", "--port", str(port), "--workers", str(workers)]
    async with stood_in(SHORT) as standing, httpx.AsyncClient(trust_env=False) as http:
        with subprocess.Popen(  # noqa: ASYNC220 - its pipe is not to be read
            [sys.executable, "-c", "from flow.cli import main; main()", *command],
            env=environment_of(standing, postgres_url, tmp_path),
            stderr=subprocess.PIPE,
        ) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                await ready(http, url)
                for _ in range(REQUESTS // 20):
                    answers = [http.get(f"{url}/api/threads") for _ in range(20)]
                    found = await asyncio.gather(*answers)
                    assert {answer.status_code for answer in found} == {401}
                metrics = (await http.get(f"{url}/metrics")).text
                process.terminate()
                assert await asyncio.to_thread(process.wait, 60) == 0
            finally:
                process.kill()
                assert process.stderr is not None
                read = process.stderr.read()
    assert "\nflow_log_lines_dropped_total " in metrics
    assert read.startswith(b"{")


async def ready(http: httpx.AsyncClient, url: str) -> None:
    async with asyncio.timeout(SETTLE_SECS):
        while True:
            try:
                if (await http.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
