"""What a request to the Responses API may say, and the same as a chat completion would say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from flow.sandbox.openai.chat_request import check_schema
from flow.sandbox.openai.errors import from_validation

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_RESULTS = ("function_call_output", "custom_tool_call_output")


class _Text(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    format: dict[str, Any] | None = None


class ResponsesRequest(BaseModel):
    """The parts of a request that the stand-in minds; others are accepted and left alone."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[str, Field(min_length=1)]
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=16)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: _Text | None = None
    temperature: float | None = None
    top_p: float | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def wanted(self) -> dict[str, Any]:
        """The format asked for: ``{"type": "text"}``, or JSON by a schema."""
        return (self.text.format if self.text else None) or {"type": "text"}

    def to_json(self) -> dict[str, Any]:
        """The request as it was sent."""
        return self.model_dump(exclude_unset=True)

    def as_chat(self) -> dict[str, Any]:
        """The request in the form of a chat completion's."""
        chat: dict[str, Any] = {"messages": list(self._messages())}
        if self.wanted.get("type") == "json_schema":
            chat["response_format"] = {"type": "json_schema", "json_schema": self.wanted}
        elif self.wanted.get("type") == "json_object":
            chat["response_format"] = self.wanted
        functions = [tool for tool in self.tools or [] if tool.get("type") == "function"]
        chat["tools"] = [{"type": "function", "function": tool} for tool in functions]
        choice = self.tool_choice
        chat["tool_choice"] = {"function": choice} if isinstance(choice, dict) else choice
        return chat

    def _messages(self) -> Iterator[dict[str, Any]]:
        if self.instructions:
            yield {"role": "system", "content": self.instructions}
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        for item in self.input:
            if (kind := item.get("type", "message")) in _CALLS:
                called = {"name": item.get("name"), "arguments": item.get(_CALLS[kind])}
                yield {"role": "assistant", "tool_calls": [{"function": called}]}
            elif kind in _RESULTS:
                yield {"role": "tool", "content": _said(item.get("output"))}
            elif kind == "message":
                yield {"role": item.get("role", "user"), "content": _said(item.get("content"))}


async def parsed(request: Request) -> ResponsesRequest:
    """The request in a body.

    Raises:
        ApiError: OpenAI would refuse it.
    """
    try:
        asked = ResponsesRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error) from None
    if asked.wanted.get("type") == "json_schema":
        check_schema(asked.wanted, "text.format.schema", "text.format")
    return asked


def _said(content: Any) -> str | list[Mapping[str, Any]]:
    return content if isinstance(content, str | list) else ""
