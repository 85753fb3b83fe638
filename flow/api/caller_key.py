"""The calling key itself."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.api.request_context import context_of

router = APIRouter(prefix="/api/key", tags=["limits"])


class CallerKey(BaseModel):
    """Who is calling: whose the key is, and what it may do beside the calls of its own."""

    api_key_id: UUID
    name: str | None = Field(examples=["Booking line"])
    team_id: str = Field(examples=["team_7f3k"])
    permissions: list[str] = Field(examples=[["flow.admin"]])


@router.get("", response_model=CallerKey, responses=documented())
async def get_key(request: Request) -> Response:
    """The key that the request was made with."""
    key = caller_of(request)
    return ExactJSONResponse(
        CallerKey(
            api_key_id=key.id,
            name=key.name,
            team_id=key.team_id,
            permissions=sorted(context_of(request.scope).permissions),
        )
    )
