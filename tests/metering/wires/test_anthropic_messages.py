"""Anthropic's Messages API: what each of its messages shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import pytest
from anthropic.types import Message
from anthropic.types.beta import BetaMessageDeltaUsage
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.domain.usage.token_estimates import count_tokens
from flow.metering.evidence import Completed, Ended, Evidence, Failed, Served
from flow.metering.wires.anthropic_messages import AnthropicMessages, MessageExchange
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
    MESSAGE_EVENTS,
    MESSAGE_REQUEST,
    MESSAGE_START_USAGE,
    MESSAGE_STOP,
    SAID,
    block_delta,
    block_start,
    message_delta,
    message_start,
)

SAID_TOKENS = count_tokens(SAID)
TEXT = (block_start(0, type="text", text=""), block_delta(0, type="text_delta", text=SAID))


def exchange(**request: Any) -> Exchange:
    return opened(AnthropicMessages(), post("/v1/messages", {**MESSAGE_REQUEST, **request}))


def stream(*events: Any, **request: Any) -> list[Evidence]:
    body = event_stream(events, named=True)
    return read(exchange(**request), body, content_type=EVENT_STREAM)


def reported(*events: Any, **request: Any) -> Quantities:
    return reports(stream(*events, **request))[-1].quantities


def a_message(**fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": SAID, "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {**MESSAGE_START_USAGE, "output_tokens": 12},
        **fields,
    }


def whole(answer: Any, **request: Any) -> list[Evidence]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read(exchange(stream=False, **request), body)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/messages", MessageExchange),
        ("POST", "/anthropic/v1/messages", MessageExchange),
        ("POST", "/v1/messages/count_tokens", Free),
        ("POST", "/v1/messages/batches", NoneType),
        ("POST", "/v1/complete", NoneType),
        ("GET", "/v1/messages", NoneType),
    ],
)
def test_it_knows_its_own_requests(method: str, path: str, expected: type) -> None:
    found = AnthropicMessages().open(HttpRequest(method, path, {}, b"{}"))
    assert isinstance(found, expected)


def test_the_output_is_all_that_was_generated() -> None:
    said = texts(stream(*MESSAGE_EVENTS))
    assert said == "They ask for a parcel." + SAID + 'find_parcel{"order": "A 17"}'


def test_who_serves_is_told_at_the_start() -> None:
    found = [one for one in stream(*MESSAGE_EVENTS) if isinstance(one, Served)]
    assert found == [Served("claude-sonnet-4-6-20260101"), Served(service_tier="standard")]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            [message_start(), message_delta(output_tokens=9)],
            Quantities(input_tokens=25, output_tokens=9),
            id="the output is cumulative: not 1 more",
        ),
        pytest.param(
            [message_start(), message_delta(input_tokens=25, output_tokens=9)],
            Quantities(input_tokens=25, output_tokens=9),
            id="the input is repeated, not doubled",
        ),
        pytest.param(
            [
                message_start(input_tokens=0, output_tokens=0),
                message_delta(
                    input_tokens=10,
                    cache_read_input_tokens=66_360,
                    cache_creation_input_tokens=32_435,
                    output_tokens=9,
                ),
            ],
            Quantities(
                input_tokens=10,
                cache_read_tokens=66_360,
                cache_write_tokens=32_435,
                output_tokens=9,
            ),
            id="a gateway tells the input at the end alone",
        ),
        pytest.param(
            [
                message_start(input_tokens=100),
                message_delta(None, output_tokens=20),
                message_delta(input_tokens=900, output_tokens=60),
            ],
            Quantities(input_tokens=900, output_tokens=60),
            id="a server's tool reads more, and reports more than once",
        ),
        pytest.param(
            [message_start(), message_delta(output_tokens=9), message_delta(output_tokens=0)],
            Quantities(input_tokens=25, output_tokens=9),
            id="nothing does not replace a number",
        ),
        pytest.param(
            [message_start(), message_delta("refusal", output_tokens=0)],
            Quantities(input_tokens=25),
            id="no output, whatever the start said",
        ),
        pytest.param(
            [
                message_start(),
                message_delta(output_tokens=60, output_tokens_details={"thinking_tokens": 48}),
            ],
            Quantities(input_tokens=25, output_tokens=60, reasoning_tokens=48),
            id="thinking is part of the output",
        ),
        pytest.param(
            [
                message_start(
                    cache_creation={
                        "ephemeral_5m_input_tokens": 7,
                        "ephemeral_1h_input_tokens": 5,
                    }
                ),
                message_delta(output_tokens=9),
            ],
            Quantities(
                input_tokens=25, cache_write_tokens=12, cache_write_1h_tokens=5, output_tokens=9
            ),
            id="writes by their lifetimes alone",
        ),
    ],
)
def test_the_last_word_on_each_number_counts(
    events: Sequence[Mapping[str, Any]], expected: Quantities
) -> None:
    found = stream(*events, MESSAGE_STOP)
    assert reports(found)[-1].quantities == expected
    event = ended(exchange().opening, found)
    assert (event.quantities, event.provenance, event.note) == (
        expected, Provenance.REPORTED, None,
    )  # fmt: skip


def iteration(kind: str, **counts: int) -> dict[str, Any]:
    model = {} if kind == "compaction" else {"model": "claude-opus-5"}
    return {
        "type": kind,
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": None,
        **model,
        **counts,
    }


def test_what_compaction_took_is_added_to_the_rest() -> None:
    usage = {
        "input_tokens": 900,
        "output_tokens": 60,
        "iterations": [
            iteration("compaction", input_tokens=180_000, output_tokens=3_500),
            iteration("message", input_tokens=900, output_tokens=60),
        ],
    }
    BetaMessageDeltaUsage.model_validate(usage)
    found = stream(message_start(), message_delta(**usage), MESSAGE_STOP)
    assert reports(found)[-1].quantities == Quantities(input_tokens=180_900, output_tokens=3_560)
    assert reports(found)[-1].note is None


def test_what_an_advisor_took_is_added_and_noted_since_it_is_another_model() -> None:
    usage = {
        "output_tokens": 60,
        "iterations": [
            iteration("message", input_tokens=25, output_tokens=60),
            iteration("advisor_message", input_tokens=800, output_tokens=1_500),
        ],
    }
    BetaMessageDeltaUsage.model_validate(usage)
    report = reports(stream(message_start(), message_delta(**usage), MESSAGE_STOP))[-1]
    assert report.quantities == Quantities(input_tokens=825, output_tokens=1_560)
    assert report.note == "the tokens include those of an advisor, claude-opus-5"


def test_a_model_that_stood_in_is_the_one_that_served() -> None:
    usage = {"output_tokens": 60, "iterations": [iteration("fallback_message", output_tokens=60)]}
    found = stream(message_start(), message_delta(**usage), MESSAGE_STOP)
    assert ended(exchange().opening, found).model == "claude-opus-5"


def test_searches_are_noted_since_they_are_no_tokens() -> None:
    searches = {"web_search_requests": 3, "web_fetch_requests": 1}
    found = stream(
        message_start(), message_delta(output_tokens=9, server_tool_use=searches), MESSAGE_STOP
    )
    assert reports(found)[-1].note == "web searches (3) are billed beside the tokens"


def test_fast_mode_is_a_tier_of_its_own() -> None:
    found = stream(message_start(speed="fast", service_tier="standard"))
    assert Served(service_tier="fast") in found


def breakpoints(*lifetimes: str | None) -> list[dict[str, Any]]:
    return [
        {
            "type": "text",
            "text": "A long text.",
            "cache_control": {"type": "ephemeral", **({"ttl": one} if one else {})},
        }
        for one in lifetimes
    ]


@pytest.mark.parametrize(
    ("request_lifetimes", "usage", "for_an_hour"),
    [
        (["1h", "1h"], {"cache_creation_input_tokens": 90}, 90),
        (["1h", None], {"cache_creation_input_tokens": 90}, 0),
        (["1h", "5m"], {"cache_creation_input_tokens": 90}, 0),
        ([None], {"cache_creation_input_tokens": 90}, 0),
        (
            ["1h"],
            {
                "cache_creation_input_tokens": 90,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 90,
                    "ephemeral_1h_input_tokens": 0,
                },
            },
            0,
        ),
    ],
)
def test_where_lifetimes_are_not_told_the_request_tells_them(
    request_lifetimes: list[str | None], usage: dict[str, Any], for_an_hour: int
) -> None:
    quantities = reported(
        message_start(**usage),
        message_delta(output_tokens=9),
        MESSAGE_STOP,
        system=breakpoints(*request_lifetimes),
    )
    assert quantities["cache_write_tokens"] == 90
    assert quantities["cache_write_1h_tokens"] == for_an_hour


@pytest.mark.parametrize(("lifetime", "for_an_hour"), [("1h", 500), (None, 200)])
def test_what_is_written_after_the_lifetimes_were_told_is_not_lost(
    lifetime: str | None, for_an_hour: int
) -> None:
    quantities = reported(
        message_start(**MESSAGE_START_USAGE),
        message_delta(cache_creation_input_tokens=500, output_tokens=9),
        system=breakpoints(lifetime),
    )
    assert quantities["cache_write_tokens"] == 500
    assert quantities["cache_write_1h_tokens"] == for_an_hour


@pytest.mark.parametrize("how", [Ended.ABANDONED, Ended.BROKEN, Ended.DONE])
@pytest.mark.parametrize("events", [(), TEXT], ids=["before any output", "in mid-output"])
def test_the_first_tokens_of_output_are_never_taken_for_all(
    events: tuple[Any, ...], how: Ended
) -> None:
    found = stream(message_start(**MESSAGE_START_USAGE), *events)
    event = ended(exchange().opening, found, how)
    assert event.provenance is Provenance.ESTIMATED
    assert event.outcome is (Outcome.INTERRUPTED if how is Ended.ABANDONED else Outcome.ERROR)
    assert event.quantities["input_tokens"] == 25
    assert event.quantities["cache_read_tokens"] == 2_000
    assert event.quantities["cache_write_1h_tokens"] == 200
    assert event.quantities["output_tokens"] == (SAID_TOKENS if events else 1)
    assert event.note == "the vendor reported only part of the usage"


def test_a_stream_without_a_final_report_is_estimated_although_it_is_whole() -> None:
    event = ended(exchange().opening, stream(message_start(), *TEXT, MESSAGE_STOP))
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.OK)
    assert event.quantities == Quantities(input_tokens=25, output_tokens=SAID_TOKENS)


def test_a_report_without_a_reason_to_stop_is_the_last_one_at_the_end() -> None:
    found = stream(message_start(), *TEXT, message_delta(None, output_tokens=5), MESSAGE_STOP)
    event = ended(exchange().opening, found)
    assert (event.provenance, event.quantities["output_tokens"]) == (Provenance.REPORTED, 5)


def test_zeros_and_nothing_else_are_kept_as_reported() -> None:
    start = message_start(input_tokens=0, output_tokens=0)
    found = stream(start, *TEXT, message_delta(input_tokens=0, output_tokens=0), MESSAGE_STOP)
    event = ended(exchange().opening, found)
    assert (event.quantities, event.provenance) == (Quantities(), Provenance.REPORTED)
    assert event.outcome is Outcome.OK


@pytest.mark.parametrize(
    "code", ["overloaded_error", "api_error", "not fit to be kept: it quotes the prompt", None, {}]
)
def test_an_error_inside_the_stream_fails_it(code: Any) -> None:
    error = {"type": "error", "error": {"type": code, "message": "the whole prompt"}}
    found = stream(message_start(), *TEXT, error)
    (failed,) = (one for one in found if isinstance(one, Failed))
    assert "prompt" not in failed.failure.message
    assert ("overloaded" in failed.failure.message) == (code == "overloaded_error")
    event = ended(exchange().opening, found)
    assert (event.outcome, event.provenance) == (Outcome.ERROR, Provenance.ESTIMATED)
    assert event.quantities == Quantities(input_tokens=25, output_tokens=SAID_TOKENS)


def test_a_whole_message_says_the_same() -> None:
    Message.model_validate(a_message(), strict=True)
    found = whole(a_message())
    assert texts(found) == SAID
    event = ended(exchange(stream=False).opening, found)
    assert event.model == "claude-haiku-4-5-20251001"
    assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.OK)
    assert event.quantities == Quantities(
        input_tokens=25,
        cache_read_tokens=2_000,
        cache_write_tokens=300,
        cache_write_1h_tokens=200,
        output_tokens=12,
    )


def test_the_blocks_of_a_whole_message_are_output_but_for_a_tool_s_result() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm. ", "signature": "abc"},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {"type": "text", "text": "Yes.", "citations": None},
    ]
    Message.model_validate(a_message(content=content))
    assert texts(whole(a_message(content=content))) == 'Hm. web_search{"query": "x"}Yes.'


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>", b"[]", b"null", {"type": "error", "error": {"type": "api_error"}}, {"a": 1}],
    ids=repr,
)
def test_what_is_no_message_fails(answer: Any) -> None:
    found = whole(answer)
    assert [type(one) for one in found] == [Failed]
    assert ended(exchange().opening, found).quantities == exchange().opening.estimate


def test_a_contradiction_is_noted_with_both_numbers_and_never_raised() -> None:
    odd = {
        "cache_creation_input_tokens": 10,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 999},
    }
    report = reports(stream(message_start(**odd), message_delta(output_tokens=9), MESSAGE_STOP))[-1]
    assert report.note is not None
    assert "999" in report.note
    assert "10" in report.note
    assert report.quantities == Quantities(
        input_tokens=25, cache_write_tokens=10, cache_write_1h_tokens=10, output_tokens=9
    )


wild = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**9), st.floats(), st.text(max_size=3),
    st.lists(st.integers(), max_size=2), st.just({}),
)  # fmt: skip
names = st.sampled_from(
    [
        "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
        "cache_creation", "iterations", "server_tool_use", "service_tier", "output_tokens_details",
    ]
)  # fmt: skip
usages = st.one_of(wild, st.dictionaries(names, wild))


@given(usages, usages, wild, wild)
def test_no_number_of_any_kind_breaks_it(start: Any, end: Any, reason: Any, block: Any) -> None:
    begun = {**message_start(), "message": {"model": block, "usage": start}}
    over = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": end}
    odd = {"type": "content_block_delta", "delta": block}
    found = stream(begun, odd, {"type": "content_block_start", "content_block": block}, over)
    ended(exchange().opening, [*found, Completed()])


def test_the_estimate_counts_system_messages_tools_and_schema() -> None:
    tool = {
        "name": "find_parcel",
        "description": "Finds a parcel by its order.",
        "input_schema": {"type": "object", "properties": {"order": {"type": "string"}}},
    }
    bare = exchange(system=None).opening.estimate["input_tokens"]
    more = [
        exchange(),
        exchange(tools=[tool]),
        exchange(tools=[tool], output_config={"format": {"type": "json_schema", "schema": tool}}),
    ]
    counted = [bare, *(one.opening.estimate["input_tokens"] for one in more)]
    assert counted == sorted(counted)
    assert len(set(counted)) == 4


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64", "data": "A" * 10**6}},
        {"type": "document", "source": {"type": "base64", "data": "A" * 10**6}},
    ],
)
def test_the_estimate_takes_no_file_for_text(block: dict[str, Any]) -> None:
    message = {"role": "user", "content": [block]}
    assert exchange(messages=[message]).opening.estimate["input_tokens"] < 3_000


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages": 5, "system": 7, "tools": {}}'])
def test_a_request_of_any_shape_is_opened(body: bytes) -> None:
    found = opened(AnthropicMessages(), post("/v1/messages", body))
    assert found.opening.estimate["input_tokens"] > 0


def test_the_content_for_analytics_has_the_system_prompt_first() -> None:
    content = exchange().opening.content
    assert [message["role"] for message in content] == ["system", "user"]
