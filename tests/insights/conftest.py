"""A vendor's stand-in for the insights step, and calls to extract from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Status, Thread, Turn
from flow.domain.insights.insights import InsightsResult
from flow.domain.usage.events import Owner, UsageEvent
from flow.insights.extract import ExtractInsightsStep
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.replies import Reply
from flow.sandbox.server import Served
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import openai_endpoint
from tests.notebook import Notebook

START = datetime(2026, 11, 1, tzinfo=UTC)
TALK = ("Hi, my order 17 never came.", "I am sorry. I will send it again today.", "Thanks, bye.")


def a_thread(*said: str, **insights: Any) -> Thread:
    turns = (
        Turn(n, "assistant" if n % 2 else "user", text, START + timedelta(seconds=4 * n))
        for n, text in enumerate(said)
    )
    return Thread(
        id=uuid4(),
        api_key_id=UUID(int=2),
        team_id="acme",
        product="voice_bot",
        billable=True,
        status=Status.EXTRACTING,
        join=JoinRequest.from_json({"insights": insights} if insights else {}),
        transcript=tuple(turns),
        insights=None,
        usage_stats={},
        metadata={},
        error=None,
        end_reason="hangup",
        end_requested=False,
        created_at=START,
        connected_at=START,
        ended_at=START,
        completed_at=None,
    )


def owner_of(thread: Thread) -> Owner:
    return Owner(thread.id, thread.api_key_id, thread.team_id, thread.product, thread.billable)


@dataclass
class Vendor:
    """The stand-in. ``says`` are its next replies; after those it answers by itself."""

    says: list[Reply | str] = field(default_factory=list)
    heard: list[Sequence[Any]] = field(default_factory=list)
    app: OpenAISandbox = field(init=False)
    base_url: str = ""

    def __post_init__(self) -> None:
        self.app = OpenAISandbox(self._say)

    def _say(self, messages: Sequence[Any]) -> Reply | str | None:
        self.heard.append(messages)
        return self.says.pop(0) if self.says else None

    def endpoint(self, **options: Any) -> Endpoint:
        return openai_endpoint(SecretStr("sk-test"), self.base_url, **options)


@dataclass
class Extraction:
    """What came of a step, and the account of every request it made, in order."""

    result: InsightsResult
    events: list[UsageEvent]
    begun: list[UsageEvent]


async def extracted(
    endpoint: Endpoint, thread: Thread, model: str = "gpt-4.1-mini", **options: Any
) -> Extraction:
    """Run the step on a thread."""
    notebook = Notebook()
    step = ExtractInsightsStep(endpoint, model, notebook, **options)
    result = await step.run(thread, owner_of(thread))
    assert notebook.open == set()
    return Extraction(result, notebook.events, notebook.begun)


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    vendor = Vendor()
    async with Served(vendor.app) as url:
        vendor.base_url = f"{url}/v1"
        yield vendor
