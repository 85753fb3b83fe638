"""Routes whose handler takes the request as it is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import signature
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class RawRequestRoute(APIRoute):
    """Described like every route, and called without looking for parameters.

    A handler that takes more than ``request`` is called as FastAPI calls it.
    """

    def get_route_handler(self) -> Handler:
        """The endpoint itself, where the request is all it takes."""
        if [*signature(self.endpoint).parameters] == ["request"] and not self.dependencies:
            endpoint: Handler = self.endpoint
            return endpoint
        return super().get_route_handler()
