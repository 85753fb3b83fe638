"""Problem details (RFC 9457): what is said of an error, whatever form it is said in."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One thing wrong with one field."""

    field: str = Field(examples=["bot.llm.temperature"], description="The path of the field.")
    message: str = Field(
        examples=["Input should be less than or equal to 2"], description="What is wrong with it."
    )


class Problem(BaseModel):
    """What went wrong, in the form of RFC 9457."""

    type: str = Field(
        default="about:blank",
        examples=["about:blank"],
        description="Always `about:blank`: the code says more.",
    )
    title: str = Field(examples=["Unprocessable Content"], description="The status in words.")
    status: int = Field(examples=[422], description="The status of the answer.")
    detail: str = Field(
        examples=["The request is not valid."],
        description="What is wrong, and what to do, in a sentence.",
    )
    code: str = Field(description="Stable: programs may rely on it.", examples=["invalid_request"])
    request_id: str | None = Field(
        default=None,
        examples=["5f0c7b0e9d5c4f0f8a54d4f4a5a7c6de"],
        description="The request, in the answer's `X-Request-Id` and in the log.",
    )
    retry_after: int | None = Field(
        default=None, description="Seconds after which trying again may help.", examples=[5]
    )
    errors: list[FieldError] | None = Field(default=None, description="The fields that are wrong.")
    limit: dict[str, Any] | None = Field(
        default=None,
        description="The limit that was reached, as in GET /api/limits.",
        examples=[{"resource": "budget_usd", "used": "50.01", "limit": "50"}],
    )
