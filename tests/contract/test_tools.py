"""The contract of tools: whatever happens while a bot uses one, on every vendor's models, it has
its effect once, the model is told of it once, and what that cost is in the ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from starlette.responses import Response, StreamingResponse

from flow.bot.pipeline import context_of, spoken_by_voice
from flow.bot.services import CallServices
from flow.bot.tools import call_tools
from flow.bot.tools.call_actions import EndCall, SendDtmf, TransferCall
from flow.bot.tools.call_tools import CallTools
from flow.bot.tools.http_tool import HttpTool
from flow.bot.tools.tool import BotTool, ToolFailed
from flow.bot.tools.voice import BOT_HANGS_UP, ToolVoice
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.tools import HttpTool as Described
from flow.domain.calls.tools import TransferCallTool
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
ANTHROPIC = next(row for row in MODELS if row.vendor == "anthropic")

every_model = pytest.mark.parametrize("row", [*MODELS, *REALTIME_ROWS], ids=lambda row: row.name)


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
    """Stands after the model: what it was asked to say by others, and how often it has begun."""

    def __init__(self) -> None:
        super().__init__(name="spoken")
        self.texts = 0
        self.said: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.texts += isinstance(frame, LLMTextFrame)
        if isinstance(frame, TTSSpeakFrame):
            self.said.append(frame.text)
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
        """Wait until the model has said its answer, and nothing after that."""
        await self.until(lambda: (self.last.get("content") or "").endswith(ANSWER))

    @property
    def last(self) -> Any:
        """The last message of the conversation."""
        return self.context.get_messages()[-1] if self.context.get_messages() else {}

    @property
    def outcomes(self) -> list[str]:
        """Of the uses of tools that are on record, the last of each."""
        return [*{call.id: call.outcome.value for call in self.notebook.tool_calls}.values()]

    @property
    def results_in_context(self) -> int:
        """How often the context has what the tool answered."""
        return json.dumps(self.context.get_messages()).count("18:00")


def tool_at(url: str, network: PublicTransport | None = None, **given: Any) -> BotTool:
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
    client = ToolClient(network or PublicTransport(allow_private=True))
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
        made = CallTools(THREAD, tools(url, voice), voice, notebook, Checker().problems)
        is_realtime = row.part is BotPart.REALTIME
        context = context_of([], () if is_realtime else made.schemas)
        pair = LLMContextAggregatorPair(context)
        around: Any = {"before": [pair.user(), voice], "after": [spoken, pair.assistant()]}
        async with running(services, row.part, row.choice, **around, tools=made) as run:
            one = Bot(run, server, made, context, spoken, notebook)

            async def hung_up(_: Any, words: str, _after_reply: bool) -> None:
                one.hung_up.append(words)

            voice.add_event_handler(BOT_HANGS_UP, hung_up)
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


INTERRUPTED = "Wait a moment."
BOTH = asks(FIND, ToolCall("find_booking", json.dumps({"name": "Bob"})))


async def until_sending(one: Bot) -> None:
    """The model is in the middle of what it calls the tool with: nothing is sent."""
    await asyncio.sleep(0.2)


async def until_running(one: Bot) -> None:
    """The tool has got the request, and has not answered."""
    await one.until(lambda: one.server.uses)


async def until_spoken_of(one: Bot) -> None:
    """The model speaks of the answer."""
    await one.until(lambda: one.spoken.texts > 1)


async def _slowly(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(0.3)


def slow_answer(_: Mapping[str, Any]) -> Any:
    return StreamingResponse(
        _slowly([b'{"time": ', b'"18:00"', b"}"]), media_type="application/json"
    )


SLOW_MODEL = Fault(kind="slow_tokens", delay_secs=0.05)
INSTANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "before it is sent": (until_sending, {"vendor_faults": [SLOW_MODEL]}),
    "while it runs, and is answered late": (until_running, {"answer": slow_answer}),
    "while its answer is read": (until_running, {"answer": slow_answer, "wait": 0.4}),
    "while the model speaks of it": (until_spoken_of, {"vendor_faults": [SLOW_MODEL]}),
}


@pytest.mark.parametrize("row", [CHAT, ANTHROPIC], ids=lambda row: row.name)
@pytest.mark.parametrize("instant", INSTANTS)
async def test_an_interruption_neither_loses_nor_doubles_a_tools_effect(
    row: Row, instant: str
) -> None:
    moment, given = INSTANTS[instant]
    wait = given.get("wait", 0.0)
    options = {name: value for name, value in given.items() if name != "wait"}
    async with bot(row, asks(FIND), **options) as (one, bill):
        await one.ask()
        await moment(one)
        await asyncio.sleep(wait)
        await one.run.interrupt()
        await one.ask(INTERRUPTED)
        await one.until(lambda: one.results_in_context)
        await one.answers()
        await asyncio.sleep(0.2)
    assert len(one.server.uses) == len(one.server.effects) == 1
    assert (one.outcomes, one.results_in_context) == (["ok"], 1)
    cut_off = [event for event in one.notebook.events if event.outcome is Outcome.INTERRUPTED]
    is_model_cut_off = "vendor_faults" in given
    assert bool(cut_off) is is_model_cut_off
    assert_conserved(one.notebook.events, bill)


async def test_arguments_that_were_cut_off_are_counted() -> None:
    """They are output like any other, which no report tells of."""
    long = ToolCall("find_booking", json.dumps({"name": "a name of many words " * 20}))
    async with bot(CHAT, asks(long), vendor_faults=[SLOW_MODEL]) as (one, bill):
        await one.ask()
        await asyncio.sleep(1.0)
        await one.run.interrupt()
        await one.until(lambda: one.notebook.events)
    (event,) = one.notebook.events
    assert event.outcome is Outcome.INTERRUPTED
    assert event.quantities["output_tokens"] > 5
    assert (one.server.uses, one.outcomes) == ([], [])
    assert_conserved([event], bill)


FAILURES: dict[str, tuple[Any, list[Fault], str, str]] = {
    "slow": (None, [Fault(kind="hang")], "timeout", "no answer within 1 s"),
    "wrong": (None, [Fault(kind="status", status=500)], "failed", "HTTP 500"),
    "broken": (None, [Fault(kind="malformed")], "failed", "not JSON"),
    "half-closed": (None, [Fault(kind="cut", chunks=1)], "failed", "broke off"),
    "stalled": (None, [Fault(kind="stall", chunks=1)], "timeout", "no answer"),
    "huge": (lambda _: "x" * 100_000, [], "failed", "more than 65536 bytes"),
    "redirecting": (
        lambda _: Response(status_code=307, headers={"location": "http://10.0.0.1/"}),
        [],
        "failed",
        "redirect",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_tool_that_fails_is_told_as_such_and_the_bot_says_so(name: str) -> None:
    answer, faults, outcome, why = FAILURES[name]
    sorry = "I could not look it up."
    given = {} if answer is None else {"answer": answer}

    def impatient(url: str, _: ToolVoice) -> Sequence[BotTool]:
        return [tool_at(url, timeout_secs=1.0)]

    async with bot(CHAT, asks(FIND, then=sorry), *faults, tools=impatient, **given) as (one, bill):
        await one.ask()
        await one.until(lambda: one.last.get("content") == sorry)
    assert one.outcomes == [outcome]
    result = one.notebook.tool_calls[-1].result
    assert result is not None
    assert (result["error"], why in result["message"]) == (outcome, True)
    assert why in json.dumps(one.context.get_messages())
    assert_conserved(one.notebook.events, bill)


async def test_a_private_address_is_not_reached_and_that_is_told() -> None:
    def private(url: str, _: ToolVoice) -> Sequence[BotTool]:
        return [tool_at(url, network=PublicTransport())]

    async with bot(CHAT, asks(FIND), tools=private) as (one, _):
        await one.ask()
        await one.answers()
    assert (one.server.uses, one.outcomes) == ([], ["refused"])


@pytest.mark.parametrize("arguments", ["{}", '{"name": 5}', ""])
async def test_arguments_that_do_not_fit_are_told_and_not_sent(arguments: str) -> None:
    async with bot(CHAT, asks(ToolCall("find_booking", arguments))) as (one, _):
        await one.ask()
        await one.answers()
    assert (one.server.uses, one.outcomes) == ([], ["invalid_arguments"])
    assert "name" in json.dumps(one.notebook.tool_calls[-1].result)


CUT, HALF, NUMBER = '{"name": "Ad', r'{"name": "A\ud83d"}', '{"name": "A", "n": 1e999}'
READS_JSON = [row for row in [*MODELS, *REALTIME_ROWS] if not row.protocol_of]
NO_ARGUMENTS = [
    *((row, CUT) for row in READS_JSON if row.vendor != "google"),  # whose are no text
    *((CHAT, text) for text in (HALF, NUMBER, "[1]")),
]


def optional(url: str, _: ToolVoice) -> Sequence[BotTool]:
    """A tool that would be used without any arguments."""
    return [tool_at(url, parameters={"type": "object", "properties": PARAMETERS["properties"]})]


@pytest.mark.parametrize(("row", "arguments"), NO_ARGUMENTS, ids=lambda one: str(one)[:30])
async def test_what_is_no_json_is_told_and_not_sent_and_the_bot_goes_on(
    row: Row, arguments: str
) -> None:
    async with bot(row, asks(ToolCall("find_booking", arguments)), tools=optional) as (one, _):
        await one.ask()
        await one.answers()
    assert (one.server.uses, one.outcomes) == ([], ["invalid_arguments"])


async def test_half_a_character_in_an_answer_silences_no_bot() -> None:
    """As a server has it that cuts a text off within an emoji."""
    half = Response(r'{"time": "18:00 \ud83d"}', media_type="application/json")
    async with bot(CHAT, asks(FIND), answer=lambda _: half) as (one, _):
        await one.ask()
        await one.answers()
    assert (one.outcomes, one.results_in_context) == (["ok"], 1)


async def test_tools_that_are_called_together_are_told_together() -> None:
    async with bot(CHAT, BOTH) as (one, bill):
        await one.ask()
        await one.answers()
    assert sorted(use.arguments["name"] for use in one.server.uses) == ["Ada", "Bob"]
    assert (len(bill.lines), one.results_in_context) == (2, 2)


async def test_anthropics_models_are_told_to_use_one_tool_at_a_time() -> None:
    """Of two, Pipecat would run the second and drop the first."""
    async with bot(ANTHROPIC, BOTH) as (one, _):
        await one.ask()
        await one.answers()
    assert [use.arguments["name"] for use in one.server.uses] == ["Ada"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, [FILLER]),
        ({"say_while_waiting": "Hold on."}, ["Hold on."]),
        ({"say_while_waiting": ""}, []),
    ],
)
async def test_a_slow_tool_is_spoken_over_once(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: list[str]
) -> None:
    monkeypatch.setattr(call_tools, "WAITING_SECS", 0.1)

    def talking(url: str, _: ToolVoice) -> Sequence[BotTool]:
        return [tool_at(url, **given)]

    async with bot(CHAT, BOTH, Fault(kind="delay", delay_secs=0.6), tools=talking) as (one, _):
        await one.ask()
        await one.answers()
    assert one.spoken.said == said


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (BotStartedSpeakingFrame, BotStoppedSpeakingFrame),
        (UserStartedSpeakingFrame, UserStoppedSpeakingFrame),
    ],
)
async def test_nobody_is_talked_over(
    monkeypatch: pytest.MonkeyPatch, begin: type[Frame], end: type[Frame]
) -> None:
    monkeypatch.setattr(call_tools, "WAITING_SECS", 0.1)
    async with bot(CHAT, asks(FIND), Fault(kind="delay", delay_secs=2.0)) as (one, _):
        await one.ask()
        await until_asked(one)
        await one.run.send(begin())
        await asyncio.sleep(0.5)
        assert one.spoken.said == []
        await one.run.send(end())
        await one.until(lambda: one.spoken.said)
        await one.answers()
    assert one.spoken.said == [FILLER]


async def until_asked(one: Bot) -> None:
    """A use of the tool has begun."""
    await one.until(lambda: one.notebook.tool_calls)


@pytest.mark.parametrize(("delay", "outcome"), [(0.3, "ok"), (5.0, "cancelled")])
async def test_a_tool_that_runs_when_the_caller_hangs_up_is_waited_for_within_bounds(
    delay: float, outcome: str
) -> None:
    async with bot(CHAT, asks(FIND), Fault(kind="delay", delay_secs=delay)) as (one, bill):
        await one.ask()
        await until_asked(one)
        await one.run.hang_up()
    assert one.outcomes == [outcome]
    assert (len(one.server.effects), len(bill.lines)) == (outcome == "ok", 1)


@pytest.mark.parametrize("farewell", ["Goodbye, Ada!", ""])
async def test_a_bot_hangs_up_with_its_last_words_and_is_asked_no_more(farewell: str) -> None:
    call = ToolCall("end_call", json.dumps({"farewell": farewell}))

    def ending(_: str, voice: ToolVoice) -> Sequence[BotTool]:
        return [EndCall(voice)]

    async with bot(CHAT, asks(call), tools=ending) as (one, bill):
        await one.ask()
        await one.until(lambda: one.hung_up)
        await one.until(lambda: one.outcomes == ["ok"])
        await asyncio.sleep(0.1)
    assert (one.hung_up, len(bill.lines)) == ([farewell], 1)


class Line:
    """A telephone line that does, or does not do, what it is told."""

    def __init__(self, problem: str | None = None) -> None:
        self._problem = problem
        self.done: list[str] = []

    async def transfer(self, number: str, announcement: str | None) -> None:
        self._do(number)

    async def send_dtmf(self, digits: str) -> None:
        self._do(digits)

    def _do(self, what: str) -> None:
        if self._problem:
            raise ToolFailed(self._problem)
        self.done.append(what)


@pytest.mark.parametrize(
    ("name", "arguments", "problem", "done", "outcome"),
    [
        ("transfer_call", {"target": "sales"}, None, ["+493012345"], "ok"),
        ("transfer_call", {"target": "sales"}, "nobody answers", [], "failed"),
        ("transfer_call", {"target": "+4912345678"}, None, [], "invalid_arguments"),
        ("send_dtmf", {"digits": "1w2#"}, None, ["1w2#"], "ok"),
        ("send_dtmf", {"digits": "call me"}, None, [], "invalid_arguments"),
        ("send_dtmf", {"digits": "1"}, "the line is gone", [], "failed"),
    ],
)
async def test_a_call_is_transferred_and_keys_are_pressed_where_the_line_can(
    name: str, arguments: dict[str, str], problem: str | None, done: list[str], outcome: str
) -> None:
    line = Line(problem)
    targets = TransferCallTool(type="transfer_call", targets={"sales": "+493012345"})

    def controls(_: str, voice: ToolVoice) -> Sequence[BotTool]:
        return [TransferCall(targets, line, voice), SendDtmf(line)]

    call = ToolCall(name, json.dumps(arguments))
    async with bot(CHAT, asks(call), tools=controls) as (one, _):
        await one.ask()
        await one.until(lambda: one.outcomes == [outcome])
    assert line.done == done
    if problem:
        assert problem in json.dumps(one.notebook.tool_calls[-1].result)
