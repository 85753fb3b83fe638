"""Writing down what the user says, by a model that is billed apart from the session's."""

from __future__ import annotations

import asyncio
from math import ceil

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.models import transcribes_by_tokens
from flow.sandbox.openai.realtime.conversation import Item
from flow.sandbox.openai.realtime.response import Send
from flow.sandbox.openai.speech import seconds
from flow.sandbox.openai.tokens import AUDIO_TOKENS_PER_SEC, encode
from flow.sandbox.openai.transcription import usage_of

_KIND = "conversation.item.input_audio_transcription"


def heard_amounts(sound: bytes, model: str) -> Amounts:
    """What a model is given of a sound, as it bills that."""
    amounts = Amounts(audio_seconds=seconds(sound))
    if transcribes_by_tokens(model):
        amounts.prompt_tokens = ceil(amounts.audio_seconds * AUDIO_TOKENS_PER_SEC)
        amounts.prompt_audio_tokens = amounts.prompt_tokens
    return amounts


class Transcriber:
    """Tells the words of what was heard, each time beside what the session does meanwhile."""

    def __init__(self, bill: Bill, send: Send, pace: Pace, hits: Hits) -> None:
        self._bill = bill
        self._send = send
        self._pace = pace
        self._hits = hits
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, item: Item, line: Line) -> None:
        """Write down an item; ``line`` is what it is billed on."""
        self._bill.start(line)
        task = asyncio.create_task(self._transcribe(item, line))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, line))

    async def drop(self) -> None:
        """Stop: the client is gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None], line: Line) -> None:
        self._tasks.discard(task)
        self._bill.close(line, "disconnected")

    async def _transcribe(self, item: Item, line: Line) -> None:
        place = {"item_id": item.id, "content_index": 0}
        await asyncio.sleep(self._pace.first_token_secs)
        if self._hits.of("failed_transcription"):
            self._bill.close(line, "failed")
            error = {"type": "transcription_error", "code": "audio_unintelligible"}
            error["message"] = "The audio could not be transcribed."
            await self._send(f"{_KIND}.failed", **place, error=error)
            return
        if line.amounts.prompt_tokens:
            line.amounts.completion_tokens = len(encode(item.words))
        self._bill.close(line, "complete")
        item.value["content"][0]["transcript"] = item.words
        if item.words:
            await self._send(f"{_KIND}.delta", **place, delta=item.words)
        told = {"transcript": item.words, "usage": usage_of(line.amounts)}
        await self._send(f"{_KIND}.completed", **place, **told)
