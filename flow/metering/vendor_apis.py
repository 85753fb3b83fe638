"""The HTTP APIs of vendors that requests can be passed on to as they are, each with its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal

from flow.domain.gateway import operations
from flow.domain.gateway.operations import Operation
from flow.domain.usage.vendor_reports import Counting
from flow.metering.wires.anthropic_messages import AnthropicMessages
from flow.metering.wires.openai_audio import OpenAISpeech, OpenAITranscription
from flow.metering.wires.openai_chat import OpenAIChat
from flow.metering.wires.openai_embeddings import OpenAIEmbeddings
from flow.metering.wires.openai_responses import OpenAIResponses
from flow.metering.wires.reader import HttpWire


@dataclass(frozen=True, slots=True)
class VendorApi:
    """Where a vendor serves an operation, below its base URL, and what reads it.

    ``asks_for_usage``: its streams tell what they used only if ``stream_options`` asks for it. Not
    every vendor that speaks OpenAI's protocol takes that field.
    """

    path: str
    wire: Callable[[], HttpWire]
    asks_for_usage: bool = False


@dataclass(frozen=True, slots=True)
class VendorApis:
    """The operations that a vendor serves.

    Args:
        key_header: the header that holds the API key: ``authorization`` as a bearer token, any
            other as it is.
        headers: what a request says unless its caller does.
        base_path: where they are below the vendor's base URL, unless that ends with it.
    """

    operations: Mapping[Operation, VendorApi] = field(default_factory=lambda: MappingProxyType({}))
    key_header: Literal["authorization", "x-api-key", "api-key"] = "authorization"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    base_path: str = ""

    def below(self, base_url: str) -> str:
        """The URL that the paths of the operations are below."""
        url = base_url.rstrip("/")
        return url if url.endswith(self.base_path) else url + self.base_path

    def credentials(self, api_key: str) -> tuple[str, str]:
        """The header that says the key."""
        value = f"Bearer {api_key}" if self.key_header == "authorization" else api_key
        return self.key_header, value


NO_APIS = VendorApis()


def _chat(*, asks_for_usage: bool) -> VendorApis:
    api = VendorApi("/chat/completions", OpenAIChat, asks_for_usage)
    return VendorApis(MappingProxyType({operations.CHAT: api}))


CHAT_API = _chat(asks_for_usage=True)
"""Chat in OpenAI's protocol, as many vendors serve it."""

CHAT_API_TELLING_USAGE = _chat(asks_for_usage=False)
"""The same of a vendor whose streams tell what they used by themselves."""

OPENAI_APIS = VendorApis(
    MappingProxyType(
        {
            **CHAT_API.operations,
            operations.RESPONSES: VendorApi("/responses", OpenAIResponses),
            operations.EMBEDDINGS: VendorApi("/embeddings", OpenAIEmbeddings),
            operations.SPEECH: VendorApi("/audio/speech", OpenAISpeech),
            operations.TRANSCRIPTIONS: VendorApi("/audio/transcriptions", OpenAITranscription),
        }
    )
)

# learn.microsoft.com, "Azure OpenAI in Microsoft Foundry Models v1 API".
AZURE_APIS = VendorApis(
    MappingProxyType(
        {
            operation: OPENAI_APIS.operations[operation]
            for operation in (operations.CHAT, operations.RESPONSES, operations.EMBEDDINGS)
        }
    ),
    key_header="api-key",
    base_path="/openai/v1",
)

# ai.google.dev, "OpenAI compatibility". Thoughts lie beside the completion there.
GOOGLE_APIS = VendorApis(
    MappingProxyType(
        {
            operations.CHAT: VendorApi(
                "/chat/completions", partial(OpenAIChat, Counting.GEMINI), asks_for_usage=True
            ),
            operations.EMBEDDINGS: OPENAI_APIS.operations[operations.EMBEDDINGS],
        }
    ),
    base_path="/v1beta/openai",
)
"""Gemini, in OpenAI's protocol."""

ANTHROPIC_APIS = VendorApis(
    MappingProxyType(
        {
            operations.MESSAGES: VendorApi("/v1/messages", AnthropicMessages),
            operations.COUNT_TOKENS: VendorApi("/v1/messages/count_tokens", AnthropicMessages),
        }
    ),
    key_header="x-api-key",
    headers=MappingProxyType({"anthropic-version": "2023-06-01"}),
)
