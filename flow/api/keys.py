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
from flow.domain.limits.permissions import ADMIN

router = APIRouter(prefix="/api/key", tags=["limits"])


class CallingKey(BaseModel):
    """Whose key a request was made with, and what it may do."""

    api_key_id: UUID = Field(description="The key's id here.")
    name: str | None = Field(examples=["Ada"], description="What people call it.")
    team_id: str = Field(examples=["acme"], description="The team of the key.")
    permissions: list[str] = Field(
        examples=[["limits.team"]], description="Those that it has at Unkey."
    )
    is_operator: bool = Field(description="It may use /api/admin/.")


@router.get("", response_model=CallingKey, responses=documented())
async def get_calling_key(request: Request) -> Response:
    """Whose key this is, and what it may do."""
    key = caller_of(request)
    permissions = context_of(request.scope).permissions
    told = CallingKey(
        api_key_id=key.id,
        name=key.name,
        team_id=key.team_id,
        permissions=sorted(permissions),
        is_operator=ADMIN in permissions,
    )
    return ExactJSONResponse(told)
