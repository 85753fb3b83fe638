"""Stand-ins served on loopback, and the vendors' own clients pointed at them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import httpx2
import pytest
from anthropic import AsyncAnthropic
from anthropic import DefaultAsyncHttpxClient as AnthropicHttpxClient
from google import genai
from google.genai.types import HttpOptions
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from starlette.types import ASGIApp

from flow.kit.tls import trusted
from flow.sandbox.anthropic import AnthropicSandbox
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.server import Served


class Server:
    """Serves any number of apps until the test is over."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def url(self, app: ASGIApp) -> str:
        return await self._stack.enter_async_context(Served(app))

    async def openai(self, app: OpenAISandbox, key: str = "a key") -> AsyncOpenAI:
        client = AsyncOpenAI(
            api_key=key,
            base_url=f"{await self.url(app)}/v1",
            max_retries=0,
            timeout=10,
            http_client=DefaultAsyncHttpxClient(verify=trusted()),
        )
        return await self._stack.enter_async_context(client)

    async def anthropic(self, app: AnthropicSandbox, key: str = "a key") -> AsyncAnthropic:
        client = AsyncAnthropic(
            api_key=key,
            base_url=await self.url(app),
            max_retries=0,
            timeout=10,
            http_client=AnthropicHttpxClient(verify=trusted()),
        )
        return await self._stack.enter_async_context(client)

    async def google(self, app: GoogleSandbox, key: str = "a key") -> genai.client.AsyncClient:
        http = await self._stack.enter_async_context(httpx2.AsyncClient(verify=trusted()))
        options = HttpOptions(
            base_url=await self.url(app),
            httpx_async_client=http,
            client_args={"verify": trusted()},
            async_client_args={"verify": trusted(), "ssl": trusted()},
        )
        return genai.Client(api_key=key, http_options=options).aio

    async def http(self, app: ASGIApp) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            base_url=await self.url(app),
            headers={"authorization": "Bearer a key"},
            timeout=10,
            verify=trusted(),
        )
        return await self._stack.enter_async_context(client)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        yield Server(stack)


@pytest.fixture
def vendor() -> OpenAISandbox:
    """An OpenAI whose voice is a ramp of 10 samples per character, and whose ears count bytes."""
    return OpenAISandbox(speak=ramp, hear=count_bytes)


def ramp(text: str, *, sample_rate: int = 24_000) -> bytes:
    return b"".join(n.to_bytes(2, "little") for n in range(10 * len(text)))


def count_bytes(pcm16: bytes, sample_rate: int) -> str:
    return f"heard {len(pcm16)} bytes at {sample_rate}"
