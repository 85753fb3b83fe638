"""A stand-in for the chat of an Azure OpenAI resource, with a bill of its own.

It has both of Azure's surfaces: ``/openai/v1``, which takes OpenAI's own requests, and the dated
one, where a deployment is part of the path and the query names the version
(learn.microsoft.com/azure/ai-foundry/openai/reference). A stream begins with a chunk that judges
the prompt, without choices, and without the model, which the other chunks name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.bill import Bill
from flow.sandbox.openai.app import guarded
from flow.sandbox.openai.chat import Chat, Dialect, Pace
from flow.sandbox.openai.errors import ApiError, error_response
from flow.sandbox.openai.generator import Generator
from flow.sandbox.openai.models import served_model
from flow.sandbox.openai.replies import SMALL_TALK, Script
from flow.sandbox.stand_in import ModelStandIn

_SAFE = {"filtered": False, "severity": "safe"}
_PREFACE: Mapping[str, Any] = {
    "id": "",
    "object": "",
    "created": 0,
    "model": "",
    "choices": [],
    "prompt_filter_results": [
        {
            "prompt_index": 0,
            "content_filter_results": {
                "hate": _SAFE,
                "self_harm": _SAFE,
                "sexual": _SAFE,
                "violence": _SAFE,
            },
        }
    ],
}


class AzureOpenAISandbox(ModelStandIn):
    """The app. ``deployments`` are the models of the resource by the names they were given."""

    def __init__(
        self,
        script: Script = SMALL_TALK,
        *,
        deployments: Mapping[str, str],
        pace: Pace | None = None,
    ) -> None:
        bill = Bill()
        self._deployments = deployments
        dialect = Dialect(self._served, preface=_PREFACE)
        chat = Chat(Generator(bill, script), pace or Pace(), dialect)

        async def dated(request: Request) -> Response:
            if "api-version" not in request.query_params:
                raise ApiError(404, "Resource not found", code="404")
            self._served(request.path_params["deployment"])
            return await chat(request)

        super().__init__(
            bill,
            [
                Route(path, guarded(handler, _check_key), methods=[method])
                for method, path, handler in (
                    ("POST", "/openai/v1/chat/completions", chat),
                    ("POST", "/openai/deployments/{deployment}/chat/completions", dated),
                    ("GET", "/openai/v1/models", _list_models),
                    ("GET", "/openai/models", _list_models),
                )
            ],
            error_response,
        )

    def _served(self, deployment: str) -> str:
        if deployment not in self._deployments:
            refused = "The API deployment for this resource does not exist."
            raise ApiError(404, refused, code="DeploymentNotFound")
        return served_model(self._deployments[deployment])


async def _list_models(_request: Request) -> Response:
    return JSONResponse({"object": "list", "data": []})


def _check_key(request: Request) -> None:
    """The key is in ``api-key``, or on the surface without dates in the form that OpenAI takes."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    is_v1 = request.url.path.startswith("/openai/v1/")
    if not request.headers.get("api-key") and not (
        is_v1 and scheme.lower() == "bearer" and bearer.strip()
    ):
        raise ApiError(401, "Access denied due to invalid subscription key.", code="401")
