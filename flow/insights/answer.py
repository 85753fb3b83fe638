"""Judging what the model answered: pure, and prepared for anything."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from flow.domain.insights.insight_schema import MAX_DEPTH, is_deeper, violations
from flow.domain.insights.insights import Reason
from flow.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer. ``finish_reason`` is the vendor's own word."""

    text: str
    refusal: str | None
    finish_reason: str | None
    model: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """``data`` when the answer can be used; otherwise why not.

    ``problems`` are for the model to read and may quote the answer; ``detail`` quotes nothing.
    """

    data: dict[str, Any] | None = None
    reason: Reason | None = None
    detail: str | None = None
    problems: list[str] = field(default_factory=list)


def judge(answer: Answer, schema: dict[str, Any]) -> Verdict:
    """Whether an answer is a JSON object that keeps to the schema.

    How long that takes is up to the schema: see `flow.insights.schema_checker`.
    """
    if answer.refusal:
        return Verdict(reason="refused", detail="the model refused")
    if answer.finish_reason == "content_filter":
        return Verdict(reason="refused", detail="the vendor's content filter")
    if answer.finish_reason == "length":
        return Verdict(reason="truncated", detail="the answer was too long")
    try:
        data = parse_object(answer.text)
    except ValueError as error:
        return Verdict(reason="invalid_output", detail="not a JSON object", problems=[str(error)])
    try:
        problems = violations(data, schema)
    except InvalidInput as error:
        return Verdict(reason="unusable_schema", detail=str(error))
    if problems:
        detail = "does not keep to the schema"
        return Verdict(reason="invalid_output", detail=detail, problems=problems)
    return Verdict(data=data)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``, of nothing but what Postgres can keep as ``jsonb``.

    NUL characters and halves of surrogate pairs are taken out of strings.

    Raises:
        ValueError: it is no JSON object, nested too deeply, or holds NaN or an infinity.
    """
    try:
        value = json.loads(text, parse_constant=_not_json, parse_float=_finite)
        if not isinstance(value, dict):
            raise ValueError("The answer must be one JSON object.")
        if is_deeper(value, MAX_DEPTH):
            raise RecursionError
        return {_text(name): _storable(inner) for name, inner in value.items()}
    except RecursionError:
        raise ValueError(f"The answer is nested more than {MAX_DEPTH} levels deep.") from None


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, dict):
        return {_text(name): _storable(inner) for name, inner in value.items()}
    return value


def _text(value: str) -> str:
    return value.replace("\x00", "").encode("utf-8", "ignore").decode()


def _not_json(name: str) -> float:
    raise ValueError(f"{name} is not JSON.")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number.")
    return number
