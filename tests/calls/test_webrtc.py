"""Calls over WebRTC: negotiated by HTTP, carried by a peer connection, and accounted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aioice.ice
import httpx
import pytest
from aiortc import RTCPeerConnection

from flow.domain.calls.thread import Status
from flow.sandbox.all_vendors import vendors
from flow.sandbox.openai.chat import Pace
from flow.sandbox.speech.recognition import Ears
from flow.sandbox.speech.synthesis import recordings, synthesize
from tests.calls.conftest import SETTLE_SECS, Serve, Serving, quantity
from tests.calls.webrtc import (
    SAMPLE_RATE,
    Caller,
    candidates_of,
    host_address,
    without_candidates,
)

QUESTION = "Are you open today?"
REPLY = "Yes, until six."
GREETING = "Good morning to you."
JOIN: dict[str, Any] = {"transport": {"type": "webrtc"}}
QUICK = Pace(first_token_secs=0.05, token_secs=0.005)
Spoil = Callable[[str], str]
SPOILT: dict[str, Spoil] = {
    "words": lambda _: "nonsense",
    "no media": lambda sdp: sdp.partition("m=")[0],
    "broken numbers": lambda sdp: re.sub(r"m=audio \d+", "m=audio nine", sdp),
    "half of it": lambda sdp: sdp[: len(sdp) // 2],
    "no ICE credentials": lambda sdp: re.sub(r"a=ice-(ufrag|pwd):.*\r\n", "", sdp),
    "no fingerprint": lambda sdp: re.sub(r"a=fingerprint:.*\r\n", "", sdp),
    "separate RTCP": lambda sdp: sdp.replace("a=rtcp-mux\r\n", ""),
    "unknown codecs": lambda sdp: re.sub(r"(a=rtpmap:\d+ )\w+", r"\1SPEEX", sdp),
    "broken candidate": lambda sdp: re.sub(r"a=candidate:.*", "a=candidate:1 2 3", sdp),
    "bad direction": lambda sdp: sdp.replace("a=sendrecv", "a=inactive"),
}


@pytest.fixture(scope="module", autouse=True)
def _host_address() -> Iterator[None]:
    with host_address():
        yield


@dataclass
class Line:
    """A joined call: its service, its thread, and where to connect to it."""

    served: Serving
    anonymous: httpx.AsyncClient
    thread_id: str
    url: str

    def caller(self) -> Caller:
        return Caller(self.anonymous, self.url)

    async def until(self, status: Status) -> None:
        database = self.served.service.database
        async with asyncio.timeout(SETTLE_SECS):
            while (await database.get_workflow_thread_data(UUID(self.thread_id))).status != status:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def joined(
    serving: Serve, join: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Line]:
    heard = recordings([QUESTION])
    async with (
        vendors([REPLY], utterances=heard, pace=QUICK) as standing,
        serving(standing, **settings) as served,
        httpx.AsyncClient(timeout=30, trust_env=False, verify=False) as anonymous,
    ):
        answer = await served.http.post("/api/bot/join", json=JOIN | (join or {}))
        assert answer.status_code == 201, answer.text
        connection = answer.json()["connection"]
        assert connection["type"] == "webrtc"
        yield Line(served, anonymous, answer.json()["workflow_thread_id"], connection["url"])


def understood(heard: bytes, *known: str) -> str:
    """The words in what was heard, of those the bot may have said."""
    return Ears(recordings(known), 16_000).transcribe(heard, SAMPLE_RATE)


def mostly(heard: str, said: str) -> bool:
    """Whether at least half of the words that were said were heard."""
    words = said.split()
    return 2 * len([word for word in heard.split() if word in words]) >= len(words)


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_a_call_is_heard_both_ways_and_accounted_to_the_last_token(serving: Serve) -> None:
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line:
        async with line.caller() as caller:
            await caller.connect()
            greeting = await caller.bot_has_spoken()
            await caller.microphone.say(synthesize(QUESTION, sample_rate=SAMPLE_RATE))
            reply = await caller.bot_has_spoken()
        thread = await line.served.settled(line.thread_id)
        rows = await line.served.conserved(thread)
    # Sound comes over a lossy codec, in real time, on a machine that has other work: not every
    # word need arrive, but the bot must be understood.
    assert mostly(understood(greeting, GREETING, REPLY), GREETING) or mostly(
        understood(reply, GREETING, REPLY), REPLY
    )
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    said = [(turn.role, turn.content) for turn in thread.transcript]
    assert said == [("assistant", GREETING), ("user", QUESTION), ("assistant", REPLY)]
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    assert thread.usage_stats["estimated_events"] == 0
    assert thread.usage_stats["unpriced_events"] == 0
    assert line.served.service.registry.get_sample_value("flow_calls_running") == 0


async def test_a_caller_whose_candidates_come_late_is_connected_by_them(serving: Serve) -> None:
    """Neither description names an address: only the trickled ones can make the connection."""
    async with joined(serving) as line, line.caller() as caller:
        sdp = await caller.description()
        answer = (await caller.offer(without_candidates(sdp))).json()
        await caller.accept(answer | {"sdp": without_candidates(answer["sdp"])})
        late = await caller.trickle(candidates_of(sdp))
        end = await caller.trickle([""])
        await caller.connected()
        assert (late.status_code, end.status_code) == (204, 204)


@pytest.mark.parametrize("prefix", ["", "candidate:"])
async def test_candidates_are_taken_as_browsers_and_descriptions_write_them(
    prefix: str, serving: Serve
) -> None:
    async with joined(serving) as line, line.caller() as caller:
        sdp = await caller.description()
        await caller.accept((await caller.offer(without_candidates(sdp))).json())
        found = [prefix + candidate for candidate in candidates_of(sdp)]
        assert (await caller.trickle(found)).status_code == 204
        await caller.connected()


async def test_what_is_no_candidate_is_refused_and_the_call_goes_on(serving: Serve) -> None:
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line, line.caller() as caller:
        await caller.connect()
        for candidate in ("nonsense", "1 x udp y host z typ host", "1 2 3 4 5 6 7"):
            answer = await caller.trickle([candidate])
            assert problem_of(answer) == (422, "invalid_request")
            assert answer.json()["errors"][0]["field"] == "candidates.0.candidate"
        assert len(await caller.bot_has_spoken()) > SAMPLE_RATE


async def test_candidates_for_another_connection_are_not_found(serving: Serve) -> None:
    async with joined(serving) as line, line.caller() as caller:
        assert problem_of(await caller.trickle([""], pc_id="none")) == (404, "not_found")
        await caller.connect()
        assert problem_of(await caller.trickle([""], pc_id="none")) == (404, "not_found")


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_an_offer_that_is_none_fails_the_thread(spoil: Spoil, serving: Serve) -> None:
    async with joined(serving, max_calls=1) as line, line.caller() as caller:
        answer = await caller.offer(spoil(await caller.description()))
        thread = await line.served.settled(line.thread_id)
        rows = await line.served.conserved(thread)
        again = await caller.offer(await caller.description())
        # Its place is free for the next call.
        assert (await line.served.http.post("/api/bot/join", json=JOIN)).status_code == 201
    assert problem_of(answer) == (422, "invalid_request")
    assert answer.json()["errors"][0]["field"] == "sdp"
    assert (thread.status, thread.end_reason) == (Status.FAILED, "error")
    assert thread.error is not None
    assert thread.error["code"] == "bad_offer"
    assert rows == []
    assert problem_of(again) == (409, "not_connectable")


@pytest.mark.parametrize(
    ("kinds", "direction"),
    [
        (["video"], "sendrecv"),
        (["video", "audio"], "sendrecv"),
        (["audio", "audio"], "sendrecv"),
        (["audio", "video", "video", "video"], "sendrecv"),
        (["audio"], "recvonly"),
    ],
    ids=str,
)
async def test_an_offer_of_what_a_bot_cannot_serve_is_refused(
    kinds: list[str], direction: str, serving: Serve
) -> None:
    async with joined(serving) as line, line.caller() as caller:
        # The caller comes with one microphone of its own; another peer makes this offer.
        other = RTCPeerConnection(caller.configuration)
        try:
            for kind in kinds:
                other.addTransceiver(kind, direction=direction)
            await other.setLocalDescription(await other.createOffer())
            answer = await caller.offer(other.localDescription.sdp)
        finally:
            await other.close()
        assert problem_of(answer) == (422, "invalid_request")
        assert (await line.served.settled(line.thread_id)).status is Status.FAILED


async def test_video_may_be_offered_beside_the_audio_and_is_not_looked_at(serving: Serve) -> None:
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line, line.caller() as caller:
        caller.peer.addTransceiver("video", direction="sendrecv")
        await caller.connect()
        assert len(await caller.bot_has_spoken()) > SAMPLE_RATE


async def test_a_connection_that_is_negotiated_again_carries_the_call_on(serving: Serve) -> None:
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line, line.caller() as caller:
        await caller.connect()
        greeting = await caller.bot_has_spoken()
        answer = await caller.offer(await caller.description(), pc_id=caller.pc_id)
        assert answer.json()["pc_id"] == caller.pc_id
        await caller.accept(answer.json())
        await caller.microphone.say(synthesize(QUESTION, sample_rate=SAMPLE_RATE))
        reply = await caller.bot_has_spoken()
        await caller.peer.close()
        thread = await line.served.settled(line.thread_id)
        await line.served.conserved(thread)
    assert min(len(greeting), len(reply)) > SAMPLE_RATE
    assert thread.status is Status.COMPLETED


async def test_a_restarted_connection_carries_the_call_on(serving: Serve) -> None:
    """As after a change of networks: a new connection takes the place of the old one."""
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line, line.caller() as first:
        await first.connect()
        greeting = await first.bot_has_spoken()
        async with line.caller() as second:
            sdp = await second.description()
            answer = await second.offer(sdp, pc_id=first.pc_id, restart_pc=True)
            await second.accept(answer.json())
            await second.connected()
            await second.microphone.say(synthesize(QUESTION, sample_rate=SAMPLE_RATE))
            reply = await second.bot_has_spoken()
        thread = await line.served.settled(line.thread_id)
        (call,) = [r for r in await line.served.conserved(thread) if r["kind"] == "call"]
    assert second.pc_id != first.pc_id
    assert min(len(greeting), len(reply)) > SAMPLE_RATE
    assert [turn.role for turn in thread.transcript] == ["assistant", "user", "assistant"]
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert quantity(call, "call_seconds") > 3


async def test_a_bad_offer_in_mid_call_is_refused_and_the_call_goes_on(serving: Serve) -> None:
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line, line.caller() as caller:
        await caller.connect()
        for restart in (False, True):
            bad = await caller.offer("nonsense", pc_id=caller.pc_id, restart_pc=restart)
            assert problem_of(bad) == (422, "invalid_request")
        assert len(await caller.bot_has_spoken()) > SAMPLE_RATE


async def test_a_restart_that_fails_hangs_up(serving: Serve) -> None:
    """The old connection is gone by then, and the caller has been told so."""
    async with joined(serving) as line, line.caller() as caller, line.caller() as other:
        await caller.connect()
        await line.until(Status.IN_CALL)
        spoilt = SPOILT["unknown codecs"](await other.description())
        bad = await caller.offer(spoilt, pc_id=caller.pc_id, restart_pc=True)
        assert problem_of(bad) == (422, "invalid_request")
        thread = await line.served.settled(line.thread_id)
        await line.served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")


@pytest.mark.parametrize("fields", [{}, {"pc_id": "another"}], ids=["none", "another"])
async def test_nobody_else_can_join_or_take_over_a_running_call(
    fields: dict[str, str], serving: Serve
) -> None:
    async with joined(serving) as line, line.caller() as caller, line.caller() as other:
        await caller.connect()
        await line.until(Status.IN_CALL)
        answer = await other.offer(await other.description(), **fields)
        assert answer.status_code == 409
        assert line.served.service.registry.get_sample_value("flow_calls_running") == 1


async def test_of_many_offers_at_once_one_gets_the_call(serving: Serve) -> None:
    async with joined(serving) as line, line.caller() as caller:
        sdp = await caller.description()
        answers = await asyncio.gather(*(caller.offer(sdp) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
        await caller.accept(next(a.json() for a in answers if a.status_code == 200))
        await caller.connected()
        assert line.served.service.registry.get_sample_value("flow_calls_running") == 1


async def test_without_the_threads_token_there_is_no_connection(serving: Serve) -> None:
    async with joined(serving) as line, line.caller() as caller:
        sdp = await caller.description()
        path, _, token = line.url.partition("?token=")
        other = (await line.served.http.post("/api/bot/join", json=JOIN)).json()
        foreign = other["connection"]["url"].partition("?token=")[2]
        for wrong in (
            f"{path}?token=",
            f"{path}?token={token[:-4]}AAAA",
            f"{path}?token={foreign}",
        ):
            stranger = Caller(line.anonymous, wrong)
            async with stranger:
                assert (await stranger.offer(sdp)).status_code == 401
                assert (await stranger.trickle([])).status_code == 401
        assert (await Caller(line.anonymous, path).offer(sdp)).status_code == 401
        # None of this used up the call.
        await caller.connect()


async def test_a_call_joined_for_a_socket_takes_no_offer(serving: Serve) -> None:
    async with joined(serving) as line, line.caller() as caller:
        other = (await line.served.http.post("/api/bot/join", json={})).json()
        path = f"{line.served.url}/api/bot/{other['workflow_thread_id']}/offer"
        token = other["connection"]["url"].partition("?token=")[2]
        answer = await Caller(line.anonymous, f"{path}?token={token}").offer(
            await caller.description()
        )
        assert problem_of(answer) == (409, "wrong_transport")


async def test_the_bot_hangs_up_when_asked_to(serving: Serve) -> None:
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line, line.caller() as caller:
        await caller.connect()
        await caller.bot_has_spoken()
        assert (await line.served.http.post(f"/api/bot/{line.thread_id}/end")).status_code == 200
        async with asyncio.timeout(SETTLE_SECS):
            await caller.gone()
        thread = await line.served.settled(line.thread_id)
        await line.served.conserved(thread)
        assert (thread.status, thread.end_reason) == (Status.COMPLETED, "ended_by_api")


@pytest.mark.parametrize("grace_secs", [0, 1])
async def test_a_service_that_stops_hangs_up_when_its_time_is_up(
    grace_secs: int, serving: Serve
) -> None:
    join = {"bot": {"greeting": GREETING}}
    async with joined(serving, join, drain_secs=grace_secs) as line, line.caller() as caller:
        await caller.connect()
        await caller.bot_speaks()
        await line.served.service.drain()
        async with asyncio.timeout(SETTLE_SECS):
            await caller.gone()
        thread = await line.served.settled(line.thread_id)
        await line.served.conserved(thread)
        again = await line.served.http.post("/api/bot/join", json=JOIN)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "shutdown")
    assert problem_of(again) == (503, "shutting_down")


async def test_a_caller_who_drops_off_the_network_is_noticed(
    serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ICE asks six times, every 5 s, whether the other end is still there; here more often."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.2)
    async with joined(serving, {"bot": {"greeting": GREETING}}) as line, line.caller() as caller:
        await caller.connect()
        await caller.bot_speaks()
        caller.vanish()
        thread = await line.served.settled(line.thread_id)
        await line.served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert line.served.service.registry.get_sample_value("flow_calls_running") == 0


async def test_a_caller_who_never_connects_is_given_up(serving: Serve) -> None:
    async with joined(serving, idle_timeout_secs=1) as line, line.caller() as caller:
        answer = await caller.offer(without_candidates(await caller.description()))
        assert answer.status_code == 200
        thread = await line.served.settled(line.thread_id)
        assert await line.served.conserved(thread) == []
        gone = await caller.trickle([""], pc_id=answer.json()["pc_id"])
    assert thread.end_reason == "idle_timeout"
    assert thread.connected_at is None
    assert problem_of(gone) == (404, "not_found")
