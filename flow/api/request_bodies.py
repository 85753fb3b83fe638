"""Request bodies, read strictly: what two parsers could read differently is refused.

A body must be one JSON object in UTF-8, with no name twice, no NaN, no lone surrogate, no NUL
(Postgres cannot hold it), no absurd depth and no absurd number. Then its fields are checked, and
every one that is wrong is named.

Handlers call `read` themselves instead of declaring a body parameter: FastAPI would have parsed
it leniently by then. `takes` describes the body in OpenAPI all the same.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from flow.domain.calls.request_parts import field_of
from flow.errors import FieldProblem, InvalidInput, Refused

LARGE_BYTES = 8_192
MAX_DEPTH = 64
MAX_DIGITS = 40
MAX_PROBLEMS = 50

Model = TypeVar("Model", bound=BaseModel)


async def read(
    request: Request, model: type[Model], context: Mapping[str, Any] | None = None
) -> Model:
    """The body as ``model``, whose validators are given the ``context``.

    Raises:
        Refused: ``unsupported_media_type``, or ``malformed_request`` when it is not JSON, or not
            an object.
        InvalidInput: names each field that is wrong or unknown.
    """
    _must_be_json(request.headers.get("content-type", ""))
    body = await request.body()
    if len(body) > LARGE_BYTES:
        # The largest take a tenth of a second, and calls run on this loop.
        return await asyncio.to_thread(_read, body, model, context)
    return _read(body, model, context)


def takes(
    model: type[BaseModel],
    examples: Mapping[str, Any] | None = None,
    *,
    required: bool = True,
) -> dict[str, Any]:
    """The OpenAPI description of a handler that reads ``model``."""
    media: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if examples:
        media["examples"] = dict(examples)
    return {"requestBody": {"required": required, "content": {"application/json": media}}}


def invalid(found: Iterable[Mapping[str, Any]], said: Any = None) -> InvalidInput:
    """What pydantic found wrong with what was ``said``, one problem per field."""
    problems = [_problem(each, said) for _, each in zip(range(MAX_PROBLEMS), found, strict=False)]
    return InvalidInput("The request is not valid.", problems)


def _read(body: bytes, model: type[Model], context: Mapping[str, Any] | None) -> Model:
    said = read_object(body)
    try:
        return model.model_validate(said, context=context)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False), said) from None


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``; raises as `read` does."""
    if not body.strip():
        raise _malformed("The request body is empty; send {} for the defaults.")
    try:
        value = _loads(body)
    except UnicodeDecodeError:
        raise _malformed("The request body is not UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise _malformed(f"The request body is not JSON: {error.msg} at {where}.") from None
    if not isinstance(value, dict):
        raise _malformed("The request body must be a JSON object.")
    # What the walk looks for takes an escape or many brackets; most bodies have neither.
    if b"\\u" in body or body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        problems = list(_unstorable(value, "", 1))
        if problems:
            raise InvalidInput("The request holds what cannot be kept.", problems[:MAX_PROBLEMS])
    return value


def _loads(body: bytes) -> Any:
    return json.loads(
        body.decode("utf-8"),
        parse_constant=_no_constant,
        parse_int=_bounded_int,
        parse_float=_finite_float,
        object_pairs_hook=_object,
    )


def _must_be_json(content_type: str) -> None:
    if content_type == "application/json":
        return
    kind, _, parameters = content_type.lower().partition(";")
    main, _, sub = kind.strip().partition("/")
    if main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise Refused("unsupported_media_type", "Send the body as application/json.")
    charset = parameters.replace('"', "").strip().removeprefix("charset=")
    if charset not in {"", "utf-8", "utf8"}:
        raise Refused("unsupported_media_type", "Send the body in UTF-8.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise _malformed(f"The name {twice[:100]!r} is in one object twice.")
    return value


def _no_constant(name: str) -> Any:
    raise _malformed(f"{name} is not JSON.")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidInput(f"A number has {len(digits)} digits; at most {MAX_DIGITS} are taken.")
    return int(digits)


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidInput(f"The number {text[:MAX_DIGITS]} is too large.")
    return value


def _unstorable(value: Any, path: str, depth: int) -> Iterator[FieldProblem]:
    if depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, str):
        if "\0" in value:
            yield FieldProblem(path, "must not contain the NUL character")
        elif not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            yield FieldProblem(path, "must not contain half of a surrogate pair")
    elif isinstance(value, dict):
        for name, item in value.items():
            inside = f"{path}.{name}" if path else name
            yield from _unstorable(name, inside, depth)
            yield from _unstorable(item, inside, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unstorable(item, f"{path}.{index}", depth + 1)


def _problem(found: Mapping[str, Any], said: Any) -> FieldProblem:
    unknown = found["type"] == "extra_forbidden"
    message = "is not a field of this request" if unknown else str(found["msg"])
    return FieldProblem(field_of(found["loc"], said), message.removeprefix("Value error, "))


def _malformed(message: str) -> Refused:
    return Refused("malformed_request", message)


def _too_deep() -> Refused:
    return _malformed(f"The request body is nested more than {MAX_DEPTH} levels deep.")
