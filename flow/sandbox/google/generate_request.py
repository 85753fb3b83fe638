"""What a request for content may say, and its meaning in the words of a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from flow.sandbox.google.errors import from_validation

_BOTH_SPELLINGS = ConfigDict(
    strict=True, alias_generator=to_camel, validate_by_alias=True, validate_by_name=True
)


class Part(BaseModel):
    """One part of a turn; what the stand-in does not mind is accepted and left alone."""

    model_config = ConfigDict(extra="allow", **_BOTH_SPELLINGS)

    text: str | None = None
    inline_data: dict[str, Any] | None = None
    function_call: dict[str, Any] | None = None
    function_response: dict[str, Any] | None = None


class Content(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid", **_BOTH_SPELLINGS)

    role: Literal["user", "model", "function", "system"] | None = None
    parts: list[Part] = Field(default_factory=list)

    @property
    def text(self) -> str:
        """Its words."""
        return " ".join(part.text for part in self.parts if part.text)


class GenerationConfig(BaseModel):
    """The settings that the stand-in minds."""

    model_config = ConfigDict(extra="allow", **_BOTH_SPELLINGS)

    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    stop_sequences: list[str] | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The schema that the answer is to fit."""
        return self.response_json_schema or self.response_schema


class GenerateRequest(BaseModel):
    """The body (ai.google.dev/api/generate-content); a field that it does not have is refused.

    The model is in the path.
    """

    model_config = ConfigDict(extra="forbid", **_BOTH_SPELLINGS)

    contents: Annotated[list[Content], Field(min_length=1)]
    system_instruction: Content | None = None
    generation_config: GenerationConfig = Field(default_factory=GenerationConfig)
    tools: list[dict[str, Any]] | None = None
    tool_config: dict[str, Any] | None = None
    safety_settings: list[dict[str, Any]] | None = None
    cached_content: str | None = None

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions that the model may call."""
        names = ("functionDeclarations", "function_declarations")
        return [f for tool in self.tools or () for name in names for f in tool.get(name) or ()]

    def as_chat(self) -> dict[str, Any]:
        """The same as a chat request, for the script to answer."""
        messages = [_as_chat(content) for content in self.contents]
        if self.system_instruction:
            messages.insert(0, {"role": "system", "content": self.system_instruction.text})
        chat: dict[str, Any] = {
            "messages": messages,
            "tools": [{"type": "function", "function": _function(f)} for f in self.functions],
        }
        calling = (self.tool_config or {}).get("functionCallingConfig") or {}
        if calling.get("mode") == "ANY":
            allowed = calling.get("allowedFunctionNames")
            chat["tool_choice"] = {"function": {"name": allowed[0]}} if allowed else "required"
        config = self.generation_config
        if config.schema_wanted:
            wanted = {"type": "json_schema", "json_schema": {"schema": config.schema_wanted}}
            chat["response_format"] = wanted
        elif config.response_mime_type == "application/json":
            chat["response_format"] = {"type": "json_object"}
        return chat


async def parsed(request: Request) -> GenerateRequest:
    """The request in a body.

    Raises:
        ApiError: Google would refuse it.
    """
    try:
        return GenerateRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error) from None


def _as_chat(content: Content) -> dict[str, Any]:
    is_result = any(part.function_response for part in content.parts)
    spoken_by = "assistant" if content.role == "model" else "user"
    return {"role": "tool" if is_result else spoken_by, "content": content.text}


def _function(declared: dict[str, Any]) -> dict[str, Any]:
    names = ("parametersJsonSchema", "parameters_json_schema", "parameters")
    schema = next((declared[name] for name in names if declared.get(name)), None)
    return {"name": declared.get("name"), "parameters": schema}
