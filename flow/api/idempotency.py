"""The header ``Idempotency-Key``, and what makes two requests under one key the same."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any

from starlette.requests import Request

from flow.errors import FieldProblem, InvalidInput

REPLAYED = {"idempotent-replayed": "true"}
"""The header of an answer that repeats an earlier one, since the key is the same."""
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def idempotency_header(description: str) -> dict[str, Any]:
    """The OpenAPI description of the header, as a parameter."""
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "description": description,
        "schema": {"type": "string", "pattern": rf"^{_KEY.pattern}$"},
    }


def idempotency_key(request: Request) -> str | None:
    """The key that the request names, if it names one.

    Raises:
        InvalidInput: it is no key, or there are several.
    """
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        problem = FieldProblem("Idempotency-Key", "must be 1 to 255 printable characters, once")
        raise InvalidInput("The request is not valid.", [problem])
    return given[0]


def fingerprint(content: dict[str, Any]) -> str:
    """What makes two requests the same: their content, in whatever order it was written."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()
