"""What a customer may ask for when a bot is to join a call."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from flow.domain.agents.variables import Variables
from flow.domain.calls.bot_part import CASCADE, BotPart
from flow.domain.calls.conversation_flow import ConversationFlow
from flow.domain.calls.phone_call import Voicemail
from flow.domain.calls.phone_number import number_problem
from flow.domain.calls.recording import RecordingOption
from flow.domain.calls.request_parts import STORED, STORING, Name, Part, Text, bounded, is_stored
from flow.domain.calls.room import token_problem
from flow.domain.calls.rtvi import Rtvi, RtviOption
from flow.domain.calls.tools import MAX_TOOLS, Tool, tool_problems
from flow.domain.calls.transport_spec import (
    TransportSpecs,
    listed,
    names_that_call,
    names_with_rooms,
    names_with_rtvi,
)
from flow.domain.insights.insight_schema import schema_problem
from flow.domain.products.save_mode import SaveMode
from flow.domain.webhooks import public_url

MAX_METADATA_BYTES = 16_384
MAX_SCHEMA_BYTES = 32_768

TurnDetection = Literal["silence", "smart", "vendor"]
"""What tells that a turn of the caller is over: silence, a model of how speech ends, the vendor."""


class Transport(Part):
    """How the caller's audio reaches the bot.

    With ``daily`` and ``livekit`` the bot waits in a room that Flow makes, or in the caller's own:
    ``room_url``, with a ``token`` that lets the bot in. The token opens somebody's room: it is no
    part of what is stored or shown.

    ``rtvi`` is for Pipecat's own clients (JavaScript, React, iOS, Android), which wait for a
    bot that speaks RTVI: ``true``, or what the client may send and see.

    ``to`` has Flow call that number over ``twilio``, ``from`` one of the team's own, and let it
    ring for ``ring_secs``. ``voicemail`` says what is to become of a call that a machine answers:
    ``talk`` to it as to a person (nobody asks whether it is one), ``hang_up``, or
    ``leave_message``:
    the ``voicemail_message``, spoken by the carrier after the beep.

    Which transports there are, and what they take, is judged by the `TransportSpecs` that the
    context of the validation has under ``transports``; without them any name passes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    type: Annotated[str, Field(max_length=64)] = Field(
        default="websocket",
        description="How: `websocket`, `webrtc`, `twilio`, `daily` or `livekit`.",
    )
    room_url: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, description="A room of your own, in place of one that Flow makes."
    )
    token: Annotated[SecretStr, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        exclude=True,
        description="What lets the bot into that room; never shown again.",
    )
    rtvi: RtviOption = Field(
        default=None, description="Whether RTVI is spoken, and what the caller may send by it."
    )
    to: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The number that Flow is to call, such as `+4930123456`."
    )
    from_: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, alias="from", description="The number that it calls from: one of yours."
    )
    ring_secs: Annotated[int, Field(ge=5, le=120)] = Field(
        default=30, description="How long it may ring."
    )
    voicemail: Voicemail = Field(
        default=Voicemail.TALK,
        description="What to do when a machine answers: `talk`, `hang_up` or `leave_message`.",
    )
    voicemail_message: Annotated[str, Field(min_length=1, max_length=1_000)] | None = Field(
        default=None, description="The message, for `leave_message`."
    )

    @field_validator("to", "from_")
    @classmethod
    def _is_a_number(cls, value: str | None, info: ValidationInfo) -> str | None:
        specs, name = _transports(info), info.data.get("type")
        if value is None or specs is None or name is None:
            return value
        if not specs[name].places_calls:
            raise ValueError(f"is for {names_that_call(specs)}, not for {name}")
        if (problem := number_problem(value)) is not None:
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _is_a_whole_call(self, info: ValidationInfo) -> Self:
        # A join as it is shown names every field: what differs from its default was asked for.
        fields = type(self).model_fields
        of_placed = ("ring_secs", "voicemail", "voicemail_message")
        given = [name for name in of_placed if getattr(self, name) != fields[name].default]
        if (self.to is None and self.from_ is None and not given) or is_stored(info):
            return self
        if (self.to is None) != (self.from_ is None):
            raise ValueError("a call that is to be placed needs both to and from")
        if self.to is None and given:
            raise ValueError(f"{given[0]} is for a call that is placed: give to and from")
        leaves_message = self.voicemail is Voicemail.LEAVE_MESSAGE
        if leaves_message != (self.voicemail_message is not None):
            raise ValueError("voicemail 'leave_message' and a voicemail_message go together")
        return self

    @field_validator("type")
    @classmethod
    def _is_known(cls, value: str, info: ValidationInfo) -> str:
        specs = _transports(info)
        if specs is not None and value not in specs:
            raise ValueError(f"must be one of {listed([*specs])}")
        return value

    @field_validator("room_url")
    @classmethod
    def _is_a_room(cls, value: str | None, info: ValidationInfo) -> str | None:
        specs, name = _transports(info), info.data.get("type")
        if value is None or specs is None or name is None:
            return value
        if not specs[name].has_rooms:
            raise ValueError(f"is for {names_with_rooms(specs)}, not for {name}")
        if (problem := specs[name].room_url_problem(value)) is not None:
            raise ValueError(problem)
        return value

    @field_validator("token")
    @classmethod
    def _is_a_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (problem := token_problem(value.get_secret_value())):
            raise ValueError(problem)
        return value

    @field_validator("rtvi")
    @classmethod
    def _is_spoken(cls, value: Rtvi | None, info: ValidationInfo) -> Rtvi | None:
        specs, name = _transports(info), info.data.get("type")
        if value is None or specs is None or name is None or specs[name].speaks_rtvi:
            return value
        raise ValueError(f"is for {names_with_rtvi(specs)}, not for {name}")


class Llm(Part):
    """The language model; what is left out comes from the product.

    ``api`` says by which of its vendor's APIs, where there are several; ``chat`` unless said.
    """

    provider: Name | None = Field(default=None, description="The vendor.")
    model: Name | None = Field(default=None, description="The model, by the vendor's own name.")
    api: Literal["chat", "responses"] | None = Field(
        default=None,
        description="Which of the vendor's APIs, where it has several: `chat` unless said.",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="How freely the model chooses its words."
    )
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = Field(
        default=None, description="The longest reply, in tokens."
    )


class Stt(Part):
    """The transcription model; what is left out comes from the product."""

    provider: Name | None = Field(default=None, description="The vendor.")
    model: Name | None = Field(default=None, description="The model, by the vendor's own name.")


class Tts(Part):
    """The voice; what is left out comes from the product."""

    provider: Name | None = Field(default=None, description="The vendor.")
    model: Name | None = Field(default=None, description="The model, by the vendor's own name.")
    voice: Name | None = Field(default=None, description="The voice, by the vendor's own name.")


class Realtime(Part):
    """A model that hears and speaks by itself; what is left out comes from the product."""

    provider: Name | None = Field(default=None, description="The vendor.")
    model: Name | None = Field(default=None, description="The model, by the vendor's own name.")
    voice: Name | None = Field(default=None, description="The voice, by the vendor's own name.")


class Bot(Part):
    """What the bot says and with what: ``stt``, ``llm`` and ``tts``, or ``realtime`` alone.

    ``name`` is that of a bot of the operator's own, which takes the rest as it likes.
    """

    name: Name | None = Field(
        default=None, description="A bot of the operator's own; left out: the built-in one."
    )
    system_prompt: Text | None = Field(
        default=None, description="What the model is told about its task."
    )
    greeting: Text | None = Field(
        default=None, description="What the bot says first; left out: it waits for the caller."
    )
    language: Annotated[str, Field(pattern=r"^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*$")] | None = Field(
        default=None, description="What is spoken, as in `de` or `pt-BR`."
    )
    llm: Llm = Field(default=Llm(), description="The language model.")
    stt: Stt = Field(default=Stt(), description="The transcription.")
    tts: Tts = Field(default=Tts(), description="The voice.")
    realtime: Realtime | None = Field(
        default=None, description="One model that hears and speaks, in place of those three."
    )
    turn_detection: TurnDetection | None = Field(
        default=None, description="What tells that the caller has finished."
    )
    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS)] = Field(
        default=(), description="What the bot can do beside talking."
    )
    flow: ConversationFlow | None = Field(
        default=None,
        description="The conversation as a graph of nodes; of `tools` those are used that its"
        " functions name.",
    )
    keys: bool = Field(
        default=False,
        description="Whether the model is told of keys that a telephone's caller presses.",
    )
    timezone: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Of `{{flow.date}}` and `{{flow.time}}`, as in `Europe/Berlin`."
    )

    @field_validator("timezone")
    @classmethod
    def _is_a_timezone(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not is_stored(info) and value not in _timezones():
            raise ValueError("is not a time zone: write one such as Europe/Berlin, or UTC")
        return value

    @model_validator(mode="after")
    def _has_one_kind_of_model(self, info: ValidationInfo) -> Self:
        if self.realtime is None or is_stored(info):
            return self
        if given := [part.value for part in CASCADE if part.value in self.model_fields_set]:
            also = " and ".join(given)
            raise ValueError(f"realtime takes the place of stt, llm and tts: remove {also}, or it")
        return self

    @field_validator("tools")
    @classmethod
    def _can_be_told_apart(cls, value: tuple[Tool, ...], info: ValidationInfo) -> tuple[Tool, ...]:
        if not is_stored(info) and (problem := tool_problems(value)) is not None:
            raise ValueError(problem)
        return value

    @property
    def parts(self) -> tuple[BotPart, ...]:
        """The parts that the bot is made of."""
        return CASCADE if self.realtime is None else (BotPart.REALTIME,)


class Insights(Part):
    """What to extract from the transcript after the call."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    enabled: bool = Field(default=True, description="Whether to extract any.")
    instructions: Text | None = Field(default=None, description="What to look for, in words.")
    json_schema: dict[str, Any] | None = Field(
        default=None,
        alias="schema",
        description="A JSON Schema (2020-12) of the object to extract.",
    )

    @field_validator("json_schema")
    @classmethod
    def _is_a_json_schema(
        cls, value: dict[str, Any] | None, info: ValidationInfo
    ) -> dict[str, Any] | None:
        """By its form: whoever takes a join in checks it against JSON Schema's rules, too."""
        if value is None or is_stored(info):
            return value
        bounded(value, MAX_SCHEMA_BYTES)
        if (problem := schema_problem(value)) is not None:
            raise ValueError(problem)
        if value.get("type") != "object":
            raise ValueError('the schema must describe an object: set "type": "object"')
        return value


class CallSettings(Part):
    """What a call may be set to, in its join or in the agent that the join names.

    Texts may hold placeholders for variables: see `flow.domain.agents.templates`.
    """

    bot: Bot = Field(default=Bot(), description="What the bot says, and with what.")
    insights: Insights = Field(default=Insights(), description="What to extract afterwards.")
    max_duration_secs: Annotated[int, Field(ge=5, le=14_400)] | None = Field(
        default=None,
        description="The longest that the call may last; left out: as long as the product allows.",
    )
    save_mode: SaveMode | None = Field(
        default=None,
        description="When the call is made cheaper; left out: as the key or the product says.",
    )
    recording: RecordingOption = Field(
        default=None, description="Whether the call is recorded; only where it is asked for."
    )
    webhook_url: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, description="Where the call's end is told."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="Anything of yours; it stays with the thread, up to 16 KiB as JSON.",
    )

    @field_validator("webhook_url")
    @classmethod
    def _is_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Whether it leads out into the internet, the service that sends there judges."""
        if value is None or is_stored(info):
            return value
        if (problem := public_url.problem_of(value, allow_private=True)) is not None:
            raise ValueError(problem)
        return value

    @field_validator("metadata")
    @classmethod
    def _is_small(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return value if is_stored(info) else bounded(value, MAX_METADATA_BYTES)

    def said(self, *, secrets: bool = True) -> dict[str, Any]:
        """What was said, and nothing that was not; ``secrets`` of tools as they are, or hidden."""
        return self.model_dump(
            mode="json",
            by_alias=True,
            exclude_unset=True,
            context=STORING if secrets else None,
        )


class AgentRef(Part):
    """An agent by its id or its name, and the version of it: the newest unless said.

    A string alone is the id or name. Of a thread it is the id and the version that were used.
    """

    id: Name = Field(description="Its id or its name.")
    version: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = Field(
        default=None, description="The newest unless said."
    )


def _agent_ref(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


_AGENT_REF_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 128},
        {
            "type": "object",
            "properties": {
                "id": {"type": "string", "minLength": 1, "maxLength": 128},
                "version": {"type": ["integer", "null"], "minimum": 1, "maximum": 2_147_483_647},
            },
            "required": ["id"],
            "additionalProperties": False,
        },
        {"type": "null"},
    ]
}


class JoinRequest(CallSettings):
    """Body of ``POST /api/bot/join``. Every field may be left out.

    What the body says goes before what its agent says: see `flow.domain.agents.agent`.
    """

    product: Name = Field(default="voice_bot", description="What the call is sold as.")
    transport: Transport = Field(default=Transport(), description="How the caller is connected.")
    agent: Annotated[
        AgentRef | None, BeforeValidator(_agent_ref), WithJsonSchema(_AGENT_REF_SCHEMA)
    ] = Field(
        default=None,
        description="A stored agent: its id or name, or the id and version as an object.",
    )
    variables: Variables = Field(
        default={}, description="What `{{name}}` stands for in the texts and tools of the call."
    )

    @property
    def longest_secs(self) -> int:
        """How long the call may last; known once the join is resolved."""
        assert self.max_duration_secs is not None, "the join was not resolved"
        return self.max_duration_secs

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """What `to_json` gave. It was judged when it was taken in, and is not judged again."""
        return cls.model_validate(stored, context=STORED)

    def to_json(self) -> dict[str, Any]:
        """The request as stored on the thread and hashed for idempotency: with its secrets."""
        return self.model_dump(mode="json", by_alias=True, context=STORING)

    def shown(self) -> dict[str, Any]:
        """The request as readers are shown it: without the secrets of its tools."""
        return self.model_dump(mode="json", by_alias=True)


@cache
def _timezones() -> frozenset[str]:
    """Their names, which are read from the files of the time zone database."""
    return frozenset(available_timezones())


def _transports(info: ValidationInfo) -> TransportSpecs | None:
    specs: TransportSpecs | None = (info.context or {}).get("transports")
    return specs
