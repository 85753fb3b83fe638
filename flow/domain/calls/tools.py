"""What a bot can do in a call beside talking, as a join or an agent says it (``bot.tools``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SecretStr,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from flow.domain.agents.variables import Filling
from flow.domain.calls.request_parts import STORING, Part, bounded, is_stored
from flow.domain.insights.insight_schema import schema_problem
from flow.domain.webhooks import public_url

MAX_TOOLS = 32
MAX_PARAMETERS_BYTES = 16_384
MAX_HEADERS = 20
MAX_TARGETS = 50
DEFAULT_TIMEOUT_SECS = 10.0

# OpenAI and Anthropic: ^[a-zA-Z0-9_-]{1,64}$. Gemini wants a letter or an underscore first
# (ai.google.dev/api/caching, "FunctionDeclaration").
_NAME = r"^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$"
ToolName = Annotated[str, Field(pattern=_NAME)]
# OpenAI refuses longer ones.
Description = Annotated[str, Field(min_length=1, max_length=1_024, pattern=r"^[^\x00]*$")]
Sentence = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
TimeoutSecs = Annotated[float, Field(ge=1, le=60)]
# E.164, or a SIP address.
Number = Annotated[str, Field(pattern=r"^(\+[1-9][0-9]{6,14}|sips?:[^\s\x00-\x1f]{3,250})$")]
Url = Annotated[str, Field(max_length=2_048)]

# What of a schema of type object reaches every vendor's model as it is: Pipecat passes on the
# properties and which of them are required.
_PASSED_ON = frozenset(
    {"type", "properties", "required", "additionalProperties", "title", "description", "$schema"}
)
# A token of RFC 9110, section 5.6.2.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
# Without the octets above ASCII that it calls obsolete, and no space at its ends (section 5.5).
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~]{0,4094}[!-~])?)?")
_MASK = str(SecretStr("x"))
# Hop-by-hop (RFC 9110, section 7.6.1), about the body or the connection, or Flow's own.
_REFUSED_HEADERS = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade", "proxy-connection", "http2-settings"),
        *("host", "content-length", "content-type", "content-encoding", "expect", "date"),
        *("accept", "accept-encoding", "user-agent", "idempotency-key"),
        *("x-flow-tool", "x-flow-workflow-thread-id"),
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
    }
)


class Remote(Part):
    """A tool that is reached over HTTP. Header values are secrets: no reader is shown them.

    URLs and header values may hold variables (``{{name}}``), but a URL's host may not.
    """

    url: Url = Field(description="Where it is; may hold variables after its host.")
    headers: Annotated[dict[str, SecretStr], Field(max_length=MAX_HEADERS)] = Field(
        default_factory=dict,
        description="Sent with each request; values may hold variables, and are shown to nobody.",
    )
    timeout_secs: TimeoutSecs = Field(
        default=DEFAULT_TIMEOUT_SECS, description="How long its answer is waited for."
    )
    say_while_waiting: Sentence | None = Field(
        default=None, description="What the bot says while that takes; empty: nothing."
    )

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str, info: ValidationInfo) -> str:
        """Whether it leads out into the internet, the service that calls it judges."""
        if is_stored(info):
            return value
        if (problem := public_url.problem_of(value, allow_private=True)) is not None:
            raise ValueError(problem)
        if "{" in urlsplit(value).netloc:
            raise ValueError("must not have a variable in its host")
        return value

    @field_validator("headers")
    @classmethod
    def _are_safe(cls, value: dict[str, SecretStr], info: ValidationInfo) -> dict[str, SecretStr]:
        if is_stored(info):
            return value
        for name, text in value.items():
            if (problem := _header_problem(name, text.get_secret_value())) is not None:
                raise ValueError(problem)
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("a header is given twice; names are the same in any case")
        return value

    @field_serializer("headers")
    def _hide(self, value: dict[str, SecretStr], info: SerializationInfo) -> dict[str, str]:
        if info.context is STORING:
            return {name: text.get_secret_value() for name, text in value.items()}
        return {name: str(text) for name, text in value.items()}

    @property
    def plain_headers(self) -> dict[str, str]:
        """The headers to send, secrets and all."""
        return {name: text.get_secret_value() for name, text in self.headers.items()}

    def filled(self, filling: Filling, field: str) -> Self:
        """The tool with the variables of its texts filled in, and judged again.

        ``field`` is where the tool stands; ``filling`` is told what does not fit.
        """
        given = self.model_dump(by_alias=True, context=STORING, exclude_unset=True)
        given["url"] = filling.url(f"{field}.url", self.url)
        given["headers"] = {
            name: filling.header(f"{field}.headers.{name}", text)
            for name, text in self.plain_headers.items()
        }
        for name in ("description", "say_while_waiting"):
            if given.get(name):
                given[name] = filling.text(f"{field}.{name}", given[name])
        try:
            return type(self).model_validate(given)
        except ValidationError as error:
            for found in error.errors(include_url=False, include_input=False):
                where = ".".join([field, *map(str, found["loc"])])
                filling.refuse(where, found["msg"].removeprefix("Value error, "))
            return self


class HttpTool(Remote):
    """A function of the customer's own, called by HTTP.

    ``say_while_waiting`` is spoken when it takes longer; ``""``: nothing is; left out: a sentence
    of Flow's in the bot's language, where there is one.
    """

    type: Literal["http"] = Field(description="Always `http`.")
    name: ToolName = Field(description="By what name the model calls it.")
    description: Description = Field(description="What it does, and when to use it.")
    parameters: dict[str, Any] = Field(
        default_factory=lambda: {"type": "object", "properties": {}},
        description="A JSON Schema of the object of its arguments.",
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(
        default="POST", description="The method of the request."
    )

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str, info: ValidationInfo) -> str:
        if value in _OWN_NAMES and not is_stored(info):
            raise ValueError(f"{value!r} is the name of a tool of Flow's own: choose another")
        return value

    @field_validator("parameters")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """By its form: whoever takes a join in checks it against JSON Schema's rules, too."""
        if is_stored(info):
            return value
        bounded(value, MAX_PARAMETERS_BYTES)
        if (problem := parameters_problem(value)) is not None:
            raise ValueError(problem)
        return value


class McpTool(Remote):
    """The tools of an MCP server, over streamable HTTP; of them, those ``allowed``, or all."""

    type: Literal["mcp"] = Field(description="Always `mcp`.")
    allowed: Annotated[list[ToolName], Field(min_length=1, max_length=MAX_TOOLS)] | None = Field(
        default=None, description="The names of those to use; left out: all."
    )


class EndCallTool(Part):
    """The bot may say goodbye and hang up."""

    type: Literal["end_call"] = Field(description="Always `end_call`.")


class TransferCallTool(Part):
    """The bot may pass the caller on to one of the ``targets``, telephone numbers by their names.

    ``say`` is spoken before. Only where the transport can transfer calls.
    """

    type: Literal["transfer_call"] = Field(description="Always `transfer_call`.")
    targets: dict[ToolName, Number] = Field(
        min_length=1, max_length=MAX_TARGETS, description="Telephone numbers by their names."
    )
    say: Sentence | None = Field(default=None, description="What the bot says before.")
    warm: bool = Field(
        default=False,
        description="Whether whoever answers is first told what it is about, in the bot's words.",
    )

    def filled(self, filling: Filling, field: str) -> Self:
        """The tool with the variables of what it says filled in."""
        if self.say is None:
            return self
        return self.model_copy(update={"say": filling.text(f"{field}.say", self.say)})


class SendDtmfTool(Part):
    """The bot may press telephone keys. Only where the transport can."""

    type: Literal["send_dtmf"] = Field(description="Always `send_dtmf`.")


Tool = Annotated[
    HttpTool | McpTool | EndCallTool | TransferCallTool | SendDtmfTool,
    Field(discriminator="type"),
]

_OWN_NAMES = frozenset({"end_call", "transfer_call", "send_dtmf"})
CALL_ENDINGS = frozenset({"end_call", "transfer_call"})
"""The tools that end the bot's part in a call."""
CALL_CONTROLS = frozenset({"transfer_call", "send_dtmf"})
"""The types of tools that only some transports can do."""


def is_tool_name(name: str) -> bool:
    """Whether every vendor's models take it for the name of a function."""
    return re.fullmatch(_NAME, name) is not None and name not in _OWN_NAMES


def tool_problems(tools: Sequence[Any]) -> str | None:
    """Why these tools cannot be one bot's, or ``None``."""
    seen: set[str] = set()
    for name in map(name_of, tools):
        if name is not None and name in seen:
            return f"two tools are called {name!r}"
        if name is not None:
            seen.add(name)
    urls = [tool.url for tool in tools if isinstance(tool, McpTool)]
    return "an MCP server is named twice" if len(set(urls)) < len(urls) else None


def name_of(tool: Any) -> str | None:
    """By what name a model knows a tool; ``None`` for a server with tools of its own."""
    if isinstance(tool, McpTool):
        return None
    return tool.name if isinstance(tool, HttpTool) else str(tool.type)


def parameters_problem(schema: dict[str, Any]) -> str | None:
    """Why a schema cannot be that of a tool's parameters, or ``None``."""
    if schema.get("type") != "object":
        return 'must describe an object: set "type": "object"'
    if others := sorted(schema.keys() - _PASSED_ON):
        return f"has {others[0]!r} at its top, where only properties and required are passed on"
    if not isinstance(schema.get("properties", {}), dict):
        return "has properties that are no object"
    if any("$ref" in part for part in _objects(schema)):
        return "has a $ref, which not every model follows: write the schema out"
    return schema_problem(schema)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as found:
                yield found
                waiting += found.values()
            case list() as found:
                waiting += found


def _header_problem(name: str, value: str) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return f"{name[:40]!r} is not the name of a header"
    if name.lower() in _REFUSED_HEADERS:
        return f"{name} must not be set: Flow, or the connection, sets it"
    if value == _MASK:
        return f"{name} is what readers are shown in place of its value: send the value itself"
    if not _HEADER_VALUE.fullmatch(value):
        return (
            f"{name} must have printable ASCII, no spaces at its ends, and at most 4096 characters"
        )
    return None
