"""Agents: call settings that a team stores under a name, in versions that never change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import Field, ValidationInfo, field_validator, model_validator

from flow.domain.calls.bot_part import CASCADE, BotPart
from flow.domain.calls.join_request import AgentRef, CallSettings, JoinRequest
from flow.domain.calls.request_parts import STORED, Name
from flow.domain.calls.tools import MAX_TOOLS, Tool, tool_problems
from flow.errors import InvalidInput

_WHOLE = ("schema", "flow")
_OWN = {*CallSettings.model_fields, "product"}
_TOOLS_IN_BOT = re.compile(r"^bot\.tools(?=\.|$)")


class AgentDefinition(CallSettings):
    """Body of ``POST /api/agents``: the settings of an agent's calls. All but ``name`` may be
    left out: a call then has what its join says, or else its product."""

    name: Name = Field(description="What joins may call it; the team has no other of that name.")
    product: Name | None = Field(default=None, description="What its calls are sold as.")
    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS)] | None = Field(
        default=None,
        exclude=True,
        description="What the bot can do beside talking; the same as `tools` in `bot`.",
    )

    @field_validator("name")
    @classmethod
    def _is_no_id(cls, value: str) -> str:
        """A join names an agent by its id or by its name."""
        if value != value.strip():
            raise ValueError("must not begin or end with blanks")
        try:
            UUID(value)
        except ValueError:
            return value
        raise ValueError("must not look like an id")

    @field_validator("tools")
    @classmethod
    def _are_given_once(
        cls, value: tuple[Tool, ...] | None, info: ValidationInfo
    ) -> tuple[Tool, ...] | None:
        bot = info.data.get("bot")
        if value is not None and bot is not None and "tools" in bot.model_fields_set:
            raise ValueError("are given twice, here and in bot: remove one of them")
        if (problem := tool_problems(value or ())) is not None:
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _with_its_tools_in_its_bot(self) -> Self:
        if self.tools is None:
            return self
        bot = self.bot.model_copy(update={"tools": self.tools})
        return self.model_copy(update={"bot": bot, "tools": None})

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """What `said` gave. It was judged when it was taken in, and is not judged again."""
        return cls.model_validate(stored, context=STORED)

    def shown(self) -> dict[str, Any]:
        """What was said, as readers are shown it: without secrets, and the tools beside the bot."""
        said = self.said(secrets=False)
        if "tools" in said.get("bot", {}):
            said["tools"] = said["bot"].pop("tools")
        return said

    def as_sent(self, error: InvalidInput) -> InvalidInput:
        """What is wrong with the agent, with the fields named as it was sent."""
        if "tools" not in self.model_fields_set:
            return error
        return error.with_problems(
            replace(problem, field=_TOOLS_IN_BOT.sub("tools", problem.field))
            for problem in error.problems
        )

    def as_join(self) -> JoinRequest:
        """A join that says what the agent says, and no more."""
        return _join_of(self.said())


@dataclass(frozen=True, slots=True)
class Agent:
    """A version of an agent. ``definition`` is what was said of it, as JSON, secrets and all.

    ``created_at`` is of the agent, ``updated_at`` of the version.
    """

    id: UUID
    team_id: str
    name: str
    version: int
    definition: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    @property
    def ref(self) -> AgentRef:
        """What a thread says of the agent it was made with."""
        return AgentRef(id=str(self.id), version=self.version)

    def shown(self) -> dict[str, Any]:
        """The definition as readers are shown it: without secrets."""
        return AgentDefinition.from_json(self.definition).shown()

    def as_named(self, error: InvalidInput, join: JoinRequest) -> InvalidInput:
        """What is wrong with a join of the agent; of what the agent says, it says so."""
        said = join.said()
        return error.with_problems(
            replace(problem, message=f"of the agent {self.name}: {problem.message}")
            if _is_said(self.definition, problem.field) and not _is_said(said, problem.field)
            else problem
            for problem in error.problems
        )

    def settle(self, join: JoinRequest) -> JoinRequest:
        """The join with all that the agent says and the join does not.

        Objects are taken together field by field; what is no object, a JSON Schema and a flow are
        the join's or the agent's whole. ``null`` is a word like any other. Where the join names
        another vendor than the agent, nothing of the agent's part is left, since its model and
        voice are not that vendor's; so it is where the join says ``realtime`` and the agent
        ``stt``, ``llm`` or ``tts``, and the other way round.
        """
        own = {name: value for name, value in join.said().items() if name in _OWN}
        theirs = {**self.definition}
        theirs["bot"] = _without_replaced(theirs.get("bot") or {}, own.get("bot") or {})
        whole = _join_of(_merged(theirs, own))
        settled = {name: getattr(whole, name) for name in _OWN}
        return join.model_copy(update=settled | {"agent": self.ref})


def _is_said(said: Any, field: str) -> bool:
    """Whether these settings say the field of a dotted path, or the list that it is in."""
    for name in field.split("."):
        if not isinstance(said, Mapping):
            break
        if name not in said:
            return False
        said = said[name]
    return True


def _join_of(said: Mapping[str, Any]) -> JoinRequest:
    """A join of what a definition said; ``product`` may be null there, which says nothing."""
    known = {name: value for name, value in said.items() if name in _OWN}
    return JoinRequest.from_json(
        {name: value for name, value in known.items() if (name, value) != ("product", None)}
    )


def _merged(agents: Mapping[str, Any], joins: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(agents)
    for name, value in joins.items():
        before = agents.get(name)
        if isinstance(value, dict) and isinstance(before, Mapping) and name not in _WHOLE:
            value = _merged(before, value)
        merged[name] = value
    return merged


def _without_replaced(agents: Mapping[str, Any], joins: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's ``bot`` without the parts that the join's replaces."""
    cascade = [part.value for part in CASCADE]
    gone = set[str]()
    if joins.get("realtime") is not None:
        gone |= {*cascade}
    elif any(part in joins for part in cascade):
        gone |= {"realtime"}
    for part in BotPart:
        named = (joins.get(part) or {}).get("provider")
        if named is not None and named != (agents.get(part) or {}).get("provider"):
            gone |= {part}
    return {name: value for name, value in agents.items() if name not in gone}
