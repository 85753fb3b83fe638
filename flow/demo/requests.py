"""The requests of the gateway's demo, by the vendors' own SDKs, as a customer would write them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.faults import Fault

HELLO: Any = [{"role": "user", "content": "What can you do for me?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "find_booking",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
FALLBACK = "openai/gpt-4.1-mini"
READ_BEFORE_LEAVING = 12


@dataclass(frozen=True, slots=True)
class Clients:
    """A customer's clients, which leave trying again to the gateway.

    Args:
        openai, anthropic: of the gateway.
        backed: of a product that has a model to fall back to.
    """

    openai: AsyncOpenAI
    anthropic: Any
    backed: AsyncOpenAI


@dataclass(frozen=True, slots=True)
class Step:
    """One request.

    Args:
        what: what it shows.
        rows: how many attempts it takes, each of which is in the ledger.
        upset: has a vendor go wrong first.
    """

    what: str
    send: Callable[[Clients], Awaitable[None]]
    rows: int = 1
    upset: Callable[[Vendors], None] | None = None


async def _chat(clients: Clients) -> None:
    await clients.openai.chat.completions.create(model="gpt-4.1", messages=HELLO)


async def _streamed_chat(clients: Clients) -> None:
    stream = await clients.openai.chat.completions.create(
        model="openai/gpt-4.1", messages=HELLO, stream=True
    )
    async for _ in stream:
        pass


async def _tool(clients: Clients) -> None:
    await clients.openai.chat.completions.create(
        model="gpt-4.1", messages=HELLO, tools=[TOOL], tool_choice="required"
    )


async def _response(clients: Clients) -> None:
    async with clients.openai.responses.stream(model="gpt-4.1", input="Hello!") as stream:
        await stream.get_final_response()


async def _message(clients: Clients) -> None:
    await clients.anthropic.messages.create(
        model="claude-sonnet-4-5", max_tokens=200, messages=HELLO
    )


async def _streamed_message(clients: Clients) -> None:
    async with clients.anthropic.messages.stream(
        model="claude-haiku-4-5", max_tokens=200, messages=HELLO
    ) as stream:
        await stream.get_final_message()


async def _gemini(clients: Clients) -> None:
    stream = await clients.openai.chat.completions.create(
        model="google/gemini-2.5-flash", messages=HELLO, stream=True
    )
    async for _ in stream:
        pass


async def _embeddings(clients: Clients) -> None:
    await clients.openai.embeddings.create(
        model="text-embedding-3-small", input=["A text to be found again.", "And another one."]
    )


async def _speech(clients: Clients) -> None:
    await clients.openai.audio.speech.create(
        model="tts-1", voice="alloy", input="Good evening!", response_format="pcm"
    )


async def _leave(clients: Clients) -> None:
    stream = await clients.openai.chat.completions.create(
        model="gpt-4.1", messages=HELLO, stream=True
    )
    read = 0
    async with aclosing(stream.response):
        async for _ in stream:
            read += 1
            if read == READ_BEFORE_LEAVING:
                return


async def _save(clients: Clients) -> None:
    await clients.openai.chat.completions.create(
        model="gpt-4.1", messages=HELLO, extra_headers={"X-Flow-Save-Mode": "on"}
    )


async def _fall_back(clients: Clients) -> None:
    await clients.backed.chat.completions.create(model="gpt-4.1", messages=HELLO)


def _unavailable(vendors: Vendors) -> None:
    vendors.openai.faults.add(Fault(kind="status", status=503, times=1))


def _full(vendors: Vendors) -> None:
    headers = {"retry-after": "20"}
    vendors.openai.faults.add(Fault(kind="status", status=429, headers=headers, times=1))


STEPS: Sequence[Step] = (
    Step("OpenAI's chat", _chat),
    Step("the same, streamed", _streamed_chat),
    Step("a call of a tool", _tool),
    Step("OpenAI's responses, streamed", _response),
    Step("Anthropic's messages", _message),
    Step("the same, streamed", _streamed_message),
    Step("Gemini, in OpenAI's protocol", _gemini),
    Step("embeddings", _embeddings),
    Step("speech", _speech),
    Step("a client that goes away in mid-stream", _leave),
    Step("a vendor that fails once", _chat, rows=2, upset=_unavailable),
    Step("a vendor without room, and a model in its place", _fall_back, rows=2, upset=_full),
    Step("save mode", _save),
)
"""In the order in which they are made."""
