"""The vendors' stand-ins, which take the time that vendors take: Deepgram 0.1 s to its final words,
a model 0.3 s to its first token and 10 ms to each further one, Cartesia 0.2 s to a voice's first
sound and a third of its length to speak it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from flow.sandbox.all_vendors import vendors
from flow.sandbox.openai.chat import Pace
from tests.bench.processes import say, task_given, until_dismissed
from tests.bench.utterances import RATE, recorded

REPLIES = (
    "Yes, of course we can do that for you.",
    "Thank you for asking, I have made a note of that.",
)


def reply(messages: Sequence[Any]) -> str:
    """One reply and then the other."""
    return REPLIES[len(messages) // 2 % len(REPLIES)]


async def main() -> None:
    """Run them until nobody needs them any more."""
    logging.disable()  # callers who hang up in mid-request are no news
    task_given()
    sounds = await asyncio.to_thread(recorded)
    pace = Pace(first_token_secs=0.3, token_secs=0.01)
    models = ("deepgram", "cartesia")
    async with vendors(
        reply, utterances=sounds, sample_rate=RATE, pace=pace, models=models
    ) as running:
        say({"environment": dict(running.environment), "key": running.api_key})
        await until_dismissed()


if __name__ == "__main__":
    asyncio.run(main())
