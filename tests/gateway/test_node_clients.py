"""Clients in JavaScript against the gateway: the vendors' own SDKs, and Vercel's AI SDK.

Each is a program in ``tests/node``, run once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flow.sandbox.faults import Fault
from tests.gateway.conftest import PATIENCE_SECS, REPLY, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE = Path(__file__).parents[1] / "node"
COME_AGAIN_SECS = 1
TOOL = "find_booking"


async def run(program: str, *arguments: str) -> Any:
    """What a program prints."""
    if shutil.which("node") is None or not (NODE / "node_modules" / "ai").exists():
        pytest.skip("Node or the packages in tests/node are missing: run `make node`")
    process = await asyncio.create_subprocess_exec(
        "node",
        program,
        *arguments,
        cwd=NODE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def spent(caller: Caller) -> str:
    """A key whose team has used up its quota."""
    other = await caller.world.caller()
    operating = caller.world.service.database.operating
    await operating.set_team_quota(other.key.team_id, "ai_credits", Decimal(0))
    return other.secret


def busy_once(skip: int = 0) -> Fault:
    """A vendor that has no room for one request."""
    headers = {"retry-after": str(COME_AGAIN_SECS)}
    return Fault(kind="status", status=429, headers=headers, times=1, skip=skip)


def refused(*codes: str) -> list[dict[str, Any]]:
    """What a program tells of errors of the kinds that it expects."""
    return [{"isKind": True, "code": code} for code in codes]


async def test_openais_sdk(caller: Caller) -> None:
    # The ninth request that gets to OpenAI.
    caller.world.vendors.openai.faults.add(busy_once(skip=8))
    said = await run("openai_sdk.mjs", caller.world.url, caller.secret, await spent(caller))
    assert {said[name] for name in ("whole", "streamed", "image", "response")} == {REPLY}
    assert (said["tool"], said["arguments"], said["structured"]) == (TOOL, "string", "string")
    assert said["embeddings"] == [1536, 1536]
    assert said["speechBytes"] > 1000
    assert said["heard"]
    assert said["models"] is True
    after = [one.pop("after") for one in said["refusals"]]
    assert said["refusals"] == refused(
        "invalid_api_key", "model_not_allowed", "model_not_found", "invalid_request",
        "quota_exceeded",
    )  # fmt: skip
    assert after[-1] > 0
    assert (said["afterWaiting"], said["waitedSecs"] >= COME_AGAIN_SECS) == (REPLY, True)
    rows = await caller.conserved(11)
    assert (rows[0]["id"], rows[0]["request_id"]) == (said["eventId"], said["requestId"])
    assert rows[1]["lines"][-1]["quantity"] == str(said["streamedUsage"])
    assert [row["failure"]["http_status"] for row in rows if row["failure"]] == [429]


async def test_anthropics_sdk(caller: Caller) -> None:
    caller.world.vendors.models["anthropic"].faults.add(busy_once(skip=5))
    said = await run("anthropic_sdk.mjs", caller.world.url, caller.secret, await spent(caller))
    told = {said[name] for name in ("whole", "streamed", "image", "afterWaiting")}
    assert told == {REPLY}
    assert (said["tool"], said["arguments"], said["models"]) == (TOOL, "string", True)
    assert said["counted"] > 0
    assert said["refusals"] == refused(
        "invalid_api_key", "unknown_product", "model_not_found", "quota_exceeded"
    )
    assert said["waitedSecs"] >= COME_AGAIN_SECS
    rows = await caller.conserved(6)
    assert rows[0]["id"] == said["eventId"]
    assert [row["failure"]["http_status"] for row in rows if row["failure"]] == [429]


async def test_vercels_ai_sdk_calls_tools_in_three_protocols(caller: Caller) -> None:
    said = await run("vercel_ai_sdk.mjs", caller.world.url, caller.secret)
    rows = await caller.conserved(6)
    for one, first in zip(said, (0, 2, 4), strict=True):
        assert (one["tool"], one["result"], one["text"]) == (TOOL, "string", REPLY)
        assert one["streamed"] > 1
        outputs = [
            int(line["quantity"])
            for row in rows[first : first + 2]
            for line in row["lines"]
            if line["unit"] == "output_tokens"
        ]
        assert sum(outputs) == one["outputTokens"]
