"""OpenAI's chat completions, as OpenAI and others speak them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.token_estimates import count_tokens
from flow.domain.usage.vendor_reports import Counting
from flow.metering.evidence import Completed, Ended, Evidence, Failed, Served
from flow.metering.wires.openai_chat import OpenAIChat
from flow.metering.wires.reader import Exchange, HttpRequest
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
    CHAT,
    CHAT_EVENTS,
    CHAT_REQUEST,
    CHAT_USAGE,
    SAID,
    chat_chunk,
    chat_delta,
)

TEXT = (chat_chunk(chat_delta(role="assistant", content=SAID)), chat_chunk(chat_delta("stop")))
FIELD_USAGE = {
    "prompt_tokens": 39_320,
    "completion_tokens": 26,
    "total_tokens": 39_346,
    "prompt_tokens_details": {"cached_tokens": 33_280},
}
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def exchange(counting: Counting = Counting.GROSS, **request: Any) -> Exchange:
    wire = OpenAIChat(counting)
    return opened(wire, post("/v1/chat/completions", {**CHAT_REQUEST, **request}))


def stream(*events: Any, **request: Any) -> list[Evidence]:
    return read(exchange(**request), event_stream([*events, "[DONE]"]), content_type=EVENT_STREAM)


def event_of(*events: Any, how: Ended = Ended.DONE, **request: Any) -> UsageEvent:
    return ended(exchange(**request).opening, stream(*events, **request), how)


def used(counting: Counting = Counting.GROSS, **usage: Any) -> Quantities:
    (report,) = reports(stream(*TEXT, chat_chunk(usage=usage), counting=counting))
    assert report.note is None
    return report.quantities


@pytest.mark.parametrize("late", [ZEROS, {}, None, {"prompt_tokens": None}])
def test_a_late_report_of_nothing_does_not_take_the_real_one_s_place(late: Any) -> None:
    event = event_of(*TEXT, chat_chunk(usage=FIELD_USAGE), chat_chunk(usage=late))
    assert event.quantities == Quantities(
        input_tokens=6_040, cache_read_tokens=33_280, output_tokens=26
    )
    assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.OK)


def test_a_report_that_text_follows_is_not_the_last_word_on_the_output() -> None:
    early = chat_chunk(usage={"prompt_tokens": 10, "completion_tokens": 1})
    event = event_of(early, *TEXT)
    assert event.quantities == Quantities(input_tokens=10, output_tokens=count_tokens(SAID))
    assert event.provenance is Provenance.ESTIMATED


@pytest.mark.parametrize("tokens", [10**30, 10**400, 1e30])
def test_a_number_that_cannot_be_is_none_and_noted(tokens: float) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": 9}
    event = event_of(*TEXT, chat_chunk(usage=usage))
    estimate = exchange().opening.estimate
    assert event.quantities == estimate.replaced(output_tokens=9)
    assert event.provenance is Provenance.ESTIMATED
    assert event.note is not None
    assert "e+" in event.note


@pytest.mark.parametrize("name", ["x\0y", "m" * 5_000, "two\nlines", 7, ""])
def test_a_name_that_is_none_does_not_stand_for_the_model_s(name: Any) -> None:
    usage = chat_chunk(usage=FIELD_USAGE) | {"model": name, "service_tier": name}
    event = event_of(*TEXT, usage)
    assert (event.model, event.service_tier) == ("gpt-4.1-2025-04-14", "default")


def test_of_several_choices_the_last_one_ends_the_work() -> None:
    def choice(index: int, finish: str | None = None, **delta: Any) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    cut_off = event_of(
        choice(0, content="one"),
        choice(1, content="two"),
        choice(0, "stop") | {"usage": usage},
        how=Ended.ABANDONED,
        n=2,
    )
    assert cut_off.provenance is Provenance.ESTIMATED
    whole = event_of(
        choice(0, content="one"), choice(1, content="two"), choice(0, "stop"),
        choice(1, "stop") | {"usage": usage}, n=2,
    )  # fmt: skip
    assert (whole.provenance, whole.outcome) == (Provenance.REPORTED, Outcome.OK)


def test_half_a_report_is_completed_and_noted() -> None:
    event = event_of(*TEXT, chat_chunk(usage={"prompt_tokens": 0, "completion_tokens": 9}))
    estimate = exchange().opening.estimate
    assert event.quantities == estimate.replaced(output_tokens=9)
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.OK)
    assert event.note == "the vendor reported only part of the usage"


def test_litellm_s_cache_writes_stand_at_the_top_level() -> None:
    quantities = used(
        prompt_tokens=98_805,
        completion_tokens=400,
        prompt_tokens_details={"cached_tokens": 66_360},
        cache_creation_input_tokens=32_435,
    )
    assert quantities == Quantities(
        input_tokens=10, cache_read_tokens=66_360, cache_write_tokens=32_435, output_tokens=400
    )


def test_zeros_and_nothing_else_are_kept_as_reported() -> None:
    event = event_of(*TEXT, chat_chunk(usage=ZEROS))
    assert (event.quantities, event.provenance) == (Quantities(), Provenance.REPORTED)
    assert (event.outcome, event.note) == (Outcome.OK, None)


@pytest.mark.parametrize(
    ("counting", "usage", "expected"),
    [
        pytest.param(Counting.GROSS, CHAT_USAGE, CHAT.usage, id="OpenAI"),
        pytest.param(
            Counting.GROSS,
            {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64},
            Quantities(input_tokens=36, cache_read_tokens=64, output_tokens=5),
            id="DeepSeek's cache",
        ),
        pytest.param(
            Counting.GROSS,
            {
                "prompt_tokens": 20,
                "completion_tokens": 5,
                "total_tokens": 65,
                "completion_tokens_details": {"reasoning_tokens": 40},
            },
            Quantities(input_tokens=20, output_tokens=45, reasoning_tokens=40),
            id="xAI's reasoning",
        ),
        pytest.param(
            Counting.GROSS,
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 1_015,
                "prompt_tokens_details": {"cached_tokens": 1_000},
            },
            Quantities(input_tokens=10, cache_read_tokens=1_000, output_tokens=5),
            id="a total that says that the cache lies beside the prompt",
        ),
        pytest.param(
            Counting.GROSS,
            {
                "prompt_tokens": 120,
                "completion_tokens": 60,
                "total_tokens": 180,
                "prompt_tokens_details": {"audio_tokens": 100},
                "completion_tokens_details": {"audio_tokens": 50},
            },
            Quantities(
                input_tokens=120, input_audio_tokens=100, output_tokens=60, output_audio_tokens=50
            ),
            id="sound",
        ),
        pytest.param(
            Counting.GROSS,
            {
                "prompt_tokens": 500,
                "completion_tokens": 5,
                "cache_creation_input_tokens": 400,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 100,
                    "ephemeral_1h_input_tokens": 300,
                },
            },
            Quantities(
                input_tokens=100,
                cache_write_tokens=400,
                cache_write_1h_tokens=300,
                output_tokens=5,
            ),
            id="Anthropic's lifetimes",
        ),
        pytest.param(
            Counting.GEMINI,
            {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 65},
            Quantities(input_tokens=20, output_tokens=45, reasoning_tokens=40),
            id="Gemini's thoughts",
        ),
    ],
)
def test_usage_becomes_disjoint_quantities(
    counting: Counting, usage: dict[str, Any], expected: Quantities
) -> None:
    assert used(counting, **usage) == expected


def test_groq_reports_in_a_field_of_its_own() -> None:
    last = {**chat_chunk(chat_delta("stop")), "x_groq": {"id": "r", "usage": CHAT_USAGE}}
    event = event_of(TEXT[0], last)
    assert (event.quantities, event.provenance) == (CHAT.usage, Provenance.REPORTED)


@pytest.mark.parametrize(
    ("lifetimes", "for_an_hour"),
    [(["1h"], 90), (["1h", "1h"], 90), (["1h", "5m"], 0), (["1h", None], 0), ([None], 0)],
)
def test_the_request_tells_how_long_writes_last_where_the_report_does_not(
    lifetimes: list[str | None], for_an_hour: int
) -> None:
    parts = [
        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": one}}
        for one in lifetimes
    ]
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "cache_creation_input_tokens": 90}
    messages = [{"role": "system", "content": parts}]
    event = event_of(*TEXT, chat_chunk(usage=usage), messages=messages)
    assert event.quantities["cache_write_tokens"] == 90
    assert event.quantities["cache_write_1h_tokens"] == for_an_hour


@pytest.mark.parametrize("how", [Ended.ABANDONED, Ended.BROKEN])
def test_usage_that_grows_with_the_stream_is_not_all_of_a_stream_that_is_cut_off(
    how: Ended,
) -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31}
    event = event_of({**TEXT[0], "usage": usage}, how=how)
    assert event.provenance is Provenance.ESTIMATED
    assert event.quantities == Quantities(input_tokens=30, output_tokens=count_tokens(SAID))


def test_usage_that_grows_with_the_stream_is_not_added_up() -> None:
    grown = [
        {**chunk, "usage": {"prompt_tokens": 30, "completion_tokens": n}}
        for n, chunk in enumerate((*TEXT[:1], *TEXT))
    ]
    event = event_of(*grown)
    assert event.quantities == Quantities(input_tokens=30, output_tokens=2)
    assert event.provenance is Provenance.REPORTED


def test_the_output_is_text_refusal_reasoning_and_calls() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "find", "arguments": '{"a":'}}
    more = {"index": 0, "function": {"arguments": "1}"}}
    deltas = [
        chat_delta(reasoning_content="A. "), chat_delta(reasoning="B. "), chat_delta(content="C. "),
        chat_delta(refusal="D. "), chat_delta(tool_calls=[call]), chat_delta(tool_calls=[more]),
    ]  # fmt: skip
    assert texts(stream(*map(chat_chunk, deltas))) == 'A. B. C. D. find{"a":1}'


def completion(**changed: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": SAID, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {**chat_chunk(choice), "object": "chat.completion", "usage": CHAT_USAGE, **changed}


def test_a_whole_completion_says_the_same() -> None:
    ChatCompletion.model_validate(completion(), strict=True)
    found = read(exchange(stream=False), json.dumps(completion()).encode())
    event = ended(exchange().opening, found)
    assert (event.quantities, event.provenance, event.outcome) == (
        CHAT.usage, Provenance.REPORTED, Outcome.OK,
    )  # fmt: skip
    assert texts(found) == SAID
    assert Served("gpt-4.1-2025-04-14", "default") in found


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"error": {}}', json.dumps(completion(choices=[])).encode()],
)
def test_what_is_no_completion_fails(body: bytes) -> None:
    assert [type(one) for one in read(exchange(), body)] == [Failed]


def test_an_error_inside_the_stream_fails_it() -> None:
    event = event_of(TEXT[0], {"error": {"message": "the whole prompt"}})
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)
    assert event.failure is not None
    assert "prompt" not in event.failure.message


def test_a_contradiction_is_noted_with_both_numbers() -> None:
    usage = {**CHAT_USAGE, "prompt_tokens_details": {"cached_tokens": 9_999}}
    event = event_of(*TEXT, chat_chunk(usage=usage))
    assert event.note is not None
    assert "9999" in event.note
    assert "1200" in event.note
    assert event.quantities["cache_read_tokens"] == 1_200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/x"),
        ("POST", "/v1/completions"),
    ],
)
def test_other_requests_are_not_its(method: str, path: str) -> None:
    assert OpenAIChat().open(HttpRequest(method, path, {}, b"{}")) is None


wild = st.recursive(
    st.one_of(st.none(), st.integers(-3, 10**6), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
fields = st.sampled_from(["choices", "usage", "model", "service_tier", "error", "x_groq"])
usages = st.dictionaries(st.sampled_from([*CHAT_USAGE, "cache_creation_input_tokens"]), wild)


@given(st.dictionaries(fields, wild), usages, wild)
def test_no_chunk_of_any_shape_breaks_it(chunk: Any, usage: Any, delta: Any) -> None:
    found = stream(chunk, {"usage": usage, "choices": [{"delta": delta}, delta]})
    ended(exchange().opening, [*found, Completed()])
    read(exchange(), json.dumps({**chunk, "choices": [{"message": delta}]}).encode())


def test_the_stream_that_is_recorded_has_its_usage_in_the_last_chunk() -> None:
    assert [bool(e.get("usage")) for e in CHAT_EVENTS[:-1]] == [False] * 6 + [True]
