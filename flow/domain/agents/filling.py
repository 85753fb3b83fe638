"""Call settings with their placeholders filled in."""

from __future__ import annotations

from typing import Any, TypeVar

from flow.domain.agents.system_variables import SYSTEM_VARIABLES, CallFacts
from flow.domain.agents.variables import Filling
from flow.domain.calls.join_request import CallSettings, JoinRequest
from flow.domain.calls.tools import Remote, Tool, TransferCallTool

Settings = TypeVar("Settings", bound=CallSettings)

_ASSUMED = "x"


def filled_in(join: JoinRequest, facts: CallFacts) -> JoinRequest:
    """The join with its variables, and those that Flow gives, in every text that may hold them.

    Raises:
        InvalidInput: a variable is missing or does not fit where it stands; names each, with its
            field.
    """
    filling = Filling(
        join.variables | facts.variables(join.bot.timezone), reserved=SYSTEM_VARIABLES
    )
    filled = _filled(join, filling)
    filling.check()
    return filled


def check_templates(settings: CallSettings) -> None:
    """Raise `InvalidInput` for placeholders that no variables could fill."""
    filling = Filling({}, reserved=SYSTEM_VARIABLES, assumed=_ASSUMED)
    _filled(settings, filling)
    filling.check()


def check_without_variables(settings: CallSettings, facts: CallFacts) -> None:
    """Raise `InvalidInput` for what a call cannot have whose join gives no variables."""
    filling = Filling(facts.variables(settings.bot.timezone), reserved=SYSTEM_VARIABLES)
    _filled(settings, filling)
    filling.check()


def _filled(settings: Settings, filling: Filling) -> Settings:
    bot: dict[str, Any] = {
        name: filling.text(f"bot.{name}", text)
        for name in ("system_prompt", "greeting")
        if (text := getattr(settings.bot, name)) is not None
    }
    tools = [_tool(tool, filling, f"bot.tools.{at}") for at, tool in enumerate(settings.bot.tools)]
    if tools:
        bot["tools"] = tuple(tools)
    update: dict[str, object] = {"bot": settings.bot.model_copy(update=bot)}
    if (text := settings.insights.instructions) is not None:
        instructions = filling.text("insights.instructions", text)
        update["insights"] = settings.insights.model_copy(update={"instructions": instructions})
    return settings.model_copy(update=update)


def _tool(tool: Tool, filling: Filling, field: str) -> Tool:
    if isinstance(tool, Remote | TransferCallTool):
        return tool.filled(filling, field)
    return tool
