"""What a reader of an HTTP protocol is: it opens an exchange for each request that costs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import jiter

from flow.domain.usage.events import Failure
from flow.metering.evidence import Evidence, Failed, Opening


class HttpRequest:
    """A request as it goes out: ``path`` without query, header names in lower case.

    ``json`` is what the body holds, where that is known already.
    """

    def __init__(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        json: dict[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        if json is not None:
            self.json = json

    @cached_property
    def json(self) -> dict[str, Any]:
        """The JSON object in the body; empty where there is none."""
        value = parsed(self.body)
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The head of an answer that is no error: header names in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def is_event_stream(self) -> bool:
        """Whether the answer comes as server-sent events."""
        media = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return media == "text/event-stream"


class Exchange(Protocol):
    """One request and its answer, being read.

    ``opening`` is what the request shows.
    """

    opening: Opening

    def answered(self, answer: HttpAnswer) -> Iterable[Evidence]:
        """The head of the answer has come."""

    def body(self, data: bytes) -> Iterable[Evidence]:
        """More of the answer's body has come, decoded."""

    def end(self) -> Iterable[Evidence]:
        """The body has come to its end."""


class Free(Enum):
    """What a reader says of a request that no vendor bills."""

    FREE = "costs nothing"


FREE = Free.FREE


class HttpWire(Protocol):
    """A reader of one protocol. It may keep what one exchange teaches about the next."""

    def open(self, request: HttpRequest) -> Exchange | Free | None:
        """An exchange for a request that costs something, `FREE` for one that the protocol has
        and that costs nothing, ``None`` for any other."""


@runtime_checkable
class ModelInPath(Protocol):
    """What a reader also is whose requests name their model in the path, and not in the body."""

    def model_in(self, path: str) -> str | None:
        """The model that this path names, if it is one that does."""

    def path_of(self, path: str, model: str) -> str:
        """The same path with this model in it."""


def names_a_code(value: Any) -> bool:
    """Whether a vendor's error code is a word that is fit to be kept."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) is not None


def failed_in_answer(code: Any = None) -> Failed:
    """The vendor reports an error inside an answer that began well."""
    said = f": {code}" if names_a_code(code) else ""
    return Failed(Failure("APIError", f"the vendor failed in mid-answer{said}"))


def parsed(data: bytes | str) -> Any:
    """The JSON value, or ``None`` where there is none."""
    with suppress(ValueError):  # three times as fast, and strict about halves of characters
        return jiter.from_json(data if isinstance(data, bytes) else data.encode())
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def told_seconds(value: Any) -> Decimal | None:
    """The seconds that a vendor says there were; ``None`` where it says nothing of the kind."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**9:
        return Decimal(repr(value))
    return None


def unreadable(what: str) -> Failed:
    """Something came that the protocol does not have. It is not quoted."""
    return Failed(Failure("MalformedAnswer", f"{what} cannot be read"))
