"""Whatever is sent, the answer is a clear refusal: never a crash, a hang or a bloated process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flow.api.body_limits import MAX_BODY_BYTES, MAX_HEADERS
from flow.api.request_bodies import MAX_DEPTH, read_object
from flow.domain.calls.join_request import JoinRequest
from flow.errors import InvalidInput, Refused
from tests.api.conftest import Api

JSON = {"Content-Type": "application/json"}


def nested(depth: int) -> bytes:
    return b'{"metadata":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "malformed_request"),
    "spaces": (b"  \r\n ", 400, "malformed_request"),
    "not JSON": (b"product=voice_bot", 400, "malformed_request"),
    "cut off": (b'{"product": "voice', 400, "malformed_request"),
    "more after it": (b"{} {}", 400, "malformed_request"),
    "a list": (b"[]", 400, "malformed_request"),
    "a string": (b'"{}"', 400, "malformed_request"),
    "null": (b"null", 400, "malformed_request"),
    "NaN": (b'{"bot":{"llm":{"temperature":NaN}}}', 400, "malformed_request"),
    "Infinity": (b'{"metadata":{"a":-Infinity}}', 400, "malformed_request"),
    "single quotes": (b"{'a':1}", 400, "malformed_request"),
    "a trailing comma": (b'{"a":1,}', 400, "malformed_request"),
    "a name twice": (b'{"product":"voice_bot","product":"x"}', 400, "malformed_request"),
    "a name twice, inside": (b'{"metadata":{"a":1,"a":2}}', 400, "malformed_request"),
    "Latin-1": (b'{"product":"caf\xe9"}', 400, "malformed_request"),
    "overlong UTF-8": (b'{"product":"\xc0\x80"}', 400, "malformed_request"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), 400, "malformed_request"),
    "a byte order mark": (b"\xef\xbb\xbf{}", 400, "malformed_request"),
    "a raw NUL": (b'{"product":"a\x00b"}', 400, "malformed_request"),
    "a raw newline": (b'{"product":"a\nb"}', 400, "malformed_request"),
    "too deep": (nested(MAX_DEPTH), 400, "malformed_request"),
    "far too deep": (nested(50_000), 413, "payload_too_large"),
    "a bomb of brackets": (b"[" * 200_000, 400, "malformed_request"),
    "a bomb of braces": (b'{"a":' * 50_000, 400, "malformed_request"),
    "an escaped NUL": (b'{"bot":{"greeting":"a\\u0000b"}}', 422, "invalid_request"),
    "a NUL in a name": (b'{"metadata":{"a\\u0000":1}}', 422, "invalid_request"),
    "half a surrogate pair": (b'{"metadata":{"a":"\\ud800"}}', 422, "invalid_request"),
    "the other half": (b'{"metadata":{"\\udc00":1}}', 422, "invalid_request"),
    "a huge int": (b'{"max_duration_secs":' + b"9" * 5000 + b"}", 422, "invalid_request"),
    "a large int": (b'{"max_duration_secs":' + b"9" * 40 + b"}", 422, "invalid_request"),
    "a large int, kept": (b'{"metadata":{"a":' + b"9" * 40 + b"}}", 201, ""),
    "a huge float": (b'{"metadata":{"a":1e400}}', 422, "invalid_request"),
    "a negative one": (b'{"bot":{"llm":{"temperature":-1e999}}}', 422, "invalid_request"),
    "a tiny float": (b'{"metadata":{"a":1e-400}}', 201, ""),
    "wrong types": (b'{"bot":[],"metadata":"x","insights":1}', 422, "invalid_request"),
    "an emoji": ('{"metadata":{"\U0001f600":"\U0001f600"}}'.encode(), 201, ""),
    "an escaped emoji": (b'{"metadata":{"a":"\\ud83d\\ude00"}}', 201, ""),
    "no schema": (b'{"insights":{"schema":{"type":"nonsense"}}}', 422, "invalid_request"),
    "a URL inside": (b'{"webhook_url":"https://a:b@c/"}', 422, "invalid_request"),
    "a wrong port": (b'{"webhook_url":"https://[::1/"}', 422, "invalid_request"),
    "team_id of one's own": (b'{"team_id":"team_b"}', 422, "invalid_request"),
    "billable of one's own": (b'{"$ai_billable":false}', 422, "invalid_request"),
    "many unknown fields": (
        json.dumps({f"f{n}": 1 for n in range(15_000)}).encode(),
        422,
        "invalid_request",
    ),
    "too large": (b'{"metadata":"' + b"a" * MAX_BODY_BYTES + b'"}', 413, "payload_too_large"),
}


async def test_bodies(api: Api, subtests: pytest.Subtests) -> None:
    for case, (body, status, code) in BODIES.items():
        with subtests.test(case):
            async with asyncio.timeout(5):
                response = await api.client.post("/api/bot/join", content=body, headers=JSON)
            assert response.status_code == status, response.text
            problem = response.json()
            assert problem.get("code", "") == code
            assert problem.get("request_id") in {None, response.headers["x-request-id"]}
            assert len(response.content) < 20_000


def a_pattern(pattern: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"items": {"pattern": pattern}}}}


SCHEMAS: dict[str, tuple[dict[str, Any], int]] = {
    "folded case": (a_pattern("(?i)" + "[ -\uffff]" * 1100), 422),
    "out of range": (a_pattern("a{99999999999}"), 422),
    "nested groups": (a_pattern("(" * 2_000 + ")" * 2_000), 422),
    "fewer nested groups": (a_pattern("(" * 1_000 + ")" * 1_000), 422),
    "nested repetitions": (a_pattern("((((((a{99}){99}){99}){99}){99}){99})"), 422),
    "no expression": (a_pattern("["), 422),
    "many patterns": (
        {"type": "object", "anyOf": [{"pattern": rf"\p{{L}}{{99}}{n}"} for n in range(250)]},
        422,
    ),
    "a reference out": ({"type": "object", "$ref": "http://127.0.0.1:9/"}, 422),
    "a reference nowhere": ({"type": "object", "$ref": "#/$defs/none"}, 422),
    "no type": ({"properties": {"a": {"type": "strin"}}}, 422),
    "no object": ({"type": "array"}, 422),
    "patterns": (a_pattern(r"^[\p{L} '-]{1,100}$"), 201),
    "references": ({"type": "object", "properties": {"a": {"$ref": "#"}}}, 201),
    "look-ahead": (a_pattern("^(?!x)"), 201),
}


async def test_schemas(api: Api, subtests: pytest.Subtests) -> None:
    """Each has its answer, and others have theirs meanwhile."""
    for case, (schema, status) in SCHEMAS.items():
        with subtests.test(case):
            body = {"insights": {"schema": schema}}
            joining = asyncio.create_task(api.client.post("/api/bot/join", json=body, timeout=20))
            while not joining.done():
                # The service is in this process, and what checks schemas is not.
                began = time.process_time()
                assert (await api.anonymous.get("/healthz", timeout=20)).status_code == 200
                assert time.process_time() - began < 1
            response = await joining
            assert response.status_code == status, response.text
            if status == 422:
                [error] = response.json()["errors"]
                assert error["field"].startswith("insights.schema")
                assert len(error["message"]) < 400


async def test_what_cannot_be_kept_is_named(api: Api) -> None:
    body = b'{"bot":{"greeting":"\\u0000"},"metadata":{"a":["b",{"c":"\\ud800"}]}}'
    response = await api.client.post("/api/bot/join", content=body, headers=JSON)
    fields = [error["field"] for error in response.json()["errors"]]
    assert fields == ["bot.greeting", "metadata.a.1.c"]


CONTENT_TYPES = {
    "application/json": 201,
    "application/json; charset=UTF-8": 201,
    'APPLICATION/JSON;charset="utf-8"': 201,
    "application/vnd.flow+json": 201,
    "application/json; charset=latin-1": 415,
    "text/plain": 415,
    "application/x-www-form-urlencoded": 415,
    "multipart/form-data; boundary=x": 415,
    "application/xml": 415,
    "json": 415,
    "": 415,
}


async def test_content_types(api: Api, subtests: pytest.Subtests) -> None:
    for kind, status in CONTENT_TYPES.items():
        with subtests.test(kind):
            headers = {"Content-Type": kind} if kind else {}
            response = await api.client.post("/api/bot/join", content=b"{}", headers=headers)
            assert response.status_code == status
            if status == 415:
                assert response.json()["code"] == "unsupported_media_type"


async def test_a_body_without_a_length_is_counted_as_it_comes(api: Api) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    whole = MAX_BODY_BYTES // 0x10000
    status, problem = await raw(
        api, "Transfer-Encoding: chunked\r\n", chunk * whole + b"1\r\n \r\n"
    )
    assert problem is not None
    assert (status, problem["code"]) == (413, "payload_too_large")


async def test_a_body_that_claims_to_be_large_is_not_read(api: Api) -> None:
    for length, refused in (
        (str(MAX_BODY_BYTES + 1), (413, "payload_too_large")),
        ("9" * 30, (400, "malformed_request")),
    ):
        status, problem = await raw(api, f"Content-Length: {length}\r\n")
        assert problem is not None
        assert (status, problem["code"]) == refused


async def test_a_caller_who_leaves_in_mid_body_is_no_failure_of_ours(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    with capture_logs() as logged:
        _, writer = await asyncio.open_connection(host, int(port))
        key = api.client.headers["Authorization"]
        writer.write(
            f"POST /api/bot/join HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{".encode()
        )
        await asyncio.sleep(0.2)
        writer.close()
        async with asyncio.timeout(5):
            while not logged:
                await asyncio.sleep(0.02)
    assert "caller_left" in [line["event"] for line in logged]
    assert "error" not in {line["log_level"] for line in logged}


async def test_a_body_that_never_comes_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.api.body_limits.BODY_SECS", 0.2)
    status, problem = await raw(api, "Content-Length: 10\r\n")
    assert problem is not None
    assert (status, problem["code"]) == (408, "request_timeout")


@pytest.mark.parametrize(
    "headers",
    [
        {f"X-Header-{n}": "1" for n in range(MAX_HEADERS)},
        {"X-Header": "a" * 20_000},
        {"Cookie": "a=b;" * 5_000},
    ],
    ids=["many", "long", "cookies"],
)
async def test_too_many_or_too_long_headers(api: Api, headers: dict[str, str]) -> None:
    response = await api.client.get("/healthz", headers=headers)
    assert response.status_code == 431
    assert response.json()["code"] == "headers_too_large"


REQUEST_IDS = {
    b"my-request_1.2~3": True,
    b"r" * 128: True,
    b"r" * 129: False,
    b"": False,
    b"a b": False,
    b"a\xffb": False,
    b"<script>": False,
    b"${jndi:ldap://x}": False,
}


async def test_a_request_id_is_kept_when_it_is_sane(api: Api, subtests: pytest.Subtests) -> None:
    for sent, kept in REQUEST_IDS.items():
        with subtests.test(repr(sent)):
            response = await api.anonymous.get("/healthz", headers=[(b"X-Request-Id", sent)])
            answered = response.headers["x-request-id"].encode()
            assert (answered == sent) is kept
            assert answered.isalnum() or kept


async def test_every_answer_has_a_request_id_of_its_own(api: Api) -> None:
    paths = ["/healthz", "/nothing", "/api/threads", "/api/threads/x", "/metrics", "/openapi.json"]
    responses = [await api.client.get(path) for path in paths]
    responses.append(await api.client.delete("/healthz"))
    responses.append(await api.anonymous.get("/api/threads"))
    responses.append(await api.client.post("/api/bot/join", content=b"{"))
    ids = [response.headers.get_list("x-request-id") for response in responses]
    assert all(len(each) == 1 for each in ids)
    assert len({each[0] for each in ids}) == len(responses)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/api/threads/", 404, "not_found"),
        ("DELETE", "/api/threads", 405, "method_not_allowed"),
        ("GET", "/api/bot/join", 405, "method_not_allowed"),
        ("PURGE", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    api: Api, method: str, path: str, status: int, code: str
) -> None:
    response = await api.client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert ("allow" in response.headers) == (status == 405)


async def test_a_wrong_method_is_told_every_right_one(api: Api) -> None:
    response = await api.client.get(f"/api/bot/{uuid4()}/offer")
    assert response.headers["allow"] == "PATCH, POST"


NONSENSE = [
    b"GET /healthz HTTP/9.9",
    b"GET  HTTP/1.1",
    b"\x16\x03\x01\x02\x00",
    b"GET /\xff\xfe HTTP/1.1",
    b"GET /api/threads/%c3%28 HTTP/1.1",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
    b"GET http://evil.example/api/threads HTTP/1.1",
]


async def test_nonsense_on_the_wire_does_not_stop_the_server(
    api: Api, subtests: pytest.Subtests
) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    for request_line in NONSENSE:
        with subtests.test(repr(request_line[:40])):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(5):
                answer = await reader.read(65_536)
            writer.close()
            assert not answer.startswith(b"HTTP/1.1 5")
            assert (await api.anonymous.get("/healthz")).status_code == 200


names = st.sampled_from(
    [*JoinRequest.model_fields, "llm", "model", "type", "schema", "temperature", "extra", "a.b", ""]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["voice_bot", "websocket", "openai", "https://a.example", "\0", "\ud800"])
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=15,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(names, anything, max_size=6))
async def test_no_json_at_all_breaks_a_join(api: Api, body: dict[str, Any]) -> None:
    response = await api.client.post(
        "/api/bot/join", content=json.dumps(body).encode(), headers=JSON
    )
    assert response.status_code < 500
    if response.status_code == 201:
        thread_id = response.json()["workflow_thread_id"]
        assert (await api.client.get(f"/api/threads/{thread_id}")).status_code == 200


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_reading(body: bytes) -> None:
    with contextlib.suppress(Refused, InvalidInput):
        assert isinstance(read_object(body), dict)


@given(st.dictionaries(st.text(), anything, max_size=5))
def test_what_is_accepted_is_read_as_json_reads_it(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    try:
        read = read_object(body)
    except (Refused, InvalidInput):
        return
    assert read == json.loads(body)


async def raw(api: Api, headers: str, body: bytes = b"") -> tuple[int, dict[str, Any] | None]:
    """Send a join by hand, perhaps not all of it; the status, and the problem if there is one."""
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    key = api.client.headers["Authorization"]
    writer.write(
        f"POST /api/bot/join HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
        f"Content-Type: application/json\r\n{headers}\r\n".encode()
        + body
    )
    async with asyncio.timeout(5):
        answer = await reader.read(65_536)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else None
