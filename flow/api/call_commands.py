"""Speaking through the bot of a running call, and steering it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Literal
from uuid import UUID, uuid4

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.idempotency import REPLAYED, idempotency_header, idempotency_key
from flow.api.problems import documented
from flow.api.request_bodies import read, takes
from flow.api.request_context import context_of
from flow.domain.calls.command import Command, MessageRequest, Order, SayRequest
from flow.errors import Conflict

router = APIRouter(prefix="/api/bot", tags=["calls"])

ANSWER_SECS = 2.0
"""How long a command waits for the process that has the call; it is carried out later as well."""
LOOK_SECS = 0.1

_EXTRA = {"parameters": [idempotency_header("Repeating it under the same key changes nothing.")]}


class CommandAnswer(BaseModel):
    """A command on its way: ``taken`` by the process that has the call, which carries it out, or
    ``waiting`` for it. It is carried out at most once."""

    command_id: UUID = Field(description="Names the command; a repeat has the same.")
    workflow_thread_id: UUID = Field(description="The call that it is for.")
    status: Literal["taken", "waiting"] = Field(
        examples=["taken"], description="`waiting` after two seconds in which nobody has taken it."
    )


@router.post(
    "/{thread_id:uuid}/say",
    status_code=202,
    response_model=CommandAnswer,
    responses=documented(404, 409, 413, 415, 422),
    openapi_extra={**_EXTRA, **takes(SayRequest)},
)
async def say(request: Request, thread_id: UUID) -> Response:
    """Have the bot say a text, word for word, wherever its call runs."""
    return await _command(request, thread_id, await read(request, SayRequest))


@router.post(
    "/{thread_id:uuid}/message",
    status_code=202,
    response_model=CommandAnswer,
    responses=documented(404, 409, 413, 415, 422),
    openapi_extra={**_EXTRA, **takes(MessageRequest)},
)
async def message(request: Request, thread_id: UUID) -> Response:
    """Tell the bot something, wherever its call runs: an instruction, or words of its caller."""
    return await _command(request, thread_id, await read(request, MessageRequest))


async def _command(request: Request, thread_id: UUID, order: Order) -> Response:
    services, key = services_of(request), caller_of(request)
    context_of(request.scope).workflow_thread_id = thread_id
    sent = await services.database.during_calls.send_command(
        uuid4(), thread_id, key.id, order, idempotency_key(request)
    )
    if not sent.is_taken:
        services.on_command(thread_id)
        sent = await _taken(services, sent)
    if sent.refusal is not None:
        raise Conflict(sent.refusal, "not_possible")
    answer = CommandAnswer(
        command_id=sent.id,
        workflow_thread_id=thread_id,
        status="taken" if sent.is_taken else "waiting",
    )
    headers = REPLAYED if sent.is_replayed else None
    return ExactJSONResponse(answer, status_code=202, headers=headers)


async def _taken(services: Services, sent: Command) -> Command:
    """The command once a process has it, or as it is after a while."""
    now = asyncio.get_running_loop().time
    until = now() + ANSWER_SECS
    found: Command | None = sent
    while found is not None and not found.is_taken and now() < until:
        await asyncio.sleep(LOOK_SECS)
        found = await services.database.during_calls.get_command(sent.id)
    return sent if found is None else replace(found, is_replayed=sent.is_replayed)
