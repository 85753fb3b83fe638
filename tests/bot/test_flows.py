"""A bot's flow at the door, and where a call is in it."""

from __future__ import annotations

import asyncio
import json
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.frames.frames import Frame, InterruptionFrame, TTSSpeakFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pydantic import ValidationError

from flow.bot.flows.call_flow import remembered
from flow.bot.flows.node_text import node_text, plain_text
from flow.bot.flows.sayings import LEAST_SECS, Sayings
from flow.domain.agents.filling import filled_in
from flow.domain.agents.system_variables import CallFacts
from flow.domain.agents.templates import escape, parse_node_text
from flow.domain.calls.conversation_flow import FlowBranch, case_key
from flow.domain.calls.flow_position import answers_of, destination, position_in
from flow.domain.calls.flow_rules import flow_problems
from flow.domain.calls.join_request import Bot, JoinRequest
from flow.domain.calls.thread import Turn
from flow.domain.calls.tool_call import ToolCall, ToolOutcome
from flow.errors import InvalidInput
from tests.bot.running import started

FACTS = CallFacts(UUID(int=1), datetime(2026, 11, 30, 18, 5, tzinfo=UTC))
BOOK = {"type": "http", "name": "book", "description": "Books.", "url": "https://x.example.com/"}
SERVER = {"type": "mcp", "url": "https://mcp.example.com/"}


def said(text: str) -> dict[str, Any]:
    return {"role": "developer", "content": text}


def moves(name: str, to: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "transition_only": True, "description": "D.", "transition_to": to} | more


FLOW: dict[str, Any] = {
    "initial_node": "greet",
    "nodes": {
        "greet": {
            "task_messages": [said("Greet {{name}}.")],
            "functions": [moves("go_on", "collect")],
        },
        "collect": {
            "task_messages": [said("Collect.")],
            "functions": [
                {
                    "name": "book",
                    "transition_to": {
                        "field": "status",
                        "cases": {"ok": "end", "full": "collect"},
                    },
                }
            ],
        },
        "end": {
            "role_message": "You say goodbye.",
            "task_messages": [said("Booked: {{book.time}}.")],
            "pre_actions": [{"type": "tts_say", "text": "Thank you, {{name}}."}],
            "post_actions": [{"type": "end_conversation", "text": "Bye!"}],
            "context_strategy": "reset",
        },
    },
    "global_functions": [{"name": "end_call"}],
}


def bot_of(flow: dict[str, Any], *tools: dict[str, Any]) -> Bot:
    return Bot.model_validate({"flow": flow, "tools": tools or [BOOK, {"type": "end_call"}]})


def test_the_format_is_pipecats() -> None:
    from pipecat.flows import FlowConfig

    schema = json.loads((files("pipecat.flows") / "flow_config.schema.json").read_text())
    flow = bot_of(FLOW).flow
    assert flow is not None
    jsonschema.validate(FLOW, schema)
    dumped = json.loads(flow.model_dump_json(exclude_unset=True))
    jsonschema.validate(dumped, schema)
    assert dumped == FLOW
    FlowConfig.model_validate(dumped)
    assert [*flow_problems(flow, bot_of(FLOW).tools)] == []


@given(st.one_of(st.booleans(), st.integers(), st.text(), st.sampled_from(["True", "FALSE"])))
def test_cases_are_called_as_in_pipecat(value: Any) -> None:
    from pipecat.flows.config import case_key as theirs

    assert case_key(value) == theirs(value)


NODES = "nodes.collect.functions.0"
FORMS: dict[str, tuple[str, Any, str, str]] = {
    "a handler of a function": (f"{NODES}.handler", "mine", f"{NODES}.handler", "code of your own"),
    "an action that is code": (
        "nodes.end.pre_actions.0",
        {"type": "function"},
        "nodes.end.pre_actions.0.type",
        "code of your own",
    ),
    "a handler of an action": (
        "nodes.end.pre_actions.0.handler",
        "mine",
        "nodes.end.pre_actions.0.handler",
        "code of your own",
    ),
    "no sentence": (
        "nodes.end.pre_actions.0",
        {"type": "tts_say"},
        "nodes.end.pre_actions.0",
        "needs a text",
    ),
    "an unknown action": (
        "nodes.end.pre_actions.0.type",
        "notify",
        "nodes.end.pre_actions.0.type",
        "tts_say",
    ),
    "words kept from the conversation": (
        "nodes.end.pre_actions.0.append_text_to_context",
        False,
        "nodes.end.pre_actions.0.append_text_to_context",
        "must be true",
    ),
    "a summary": (
        "nodes.end.context_strategy",
        "reset_with_summary",
        "nodes.end.context_strategy",
        "'append' or 'reset'",
    ),
    "a description of a tool": (f"{NODES}.description", "D.", NODES, "stands in bot.tools"),
    "a transition without a description": (
        "nodes.greet.functions.0.description",
        None,
        "nodes.greet.functions.0",
        "needs a description",
    ),
    "a transition to nowhere": (
        "nodes.greet.functions.0.transition_to",
        None,
        "nodes.greet.functions.0",
        "needs a node",
    ),
    "a target that is no name": (
        f"{NODES}.transition_to",
        7,
        f"{NODES}.transition_to",
        "must be the name of a node",
    ),
    "a branch of nothing": (
        f"{NODES}.transition_to.cases",
        {},
        f"{NODES}.transition_to.branch.cases",
        "at least 1",
    ),
    "no first node": ("initial_node", None, "initial_node", "string"),
    "no nodes": ("nodes", {}, "nodes", "at least 1"),
    "too many nodes": (
        "nodes",
        {f"n{at}": {"task_messages": []} for at in range(51)},
        "nodes",
        "at most 50",
    ),
    "too much": (
        "nodes.end.task_messages",
        [said("x" * 32_768)] * 5,
        "",
        "at most 131072 are kept",
    ),
    "an unknown field": ("nodes.end.tasks", [], "nodes.end.tasks", "not permitted"),
    "a role that no model has": (
        "nodes.end.task_messages.0.role",
        "assistant",
        "nodes.end.task_messages.0.role",
        "'developer'",
    ),
}


def changed(path: str, value: Any) -> dict[str, Any]:
    flow = deepcopy(FLOW)
    *parts, last = path.split(".")
    at: Any = flow
    for part in parts:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[int(last) if isinstance(at, list) else last] = value
    return flow


@pytest.mark.parametrize(("path", "value", "field", "told"), FORMS.values(), ids=FORMS)
def test_what_is_no_flow_by_its_form_is_named(path: str, value: Any, field: str, told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        bot_of(changed(path, value))
    (found,) = raised.value.errors()
    assert ".".join(map(str, found["loc"])) == f"flow.{field}".rstrip(".")
    assert told in found["msg"]


RULES: dict[str, tuple[str, Any, str, str]] = {
    "an unknown first node": ("initial_node", "hello", "initial_node", "no node 'hello'"),
    "an unknown node": (
        "nodes.greet.functions.0.transition_to",
        "nowhere",
        "nodes.greet.functions.0.transition_to",
        "there are greet, collect, end",
    ),
    "an unknown node of a case": (
        f"{NODES}.transition_to.cases.full",
        "nowhere",
        f"{NODES}.transition_to.cases.full",
        "no node 'nowhere'",
    ),
    "an unknown node by default": (
        f"{NODES}.transition_to.default",
        "nowhere",
        f"{NODES}.transition_to.default",
        "no node 'nowhere'",
    ),
    "a node that nothing leads to": (
        "nodes.island",
        {"task_messages": [], "functions": [moves("go_on", "island")]},
        "nodes.island",
        "not reached from 'greet'",
    ),
    "an unknown tool": (
        "global_functions",
        [{"name": "cancel"}],
        "global_functions.0.name",
        "no tool 'cancel' in bot.tools (there: book, end_call)",
    ),
    "a transition that is called as a tool": (
        "nodes.greet.functions.0.name",
        "book",
        "nodes.greet.functions.0.name",
        "the name of a tool",
    ),
    "a name twice": (
        "nodes.greet.functions",
        [moves("go_on", "collect"), moves("go_on", "end")],
        "nodes.greet.functions.1.name",
        "in this node already",
    ),
    "a name that is global": (
        "nodes.greet.functions",
        [moves("go_on", "collect"), {"name": "end_call"}],
        "nodes.greet.functions.1.name",
        "in global_functions already",
    ),
    "a way on after the end": (
        "global_functions.0.transition_to",
        "end",
        "global_functions.0.transition_to",
        "ends the bot's part",
    ),
    "a beginning about nothing": (
        "nodes.greet.task_messages",
        [],
        "nodes.greet.task_messages",
        "must say",
    ),
    "a reset to nothing": (
        "nodes.end.task_messages",
        [],
        "nodes.end.task_messages",
        "must not be empty",
    ),
    "an answer of no tool": (
        "nodes.end.pre_actions.0.text",
        "At {{find.time}}.",
        "nodes.end.pre_actions.0.text",
        "no function of the flow is the tool 'find' (there: book, end_call)",
    ),
}


@pytest.mark.parametrize(("path", "value", "field", "told"), RULES.values(), ids=RULES)
def test_what_cannot_be_run_is_named(path: str, value: Any, field: str, told: str) -> None:
    bot = bot_of(changed(path, value))
    assert bot.flow is not None
    (problem,) = flow_problems(bot.flow, bot.tools)
    assert problem.field == f"bot.flow.{field}"
    assert told in problem.message


def test_the_tools_of_a_server_are_known_to_the_server_unless_they_are_listed() -> None:
    flow = changed("global_functions", [{"name": "search"}])
    for server, problems in ((SERVER, 0), (SERVER | {"allowed": ["search"]}, 0),
                             (SERVER | {"allowed": ["find"]}, 1)):  # fmt: skip
        bot = bot_of(flow, BOOK, server)
        assert bot.flow is not None
        assert len([*flow_problems(bot.flow, bot.tools)]) == problems


def test_variables_are_filled_in_when_a_call_is_joined_and_answers_are_left() -> None:
    flow = changed("nodes.greet.functions.0.description", "{{name}} goes on.")
    join = JoinRequest.model_validate(
        {"bot": {"flow": flow, "tools": [BOOK, {"type": "end_call"}]},
         "variables": {"name": r"\{{book.time}} {{x}}"}}
    )  # fmt: skip
    stored = JoinRequest.from_json(json.loads(json.dumps(filled_in(join, FACTS).to_json())))
    filled = stored.bot.flow
    assert filled is not None
    name = r"\{{book.time}} {{x}}"  # a value is no template, wherever it goes
    answers = {"book": {"time": "18:30"}}
    greet, end = filled.nodes["greet"], filled.nodes["end"]
    assert plain_text(greet.task_messages[0].content, answers) == f"Greet {name}."
    assert greet.functions[0].description == f"{name} goes on."
    assert plain_text(end.task_messages[0].content, answers) == "Booked: 18:30."
    assert plain_text(end.pre_actions[0].text or "", answers) == f"Thank you, {name}."


def test_a_variable_that_is_missing_in_a_node_is_named() -> None:
    with pytest.raises(InvalidInput) as raised:
        filled_in(JoinRequest.model_validate({"bot": {"flow": FLOW}}), FACTS)
    assert [problem.field for problem in raised.value.problems] == [
        "bot.flow.nodes.greet.task_messages.0.content",
        "bot.flow.nodes.end.pre_actions.0.text",
    ]


@given(st.text(alphabet="\\{}a. |"))
def test_any_text_can_be_written_as_a_template(text: str) -> None:
    assert "".join(map(str, parse_node_text(escape(text)))) == text
    if not text.endswith("{"):
        pieces = parse_node_text(escape(text, before_placeholder=True) + "{{a.b}}")
        assert "".join(map(str, pieces)) == text + "{{a.b}}"


@given(st.text(alphabet="\\{} a.b"))
def test_pipecat_takes_a_nodes_text_as_it_is(text: str) -> None:
    from pipecat.flows.manager import _PLACEHOLDER

    told = node_text(escape(text), {})
    rendered = _PLACEHOLDER.sub(lambda found: found[0][1:] if found[1] else "filled in", told)
    assert rendered == text


ANSWERS = {
    "{{t.time}}": "18:30",
    "{{t.slots.1}}": "20:00",
    "{{t.slots.9|none}}": "none",
    "{{t.deep.er.yet}}": "",
    "{{t.deep}}": '{"er": 1}',
    "{{u.time|no}}": "no",
    "{{t.time.x|no}}": "no",
}


@pytest.mark.parametrize(("text", "filled"), ANSWERS.items(), ids=ANSWERS)
def test_a_part_of_an_answer_is_filled_in(text: str, filled: str) -> None:
    answer = {"time": "18:30", "slots": ["19:00", "20:00"], "deep": {"er": 1}}
    assert plain_text(text, {"t": answer}) == filled


OK = {"result": {"status": "full", "sure": True}}
FAILED = {"error": "timeout", "message": "m"}
TRANSITIONS: dict[str, tuple[Any, Any, str | None]] = {
    "none": (None, OK, None),
    "a node": ("a", OK, "a"),
    "a case": ({"field": "status", "cases": {"full": "b"}}, OK, "b"),
    "a boolean": ({"field": "sure", "cases": {"True": "b"}}, OK, "b"),
    "no case": ({"field": "status", "cases": {"ok": "b"}}, OK, None),
    "by default": ({"field": "status", "cases": {"ok": "b"}, "default": "c"}, OK, "c"),
    "no such field": ({"field": "x", "cases": {"ok": "b"}, "default": "c"}, OK, "c"),
    "no object": ({"field": "x", "cases": {"ok": "b"}}, {"result": "yes"}, None),
    "a failure leads nowhere": ("a", FAILED, None),
    "nor by default": ({"field": "status", "cases": {"ok": "b"}, "default": "c"}, FAILED, None),
    "a failure's case": ({"field": "error", "cases": {"timeout": "b"}}, FAILED, "b"),
    "another failure": (
        {"field": "error", "cases": {"failed": "b"}, "default": "c"},
        FAILED,
        None,
    ),
    "no failure": ({"field": "error", "cases": {"failed": "b"}, "default": "c"}, OK, "c"),
}


@pytest.mark.parametrize(("to", "told", "node"), TRANSITIONS.values(), ids=TRANSITIONS)
def test_an_answer_leads_to_a_node(to: Any, told: Any, node: str | None) -> None:
    transition = FlowBranch.model_validate(to) if isinstance(to, dict) else to
    assert destination(transition, told) == node


T0 = datetime(2026, 11, 30, 18, 0, tzinfo=UTC)
MOVED = ToolCall(
    UUID(int=1), "go_on", {}, T0, ToolOutcome.OK, 0.0, None, {"status": "acknowledged"}, "collect"
)
BOOKED = replace(
    MOVED,
    id=UUID(int=2),
    name="book",
    started_at=T0 + timedelta(seconds=9),
    seconds=2.0,
    result={"result": {"status": "ok", "time": "18:30"}},
    transition_to="end",
)
ASKED = replace(BOOKED, id=UUID(int=3), name="find", seconds=9.0, transition_to=None)


def test_where_a_call_is_is_known_by_what_it_used() -> None:
    flow = bot_of(FLOW).flow
    assert flow is not None
    assert position_in(flow, []).node == "greet"
    assert position_in(flow, [MOVED]).entered_by == MOVED
    there = position_in(flow, [ASKED, BOOKED, MOVED])
    assert (there.node, there.role_message) == ("end", "You say goodbye.")
    assert there.since == T0 + timedelta(seconds=11)
    assert answers_of([BOOKED, MOVED])["book"] == {"status": "ok", "time": "18:30"}


def test_what_a_node_has_the_model_forget_is_not_remembered_by_another_process() -> None:
    flow = bot_of(FLOW).flow
    assert flow is not None
    forgetting = flow.nodes["collect"].model_copy(update={"context_strategy": "reset"})
    flow = flow.model_copy(update={"nodes": {**flow.nodes, "collect": forgetting}})
    before, after = (Turn(at, "user", f"{at}", T0 + timedelta(seconds=at)) for at in (-1, 1))
    [kept] = remembered(flow, [before, after], [MOVED])
    assert kept["content"] == "1"


class SlowVoice(FrameProcessor):
    """A voice that never comes to an end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSSpeakFrame):
            self.begun.set()
            await asyncio.sleep(600)
        await self.push_frame(frame, direction)


async def test_what_a_flow_says_is_over_when_an_interruption_takes_it_away() -> None:
    """Pipecat's own ``tts_say`` waits for the rest of the call then."""
    voice = SlowVoice()
    async with started([voice]) as worker:
        sayings = Sayings(worker)
        saying = asyncio.create_task(sayings.say("Thank you." * 100, is_waited_for=True))
        await voice.begun.wait()
        await worker.queue_frame(InterruptionFrame())
        async with asyncio.timeout(LEAST_SECS):  # it would be waited for longer
            await saying
