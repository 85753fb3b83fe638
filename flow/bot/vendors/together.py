"""Together AI: chat in OpenAI's protocol."""

from __future__ import annotations

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Vendor
from flow.metering.vendor_apis import CHAT_API

VENDOR = Vendor(
    name="together",
    key="TOGETHER_API_KEY",
    base_url="https://api.together.xyz/v1",
    services=(compatible_chat("together.llm:TogetherLLMService"),),
    apis=CHAT_API,
)
