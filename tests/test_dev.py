"""``flow dev``: a service on this machine that can be joined with any vendor stood in for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow import dev
from flow.demo.stacks import MODELS
from flow.domain.calls.bot_part import BotPart
from flow.errors import ConfigurationError
from flow.sandbox.all_vendors import API_KEY
from flow.sandbox.model_vendors import MODEL_VENDORS
from tests.ports import free_port

PROGRAM = "from flow.cli import main; main()"
START_SECS = 120.0


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Open to the user Postgres runs as, and short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="flow-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def developing(data_dir: Path, **named: str) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """``flow dev`` with the vendors ``named`` in its environment, and its banner, at whose end it
    listens."""
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "FLOW_DATA_DIR": str(data_dir), **named}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "dev", "--no-reload", "--port", str(port)),
        env=environment,
        stdout=PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECS):
            said = (await process.stdout.readuntil(b"FLOW_DEV_KEY")).decode()
            url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {API_KEY}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
                assert (await client.get("/readyz")).is_success
                yield client, said
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.parametrize(
    ("broken", "said"), [(OSError("no port is free"), "no port is free"), (None, "TimeoutError")]
)
def test_stand_ins_that_do_not_start_are_told(
    monkeypatch: pytest.MonkeyPatch, broken: Exception | None, said: str
) -> None:
    @asynccontextmanager
    async def vendors(**_: object) -> AsyncIterator[None]:
        if broken is not None:
            raise broken
        await asyncio.sleep(3)
        yield

    monkeypatch.setattr(dev, "vendors", vendors)
    monkeypatch.setattr(dev, "START_SECS", 0.1 if broken is None else 30)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(ConfigurationError, match=f"stand-ins did not start: {said}"):
        dev.run(port=free_port(), reload=False)


def stood_in(said: str) -> set[str]:
    return set(re.findall(r"stand-in for +(\w+) +http://127\.0\.0\.1:\d+/_sandbox/\w+", said))


async def test_every_model_that_is_stood_in_for_can_be_joined_with(data_dir: Path) -> None:
    asked: list[dict[str, Any]] = [
        {part.value: {"provider": vendor, "model": model}}
        for part in BotPart
        for vendor, model in MODELS[part].items()
    ]
    async with developing(data_dir) as (client, said):
        joins = [await client.post("/api/bot/join", json={"bot": bot}) for bot in asked]
    assert stood_in(said) == {*MODEL_VENDORS, "unkey", "posthog"}
    assert [(join.status_code, join.text) for join in joins if join.status_code != 201] == []


async def test_a_vendor_that_the_environment_names_is_not_stood_in_for(data_dir: Path) -> None:
    named = {"DEEPGRAM_API_KEY": "a key", "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:9/openai/v1"}
    own = {"FLOW_SECRET": "s" * 32, "FLOW_DIAL_PREFIXES": "+49", "CARTESIA_API_KEY": ""}
    async with developing(data_dir, **named, **own) as (client, said):
        assert (await client.get("/api/limits")).is_success
        assert (await client.get("/")).headers["location"] == "/talk"
        # As the banner says, for another terminal.
        environment = data_dir / "env"
        assert f". {environment}" in said
        assert "export there as here: AZURE_OPENAI_ENDPOINT, DEEPGRAM_API_KEY" in said
        assert "a key" not in environment.read_text()
        assert own["FLOW_SECRET"] not in environment.read_text()
        assert stat.S_IMODE(environment.stat().st_mode) == 0o600
        keys = await _in_shell(f". {environment}; flow keys list --json")
        called = await _in_shell(
            f". {environment}; echo $FLOW_DEV_URL $FLOW_DEV_KEY $FLOW_DIAL_PREFIXES"
        )
        assert called.split() == [str(client.base_url), API_KEY, own["FLOW_DIAL_PREFIXES"]]
    assert stood_in(said) == {*MODEL_VENDORS, "unkey", "posthog"} - {"deepgram", "azure"}
    assert [key["name"] for key in json.loads(keys)["keys"]] == ["sandbox"]
    assert not environment.exists()


async def _in_shell(line: str) -> str:
    """What a line says in a shell that knows nothing of Flow."""
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", line), env={"PATH": "/usr/bin:/bin"}, stdout=PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "flow", "dev", "--port", port], capture_output=True, text=True
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Port {port} cannot be listened on" in done.stderr
