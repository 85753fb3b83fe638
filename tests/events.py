"""Usage events and whom they belong to, for all tests."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flow.domain.usage.events import Kind, Owner, Provenance, Quantities, UsageEvent


def an_owner(**given: Any) -> Owner:
    """A customer's call, with some fields given."""
    known: dict[str, Any] = {
        "workflow_thread_id": UUID(int=1),
        "api_key_id": UUID(int=2),
        "team_id": "acme",
        "product": "voice_bot",
        "billable": True,
    }
    return Owner(**(known | given))


def an_event(owner: Owner | None = None, **given: Any) -> UsageEvent:
    """A generation that OpenAI has reported and nobody has priced, with some fields given."""
    known: dict[str, Any] = {
        "owner": owner or an_owner(),
        "kind": Kind.LLM,
        "source": "bot",
        "provider": "openai",
        "model": "gpt-4.1",
        "quantities": Quantities(input_tokens=100, output_tokens=10),
        "provenance": Provenance.REPORTED,
    }
    return UsageEvent(**(known | given))
