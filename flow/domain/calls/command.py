"""Commands to the bot of a running call: what its customer has it say or know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_TEXT_CHARS = 4_000
MOST_COMMANDS = 30
WITHIN_SECS = 60
"""A call takes at most so many commands within so many seconds: each costs speech or a reply."""

Text = Annotated[
    str,
    Field(max_length=MAX_TEXT_CHARS, pattern=r"^[^\x00]*$", description="What is said or told."),
]
CommandKind = Literal["say", "message"]


class _WithText(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Text = Field(description="The words, in plain text.")

    @field_validator("text")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value.strip()


class SayRequest(_WithText):
    """The bot says ``text``, word for word; with ``interrupt``, in place of what it is saying.

    A bot that is one model which hears and speaks is told to say it word for word.
    """

    interrupt: bool = Field(False, description="In place of what the bot is saying.")


class MessageRequest(_WithText):
    """The bot is told ``text``: by its customer (``system``), or as if its caller had said it
    (``user``: it is then in the transcript). With ``respond`` it answers at once."""

    role: Literal["system", "user"] = Field(
        "system", description="Who tells it: the customer, or as if it were the caller."
    )
    respond: bool = Field(False, description="Whether the bot answers at once.")


Order = SayRequest | MessageRequest
_KINDS: Mapping[CommandKind, type[Order]] = {"say": SayRequest, "message": MessageRequest}


@dataclass(frozen=True, slots=True)
class Command:
    """A command as the database keeps it.

    ``is_taken``: the process that has the call has it, and carries it out, or has found out by its
    ``refusal`` that the bot of this call cannot. ``is_replayed``: it had been sent before.
    """

    id: UUID
    workflow_thread_id: UUID
    order: Order
    is_taken: bool = False
    refusal: str | None = None
    is_replayed: bool = False

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """The command of what the database gave."""
        return cls(
            id=UUID(row["id"]),
            workflow_thread_id=UUID(row["workflow_thread_id"]),
            order=_KINDS[row["kind"]].model_validate(row["body"]),
            is_taken=row["is_taken"],
            refusal=row["refusal"],
            is_replayed=row.get("replayed", False),
        )


def kind_of(order: Order) -> CommandKind:
    """By what name an order is known."""
    return "say" if isinstance(order, SayRequest) else "message"
