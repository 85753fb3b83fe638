"""What every tool is to the bot, and what tools need of the call they are used in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from flow.domain.calls.tool_call import ToolOutcome


class ToolFailed(Exception):
    """A tool could not do what it was asked; the message is what the model is told of it."""


class CallControl(Protocol):
    """Acts on a call where its transport can: on the telephone line of a carrier.

    A transport that has one says so in its spec (``controls``), and gives it with the caller's
    connection (`flow.bot.calls.lease.CallerConnection`).
    """

    async def transfer(self, number: str) -> None:
        """Pass the caller on to a number (E.164) or a SIP address; the bot's call then ends.

        Raises:
            ToolFailed: the carrier would not, and the caller is still with the bot.
        """
        ...

    async def send_dtmf(self, digits: str) -> None:
        """Press these keys (``0-9*#``, ``w`` waits half a second), and return when it is done.

        Raises:
            ToolFailed: the keys were not pressed.
        """
        ...


class CallVoice(Protocol):
    """What a tool may have the bot say, and how it ends the call."""

    async def say(self, text: str, within_secs: float) -> None:
        """Have the bot say a text, and return when it is said, or that time is over."""
        ...

    async def hang_up(self, last_words: str) -> None:
        """Have the bot say its last words after what it is saying, and then end the call."""
        ...


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a model asks of a tool, with arguments that fit its parameters."""

    id: UUID
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What came of it. ``told`` is told to the model; ``status`` is of the HTTP answer.

    ``is_replied_to``: whether the model is asked for a reply to it.
    """

    outcome: ToolOutcome
    told: Mapping[str, Any]
    status: int | None = None
    is_replied_to: bool = True


def answered(result: Any, status: int | None = None) -> ToolAnswer:
    """The tool did it, and answered with this JSON."""
    return ToolAnswer(ToolOutcome.OK, {"result": result}, status)


def failed(
    why: str, outcome: ToolOutcome = ToolOutcome.FAILED, status: int | None = None
) -> ToolAnswer:
    """The tool did not do it; the model is told why."""
    return ToolAnswer(outcome, {"error": outcome.value, "message": why}, status)


class BotTool(Protocol):
    """One function that a model can call.

    Attributes:
        name: as the model knows it.
        description: what it does, in words for the model.
        parameters: JSON Schema of an object.
        timeout_secs: how long a use may take, all attempts together.
        say_while_waiting: spoken while a use takes longer; ``""``: nothing is; ``None``: a
            sentence of Flow's.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def description(self) -> str: ...  # noqa: D102
    @property
    def parameters(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def timeout_secs(self) -> float: ...  # noqa: D102
    @property
    def say_while_waiting(self) -> str | None: ...  # noqa: D102

    async def use(self, use: ToolUse) -> ToolAnswer:
        """Do it once. What it raises is logged, and told to the model as a failure."""
        ...
