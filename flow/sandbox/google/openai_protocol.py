"""Gemini in OpenAI's protocol: chat completions and embeddings below ``/v1beta/openai``.

What differs from OpenAI (ai.google.dev, "OpenAI compatibility", and the trackers of clients): a
stream that is asked for usage reports in every chunk what has been used so far; thoughts are in
the total alone; embeddings report nothing; an error is in a list; and a key that is none is 400.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.bill import Amounts, Bill
from flow.sandbox.google.errors import error_body
from flow.sandbox.openai.app import guarded
from flow.sandbox.openai.chat import Chat, Dialect, Pace
from flow.sandbox.openai.embeddings import Embeddings
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.generator import Generator
from flow.sandbox.openai.replies import Script

PREFIX = "/v1beta/openai"
_BAD_KEY = "API key not valid. Please pass a valid API key."


def openai_routes(
    bill: Bill, script: Script, pace: Pace, api_keys: Collection[str] | None
) -> list[Route]:
    """The routes, all on one bill; ``api_keys`` are those accepted, any at all without."""

    def check_key(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        is_none = scheme.lower() != "bearer" or not key.strip()
        if is_none or (api_keys is not None and key.strip() not in api_keys):
            raise ApiError(400, _BAD_KEY)

    chat = Chat(Generator(bill, script), pace, _DIALECT)
    embeddings = Embeddings(bill, reports=False)
    return [
        Route(PREFIX + path, guarded(handler, check_key, _refused), methods=["POST"])
        for path, handler in (("/chat/completions", chat), ("/embeddings", embeddings))
    ]


def _served(model: str) -> str:
    name = model.removeprefix("models/")
    if not name.startswith("gemini-"):
        raise ApiError(404, f"models/{name} is not found for API version v1main.")
    return name


def _usage(amounts: Amounts, *, details: bool = True) -> dict[str, Any]:
    """Thoughts are in no number but the total."""
    usage = {
        "prompt_tokens": amounts.prompt_tokens,
        "completion_tokens": amounts.completion_tokens - amounts.reasoning_tokens,
        "total_tokens": amounts.prompt_tokens + amounts.completion_tokens,
    }
    cached = {"prompt_tokens_details": {"cached_tokens": amounts.cached_tokens}}
    return usage | (cached if details and amounts.cached_tokens else {})


def _error(status: int, message: str) -> list[dict[str, Any]]:
    body: dict[str, Any] = error_body(status, message)
    if message == _BAD_KEY:
        about = "type.googleapis.com/google.rpc.ErrorInfo"
        body["error"]["details"] = [{"@type": about, "reason": "API_KEY_INVALID"}]
    return [body]


def _refused(error: ApiError, _request_id: str) -> Response:
    return JSONResponse(_error(error.status, str(error)), error.status)


_DIALECT = Dialect(_served, reports_in_chunks=True, usage=_usage, error=_error)
