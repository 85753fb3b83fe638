"""Pipecat's own JavaScript clients in Chromium, on a page of another origin than the service's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Browser

from flow.domain.calls.thread import Status, Thread
from tests.browser.conftest import QUESTION, REPLIES, SECOND, House, talking
from tests.calls.conftest import Serving

pytestmark = pytest.mark.asyncio(loop_scope="session")

GREETING = "Good morning to you."
LAST = REPLIES[-1]
TRANSPORTS = pytest.mark.parametrize("transport", ["webrtc", "websocket"])
SECRETS = ["openai", "gpt", "whisper", "token", "cost", "usd", "tts-", "characters"]
START = """(endpoint, key, requestData) => {
    const headers = new Headers({Authorization: `Bearer ${key}`});
    return talk.client.startBotAndConnect({endpoint, headers, requestData});
}"""
POST = """(url) => talk.refusal(() => fetch(url, {
    method: "POST", body: "{}", headers: {"Content-Type": "application/json"}
}))"""


async def joined(served: Serving, transport: str, rtvi: Any = True) -> tuple[str, dict[str, Any]]:
    """A thread, and the parameters that a customer's own server gives to its page."""
    join = {"transport": {"type": transport, "rtvi": rtvi}, "bot": {"greeting": GREETING}}
    answer = await served.http.post("/api/bot/join", json=join)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    return body["workflow_thread_id"], body["connection"]["connect_params"]


def words(events: list[Any]) -> str:
    return " ".join(one["text"] for one in events)


def said_in(thread: Thread) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in thread.transcript]


@TRANSPORTS
async def test_a_caller_talks_is_understood_interrupts_and_hangs_up(
    house: House, browser: Browser, transport: str
) -> None:
    served = house.served
    async with talking(browser, house.site, transport) as talk:
        thread_id, params = await joined(served, transport)
        await talk.connect(params)
        await talk.until("botStoppedSpeaking")
        await talk.say(QUESTION)
        await talk.until_bot_said("Yes, we are.")
        await talk.say(SECOND)
        await talk.until_bot_said(LAST)
        events = await talk.page.evaluate("talk.events")
        heard = [one["text"] for one in await talk.events("userTranscript") if one["final"]]
        bot_transcript = words(await talk.events("botTranscript"))
        loudest = await talk.page.evaluate("talk.loudest")
        await talk.run("() => talk.client.disconnect()")
        thread = await served.settled(thread_id)
        await house.conserved()
    assert heard == [QUESTION, SECOND]
    assert LAST in bot_transcript
    assert loudest > 0.01
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    greeting, question, reply, second, last = said_in(thread)
    assert (greeting, question) == (("assistant", GREETING), ("user", QUESTION))
    assert (second, last) == (("user", SECOND), ("assistant", LAST))
    assert reply[0] == "assistant"
    assert thread.transcript[2].interrupted
    shown = json.dumps(events).lower()
    assert [secret for secret in SECRETS if secret in shown] == []
    assert [one for one in events if one["event"] == "metrics"] == []


@TRANSPORTS
async def test_a_page_with_a_key_starts_a_bot_as_with_pipecats_own_runner(
    house: House, browser: Browser, transport: str
) -> None:
    served = house.served
    async with talking(browser, house.site, transport) as talk:
        asked = {"transport": transport, "body": {"bot": {"greeting": GREETING}}}
        await talk.run(START, f"{served.url}/start", served.vendors.api_key, asked)
        [ready] = await talk.events("botReady")
        await talk.until_bot_said(GREETING)
        await talk.run("() => talk.client.disconnectBot()")
        listed = (await served.http.get("/api/threads", params={"limit": 1})).json()
        thread = await served.settled(listed["threads"][0]["workflow_thread_id"])
    assert ready["capabilities"]["metrics"] is False
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")


async def test_text_is_a_turn_where_the_join_allows_it_and_latencies_are_shown_where_it_asks(
    house: House, browser: Browser
) -> None:
    served = house.served
    async with talking(browser, house.site, "webrtc") as talk:
        thread_id, params = await joined(served, "webrtc", {"allow": ["text"], "metrics": True})
        await talk.connect(params)
        await talk.until("botStoppedSpeaking")
        await talk.run("(text) => talk.client.sendText(text)", QUESTION)
        await talk.until_bot_said("Yes, we are.")
        await talk.say(SECOND)
        await talk.until_bot_said(LAST)
        metrics, told = await talk.events("metrics"), await talk.events("serverMessage")
        refusal = await talk.run(
            "() => talk.refusal(() => talk.client.sendClientRequest('secrets', {}))"
        )
        # What the page has is a join's token, no key.
        end = params["webrtcRequestParams"]["endpoint"].replace("/offer", "/end")
        ended = await talk.run("(url) => fetch(url, {method: 'POST'}).then((r) => r.json())", end)
        thread = await served.settled(thread_id)
        await house.conserved()
    assert ended["end_requested"] is True
    assert "not allowed" in refusal
    assert ("user", QUESTION) in said_in(thread)
    assert thread.end_reason == "ended_by_api"
    values = [one for each in metrics for values in each.values() for one in values]
    assert {one["processor"] for one in values} == {"stt", "llm", "tts"}
    assert {name for one in values for name in one} == {"processor", "value"}
    assert [one["type"] for one in told] == ["turn-latency"]
    assert thread.transcript[-1].latency is not None
    assert told[0]["secs"] == thread.transcript[-1].latency.total_secs


async def test_a_page_of_an_origin_that_is_not_named_sees_nothing(
    house: House, browser: Browser
) -> None:
    async with talking(browser, house.other, "webrtc") as talk:
        _, params = await joined(house.served, "webrtc")
        for url in (params["webrtcRequestParams"]["endpoint"], f"{house.served.url}/start"):
            assert await talk.run(POST, url) == "Failed to fetch"
