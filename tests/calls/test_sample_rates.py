"""A caller whose microphone is changed within a call, and whose client sends nonsense between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np

from flow.domain.calls.thread import Status
from flow.sandbox.callers.caller import Internet, call, open_socket
from flow.sandbox.callers.conversation import CallerEvent, Conversation
from flow.sandbox.callers.frames import Audio, encode
from flow.sandbox.callers.pipecat_phone import SAMPLE_RATE, Phone
from tests.bot.test_transports import UNUSABLE
from tests.calls.conftest import Serve
from tests.calls.test_call import JOIN, SHORT, stood_in

CHUNKS_OF_A_RATE = 25


class RestlessPhone(Phone):
    """Of another sample rate every half second, with what is no sound before each change."""

    def _wire(self, chunk: bytes) -> Iterable[bytes]:
        turn, at = divmod(self._chunks_sent, CHUNKS_OF_A_RATE)
        if at == 0:
            yield from (wire for wire in UNUSABLE.values() if isinstance(wire, bytes))
        samples = np.frombuffer(chunk, np.int16)
        match turn % 3:
            case 0:
                yield encode(Audio(samples.tobytes(), SAMPLE_RATE))
            case 1:
                yield encode(Audio(samples.repeat(3).tobytes(), 3 * SAMPLE_RATE))
            case _:
                yield encode(Audio(samples.repeat(2).tobytes(), 2 * SAMPLE_RATE))


class RestlessInternet(Internet):
    """A `RestlessPhone` on the service's WebSocket."""

    @asynccontextmanager
    async def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AsyncIterator[Phone]:
        async with (
            open_socket(connection["url"]) as socket,
            RestlessPhone(socket, conversation, on_event) as phone,
        ):
            yield phone


async def test_a_caller_whose_sample_rate_changes_is_heard_to_the_end(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        report = await call(
            served.url, standing.api_key, SHORT, join=JOIN, carrier=RestlessInternet()
        )
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert report.ended_by == "caller"
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [turn.role for turn in thread.transcript] == ["assistant", "user", "assistant"]
    assert thread.transcript[-1].content == SHORT.lines[0].reply
