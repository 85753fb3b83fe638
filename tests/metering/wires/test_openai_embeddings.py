"""OpenAI's embeddings: what an answer shows, and what an input is estimated at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.domain.usage.token_estimates import count_tokens
from flow.metering.evidence import Failed
from flow.metering.wires.openai_embeddings import OpenAIEmbeddings
from flow.metering.wires.reader import Exchange, HttpRequest
from tests.metering.wires.reading import cut, ended, opened, post, read, reports

MODEL = "text-embedding-3-small"
ANSWER = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
    "model": MODEL,
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}


def exchange(given: Any = "Where is my parcel?") -> Exchange:
    request = post("/v1/embeddings", {"model": MODEL, "input": given})
    return opened(OpenAIEmbeddings(), request)


def test_what_is_reported_is_input_and_no_output() -> None:
    CreateEmbeddingResponse.model_validate(ANSWER, strict=True)
    body = json.dumps(ANSWER).encode()
    found = read(exchange(), *cut(body, range(len(body))))
    event = ended(exchange().opening, found)
    assert event.quantities == Quantities(input_tokens=8)
    assert (event.provenance, event.outcome, event.note) == (
        Provenance.REPORTED, Outcome.OK, None,
    )  # fmt: skip


def test_a_total_that_is_missing_is_no_contradiction() -> None:
    (report,) = reports(read(exchange(), _body(usage={"prompt_tokens": 8})))
    assert (report.quantities, report.note) == (Quantities(input_tokens=8), None)


def test_a_total_that_does_not_fit_is_noted_with_both_numbers() -> None:
    (report,) = reports(read(exchange(), _body(usage={"prompt_tokens": 8, "total_tokens": 5})))
    assert report.quantities == Quantities(input_tokens=8)
    assert report.note is not None
    assert "8" in report.note
    assert "5" in report.note


@pytest.mark.parametrize("usage", [None, {}, "nothing"])
def test_without_usage_it_is_estimated(usage: Any) -> None:
    event = ended(exchange().opening, read(exchange(), _body(usage=usage)))
    assert event.quantities == exchange().opening.estimate
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.OK)


def test_zeros_are_kept_as_reported() -> None:
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    event = ended(exchange().opening, read(exchange(), _body(usage=usage)))
    assert (event.quantities, event.provenance) == (Quantities(), Provenance.REPORTED)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"error": {}}', b'{"data": 5}'])
def test_what_is_no_list_fails(body: bytes) -> None:
    assert [type(one) for one in read(exchange(), body)] == [Failed]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Hello there", count_tokens("Hello there", MODEL)),
        (["Hello there"] * 3, 3 * count_tokens("Hello there", MODEL)),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [4]], 4),
        (None, 0),
        ({"a": 1}, 0),
    ],
)
def test_the_estimate_counts_text_and_tokens(given: Any, expected: int) -> None:
    assert exchange(given).opening.estimate["input_tokens"] == expected


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/embeddings"), ("POST", "/v1/embeddings/x"), ("POST", "/v1")]
)
def test_other_requests_are_not_its(method: str, path: str) -> None:
    assert OpenAIEmbeddings().open(HttpRequest(method, path, {}, b"{}")) is None


def _body(**changed: Any) -> bytes:
    return json.dumps({**ANSWER, **changed}).encode()
