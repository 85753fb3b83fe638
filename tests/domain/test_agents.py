"""What a call is made of that an agent and a join say, and what goes before what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from flow.domain.agents.agent import Agent, AgentDefinition
from flow.domain.agents.filling import check_templates, filled_in
from flow.domain.agents.system_variables import CallFacts
from flow.domain.calls.join_request import CallSettings, JoinRequest
from flow.errors import InvalidInput

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FACTS = CallFacts(UUID(int=7), NOW, "table")


def agent_of(said: dict[str, Any]) -> Agent:
    definition = AgentDefinition.model_validate({"name": "table", **said})
    return Agent(UUID(int=1), "team", "table", 3, definition.said(), NOW, NOW, None)


def settled(agent: dict[str, Any], join: dict[str, Any]) -> dict[str, Any]:
    """What the call has beyond a call of nothing said."""
    body = JoinRequest.model_validate({"agent": "table", **join})
    whole, nothing = agent_of(agent).settle(body).to_json(), JoinRequest().to_json()
    assert whole.pop("agent") == {"id": str(UUID(int=1)), "version": 3}
    return _difference(nothing, whole)


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _difference(before[name], value)
        if isinstance(value, dict) and isinstance(before.get(name), dict)
        else value
        for name, value in after.items()
        if before.get(name) != value
    }


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
OTHER = {"type": "object", "properties": {"b": {"type": "number"}}}
LLM = {"provider": "openai", "model": "gpt-4.1", "temperature": 0.5}

HTTP = {
    "type": "http",
    "name": "find_booking",
    "description": "Find the booking of {{name}}",
    "url": "https://api.example.com/{{tenant}}/find?who={{name}}",
    "headers": {"X-Tenant": "{{tenant}}"},
}
WHOLE_HTTP = HTTP | {
    "timeout_secs": 10.0,
    "say_while_waiting": None,
    "parameters": {"type": "object", "properties": {}},
    "method": "POST",
}

# What the agent says, what the join says, and what the call has.
SETTLED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}, {}),
    "agent alone": ({"product": "p", "save_mode": "on"}, {}, {"product": "p", "save_mode": "on"}),
    "join alone": ({}, {"product": "p"}, {"product": "p"}),
    "join first": ({"product": "p"}, {"product": "q"}, {"product": "q"}),
    "a default that is said": ({"product": "p"}, {"product": "voice_bot"}, {}),
    "null of the agent": ({"product": None}, {}, {}),
    "null of the join": ({"max_duration_secs": 60}, {"max_duration_secs": None}, {}),
    "null of a text": ({"bot": {"greeting": "Hi"}}, {"bot": {"greeting": None}}, {}),
    "fields of the bot": (
        {"bot": {"greeting": "Hi", "language": "de"}},
        {"bot": {"greeting": "Hallo", "system_prompt": "x"}},
        {"bot": {"greeting": "Hallo", "language": "de", "system_prompt": "x"}},
    ),
    "fields of a part": (
        {"bot": {"llm": LLM}},
        {"bot": {"llm": {"temperature": 1}}},
        {"bot": {"llm": LLM | {"temperature": 1}}},
    ),
    "the same vendor": (
        {"bot": {"llm": LLM}},
        {"bot": {"llm": {"provider": "openai", "model": "gpt-5"}}},
        {"bot": {"llm": LLM | {"model": "gpt-5"}}},
    ),
    "another vendor": (
        {"bot": {"llm": LLM, "tts": {"voice": "alloy"}}},
        {"bot": {"llm": {"provider": "anthropic"}}},
        {"bot": {"llm": {"provider": "anthropic"}, "tts": {"voice": "alloy"}}},
    ),
    "speech to speech of the join": (
        {"bot": {"llm": LLM, "greeting": "Hi"}},
        {"bot": {"realtime": {"voice": "ash"}}},
        {"bot": {"realtime": {"provider": None, "model": None, "voice": "ash"}, "greeting": "Hi"}},
    ),
    "a cascade of the join": (
        {"bot": {"realtime": {"voice": "ash"}, "greeting": "Hi"}},
        {"bot": {"tts": {"voice": "alloy"}}},
        {"bot": {"tts": {"voice": "alloy"}, "greeting": "Hi"}},
    ),
    "no speech to speech": (
        {"bot": {"realtime": {"voice": "ash"}}},
        {"bot": {"realtime": None}},
        {},
    ),
    "tools are one thing": (
        {"tools": [{"type": "end_call"}, HTTP]},
        {"bot": {"tools": [{"type": "end_call"}]}},
        {"bot": {"tools": [{"type": "end_call"}]}},
    ),
    "the agent's tools": ({"bot": {"tools": [HTTP]}}, {}, {"bot": {"tools": [WHOLE_HTTP]}}),
    "insights": (
        {"insights": {"instructions": "x", "schema": SCHEMA}},
        {"insights": {"enabled": False}},
        {"insights": {"instructions": "x", "schema": SCHEMA, "enabled": False}},
    ),
    "a schema is one thing": (
        {"insights": {"schema": SCHEMA}},
        {"insights": {"schema": OTHER}},
        {"insights": {"schema": OTHER}},
    ),
    "metadata": (
        {"metadata": {"a": {"x": 1, "y": [1]}, "b": 1}},
        {"metadata": {"a": {"y": [2]}, "c": {}}},
        {"metadata": {"a": {"x": 1, "y": [2]}, "b": 1, "c": {}}},
    ),
    "variables and transport": (
        {"metadata": {"a": 1}},
        {"variables": {"n": 1}, "transport": {"type": "webrtc"}},
        {"metadata": {"a": 1}, "variables": {"n": 1}, "transport": {"type": "webrtc"}},
    ),
}


@pytest.mark.parametrize(("agent", "join", "has"), SETTLED.values(), ids=SETTLED)
def test_what_the_join_says_goes_before_what_the_agent_says(
    agent: dict[str, Any], join: dict[str, Any], has: dict[str, Any]
) -> None:
    assert settled(agent, join) == has


def test_the_token_of_a_room_survives_the_agent() -> None:
    transport = {"type": "daily", "room_url": "https://x.daily.co/y", "token": "t"}
    join = JoinRequest.model_validate({"agent": "table", "transport": transport})
    assert agent_of({}).settle(join).transport.token == join.transport.token


def test_every_setting_of_a_call_can_be_an_agents() -> None:
    said = set(AgentDefinition.model_fields) - {"name"}
    assert said == set(CallSettings.model_fields) | {"product", "tools"}
    assert set(JoinRequest.model_fields) - said == {"transport", "agent", "variables"}


REFS = {
    "a name": ("table", ("table", None)),
    "an id and a version": ({"id": "x", "version": 2}, ("x", 2)),
    "an id alone": ({"id": "x"}, ("x", None)),
}


@pytest.mark.parametrize(("said", "means"), REFS.values(), ids=REFS)
def test_a_join_names_its_agent(said: Any, means: tuple[str, int | None]) -> None:
    ref = JoinRequest.model_validate({"agent": said}).agent
    assert ref is not None
    assert (ref.id, ref.version) == means


@pytest.mark.parametrize("said", ["", 7, [], {}, {"id": "x", "version": 0}, {"id": "x", "v": 1}])
def test_what_names_no_agent_is_refused(said: Any) -> None:
    with pytest.raises(ValidationError):
        JoinRequest.model_validate({"agent": said})


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "x" * 129, str(UUID(int=3))])
def test_what_is_no_name_of_an_agent_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        AgentDefinition.model_validate({"name": name})


def test_every_text_of_a_call_is_filled_in() -> None:
    join = JoinRequest.model_validate(
        {
            "bot": {
                "system_prompt": "You are {{flow.agent}}; it is {{flow.time}}, {{flow.timezone}}.",
                "greeting": "Hello {{name}}",
                "timezone": "Asia/Tokyo",
            },
            "insights": {"instructions": "Has {{name}} come?"},
            "metadata": {"kept": "{{name}}"},
            "variables": {"name": "Ada", "unused": 1},
        }
    )
    filled = filled_in(join, FACTS)
    assert filled.bot.system_prompt == "You are table; it is 21:00, Asia/Tokyo."
    assert filled.bot.greeting == "Hello Ada"
    assert filled.insights.instructions == "Has Ada come?"
    assert filled.metadata == {"kept": "{{name}}"}
    assert filled.variables == {"name": "Ada", "unused": 1}


def test_the_texts_of_tools_are_filled_in_where_they_stand() -> None:
    transfer = {"type": "transfer_call", "targets": {"sales": "+4930123456"}, "say": "Bye {{name}}"}
    bot = {"tools": [HTTP, transfer, {"type": "end_call"}]}
    given = {"name": "Zoë & co", "tenant": "a/b"}
    join = JoinRequest.model_validate({"bot": bot, "variables": given})
    http, transferred, _ = filled_in(join, FACTS).to_json()["bot"]["tools"]
    assert http["url"] == "https://api.example.com/a%2Fb/find?who=Zo%C3%AB%20%26%20co"
    assert http["headers"] == {"X-Tenant": "a/b"}
    assert http["description"] == "Find the booking of Zoë & co"
    assert transferred["say"] == "Bye Zoë & co"


TOOL_PROBLEMS = {
    "missing": ({"name": "x"}, {"url", "headers.X-Tenant"}),
    "a header that breaks": ({"name": "x", "tenant": "a\r\nb"}, {"headers.X-Tenant"}),
    "a header with blanks": ({"name": "x", "tenant": " a"}, {"headers"}),
    "another path": ({"name": "x", "tenant": ".."}, {"url"}),
    "a long URL": ({"name": "x" * 4000, "tenant": "x"}, {"url", "description"}),
}


@pytest.mark.parametrize(("given", "fields"), TOOL_PROBLEMS.values(), ids=TOOL_PROBLEMS)
def test_what_does_not_fit_in_a_tool_is_named(given: dict[str, Any], fields: set[str]) -> None:
    join = JoinRequest.model_validate({"bot": {"tools": [HTTP]}, "variables": given})
    with pytest.raises(InvalidInput) as raised:
        filled_in(join, FACTS)
    named = {problem.field.removeprefix("bot.tools.0.") for problem in raised.value.problems}
    assert named == fields


def test_an_agents_tools_stand_beside_its_bot_or_in_it() -> None:
    beside = AgentDefinition.model_validate({"name": "x", "tools": [HTTP]})
    inside = AgentDefinition.model_validate({"name": "x", "bot": {"tools": [HTTP]}})
    assert beside.said() == inside.said()
    assert beside.said()["bot"]["tools"] == [HTTP]
    [shown] = beside.shown()["tools"]
    assert shown == HTTP | {"headers": {"X-Tenant": "**********"}}
    with pytest.raises(ValidationError, match="given twice"):
        AgentDefinition.model_validate({"name": "x", "bot": {"tools": []}, "tools": []})
    with pytest.raises(ValidationError, match="two tools"):
        AgentDefinition.model_validate({"name": "x", "tools": [HTTP, HTTP]})
    with pytest.raises(ValidationError, match="send the value itself"):
        AgentDefinition.model_validate({"name": "x", "tools": [shown]})
    check_templates(beside)


def test_what_is_missing_is_named_with_every_field_it_is_missing_in() -> None:
    texts = {"system_prompt": "{{a}}", "greeting": "{{b}} {{flow.caller_number}}"}
    join = JoinRequest.model_validate({"bot": texts, "insights": {"instructions": "{{a}}"}})
    with pytest.raises(InvalidInput) as raised:
        filled_in(join, FACTS)
    assert [problem.field for problem in raised.value.problems] == [
        "bot.system_prompt",
        "bot.greeting",
        "bot.greeting",
        "insights.instructions",
    ]


def test_an_agent_is_judged_before_its_variables_have_values() -> None:
    check_templates(agent_definition("Hello {{name}}, {{flow.caller_number}}"))
    for wrong in ("Hello {{name", "{{flow.nothing}}", "{{first name}}"):
        with pytest.raises(InvalidInput):
            check_templates(agent_definition(wrong))


def agent_definition(greeting: str) -> AgentDefinition:
    return AgentDefinition.model_validate({"name": "table", "bot": {"greeting": greeting}})


@pytest.mark.parametrize("zone", ["Berlin", "../etc/passwd", "", "europe/berlin"])
def test_a_time_zone_is_one_that_there_is(zone: str) -> None:
    with pytest.raises(ValidationError):
        JoinRequest.model_validate({"bot": {"timezone": zone}})
