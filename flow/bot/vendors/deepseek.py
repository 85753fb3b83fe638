"""DeepSeek: chat in OpenAI's protocol."""

from __future__ import annotations

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Vendor
from flow.metering.vendor_apis import CHAT_API

VENDOR = Vendor(
    name="deepseek",
    key="DEEPSEEK_API_KEY",
    base_url="https://api.deepseek.com/v1",
    services=(compatible_chat("deepseek.llm:DeepSeekLLMService", longest_reply="max_tokens"),),
    apis=CHAT_API,
)
