"""Whose work a request is: the headers a gateway is told, and what a caller cannot change."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import unquote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import CostControl
from flow.domain.usage.owner_labels import (
    HEADER_NAMES,
    PROPERTIES_HEADER,
    PROPERTY_NAMES,
    attribution_headers,
    attribution_properties,
    control_properties,
    with_attribution,
)
from tests.events import an_owner

OWNER = an_owner()
SAVED = CostControl(True, "budget_engage", "engage")
SAID = {
    "ai_product": "voice_bot",
    "$ai_billable": True,
    "team_id": "acme",
    "api_key_id": str(UUID(int=2)),
    "workflow_thread_id": str(UUID(int=1)),
    "save_mode": True,
    "save_mode_reason": "budget_engage",
    "budget_tier": "engage",
}


def test_a_gateway_is_told_all_that_our_own_events_say_so_that_its_can_be_billed():
    headers = attribution_headers(OWNER, SAVED)
    assert json.loads(headers.pop(PROPERTIES_HEADER)) == SAID
    assert headers == {
        "x-posthog-property-ai_product": "voice_bot",
        "x-posthog-property-$ai_billable": "true",
        "x-posthog-property-team_id": "acme",
        "x-posthog-property-api_key_id": str(UUID(int=2)),
        "x-posthog-property-workflow_thread_id": str(UUID(int=1)),
        "x-posthog-property-save_mode": "true",
        "x-posthog-property-save_mode_reason": "budget_engage",
        "x-posthog-property-budget_tier": "engage",
        "x-posthog-trace-id": str(UUID(int=1)),
        "x-posthog-session-id": str(UUID(int=1)),
        "x-posthog-distinct-id": str(UUID(int=2)),
        "x-posthog-product": "voice_bot",
    }
    assert tuple(SAID) == PROPERTY_NAMES
    assert attribution_properties(OWNER) | control_properties(SAVED) == SAID


@pytest.mark.parametrize("billable", [True, False])
def test_whether_it_is_billed_is_said_either_way(billable):
    headers = attribution_headers(replace(OWNER, billable=billable), CostControl())
    assert headers["x-posthog-property-$ai_billable"] == str(billable).lower()
    assert json.loads(headers[PROPERTIES_HEADER])["$ai_billable"] is billable
    assert headers["x-posthog-property-save_mode"] == "false"


def test_what_is_not_known_is_not_said():
    headers = attribution_headers(replace(OWNER, workflow_thread_id=None), CostControl())
    said = (*PROPERTY_NAMES[:4], "save_mode")
    assert tuple(json.loads(headers.pop(PROPERTIES_HEADER))) == said
    assert tuple(headers) == (
        *(f"x-posthog-property-{name}" for name in said),
        *("x-posthog-distinct-id", "x-posthog-product"),
    )


def test_the_ids_of_what_belongs_to_a_call_are_the_servers_and_of_another_request_its_senders():
    named = {
        "X-PostHog-Trace-Id": "mine",
        "x-posthog-session-id": " se\r\nssion\u00e9 ",
        "x-posthog-distinct-id": " ",
        "x-posthog-product": "free",
    }
    of_a_call = with_attribution(named, OWNER, SAVED)
    assert of_a_call == attribution_headers(OWNER, SAVED)
    without = replace(OWNER, workflow_thread_id=None)
    alone = with_attribution(named, without, SAVED)
    assert alone == {
        **attribution_headers(without, SAVED),
        "x-posthog-trace-id": "mine",
        "x-posthog-session-id": "se%0D%0Assion%C3%A9",
    }
    assert alone["x-posthog-distinct-id"] == str(UUID(int=2))
    assert alone["x-posthog-product"] == "voice_bot"
    assert with_attribution(named, None, SAVED) == {}


@pytest.mark.parametrize("unset", [None, "", "   ", "\t"])
def test_a_value_that_is_unset_has_no_header(unset):
    headers = attribution_headers(replace(OWNER, team_id=unset), CostControl())
    assert "x-posthog-property-team_id" not in headers
    assert "team_id" not in json.loads(headers[PROPERTIES_HEADER])
    assert len(headers) == 10


@pytest.mark.parametrize(
    ("team", "sent"),
    [
        ("Acme Corp", "Acme Corp"),
        (" acme ", "acme"),
        ("a\r\nx-posthog-property-team_id: other", "a%0D%0Ax-posthog-property-team_id: other"),
        ("a\x00b", "a%00b"),
        ("Café", "Caf%C3%A9"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("100%", "100%25"),
        ("\ud800", "?"),
    ],
)
def test_what_is_not_printable_ascii_is_percent_encoded(team, sent):
    headers = attribution_headers(replace(OWNER, team_id=team), CostControl())
    assert headers["x-posthog-property-team_id"] == sent


@given(st.text())
def test_any_value_is_one_safe_header_and_comes_back(team):
    headers = attribution_headers(replace(OWNER, team_id=team), SAVED)
    for sent in headers.values():
        assert all(0x20 <= ord(char) < 0x7F for char in sent)
        assert sent == sent.strip()
    assert unquote(headers.get("x-posthog-property-team_id", "")) == team.strip()
    assert json.loads(headers[PROPERTIES_HEADER]).get("team_id", "") == team.strip()


CALLERS = ("X-PostHog-Property-Team_Id", "X-POSTHOG-PROPERTY-$AI_Billable", "X-PostHog-Properties")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*PROPERTY_NAMES, "Team_ID", "mine"]), inner)
    ),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from([*HEADER_NAMES, *CALLERS, "X-Team", "authorization"]),
        st.text(max_size=5) | JSON.map(json.dumps),
    ),
    st.sampled_from([CostControl(), SAVED]),
)
def test_ours_replace_what_a_caller_sent_and_nothing_else(existing, control):
    merged = with_attribution(existing, OWNER, control)
    ours = attribution_headers(OWNER, control)
    others = {name: value for name, value in existing.items() if name.lower() not in HEADER_NAMES}
    said, ours_said = (json.loads(each.pop(PROPERTIES_HEADER)) for each in (merged, ours))
    assert merged == {**others, **ours}
    # Theirs first, ours after them.
    assert list(merged) == [*others, *ours]
    assert said == {**({"mine": said["mine"]} if "mine" in said else {}), **ours_said}


def test_existing_headers_come_first_and_ours_after():
    existing = {
        "X-Team": "blue",
        "X-PostHog-Property-$ai_billable": "false",
        "x-posthog-property-budget_tier": "ok",
        "X-PostHog-Properties": '{"mine": 1, "team_id": "victim", "$ai_billable": false}',
        "x-posthog-property-mine": "1",
        "authorization": "Bearer sk",
    }
    merged = with_attribution(existing, OWNER, SAVED)
    assert list(merged) == ["X-Team", "x-posthog-property-mine", "authorization", *HEADER_NAMES]
    assert merged["x-posthog-property-$ai_billable"] == "true"
    assert merged["x-posthog-property-budget_tier"] == "engage"
    said = json.loads(merged[PROPERTIES_HEADER])
    assert list(said.items()) == [("mine", 1), *SAID.items()]


@pytest.mark.parametrize(
    "unreadable", ["", "{", "[1]", "null", '{"a": 1}, {"team_id": "victim"}', "[" * 100_000]
)
def test_properties_that_cannot_be_read_are_replaced(unreadable):
    merged = with_attribution({"X-PostHog-Properties": unreadable}, OWNER, SAVED)
    assert merged == attribution_headers(OWNER, SAVED)


def test_without_an_owner_a_spoofed_header_is_only_removed():
    spoofed = {
        "X-POSTHOG-PROPERTY-TEAM_ID": "victim",
        "X-PostHog-Properties": '{"$ai_billable": false}',
        "X-Other": "kept",
    }
    assert with_attribution(spoofed, None, SAVED) == {"X-Other": "kept"}
    both = {"X-PostHog-Properties": '{"mine": 1, "team_id": "victim"}'}
    assert with_attribution(both, None, SAVED) == {PROPERTIES_HEADER: '{"mine": 1}'}


def test_a_spoofed_header_goes_even_when_the_server_has_no_value():
    merged = with_attribution(
        {"x-posthog-property-team_id": "v"}, replace(OWNER, team_id=""), SAVED
    )
    assert "x-posthog-property-team_id" not in merged


def test_the_properties_of_every_event():
    assert attribution_properties(OWNER) == {
        "ai_product": "voice_bot",
        "$ai_billable": True,
        "team_id": "acme",
        "api_key_id": str(UUID(int=2)),
        "workflow_thread_id": str(UUID(int=1)),
    }


def test_what_belongs_to_no_thread_names_none():
    said = attribution_properties(replace(OWNER, workflow_thread_id=None))
    assert "workflow_thread_id" not in said


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (SAVED, {"save_mode": True, "save_mode_reason": "budget_engage", "budget_tier": "engage"}),
        (CostControl(False, "no_budget"), {"save_mode": False, "save_mode_reason": "no_budget"}),
        (CostControl(), {"save_mode": False}),
    ],
    ids=["saved", "no budget", "nothing decided"],
)
def test_what_was_done_about_the_cost(control, expected):
    assert control_properties(control) == expected
