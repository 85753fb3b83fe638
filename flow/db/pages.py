"""Pages of lists, and the cursors that lead from one to the next."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from flow.errors import FieldProblem, InvalidInput

MAX_PAGE = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. ``next_cursor`` is opaque, and ``None`` on the last page."""

    items: tuple[T, ...]
    next_cursor: str | None


def time_text(text: str) -> str:
    """A time of a cursor, as Postgres and Python write it; raises `ValueError` for another text."""
    return datetime.fromisoformat(text).isoformat()


def id_text(text: str) -> str:
    """A UUID of a cursor; raises `ValueError` for another text."""
    return str(UUID(text))


def name_text(text: Any) -> str:
    """A name of a cursor; raises `ValueError` for what no name is."""
    if not isinstance(text, str) or "\0" in text:
        raise ValueError("not a name")
    return text


Parse = Callable[[Any], Any]
BY_TIME: tuple[Parse, ...] = (time_text, id_text)


def check_limit(limit: int) -> None:
    """Raise `InvalidInput` for a page of no allowed size."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit must be between 1 and {MAX_PAGE}, not {limit}")


def place(cursor: str | None, parts: Sequence[Parse] = BY_TIME) -> Sequence[Any]:
    """What a list is ordered by, of the last item of the page before; nothing but ``None`` at the
    first page.

    Raises:
        InvalidInput: no page of such a list had this cursor.
    """
    if cursor is None:
        return [None] * len(parts)
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if not isinstance(found, list):
            raise ValueError("not a place")
        return [parse(part) for parse, part in zip(parts, found, strict=True)]
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        problem = FieldProblem("cursor", "is not a cursor from an earlier page")
        raise InvalidInput("The cursor is not valid.", [problem]) from None


def page(
    found: Sequence[Mapping[str, Any]],
    limit: int,
    item: Callable[[Mapping[str, Any]], T],
    order: Sequence[str] = ("created_at", "id"),
    parts: Sequence[Parse] = BY_TIME,
) -> Page[T]:
    """A page of what was asked for with one more than ``limit``.

    Args:
        order: the names of what the list is ordered by, ``parts`` how each is written.
    """
    kept = found[:limit]
    cursor = None
    if len(found) > limit:
        last = [parse(kept[-1][name]) for parse, name in zip(parts, order, strict=True)]
        cursor = base64.urlsafe_b64encode(json.dumps(last).encode()).decode()
    return Page(tuple(map(item, kept)), cursor)
