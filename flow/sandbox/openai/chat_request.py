"""What a chat request may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from flow.sandbox.openai.errors import ApiError, from_validation
from flow.sandbox.openai.strict_schemas import refusal_of


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatRequest(BaseModel):
    """The parts of a request that the stand-in minds; others are accepted and left alone."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[_Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Literal[1] | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """The longest completion allowed, whichever name was used for it."""
        return self.max_completion_tokens or self.max_tokens

    def to_json(self) -> dict[str, Any]:
        """The request as it was sent."""
        return self.model_dump(exclude_unset=True)


async def parsed(request: Request) -> ChatRequest:
    """The request in a body.

    Raises:
        ApiError: OpenAI would refuse it.
    """
    try:
        chat = ChatRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error) from None
    wanted = chat.response_format or {}
    if wanted.get("type") == "json_schema":
        check_schema(wanted.get("json_schema"), "response_format", "response_format.json_schema")
    return chat


def check_schema(wanted: Any, param: str, path: str) -> None:
    """Check a JSON schema to answer by, which is at ``path``, in the field ``param``.

    Raises:
        ApiError: it has no name, or strict mode does not take it.
    """
    if not isinstance(wanted, dict) or not wanted.get("name"):
        name = f"{path}.name"
        raise ApiError(400, f"Missing required parameter: '{name}'.", param=name)
    if wanted.get("strict") and (problem := refusal_of(wanted.get("schema"))):
        raise ApiError(
            400,
            f"Invalid schema for response_format '{wanted['name']}': {problem}",
            param=param,
            code="invalid_json_schema",
        )
