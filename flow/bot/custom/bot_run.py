"""A bot's function at work on one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

from flow.bot.custom.handover import Handover
from flow.domain.calls.ending import Ending, EndReason
from flow.errors import BotFailed, ConfigurationError

GIVE_SECS = 10.0
"""How long a bot may take to give its pipeline: a call is given up 45 s after its last sign of
life, and it gives none before its pipeline runs."""
CLEAR_UP_SECS = 10.0
"""How long a bot that ran its pipeline may go on when the call is over."""

GIVE_ONE = "a bot returns a list of processors or a Pipeline, or awaits call.run(...) with it"


class BotRun:
    """Runs the function, and sees to it that it is over when its call is.

    Args:
        name: of the bot, as joins name it.
        work: what the function does, not begun.
        log: knows the thread.
    """

    def __init__(
        self,
        name: str,
        work: Awaitable[Any],
        handover: Handover,
        log: FilteringBoundLogger,
        *,
        give_secs: float = GIVE_SECS,
        clear_up_secs: float = CLEAR_UP_SECS,
    ) -> None:
        self.name = name
        self._handover = handover
        self._log = log
        self._give_secs = give_secs
        self._clear_up_secs = clear_up_secs
        self._task = asyncio.ensure_future(work)

    async def given(self) -> object:
        """What should be a pipeline, as soon as the function returns or runs it.

        Raises:
            ConfigurationError: the function gave none, or not in time.
            Exception: what the function raised.
        """
        given = self._handover.given
        await asyncio.wait(
            {self._task, given}, timeout=self._give_secs, return_when=asyncio.FIRST_COMPLETED
        )
        if given.done():
            return given.result()
        if not self._task.done():
            raise ConfigurationError(
                f"it gave no pipeline within {self._give_secs:g} s: {GIVE_ONE}"
            )
        if self._task.cancelled():
            raise ConfigurationError(f"it was cancelled before it gave a pipeline: {GIVE_ONE}")
        return self._task.result()

    def when_over(self, end: Callable[[EndReason, dict[str, Any] | None], None]) -> None:
        """Have ``end`` called if the function is over before its call is."""

        def done(task: asyncio.Task[Any]) -> None:
            if self._handover.over.done() or not self._handover.given.done():
                return
            if task.cancelled() or (error := task.exception()) is None:
                end(EndReason.PIPELINE_ENDED, None)
                return
            failed = BotFailed(self.name, error)
            self._log.error("bot_failed", exc_info=error, hint=failed.hint)
            ending = ending_of(failed)
            end(ending.reason, ending.error)

        self._task.add_done_callback(done)

    async def finish(self, reason: EndReason) -> None:
        """The call is over: let the function come to its end, or end it."""
        was_over = self._task.done()
        self._handover.over.set_result(reason)
        await self._end()
        ended = self._task.done() and not self._task.cancelled()
        if not was_over and ended and (error := self._task.exception()) is not None:
            self._log.error("bot_failed_after_call", exc_info=error)

    async def give_up(self, error: Exception) -> None:
        """There is no call, for this error: a function that ran its pipeline is told."""
        over = self._handover.over
        over.set_exception(error)
        over.exception()  # Nobody may be waiting for it.
        if not self._handover.given.done():
            self._task.cancel()
        await self._end()

    def cancel(self) -> None:
        """End the function at once."""
        self._task.cancel()

    async def _end(self) -> None:
        await asyncio.wait({self._task}, timeout=self._clear_up_secs)
        if not self._task.done():
            self._log.warning("bot_cut_off", after_secs=self._clear_up_secs)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=self._clear_up_secs)


def ending_of(failed: BotFailed) -> Ending:
    """How a call ends whose bot failed."""
    return Ending(
        EndReason.ERROR,
        {
            "code": failed.code,
            "bot": failed.bot,
            "error_type": failed.error_type,
            "message": str(failed),
        },
    )
