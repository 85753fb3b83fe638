"""xAI: chat in OpenAI's protocol."""

from __future__ import annotations

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Vendor
from flow.metering.vendor_apis import CHAT_API

VENDOR = Vendor(
    name="xai",
    key="XAI_API_KEY",
    base_url="https://api.x.ai/v1",
    services=(compatible_chat("xai.llm:GrokLLMService"),),
    apis=CHAT_API,
)
