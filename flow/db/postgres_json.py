"""JSON that Postgres can hold.

``jsonb`` has no NUL, no lone surrogate and no NaN. One such character in a vendor's error text or
a model's answer must not make everything sent with it unsavable, so it is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json


def storable(value: Any) -> Any:
    """The JSON value with each unstorable character as U+FFFD and each NaN or infinity as null."""
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else _storable_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def storable_text(value: Any) -> str:
    """The JSON text of `storable` of the value; quick when there is nothing to replace."""
    try:
        text = to_json(value, inf_nan_mode="null")
    except ValueError:  # half of a surrogate pair, which is no UTF-8
        return to_json(storable(value)).decode()
    return (to_json(storable(value)) if rb"\u0000" in text else text).decode()


def text_array(texts: Iterable[str]) -> str | None:
    """An argument of type ``text[]`` that means the same to Postgres and PostgREST: a literal.

    ``None`` of nothing.
    """
    escaped = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return "{" + ",".join(f'"{text}"' for text in escaped) + "}" if escaped else None


def _storable_text(text: str) -> str:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\ufffd")
