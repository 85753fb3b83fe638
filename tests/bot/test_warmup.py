"""A rehearsed call leaves nothing behind: no request, no record, no task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from flow.bot.pipeline import BotSettings
from flow.bot.speech_detection import ListeningModels
from flow.bot.vendors import vendors_by_part
from flow.bot.warmup import rehearse
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product_file import read_products
from flow.sandbox.deepgram.app import DeepgramSandbox
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.server import Served
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import openai_endpoint
from tests.call_tools import UNUSED_TOOLS

PARTS = {
    "llm": {"provider": "openai", "model": "gpt-4.1"},
    "stt": {"provider": "openai", "model": "gpt-4o-transcribe"},
    "tts": {"provider": "openai", "model": "gpt-4o-mini-tts", "voice": "alloy"},
}


DEEPGRAMS = {
    "stt": {"provider": "deepgram", "model": "nova-3"},
    "tts": {"provider": "deepgram", "model": "aura-2"},
}


CASCADE = PARTS | {"greeting": "Hello!"}


@pytest.mark.parametrize(
    "bot",
    [
        CASCADE,
        CASCADE | DEEPGRAMS,
        {"realtime": {"provider": "openai", "model": "gpt-realtime"}},
        {"realtime": {"provider": "google", "model": "gemini-3.8-live"}},
    ],
    ids=["HTTP", "WebSockets", "openai-realtime", "gemini-live"],
)
async def test_a_rehearsal_asks_nobody_for_anything_and_leaves_no_task(
    bot: dict[str, Any],
) -> None:
    sandbox, deepgram, google = OpenAISandbox(), DeepgramSandbox(), GoogleSandbox()
    async with (
        Served(sandbox) as url,
        Served(deepgram) as deepgram_url,
        Served(google) as google_url,
    ):
        endpoints = {
            "openai": openai_endpoint(SecretStr("sk-fake"), f"{url}/v1"),
            "deepgram": Endpoint(SecretStr("dg-fake"), deepgram_url),
            "google": Endpoint(SecretStr("g-fake"), google_url),
        }
        settings = BotSettings(
            endpoints, ListeningModels("silence"), 60.0, "estimate", None, UNUSED_TOOLS
        )
        product = read_products(None, vendors_by_part()).for_call("voice_bot")
        join = JoinRequest.model_validate({"bot": bot})
        before = asyncio.all_tasks()
        await rehearse(join, settings, product)
        for _ in range(10):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        for endpoint in endpoints.values():
            await endpoint.close()
    assert [task.get_name() for task in left] == []
    assert sandbox.bill.lines == []
    assert [[*one.requests] for one in (sandbox, deepgram, google)] == [[], [], []]
