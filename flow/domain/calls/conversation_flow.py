"""A conversation as a graph of nodes (``bot.flow``), in the format of Pipecat's ``pipecat.flows``.

It is `pipecat/flows/flow_config.schema.json` without what needs code of one's own: a function is a
tool of ``bot.tools`` or ``transition_only``, an action is ``tts_say`` or ``end_conversation``. What
concerns several parts of a graph at once is judged by `flow.domain.calls.flow_rules`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from flow.domain.calls.request_parts import Part, is_stored
from flow.domain.calls.tools import MAX_TOOLS, Description, ToolName

MAX_NODES = 50
MAX_FLOW_BYTES = 131_072
MAX_MESSAGES = 16
MAX_ACTIONS = 16
MAX_CASES = 50

NodeName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$")]
NodeText = Annotated[str, Field(min_length=1, max_length=32_768, pattern=r"^[^\x00]*$")]

_HANDLER = (
    "is code of your own, which a flow has none of here: name a tool of bot.tools, or set"
    " transition_only"
)


def _no_handler(value: Any) -> Any:
    if value is not None:
        raise ValueError(_HANDLER)
    return value


# Pipecat's format has it; it is known here only to say why it is refused.
NoHandler = Annotated[SkipJsonSchema[None], BeforeValidator(_no_handler)]


def case_key(value: Any) -> str:
    """What a value of a tool's answer is called among the ``cases`` of a branch.

    As in Pipecat (``pipecat.flows.config.case_key``): booleans, and texts that spell one, are
    ``true`` and ``false``.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text.lower() if text.lower() in ("true", "false") else text


class FlowMessage(Part):
    """What the model is told of a node's task."""

    role: Literal["developer", "system", "user"] = Field(
        description="Who says it, to the model: `developer`, as a rule."
    )
    content: NodeText = Field(description="The text; may hold variables and answers of tools.")


class FlowAction(Part):
    """What happens when a node is entered (``pre_actions``) or has been replied at
    (``post_actions``): a sentence is said, or the call is ended."""

    type: Literal["tts_say", "end_conversation"] = Field(
        description="`tts_say` says a text, `end_conversation` hangs up."
    )
    text: NodeText | None = Field(
        default=None, description="What is said; before the call is ended it may be left out."
    )
    append_text_to_context: bool = Field(
        default=True, description="Always true: what is said is in the conversation."
    )
    handler: NoHandler = Field(default=None, exclude=True)

    @field_validator("type", mode="before")
    @classmethod
    def _is_no_code(cls, value: Any) -> Any:
        if value == "function":
            raise ValueError(f"'function' {_HANDLER}")
        return value

    @field_validator("append_text_to_context")
    @classmethod
    def _is_true(cls, value: bool) -> bool:
        if not value:
            raise ValueError("must be true: what the bot says is in the conversation")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.type == "tts_say" and self.text is None:
            raise ValueError("tts_say needs a text")
        return self


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {case_key(key): target for key, target in value.items()}
    return value


class FlowBranch(Part):
    """A transition that a field of the tool's answer chooses.

    With ``field: error`` it is about uses that failed: the cases are their outcomes. A use that
    failed leads nowhere otherwise, and to no ``default``.
    """

    field: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="Of the answer, an object; `error`: of a use that failed."
    )
    cases: Annotated[
        dict[Annotated[str, Field(max_length=256)], NodeName],
        BeforeValidator(_canonical),
        Field(min_length=1, max_length=MAX_CASES),
    ] = Field(description="Nodes, by values of the field.")
    default: NodeName | None = Field(
        default=None, description="The node for any other answer; left out: the call stays."
    )


def _kind_of_transition(value: Any) -> str:
    return "node" if isinstance(value, str) else "branch"


Transition = Annotated[
    Annotated[NodeName, Tag("node")] | Annotated[FlowBranch, Tag("branch")],
    Discriminator(_kind_of_transition),
]


class FlowFunction(Part):
    """What the model may call at a node: a tool of ``bot.tools`` by its name, or a transition."""

    name: ToolName = Field(description="By what name the model calls it.")
    transition_only: bool = Field(
        default=False, description="It does nothing but lead to another node."
    )
    description: Description | None = Field(
        default=None, description="When to call it; of a `transition_only` function alone."
    )
    transition_to: Transition | None = Field(
        default=None,
        description="The node that follows, or a branch; left out: the call stays at the node.",
    )
    handler: NoHandler = Field(default=None, exclude=True)

    @field_validator("transition_to", mode="before")
    @classmethod
    def _is_one(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | Mapping | FlowBranch):
            return value
        raise ValueError("must be the name of a node, or an object with field and cases")

    @model_validator(mode="after")
    def _has_a_shape(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if not self.transition_only:
            if self.description is not None:
                raise ValueError(
                    "has a description, which only a transition_only function takes: a tool's"
                    " stands in bot.tools"
                )
            return self
        if self.description is None:
            raise ValueError("is transition_only and needs a description")
        if not isinstance(self.transition_to, str):
            raise ValueError("is transition_only and needs a node in transition_to")
        return self

    def targets(self) -> Iterator[tuple[str, str]]:
        """Every node that it may lead to, with the field that says so."""
        match self.transition_to:
            case str(node):
                yield "transition_to", node
            case FlowBranch(cases=cases, default=default):
                for case, node in cases.items():
                    yield f"transition_to.cases.{case}", node
                if default is not None:
                    yield "transition_to.default", default


class FlowNode(Part):
    """One step of the conversation."""

    task_messages: Annotated[tuple[FlowMessage, ...], Field(max_length=MAX_MESSAGES)] = Field(
        description="What the model is to do here."
    )
    role_message: NodeText | None = Field(
        default=None,
        description="Takes the place of the bot's `system_prompt`, until another node has one.",
    )
    functions: Annotated[tuple[FlowFunction, ...], Field(max_length=MAX_TOOLS)] = Field(
        default=(), description="What the model may call here."
    )
    pre_actions: Annotated[tuple[FlowAction, ...], Field(max_length=MAX_ACTIONS)] = Field(
        default=(), description="What happens before the model replies here."
    )
    post_actions: Annotated[tuple[FlowAction, ...], Field(max_length=MAX_ACTIONS)] = Field(
        default=(), description="What happens after it."
    )
    context_strategy: Literal["append", "reset"] | None = Field(
        default=None,
        description="`reset` has the model forget what was said before; `append` is the default.",
    )
    respond_immediately: bool = Field(
        default=True,
        description="Whether the model replies at once, or when the caller has spoken.",
    )


class ConversationFlow(Part):
    """A conversation as a graph of nodes, in the format of Pipecat's `pipecat.flows`."""

    initial_node: NodeName = Field(description="Where the call begins.")
    nodes: Annotated[dict[NodeName, FlowNode], Field(min_length=1, max_length=MAX_NODES)] = Field(
        description="The nodes, by their names."
    )
    global_functions: Annotated[tuple[FlowFunction, ...], Field(max_length=MAX_TOOLS)] = Field(
        default=(), description="What the model may call at every node."
    )

    @model_validator(mode="after")
    def _is_small(self, info: ValidationInfo) -> Self:
        if not is_stored(info) and (size := len(json.dumps(self.model_dump()))) > MAX_FLOW_BYTES:
            raise ValueError(f"is {size} bytes as JSON; at most {MAX_FLOW_BYTES} are kept")
        return self

    def functions(self) -> Iterator[tuple[str, FlowFunction]]:
        """Every function, with the field that it stands in."""
        for at, function in enumerate(self.global_functions):
            yield f"global_functions.{at}", function
        for name, node in self.nodes.items():
            for at, function in enumerate(node.functions):
                yield f"nodes.{name}.functions.{at}", function
