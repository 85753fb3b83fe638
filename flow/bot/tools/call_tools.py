"""The tools of one call: from what a model asks for to what it is told, and to the record of it.

Pipecat runs a handler for each function that a model calls, and cancels it when the call ends. A
use of a tool is a task of its own: an interruption does not touch it, so that its effect is
neither lost nor doubled, and when the call ends it is waited for, for a while.

Handlers, but for the tool that ends the call, have ``cancel_on_interruption=False``. When the
caller speaks meanwhile, the model answers what was said, knows that the tool is running, and is
told its result when it comes; it is asked for a reply to it once
(`LLMAssistantAggregator._handle_function_call_result`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

import structlog
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import FunctionCallResultProperties
from pipecat.services.llm_service import FunctionCallParams, LLMService

from flow.bot.tools.call_actions import EndCall
from flow.bot.tools.tool import BotTool, ToolAnswer, ToolUse, failed
from flow.bot.tools.voice import ToolVoice
from flow.bot.tools.waiting import waiting_sentence
from flow.bot.vendors.function_calls import NoArguments
from flow.domain.calls.tool_call import ToolCall, ToolOutcome, storable
from flow.errors import FlowError

log = structlog.get_logger(__name__)

WAITING_SECS = 1.0
"""Of silence, until a caller is told that something is under way."""
LAST_SECS = 10.0
"""For which tools that are under way are waited for when the call is over."""


def is_cut_off(name: str) -> bool:
    """Whether an interruption ends the model's use of a tool: while one runs the model may speak,
    but not beside its own last words."""
    return name == EndCall.name


CheckArguments = Callable[[Mapping[str, Any], Mapping[str, Any]], Awaitable[list[str]]]
"""What is wrong with arguments by a schema, in sentences; raises `FlowError` if nobody can say."""


class RecordsUses(Protocol):
    """Keeps uses of tools, whatever becomes of this process: see `flow.ledger.recorder`."""

    def record_tool_call(self, thread_id: UUID, call: ToolCall) -> None:
        """Take the start or the outcome of a use."""
        ...


class CallTools:
    """Runs the tools of one call.

    Args:
        voice: says what is to be said meanwhile; stands in the call's pipeline.
        language: of the bot, as its join has it.
        earlier: uses in other processes. Those that were under way there are not done again.
        close: closes what the tools hold open.
        now: seconds that go on.
    """

    def __init__(
        self,
        thread_id: UUID,
        tools: Sequence[BotTool],
        voice: ToolVoice,
        recorder: RecordsUses,
        check: CheckArguments,
        *,
        language: str | None = None,
        earlier: Sequence[ToolCall] = (),
        close: Callable[[], Awaitable[None]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.voice = voice
        self._thread_id = thread_id
        self._tools = {tool.name: tool for tool in tools}
        self._recorder = recorder
        self._check = check
        self._language = language
        self._close = close
        self._now = now
        self._running: dict[asyncio.Task[ToolAnswer], UUID] = {}
        self._told_to_wait: set[UUID] = set()
        self._is_closed = False
        self._log = log.bind(workflow_thread_id=str(thread_id))
        for call in earlier:
            if call.outcome is ToolOutcome.RUNNING:
                recorder.record_tool_call(thread_id, replace(call, outcome=ToolOutcome.UNKNOWN))

    @property
    def schemas(self) -> list[FunctionSchema]:
        """The tools as a model is told of them."""
        return [
            FunctionSchema(
                name=tool.name,
                description=tool.description,
                properties=dict(tool.parameters.get("properties", {})),
                required=list(tool.parameters.get("required", [])),
            )
            for tool in self._tools.values()
        ]

    def register(self, model: LLMService[Any]) -> None:
        """Have this model's calls of functions done here."""
        for name in self._tools:
            is_last = is_cut_off(name)
            model.register_function(name, self._handle, cancel_on_interruption=is_last)

    async def use(
        self,
        name: str,
        given: Mapping[str, Any],
        destination: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
    ) -> ToolAnswer:
        """Have a tool do what a model asks for, to its end, whatever becomes of whoever waits here.

        Args:
            given: the model's arguments.
            destination: the node of the bot's flow that the call goes to with what the model is
                told, if any; for the record.
        """
        use = ToolUse(uuid4(), given)
        task = asyncio.create_task(self._use(name, use, destination), name="tool")
        self._running[task] = use.id
        task.add_done_callback(self._forget)
        waiting = asyncio.create_task(
            self._tell_to_wait(self._tools[name], use.id), name="tool-waiting"
        )
        try:
            return await asyncio.shield(task)
        finally:
            waiting.cancel()

    def record_transition(self, name: str, node: str) -> Mapping[str, Any]:
        """Put a function on record that did nothing but lead to a node of the bot's flow; what the
        model is told of it."""
        told = {"status": "acknowledged"}
        call = ToolCall(
            uuid4(),
            name,
            {},
            datetime.now(UTC),
            ToolOutcome.OK,
            0.0,
            result=told,
            transition_to=node,
        )
        self._recorder.record_tool_call(self._thread_id, call)
        self._log.info("node_entered", node=node, function=name)
        return told

    async def close(self, within_secs: float = LAST_SECS) -> None:
        """The call is over: wait for what is under way, put its outcome on record, and close."""
        self._is_closed = True
        if self._running:
            await asyncio.wait(self._running, timeout=within_secs)
        for task in [*self._running]:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=1.0)
        if self._close is not None:
            try:
                await self._close()
            except Exception:  # the bill of the call is still to be settled
                self._log.exception("tools_not_closed")

    async def _handle(self, params: FunctionCallParams) -> None:
        """Do what a model asks for, and tell it what came of it."""
        answer = await self.use(params.function_name, params.arguments)
        properties = None if answer.is_replied_to else FunctionCallResultProperties(run_llm=False)
        await params.result_callback(dict(answer.told), properties=properties)

    async def _use(
        self,
        name: str,
        use: ToolUse,
        destination: Callable[[Mapping[str, Any]], str | None],
    ) -> ToolAnswer:
        """Use a tool once, and put on record that it starts, and what came of it."""
        call = ToolCall(use.id, name, use.arguments, datetime.now(UTC))
        began, tool = self._now(), self._tools[name]
        answer = await self._unfit(tool, use)
        if answer is None:
            self._recorder.record_tool_call(self._thread_id, call)
            try:
                answer = await self._answer(tool, use)
            except asyncio.CancelledError:
                answer = failed("the call was over", ToolOutcome.CANCELLED)
        answer = replace(answer, told=storable(answer.told))
        seconds = round(self._now() - began, 3)
        over = replace(
            call,
            outcome=answer.outcome,
            seconds=seconds,
            status=answer.status,
            result=answer.told,
            transition_to=destination(answer.told),
        )
        self._recorder.record_tool_call(self._thread_id, over)
        self._log.info(
            "tool_used",
            tool=name,
            outcome=answer.outcome.value,
            seconds=seconds,
            tool_call=str(use.id),
        )
        return answer

    async def _unfit(self, tool: BotTool, use: ToolUse) -> ToolAnswer | None:
        """What the model is told of arguments that do not fit the tool: nothing is sent then."""
        if isinstance(use.arguments, NoArguments):
            why = "the arguments are no JSON object, or hold what JSON cannot"
            return failed(why, ToolOutcome.INVALID_ARGUMENTS)
        try:
            problems = await self._check(use.arguments, tool.parameters)
        except FlowError:
            return failed("the arguments could not be checked just now", ToolOutcome.REFUSED)
        if not problems:
            return None
        return failed("; ".join(problems), ToolOutcome.INVALID_ARGUMENTS)

    async def _answer(self, tool: BotTool, use: ToolUse) -> ToolAnswer:
        try:
            async with asyncio.timeout(tool.timeout_secs):
                return await tool.use(use)
        except TimeoutError:
            why = f"no answer within {tool.timeout_secs:g} s; whether it was done is not known"
            return failed(why, ToolOutcome.TIMEOUT)
        except Exception as error:
            # Its message may quote what the tool was told.
            self._log.warning("tool_failed", tool=tool.name, error_type=type(error).__name__)
            return failed("the tool failed")

    async def _tell_to_wait(self, tool: BotTool, use_id: UUID) -> None:
        """Say "one moment" into a silence, once for all that is under way by then."""
        sentence = tool.say_while_waiting
        if sentence is None:
            sentence = waiting_sentence(self._language)
        if not sentence:
            return
        await self.voice.silence(WAITING_SECS)
        if use_id not in self._told_to_wait and not self._is_closed:
            self._told_to_wait |= {*self._running.values()}
            await self.voice.say(sentence)

    def _forget(self, task: asyncio.Task[ToolAnswer]) -> None:
        self._told_to_wait.discard(self._running.pop(task))
