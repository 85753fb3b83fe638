"""The signs of life of one call, and the account of its seconds, which follows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from flow.bot.call_seconds import CallSeconds
from flow.bot.calls.lease import SignOfLife
from flow.domain.calls.ending import EndReason
from flow.domain.calls.thread import Status
from flow.errors import CallTakenOver, FlowError, IllegalTransition, NotFound, Unavailable

HEARTBEAT_SECS = 5.0
# How long the note of a call's seconds waits for what the database says of the call.
ANSWER_SECS = 1.0


class Heartbeat:
    """Tells the database that a call lives, and hears from it whether it goes on.

    Args:
        touch: where signs of life go.
        seconds: the account; it counts as long as the call is ours.
        end: called when the call was asked to end.
        lose: called when the call is another's by now, or was given up; that stands, whatever
            else ended the call here.
        log: knows the thread.
        every_secs: from one sign of life to the next.
        now: seconds that go on whatever becomes of the process.
    """

    def __init__(
        self,
        touch: SignOfLife,
        seconds: CallSeconds,
        *,
        end: Callable[[EndReason], None],
        lose: Callable[[EndReason], None],
        log: FilteringBoundLogger,
        every_secs: float,
        now: Callable[[], float],
    ) -> None:
        self._touch = touch
        self._seconds = seconds
        self._end = end
        self._lose = lose
        self._log = log
        self._every_secs = every_secs
        self._now = now

    @property
    def is_running(self) -> bool:
        """Whether the caller has come."""
        return self._seconds.is_running

    def begin(self) -> None:
        """The caller has come: seconds count from now on."""
        self._seconds.begin(self._now())

    async def forever(self) -> None:
        """Give signs of life, and note the seconds with each."""
        while True:
            await asyncio.sleep(self._every_secs)
            beating = asyncio.create_task(self.beat())
            try:
                # After a stall the database knows first whether the call goes on. One that does
                # not answer is not waited for: were this process killed, seconds would be lost.
                await asyncio.wait({beating}, timeout=ANSWER_SECS)
                self._seconds.renew(self._now())
                await beating
            finally:
                beating.cancel()

    async def last(self) -> None:
        """Give a last sign of life, and hear whether the call was ours to the end."""
        if self._seconds.is_ours:
            await self.beat()

    async def beat(self, status: Status | None = None) -> None:
        """Tell the database the call lives; hear from it whether it was asked to end."""
        # Not when the answer came: this process may have been stopped in between.
        sent_at = self._now()
        try:
            pulse = await self._touch(status)
        except Unavailable as error:
            self._log.warning("heartbeat_missed", error=str(error))
        except CallTakenOver:
            self._lost(EndReason.TAKEN_OVER)
        except (IllegalTransition, NotFound):
            self._lost(EndReason.GIVEN_UP)
        except FlowError as error:
            self._log.error("heartbeat_refused", error=str(error))
        else:
            if not pulse.status.has_call:
                self._lost(EndReason.GIVEN_UP)
                return
            self._seconds.accept(sent_at)
            if pulse.end_requested:
                self._end(EndReason.ENDED_BY_API)

    def _lost(self, reason: EndReason) -> None:
        self._seconds.lose()
        self._lose(reason)
