"""What a request for a message may say, and its meaning in the words of a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from flow.sandbox.anthropic_prompt import as_blocks, text_of
from flow.sandbox.openai.errors import from_validation


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class MessageRequest(BaseModel):
    """The parts of a request that the stand-in minds; others are accepted and left alone."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    messages: Annotated[list[_Message], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The request as it was sent."""
        return self.model_dump(exclude_unset=True)

    def as_chat(self) -> dict[str, Any]:
        """The same as a chat request, for the script to answer."""
        chat: dict[str, Any] = {"messages": [_as_chat(message) for message in self.messages]}
        if self.system:
            told = " ".join(text_of(block) for block in as_blocks(self.system))
            chat["messages"].insert(0, {"role": "system", "content": told})
        functions = [
            {"name": t["name"], "parameters": t.get("input_schema")}
            for t in self.tools or ()
            if "name" in t
        ]
        chat["tools"] = [{"type": "function", "function": function} for function in functions]
        choice = self.tool_choice or {}
        if choice.get("type") == "any":
            chat["tool_choice"] = "required"
        elif choice.get("type") == "tool":
            chat["tool_choice"] = {"function": {"name": choice.get("name")}}
        if schema := ((self.output_config or {}).get("format") or {}).get("schema"):
            chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
        return chat


async def parsed(request: Request) -> MessageRequest:
    """The request in a body.

    Raises:
        ApiError: Anthropic would refuse it.
    """
    try:
        return MessageRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error) from None


def _as_chat(message: _Message) -> dict[str, Any]:
    blocks = as_blocks(message.content)
    is_result = any(block.get("type") == "tool_result" for block in blocks)
    said = " ".join(text_of(block) for block in blocks)
    return {"role": "tool" if is_result else message.role, "content": said}
