"""Mistral: chat in OpenAI's protocol.

It is not asked for usage, which its streams tell in their last chunk.
"""

from __future__ import annotations

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Vendor
from flow.metering.vendor_apis import CHAT_API_TELLING_USAGE

VENDOR = Vendor(
    name="mistral",
    key="MISTRAL_API_KEY",
    base_url="https://api.mistral.ai/v1",
    services=(compatible_chat("mistral.llm:MistralLLMService", longest_reply="max_tokens"),),
    apis=CHAT_API_TELLING_USAGE,
)
