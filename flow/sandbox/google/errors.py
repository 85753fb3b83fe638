"""Google's way of saying no (ai.google.dev, "Troubleshooting guide"; ``google.rpc.Code``)."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from flow.sandbox.openai.errors import ApiError

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def error_body(status: int, message: str) -> dict[str, object]:
    """``{"error": {"code", "message", "status"}}``."""
    named = _STATUSES.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
    return {"error": {"code": status, "message": message, "status": named}}


def error_response(status: int, message: str, _request_id: str) -> Response:
    """The same as an answer."""
    return JSONResponse(error_body(status, message), status)


def from_validation(error: ValidationError) -> ApiError:
    """The first thing wrong with a request body."""
    problem = error.errors(include_url=False, include_input=False)[0]
    *path, last = [str(step) for step in problem["loc"]] or [""]
    if problem["type"] == "extra_forbidden":
        place = f" at '{'.'.join(path)}'" if path else ""
        said = f'Invalid JSON payload received. Unknown name "{last}"{place}: Cannot find field.'
    elif problem["type"] in ("missing", "too_short"):
        said = f"* GenerateContentRequest.{'.'.join([*path, last])}: {last} is not specified"
    else:
        said = f"Invalid value at '{'.'.join([*path, last])}': {problem['msg']}"
    return ApiError(400, said)
