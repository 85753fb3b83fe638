"""Azure OpenAI's stand-in, by the SDK's own clients, and what its chunks are read as."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from flow.sandbox.openai.azure import AzureOpenAISandbox
from flow.sandbox.server import Served

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello?"}]}


@asynccontextmanager
async def client(surface: str) -> AsyncIterator[tuple[openai.AsyncOpenAI, AzureOpenAISandbox]]:
    sandbox = AzureOpenAISandbox(["Good evening."], deployments={"assistant": "gpt-4.1"})
    async with Served(sandbox) as url:
        made: openai.AsyncOpenAI = (
            openai.AsyncOpenAI(api_key="key", base_url=f"{url}/openai/v1", max_retries=0)
            if surface == "v1"
            else openai.AsyncAzureOpenAI(
                api_key="key", azure_endpoint=url, api_version="2025-04-01-preview", max_retries=0
            )
        )
        async with made:
            yield made, sandbox


@pytest.mark.parametrize("surface", ["v1", "dated"])
async def test_a_deployment_answers_as_its_model(surface: str) -> None:
    async with client(surface) as (azure, sandbox):
        stream = await azure.chat.completions.create(
            model="assistant", stream=True, stream_options={"include_usage": True}, **ASKED
        )
        chunks = [chunk async for chunk in stream]
    first, *others, last = chunks
    assert (first.model, first.choices) == ("", [])
    assert {chunk.model for chunk in others} == {"gpt-4.1-2025-04-14"}
    said = "".join(c.choices[0].delta.content or "" for c in others if c.choices)
    assert said == "Good evening."
    assert last.usage is not None
    (line,) = sandbox.bill.lines
    assert (line.model, line.requested_model) == ("gpt-4.1-2025-04-14", "assistant")
    assert line.amounts.completion_tokens == last.usage.completion_tokens


@pytest.mark.parametrize("surface", ["v1", "dated"])
async def test_what_is_not_deployed_is_not_found(surface: str) -> None:
    async with client(surface) as (azure, sandbox):
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await azure.chat.completions.create(model="gpt-4.1", **ASKED)
    assert sandbox.bill.lines == []


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/openai/v1/chat/completions", {}, 401),
        ("/openai/v1/chat/completions", {"authorization": "Bearer key"}, 200),
        ("/openai/v1/chat/completions", {"api-key": "key"}, 200),
        ("/openai/deployments/assistant/chat/completions", {"api-key": "key"}, 404),
        ("/openai/deployments/assistant/chat/completions?api-version=1", {"api-key": "key"}, 200),
        (
            "/openai/deployments/assistant/chat/completions?api-version=1",
            {"authorization": "Bearer key"},
            401,
        ),
    ],
)
async def test_each_surface_takes_its_own_requests(
    path: str, headers: dict[str, str], status: int
) -> None:
    import httpx2

    async with client("v1") as (azure, _), httpx2.AsyncClient() as http:
        url = azure.base_url.join(path)
        answer = await http.post(url, headers=headers, json={"model": "assistant", **ASKED})
    assert answer.status_code == status
