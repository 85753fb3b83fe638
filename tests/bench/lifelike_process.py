"""The vendors' stand-ins, which take the time that vendors take: 0.1 s to a transcript, 0.3 s to
a model's first token and 10 ms to each further one, 0.2 s to a voice's first sound and a third of
its length to speak it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from flow.sandbox.all_vendors import vendors
from flow.sandbox.faults import Fault
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.speech import CHUNK_BYTES, SAMPLE_RATE
from tests.bench.processes import say, task_given, until_dismissed
from tests.bench.utterances import RATE, recorded

SOUND_SECS = CHUNK_BYTES / 2 / SAMPLE_RATE / 3
# What recognising and synthesising themselves take here comes on top.
TRANSCRIPT_SECS, VOICE_SECS = 0.09, 0.19 - SOUND_SECS
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
    pace = Pace(first_token_secs=0.3, token_secs=0.01, sound_secs=SOUND_SECS)
    async with vendors(reply, utterances=sounds, sample_rate=RATE, pace=pace) as running:
        running.openai.faults.add(
            Fault(kind="delay", route="*/transcriptions", delay_secs=TRANSCRIPT_SECS),
            Fault(kind="delay", route="*/speech", delay_secs=VOICE_SECS),
        )
        say({"environment": dict(running.environment), "key": running.api_key})
        await until_dismissed()


if __name__ == "__main__":
    asyncio.run(main())
