"""The contract of flows: on every vendor's models a call goes from node to node as its flow says,
whatever happens meanwhile, and what that cost is in the ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair

from flow.bot.flows.call_flow import CallFlow, remembered
from flow.bot.pipeline import context_of, spoken_by_voice
from flow.bot.services import CallServices
from flow.bot.tools.call_tools import CallTools
from flow.bot.tools.voice import BOT_HANGS_UP, ToolVoice
from flow.domain.calls.conversation_flow import ConversationFlow
from flow.domain.calls.room_call import BACK
from flow.domain.calls.thread import Turn
from flow.domain.calls.tool_call import ToolCall as Used
from flow.domain.calls.tool_call import ToolOutcome
from flow.domain.usage.token_estimates import warm_up
from flow.insights.schema_checker import Checker
from flow.sandbox.bill import Bill
from flow.sandbox.faults import Fault
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.server import Served
from flow.sandbox.tools import Tool, ToolServer
from tests.contract.case import OWNER
from tests.contract.service_run import running
from tests.contract.test_tools import (
    ANTHROPIC,
    CHAT,
    MODELS,
    PARAMETERS,
    SECRET,
    THREAD,
    Bot,
    Spoken,
    generations,
    tool_at,
)
from tests.contract.vendors import Row, assert_conserved
from tests.notebook import Notebook

FIND = ToolCall("find_booking", json.dumps({"name": "Ada"}))
FLOW = ConversationFlow.model_validate(
    {
        "initial_node": "find",
        "nodes": {
            "find": {
                "task_messages": [{"role": "developer", "content": "Find the booking."}],
                "functions": [
                    {
                        "name": "find_booking",
                        "transition_to": {
                            "field": "found",
                            "cases": {"true": "tell", "false": "find"},
                        },
                    }
                ],
            },
            "tell": {
                "role_message": "You are Eve.",
                "context_strategy": "reset",
                "task_messages": [{"role": "system", "content": "It is at {{find_booking.time}}."}],
                "pre_actions": [{"type": "tts_say", "text": "Found at {{find_booking.time}}."}],
                "functions": [
                    {
                        "name": "is_done",
                        "transition_only": True,
                        "description": "All is said.",
                        "transition_to": "end",
                    }
                ],
            },
            "end": {
                "task_messages": [],
                "post_actions": [{"type": "end_conversation", "text": "Goodbye!"}],
            },
        },
    }
)
HELLO, THERE, LAST = "Whose booking is it?", "It is at six.", "Have a good evening."


class Model:
    """Says something when it is given a task, and calls a function when the caller has spoken."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
        told = json.dumps([*messages], default=str)
        self.asked.append(told)
        is_result = messages[-1]["role"] == "tool"  # all that some stand-ins say of it
        if "acknowledged" in told or ("It is at" in told and is_result):
            return Reply(LAST)
        if "It is at" in told:
            return Reply(tool_calls=(ToolCall("is_done"),)) if "Thanks" in told else Reply(THERE)
        if "Ada" in told:
            return Reply("Let me see.") if "find_booking" in told else Reply(tool_calls=(FIND,))
        return Reply(HELLO)


@asynccontextmanager
async def bot(
    row: Row,
    model: Model,
    *faults: Fault,
    vendor_faults: Sequence[Fault] = (),
    said: Sequence[Turn] = (),
    used: Sequence[Used] = (),
    owes_reply: bool = False,
) -> AsyncIterator[tuple[Bot, CallFlow, Bill]]:
    """A bot of this row's model with the flow, whose beginning is left to the test."""
    answer = {"found": True, "time": "18:00"}
    server = ToolServer({"find_booking": Tool(lambda _: answer, parameters=PARAMETERS)}, SECRET)
    server.faults.add(*faults)
    notebook = Notebook()
    async with Served(server) as url, row.serve(script=model) as vendor:
        vendor.faults.add(*vendor_faults)
        services = CallServices(OWNER, notebook, {row.vendor: vendor.endpoint})
        voice, spoken = ToolVoice(spoken_by_voice, name="tool_voice"), Spoken()
        assert THREAD is not None
        tools = CallTools(THREAD, [tool_at(url)], voice, notebook, Checker().problems)
        context = context_of(remembered(FLOW, said, used))
        pair = LLMContextAggregatorPair(context)
        around: Any = {"before": [pair.user(), voice], "after": [spoken, pair.assistant()]}
        async with running(services, row.part, row.choice, **around) as run:
            service: Any = run.service
            flow = CallFlow(
                FLOW, tools, run.worker, pair, service, said, used, owes_reply=owes_reply
            )
            one = Bot(run, server, tools, context, spoken, notebook)

            async def hung_up(_: Any, words: str, _after_reply: bool) -> None:
                one.hung_up.append(words)

            voice.add_event_handler(BOT_HANGS_UP, hung_up)
            yield one, flow, vendor.bill
        await tools.close(0.5)
        await vendor.bill.settled()
    assert notebook.open == set()


def tools_of(one: Bot) -> Sequence[Any]:
    """What the model may call."""
    tools: Any = one.context.tools
    standard: Sequence[Any] = tools.standard_tools
    return standard


def moves(one: Bot) -> list[tuple[str, str | None]]:
    """Where the functions that are over have led."""
    over = [call for call in one.notebook.tool_calls if call.outcome is not ToolOutcome.RUNNING]
    return [(call.name, call.transition_to) for call in over]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
async def test_a_call_goes_from_node_to_node(row: Row) -> None:
    model = Model()
    async with bot(row, model) as (one, flow, bill):
        await flow.begin()
        await one.until(lambda: one.last.get("content") == HELLO)
        await one.ask("It is Ada's.")
        await one.until(lambda: one.last.get("content") == THERE)
        assert one.spoken.said == ["Found at 18:00."]
        await one.ask("Thanks.")
        await one.until(lambda: one.hung_up)
        await one.until(lambda: one.last.get("content") == LAST)
    assert one.hung_up == ["Goodbye!"]
    assert moves(one) == [("find_booking", "tell"), ("is_done", "end")]
    assert len(one.server.uses) == 1
    first, _, reset, *_ = model.asked
    assert "Find the booking" in first
    assert "Ada" not in reset  # forgotten
    assert "You are Eve." in reset
    assert "It is at 18:00." in reset
    assert len(bill.lines) == len(generations(one)) == len(model.asked) == 5
    assert_conserved(one.notebook.events, bill)


SLOWLY = Fault(kind="delay", delay_secs=0.5)


@pytest.mark.parametrize("row", [CHAT, ANTHROPIC], ids=lambda row: row.name)
async def test_an_interruption_while_a_tool_runs_changes_no_transition(row: Row) -> None:
    async with bot(row, Model(), SLOWLY) as (one, flow, bill):
        await flow.begin()
        await one.until(lambda: one.last.get("content") == HELLO)
        await one.ask("It is Ada's.")
        await one.until(lambda: one.server.uses)
        await one.run.interrupt()
        await one.ask("Are you there, for Ada?")
        await one.until(lambda: one.last.get("content") == THERE)
    assert len(one.server.effects) == 1
    assert moves(one) == [("find_booking", "tell")]
    assert_conserved(one.notebook.events, bill)


async def test_an_interruption_while_a_node_is_entered_keeps_the_call_in_it() -> None:
    model = Model()
    async with bot(CHAT, model) as (one, flow, bill):
        await flow.begin("Hello!")
        await one.ask("It is Ada's.")
        await one.until(lambda: moves(one))
        await one.run.interrupt()
        await one.ask("And when is it?")
        await one.until(lambda: "It is at 18:00." in model.asked[-1])
        await one.ask("Thanks.")
        await one.until(lambda: one.hung_up)
    assert moves(one) == [("find_booking", "tell"), ("is_done", "end")]
    assert_conserved(one.notebook.events, bill)


async def test_a_tool_that_fails_leads_nowhere_and_the_model_is_told() -> None:
    async with bot(CHAT, Model(), Fault(kind="status", status=500, times=9)) as (one, flow, _):
        await flow.begin()
        await one.until(lambda: one.last.get("content") == HELLO)
        await one.ask("It is Ada's.")
        await one.until(lambda: one.last.get("content") == "Let me see.")
    assert moves(one) == [("find_booking", None)]
    assert one.outcomes == ["failed"]


CUT = ToolCall("find_booking", '{"name": "Ad')


async def test_arguments_that_could_not_be_read_are_told_and_not_sent() -> None:
    class Broken(Model):
        def __call__(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
            said = super().__call__(messages)
            return replace(
                said, tool_calls=(ToolCall("find_booking", '{"name": "Ad'),) * len(said.tool_calls)
            )

    async with bot(CHAT, Broken()) as (one, flow, _):
        await flow.begin()
        await one.until(lambda: one.last.get("content") == HELLO)
        await one.ask("It is Ada's.")
        await one.until(lambda: one.last.get("content") == "Let me see.")
    assert (one.server.uses, one.outcomes) == ([], ["invalid_arguments"])
    assert "no JSON" in str(one.notebook.tool_calls[-1].result)


T0 = datetime(2026, 11, 30, 18, 0, tzinfo=UTC)
FOUND = Used(
    UUID(int=1),
    "find_booking",
    {"name": "Ada"},
    T0 + timedelta(seconds=2),
    ToolOutcome.OK,
    0.5,
    200,
    {"result": {"found": True, "time": "19:00"}},
    "tell",
)
SAID = [Turn(0, "user", "It is Ada's.", T0)]
TOLD = Turn(1, "assistant", "At seven.", T0 + timedelta(seconds=4))


async def test_another_process_goes_on_at_the_node_without_saying_its_sentence_again() -> None:
    model = Model()
    async with bot(CHAT, model, said=[*SAID, TOLD], used=[FOUND]) as (one, flow, _):
        await flow.begin(BACK)
        await one.until(lambda: BACK in one.spoken.said)
        assert model.asked == []
        await one.ask("Thanks.")
        await one.until(lambda: one.hung_up)
    told = model.asked[0]
    assert one.spoken.said == [BACK]
    assert "Ada" not in told
    for known in ("At seven.", "It is at 19:00.", "You are Eve."):
        assert known in told


async def test_another_process_replies_to_what_a_tool_has_done() -> None:
    model = Model()
    async with bot(CHAT, model, said=SAID, used=[FOUND], owes_reply=True) as (one, flow, _):
        await flow.begin()
        await one.until(lambda: one.last.get("content") == THERE)
    assert "It is at 19:00." in model.asked[0]
    assert one.server.uses == []


async def test_a_call_that_was_to_end_ends_in_another_process() -> None:
    ended = replace(FOUND, id=UUID(int=2), name="is_done", transition_to="end")
    async with bot(CHAT, Model(), said=SAID, used=[FOUND, ended], owes_reply=True) as at:
        one, flow, _ = at
        await flow.begin()
        await one.until(lambda: one.hung_up)
    assert one.hung_up == ["Goodbye!"]
    # Its node has no function, where vendors want one beside the calls that were made.
    assert [tool.name for tool in tools_of(one)] == ["nothing"]
