"""Problem details (RFC 9457): what is said of an error, whatever form it is said in."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One thing wrong with one field."""

    field: str = Field(examples=["bot.llm.temperature"])
    message: str = Field(examples=["Input should be less than or equal to 2"])


class Problem(BaseModel):
    """What went wrong, in the form of RFC 9457."""

    type: str = Field(default="about:blank", examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["The request is not valid."])
    code: str = Field(description="Stable: programs may rely on it.", examples=["invalid_request"])
    request_id: str | None = Field(default=None, examples=["5f0c7b0e9d5c4f0f8a54d4f4a5a7c6de"])
    retry_after: int | None = Field(
        default=None, description="Seconds after which trying again may help.", examples=[5]
    )
    errors: list[FieldError] | None = None
    limit: dict[str, Any] | None = Field(
        default=None,
        description="The limit that was reached, as in GET /api/limits.",
        examples=[{"resource": "budget_usd", "used": "50.01", "limit": "50"}],
    )
