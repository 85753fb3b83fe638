"""The conversation of one call along its bot's flow: Pipecat's manager, with Flow's tools.

Each function of a node is a tool of the call (`flow.bot.tools.call_tools`), or nothing but a
transition. Where the call is, is on record with the uses of its tools, so that any process can go
on with it from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.flows import NO_RESPONSE, FlowManager, FlowsFunctionSchema, NodeConfig
from pipecat.flows.types import ContextStrategy, ContextStrategyConfig
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.services.llm_service import FunctionCallParams, LLMService

from flow.bot.flows.node_text import node_text, plain_text
from flow.bot.flows.sayings import Sayings
from flow.bot.tools.call_tools import CallTools, is_cut_off
from flow.bot.tools.memory import messages_of
from flow.bot.vendors.function_calls import NoArguments
from flow.domain.calls.conversation_flow import ConversationFlow, FlowAction, FlowFunction
from flow.domain.calls.flow_position import answers_of, destination, position_in
from flow.domain.calls.thread import Turn
from flow.domain.calls.tool_call import ToolCall, ToolOutcome

# A name of Flow's own: for Pipecat's ``tts_say`` its manager waits for a frame that an interruption
# takes away, and would then wait until the call is over.
SAY = "flow_say"
END = "end_conversation"
_UNREADABLE = "\0"
"""In place of arguments that could not be read."""
# Of a system message at the beginning of a conversation Pipecat keeps nothing for Anthropic and
# Google, where there is a prompt beside it (`BaseLLMAdapter._extract_initial_system`).
_ROLES = {"developer": "developer", "system": "developer", "user": "user"}


class CheckedFlowManager(FlowManager):
    """Pipecat's, which makes a plain dict of a call's arguments: of those that could not be read
    it would make none at all, with which a tool might do something else than was meant."""

    async def _create_transition_func(self, name: str, handler: Any) -> Any:
        run = await super()._create_transition_func(name, handler)

        async def checked(params: FunctionCallParams) -> None:
            if isinstance(params.arguments, NoArguments):
                params = replace(params, arguments={_UNREADABLE: None})
            await run(params)

        return checked


async def _nothing(_arguments: Any, _manager: FlowManager) -> tuple[Any, Any]:
    return {"error": "there is nothing to call: talk to the caller"}, None


_NOTHING = FlowsFunctionSchema(
    name="nothing",
    description="Does nothing, and is never to be called.",
    properties={},
    required=[],
    handler=_nothing,
)


class CallFlow:
    """Leads a call from node to node.

    Args:
        flow: the bot's, with its variables filled in.
        tools: those of the call; a function whose tool there is not, is left out.
        worker, pair, model: of the call's pipeline.
        said, used: what there was in other processes, where the call has been before.
        owes_reply: whether the bot has said nothing yet of the last of them.
    """

    def __init__(
        self,
        flow: ConversationFlow,
        tools: CallTools,
        worker: PipelineWorker,
        pair: LLMContextAggregatorPair,
        model: LLMService[Any],
        said: Sequence[Turn] = (),
        used: Sequence[ToolCall] = (),
        *,
        owes_reply: bool = False,
    ) -> None:
        self._flow = flow
        self._tools = tools
        self._schemas = {schema.name: schema for schema in tools.schemas}
        self._answers = answers_of(used)
        self._start = position_in(flow, used)
        self._is_resumed = bool(said or used)
        self._owes_reply = owes_reply
        self._last_used = max(used, key=lambda call: call.started_at, default=None)
        # Vendors refuse a conversation that has calls of functions where there is none to call.
        is_bare = not flow.global_functions and any(flow.functions())
        self._nothing: list[Any] = [_NOTHING] if is_bare else []
        self._manager = CheckedFlowManager(
            llm=model,
            context_aggregator=pair,
            worker=worker,
            global_functions=self._functions(flow.global_functions),
        )
        self._sayings = Sayings(worker)
        self._manager.register_action(SAY, self._say)
        self._manager.register_action(END, self._end)

    async def begin(self, greeting: str | None = None) -> None:
        """Enter the flow, at its first node or where another process has left it.

        A ``greeting`` is said in place of what the model would say there.
        """
        node = self._resumed() if self._is_resumed else self._node(self._start.node)
        if greeting:
            # Post-actions of a node whose caller is to speak first are not the greeting's.
            await self._sayings.say(greeting, is_waited_for=not node["respond_immediately"])
            node["respond_immediately"] = False
        await self._manager.initialize(node)

    def _resumed(self) -> NodeConfig:
        """The node as it was left: what it says when it is entered has been said, and so has what
        it says after a reply, if there was one."""
        node = self._node(self._start.node)
        node["pre_actions"] = []
        node["context_strategy"] = ContextStrategyConfig(strategy=ContextStrategy.APPEND)
        if self._owes_reply and self._last_used is not self._start.entered_by:
            node["respond_immediately"] = True  # of what a tool has done at this node
        elif not self._owes_reply:
            node["post_actions"] = [one for one in node["post_actions"] if one["type"] == END]
        if (role := self._start.role_message) is not None:
            node["role_message"] = node_text(role, self._answers)
        return node

    def _node(self, name: str) -> NodeConfig:
        """A node as Pipecat takes it, with what tools have answered so far in its texts."""
        node, text = self._flow.nodes[name], partial(node_text, answers=self._answers)
        config: NodeConfig = {
            "name": name,
            "task_messages": [
                {"role": _ROLES[message.role], "content": text(message.content)}
                for message in node.task_messages
            ],
            "functions": self._functions(node.functions) or self._nothing,
            "pre_actions": self._actions(node.pre_actions, is_waited_for=True),
            "post_actions": self._actions(node.post_actions, is_waited_for=False),
            "respond_immediately": node.respond_immediately,
        }
        if node.role_message is not None:
            config["role_message"] = text(node.role_message)
        if node.context_strategy is not None:
            strategy = ContextStrategy(node.context_strategy)
            config["context_strategy"] = ContextStrategyConfig(strategy=strategy)
        return config

    def _actions(self, actions: Sequence[FlowAction], *, is_waited_for: bool) -> list[Any]:
        return [
            {
                "type": SAY if action.type == "tts_say" else END,
                "text": plain_text(action.text or "", self._answers),
                "is_waited_for": is_waited_for,
            }
            for action in actions
        ]

    def _functions(self, functions: Sequence[FlowFunction]) -> list[Any]:
        made = [self._function(function) for function in functions]
        return [function for function in made if function is not None]

    def _function(self, function: FlowFunction) -> FlowsFunctionSchema | None:
        """The function as Pipecat takes it; ``None`` where the call has no such tool, such as one
        of a server that did not answer."""
        if function.transition_only:
            description = function.description or ""
            schema = FunctionSchema(function.name, description, properties={}, required=[])
            handler = partial(self._transition, function)
        elif (known := self._schemas.get(function.name)) is not None:
            schema, handler = known, partial(self._use, function)
        else:
            return None
        return FlowsFunctionSchema(
            name=schema.name,
            description=schema.description,
            properties=schema.properties,
            required=schema.required,
            handler=handler,
            cancel_on_interruption=is_cut_off(function.name),
        )

    async def _transition(
        self, function: FlowFunction, _arguments: Mapping[str, Any], _manager: FlowManager
    ) -> tuple[Any, Any]:
        assert isinstance(function.transition_to, str), "the flow was not judged"
        answer = self._tools.record_transition(function.name, function.transition_to)
        if answer.outcome is not ToolOutcome.OK:
            return dict(answer.told), None if answer.is_replied_to else NO_RESPONSE
        return dict(answer.told), self._node(function.transition_to)

    async def _use(
        self, function: FlowFunction, arguments: Mapping[str, Any], _manager: FlowManager
    ) -> tuple[Any, Any]:
        """Use a tool as any bot does, and go where its answer leads to."""
        leads_to = partial(destination, function.transition_to)
        given = NoArguments() if _UNREADABLE in arguments else arguments
        answer = await self._tools.use(function.name, given, leads_to)
        if "result" in answer.told:
            self._answers[function.name] = answer.told["result"]
        if not answer.is_replied_to:
            return dict(answer.told), NO_RESPONSE
        node = leads_to(answer.told)
        return dict(answer.told), None if node is None else self._node(node)

    async def _say(self, action: Mapping[str, Any], _: FlowManager) -> None:
        await self._sayings.say(action["text"], is_waited_for=action["is_waited_for"])

    async def _end(self, action: Mapping[str, Any], _: FlowManager) -> None:
        await self._tools.voice.hang_up(action["text"], after_reply=True)


def remembered(
    flow: ConversationFlow, said: Sequence[Turn], used: Sequence[ToolCall]
) -> list[dict[str, Any]]:
    """What a model is told that goes on with a call, as far as the flow has not had it forget."""
    since = position_in(flow, used).since
    if since is not None:
        said = [turn for turn in said if turn.started_at >= since]
        used = [call for call in used if call.started_at > since]
    return messages_of(said, used, in_words=False)
