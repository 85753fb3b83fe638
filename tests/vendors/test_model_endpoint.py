"""Clients for OpenAI and its likes: whose request a gateway is told it serves.

The real SDK runs over a pool that answers from memory, so that every header can be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import httpx2
import openai
import pytest
from pydantic import SecretStr

from flow.domain.usage.events import CostControl, Owner
from flow.domain.usage.owner_labels import HEADER_NAMES, attribution_headers
from flow.errors import ConfigurationError
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import openai_client, openai_endpoint
from tests.events import an_owner

OWNER = an_owner()
KEY = SecretStr("sk-test")
GATEWAY = "http://gateway.example/v1"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4.1-2025-04-14",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
}


class Pool:
    """A connection pool that keeps what was sent and answers what it is told to."""

    def __init__(self, answer: Callable[[httpx2.Request], httpx2.Response] | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer or (lambda request: httpx2.Response(200, json=ANSWER))
        self.client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._keep))

    def _keep(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answer(request)

    def attribution(self, index: int = -1) -> dict[str, str]:
        headers = self.requests[index].headers
        return {name: value for name, value in headers.multi_items() if name in HEADER_NAMES}


def client_of(endpoint: Endpoint, owner: Owner = OWNER, **options: object) -> openai.AsyncOpenAI:
    return openai_client(endpoint, endpoint.transport(owner), **options)


async def say_hi(client: openai.AsyncOpenAI, **options: object) -> None:
    await client.chat.completions.create(
        model="gpt-4.1", messages=[{"role": "user", "content": "hi"}], **options
    )


@pytest.mark.parametrize(
    ("base_url", "told"),
    [
        (None, False),
        ("https://api.openai.com/v1", False),
        ("https://eu.api.openai.com/v1", False),
        (GATEWAY, True),
        ("https://gateway.us.posthog.com/v1", True),
        ("https://api.openai.com.attacker.example/v1", True),
    ],
)
async def test_a_gateway_is_told_whose_request_it_serves_and_openai_is_not(base_url, told):
    pool = Pool()
    await say_hi(client_of(openai_endpoint(KEY, base_url, pool=pool.client)))
    assert pool.attribution() == (attribution_headers(OWNER, CostControl()) if told else {})


async def test_every_request_carries_it_and_a_client_serves_one_owner_only():
    pool = Pool()
    endpoint = openai_endpoint(KEY, GATEWAY, pool=pool.client)
    other = replace(OWNER, team_id="other")
    mine, theirs = client_of(endpoint, OWNER), client_of(endpoint, other)
    await say_hi(mine)
    await say_hi(theirs)
    await mine.models.with_raw_response.list()
    sent = [pool.attribution(index) for index in range(3)]
    assert sent == [attribution_headers(owner, CostControl()) for owner in (OWNER, other, OWNER)]


async def test_the_operators_own_headers_are_kept(monkeypatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: blue\nX-Route: a:b")
    pool = Pool()
    await say_hi(client_of(openai_endpoint(KEY, GATEWAY, pool=pool.client)))
    headers = pool.requests[0].headers
    assert (headers["x-team"], headers["x-route"]) == ("blue", "a:b")
    assert headers["authorization"] == "Bearer sk-test"
    assert pool.attribution() == attribution_headers(OWNER, CostControl())


async def test_on_the_wire_existing_headers_come_first_and_ours_after(monkeypatch):
    spoofed = 'X-PostHog-Property-$ai_billable: false\nX-PostHog-Properties: {"budget_tier": "ok"}'
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Team: blue\n{spoofed}")
    pool, saved = Pool(), CostControl(True, "budget_engage", "engage")
    endpoint = openai_endpoint(KEY, GATEWAY, pool=pool.client)
    client = openai_client(endpoint, endpoint.transport(OWNER, lambda: saved))
    await say_hi(client, extra_headers={"x-posthog-property-save_mode": "false"})
    sent = list(pool.requests[0].headers.multi_items())
    ours = list(attribution_headers(OWNER, saved).items())
    assert sent[-len(ours) :] == ours
    assert not {name for name, _ in sent[: -len(ours)]} & set(HEADER_NAMES)
    assert ("x-team", "blue") in sent


async def test_a_gateway_is_told_what_holds_when_the_request_is_sent():
    pool, control = Pool(), [CostControl(), CostControl(True, "budget_engage", "engage")]
    endpoint = openai_endpoint(KEY, GATEWAY, pool=pool.client)
    client = openai_client(endpoint, endpoint.transport(OWNER, iter(control).__next__))
    for _ in control:
        await say_hi(client)
    told = [pool.attribution(index) for index in range(2)]
    assert told == [attribution_headers(OWNER, each) for each in control]


@pytest.mark.parametrize("base_url", [GATEWAY, None])
async def test_nobody_can_speak_for_another_team(monkeypatch, base_url):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-PostHog-Property-Team_ID: victim")
    pool = Pool()
    client = client_of(openai_endpoint(KEY, base_url, pool=pool.client))
    await say_hi(client, extra_headers={"x-posthog-property-TEAM_ID": "victim"})
    assert pool.attribution() == (attribution_headers(OWNER, CostControl()) if base_url else {})


async def test_a_value_that_is_unset_is_not_sent():
    pool = Pool()
    endpoint = openai_endpoint(KEY, GATEWAY, pool=pool.client)
    await say_hi(client_of(endpoint, replace(OWNER, team_id="")))
    assert "x-posthog-property-team_id" not in pool.requests[0].headers
    assert pool.attribution() == attribution_headers(replace(OWNER, team_id=""), CostControl())


async def test_a_team_name_cannot_add_a_header():
    pool = Pool()
    endpoint = openai_endpoint(KEY, GATEWAY, pool=pool.client)
    await say_hi(client_of(endpoint, replace(OWNER, team_id="a\r\nX-Evil: 1\x00é")))
    assert "x-evil" not in pool.requests[0].headers
    assert pool.attribution()["x-posthog-property-team_id"] == "a%0D%0AX-Evil: 1%00%C3%A9"


async def test_a_redirect_to_another_host_is_told_nothing():
    def elsewhere(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "gateway.example":
            return httpx2.Response(307, headers={"location": "http://other.example/v1/x"})
        return httpx2.Response(200, json=ANSWER)

    pool = Pool(elsewhere)
    await say_hi(client_of(openai_endpoint(KEY, GATEWAY, pool=pool.client)))
    assert [request.url.host for request in pool.requests] == ["gateway.example", "other.example"]
    assert pool.attribution(0) == attribution_headers(OWNER, CostControl())
    assert pool.attribution(1) == {}
    assert "authorization" not in pool.requests[1].headers


async def test_another_vendor_gets_nothing_that_is_meant_for_openai(monkeypatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer secret\nX-Route: a")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    pool = Pool()
    endpoint = openai_endpoint(KEY, GATEWAY, pool=pool.client)
    vendor = endpoint.elsewhere(SecretStr("gsk-other"), "https://vendor.example/openai/v1")
    await say_hi(client_of(vendor, is_other_vendor=True))
    sent = pool.requests[0]
    assert str(sent.url) == "https://vendor.example/openai/v1/chat/completions"
    assert sent.headers["authorization"] == "Bearer gsk-other"
    assert not {"x-route", "openai-organization", "openai-project"} & sent.headers.keys()
    assert pool.attribution() == {}


async def test_the_environment_does_not_choose_the_base_url(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://attacker.example")
    pool = Pool()
    await say_hi(client_of(openai_endpoint(KEY, pool=pool.client)))
    assert pool.requests[0].url.host == "api.openai.com"


@pytest.mark.parametrize("key", [None, SecretStr(""), SecretStr("  ")])
def test_without_a_key_there_are_no_endpoint(key):
    with pytest.raises(ConfigurationError):
        openai_endpoint(key)


async def test_closing_a_client_leaves_the_others_their_connections():
    pool = Pool()
    endpoint = openai_endpoint(KEY, GATEWAY, pool=pool.client)
    first, second = client_of(endpoint, OWNER), client_of(endpoint, OWNER)
    await first.close()
    await say_hi(second)
    await endpoint.close()
    with pytest.raises(openai.APIConnectionError):
        await say_hi(client_of(endpoint, OWNER, max_retries=0))


@pytest.mark.parametrize(
    ("base_url", "captures"),
    [
        (None, False),
        (GATEWAY, False),
        ("https://gateway.posthog.com/v1", True),
        ("https://GATEWAY.us.posthog.com/v1", True),
        ("https://gateway.us.posthog.com.attacker.example", False),
    ],
)
def test_whether_the_gateway_captures_by_itself(base_url, captures):
    assert openai_endpoint(KEY, base_url, pool=Pool().client).gateway_captures is captures
