"""OpenAI's Responses API: what each of its events shows, over HTTP and over a WebSocket."""

from __future__ import annotations

import json
from types import NoneType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from flow.domain.usage.events import Failure, Outcome, Provenance, Quantities
from flow.metering.evidence import (
    Completed,
    Ended,
    Evidence,
    Failed,
    Opening,
    Output,
    Reported,
    Served,
)
from flow.metering.wires.openai_responses import (
    OpenAIResponses,
    ResponseEvents,
    ResponseExchange,
    opening_of,
)
from flow.metering.wires.reader import Exchange, Free, HttpRequest
from tests.metering.wires.reading import (
    EVENT_STREAM,
    ended,
    event_stream,
    opened,
    post,
    read,
    reports,
    texts,
)
from tests.metering.wires.recordings import (
    RESPONSE_BEGUN,
    RESPONSE_EVENTS,
    RESPONSE_REQUEST,
    RESPONSE_USAGE,
    RESPONSES,
    SAID,
    response,
    response_event,
)

WRITTEN = "They ask for a parcel." + SAID + 'find_parcel{"order":"A 17"}'


def exchange(**request: Any) -> Exchange:
    return opened(OpenAIResponses(), post("/v1/responses", {**RESPONSE_REQUEST, **request}))


def stream(*events: Any) -> list[Evidence]:
    return read(exchange(), event_stream(events, named=True), content_type=EVENT_STREAM)


def by_socket(*events: Any) -> tuple[ResponseEvents, list[Evidence]]:
    events_read = ResponseEvents()
    return events_read, [one for event in events for one in events_read.read(event)]


def last(status: str, usage: Any = RESPONSE_USAGE, **more: Any) -> dict[str, Any]:
    return response_event(f"response.{status}", response=response(status, usage, **more))


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/responses", ResponseExchange),
        ("POST", "/openai/v1/responses", ResponseExchange),
        ("POST", "/v1/responses/input_tokens", Free),
        ("POST", "/v1/responses/resp_1/cancel", NoneType),
        ("GET", "/v1/responses", NoneType),
    ],
)
def test_it_knows_its_own_requests(method: str, path: str, expected: type) -> None:
    assert isinstance(OpenAIResponses().open(HttpRequest(method, path, {}, b"{}")), expected)


def test_the_output_is_all_that_was_written_once() -> None:
    assert texts(stream(*RESPONSE_EVENTS)) == WRITTEN


def test_a_websocket_s_messages_show_what_a_stream_shows() -> None:
    events, found = by_socket(*RESPONSE_EVENTS)
    assert found == stream(*RESPONSE_EVENTS)
    assert (events.id, events.is_over) == ("resp_1", True)


def test_it_is_over_with_its_last_event_and_not_before() -> None:
    events, _ = by_socket(*RESPONSE_BEGUN)
    assert (events.id, events.is_over) == ("resp_1", False)


@pytest.mark.parametrize(
    ("status", "more", "how", "expected"),
    [
        ("completed", {}, Ended.DONE, (Provenance.REPORTED, Outcome.OK)),
        (
            "incomplete",
            {"incomplete_details": {"reason": "max_output_tokens"}},
            Ended.DONE,
            (Provenance.REPORTED, Outcome.OK),
        ),
        ("cancelled", {}, Ended.ABANDONED, (Provenance.REPORTED, Outcome.INTERRUPTED)),
        (
            "failed",
            {"error": {"code": "server_error", "message": "the prompt"}},
            Ended.DONE,
            (Provenance.REPORTED, Outcome.ERROR),
        ),
    ],
)
def test_every_end_reports(
    status: str, more: dict[str, Any], how: Ended, expected: tuple[Any, Any]
) -> None:
    Response.model_validate(response(status, RESPONSE_USAGE, **more))
    events, found = by_socket(*RESPONSE_BEGUN, last(status, **more))
    assert events.is_over
    assert (Completed() in found) == (status in ("completed", "incomplete"))
    event = ended(exchange().opening, found, how)
    assert (event.provenance, event.outcome) == expected
    assert event.quantities == RESPONSES.usage
    assert event.model == "gpt-5.1-2025-11-13"
    assert "prompt" not in repr(event.failure)


def test_a_failure_without_usage_is_estimated() -> None:
    event = ended(exchange().opening, stream(*RESPONSE_BEGUN, last("failed", None)))
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)
    assert event.quantities["output_tokens"] > 10


@pytest.mark.parametrize(
    ("event", "failure"),
    [
        (
            {"type": "error", "code": "server_error", "message": "m", "sequence_number": 9},
            Failure("APIError", "the vendor failed in mid-answer: server_error"),
        ),
        (
            {
                "type": "error",
                "status": 400,
                "error": {"code": "previous_response_not_found", "message": "the prompt"},
            },
            Failure("APIError", "HTTP 400", 400),
        ),
        ({"type": "error"}, Failure("APIError", "the vendor failed in mid-answer")),
    ],
)
def test_an_error_is_the_last_event(event: dict[str, Any], failure: Failure) -> None:
    events, found = by_socket(event)
    assert found == [Failed(failure)]
    assert events.is_over


def test_a_whole_response_says_the_same() -> None:
    body = json.dumps(response("completed", RESPONSE_USAGE)).encode()
    Response.model_validate_json(body, strict=False)
    found = read(exchange(stream=False), body)
    assert texts(found) == SAID + 'find_parcel{"order":"A 17"}'
    event = ended(exchange().opening, found)
    assert (event.quantities, event.provenance, event.outcome) == (
        RESPONSES.usage, Provenance.REPORTED, Outcome.OK,
    )  # fmt: skip


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_that_goes_on_without_us_is_not_whole(status: str) -> None:
    found = read(exchange(stream=False), json.dumps(response(status)).encode())
    event = ended(exchange().opening, found)
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"error": {"message": "m"}}'])
def test_what_is_no_response_fails(body: bytes) -> None:
    assert [type(one) for one in read(exchange(), body)] == [Failed]


def test_zeros_and_nothing_else_are_kept_as_reported() -> None:
    zeros = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    event = ended(exchange().opening, stream(*RESPONSE_BEGUN, last("completed", zeros)))
    assert (event.quantities, event.provenance) == (Quantities(), Provenance.REPORTED)


def test_a_contradiction_is_noted_with_both_numbers() -> None:
    odd = {**RESPONSE_USAGE, "input_tokens_details": {"cached_tokens": 999}}
    (report,) = reports(stream(last("completed", odd)))
    assert report.note is not None
    assert {"999", "328"} <= set(report.note.replace("(", " ").replace(")", " ").split())
    assert report.quantities["cache_read_tokens"] == 328


def test_sound_and_what_tools_put_out_are_no_text() -> None:
    events = [
        {"type": "response.audio.delta", "delta": "AAAA"},
        {"type": "response.shell_call_output_content.delta", "delta": {"stdout": "x"}},
        {"type": "response.output_text.delta", "delta": 5},
        {"type": "response.unheard_of", "delta": "x"},
        {"type": None, "response": 7},
    ]
    assert stream(*events) == []


wild = st.recursive(
    st.one_of(st.none(), st.integers(-3, 10**6), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*response("completed"), "status"]), wild), wild, wild)
def test_no_response_of_any_shape_breaks_it(answer: Any, usage: Any, error: Any) -> None:
    events = [
        {"type": "response.completed", "response": {**answer, "usage": usage}},
        {"type": "error", "error": error, "status": usage},
    ]
    ended(exchange().opening, [*by_socket(*events)[1], Completed()])
    read(exchange(), json.dumps({**answer, "usage": usage}).encode())


def tokens(opening: Opening) -> int:
    return opening.estimate.count("input_tokens")


def test_the_estimate_counts_all_that_is_sent() -> None:
    tool = {
        "type": "function",
        "name": "find_parcel",
        "parameters": {"type": "object", "properties": {"order": {"type": "string"}}},
    }
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A thought."}]}
    each = [
        {"model": "gpt-5.1", "input": "Hello there"},
        {"input": [*RESPONSE_REQUEST["input"][:1]]},  # type: ignore[misc]
        {"input": RESPONSE_REQUEST["input"]},
        {"input": [*RESPONSE_REQUEST["input"], reasoning]},  # type: ignore[misc]
        {**RESPONSE_REQUEST, "input": [*RESPONSE_REQUEST["input"], reasoning]},  # type: ignore[misc]
    ]
    each.append({**each[-1], "tools": [tool]})
    each.append({**each[-1], "text": {"format": {"type": "json_schema", "schema": tool}}})
    counted = [tokens(opening_of(request)) for request in each]
    assert counted == sorted(set(counted))


def test_a_websocket_s_request_is_a_stream() -> None:
    opening = opening_of({"type": "response.create", "model": "gpt-5.1", "input": "Hello"})
    assert (opening.stream, opening.model) == (True, "gpt-5.1")
    assert opening.content == [{"role": "user", "content": "Hello"}]


def test_who_serves_is_told_at_once() -> None:
    assert stream(*RESPONSE_EVENTS)[0] == Served("gpt-5.1-2025-11-13", "default")
    assert isinstance(stream(*RESPONSE_EVENTS)[-2], Reported)
    assert Output("find_parcel") in stream(*RESPONSE_EVENTS)
