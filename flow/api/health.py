"""Whether the process lives, whether it is of use, and its numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from flow.api.exact_json import ExactJSONResponse
from flow.api.services import Services, services_of
from flow.errors import FlowError

CHECK_SECS = 3.0

router = APIRouter(tags=["operations"])

State = Literal["ok", "unavailable"]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Checks(BaseModel):
    """Each party the API cannot do without."""

    database: State
    keys: State


class Readiness(BaseModel):
    """Whether requests can be served now."""

    status: Literal["ready", "unavailable"]
    checks: Checks


class ReadinessCheck:
    """Asks database and key source, at most once a second however often it is asked itself."""

    def __init__(self, services: Services, reuse_secs: float = 1.0) -> None:
        self._services = services
        self._reuse_secs = reuse_secs
        self._running: asyncio.Task[Readiness] | None = None
        self._asked_at = 0.0

    async def __call__(self) -> Readiness:
        """What they said, at most a second ago."""
        now = asyncio.get_running_loop().time()
        task = self._running
        if task is None or (task.done() and now - self._asked_at > self._reuse_secs):
            task = self._running = asyncio.create_task(self._ask())
            self._asked_at = now
        return await asyncio.shield(task)

    async def _ask(self) -> Readiness:
        database, keys = await asyncio.gather(
            _state(self._services.database.ping), _state(self._services.keys.check)
        )
        ready = database == keys == "ok"
        return Readiness(
            status="ready" if ready else "unavailable", checks=Checks(database=database, keys=keys)
        )


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Whether this process answers at all."""
    return ExactJSONResponse(Health())


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> Response:
    """Whether this process can serve: database and key source answer."""
    readiness: Readiness = await request.app.state.readiness()
    return ExactJSONResponse(readiness, status_code=200 if readiness.status == "ready" else 503)


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_model=None)
async def metrics(request: Request) -> Response:
    """The process's numbers, as Prometheus reads them."""
    return Response(
        generate_latest(services_of(request).registry),
        headers={"content-type": CONTENT_TYPE_LATEST},
    )


async def _state(check: Callable[[], Awaitable[None]]) -> State:
    try:
        async with asyncio.timeout(CHECK_SECS):
            await check()
    except (FlowError, TimeoutError):
        return "unavailable"
    return "ok"
