"""Prompts that stay in a vendor's cache for longer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.products.prompt_cache_fields import (
    is_claude,
    openai_cache_options,
    upgrade_breakpoints,
)

CLAUDE = "anthropic/claude-sonnet-4.5"
PLAIN = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
SHORT = {"type": "ephemeral", "ttl": "5m"}


def part(control: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": "hi", **more, **({"cache_control": control} if control else {})}


def said(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def tool(control: dict[str, Any]) -> dict[str, Any]:
    return {"name": "look", "input_schema": {"type": "object"}, "cache_control": control}


def in_places(control: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A request for each place that a breakpoint can be in, with it there."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": [part(control)]}
    source = {"type": "document", "source": {"type": "content", "content": [part(control)]}}
    return {
        "a tool": {"tools": [tool(control)], "messages": []},
        "a function": {"tools": [{"type": "function", "function": tool(control)}]},
        "the system blocks": {"system": [part(), part(control)], "messages": [said(part())]},
        "a system message": {"messages": [said(part(control), role="system")]},
        "a message": {"messages": [{"role": "user", "content": "hi", "cache_control": control}]},
        "a message's part": {"messages": [said(part(), part(control))]},
        "a tool message's part": {"messages": [said(part(control), role="tool")]},
        "a tool result": {"messages": [said({**result, "content": "x", "cache_control": control})]},
        "a part of a tool result": {"messages": [said(result)]},
        "a part of a document": {"messages": [said(source)]},
        "the request": {"messages": [said(part())], "cache_control": control},
    }


PLACES = tuple(in_places(PLAIN))


@pytest.mark.parametrize("place", PLACES)
def test_a_breakpoint_is_upgraded_wherever_one_can_be(place):
    assert upgrade_breakpoints(in_places(PLAIN)[place], CLAUDE) == in_places(HOUR)[place]


@pytest.mark.parametrize("place", PLACES)
def test_an_explicit_lifetime_stays(place):
    for control in (SHORT, HOUR):
        assert upgrade_breakpoints(in_places(control)[place], CLAUDE) == in_places(control)[place]


def test_what_else_a_breakpoint_says_stays_too():
    request = {"messages": [said(part({**PLAIN, "scope": "global"}))]}
    upgraded = upgrade_breakpoints(request, CLAUDE)
    assert upgraded["messages"][0]["content"][0]["cache_control"] == {**HOUR, "scope": "global"}


@pytest.mark.parametrize(
    "request_",
    [
        {"messages": [said(part())]},
        {"messages": [said(part({"type": "persistent"}))]},
        {"messages": [said(part(None, cache_control="ephemeral"))]},
        {"messages": [said({"type": "tool_use", "input": {"cache_control": PLAIN}})]},
        {"tools": [{"name": "t", "input_schema": {"properties": {"cache_control": PLAIN}}}]},
        {"tools": None, "system": None, "messages": "none"},
        {},
    ],
    ids=["none", "another type", "no object", "arguments", "schema", "nothing given", "empty"],
)
def test_what_is_no_breakpoint_is_left_alone(request_):
    assert upgrade_breakpoints(request_, CLAUDE) == request_


def test_blocks_nested_without_end_are_left_alone():
    block: Any = part(PLAIN)
    for _ in range(5_000):
        block = {"type": "tool_result", "content": [block]}
    request = {"messages": [said(block), said(part(PLAIN))]}
    upgraded = upgrade_breakpoints(request, CLAUDE)
    assert upgraded["messages"][1] == said(part(HOUR))


@pytest.mark.parametrize(
    ("model", "is_upgraded"),
    [
        ("claude-sonnet-4-5-20250929", True),
        ("anthropic/claude-opus-4.1", True),
        ("Claude-Haiku-4-5", True),
        ("claude-sonnet-4@20250514", True),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", False),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", False),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", False),
        ("bedrock/anthropic.claude-v2", False),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-v2", False),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/claude", False),
        ("gpt-4.1", False),
        ("google/gemini-2.5-pro", False),
        ("", False),
    ],
)
def test_only_claude_is_upgraded_and_not_on_bedrock(model, is_upgraded):
    request = {"messages": [said(part(PLAIN))]}
    expected = {"messages": [said(part(HOUR))]} if is_upgraded else request
    assert upgrade_breakpoints(request, model) == expected


def chain(tools, system, *messages, roles=()):
    """A request with one breakpoint in each of these places, in Anthropic's order."""
    roles = roles or ("user",) * len(messages)
    return {
        # Written in another order than they are read in.
        "messages": [said(part(c), role=role) for c, role in zip(messages, roles, strict=True)],
        "system": [part(system)] if system else [],
        "tools": [tool(tools)] if tools else [],
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (chain(PLAIN, PLAIN, PLAIN), chain(HOUR, HOUR, HOUR)),
        (chain(HOUR, PLAIN, PLAIN), chain(HOUR, HOUR, HOUR)),
        (chain(PLAIN, None, SHORT), chain(HOUR, None, SHORT)),
        (chain(HOUR, PLAIN, SHORT), chain(HOUR, HOUR, SHORT)),
        (chain(None, None, PLAIN, SHORT, SHORT), chain(None, None, HOUR, SHORT, SHORT)),
        (chain(PLAIN, HOUR), chain(HOUR, HOUR)),
    ],
    ids=["all plain", "after an hour", "before", "between", "in messages", "makes it valid"],
)
def test_an_hour_may_come_before_a_shorter_lifetime(before, after):
    assert upgrade_breakpoints(before, CLAUDE) == after


@pytest.mark.parametrize(
    "request_",
    [
        chain(SHORT, PLAIN),
        chain(SHORT, None, PLAIN),
        chain(None, SHORT, PLAIN),
        chain(None, None, SHORT, PLAIN),
        chain(PLAIN, SHORT, PLAIN),
        chain(HOUR, SHORT, PLAIN),
        chain({"type": "ephemeral", "ttl": "30m"}, PLAIN),
        chain(None, None, PLAIN, SHORT, roles=("user", "system")),
        chain(None, None, SHORT, PLAIN, roles=("user", "system")),
        {**chain(None, None, SHORT), "cache_control": PLAIN},
        {**chain(None, None, PLAIN), "cache_control": SHORT},
    ],
)
def test_where_an_hour_would_come_after_a_shorter_lifetime_nothing_changes(request_):
    assert upgrade_breakpoints(request_, CLAUDE) == request_


controls = st.sampled_from([None, PLAIN, HOUR, SHORT])
messages = st.builds(
    lambda role, marks: said(*(part(mark) for mark in marks), role=role),
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.lists(controls, max_size=3),
)
requests = st.fixed_dictionaries(
    {"messages": st.lists(messages, max_size=4)},
    optional={
        "tools": st.lists(controls.map(lambda mark: {"name": "t", "cache_control": mark})),
        "system": st.lists(controls.map(part), max_size=2),
        "cache_control": controls,
    },
)


def lifetimes(request: dict[str, Any], *, hoisted: bool) -> list[str | None]:
    """The lifetime of every breakpoint in the order that Anthropic reads them in."""
    heard = list(request["messages"])
    if hoisted:
        heard = [m for m in heard if m["role"] == "system"] + [
            m for m in heard if m["role"] != "system"
        ]
    blocks = [*request.get("tools", []), *request.get("system", [])]
    blocks += [block for message in heard for block in message["content"]] + [request]
    marks = [block["cache_control"] for block in blocks if block.get("cache_control")]
    return [mark.get("ttl", "5m") for mark in marks]


def is_accepted(order: list[str | None]) -> bool:
    return "1h" not in order[order.index("5m") :] if "5m" in order else True


@given(requests, st.booleans())
def test_no_breakpoint_is_added_or_lost_and_no_order_becomes_one_that_is_refused(request_, hoisted):
    before = deepcopy(request_)
    upgraded = upgrade_breakpoints(request_, CLAUDE)
    assert request_ == before
    was, now = lifetimes(request_, hoisted=hoisted), lifetimes(upgraded, hoisted=hoisted)
    assert len(now) == len(was)
    assert all(new in (old, "1h") for old, new in zip(was, now, strict=True))
    assert is_accepted(now) or not is_accepted(was)


@given(requests)
def test_upgrading_twice_is_upgrading_once(request_):
    once = upgrade_breakpoints(request_, CLAUDE)
    assert upgrade_breakpoints(once, CLAUDE) == once


DAY = {"prompt_cache_retention": "24h"}
OPTIONS = {"prompt_cache_options": {"ttl": "30m"}}


@pytest.mark.parametrize(
    ("model", "lifetime"),
    [
        ("gpt-4.1", DAY),
        ("gpt-4.1-2025-04-14", DAY),
        ("GPT-5", DAY),
        ("gpt-5.1-chat-latest", DAY),
        ("gpt-5.4", DAY),
        ("gpt-5.5-pro", DAY),
        ("gpt-4.1-mini", {}),
        ("gpt-4.1-nano-2025-04-14", {}),
        ("gpt-5-mini", {}),
        ("gpt-5.1-codex-mini", {}),
        ("gpt-4o", {}),
        ("gpt-35-turbo", {}),
        ("gpt-3.5-turbo", {}),
        ("o4-mini", {}),
        ("ft:gpt-4.1:acme::1", {}),
        ("llama-4", {}),
        ("", {}),
        ("gpt-5.6", OPTIONS),
        ("gpt-5.6-mini-2026-08-01", OPTIONS),
        ("gpt-5.10", OPTIONS),
        ("gpt-6", OPTIONS),
        ("gpt-6.1-pro", OPTIONS),
    ],
)
def test_openai_is_asked_for_the_longest_lifetime_that_it_takes_for_a_model(model, lifetime):
    assert openai_cache_options(model, "thread") == {"prompt_cache_key": "thread", **lifetime}


@given(st.text())
def test_a_cache_key_always_fits_and_is_the_same_for_the_same_call(cache_key):
    options = openai_cache_options("gpt-4o", cache_key)
    assert options == openai_cache_options("gpt-4o", cache_key)
    assert bool(options) == bool(cache_key.strip())
    assert all(0 < len(value) <= 64 for value in options.values())


def test_long_cache_keys_that_differ_at_the_end_stay_apart():
    one, other = (openai_cache_options("gpt-4o", "x" * 80 + end) for end in "ab")
    assert one != other


def test_claude_is_known_by_its_name():
    assert is_claude("openrouter/Anthropic/Claude-x")
    assert not is_claude("gpt-4.1")
