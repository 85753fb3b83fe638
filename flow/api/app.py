"""The API put together: what wraps a request, and where it is routed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from flow.api import (
    agents,
    api_pages,
    call_commands,
    health,
    keys,
    model_choices,
    pipecat_runner,
    products,
    recordings,
    requests,
    thread_events,
    threads,
    usage,
)
from flow.api import call_connections as connect
from flow.api import joins as bot
from flow.api import key_limits as limits
from flow.api.admin import routes as admin
from flow.api.auth import Auth
from flow.api.body_limits import RequestSize
from flow.api.budget_headers import BudgetHeaders
from flow.api.cross_origin import CrossOrigin
from flow.api.dependencies import Calls, Keys, Quotas, Services, Transports
from flow.api.gateway_routes import GatewayRoutes, gateway_routes
from flow.api.http_metrics import Measured
from flow.api.join_tracing import TracedJoin
from flow.api.media_streams import media_stream_router
from flow.api.pages import pages_router
from flow.api.problem_details import Problem
from flow.api.problems import Problems, on_http_error, on_invalid
from flow.api.request_context import RequestContexts
from flow.api.telephony import telephony_router
from flow.domain.agents.agent import AgentDefinition
from flow.domain.calls.command import MessageRequest, SayRequest
from flow.domain.calls.join_request import JoinRequest

__all__ = ["Calls", "Keys", "Quotas", "Services", "create_app", "create_operations_app"]

# Of the contract, not of the package: it changes when a caller would have to.
API_VERSION = "1"

_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "join_token": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The token in the URL of a join's answer.",
    },
}


_ROUTERS = (
    bot.router,
    connect.router,
    call_commands.router,
    agents.router,
    pipecat_runner.router,
    threads.router,
    thread_events.router,
    recordings.router,
    requests.router,
    usage.router,
    limits.router,
    products.router,
    model_choices.router,
    keys.router,
    admin.router,
    health.router,
    api_pages.router,
)


_BY_TOKEN = {"bot": ["offer", "end"], "threads": ["events"]}
"""Where a join's token will do in place of a key, as `Auth` is told it."""
_IN_PATHS = {
    "thread_id": "The call's id, as its join answered it.",
    "agent_id": "The agent's id.",
    "api_key_id": "The key's id here.",
    "team_id": "The team.",
    "resource": "What is limited, such as `ai_credits`.",
    "event_id": "The id in the header `webhook-id`.",
    "number": "A telephone number, as in `+4930123456`.",
    "leg_id": "The leg of a call, as the address that the carrier was given names it.",
}


class FlowApi(FastAPI):
    """FastAPI, describing the security and the problems that middleware deals with."""

    def build_middleware_stack(self) -> ASGIApp:
        """The middleware that `create_app` names, around the routes.

        FastAPI puts three of its own around that: against errors, for its telemetry and for the
        size of bodies. `Problems` and `RequestSize` do their work, and every request would pass
        them on its way in, and twice or more on its way out.
        """
        app: ASGIApp = AsyncExitStackMiddleware(self.router)
        app = ExceptionMiddleware(app, handlers=self.exception_handlers)
        for middleware in reversed(self.user_middleware):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app

    def openapi(self) -> dict[str, Any]:
        """The description of the whole API."""
        if self.openapi_schema is None:
            self.openapi_schema = _described(super().openapi(), self.state.services.transports)
        return self.openapi_schema


def create_app(services: Services) -> FastAPI:
    """The API over ``services``; it owns none of them and closes none of them."""
    streams = services.transports.streams.values()
    routers = (
        *_ROUTERS,
        *map(media_stream_router, streams),
        *map(telephony_router, streams),
        pages_router(
            services.pages,
            services.dev_pages,
            sounds_at=None if services.recordings is None else services.recordings.origin,
        ),
    )
    webhooks = [calls.webhook for calls in streams]
    gateway = [] if services.gateway is None else gateway_routes(services.gateway)
    app = FlowApi(
        title="Flow",
        version=API_VERSION,
        description="Voice bots whose every call has an exact account.",
        redirect_slashes=False,
        # Those of FastAPI have scripts of another host.
        docs_url=None,
        redoc_url=None,
        # FastAPI would trace every request by itself where a process has a tracer, with the query
        # in "url.query": that of a WebSocket holds the token of its join.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        middleware=[
            Middleware(Measured, metrics=services.metrics),
            Middleware(RequestContexts),
            Middleware(CrossOrigin, origins=services.cors_origins),
            *_tracing(services),
            Middleware(BudgetHeaders, database=services.database),
            Middleware(Problems, billing_url=services.billing_url),
            Middleware(RequestSize),
            Middleware(
                Auth,
                keys=services.keys,
                database=services.database,
                token_routes={
                    **_BY_TOKEN,
                    "bot": [*_BY_TOKEN["bot"], recordings.PATH, *webhooks],
                },
                on_key=services.on_key,
            ),
            Middleware(GatewayRoutes, routes=gateway),
        ],
        exception_handlers={
            RequestValidationError: on_invalid,
            HTTPException: on_http_error,
        },
    )
    app.state.services = services
    app.state.readiness = health.ReadinessCheck(services)
    for router in routers:
        app.include_router(router)
    app.router.routes.extend(gateway)
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    app.state.routes = [route for route in routes if isinstance(route, Route)]
    return app


def create_operations_app(services: Services) -> FastAPI:
    """``/healthz``, ``/readyz`` and ``/metrics`` alone, for a process that serves no customers."""
    app = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        middleware=[Middleware(RequestContexts), Middleware(Problems), Middleware(RequestSize)],
        exception_handlers={HTTPException: on_http_error},
    )
    app.state.services = services
    app.state.readiness = health.ReadinessCheck(services)
    app.state.routes = []
    app.include_router(health.router)
    return app


def _tracing(services: Services) -> list[Middleware]:
    return [Middleware(TracedJoin, traces=services.traces)] if services.traces is not None else []


def _described(schema: dict[str, Any], transports: Transports) -> dict[str, Any]:
    components = schema["components"]
    components["securitySchemes"] = _SECURITY_SCHEMES
    _, models = models_json_schema(
        [
            (model, "validation")
            for model in (
                Problem,
                JoinRequest,
                AgentDefinition,
                pipecat_runner.StartRequest,
                connect.Offer,
                connect.Candidates,
                SayRequest,
                MessageRequest,
                *admin.BODIES,
                *thread_events.EVENTS,
            )
        ],
        ref_template="#/components/schemas/{model}",
    )
    components["schemas"].update(models["$defs"])
    for model in ("Transport", "Connection"):
        components["schemas"][model]["properties"]["type"]["enum"] = [*transports.specs]
    webhooks = {calls.webhook for calls in transports.streams.values()}
    for path, operations in schema["paths"].items():
        by_token = any(
            path.startswith(f"/api/{under}/") and path.rpartition("/")[2] in names
            for under, names in _BY_TOKEN.items()
        )
        schemes = ["bearer", "api_key"] + (["join_token"] if by_token else [])
        if path.rpartition("/")[2] in webhooks:
            schemes = ["join_token"]
        if path.startswith("/api/telephony/"):
            schemes = []
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in _IN_PATHS and parameter["in"] == "path":
                    parameter["description"] = _IN_PATHS[parameter["name"]]
            if path.startswith(("/api/", "/start", "/sessions/")):
                operation["security"] = [{scheme: []} for scheme in schemes]
                # FastAPI's own form of a 422, which this API never sends.
                answers = operation["responses"]
                if "HTTPValidationError" in str(answers.get("422")):
                    del answers["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    return schema
