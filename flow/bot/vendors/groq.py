"""Groq: chat in OpenAI's protocol."""

from __future__ import annotations

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Vendor
from flow.metering.vendor_apis import CHAT_API

VENDOR = Vendor(
    name="groq",
    key="GROQ_API_KEY",
    base_url="https://api.groq.com/openai/v1",
    services=(compatible_chat("groq.llm:GroqLLMService"),),
    apis=CHAT_API,
)
