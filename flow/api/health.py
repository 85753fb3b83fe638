"""Whether the process lives, whether it is of use, and its numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.domain.calls.capacity import Capacity
from flow.errors import FlowError

CHECK_SECS = 3.0

router = APIRouter(tags=["operations"])

State = Literal["ok", "unavailable"]
Reason = Literal["shutting_down", "database_unavailable", "auth_unavailable", "at_capacity"]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field(default="ok", description="Always `ok`.")


class Checks(BaseModel):
    """Each party the API cannot do without, and whether this process takes calls."""

    database: State = Field(description="Whether the database answers.")
    keys: State = Field(description="Whether keys can be verified.")
    calls: Literal["ok", "at_capacity", "shutting_down"] = Field(
        description="Whether this process takes another call."
    )


class Room(BaseModel):
    """How many calls run in this process, and how many may."""

    running: int = Field(description="Calls that run now.")
    capacity: int = Field(description="Calls that may run at once.")


class Readiness(BaseModel):
    """Whether calls can be sent here now, and if not why: the code of a refusal."""

    status: Literal["ready", "unavailable"] = Field(description="Whether a call can be sent here.")
    reason: Reason | None = Field(description="Why not; null where it can.")
    checks: Checks = Field(description="The state of each part.")
    calls: Room = Field(description="The calls of this process.")


@dataclass(frozen=True, slots=True)
class Parties:
    """Whether those that Flow depends on answer."""

    database: State
    keys: State


class ReadinessCheck:
    """Asks database and key source, at most once a second however often it is asked itself."""

    def __init__(self, services: Services, reuse_secs: float = 1.0) -> None:
        self._services = services
        self._reuse_secs = reuse_secs
        self._running: asyncio.Task[Parties] | None = None
        self._asked_at = 0.0

    async def __call__(self) -> Readiness:
        """What they said, at most a second ago, and how many calls run now."""
        return _readiness(await self._parties(), self._services.calls.capacity)

    async def _parties(self) -> Parties:
        now = asyncio.get_running_loop().time()
        task = self._running
        if task is None or (task.done() and now - self._asked_at > self._reuse_secs):
            task = self._running = asyncio.create_task(self._ask())
            self._asked_at = now
        return await asyncio.shield(task)

    async def _ask(self) -> Parties:
        return Parties(
            *await asyncio.gather(
                _state(self._services.database.ping), _state(self._services.keys.check)
            )
        )


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """Whether this process answers at all."""
    return ExactJSONResponse(Health())


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> Response:
    """Whether this process can take a call: if not, ``reason`` says why.

    While it cannot, whatever needs no new call may still be asked of it.
    """
    readiness: Readiness = await request.app.state.readiness()
    return ExactJSONResponse(readiness, status_code=200 if readiness.status == "ready" else 503)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus' text format."}},
)
async def metrics(request: Request) -> Response:
    """The process's numbers, as Prometheus reads them."""
    return Response(
        generate_latest(services_of(request).registry),
        headers={"content-type": CONTENT_TYPE_LATEST},
    )


def _readiness(parties: Parties, capacity: Capacity) -> Readiness:
    # What is for good goes first, then what concerns all processes alike.
    reasons: dict[Reason, bool] = {
        "shutting_down": capacity.draining,
        "database_unavailable": parties.database != "ok",
        "auth_unavailable": parties.keys != "ok",
        "at_capacity": capacity.full is not None,
    }
    reason = next((reason for reason, is_so in reasons.items() if is_so), None)
    return Readiness(
        status="ready" if reason is None else "unavailable",
        reason=reason,
        checks=Checks(database=parties.database, keys=parties.keys, calls=capacity.full or "ok"),
        calls=Room(running=capacity.running, capacity=capacity.most),
    )


async def _state(check: Callable[[], Awaitable[None]]) -> State:
    try:
        async with asyncio.timeout(CHECK_SECS):
            await check()
    except (FlowError, TimeoutError):
        return "unavailable"
    return "ok"
