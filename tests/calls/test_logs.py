"""What a whole call leaves in the log: lines that say whose they are, and no word that was said."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import httpx

from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import Unasked
from flow.sandbox.faults import Fault
from tests.calls.conftest import SETTLE_SECS
from tests.calls.processes import flow_serve
from tests.calls.test_call import JOIN, SHORT, stood_in

# The bot's greeting fails.
SCRIPT = replace(SHORT, lines=(replace(SHORT.lines[0], when=Unasked(4.0)),))

# Of the process, of a key, or of nobody's call.
NOBODYS = {
    "database.connection_lost",
    "drained",
    "draining",
    "embedded_database",
    "feature_flag_available",
    "feature_flag_unavailable",
    "quota_source_absent",
    "spool_adopted",
    "workflows_run_here",
}


async def test_every_line_of_a_call_and_of_a_request_says_whose_it_is(
    postgres_url: str, tmp_path: Path
) -> None:
    async with stood_in(SCRIPT) as standing:
        standing.openai.faults.add(
            Fault(kind="cumulative_usage", route="*/chat/completions"),
            Fault(kind="status", status=500, route="*/speech", times=3),
        )
        async with flow_serve(standing, postgres_url, tmp_path, FLOW_LOG_LEVEL="debug") as serving:
            report = await call(serving.url, standing.api_key, SCRIPT, join=JOIN)
            async with httpx.AsyncClient(base_url=serving.url, trust_env=False) as http:
                await http.get("/api/threads", headers={"X-Request-Id": "mine"})
            async with asyncio.timeout(SETTLE_SECS):
                while '"insights_extracted"' not in serving.text:
                    await asyncio.sleep(0.1)
        lines, text = serving.lines, serving.text
    own = [line for line in lines if "logger" not in line and line["event"] not in NOBODYS]
    requests = [line for line in own if line["event"] == "request"]
    calls = [line for line in own if line["event"] != "request"]
    assert {line.get("workflow_thread_id") for line in calls} == {report.workflow_thread_id}
    events = {line["event"] for line in calls}
    assert events >= {"call_connected", "call_ended", "insights_extracted", "pipecat"}
    assert [line for line in requests if not line["request_id"]] == []
    (join,) = [line for line in requests if line["path"] == "/api/bot/join"]
    assert join["api_key_id"]
    assert join["workflow_thread_id"] == report.workflow_thread_id
    (anonymous,) = [line for line in requests if line["request_id"] == "mine"]
    assert "api_key_id" not in anonymous
    _nothing_was_said(text, [standing.api_key, *standing.environment.values()])


def _nothing_was_said(text: str, environment: list[str]) -> None:
    said = [SHORT.system_prompt, SHORT.greeting, SHORT.lines[0].text, SHORT.lines[0].reply]
    secrets = [value for value in environment if not value.startswith("http")]
    escaped = [json.dumps(each)[1:-1] for each in said]
    assert [each for each in (*said, *escaped, *secrets, "token=") if each in text] == []
