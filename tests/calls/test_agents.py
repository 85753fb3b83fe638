"""A call of a stored agent."""

from __future__ import annotations

from flow.sandbox.callers.caller import call
from tests.calls.conftest import Serve
from tests.calls.test_call import SHORT, stood_in


async def test_a_bot_says_and_is_told_what_its_variables_mean(serving: Serve) -> None:
    agent = {
        "name": "shop",
        "bot": {"system_prompt": "You work at a {{size}} shop.", "greeting": "{{greeting|Hello}}!"},
    }
    join = {"agent": "shop", "variables": {"size": "small"}}
    async with stood_in(SHORT) as standing, serving(standing) as served:
        made = (await served.http.post("/api/agents", json=agent)).raise_for_status().json()
        report = await call(served.url, standing.api_key, SHORT, join=join)
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    # The stand-in replies to SHORT's own system prompt only.
    assert [turn.content for turn in thread.transcript] == [
        SHORT.greeting,
        SHORT.lines[0].text,
        SHORT.lines[0].reply,
    ]
    assert thread.join.agent is not None
    assert (thread.join.agent.id, thread.join.agent.version) == (made["id"], 1)
    assert thread.join.variables == {"size": "small"}
