"""The contract of tools: whatever happens while a bot uses one, on every vendor's models, it has
its effect once, the model is told of it once, and what that cost is in the ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    FunctionCallInProgressFrame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    TTSSpeakFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from flow.bot.pipeline import context_of, spoken_by_voice
from flow.bot.services import CallServices
from flow.bot.tools import call_tools
from flow.bot.tools.call_actions import EndCall, SendDtmf, TransferCall
from flow.bot.tools.call_tools import CallTools
from flow.bot.tools.http_tool import HttpTool
from flow.bot.tools.mcp_tools import McpServer
from flow.bot.tools.tool import BotTool, ToolFailed
from flow.bot.tools.voice import HANG_UP, ToolVoice
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.tools import HttpTool as Described
from flow.domain.calls.tools import McpTool, TransferCallTool
from flow.domain.usage.events import Outcome, UsageEvent
from flow.domain.usage.token_estimates import warm_up
from flow.insights.schema_checker import Checker
from flow.sandbox.bill import Bill
from flow.sandbox.faults import Fault
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.server import Served
from flow.sandbox.tools import Tool, ToolServer
from flow.vendors.public_http import PublicTransport
from flow.vendors.tool_client import ToolClient
from flow.vendors.webhook_signing import new_secret
from tests.contract.case import OWNER
from tests.contract.service_run import PATIENCE_SECS, ServiceRun, running
from tests.contract.vendors import REALTIME_ROWS, ROWS, Row, assert_conserved
from tests.notebook import Notebook

SECRET = new_secret()
THREAD = OWNER.workflow_thread_id
ASKED = "When is my table booked?"
ANSWER = "Your table is booked for six."
FILLER = "One moment, please."
PARAMETERS = {
    "type": "object",
    "properties": {"name": {"type": "string", "description": "The caller's."}},
    "required": ["name"],
}
BOOKED = {"time": "18:00"}
MODELS = [row for row in ROWS if row.part is BotPart.LLM]
CHAT = MODELS[0]

every_model = pytest.mark.parametrize(
    "row", [*MODELS, *REALTIME_ROWS], ids=lambda row: row.name
)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


def asks(*calls: ToolCall, then: str = ANSWER, first: str = "") -> Callable[[Any], Reply]:
    """A model that calls these tools, and has its answer when it has been told of a result."""

    def reply(messages: Sequence[Mapping[str, Any]]) -> Reply:
        told = [m for m in messages if m.get("role") in ("tool", "developer", "assistant")]
        asked = any(m.get("tool_calls") or m.get("role") == "tool" for m in told)
        return Reply(then) if asked else Reply(first, calls)

    return reply


FIND = ToolCall("find_booking", json.dumps({"name": "Ada"}))


class Spoken(FrameProcessor):
    """Stands after the model: what it said, what contexts it was asked about, who is told."""

    def __init__(self) -> None:
        super().__init__(name="spoken")
        self.text = ""
        self.said: list[str] = []
        self.started: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame | TTSTextFrame) and direction is FrameDirection.DOWNSTREAM:
            self.text += frame.text
        elif isinstance(frame, TTSSpeakFrame):
            self.said.append(frame.text)
        elif isinstance(frame, FunctionCallInProgressFrame):
            self.started.append(frame.tool_call_id)
        await self.push_frame(frame, direction)


class Asked(FrameProcessor):
    """Stands before the model, and counts what it is asked from below, that is after tools."""

    def __init__(self) -> None:
        super().__init__(name="asked")

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


@dataclass
class Bot:
    """A bot with tools, under way."""

    run: ServiceRun
    server: ToolServer
    tools: CallTools
    context: LLMContext
    spoken: Spoken
    notebook: Notebook
    hung_up: list[str] = field(default_factory=list)

    async def ask(self, text: str = ASKED) -> None:
        """The caller says something, and the model is to answer."""
        message: Any = {"role": "user", "content": text}
        await self.run.send(LLMMessagesAppendFrame([message], run_llm=True))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            while not condition():
                await asyncio.sleep(0.01)

    async def answers(self) -> None:
        await self.until(lambda: self.spoken.text.replace(" ", "").endswith(ANSWER.replace(" ", "")))

    @property
    def outcomes(self) -> list[str]:
        """Of the uses of tools that are on record, the last of each."""
        return [*{call.id: call.outcome.value for call in self.notebook.tool_calls}.values()]

    @property
    def results_in_context(self) -> int:
        """How often the context has what the tool answered."""
        return json.dumps(self.context.get_messages()).count("18:00")


def tool_at(url: str, **given: Any) -> BotTool:
    described = Described.model_validate(
        {
            "type": "http",
            "name": "find_booking",
            "description": "Finds a booking.",
            "parameters": PARAMETERS,
            "url": f"{url}/tools/find_booking",
            **given,
        }
    )

    async def secrets() -> Sequence[str]:
        return [SECRET]

    assert THREAD is not None
    client = ToolClient(PublicTransport(allow_private=True))
    return HttpTool(described, client, THREAD, {"product": "voice_bot"}, secrets)


Tools = Callable[[str, ToolVoice], Sequence[BotTool]]


def by_http(url: str, _: ToolVoice) -> Sequence[BotTool]:
    return [tool_at(url)]


@asynccontextmanager
async def bot(
    row: Row,
    script: Any,
    *faults: Fault,
    tools: Tools = by_http,
    vendor_faults: Sequence[Fault] = (),
    answer: Callable[[Mapping[str, Any]], Any] = lambda _: BOOKED,
) -> AsyncIterator[tuple[Bot, Bill]]:
    """A bot of this row's model with tools. When the block is left the call is over."""
    server = ToolServer({"find_booking": Tool(answer, parameters=PARAMETERS)}, SECRET)
    server.faults.add(*faults)
    notebook = Notebook()
    async with Served(server) as url, row.serve(script=script) as vendor:
        vendor.faults.add(*vendor_faults)
        services = CallServices(OWNER, notebook, {row.vendor: vendor.endpoint})
        voice, spoken = ToolVoice(spoken_by_voice, name="tool_voice"), Spoken()
        assert THREAD is not None
        made = CallTools(
            THREAD, tools(url, voice), voice, notebook, Checker().problems
        )
        is_realtime = row.part is BotPart.REALTIME
        context = context_of([], () if is_realtime else made.schemas)
        pair = LLMContextAggregatorPair(context)
        around: Any = {"before": [pair.user(), voice], "after": [spoken, pair.assistant()]}
        async with running(services, row.part, row.choice, **around, tools=made) as run:
            one = Bot(run, server, made, context, spoken, notebook)

            async def hung_up(_: Any, words: str) -> None:
                one.hung_up.append(words)

            voice.add_event_handler(HANG_UP, hung_up)
            yield one, vendor.bill
        await made.close(0.5)
        async with asyncio.timeout(PATIENCE_SECS):
            await vendor.bill.settled()
    assert notebook.open == set()


def generations(one: Bot) -> list[UsageEvent]:
    return [event for event in one.notebook.events if event.quantities]


@every_model
async def test_a_tool_is_used_and_its_answer_spoken_of(row: Row) -> None:
    async with bot(row, asks(FIND)) as (one, bill):
        await one.ask()
        await one.answers()
    (use,) = one.server.uses
    assert use.arguments == {"name": "Ada"}
    assert use.told["workflow_thread_id"] == str(THREAD)
    assert one.outcomes == ["ok"]
    started, ended = one.notebook.tool_calls
    assert (started.outcome, started.arguments) == ("running", {"name": "Ada"})
    assert (ended.result, ended.status) == ({"result": BOOKED}, 200)
    assert use.id == str(started.id) == str(ended.id)
    assert one.results_in_context == 1
    # One generation for the call, one for the answer, and both are in the ledger.
    assert len(bill.lines) == len(generations(one)) == 2
    assert_conserved(one.notebook.events, bill)
