"""Recorded calls, held against what their callers said and heard."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any
from uuid import UUID

import httpx
import pytest

from flow.db.database import Database
from flow.domain.calls.recording import RecordingStatus
from flow.domain.calls.thread import Status
from flow.sandbox.callers.caller import Carrier, call
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.sandbox.callers.script import Interrupt, Line
from tests.calls.calling import INTERNET
from tests.calls.conftest import SETTLE_SECS, Serve, Serving
from tests.calls.processes import flow_serve
from tests.calls.taping import TOLERANCE_SECS, Stalls, Tape, Taped, Track, compared, decoded, stalls
from tests.calls.test_call import JOIN, LONG, SHORT, SOON, TALE, stood_in
from tests.calls.test_realtime import JOIN as SPOKEN_BY_MODEL
from tests.calls.test_twilio import BY_PHONE, on_the_line

BEFORE_SECS = 0.5
RECORDED = JOIN | {"recording": True}
INTERRUPTING = replace(
    SHORT,
    lines=(
        Line("Please tell me a very long story.", TALE, SOON),
        Line("Thank you, that is enough for me.", "Good bye then.", Interrupt(3.0)),
    ),
    token_secs=0.01,
)

# Its caller stays for longer than its process lives.
CUT_OFF = replace(LONG, hang_up=Interrupt(30.0, silent_secs=60.0))


async def recording_of(served: Serving, thread_id: str) -> dict[str, Any]:
    answer = await served.http.get(f"/api/threads/{thread_id}")
    found: dict[str, Any] = answer.json()["recording"]
    return found


async def fetched(url: str, path: Path) -> Path:
    async with httpx.AsyncClient(trust_env=False) as http:
        path.write_bytes((await http.get(url)).raise_for_status().content)
    return path


def agrees(track: Track, started_at: datetime, channel: Any, utterances: int, late: Stalls) -> None:
    found = compared(track, started_at, channel)
    # On a busy machine a sentence may stop for so long that it looks like two.
    assert len(found) >= utterances, found
    for one in found:
        # What this loop held up it also let be heard so much later, or with a gap; no other
        # sentence is let off for that.
        stall = late.between(one.began_at - BEFORE_SECS, one.began_at + one.seconds + BEFORE_SECS)
        told = (stall, found)
        assert one.alike > (0.8 if stall < TOLERANCE_SECS else 0.4), told
        assert max(map(abs, one.lags_secs)) <= TOLERANCE_SECS + stall, told
        assert abs(one.ends_secs) <= TOLERANCE_SECS + stall, told


@pytest.mark.parametrize("join", [JOIN, SPOKEN_BY_MODEL], ids=["cascade", "realtime"])
async def test_an_interrupted_call_is_recorded_as_it_was_heard(
    join: dict[str, Any], serving: Serve, tmp_path: Path
) -> None:
    where = f"file://{tmp_path}/kept"
    async with (
        stood_in(INTERRUPTING) as standing,
        serving(standing, recordings_url=where) as served,
    ):
        await held_and_compared(served, INTERNET, join, tmp_path)
    assert not [*(tmp_path / "recordings").iterdir()], "nothing is left of it on this machine"


async def test_a_telephone_call_is_recorded_as_it_was_heard(serving: Serve, tmp_path: Path) -> None:
    where = f"file://{tmp_path}/kept"
    async with (
        stood_in(INTERRUPTING) as standing,
        on_the_line(serving, standing, recordings_url=where) as line,
    ):
        await held_and_compared(line.served, line.carrier, BY_PHONE, tmp_path)


async def held_and_compared(
    served: Serving, carrier: Carrier, join: dict[str, Any], folder: Path
) -> None:
    """Hold the call, and compare its recording with what its caller said and heard."""
    tape = Tape()
    async with stalls() as late:
        report = await call(
            served.url,
            served.vendors.api_key,
            INTERRUPTING,
            join=join | {"recording": True},
            carrier=Taped(carrier, tape),
        )
    thread = await served.settled(report.workflow_thread_id)
    shown = await recording_of(served, report.workflow_thread_id)
    file = await fetched(shown["url"], folder / "call.flac")
    assert thread.status is Status.COMPLETED
    assert (shown["status"], shown["channels"], shown["complete"]) == ("ready", 2, True)
    caller, bot = decoded(file)
    assert shown["seconds"] == pytest.approx(len(bot) / 24_000, abs=0.001)
    started_at = datetime.fromisoformat(shown["started_at"])
    agrees(tape.said, started_at, caller, 2, late)
    agrees(tape.heard, started_at, bot, 3, late)


async def test_a_killed_process_leaves_what_it_had_and_the_next_stores_it(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    where = {"FLOW_RECORDINGS_URL": f"file://{tmp_path}/kept"}
    loop, tape = asyncio.get_running_loop(), Tape()
    thread_id, is_begun = "", False
    async with stood_in(CUT_OFF) as standing:
        async with flow_serve(standing, postgres_url, tmp_path, **where) as first:

            def hear(event: CallerEvent) -> None:
                nonlocal thread_id, is_begun
                if event.kind is EventKind.JOINED:
                    thread_id = event.detail
                if event.kind is EventKind.LINE_ENDED and not is_begun:
                    is_begun = True
                    loop.call_later(5.0, first.kill)

            with suppress(Exception):
                await call(
                    first.url,
                    standing.api_key,
                    CUT_OFF,
                    join=RECORDED,
                    on_progress=hear,
                    carrier=Taped(INTERNET, tape),
                )
        killed_at = time()
        async with flow_serve(standing, postgres_url, tmp_path, **where):
            async with asyncio.timeout(SETTLE_SECS):
                while (found := await database.recordings.get(UUID(thread_id))) is None or (
                    found.status is not RecordingStatus.READY
                ):
                    await asyncio.sleep(0.2)
    whole = found.whole
    assert whole is not None
    assert whole.seconds is not None
    assert not found.complete
    assert killed_at - (whole.started_at.timestamp() + whole.seconds) < 4.5
    caller, bot = decoded(tmp_path / "kept" / str(whole.path))
    (said,) = compared(tape.said, whole.started_at, caller)
    greeting = compared(tape.heard, whole.started_at, bot)[0]
    for one in (said, greeting):
        assert one.alike > 0.7
        assert max(map(abs, one.lags_secs)) <= TOLERANCE_SECS
