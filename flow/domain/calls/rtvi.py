"""What a join says of RTVI, the protocol that Pipecat's clients speak beside the sound."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Allowed = Literal["text", "messages"]


class Rtvi(BaseModel):
    """What a caller's RTVI client may do beside being told of the conversation and hanging up.

    ``allow`` names what it may send: ``text`` is a turn like a spoken one, in the transcript and
    in the account; ``messages`` are those of a bot of the operator's own, which answers them.
    Everything else is refused. ``metrics`` has the client told how long the bot's parts take, and
    never what they are or cost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[Allowed, ...] = Field(
        default=(), examples=[["text"]], description="What the client may send."
    )
    metrics: bool = Field(
        default=False, description="Whether it is told how long the bot's parts take."
    )

    @field_validator("allow")
    @classmethod
    def _is_a_set(cls, value: tuple[Allowed, ...]) -> tuple[Allowed, ...]:
        return tuple(sorted(set(value)))


def _spelt_out(value: Any) -> Any:
    """``true`` is RTVI without anything allowed, ``false`` is none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


RtviOption = Annotated[
    Rtvi | None, BeforeValidator(_spelt_out, json_schema_input_type=bool | Rtvi | None)
]
"""``true``, what is allowed, or nothing."""
