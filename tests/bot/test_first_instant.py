"""A call that ends in its first instants leaves no task, whatever had been started by then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from flow.bot.cost_control import Spending
from flow.bot.pipeline import BotSettings, CallPipeline, build_pipeline
from flow.bot.pipeline_runner import RunningPipeline
from flow.bot.speech_detection import ListeningModels
from flow.bot.transports.spec import SPEECH
from flow.bot.vendors import vendors_by_part
from flow.bot.warmup import EmptyStage
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product_file import read_products
from flow.domain.usage.events import Owner
from flow.metering.request import Recording
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.server import Served
from flow.vendors.openai_client import openai_endpoint
from tests.bot.test_warmup import PARTS
from tests.call_tools import UNUSED_TOOLS
from tests.notebook import Notebook

JOIN = JoinRequest.model_validate({"bot": PARTS})


@pytest.fixture(scope="module")
def models() -> ListeningModels:
    return ListeningModels("silence")


@asynccontextmanager
async def settings(models: ListeningModels) -> AsyncIterator[BotSettings]:
    async with Served(OpenAISandbox()) as url:
        endpoints = {"openai": openai_endpoint(SecretStr("sk-fake"), f"{url}/v1")}
        yield BotSettings(endpoints, models, 60.0, "estimate", None, UNUSED_TOOLS)
        await endpoints["openai"].close()


def line(settings: BotSettings, owner: Owner, notebook: Recording) -> CallPipeline:
    product = read_products(None, vendors_by_part()).for_call("voice_bot")
    spending = Spending(product, cache_key="first instant")
    return build_pipeline(JOIN, owner, EmptyStage(), SPEECH, notebook, settings, spending)


async def test_a_pipeline_stopped_at_any_step_of_its_start_leaves_no_task(
    models: ListeningModels, owner: Owner, notebook: Notebook
) -> None:
    """Stopped after every so many turns of the event loop, from none until it has started."""
    started_at: int | None = None
    async with settings(models) as ready:
        before = asyncio.all_tasks()
        turns = 0
        while started_at is None or turns < started_at + 20:
            built = line(ready, owner, notebook)
            started = asyncio.Event()

            async def note(*_: object, started: asyncio.Event = started) -> None:
                started.set()

            built.worker.add_event_handler("on_pipeline_started", note)
            pipeline = await RunningPipeline.start(built.worker, "short")
            for _ in range(turns):
                await asyncio.sleep(0)
            if started.is_set() and started_at is None:
                started_at = turns
            await pipeline.stop(5)
            await built.close()
            left = asyncio.all_tasks() - before
            assert [task.get_name() for task in left] == [], f"after {turns} turns"
            turns += 1 if turns < 30 else 7
            assert turns < 1000, "it never started"
    assert notebook.open == set()
