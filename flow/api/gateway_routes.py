"""The gateway's routes, in OpenAI's and Anthropic's protocols, with a product in the path or not.

The handlers are ASGI applications: an answer is passed on as its bytes come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flow.api.exact_json import ExactJSONResponse
from flow.api.http_protocol import ON_LEFT
from flow.api.request_context import context_of
from flow.domain.gateway.operations import MODELS_PATH, OPERATIONS, Operation
from flow.domain.gateway.request import GatewayRequest
from flow.domain.limits.budget import Budget
from flow.domain.limits.lease import Rates
from flow.domain.products.product import ModelName
from flow.errors import Refused

PREFIXES = ("/v1", "/{product}/v1")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).isoformat()


class Gateway(Protocol):
    """What serves requests for models: see `flow.gateway.gateway`."""

    def listed(self, request: GatewayRequest) -> Any:
        """The `ModelName` of every model of the request's product."""

    async def serve(
        self,
        operation: Operation,
        request: GatewayRequest,
        receive: Receive,
        send: Send,
        on_left: Callable[[Callable[[], None]], None],
    ) -> None:
        """Answer a request, or raise before anything was sent. ``on_left`` has the server call
        something when the client goes away."""


def gateway_routes(gateway: Gateway) -> list[Route]:
    """Every route of the gateway."""
    return [
        *(
            Route(prefix + path, _Operation(gateway, operation), methods=["POST"])
            for prefix in PREFIXES
            for path, operation in OPERATIONS.items()
        ),
        *(Route(prefix + MODELS_PATH, _Models(gateway), methods=["GET"]) for prefix in PREFIXES),
    ]


class GatewayRoutes:
    """Takes the gateway's requests before a router would look through all of its routes.

    What it does not take, such as another method, is left to the router, which has the same routes.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes = {
            (route.path, method): route for route in routes for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the handler of the gateway's route, or the application."""
        product, mark, path = scope["path"].partition("/v1/")
        prefix = "/{product}/v1/" if product else "/v1/"
        found = self._routes.get((prefix + path, scope.get("method", ""))) if mark else None
        if found is None or scope.get("root_path") or "/" in product[1:]:
            await self._app(scope, receive, send)
            return
        scope["route"] = found
        scope["path_params"] = {"product": product[1:]} if product else {}
        await found.app(scope, receive, send)


class _Operation:
    """Answers the requests of one operation."""

    def __init__(self, gateway: Gateway, operation: Operation) -> None:
        self._gateway = gateway
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        on_left = scope["extensions"][ON_LEFT]["call"]
        await self._gateway.serve(self._operation, _request(scope), receive, send, on_left)


class _Models:
    """Lists the models of a product, in the form of the client's protocol."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _request(scope)
        names = self._gateway.listed(request)
        is_anthropic = request.header(b"anthropic-version") is not None
        answer = _anthropic_list(names) if is_anthropic else _openai_list(names)
        await ExactJSONResponse(answer)(scope, receive, send)


def _request(scope: Scope) -> GatewayRequest:
    context = context_of(scope)
    if context.api_key is None:
        raise Refused("missing_api_key")

    def note_budget(budget: Budget | None) -> None:
        context.budget = budget

    def note_rates(rates: Rates | None) -> None:
        context.rates = rates

    return GatewayRequest(
        key=context.api_key,
        permissions=context.permissions,
        product=scope["path_params"].get("product"),
        request_id=context.request_id,
        headers=scope["headers"],
        query=scope["query_string"],
        note_budget=note_budget,
        note_rates=note_rates,
    )


def _openai_list(names: list[ModelName]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {"id": str(name), "object": "model", "created": 0, "owned_by": name.provider}
            for name in names
        ],
    }


def _anthropic_list(names: list[ModelName]) -> dict[str, Any]:
    ids = list(map(str, names))
    return {
        "data": [
            {"type": "model", "id": id_, "display_name": id_, "created_at": _EPOCH} for id_ in ids
        ],
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }
