"""OpenRouter: chat in OpenAI's protocol."""

from __future__ import annotations

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Vendor
from flow.metering.vendor_apis import CHAT_API
from flow.vendors.key_requests import get

VENDOR = Vendor(
    name="openrouter",
    key="OPENROUTER_API_KEY",
    base_url="https://openrouter.ai/api/v1",
    services=(compatible_chat("openrouter.llm:OpenRouterLLMService"),),
    apis=CHAT_API,
    # Its list of models is open to everybody.
    key_request=get("/key"),
)
