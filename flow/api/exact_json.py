"""JSON answers whose numbers are the account's own, digit by digit.

``json`` would turn a `Decimal` into a float or refuse it. Here it is written as the number it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from starlette.responses import Response

_ALWAYS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class ExactJSONResponse(Response):
    """A JSON answer to one caller, never to be cached by anybody between."""

    media_type = "application/json"

    def init_headers(self, headers: Any = None) -> None:
        """Add what every answer of the API carries."""
        super().init_headers({**_ALWAYS, **(headers or {})})

    def render(self, content: Any) -> bytes:
        """The content as UTF-8; a model is dumped first."""
        value = content.model_dump(by_alias=True) if isinstance(content, BaseModel) else content
        return dumps(value).encode("utf-8", "replace")


class _Inexact(Exception):
    """A value the standard encoder cannot write exactly."""


def dumps(value: Any) -> str:
    """The value as JSON: Decimals exactly, times in UTC as RFC 3339, UUIDs as strings.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value has no place in JSON.
    """
    try:
        return _encode(value)
    except _Inexact:
        return "".join(_write(value))


def rfc3339(moment: datetime) -> str:
    """The moment in UTC, ending in ``Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _default(value: Any) -> Any:
    if isinstance(value, Decimal):
        raise _Inexact
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


_encode = json.JSONEncoder(
    default=_default, allow_nan=False, ensure_ascii=False, separators=(",", ":")
).encode


def _write(value: Any) -> Iterator[str]:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is not a JSON number")
        yield format(value, "f")
    elif isinstance(value, dict):
        yield "{"
        for index, (name, item) in enumerate(value.items()):
            yield ("," if index else "") + dumps(str(name)) + ":"
            yield from _write(item)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for index, item in enumerate(value):
            if index:
                yield ","
            yield from _write(item)
        yield "]"
    else:
        yield dumps(value)
