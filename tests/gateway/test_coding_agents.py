"""Requests of coding agents' command lines, as they were recorded between each and the gateway.

``coding_agents.json`` has their headers and bodies, with their texts and ids replaced and most of
their tools left out. The programs themselves are larger than all else that tests need together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import REPLY, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("coding_agents.json").read_text())


@pytest.mark.parametrize("agent", RECORDED)
async def test_an_agent_is_answered_and_accounted_for(caller: Caller, agent: str) -> None:
    recorded = RECORDED[agent]
    # As each sends its key.
    del caller.http.headers["x-api-key"]
    headers = recorded["headers"] | {"authorization": f"Bearer {caller.secret}"}
    answer = await caller.http.post(recorded["path"], json=recorded["body"], headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert REPLY.partition(" ")[0] in answer.text
    caller.http.headers["x-api-key"] = caller.secret
    (row,) = await caller.conserved(1)
    assert (row["outcome"], row["provenance"], row["stream"]) == ("ok", "reported", True)
