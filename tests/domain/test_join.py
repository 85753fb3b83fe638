"""Joins as they are taken in, and as they are read back."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flow.bot.transports import TRANSPORTS
from flow.domain.calls.join_request import MAX_METADATA_BYTES, JoinRequest

# Each breaks a rule that may have come after it was stored.
JUDGED_ONCE: dict[str, dict[str, Any]] = {
    "schema form": {"insights": {"schema": {"type": "object", "patternProperties": {"(": {}}}}},
    "schema type": {"insights": {"schema": {"type": "array"}}},
    "schema size": {"insights": {"schema": {"type": "object", "title": "x" * 100_000}}},
    "metadata": {"metadata": {"a": "x" * (MAX_METADATA_BYTES + 1)}},
    "webhook": {"webhook_url": "ftp://example.com"},
    "room": {"transport": {"type": "daily", "room_url": "https://elsewhere.example/x"}},
    "transport": {"transport": {"type": "twilio", "room_url": "https://acme.daily.co/x"}},
}


@pytest.mark.parametrize("fields", JUDGED_ONCE.values(), ids=JUDGED_ONCE)
def test_what_is_judged_when_it_is_taken_in_is_not_judged_again(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JoinRequest.model_validate(fields, context={"transports": TRANSPORTS})
    stored = JoinRequest().to_json() | fields
    assert JoinRequest.from_json(stored).to_json() == JoinRequest().to_json() | {
        name: JoinRequest().to_json()[name] | value if isinstance(value, dict) else value
        for name, value in fields.items()
    }


def test_a_join_comes_back_as_it_was_stored() -> None:
    join = JoinRequest.model_validate(
        {
            "transport": {"type": "livekit", "room_url": "wss://x.livekit.cloud"},
            "bot": {"llm": {"model": "gpt-4.1", "temperature": 0.5}, "greeting": "Hello!"},
            "insights": {"schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "metadata": {"a": [1, None, {"b": 2.5}]},
            "webhook_url": "https://example.com/hook",
        }
    )
    assert JoinRequest.from_json(join.to_json()) == join


@pytest.mark.parametrize("stored", [{"bot": []}, {"metadata": 1}, {"max_duration_secs": "x"}])
def test_a_stored_join_still_has_types(stored: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JoinRequest.from_json(stored)
