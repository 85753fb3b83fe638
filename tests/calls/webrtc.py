"""A customer's WebRTC client: a microphone, an ear and a connection to the bot."""

from __future__ import annotations

import asyncio
import fractions
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import aioice.ice
import httpx
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

SAMPLE_RATE = 48_000
FRAME_SAMPLES = SAMPLE_RATE // 50
LOUD = 100.0
CONNECT_SECS = 10.0
SPEAK_SECS = 20.0

_CANDIDATE = re.compile(r"^a=candidate:(.*)\r\n", re.MULTILINE)
_ICE_LINES = re.compile(r"^a=(?:candidate:.*|end-of-candidates)\r\n", re.MULTILINE)


@contextmanager
def host_address() -> Iterator[None]:
    """An address for ICE, which does not use 127.0.0.1: where there is no other, a spare one."""
    found = aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True)
    if any(not address.startswith("127.") for address in found):
        yield
        return
    ip = shutil.which("ip")
    if ip is None or os.geteuid() != 0:
        pytest.skip("only 127.0.0.1 is here, which ICE does not use, and no right to add another")
    # One for each test process: another's may be gone at any moment.
    spare = f"127.1.{os.getpid() // 256 % 256}.{os.getpid() % 256}/8"
    added = subprocess.run([ip, "address", "add", spare, "dev", "lo"], capture_output=True)
    if added.returncode != 0:
        pytest.skip(f"no address can be added for ICE: {added.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run([ip, "address", "del", spare, "dev", "lo"], check=True)


class Microphone(MediaStreamTrack):
    """Picks up silence, and in it whatever is said, in real time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._waiting = b""
        self._samples = 0
        self._began = time.monotonic()
        self._quiet = asyncio.Event()

    async def say(self, pcm16: bytes) -> None:
        """Say this, and return when it has been said."""
        self._waiting += pcm16
        self._quiet.clear()
        await self._quiet.wait()

    async def recv(self) -> AudioFrame:
        due = self._began + self._samples / SAMPLE_RATE
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        size = 2 * FRAME_SAMPLES
        sound, self._waiting = self._waiting[:size].ljust(size, b"\0"), self._waiting[size:]
        if not self._waiting:
            self._quiet.set()
        frame = AudioFrame.from_ndarray(np.frombuffer(sound, np.int16)[None, :], layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, self._samples
        frame.time_base = fractions.Fraction(1, SAMPLE_RATE)
        self._samples += FRAME_SAMPLES
        return frame


class Ear:
    """Hears a track to its end: `heard` is 16-bit mono sound at `SAMPLE_RATE`."""

    def __init__(self) -> None:
        self.heard = b""
        self._silent_samples = 0
        self._has_heard_speech = False

    @property
    def silent_secs(self) -> float | None:
        """For how long the bot has been silent since it spoke, if it did."""
        return self._silent_samples / SAMPLE_RATE if self._has_heard_speech else None

    def forget(self) -> None:
        """Wait for speech anew."""
        self.heard, self._has_heard_speech = b"", False

    async def listen(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                self._hear(await track.recv())
        except MediaStreamError:
            return

    def _hear(self, frame: Any) -> None:
        # Opus decodes to interleaved stereo; the bot says the same into both ears.
        samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0]
        self.heard += samples.astype(np.int16).tobytes()
        if float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) > LOUD:
            self._has_heard_speech, self._silent_samples = True, 0
        else:
            self._silent_samples += samples.size


class Caller:
    """``async with Caller(http, url) as caller``: leaving the block hangs up.

    Args:
        http: a client that need not know any key: the token is in the URL.
        url: the connection's URL, from the answer to the join.
    """

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http, self._url = http, url
        self.configuration = RTCConfiguration(iceServers=[])
        self.peer = RTCPeerConnection(self.configuration)
        self.microphone, self.ear = Microphone(), Ear()
        self.pc_id = ""
        self._connected, self._gone = asyncio.Event(), asyncio.Event()
        self._listening: set[asyncio.Task[None]] = set()
        self.peer.addTrack(self.microphone)
        self.peer.createDataChannel("chat")
        self.peer.on("track", self._on_track)
        self.peer.on("connectionstatechange", self._on_state)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.peer.close()
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)

    async def connect(self) -> None:
        """Offer with all candidates in it, and be connected."""
        answer = await self.offer(await self.description())
        answer.raise_for_status()
        await self.accept(answer.json())
        await self.connected()

    async def description(self) -> str:
        """The SDP of a new offer, with the candidates found."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return self.peer.localDescription.sdp

    async def offer(self, sdp: str, **fields: Any) -> httpx.Response:
        """The service's word on an offer."""
        return await self._http.post(self._url, json={"sdp": sdp, "type": "offer"} | fields)

    async def accept(self, answer: dict[str, str]) -> None:
        """Go on with the service's answer."""
        self.pc_id = answer["pc_id"]
        await self.peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))

    async def trickle(self, candidates: list[str], **fields: Any) -> httpx.Response:
        """The service's word on more candidates of the first section."""
        found = [{"candidate": one, "sdp_mid": "0", "sdp_mline_index": 0} for one in candidates]
        body = {"pc_id": self.pc_id, "candidates": found} | fields
        return await self._http.patch(self._url, json=body)

    async def connected(self) -> None:
        async with asyncio.timeout(CONNECT_SECS):
            await self._connected.wait()

    async def bot_speaks(self) -> None:
        """Wait until the bot has begun to speak."""
        async with asyncio.timeout(SPEAK_SECS):
            while self.ear.silent_secs is None:
                await asyncio.sleep(0.02)

    async def bot_has_spoken(self, silent_secs: float = 0.7) -> bytes:
        """What the bot says next, once it has been silent after it; `SAMPLE_RATE` samples."""
        async with asyncio.timeout(SPEAK_SECS):
            while (self.ear.silent_secs or 0.0) < silent_secs:
                await asyncio.sleep(0.02)
        heard = self.ear.heard
        self.ear.forget()
        return heard

    async def gone(self) -> None:
        """Wait until the connection has been closed from the other end."""
        await self._gone.wait()

    def vanish(self) -> None:
        """Drop off the network, as a phone in a tunnel does: nobody is told."""
        for sender in self.peer.getSenders():
            for protocol in sender.transport.transport._connection._protocols:
                protocol.transport.abort()

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._listening.add(asyncio.create_task(self.ear.listen(track)))

    def _on_state(self) -> None:
        if self.peer.connectionState == "connected":
            self._connected.set()
        elif self.peer.connectionState in ("closed", "failed"):
            self._gone.set()


def candidates_of(sdp: str) -> list[str]:
    """The candidates in a description."""
    return _CANDIDATE.findall(sdp)


def without_candidates(sdp: str) -> str:
    """The description as it is before any candidate is known."""
    return _ICE_LINES.sub("", sdp)
