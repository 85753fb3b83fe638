"""Google as a vendor: Gemini as Flow makes it, and its account against the vendor's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from google import genai
from pipecat.processors.aggregators.llm_context import LLMContext
from pydantic import SecretStr

from flow.bot.services import CallServices
from flow.bot.vendors.google import VENDOR
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.sandbox.bill import Amounts
from flow.sandbox.faults import Fault
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.replies import Reply
from flow.sandbox.server import Served
from flow.vendors.model_endpoint import Endpoint
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
CHOICE = Choice("google", "gemini-2.5-flash", {"max_tokens": 200, "temperature": None})
HELLO: Any = [{"role": "user", "content": "hello"}]
LONG = "A sentence of a system prompt that is as long as it has to be. " * 120


@dataclass
class World:
    """A service of one call on a stand-in."""

    app: GoogleSandbox
    notebook: Notebook
    service: Any

    @property
    def client(self) -> genai.client.AsyncClient:
        """The service's own client."""
        client: genai.client.AsyncClient = self.service._client.aio
        return client

    async def infer(self, **more: Any) -> str | None:
        said: str | None = await self.service.run_inference(LLMContext(HELLO), **more)
        return said


@pytest.fixture
async def world() -> AsyncIterator[World]:
    app, notebook = GoogleSandbox([Reply("Hello.", reasoning_tokens=7)]), Notebook()
    async with Served(app) as url:
        endpoint = Endpoint(SecretStr("a key"), url, timeout_secs=0.2)
        services = CallServices(OWNER, notebook, {"google": endpoint})
        yield World(app, notebook, services.build(BotPart.LLM, CHOICE))
        await services.close()
        await endpoint.close()


def quantities_of(amounts: Amounts) -> Quantities:
    """The ledger's quantities of what the vendor bills."""
    return Quantities(
        input_tokens=amounts.prompt_tokens - amounts.cached_tokens,
        cache_read_tokens=amounts.cached_tokens,
        output_tokens=amounts.completion_tokens,
        reasoning_tokens=amounts.reasoning_tokens,
    )


async def test_an_inference_outside_the_pipeline_is_counted_with_cache_and_thoughts(
    world: World,
) -> None:
    for _ in range(2):
        assert await world.infer(system_instruction=LONG)
    events, lines = world.notebook.events, world.app.bill.lines
    assert [e.quantities for e in events] == [quantities_of(line.amounts) for line in lines]
    assert events[1].quantities["cache_read_tokens"] >= 1024
    assert {e.quantities["reasoning_tokens"] for e in events} == {7}
    assert {e.model for e in events} == {"gemini-2.5-flash"}
    assert {(e.provenance, e.outcome) for e in events} == {(Provenance.REPORTED, Outcome.OK)}


async def test_counting_tokens_costs_nothing_and_is_no_event(world: World) -> None:
    counted = await world.client.models.count_tokens(model="gemini-2.5-flash", contents="hello")
    assert counted.total_tokens
    assert world.notebook.events == []


async def test_an_answer_that_never_comes_is_not_waited_for(world: World) -> None:
    """The SDK itself sets no timeout at all."""
    world.app.faults.add(Fault(kind="hang"))
    with pytest.raises(httpx2.ReadTimeout):
        await world.infer()
    assert {event.outcome for event in world.notebook.events} == {Outcome.ERROR}


async def test_the_vendor_is_asked_by_no_other_client(world: World) -> None:
    """Google's SDK would take aiohttp, where a lost request is sent again unseen."""
    assert world.service._client._api_client._use_aiohttp() is False


def test_it_is_found_by_its_key() -> None:
    assert (VENDOR.key, VENDOR.base_url_variable) == ("GOOGLE_API_KEY", "GOOGLE_BASE_URL")
    assert VENDOR.missing is None
