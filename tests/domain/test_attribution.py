"""Whose work a request is: the headers a gateway is told, and what a caller cannot change."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.attribution import (
    HEADER_NAMES,
    attribution_headers,
    attribution_properties,
    with_attribution,
)
from flow.domain.usage import Owner

OWNER = Owner(
    workflow_thread_id=UUID(int=1),
    api_key_id=UUID(int=2),
    team_id="acme",
    product="voice_bot",
    billable=True,
)


def test_the_four_headers():
    assert attribution_headers(OWNER) == {
        "x-posthog-property-team_id": "acme",
        "x-posthog-property-api_key_id": str(UUID(int=2)),
        "x-posthog-property-ai_product": "voice_bot",
        "x-posthog-property-workflow_thread_id": str(UUID(int=1)),
    }


@pytest.mark.parametrize("unset", [None, "", "   ", "\t"])
def test_a_value_that_is_unset_has_no_header(unset):
    headers = attribution_headers(replace(OWNER, team_id=unset))
    assert "x-posthog-property-team_id" not in headers
    assert len(headers) == 3


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
    headers = attribution_headers(replace(OWNER, team_id=team))
    assert headers["x-posthog-property-team_id"] == sent


@given(st.text())
def test_any_value_is_one_safe_header_and_comes_back(team):
    sent = attribution_headers(replace(OWNER, team_id=team)).get("x-posthog-property-team_id", "")
    assert all(0x20 <= ord(char) < 0x7F for char in sent)
    assert sent == sent.strip()
    assert unquote(sent) == team.strip()


@given(
    st.dictionaries(
        st.sampled_from([*HEADER_NAMES, "X-PostHog-Property-Team_Id", "X-Team", "authorization"]),
        st.text(max_size=5),
    )
)
def test_ours_replace_what_a_caller_sent_and_nothing_else(existing):
    merged = with_attribution(existing, OWNER)
    ours = attribution_headers(OWNER)
    others = {name: value for name, value in existing.items() if name.lower() not in HEADER_NAMES}
    assert merged == {**others, **ours}
    assert [name for name in merged if name.lower() in HEADER_NAMES] == list(ours)


def test_without_an_owner_a_spoofed_header_is_only_removed():
    spoofed = {"X-POSTHOG-PROPERTY-TEAM_ID": "victim", "X-Other": "kept"}
    assert with_attribution(spoofed, None) == {"X-Other": "kept"}


def test_a_spoofed_header_goes_even_when_the_server_has_no_value():
    merged = with_attribution({"x-posthog-property-team_id": "v"}, replace(OWNER, team_id=""))
    assert "x-posthog-property-team_id" not in merged


def test_the_properties_of_every_event():
    assert attribution_properties(OWNER) == {
        "ai_product": "voice_bot",
        "$ai_billable": True,
        "team_id": "acme",
        "api_key_id": str(UUID(int=2)),
        "workflow_thread_id": str(UUID(int=1)),
    }
