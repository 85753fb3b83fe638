"""One generation of a Live session: what it says, and what it costs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.google.live_memory import LIVE_AUDIO_TOKENS_PER_SEC, Memory
from flow.sandbox.google.usage import live_usage_metadata
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, Script, decide
from flow.sandbox.openai.speech import Speak
from flow.sandbox.openai.tokens import encode

RATE_OUT = 24_000
TOKENS_A_MESSAGE = 6
_TOKEN_BYTES = RATE_OUT * 2 // LIVE_AUDIO_TOKENS_PER_SEC

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Speaker:
    """What says it, how fast, and who is billed."""

    bill: Bill
    script: Script
    pace: Pace
    speak: Speak


class Generation:
    """Says a reply as sound with its transcript, or calls functions.

    It is billed from its beginning, for all that the session holds; being cancelled is being
    interrupted, of which the client is told.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        model: str,
        functions: list[dict[str, Any]],
        request_id: str,
        headers: Mapping[str, str],
        hits: Hits,
        send: Send,
        speaker: Speaker,
    ) -> None:
        self._memory = memory
        self._functions = functions
        self._hits = hits
        self._send = send
        self._speaker = speaker
        self._token_secs = speaker.pace.under(hits).token_secs
        amounts = Amounts(prompt_tokens=memory.tokens, prompt_audio_tokens=memory.audio_tokens)
        self._line = Line(
            request_id=request_id,
            kind="llm",
            model=model,
            requested_model=model,
            headers=headers,
            stream=True,
            amounts=amounts,
        )
        speaker.bill.start(self._line)

    async def run(self) -> None:
        """Answer."""
        try:
            await asyncio.sleep(self._speaker.pace.first_token_secs)
            await self._reply(self._decided())
        except asyncio.CancelledError:
            self._speaker.bill.close(self._line, "disconnected")
            interrupted = {"serverContent": {"interrupted": True}}
            await self._send(interrupted | self._usage())
            await self._send({"serverContent": {"turnComplete": True}})
            raise
        finally:
            self._speaker.bill.close(self._line, "disconnected")

    async def _reply(self, reply: Reply) -> None:
        amounts = self._line.amounts
        amounts.reasoning_tokens = reply.reasoning_tokens
        amounts.completion_tokens += reply.reasoning_tokens
        if reply.text:
            await self._speak(reply.text)
        if reply.tool_calls:
            calls = [
                {"id": f"call-{n}", "name": call.name, "args": json.loads(call.arguments or "{}")}
                for n, call in enumerate(reply.tool_calls)
            ]
            amounts.completion_tokens += len(encode(json.dumps(calls)))
            self._memory.use_tools(calls, "assistant")
            self._speaker.bill.close(self._line, "complete")
            await self._send({"toolCall": {"functionCalls": calls}} | self._usage())
            return
        await self._send({"serverContent": {"generationComplete": True}})
        self._speaker.bill.close(self._line, "complete")
        await self._send({"serverContent": {"turnComplete": True}} | self._usage())

    async def _speak(self, words: str) -> None:
        sound = await asyncio.to_thread(self._speaker.speak, words, sample_rate=RATE_OUT)
        amounts, said, spoken = self._line.amounts, "", 0
        try:
            for part, transcript in _parts(sound, words):
                tokens = ceil(len(part) / _TOKEN_BYTES)
                # About a word is said in a message, and made much faster than it is heard.
                await asyncio.sleep(self._token_secs)
                amounts.completion_tokens += tokens
                amounts.completion_audio_tokens += tokens
                spoken += tokens
                data = base64.b64encode(part).decode()
                blob = {"data": data, "mimeType": f"audio/pcm;rate={RATE_OUT}"}
                content: dict[str, Any] = {"modelTurn": {"parts": [{"inlineData": blob}]}}
                more = self._usage() if self._hits.of("cumulative_usage") else {}
                await self._send({"serverContent": content} | more)
                said += transcript
                if transcript:
                    heard = {"outputTranscription": {"text": transcript}}
                    await self._send({"serverContent": heard})
        finally:
            self._memory.speak(spoken, said)

    def _decided(self) -> Reply:
        if self._hits.of("empty_reply"):
            return Reply()
        tools = [{"type": "function", "function": function} for function in self._functions]
        return decide(self._speaker.script, {"messages": self._memory.said, "tools": tools})

    def _usage(self) -> dict[str, Any]:
        if self._hits.of("no_usage"):
            return {}
        details = not self._hits.of("null_usage_details")
        return {"usageMetadata": live_usage_metadata(self._line.amounts, details=details)}


def _parts(sound: bytes, words: str) -> Iterator[tuple[bytes, str]]:
    """Sound in messages, each with its share of the words."""
    size = _TOKEN_BYTES * TOKENS_A_MESSAGE
    done = 0
    for start in range(0, len(sound), size):
        part = sound[start : start + size]
        until = ceil(len(words) * (start + len(part)) / len(sound))
        yield part, words[done:until]
        done = until
