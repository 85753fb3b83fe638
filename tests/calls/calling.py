"""A scripted caller on the line, for tests that do something meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import CallReport, Carrier, Internet, call
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.sandbox.callers.script import Script
from tests.calls.test_call import JOIN

INTERNET = Internet()


class Calling:
    """A call under way."""

    def __init__(
        self,
        url: str,
        standing: Vendors,
        script: Script,
        *,
        join: dict[str, Any] = JOIN,
        carrier: Carrier = INTERNET,
    ) -> None:
        self.thread_id = ""
        self._talking = asyncio.Event()
        self._over = asyncio.create_task(
            call(
                url,
                standing.api_key,
                script,
                join=join,
                carrier=carrier,
                on_progress=self._hear,
            )
        )

    def _hear(self, event: CallerEvent) -> None:
        if event.kind is EventKind.JOINED:
            self.thread_id = event.detail
        if event.kind is EventKind.BOT_STARTED:
            self._talking.set()

    async def talking(self) -> None:
        await asyncio.wait_for(self._talking.wait(), 60)

    async def over(self) -> CallReport:
        return await asyncio.wait_for(self._over, 60)
