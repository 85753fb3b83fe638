"""Gemini's generateContent: what each chunk shows, in each form of its stream."""

from __future__ import annotations

import json
from types import NoneType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.metering.evidence import Completed, Ended, Evidence, Failed, Served
from flow.metering.wires.gemini_generate import GeminiGenerate, GenerateExchange
from flow.metering.wires.json_array import JsonArray
from flow.metering.wires.reader import Exchange, Free, HttpRequest
from tests.metering.wires.reading import (
    EVENT_STREAM,
    cut,
    ended,
    event_stream,
    opened,
    post,
    read,
    reports,
    texts,
)
from tests.metering.wires.recordings import (
    GENERATE_EVENTS,
    GENERATE_PATH,
    GENERATE_REQUEST,
    GENERATE_USAGE,
    GENERATED,
    SAID,
    generate_chunk,
    modality,
)

WHOLE_PATH = "/v1beta/models/gemini-2.5-flash:generateContent"


def exchange(path: str = GENERATE_PATH, **request: Any) -> Exchange:
    return opened(GeminiGenerate(), post(path, {**GENERATE_REQUEST, **request}))


def stream(*chunks: Any) -> list[Evidence]:
    return read(exchange(), event_stream(chunks), content_type=EVENT_STREAM)


def whole(answer: Any) -> list[Evidence]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read(exchange(WHOLE_PATH), body)


def used(**usage: Any) -> Quantities:
    (report,) = reports(stream(generate_chunk({"text": SAID}, finish="STOP", usage=usage)))
    assert report.note is None
    return report.quantities


@pytest.mark.parametrize(
    ("path", "model", "is_stream"),
    [
        (WHOLE_PATH, "gemini-2.5-flash", False),
        (GENERATE_PATH, "gemini-2.5-flash", True),
        (
            "/v1/projects/p/locations/l/publishers/google/models/gemini-3-pro:generateContent",
            "gemini-3-pro",
            False,
        ),
        ("/v1beta/tunedModels/mine-1:streamGenerateContent", "mine-1", True),
    ],
)
def test_the_model_is_in_the_path(path: str, model: str, is_stream: bool) -> None:
    opening = exchange(path).opening
    assert (opening.model, opening.stream) == (model, is_stream)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", WHOLE_PATH, GenerateExchange),
        ("POST", "/v1beta/models/gemini-2.5-flash:countTokens", Free),
        ("POST", "/v1beta/models/gemini-embedding-001:embedContent", NoneType),
        ("POST", "/v1beta/cachedContents", NoneType),
        ("GET", WHOLE_PATH, NoneType),
    ],
)
def test_it_knows_its_own_requests(method: str, path: str, expected: type) -> None:
    assert isinstance(GeminiGenerate().open(HttpRequest(method, path, {}, b"{}")), expected)


def test_the_output_is_text_thought_and_calls() -> None:
    said = texts(stream(*GENERATE_EVENTS))
    assert said == "They ask for a parcel." + SAID + 'find_parcel{"order":"A 17"}'


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(
            {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
            Quantities(input_tokens=10, output_tokens=5),
            id="plain",
        ),
        pytest.param(GENERATE_USAGE, GENERATED, id="cache, thoughts and sound"),
        pytest.param(
            {"promptTokenCount": 10, "thoughtsTokenCount": 40, "totalTokenCount": 50},
            Quantities(input_tokens=10, output_tokens=40, reasoning_tokens=40),
            id="thoughts alone",
        ),
        pytest.param(
            {
                "promptTokenCount": 10,
                "toolUsePromptTokenCount": 90,
                "candidatesTokenCount": 5,
                "totalTokenCount": 105,
            },
            Quantities(input_tokens=100, output_tokens=5),
            id="what tools said is input",
        ),
        pytest.param(
            {"promptTokenCount": 10, "totalTokenCount": 10},
            Quantities(input_tokens=10),
            id="no output",
        ),
        pytest.param(
            {
                "promptTokenCount": 300,
                "candidatesTokenCount": 50,
                "totalTokenCount": 350,
                "promptTokensDetails": [
                    modality("TEXT", 10), modality("IMAGE", 258), modality("VIDEO", 32),
                ],
                "candidatesTokensDetails": [modality("AUDIO", 50)],
            },
            Quantities(input_tokens=300, output_tokens=50, output_audio_tokens=50),
            id="pictures stay in the whole, sound that was made is a part",
        ),
        pytest.param(
            {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 45},
            Quantities(input_tokens=10, output_tokens=35, reasoning_tokens=30),
            id="thoughts that only the total tells",
        ),
    ],
)  # fmt: skip
def test_usage_becomes_disjoint_quantities(usage: dict[str, Any], expected: Quantities) -> None:
    assert used(**usage) == expected


def test_the_last_report_counts_and_nothing_is_added_up() -> None:
    found = stream(*GENERATE_EVENTS)
    assert len(reports(found)) == len(GENERATE_EVENTS)
    assert ended(exchange().opening, found).quantities == GENERATED


@pytest.mark.parametrize("late", [{}, {"promptTokenCount": 0, "totalTokenCount": 0}])
def test_nothing_does_not_replace_a_report(late: dict[str, Any]) -> None:
    found = stream(*GENERATE_EVENTS, {"usageMetadata": late})
    event = ended(exchange().opening, found)
    assert (event.quantities, event.provenance) == (GENERATED, Provenance.REPORTED)


def test_a_barge_in_keeps_the_prompt_and_estimates_the_rest() -> None:
    event = ended(exchange().opening, stream(*GENERATE_EVENTS[:-1]), Ended.ABANDONED)
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert event.quantities["input_tokens"] == 1_500
    assert event.quantities.count("output_tokens") >= 90


def test_a_whole_answer_says_the_same() -> None:
    found = whole(generate_chunk({"text": SAID}, finish="MAX_TOKENS", usage=GENERATE_USAGE))
    event = ended(exchange(WHOLE_PATH).opening, found)
    assert (event.quantities, event.provenance, event.outcome) == (
        GENERATED, Provenance.REPORTED, Outcome.OK,
    )  # fmt: skip
    assert texts(found) == SAID


def test_a_blocked_prompt_is_whole_and_costs_its_prompt() -> None:
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
        "modelVersion": "gemini-2.5-flash",
    }
    for found in (whole(blocked), stream(blocked)):
        event = ended(exchange().opening, found)
        assert event.quantities == Quantities(input_tokens=12)
        assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.OK)


@pytest.mark.parametrize("in_array", [True, False])
def test_an_error_inside_the_stream_fails_it(in_array: bool) -> None:
    error = {"error": {"code": 503, "message": "the whole prompt", "status": "UNAVAILABLE"}}
    events = [*GENERATE_EVENTS[:2], error]
    found = whole(events) if in_array else stream(*events)
    (failed,) = (one for one in found if isinstance(one, Failed))
    assert failed.failure.message == "the vendor failed in mid-answer: UNAVAILABLE"
    assert ended(exchange().opening, found).provenance is Provenance.ESTIMATED


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"<html>", b'[{"a": 1}, {"b"'])
def test_what_is_no_answer_fails(body: bytes) -> None:
    found = whole(body)
    assert [type(one) for one in found] == [Failed]


def test_the_tier_that_served_is_in_a_header_or_in_the_usage() -> None:
    headers = {"x-gemini-service-tier": "priority"}
    assert read(exchange(), headers=headers)[0] == Served(service_tier="priority")
    usage = {"promptTokenCount": 1, "totalTokenCount": 1}
    for name, tier in (("ON_DEMAND_FLEX", "flex"), ("ON_DEMAND", "on_demand")):
        chunk = generate_chunk(finish="STOP", usage={**usage, "trafficType": name})
        assert Served(service_tier=tier) in stream(chunk)


def test_zeros_and_nothing_else_are_kept_as_reported() -> None:
    usage = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    found = stream(generate_chunk({"text": SAID}, finish="STOP", usage=usage))
    event = ended(exchange().opening, found)
    assert (event.quantities, event.provenance) == (Quantities(), Provenance.REPORTED)


def test_a_contradiction_is_noted_with_both_numbers() -> None:
    usage = {"promptTokenCount": 10, "cachedContentTokenCount": 77, "candidatesTokenCount": 1}
    (report,) = reports(stream(generate_chunk(finish="STOP", usage=usage)))
    assert report.note is not None
    assert "77" in report.note
    assert "10" in report.note
    assert report.quantities == Quantities(cache_read_tokens=10, output_tokens=1)


wild = st.one_of(
    st.none(), st.integers(-5, 10**6), st.floats(), st.text(max_size=2), st.just([None, 3]),
    st.just([{"modality": "AUDIO", "tokenCount": 10**7}]), st.just({}),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*GENERATE_USAGE, "toolUsePromptTokenCount"]), wild), wild)
def test_no_number_of_any_kind_breaks_it(usage: Any, odd: Any) -> None:
    chunk = {"usageMetadata": usage, "candidates": [{"content": odd}, odd], "promptFeedback": odd}
    ended(exchange().opening, [*stream(chunk), Completed()])


def test_the_estimate_counts_all_that_is_sent() -> None:
    function = {"name": "find_parcel", "description": "Finds a parcel."}
    answer = {"functionResponse": {"name": "find_parcel", "response": {"state": "on its way"}}}
    turn = {"role": "user", "parts": [answer]}
    asked: list[dict[str, Any]] = [{"systemInstruction": None}, {}]
    asked.append({"contents": [*GENERATE_REQUEST["contents"], turn]})  # type: ignore[misc]
    asked.append({**asked[-1], "tools": [{"functionDeclarations": [function]}]})
    asked.append({**asked[-1], "generationConfig": {"responseSchema": function}})
    counted = [exchange(**one).opening.estimate.count("input_tokens") for one in asked]
    assert counted == sorted(set(counted))
    snake = exchange(
        systemInstruction=None, system_instruction=GENERATE_REQUEST["systemInstruction"]
    )
    assert snake.opening.estimate == exchange().opening.estimate


@pytest.mark.parametrize("name", ["parameters", "parametersJsonSchema", "parameters_json_schema"])
def test_the_estimate_counts_what_a_function_takes_by_any_name(name: str) -> None:
    bare = {"name": "find_parcel"}
    taken = {name: {"type": "object", "properties": {"number": {"type": "string"}}}}
    without, with_parameters = (
        exchange(tools=[{"functionDeclarations": [{**bare, **more}]}]).opening.estimate
        for more in ({}, taken)
    )
    assert with_parameters.count("input_tokens") > without.count("input_tokens") + 5


@pytest.mark.parametrize("kind", ["image/png", "audio/wav", "application/pdf"])
def test_the_estimate_takes_no_file_for_text(kind: str) -> None:
    parts = [{"inlineData": {"mimeType": kind, "data": "A" * 10**6}}]
    opening = exchange(contents=[{"role": "user", "parts": parts}]).opening
    assert opening.estimate.count("input_tokens") < 3_000


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"contents": 5, "tools": [7], "systemInstruction": []}']
)
def test_a_request_of_any_shape_is_opened(body: bytes) -> None:
    assert opened(GeminiGenerate(), post(GENERATE_PATH, body)).opening.estimate


values = st.recursive(
    st.one_of(st.integers(), st.text(alphabet='a"\\{}[],é', max_size=6), st.booleans()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(alphabet='a"\\{}', max_size=3), values), max_size=4),
       st.lists(st.integers(0, 10**6), max_size=10), st.sampled_from([None, 2]))  # fmt: skip
def test_an_array_gives_its_objects_however_it_is_cut(
    objects: list[Any], cuts: list[int], indent: int | None
) -> None:
    body = json.dumps(objects, ensure_ascii=False, indent=indent).encode()
    array = JsonArray()
    found = [one for chunk in cut(body, cuts) for one in array.feed(chunk)]
    assert [json.loads(one) for one in found] == objects
    assert array.is_whole
