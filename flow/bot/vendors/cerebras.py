"""Cerebras: chat in OpenAI's protocol."""

from __future__ import annotations

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Vendor
from flow.metering.vendor_apis import CHAT_API

VENDOR = Vendor(
    name="cerebras",
    key="CEREBRAS_API_KEY",
    base_url="https://api.cerebras.ai/v1",
    services=(compatible_chat("cerebras.llm:CerebrasLLMService"),),
    apis=CHAT_API,
)
