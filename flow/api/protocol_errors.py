"""Errors in the form that clients of OpenAI and Anthropic expect, with Flow's codes in them.

The kinds of error are those of platform.openai.com, "Error codes", and docs.claude.com, "Errors".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from flow.api.exact_json import ExactJSONResponse
from flow.api.problem_details import Problem
from flow.domain.gateway.operations import Protocol

_OPENAI: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_ANTHROPIC: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_LASTING_SECS = 120
"""What lasts for longer than any client tries again by itself. Both SDKs read the header."""


def protocol_error(protocol: Protocol, problem: Problem, headers: Mapping[str, str]) -> Response:
    """A problem as a client of the protocol reads it."""
    is_lasting = problem.status == 429 and (problem.retry_after or 0) > _LASTING_SECS
    lasting = {"x-should-retry": "false"} if is_lasting else {}
    body = _anthropic(problem) if protocol is Protocol.ANTHROPIC else _openai(problem)
    return ExactJSONResponse(body, status_code=problem.status, headers={**headers, **lasting})


def _openai(problem: Problem) -> dict[str, Any]:
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": _sentence(problem),
            "type": _OPENAI.get(problem.status, kind),
            "param": problem.errors[0].field if problem.errors else None,
            "code": problem.code,
            **_known(problem),
        }
    }


def _anthropic(problem: Problem) -> dict[str, Any]:
    kind = "api_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "type": "error",
        "error": {
            "type": _ANTHROPIC.get(problem.status, kind),
            "message": _sentence(problem),
            "code": problem.code,
            **_known(problem),
        },
        "request_id": problem.request_id,
    }


def _sentence(problem: Problem) -> str:
    """Clients show this and no more, so it has the fields that are wrong in it."""
    wrong = [f"{one.field}: {one.message}" for one in problem.errors or ()]
    return " ".join([problem.detail, *(f"{one}." for one in wrong)])


def _known(problem: Problem) -> dict[str, Any]:
    known = {"retry_after": problem.retry_after, "limit": problem.limit}
    return {name: value for name, value in known.items() if value is not None}
