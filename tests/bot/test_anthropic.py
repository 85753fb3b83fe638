"""Anthropic as a vendor: its service as Flow makes it, and its account against the vendor's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from pipecat.processors.aggregators.llm_context import LLMContext
from pydantic import SecretStr

from flow.bot.join_defaults import Resolver
from flow.bot.services import CallServices
from flow.bot.vendors import spec
from flow.bot.vendors.anthropic import VENDOR
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product import Product, Products
from flow.domain.products.product import Saving as ProductSaving
from flow.domain.products.save_mode import saving_request
from flow.domain.usage.events import CostControl, Outcome, Provenance, Quantities, UsageEvent
from flow.errors import ConfigurationError, InvalidInput
from flow.sandbox.anthropic import AnthropicSandbox
from flow.sandbox.bill import Amounts
from flow.sandbox.server import Served
from flow.vendors.model_endpoint import Endpoint
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
CHOICE = Choice("anthropic", "claude-haiku-4-5", {"max_tokens": 200, "temperature": None})
HELLO: Any = [{"role": "user", "content": "hello"}]
LONG = "A sentence of a system prompt that is as long as it has to be. " * 120


@dataclass
class World:
    """A service of one call on a stand-in."""

    app: AnthropicSandbox
    notebook: Notebook
    service: Any

    @property
    def client(self) -> AsyncAnthropic:
        """The service's own client."""
        client: AsyncAnthropic = self.service._client
        return client

    async def ask(self, **more: Any) -> UsageEvent:
        given = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": HELLO, **more}
        answer = await self.client.messages.create(**given)
        if more.get("stream"):
            async for _ in answer:
                pass
        return self.notebook.events[-1]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    app, notebook = AnthropicSandbox(), Notebook()
    async with Served(app) as url:
        endpoint = Endpoint(SecretStr("a key"), url, timeout_secs=2)
        services = CallServices(OWNER, notebook, {"anthropic": endpoint})
        yield World(app, notebook, services.build(BotPart.LLM, CHOICE))
        await services.close()
        await endpoint.close()


def quantities_of(amounts: Amounts) -> Quantities:
    """The ledger's quantities of what the vendor bills."""
    return Quantities(
        input_tokens=amounts.prompt_tokens - amounts.cached_tokens - amounts.cache_write_tokens,
        cache_read_tokens=amounts.cached_tokens,
        cache_write_tokens=amounts.cache_write_tokens,
        cache_write_1h_tokens=amounts.cache_write_1h_tokens,
        output_tokens=amounts.completion_tokens,
    )


def system(*lifetimes: str | None) -> list[dict[str, Any]]:
    return [
        {
            "type": "text",
            "text": f"{n}. {LONG}",
            "cache_control": {"type": "ephemeral", **({"ttl": ttl} if ttl else {})},
        }
        for n, ttl in enumerate(lifetimes)
    ]


async def test_an_inference_outside_the_pipeline_is_counted_as_well(world: World) -> None:
    said = await world.service.run_inference(LLMContext(HELLO))
    (event,) = world.notebook.events
    (line,) = world.app.bill.lines
    assert said
    assert event.quantities == quantities_of(line.amounts)
    assert (event.model, event.requested_model) == (line.model, "claude-haiku-4-5")
    assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.OK)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("lifetimes", [("1h",), (None,), ("1h", None), ("1h", "5m"), ()])
async def test_what_the_cache_costs_is_counted_by_lifetime_as_it_is_billed(
    world: World, lifetimes: tuple[str | None, ...], stream: bool
) -> None:
    for _ in range(2):
        event = await world.ask(system=system(*lifetimes), stream=stream)
        assert event.quantities == quantities_of(world.app.bill.lines[-1].amounts)
    first, again = world.notebook.events
    assert bool(first.quantities["cache_write_1h_tokens"]) == ("1h" in lifetimes)
    assert again.quantities["cache_read_tokens"] == first.quantities["cache_write_tokens"]


@dataclass
class Saving:
    """A call's cost control, switched by hand."""

    is_on: bool = False

    def control(self) -> CostControl:
        return CostControl(self.is_on)

    def shape(self, request: Mapping[str, Any], provider: str) -> Mapping[str, Any]:
        product = ProductSaving(prompt_cache=True)
        return (
            saving_request(request, provider=provider, saving=product, cache_key="a call")
            if self.is_on
            else request
        )


async def test_each_turn_reads_what_the_last_wrote_and_save_mode_writes_it_for_an_hour() -> None:
    app, notebook, saving = AnthropicSandbox(), Notebook(), Saving()
    choice = replace(CHOICE, options={**CHOICE.options, "system_instruction": LONG})
    async with Served(app) as url:
        endpoint = Endpoint(SecretStr("a key"), url, timeout_secs=2)
        services = CallServices(
            OWNER,
            notebook,
            {"anthropic": endpoint},
            control=saving.control,
            shape=saving.shape,
        )
        service: Any = services.build(BotPart.LLM, choice)
        said = [*HELLO]
        for saving.is_on in (False, False, True, True):
            await service.run_inference(LLMContext(said))
            said += [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": LONG}]
        await services.close()
        await endpoint.close()
    events, lines = notebook.events, app.bill.lines
    assert [e.quantities for e in events] == [quantities_of(line.amounts) for line in lines]
    assert [e.control.save_mode for e in events] == [False, False, True, True]
    written = [e.quantities.count("cache_write_tokens") for e in events]
    for_an_hour = [e.quantities.count("cache_write_1h_tokens") for e in events]
    read = [e.quantities.count("cache_read_tokens") for e in events]
    assert min(written) > 1000
    assert for_an_hour == [0, 0, *written[2:]]
    assert read == [0, written[0], sum(written[:2]), sum(written[:3])]
    assert {e.provenance for e in events} == {Provenance.REPORTED}


async def test_counting_tokens_costs_nothing_and_is_no_event(world: World) -> None:
    counted = await world.client.messages.count_tokens(model="claude-haiku-4-5", messages=HELLO)
    assert counted.input_tokens > 0
    assert world.notebook.events == []


async def test_the_vendor_is_told_of_no_trace(world: World) -> None:
    options = world.client.open_telemetry
    assert (options["propagation"], options["traces"]["enabled"]) == (False, False)


@pytest.fixture
def _without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "is_installed", lambda _: False)


@pytest.mark.usefixtures("_without_package")
async def test_without_its_package_it_says_which_extra_is_missing() -> None:
    endpoint = Endpoint(SecretStr("a key"), "https://anthropic.example")
    services = CallServices(OWNER, Notebook(), {"anthropic": endpoint})
    with pytest.raises(ConfigurationError, match="'anthropic' is not set up here") as raised:
        services.build(BotPart.LLM, CHOICE)
    assert "install 'flow-voice[anthropic]'" in str(raised.value.hint)
    await endpoint.close()


@pytest.mark.usefixtures("_without_package")
def test_a_join_is_refused_where_its_package_is_missing() -> None:
    defaults = {
        "stt": {"provider": "openai", "model": "whisper-1"},
        "llm": {"provider": "openai", "model": "gpt-4.1"},
        "tts": {"provider": "openai", "model": "tts-1", "voice": "alloy"},
        "realtime": {"provider": "openai", "model": "gpt-realtime", "voice": "alloy"},
    }
    products = [Product("voice_bot", billable=True), Product("insights", True, calls=False)]
    resolver = Resolver(Products(products), defaults, ["openai", "anthropic"])
    llm = {"provider": "anthropic", "model": "claude-haiku-4-5"}
    join = JoinRequest.model_validate(
        {"transport": {"type": "websocket"}, "bot": {"llm": llm}, "product": "voice_bot"}
    )
    with pytest.raises(InvalidInput) as refused:
        resolver.resolve(join)
    (problem,) = refused.value.problems
    assert problem.message == "'anthropic' is not set up here"
    assert "install 'flow-voice[anthropic]'" in str(problem.hint)


def test_it_is_found_by_its_key() -> None:
    assert (VENDOR.key, VENDOR.base_url_variable) == ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
    assert VENDOR.missing is None
