"""The tools of a join: what they may be, and what of them is a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.tools import MAX_TOOLS

HTTP = {
    "type": "http",
    "name": "find_booking",
    "description": "Finds a booking.",
    "url": "https://tools.example.com/find?tenant={{tenant}}",
    "headers": {"Authorization": "Bearer s3cret", "X-Tenant": "{{tenant}}"},
}
MCP = {"type": "mcp", "url": "https://mcp.example.com/mcp", "headers": {"X-Key": "s3cret"}}


def join_of(*tools: Any) -> JoinRequest:
    return JoinRequest.model_validate({"bot": {"tools": [*tools]}})


def schema(**more: Any) -> dict[str, Any]:
    return {"parameters": {"type": "object", "properties": {}, **more}}


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        inner = {"type": "object", "properties": {"a": inner}}
    return inner


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "no spaces"}, "pattern"),
        ({"name": "1st"}, "pattern"),
        ({"name": "x" * 65}, "pattern"),
        ({"name": ""}, "pattern"),
        ({"name": "end_call"}, "a tool of Flow's own"),
        ({"description": ""}, "at least 1"),
        ({"description": "x" * 1025}, "at most 1024"),
        ({"url": "ftp://tools.example.com"}, "URL"),
        ({"url": "https://user:pw@tools.example.com"}, "credentials"),
        ({"url": "https://{{host}}.example.com/"}, "variable in its host"),
        ({"method": "HEAD"}, "Input should be"),
        ({"timeout_secs": 0.5}, "greater than"),
        ({"timeout_secs": 61}, "less than"),
        ({"headers": {"Host": "x"}}, "must not be set"),
        ({"headers": {"transfer-encoding": "chunked"}}, "must not be set"),
        ({"headers": {"Content-Length": "1"}}, "must not be set"),
        ({"headers": {"webhook-signature": "v1,x"}}, "must not be set"),
        ({"headers": {"X-Flow-Tool": "x"}}, "must not be set"),
        ({"headers": {"Accept": "text/html"}}, "must not be set"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "printable ASCII"),
        ({"headers": {"X-A": "ä"}}, "printable ASCII"),
        ({"headers": {"X A": "a"}}, "not the name of a header"),
        ({"headers": {"X-A": "a", "x-a": "b"}}, "given twice"),
        ({"headers": {f"X-{n}": "a" for n in range(21)}}, "at most 20"),
        ({"parameters": {"type": "array"}}, "must describe an object"),
        (schema(anyOf=[]), "'anyOf' at its top"),
        (schema(properties={"a": {"$ref": "#/$defs/a"}}), r"\$ref"),
        (schema(properties=[]), "no object"),
        (schema(title="x" * 20_000), "at most 16384"),
        ({"parameters": nested(40)}, "levels deep"),
        ({"secret": 1}, "Extra inputs"),
    ],
)
def test_a_tool_that_cannot_be_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem) as caught:
        join_of(HTTP | change)
    assert "s3cret" not in json.dumps(
        caught.value.errors(include_input=False, include_url=False, include_context=False)
    )


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([HTTP, HTTP], "two tools are called 'find_booking'"),
        ([{"type": "end_call"}] * 2, "two tools are called 'end_call'"),
        ([MCP, MCP], "an MCP server is named twice"),
        ([HTTP | {"name": f"tool_{n}"} for n in range(MAX_TOOLS + 1)], "at most 32"),
        ([{"type": "transfer_call", "targets": {}}], "at least 1"),
        ([{"type": "transfer_call", "targets": {"sales": "0301234"}}], "pattern"),
        ([{"type": "python"}], "does not match any of the expected tags"),
    ],
)
def test_tools_that_cannot_be_one_bots_are_refused(tools: list[Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        join_of(*tools)


def test_header_values_are_stored_and_never_shown() -> None:
    join = join_of(HTTP, MCP)
    assert JoinRequest.from_json(join.to_json()) == join
    assert JoinRequest.from_json(join.to_json()).bot.tools[0].plain_headers == HTTP["headers"]  # type: ignore[union-attr]
    for shown in (json.dumps(join.shown()), repr(join), str(join), join.model_dump_json()):
        assert "s3cret" not in shown
    assert json.dumps(join.to_json()).count("s3cret") == 2
