"""Calls of customers' tools: what is sent, what is repeated, and what an answer may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from uuid import UUID, uuid4

import pytest
from starlette.responses import Response

from flow.bot.tools.http_tool import with_query
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.tools import Tool, ToolServer
from flow.vendors import tool_client
from flow.vendors.public_http import PublicTransport
from flow.vendors.tool_client import (
    MAX_ANSWER_BYTES,
    ToolCallFailed,
    ToolClient,
    ToolReply,
    ToolRequest,
)
from flow.vendors.webhook_resolver import Address
from flow.vendors.webhook_signing import new_secret

SECRET = new_secret()
PAYLOAD = json.dumps({"tool": "find", "arguments": {"name": "Ada"}})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_client, "PAUSES", (0.0, 0.0))


def request_to(
    url: str, method: str = "POST", query: str = "name=Ada", **headers: str
) -> ToolRequest:
    url = f"{url}/tools/find" + (f"?{query}" if method in ("GET", "DELETE") else "")
    return ToolRequest(uuid4(), method, url, headers, PAYLOAD, [SECRET])


async def called(answer: Any, *faults: Fault, method: str = "POST", **headers: str) -> Any:
    """What came of calling a tool that answers so, and what its server saw."""
    server = ToolServer({"find": Tool(lambda _: answer)}, SECRET)
    for fault in faults:
        server.faults.add(fault)
    network = PublicTransport(allow_private=True)
    async with Served(server) as url:
        request = request_to(url, method, **headers)
        try:
            outcome: Any = await ToolClient(network).call(request)
        except ToolCallFailed as error:
            outcome = error
    await network.aclose()
    return outcome, server, request


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "GET", "DELETE"])
async def test_a_request_is_signed_and_names_its_use(method: str) -> None:
    reply, server, request = await called({"table": 4}, method=method, authorization="Bearer x")
    assert reply == ToolReply(200, {"table": 4})
    (use,) = server.uses
    assert use.arguments == {"name": "Ada"}
    assert use.id == use.headers["webhook-id"] == str(request.id)
    assert use.headers["authorization"] == "Bearer x"


def test_an_argument_says_nothing_that_the_url_says() -> None:
    """What a schema leaves open a model may be talked into."""
    url = with_query("https://x.example/f?tenant=a&empty=#top", {"tenant": "b", "empty": 1, "n": 2})
    assert url == "https://x.example/f?tenant=a&empty=&n=2"


@pytest.mark.parametrize("own", ["q=ü", 'q="x"', "q=<a>", "q=100%", "q=it's", "q={a|b}", "a+b"])
async def test_the_query_is_signed_as_it_is_sent(own: str) -> None:
    reply, _, _ = await called(1, method="GET", query=with_query(f"/?{own}", {"name": "Ü&"})[2:])
    assert reply == ToolReply(200, 1)


async def test_what_is_signed_otherwise_is_not_taken() -> None:
    server = ToolServer({"find": Tool(lambda _: 1)}, new_secret())
    async with Served(server) as url:
        network = PublicTransport(allow_private=True)
        with pytest.raises(ToolCallFailed, match="HTTP 401"):
            await ToolClient(network).call(request_to(url))
    assert server.uses == []


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (Response(status_code=204), None),
        ([1, 2], [1, 2]),
        ("text", "text"),
        (None, None),
        (Response(json.dumps("x" * (MAX_ANSWER_BYTES - 2))), "x" * (MAX_ANSWER_BYTES - 2)),
    ],
)
async def test_any_json_is_an_answer(answer: Any, result: Any) -> None:
    reply, _, _ = await called(answer)
    assert reply.result == result


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Response(json.dumps("x" * MAX_ANSWER_BYTES)), "more than 65536 bytes"),
        (Response("<html>"), "not JSON"),
        (Response("NaN"), "not JSON"),
        (Response("[" * 70 + "]" * 70), "too deeply nested"),
        (Response("[" * 30_000), "not JSON"),
        (Response(b"\xff\xfe"), "not JSON"),
        (Response("{}", headers={"content-encoding": "gzip"}), "compressed"),
        (Response(status_code=302, headers={"location": "http://10.0.0.1/"}), "redirect"),
        (Response('{"error": "no such booking"}', 404), 'HTTP 404: {"error": "no such booking"}'),
        (Response("<html>" * 1000, 500), "HTTP 500$"),
    ],
)
async def test_whatever_else_is_told_as_a_failure(answer: Any, why: str) -> None:
    failure, server, _ = await called(answer)
    assert isinstance(failure, ToolCallFailed)
    with pytest.raises(ToolCallFailed, match=why):
        raise failure
    assert len(server.uses) == 1


LOST = (Fault(kind="drop", times=1), Fault(kind="cut", chunks=0, times=1))


@pytest.mark.parametrize("fault", [*LOST, Fault(kind="status", status=503, times=1)])
@pytest.mark.parametrize(
    ("method", "repeats"),
    [("POST", False), ("PATCH", False), ("PUT", True), ("GET", True), ("DELETE", True)],
)
async def test_a_request_whose_effect_could_double_is_not_repeated(
    fault: Fault, method: str, repeats: bool
) -> None:
    outcome, server, request = await called({"ok": True}, fault, method=method)
    assert isinstance(outcome, ToolReply if repeats else ToolCallFailed)
    assert len(server.effects) <= 1
    assert {use.id for use in server.uses} <= {str(request.id)}


async def test_a_server_that_cannot_be_reached_is_tried_again_and_nothing_was_sent() -> None:
    network = PublicTransport(allow_private=True)
    with pytest.raises(ToolCallFailed, match="cannot be reached") as caught:
        await ToolClient(network).call(request_to("http://127.0.0.1:9"))
    assert not caught.value.was_sent


class Names:
    """A name server that answers differently each time."""

    def __init__(self, *answers: str) -> None:
        self._answers = [*answers]
        self.asked = 0

    async def __call__(self, _host: str, _port: int) -> Sequence[Address]:
        self.asked += 1
        return [ip_address(self._answers.pop(0))]


@pytest.mark.parametrize(
    "url",
    ["http://tools.example.com", "https://127.0.0.1", "https://10.0.0.1", "https://[::1]",
     "https://169.254.169.254", "https://localhost", "https://2130706433", "https://tools.example.com:22"],
)  # fmt: skip
async def test_what_is_not_public_is_not_reached(url: str) -> None:
    names = Names("127.0.0.1")
    network = PublicTransport(resolve=names)
    with pytest.raises(ToolCallFailed, match="not public"):
        await ToolClient(network).call(request_to(url))


@pytest.mark.parametrize(
    ("host", "why"),
    [("x..example.com", "cannot be reached"), ("a" * 64 + ".de", "reached"), ("ⓔ.de", "not a URL")],
)
async def test_what_is_no_name_of_a_host_is_told_as_such(host: str, why: str) -> None:
    with pytest.raises(ToolCallFailed, match=why) as caught:
        await ToolClient(PublicTransport()).call(request_to(f"https://{host}"))
    assert not caught.value.was_sent


async def test_a_name_that_leads_to_a_private_address_is_not_reached() -> None:
    names = Names("10.1.2.3")
    with pytest.raises(ToolCallFailed, match="not public") as caught:
        await ToolClient(PublicTransport(resolve=names)).call(
            request_to("https://tools.example.com")
        )
    assert (names.asked, caught.value.was_sent) == (1, False)


def test_a_request_shows_no_secret() -> None:
    request = ToolRequest(
        UUID(int=0), "GET", "https://x.example.com", {"authorization": "Bearer s3cret"}, "p=s3cret",
        ["whsec_s3cret"],
    )  # fmt: skip
    assert "s3cret" not in repr(request)
