"""Recorded calls, held against what their callers said and heard."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow.domain.calls.thread import Status
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import Interrupt, Line
from tests.calls.conftest import Serve, Serving
from tests.calls.taping import TOLERANCE_SECS, Tape, TapedInternet, Track, compared, decoded
from tests.calls.test_call import JOIN, SHORT, SOON, TALE, stood_in

RECORDED = JOIN | {"recording": True}
INTERRUPTING = replace(
    SHORT,
    lines=(
        Line("Please tell me a very long story.", TALE, SOON),
        Line("Thank you, that is enough for me.", "Good bye then.", Interrupt(3.0)),
    ),
    token_secs=0.01,
)


async def recording_of(served: Serving, thread_id: str) -> dict[str, Any]:
    answer = await served.http.get(f"/api/threads/{thread_id}")
    found: dict[str, Any] = answer.json()["recording"]
    return found


async def fetched(url: str, path: Path) -> Path:
    async with httpx.AsyncClient(trust_env=False) as http:
        path.write_bytes((await http.get(url)).raise_for_status().content)
    return path


def agrees(track: Track, started_at: datetime, channel: Any, utterances: int) -> None:
    found = compared(track, started_at, channel)
    assert len(found) == utterances, found
    for one in found:
        assert abs(one.lag_secs) <= TOLERANCE_SECS, found
        assert one.likeness > 0.95, found
        assert abs(one.ends_later_secs) <= TOLERANCE_SECS, found


async def test_an_interrupted_call_is_recorded_as_it_was_heard(
    serving: Serve, tmp_path: Path
) -> None:
    tape = Tape()
    where = f"file://{tmp_path}/kept"
    async with (
        stood_in(INTERRUPTING) as standing,
        serving(standing, recordings_url=where) as served,
    ):
        report = await call(
            served.url,
            standing.api_key,
            INTERRUPTING,
            join=RECORDED,
            carrier=TapedInternet(tape=tape),
        )
        thread = await served.settled(report.workflow_thread_id)
        shown = await recording_of(served, report.workflow_thread_id)
        file = await fetched(shown["url"], tmp_path / "call.flac")
    assert thread.status is Status.COMPLETED
    assert (shown["status"], shown["channels"], shown["complete"]) == ("ready", 2, True)
    caller, bot = decoded(file)
    assert shown["seconds"] == pytest.approx(len(bot) / 24_000, abs=0.001)
    started_at = datetime.fromisoformat(shown["started_at"])
    agrees(tape.said, started_at, caller, 2)
    agrees(tape.heard, started_at, bot, 3)
    assert not [*(tmp_path / "recordings").iterdir()], "nothing is left of it on this machine"
