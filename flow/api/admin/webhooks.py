"""Webhooks of all keys: which were given up, and sending them again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.admin import json_forms
from flow.api.admin.operators import Cursor, OfKey, may_see_content, noted
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.list_parameters import Limit
from flow.api.problems import documented
from flow.domain.webhooks.webhook import State

router = APIRouter(prefix="/webhooks")


class Webhook(BaseModel):
    """An event, and how far it has got to its receiver."""

    event_id: UUID = Field(description="The id in the header `webhook-id`.")
    type: str = Field(examples=["thread.completed"], description="What it tells of.")
    api_key_id: UUID = Field(description="The key's id here.")
    team_id: str = Field(description="The team of the key.")
    workflow_thread_id: UUID | None = Field(
        description="The call that it is about, if it is about one."
    )
    created_at: datetime = Field(description="When it was written.")
    url: str = Field(description="Where it is sent.")
    state: State = Field(description="How far it has got.")
    attempts: int = Field(description="How often it was sent.")
    next_attempt_at: datetime | None = Field(description="When it is sent next; null: never.")
    delivered_at: datetime | None = Field(description="When it was taken; null: it was not.")
    dead_at: datetime | None = Field(description="When it was given up; null: it was not.")
    last_status: int | None = Field(description="The HTTP status of the last attempt.")
    last_error: str | None = Field(description="Why the last attempt failed.")


class WebhookDetails(Webhook):
    """A webhook with its payload; insights and metadata are in it for ``flow.content`` alone."""

    payload: dict[str, Any] = Field(description="What is sent.")


class WebhookPage(BaseModel):
    """Webhooks, newest first. Give ``next_cursor`` back as ``cursor`` for the following page."""

    webhooks: list[Webhook] = Field(description="The webhooks of the page.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


class Replayed(BaseModel):
    """How many are on their way again."""

    replayed: int = Field(description="The number of events.")


@router.get("", response_model=WebhookPage, responses=documented(422))
async def list_webhooks(
    request: Request,
    limit: Limit = 50,
    cursor: Cursor = None,
    api_key_id: OfKey = None,
    dead: Annotated[bool, Query(description="Only those that were given up.")] = False,
) -> Response:
    """What customers were told of their calls and budgets, and what could not be delivered."""
    page = await services_of(request).database.webhooks.list(
        api_key_id=api_key_id, dead=dead, limit=limit, cursor=cursor
    )
    found = [Webhook(**json_forms.delivery(one)) for one in page.items]
    return ExactJSONResponse(WebhookPage(webhooks=found, next_cursor=page.next_cursor))


@router.post("/replay", response_model=Replayed, responses=documented(422))
async def replay_dead(request: Request, api_key_id: OfKey = None) -> Response:
    """Send everything that was given up again, under the same ids."""
    with noted(request, "webhooks_replayed", of_key=api_key_id and str(api_key_id)):
        count = await services_of(request).database.webhooks.replay_dead(api_key_id)
    return ExactJSONResponse(Replayed(replayed=count))


@router.get("/{event_id:uuid}", response_model=WebhookDetails, responses=documented(404))
async def get_webhook(request: Request, event_id: UUID) -> Response:
    """One webhook with its payload."""
    found = await services_of(request).database.webhooks.get(event_id)
    told = json_forms.delivery(found, with_content=may_see_content(request))
    return ExactJSONResponse(WebhookDetails(**told))


@router.post("/{event_id:uuid}/replay", response_model=Webhook, responses=documented(404, 409))
async def replay(request: Request, event_id: UUID) -> Response:
    """Send a delivered or dead webhook again, under the same id."""
    with noted(request, "webhook_replayed", event_id=str(event_id)):
        found = await services_of(request).database.webhooks.replay(event_id)
    return ExactJSONResponse(Webhook(**json_forms.delivery(found)))
