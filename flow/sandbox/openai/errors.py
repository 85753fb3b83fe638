"""OpenAI's way of saying no."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 403: "permission_error"}
_TYPES |= {404: "invalid_request_error", 429: "requests"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """A request OpenAI refuses: nothing is served and nothing billed."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def response(self, request_id: str) -> Response:
        """The answer on the wire."""
        return error_response(self.status, str(self), request_id, param=self.param, code=self.code)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, object]:
    """``{"error": {"message", "type", "param", "code"}}``."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": param,
            "code": code or _CODES.get(status),
        }
    }


def error_response(
    status: int,
    message: str,
    request_id: str,
    *,
    param: str | None = None,
    code: str | None = None,
) -> Response:
    """The same as an answer with its ``x-request-id``."""
    body = error_body(status, message, param=param, code=code)
    return JSONResponse(body, status, headers={"x-request-id": request_id})


def from_validation(error: ValidationError) -> ApiError:
    """The first thing wrong with a request body."""
    problem = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(step) for step in problem["loc"]) or None
    missing = problem["type"] == "missing"
    said = f"Missing required parameter: '{param}'." if missing else problem["msg"]
    code = "missing_required_parameter" if missing else "invalid_value"
    return ApiError(400, said, param=param, code=code)
