"""Requests that say one thing to Flow and another to a vendor, or more than can be counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flow.domain.gateway import operations
from flow.domain.gateway.operations import Operation, protocol_of
from flow.domain.gateway.request import GatewayRequest
from flow.errors import Refused
from flow.gateway.bodies import FormBody, JsonBody
from flow.gateway.headers import attributing_headers, passed_query, properties_of
from flow.gateway.plan import MOST_TOKENS, Asked
from tests.gateway.conftest import Caller
from tests.gateway.test_bytes import ANSWER
from tests.gateway.test_refusals import a_body, nothing_was_done
from tests.gateway.wire import whole

CHAT = "/v1/chat/completions"
over_http = pytest.mark.asyncio(loop_scope="module")


def asked(operation: Operation, fields: dict[str, Any]) -> Asked:
    body = JsonBody.parse(json.dumps(fields).encode())
    return Asked(operation, body, 0, "application/json")


@pytest.mark.parametrize(
    ("operation", "fields", "most"),
    [
        (operations.CHAT, {"max_tokens": 9}, 9),
        (operations.CHAT, {"max_tokens": 9.0}, 9),
        (operations.CHAT, {"max_tokens": 9, "n": 3}, 27),
        (operations.CHAT, {"max_tokens": 9, "n": -3}, 9),
        (operations.CHAT, {"max_tokens": 9, "n": True}, 9),
        (operations.CHAT, {"max_completion_tokens": 1, "max_tokens": 9}, 9),
        (operations.CHAT, {"max_completion_tokens": 1, "max_tokens": -1}, None),
        (operations.CHAT, {"max_completion_tokens": 1, "max_tokens": None}, 1),
        (operations.CHAT, {"max_tokens": -1}, None),
        (operations.CHAT, {"max_tokens": 0}, None),
        (operations.CHAT, {"max_tokens": True}, None),
        (operations.CHAT, {"max_tokens": "9"}, None),
        (operations.CHAT, {"max_output_tokens": 1}, None),
        (operations.RESPONSES, {"max_output_tokens": 9, "max_tokens": 1}, 9),
        (operations.MESSAGES, {"max_tokens": 9, "max_completion_tokens": 1}, 9),
        (operations.CHAT, {"max_tokens": 10**400}, MOST_TOKENS),
        (operations.CHAT, {"max_tokens": 9, "n": 10**400}, MOST_TOKENS),
        (operations.CHAT, {}, None),
    ],
)
def test_what_limits_an_answer(
    operation: Operation, fields: dict[str, Any], most: int | None
) -> None:
    assert asked(operation, fields).most_output == most


def a_form(*heads: bytes, boundary: bytes = b"x") -> bytes:
    parts = [b"--%s\r\n%s\r\n\r\nvalue\r\n" % (boundary, head) for head in heads]
    return b"".join([*parts, b"--%s--\r\n" % boundary])


NAMED = b"Content-Disposition: form-data; name="
MODEL = NAMED + b'"model"'
FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (a_form(NAMED + b'"x"\r\n' + MODEL, MODEL), FORM),
        (a_form(NAMED + b'"x"; name="model"', MODEL), FORM),
        (a_form(NAMED + b"\"x\"; name*=utf-8''model", MODEL), FORM),
        (a_form(NAMED + b'"x"; name*0="mo"; name*1="del"', MODEL), FORM),
        (a_form(NAMED + b'"Model"', MODEL), FORM),
        (a_form(NAMED + b'"model "', MODEL), FORM),
        (a_form(NAMED + b'"mo\\del"', MODEL), FORM),
        (a_form(NAMED + b'"mod%65l"', MODEL), FORM),
        (a_form(NAMED + b'"x"\n\n' + MODEL, MODEL), FORM),
        (a_form(NAMED + b'"x"\r\n\r\na\n--x\n' + MODEL + b"\n\nother\n", MODEL), FORM),
        (a_form(MODEL), FORM + "; boundary=y"),
        (a_form(MODEL), FORM + "; boundary*=utf-8''y"),
    ],
)
def test_forms_that_can_be_read_in_two_ways(body: bytes, content_type: str) -> None:
    with pytest.raises(Refused) as raised:
        FormBody.parse(body, content_type)
    assert raised.value.code == "malformed_request"


def test_names_of_files_are_free() -> None:
    head = NAMED + b'"file"; filename="a; name=\\"b\\".wav"'
    assert FormBody.parse(a_form(head, MODEL), FORM).fields == {
        "file": b"value",
        "model": b"value",
    }


def request(query: bytes = b"", **headers: bytes) -> GatewayRequest:
    raw = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    key: Any = None
    return GatewayRequest(key, frozenset(), None, "id", raw, query)


@pytest.mark.parametrize(
    ("query", "passed"),
    [
        (b"", ""),
        (b"beta=true", "beta=true"),
        (b"api-version=preview&x=%2F&x=", "api-version=preview&x=%2F&x="),
        (b"key=theirs&beta=true&fields=choices", "beta=true"),
        (b"%6bey=theirs&$fields=choices&access_token=a&API-Key=b", ""),
    ],
)
def test_what_of_a_query_goes_on(query: bytes, passed: str) -> None:
    assert passed_query(request(query)) == passed


@pytest.mark.parametrize(
    "said",
    [
        b'{"a":1e999}', b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"\\ud800":1}',
        b'{"a":%s}' % (b"9" * 40),
        b'{"a":%s}' % (b"[" * 99 + b"]" * 99), b'{"a":%s' % (b"[" * 9_999), b"[]", b"\xff",
    ],
)  # fmt: skip
def test_properties_that_some_parser_would_refuse_are_none(said: bytes) -> None:
    assert properties_of(request(x_posthog_properties=said)) == {}


def test_a_gateway_behind_is_told_nothing_of_posthogs_own() -> None:
    said = request(x_posthog_properties=b'{"$ai_total_cost_usd":0,"a":1}')
    said.headers.append((b"x-posthog-property-$ai_model", b"x"))  # type: ignore[attr-defined]
    assert {name.lower(): value for name, value in attributing_headers(said)} == {
        "x-posthog-properties": '{"a": 1}'
    }


@pytest.mark.parametrize("product", ["GATEWAY", "..", "a b", "ä", "a\nb", "x" * 99])
def test_every_product_is_of_the_protocol(product: str) -> None:
    assert protocol_of(f"/{product}{CHAT}") is operations.Protocol.OPENAI
    assert protocol_of(f"/{product}/v1/messages") is operations.Protocol.ANTHROPIC


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/GATEWAY" + CHAT, a_body(), 403, "unknown_product"),
        ("/a%00b" + CHAT, a_body(), 403, "unknown_product"),
        (CHAT, b'{"n":' + b"9" * 5_000 + b"}", 400, "malformed_request"),
        (CHAT, a_body("groq/" + "x" * 600), 422, "invalid_request"),
        (CHAT, a_body("groq/" + "ü" * 150), 422, "invalid_request"),
    ],
)
@over_http
async def test_requests_that_cannot_be_counted(
    caller: Caller, path: str, body: bytes, status: int, code: str
) -> None:
    answer = await caller.http.post(path, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    await nothing_was_done(caller)


@over_http
async def test_under_a_budget_a_limit_holds_or_is_none(caller: Caller) -> None:
    await caller.budget("1")
    for limit in (10**30, 10**400, -1):
        answer = await caller.http.post(CHAT, content=a_body(max_tokens=limit))
        assert answer.status_code < 500
    answer = await caller.http.post(CHAT, content=a_body(service_tier="no-such-tier"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_unpriced")
    answer = await caller.http.post(CHAT, content=a_body(service_tier="auto", max_tokens=9))
    assert answer.status_code == 200


@over_http
async def test_json_goes_on_as_json(caller: Caller) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    for kinds in ([], ["text/plain; charset=utf-16"], ["application/json", "text/x"]):
        headers = [("content-type", kind) for kind in kinds]
        await caller.http.post(CHAT, content=a_body("groq/m"), headers=headers)
    sent = [request.headers["content-type"] for request in caller.world.wire.requests]
    assert sent == ["application/json"] * 3
    form, twice = a_form(MODEL), [("content-type", FORM), ("content-type", "text/plain")]
    answer = await caller.http.post("/v1/audio/transcriptions", content=form, headers=twice)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")
