"""When a call saves, and what it sends when it does."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.limits.budget import Tier
from flow.domain.products.save_mode import SaveMode, SavingLike, decide, saving_request
from flow.domain.usage.events import CostControl

OFF, AUTO, ON = SaveMode.OFF, SaveMode.AUTO, SaveMode.ON


def decided(join=None, key=None, product=AUTO, tier=Tier.OK, enabled=True, forced=None):
    return decide(join=join, key=key, product=product, tier=tier, enabled=enabled, forced=forced)


@pytest.mark.parametrize(
    ("tier", "is_on", "reason"),
    [
        (None, False, "no_budget"),
        (Tier.OK, False, "budget_ok"),
        (Tier.WARN, False, "budget_warn"),
        (Tier.ENGAGE, True, "budget_engage"),
        (Tier.EXCEEDED, True, "budget_exceeded"),
        (Tier.OVERRIDE, False, "budget_override"),
        (Tier.UNKNOWN, False, "budget_unknown"),
        ("of a later version", False, "budget_of a later version"),
    ],
)
def test_auto_goes_by_the_budgets_tier(tier, is_on, reason):
    assert decided(tier=tier) == CostControl(is_on, reason, tier or "ok")


@pytest.mark.parametrize(
    ("join", "key", "product", "is_on", "reason"),
    [
        (ON, OFF, OFF, True, "on_by_join"),
        (OFF, ON, ON, False, "off_by_join"),
        (None, ON, OFF, True, "on_by_key"),
        (None, OFF, ON, False, "off_by_key"),
        (None, None, ON, True, "on_by_product"),
        (None, None, OFF, False, "off_by_product"),
        (AUTO, ON, ON, False, "budget_ok"),
        (AUTO, OFF, OFF, False, "budget_ok"),
        (None, AUTO, ON, False, "budget_ok"),
    ],
)
def test_the_join_decides_before_the_key_and_the_key_before_the_product(
    join, key, product, is_on, reason
):
    assert decided(join, key, product) == CostControl(is_on, reason, "ok")


@pytest.mark.parametrize("mode", [AUTO, ON])
@pytest.mark.parametrize(
    ("enabled", "forced", "reason"),
    [
        (False, None, "flag_off"),
        (None, None, "flag_unknown"),
        (True, False, "flag_off"),
        (None, False, "flag_off"),
    ],
)
def test_nothing_is_on_without_the_feature_flag(mode, enabled, forced, reason):
    seen = decided(mode, tier=Tier.EXCEEDED, enabled=enabled, forced=forced)
    assert seen == CostControl(False, reason, "exceeded")


@pytest.mark.parametrize("enabled", [False, None, True])
def test_where_it_is_forced_the_flag_is_not_asked(enabled):
    assert decided(ON, enabled=enabled, forced=True) == CostControl(True, "on_by_join", "ok")


modes = st.sampled_from(SaveMode)
answers = st.none() | st.booleans()


@given(
    st.none() | modes, st.none() | modes, modes, st.none() | st.sampled_from(Tier), answers, answers
)
def test_save_mode_is_on_just_when_it_is_wanted_allowed_and_due(
    join, key, product, tier, enabled, forced
):
    seen = decided(join, key, product, tier, enabled, forced)
    mode = next(m for m in (join, key, product) if m)
    allowed = forced is True or (forced is None and enabled is True)
    due = mode == "on" or (mode == "auto" and tier in ("engage", "exceeded"))
    assert seen.save_mode is (allowed and due)
    assert seen.budget_tier == (tier or "ok")
    assert seen.save_mode_reason


@dataclass(frozen=True)
class Saving:
    max_tokens: int | None = None
    instruction: str | None = None
    prompt_cache: bool = False
    models: Mapping[str, str] = field(default_factory=dict)

    def cheaper(self, provider: str, model: str) -> str | None:
        return self.models.get(f"{provider}/{model}")


USER = {"role": "user", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
DEVELOPER = {"role": "developer", "content": "Be kind."}
BRIEF = {"role": "system", "content": "Be brief."}
CALL_A = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALL_B = {**CALL_A, "id": "b"}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL_A, CALL_B]}
TOLD_A = {"role": "tool", "tool_call_id": "a", "content": "1"}
TOLD_B = {"role": "tool", "tool_call_id": "b", "content": "2"}


def saved(request: Mapping[str, Any], saving: SavingLike, provider: str = "openai"):
    told = {} if "contents" in request else {"messages": [SYSTEM, USER]}
    asked = {"model": "gpt-4.1", **told, **request}
    return saving_request(asked, provider=provider, saving=saving, cache_key="thread")


def test_a_saving_of_nothing_changes_nothing():
    request = {"model": "gpt-4.1", "messages": [USER], "temperature": 0.7, "tools": None}
    assert saved(request, Saving()) == request


def test_a_call_is_sent_as_save_mode_says():
    saving = Saving(150, "Be brief.", True, {"openai/gpt-4.1": "gpt-4.1-mini"})
    assert saved({"stream": True, "temperature": 0.7}, saving) == {
        "model": "gpt-4.1-mini",
        "messages": [SYSTEM, USER, BRIEF],
        "stream": True,
        "temperature": 0.7,
        "max_completion_tokens": 150,
        "prompt_cache_key": "thread",
    }


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-4.1-mini"), ("openrouter", "gpt-4.1")]
)
def test_the_model_is_the_cheaper_one_of_the_same_vendor_if_there_is_one(provider, model):
    saving = Saving(models={"openai/gpt-4.1": "gpt-4.1-mini"})
    assert saved({}, saving, provider)["model"] == model


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, {"max_completion_tokens": 150}),
        ({"max_tokens": 400}, {"max_tokens": 150}),
        ({"max_tokens": 60}, {"max_tokens": 60}),
        ({"max_completion_tokens": 400}, {"max_completion_tokens": 150}),
        ({"max_completion_tokens": 60}, {"max_completion_tokens": 60}),
        (
            {"max_tokens": None, "max_completion_tokens": None},
            {"max_tokens": None, "max_completion_tokens": 150},
        ),
        (
            {"max_tokens": 400, "max_completion_tokens": None},
            {"max_tokens": 150, "max_completion_tokens": None},
        ),
        (
            {"max_tokens": 60, "max_completion_tokens": 400},
            {"max_tokens": 60, "max_completion_tokens": 150},
        ),
        ({"max_completion_tokens": None}, {"max_completion_tokens": 150}),
    ],
)
def test_the_reply_is_limited_in_the_field_that_is_used_and_never_raised(given_, expected):
    request = saved(given_, Saving(max_tokens=150))
    assert {name: request[name] for name in request if name.startswith("max_")} == expected


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        ("openai", "max_completion_tokens"),
        ("azure", "max_completion_tokens"),
        ("deepseek", "max_tokens"),
        ("groq", "max_tokens"),
        ("somebody-new", "max_tokens"),
    ],
)
def test_a_vendor_that_may_not_take_the_newer_field_is_sent_the_older_one(provider, field):
    limited = saved({}, Saving(max_tokens=150), provider)
    assert {k: v for k, v in limited.items() if k.startswith("max_")} == {field: 150}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([SYSTEM, USER], [SYSTEM, USER, BRIEF]),
        ([USER], [USER, BRIEF]),
        ([], [BRIEF]),
        ([DEVELOPER, USER], [DEVELOPER, USER, {**BRIEF, "role": "developer"}]),
        ([SYSTEM, DEVELOPER, USER], [SYSTEM, DEVELOPER, USER, BRIEF]),
        ([USER, ASKED, TOLD_A, TOLD_B], [USER, ASKED, TOLD_A, TOLD_B, BRIEF]),
        ([USER, ASKED, TOLD_A], [USER, BRIEF, ASKED, TOLD_A]),
        ([USER, ASKED], [USER, BRIEF, ASKED]),
        ([USER, ASKED, TOLD_A, TOLD_B, USER], [USER, ASKED, TOLD_A, TOLD_B, USER, BRIEF]),
        ([TOLD_A], [TOLD_A, BRIEF]),
        ([USER, {**ASKED, "tool_calls": None}], [USER, {**ASKED, "tool_calls": None}, BRIEF]),
    ],
    ids=[
        "last", "no system message", "nothing said", "developer", "both", "tools answered",
        "one tool not answered", "no tool answered", "tools long answered", "only a result",
        "no calls",
    ],
)  # fmt: skip
def test_the_instruction_comes_last_and_never_between_a_tool_call_and_its_result(
    messages, expected
):
    assert saved({"messages": messages}, Saving(instruction="Be brief."))["messages"] == expected


TOLD_BRIEF = {"type": "text", "text": "Be brief."}
MARKED = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, [TOLD_BRIEF]),
        ("", [TOLD_BRIEF]),
        ("Be kind.", [{"type": "text", "text": "Be kind."}, TOLD_BRIEF]),
        ([MARKED], [MARKED, TOLD_BRIEF]),
        ([MARKED, TOLD_BRIEF], [MARKED, TOLD_BRIEF]),
    ],
)
def test_anthropic_is_instructed_in_its_system_prompt_behind_what_is_cached(system, expected):
    request = {"model": "claude-opus-5", "messages": [USER], "max_tokens": 500, "system": system}
    sent = saved(request, Saving(instruction="Be brief.", max_tokens=100), "anthropic")
    assert (sent["system"], sent["messages"], sent["max_tokens"]) == (expected, [USER], 100)


HEARD = {"role": "user", "parts": [{"text": "Hello"}]}


def gemini(**request: Any) -> dict[str, Any]:
    return {"model": "gemini-2.5-flash", "contents": [HEARD], **request}


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"thinkingConfig": {"thinkingBudget": 0}}, 100),
        ({"thinkingConfig": {"thinking_budget": 0}, "maxOutputTokens": 4096}, 100),
        ({"thinkingConfig": {"thinkingBudget": 0}, "maxOutputTokens": 40}, 40),
        ({"thinkingConfig": {"thinkingBudget": 128}, "maxOutputTokens": 4096}, 228),
        ({"thinkingConfig": {"thinkingLevel": "MINIMAL"}}, 100),
        ({"thinkingConfig": {"thinkingLevel": "LOW"}, "maxOutputTokens": 4096}, 4096),
        ({"thinkingConfig": {"thinkingBudget": -1}}, None),
        ({}, None),
    ],
    ids=str,
)
def test_gemini_keeps_room_for_its_thoughts_or_is_not_limited(config, most):
    sent = saved(gemini(generationConfig=config), Saving(max_tokens=100), "google")
    limit = {} if most is None else {"maxOutputTokens": most}
    assert sent["generationConfig"] == config | limit


@pytest.mark.parametrize("model", ["gemini-2.0-flash", "gemini-1.5-pro"])
def test_an_older_gemini_does_not_think(model):
    sent = saved(gemini(model=model), Saving(max_tokens=100), "google")
    assert sent["generationConfig"] == {"maxOutputTokens": 100}


@pytest.mark.parametrize(
    ("name", "system", "expected"),
    [
        ("systemInstruction", None, ["Be brief."]),
        ("systemInstruction", ["Be kind."], ["Be kind.", "Be brief."]),
        ("system_instruction", ["Be brief."], ["Be brief."]),
    ],
)
def test_gemini_is_instructed_in_another_part_of_its_system_instruction(name, system, expected):
    own = {name: {"parts": [{"text": said} for said in system]}} if system else {}
    sent = saved(gemini(**own), Saving(instruction="Be brief."), "google")
    assert [part["text"] for part in sent[name]["parts"]] == expected
    assert sent["contents"] == [HEARD]
    assert not {"messages", "system"} & {*sent}


@pytest.mark.parametrize("instruction", [None, "", "  "])
def test_a_blank_instruction_is_not_sent(instruction):
    assert saved({}, Saving(instruction=instruction))["messages"] == [SYSTEM, USER]


@pytest.mark.parametrize(
    "own",
    [
        {"prompt_cache_key": "mine"},
        {"prompt_cache_retention": "in_memory"},
        {"prompt_cache_key": "mine", "prompt_cache_retention": "in_memory"},
    ],
    ids=str,
)
def test_a_cache_setting_that_is_there_stays(own):
    default = {"prompt_cache_key": "thread", "prompt_cache_retention": "24h"}
    assert (default | own).items() <= saved(own, Saving(prompt_cache=True)).items()


def test_a_cache_setting_that_is_left_out_is_none():
    own = {"prompt_cache_key": None, "prompt_cache_retention": None}
    request = saved(own, Saving(prompt_cache=True))
    assert (request["prompt_cache_key"], request["prompt_cache_retention"]) == ("thread", "24h")


def test_cache_settings_are_those_of_the_model_that_serves():
    cheaper = {"openai/gpt-4.1": "gpt-5.6-nano"}
    request = saved({}, Saving(prompt_cache=True, models=cheaper))
    assert request["prompt_cache_options"] == {"ttl": "30m"}
    assert "prompt_cache_retention" not in request


@pytest.mark.parametrize("provider", ["openai", "openrouter"])
def test_claude_has_its_breakpoints_upgraded_behind_any_gateway(provider):
    marked = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    request = {"model": "claude-opus-4-1", "messages": [{"role": "user", "content": [marked]}]}
    sent = saved(request, Saving(prompt_cache=True), provider)
    assert sent["messages"][0]["content"][0]["cache_control"]["ttl"] == "1h"
    assert "prompt_cache_key" not in sent


@pytest.mark.parametrize("provider", ["groq", "deepseek", "openrouter"])
def test_other_vendors_get_no_setting_of_openais(provider):
    assert saved({}, Saving(prompt_cache=True), provider) == saved({}, Saving(), provider)


MODELS = {"openai/gpt-4.1": "gpt-4.1-mini", "openrouter/anthropic/claude-opus": "claude-haiku"}
marks = st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}])
parts = marks.map(lambda mark: [{"type": "text", "text": "x", **mark}])
spoken = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "developer", "user", "assistant"]),
    parts | st.just("x"),
)
limits = st.none() | st.integers(1, 1000)
chat_requests = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-4.1", "gpt-4.1-mini", "anthropic/claude-opus"]),
        "messages": st.lists(st.sampled_from([ASKED, TOLD_A, TOLD_B, BRIEF]) | spoken, max_size=6),
    },
    optional={"max_tokens": limits, "max_completion_tokens": limits, "temperature": st.just(0.1)},
)
savings = st.builds(
    Saving,
    st.none() | st.integers(1, 1000),
    st.sampled_from([None, "Be brief.", "Be very brief."]),
    st.booleans(),
    st.just(MODELS),
)
providers = st.sampled_from(["openai", "openrouter"])


def longest(request: Mapping[str, Any]) -> float:
    limits = (request.get(name) for name in ("max_tokens", "max_completion_tokens"))
    return min((limit for limit in limits if isinstance(limit, int)), default=float("inf"))


@given(chat_requests, savings, providers)
def test_what_is_sent_costs_no_more_and_what_was_asked_for_is_untouched(request_, saving, provider):
    before = deepcopy({k: v for k, v in request_.items() if v is not None})
    sent = saving_request(request_, provider=provider, saving=saving, cache_key="thread")
    assert {k: v for k, v in request_.items() if v is not None} == before
    assert sent["model"] == MODELS.get(f"{provider}/{request_['model']}", request_["model"])
    assert longest(sent) == min(longest(request_), saving.max_tokens or float("inf"))
    assert len(sent["messages"]) - len(request_["messages"]) in (0, 1)
    assert sent.get("temperature") == request_.get("temperature")


@given(chat_requests, savings, providers)
def test_saving_twice_is_saving_once(request_, saving, provider):
    once = saving_request(request_, provider=provider, saving=saving, cache_key="thread")
    assert saving_request(once, provider=provider, saving=saving, cache_key="other") == once


RESPONSE = {"model": "gpt-4.1", "instructions": "Be kind.", "input": [USER]}
TOLD = {"role": "developer", "content": "Be brief."}


@pytest.mark.parametrize(
    ("request_", "most", "expected"),
    [
        ({}, 150, {"input": [USER, TOLD], "max_output_tokens": 150}),
        ({"input": "Hello"}, 150, {"input": [USER, TOLD], "max_output_tokens": 150}),
        ({"input": [USER, TOLD]}, 150, {"input": [USER, TOLD], "max_output_tokens": 150}),
        ({"max_output_tokens": 90}, 150, {"input": [USER, TOLD], "max_output_tokens": 90}),
        ({"max_output_tokens": 900}, 150, {"input": [USER, TOLD], "max_output_tokens": 150}),
        ({}, 5, {"input": [USER, TOLD], "max_output_tokens": 16}),
    ],
)
def test_a_response_is_saved_on_in_its_own_words(request_, most, expected):
    saving = Saving(most, "Be brief.", True, {"openai/gpt-4.1": "gpt-5.1"})
    asked = {**RESPONSE, **request_}
    before = deepcopy(asked)
    seen = saving_request(asked, provider="openai", saving=saving, cache_key="thread")
    assert asked == before
    assert seen == {
        **RESPONSE,
        "model": "gpt-5.1",
        "prompt_cache_key": "thread",
        "prompt_cache_retention": "24h",
        **expected,
    }
