"""Threads of all keys: which run, where, at what cost; and ending one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.admin import json_forms
from flow.api.admin.operators import (
    Cursor,
    OfKey,
    OfTeam,
    may_see_content,
    noted,
)
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.joins import EndAnswer, end_call
from flow.api.list_parameters import Limit
from flow.api.problems import documented
from flow.api.threads import LatencyView, ThreadUsage, Utterance, latency_of, turn_fields
from flow.api.usage import FirstDay, LastDay
from flow.domain.calls.thread import Status
from flow.domain.calls.thread_overview import ThreadFilter
from flow.domain.usage.reports import period

router = APIRouter(prefix="/threads")


class OperatorThread(BaseModel):
    """A thread of any key, without its content."""

    workflow_thread_id: UUID = Field(description="The call's id.")
    api_key_id: UUID = Field(description="The key's id here.")
    key_name: str | None = Field(description="What people call the key.")
    team_id: str = Field(description="The team of the key.")
    product: str = Field(description="The product that the call is for.")
    billable: bool = Field(description="Whether the team is charged for it.")
    status: Status = Field(description="Where the call is.")
    transport: str = Field(examples=["webrtc"], description="How the caller is connected.")
    host: str | None = Field(description="The process that runs the call, or ran it.")
    heartbeat_at: datetime | None = Field(description="The call's last sign of life.")
    created_at: datetime = Field(description="When it was joined.")
    connected_at: datetime | None = Field(description="When the caller came.")
    ended_at: datetime | None = Field(description="When the call was over.")
    completed_at: datetime | None = Field(description="When its account was settled.")
    end_reason: str | None = Field(description="Why it is over.")
    end_requested: bool = Field(description="Whether somebody asked for its end.")
    error: dict[str, Any] | None = Field(
        description="What went wrong: a `code` and what goes with it."
    )
    usage_stats: dict[str, Any] = Field(description="As in the owner's view of the thread.")


class OperatorTurn(Utterance):
    """One utterance; its words are null where the content is not shown."""

    content: str | None = Field(description="What was said.")


class OperatorThreadDetails(OperatorThread):
    """A thread with its content, but for the use of tools, which its owner alone sees.

    The content is for keys with ``flow.content`` beside ``flow.admin``. To others the request,
    insights and metadata are null, and so are the words of each turn.
    """

    content_shown: bool = Field(description="Whether this key may see the content.")
    request: dict[str, Any] | None = Field(description="The join as accepted.")
    insights: dict[str, Any] | None = Field(description="What was extracted from the transcript.")
    metadata: dict[str, Any] | None = Field(description="What the join said.")
    transcript: list[OperatorTurn] = Field(description="What was said, in its order.")
    latency: LatencyView | None = Field(description="How long the caller waited for replies.")


class OperatorThreadPage(BaseModel):
    """Threads, newest first. Give ``next_cursor`` back as ``cursor`` for the following page."""

    threads: list[OperatorThread] = Field(description="The threads of the page.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


@router.get("", response_model=OperatorThreadPage, responses=documented(422))
async def list_threads(
    request: Request,
    limit: Limit = 50,
    cursor: Cursor = None,
    api_key_id: OfKey = None,
    team_id: OfTeam = None,
    product: Annotated[
        str | None, Query(max_length=128, description="Only this product's.")
    ] = None,
    status: Annotated[Status | None, Query(description="Only those that are there.")] = None,
    running: Annotated[
        bool, Query(description="Only those that a process holds, or is connecting to.")
    ] = False,
    host: Annotated[
        str | None, Query(max_length=255, description="Only the running ones of this process.")
    ] = None,
    from_: FirstDay = None,
    to: LastDay = None,
) -> Response:
    """Threads of all keys, newest first, with the process that holds each."""
    if from_ is not None and to is not None:
        period(from_, to, from_)
    page = await services_of(request).database.operating.list_threads(
        ThreadFilter(
            api_key_id=api_key_id,
            team_id=team_id,
            product=product,
            status=status,
            running=running,
            host=host,
            first=from_,
            last=to,
        ),
        limit=limit,
        cursor=cursor,
    )
    threads = [OperatorThread(**json_forms.thread(one)) for one in page.items]
    return ExactJSONResponse(OperatorThreadPage(threads=threads, next_cursor=page.next_cursor))


@router.get("/{thread_id:uuid}", response_model=OperatorThreadDetails, responses=documented(404))
async def get_thread(request: Request, thread_id: UUID) -> Response:
    """One thread of any key; its content only for keys that may see it."""
    database = services_of(request).database
    overview = await database.operating.get_thread_overview(thread_id)
    thread = await database.get_workflow_thread_data(thread_id)
    shown = may_see_content(request)
    turns = [turn_fields(turn) for turn in thread.transcript]
    told = OperatorThreadDetails(
        **json_forms.thread(overview),
        content_shown=shown,
        request=thread.join.shown() if shown else None,
        insights=thread.insights if shown else None,
        metadata=thread.metadata if shown else None,
        transcript=[
            OperatorTurn(**(turn if shown else {**turn, "content": None})) for turn in turns
        ],
        latency=latency_of(thread),
    )
    return ExactJSONResponse(told)


@router.get("/{thread_id:uuid}/usage", response_model=ThreadUsage, responses=documented(404))
async def get_thread_usage(request: Request, thread_id: UUID) -> Response:
    """Everything a thread was charged for, one row per piece of vendor work."""
    events = await services_of(request).database.get_thread_usage(thread_id)
    return ExactJSONResponse(ThreadUsage(workflow_thread_id=thread_id, events=events))


@router.post("/{thread_id:uuid}/end", response_model=EndAnswer, responses=documented(404))
async def end_thread(request: Request, thread_id: UUID) -> Response:
    """Hang up, wherever the call runs, or cancel one that nobody has connected to."""
    with noted(request, "thread_ended", workflow_thread_id=str(thread_id)):
        answer = await end_call(services_of(request), thread_id)
    return ExactJSONResponse(answer)
