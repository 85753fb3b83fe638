"""A caller of P11: says utterances over a WebSocket in real time, and listens to a millisecond."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from flow.sandbox.callers.caller import open_socket
from flow.sandbox.callers.frames import Audio, Interruption, decode, encode
from tests.bench.utterances import INTERRUPTIONS, RATE, Utterance, spoken

CHUNK_SECS = 0.02
CHUNK_BYTES = 2 * int(RATE * CHUNK_SECS)
LOUD = 100
# As long as a bot that has begun to speak makes no pause.
SILENT_SECS = 0.7
INTERRUPT_AFTER_SECS = 0.8
PATIENCE_SECS = 15.0


@dataclass
class Heard:
    """What a caller heard, in seconds.

    ``waits`` are from the end of each utterance to the bot's first sound, less than 0 where it
    spoke before; ``barge_ins`` from the beginning of an interruption to the last of the bot.
    """

    waits: list[float] = field(default_factory=list)
    barge_ins: list[float] = field(default_factory=list)


class Line:
    """A connected call."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._speech = b""
        self._spoken = asyncio.Event()
        self._sounds: list[float] = []
        self._ends = 0.0

    async def microphone(self) -> None:
        """Send what is said, and silence otherwise, every 20 ms."""
        due = monotonic()
        while True:
            chunk, self._speech = self._speech[:CHUNK_BYTES], self._speech[CHUNK_BYTES:]
            await self._socket.send(encode(Audio(chunk.ljust(CHUNK_BYTES, b"\0"), RATE)))
            if not self._speech:
                self._spoken.set()
            due += CHUNK_SECS
            await asyncio.sleep(max(due - monotonic(), 0.0))

    async def loudspeaker(self) -> None:
        """Note when each loud piece of sound came, and when all of it will have sounded."""
        try:
            async for wire in self._socket:
                frame = decode(wire) if isinstance(wire, bytes) else None
                if isinstance(frame, Interruption):
                    self._ends = monotonic()
                elif isinstance(frame, Audio) and _is_loud(frame):
                    self._sounds.append(monotonic())
                    self._ends = max(self._ends, monotonic()) + frame.seconds
        except ConnectionClosed:
            return

    async def say(self, sound: bytes) -> float:
        """Say something, and return when it was said."""
        self._spoken.clear()
        self._speech = sound
        await self._spoken.wait()
        return monotonic()

    async def first_sound(self, since: float) -> float:
        """When the bot was first heard after a moment."""
        async with asyncio.timeout(PATIENCE_SECS):
            while not (found := [at for at in self._sounds if at >= since]):
                await asyncio.sleep(0.005)
        return found[0]

    async def last_sound(self) -> float:
        """When the bot was last heard, once it says nothing more."""
        async with asyncio.timeout(PATIENCE_SECS):
            while monotonic() - self._ends < SILENT_SECS:
                await asyncio.sleep(0.005)
        return self._sounds[-1]

    def last_before_gap(self, since: float) -> float:
        """When the bot was last heard before it fell silent after a moment."""
        last = since
        for at in (at for at in self._sounds if at >= since):
            if at - last > SILENT_SECS / 2:
                break
            last = at
        return last


async def talk(
    url: str, utterances: Sequence[Utterance], parts: Mapping[str, bytes], *, interruptions: int = 0
) -> Heard:
    """One call: each utterance once the bot has replied to the one before.

    The first ``interruptions`` replies are interrupted, and the reply to that is let finish.
    """
    heard = Heard()
    async with open_socket(url) as socket:
        line = Line(socket)
        tasks = [asyncio.create_task(line.microphone()), asyncio.create_task(line.loudspeaker())]
        try:
            await asyncio.sleep(1.0)
            for n, utterance in enumerate(utterances):
                begun = monotonic()
                ended = await line.say(spoken(utterance, parts))
                first = await line.first_sound(begun)
                heard.waits.append(first - ended)
                if n < interruptions:
                    await asyncio.sleep(max(first + INTERRUPT_AFTER_SECS - monotonic(), 0.0))
                    onset = monotonic()
                    await line.say(parts[INTERRUPTIONS[n % len(INTERRUPTIONS)]])
                    await line.first_sound(monotonic())
                    heard.barge_ins.append(line.last_before_gap(onset) - onset)
                await line.last_sound()
        finally:
            for task in tasks:
                task.cancel()
    return heard


def _is_loud(audio: Audio) -> bool:
    samples = np.frombuffer(audio.pcm16, np.int16)
    return bool(samples.size) and int(np.abs(samples.astype(np.int32)).max()) > LOUD
