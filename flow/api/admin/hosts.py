"""The processes that run calls and workflows."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.admin import json_forms
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.domain.calls.host import HostState

router = APIRouter(prefix="/hosts")


class HostReport(BaseModel):
    """What a process last said of itself; null: one of another version said nothing of it."""

    version: str | None = Field(description="The version of Flow that it runs.")
    calls: int | None = Field(description="Those that run in it.")
    capacity: int | None = Field(description="How many may.")
    draining: bool | None = Field(description="It is being shut down, and takes no more calls.")
    workflows: bool | None = Field(description="It finishes calls, its own and those of others.")
    spool_events: int | None = Field(description="Usage that waits for the database.")
    spool_oldest_secs: float | None = Field(description="For how long the oldest of it has waited.")


class Host(BaseModel):
    """A process. ``silent``: it has not stopped by itself, and gives no signs of life."""

    name: str = Field(
        examples=["host-1-0"], description="Its name among all processes of the database."
    )
    state: HostState = Field(description="Whether it runs, drains, has stopped or is silent.")
    started_at: datetime = Field(description="When it was started.")
    heartbeat_at: datetime = Field(description="Its last sign of life.")
    silent_secs: float = Field(description="How long ago that was.")
    held_calls: int = Field(description="Running threads in its name, wherever it is.")
    report: HostReport | None = Field(description="What it last said; null: nothing yet.")


class HostList(BaseModel):
    """Every process that was heard of within a day, by name."""

    hosts: list[Host] = Field(description="The processes.")


@router.get("", response_model=HostList, responses=documented())
async def list_hosts(request: Request) -> Response:
    """The processes that run calls and workflows, with their calls, spools and versions."""
    found = await services_of(request).database.operating.list_hosts()
    return ExactJSONResponse(HostList(hosts=[Host(**json_forms.host(one)) for one in found]))
