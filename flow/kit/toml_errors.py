"""Sentences about the mistakes that pydantic finds in a TOML file, for the person who wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails, PydanticCustomError

_MOST_SHOWN = 80
# pydantic's words are Python's.
_MUST = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "string_type": "must be text",
}


def mistake(sentence: str) -> PydanticCustomError:
    """An error for a validator to raise; braces in the sentence are no placeholders.

    A sentence that begins with ``must``, but not ``must not``, is completed with the value.
    """
    return PydanticCustomError("mistake", "{sentence}", {"sentence": sentence})


def sentence_of(error: ErrorDetails) -> str:
    """What is wrong with a value, without its path and full stop."""
    wrong = _MUST.get(error["type"]) or re.sub(
        r"^\w+ should (be|have)", r"must \1", error["msg"].replace("False", "false")
    )
    if wrong.startswith("must not") or not wrong.startswith("must"):
        return wrong
    return f"{wrong}, not {shown(error['input'])}"


def path_of(keys: Iterable[str | int]) -> str:
    """The path of a field, with keys as TOML has them: in quotes unless they are plain."""
    written = (str(key) for key in keys if key != "[key]")
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in written)


def suggestion(name: str, known: Iterable[str]) -> str:
    """What an unknown name may have been meant for."""
    if near := get_close_matches(name, known, 1):
        return f"did you mean {near[0]}?"
    return f"use {', '.join(known)}"


def shown(value: Any) -> str:
    """A value as a sentence about it shows it, never long."""
    text = repr(value) if isinstance(value, str | list | Mapping) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."
