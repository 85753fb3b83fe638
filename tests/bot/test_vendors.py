"""Vendors' specs: what nothing meters is refused, and a native service is one file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pipecat.frames.frames import LLMRunFrame
from pydantic import SecretStr

from flow.bot.cost_control import Spending
from flow.bot.pipeline import BotSettings, build_pipeline
from flow.bot.pipeline_runner import RunningPipeline
from flow.bot.speech_detection import ListeningModels
from flow.bot.transports.spec import SPEECH
from flow.bot.usage_metrics import FROM_FRAMES
from flow.bot.vendors import VENDORS, require_meters, vendors_by_part
from flow.bot.vendors.spec import ServiceSpec, Vendor
from flow.bot.warmup import EmptyStage
from flow.domain.calls.bot_part import CASCADE, BotPart
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Turn
from flow.domain.products.product_file import read_products
from flow.domain.usage.events import Owner, Provenance
from flow.domain.usage.units import Kind
from flow.errors import ConfigurationError
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.server import Served
from flow.vendors.openai_client import openai_endpoint
from tests.bot.test_warmup import PARTS
from tests.call_tools import UNUSED_TOOLS
from tests.notebook import Notebook


def nothing(_: Any) -> Any:
    raise AssertionError("it is never made")


def test_every_service_that_can_be_chosen_is_metered() -> None:
    require_meters()
    assert frozenset().union(*(vendor.parts for vendor in VENDORS.values())) >= {*CASCADE}


def test_a_service_that_nothing_meters_stops_the_start_and_is_named() -> None:
    """A native service whose author forgot the reader."""
    spec = ServiceSpec(BotPart.LLM, nothing)
    vendor = Vendor("acme", "ACME_API_KEY", "https://acme.example", (spec,))
    with pytest.raises(ConfigurationError, match="the llm service of acme") as refused:
        require_meters({**VENDORS, "acme": vendor})
    assert "\n" not in str(refused.value)


def test_a_vendor_is_offered_for_what_it_has() -> None:
    voice = ServiceSpec(BotPart.TTS, nothing, by_frames=True)
    offered = vendors_by_part({"acme": Vendor("acme", "ACME_API_KEY", None, (voice,))})
    assert offered.pop("tts") == frozenset({"acme"})
    assert {*offered.values()} == {frozenset()}


@pytest.mark.parametrize("package", [None, "no_such_package", "google.no_such", "no_such.part"])
def test_a_vendor_whose_package_is_missing_says_which_extra_installs_it(
    package: str | None,
) -> None:
    """``google`` is a name that several packages share: that it is there says nothing."""
    vendor = Vendor("acme", "ACME_API_KEY", None, extra="no_such_extra", package=package)
    assert vendor.missing == "install 'flow-voice[no_such_extra]'"
    assert replace(vendor, package="google.genai").missing is None


async def test_in_a_call_the_frames_count_what_has_no_tap_and_nothing_else(owner: Owner) -> None:
    """A call whose model is known by frames alone: the processor records it, and only it."""
    openai = VENDORS["openai"]
    by_frames = replace(
        openai,
        services=tuple(
            replace(spec, http_wire=None, by_frames=True) if spec.part is BotPart.LLM else spec
            for spec in openai.services
        ),
    )
    sandbox, notebook = OpenAISandbox(["Good evening."]), Notebook()
    async with Served(sandbox) as url:
        endpoint = openai_endpoint(SecretStr("sk-fake"), f"{url}/v1")
        settings = BotSettings(
            {"openai": endpoint},
            ListeningModels("silence"),
            60.0,
            "estimate",
            None,
            UNUSED_TOOLS,
            vendors={"openai": by_frames},
        )
        product = read_products(None, vendors_by_part()).for_call("voice_bot")
        line = build_pipeline(
            JoinRequest.model_validate({"bot": PARTS}),
            owner,
            EmptyStage(),
            SPEECH,
            notebook,
            settings,
            Spending(product, cache_key="a call"),
            [Turn(0, "user", "Hello?", datetime.now(UTC))],
        )
        pipeline = await RunningPipeline.start(line.worker, "call")
        await line.worker.queue_frame(LLMRunFrame())
        async with asyncio.timeout(10):
            while len(notebook.events) < 2:
                await asyncio.sleep(0.01)
        await pipeline.stop(5)
        await line.close()
        await endpoint.close()
    llm_event, tts_event = sorted(notebook.events, key=lambda event: event.kind)
    assert (llm_event.kind, llm_event.note) == (Kind.LLM, FROM_FRAMES)
    assert llm_event.provenance is Provenance.REPORTED
    (billed,) = [one for one in sandbox.bill.lines if one.kind == "llm"]
    assert llm_event.quantities["output_tokens"] == billed.amounts.completion_tokens
    assert (tts_event.kind, tts_event.note) == (Kind.TTS, None)
