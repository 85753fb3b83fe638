"""The queue of calls in rooms, for all processes that run workflows.

The workflow of a call lasts as long as the call runs in one process, so that DBOS can limit the
calls of a key and of a process. It keeps no state: the table `room_calls` decides who may have the
call, and a call whose process is gone is queued again as another attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from flow.domain.calls.room_call import Place
from flow.errors import Unavailable
from flow.workflows.dbos_common import UNDER_WAY, VERSION, asked

if TYPE_CHECKING:
    from dbos import DBOSClient

log = structlog.get_logger(__name__)

WORKFLOW = "hold_room_call"
QUEUE = "room_calls"
# A caller waits for it; every look takes some milliseconds of each process.
POLL_SECS = 0.5
RETRY_SECS = 1.0
LONGEST_PAUSE_SECS = 3.0
# A caller in mid-call goes before one who has yet to come.
FIRST, AGAIN = 2, 1

Hold = Callable[[Place], Awaitable[bool]]
"""Runs a call to its end, or says ``False``: there is no room for it here and now."""


class RoomQueue:
    """The queue, for every process. Any call may raise `DatabaseUnavailable`."""

    def __init__(self, client: DBOSClient) -> None:
        self._client = client

    async def put(self, place: Place, *, after_secs: float = 0) -> None:
        """Have some process take the call up, and none any more that was asked to before.

        Nothing happens if that was asked for before.
        """
        if place.attempt and not place.tries:
            await self._withdraw_earlier(place)
        options: dict[str, Any] = {
            "workflow_name": WORKFLOW,
            "queue_name": QUEUE,
            "workflow_id": workflow_id(place),
            "app_version": VERSION,
            "queue_partition_key": str(place.api_key_id),
            "priority": AGAIN if place.attempt else FIRST,
        }
        if after_secs:
            options["delay_seconds"] = after_secs
        key = str(place.api_key_id)
        name = str(place.thread_id)
        await asked(self._client.enqueue, options, name, key, place.attempt, place.tries)

    async def _withdraw_earlier(self, place: Place) -> None:
        """Cancel what a process that is gone seems to run still: it counts against its key."""
        now = workflow_id(place)
        found = await asked(
            self._client.list_workflows,
            workflow_id_prefix=workflow_id(replace(place, attempt=0)),
            status=list(UNDER_WAY),
            load_input=False,
            load_output=False,
        )
        ids = [one.workflow_id for one in found]
        earlier = [one for one in ids if one != now and not one.startswith(f"{now}.")]
        if earlier:
            await asked(self._client.cancel_workflows, earlier)


class RoomWork:
    """Takes calls from the queue in this process.

    Args:
        at_once: how many calls this process may have; what else it carries counts too, so a
            call that finds it full goes back.
        per_key: how many calls in rooms one key may have at once, in all processes.
    """

    def __init__(self, queue: RoomQueue, hold: Hold, *, at_once: int, per_key: int) -> None:
        self._queue = queue
        self._hold = hold
        self._at_once = at_once
        self._per_key = per_key

    def register(self, home: asyncio.AbstractEventLoop) -> None:
        """Make the workflow known to DBOS, before its launch; calls run on the loop ``home``."""
        from dbos import DBOS

        async def hold_room_call(thread_id: str, key_id: str, attempt: int, tries: int) -> None:
            place = Place(UUID(thread_id), UUID(key_id), attempt, tries)
            await DBOS.run_step_async({"name": "hold"}, at_home, place)

        async def at_home(place: Place) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.take(place), home))

        DBOS.workflow(name=WORKFLOW)(hold_room_call)

    def listen(self) -> None:
        """Begin to take calls; DBOS is launched.

        DBOS keeps one number for all processes: the largest, and each turns down what is too much
        for itself.
        """
        from dbos import DBOS

        known = DBOS.retrieve_queue(QUEUE)
        most = max(self._at_once, (known and known.worker_concurrency) or 0)
        DBOS.register_queue(
            QUEUE,
            worker_concurrency=most,
            partition_concurrency=self._per_key,
            polling_interval_sec=POLL_SECS,
        )

    async def take(self, place: Place) -> None:
        """Hold the call, or leave it to a process that has room, which may be this one later."""
        try:
            if await self._hold(place):
                return
        except Exception:
            # Its silence is noticed, and the call taken up anew.
            log.exception("room_call_failed", **_which(place))
            return
        later = replace(place, tries=place.tries + 1)
        pause = min(LONGEST_PAUSE_SECS, RETRY_SECS * 1.3**place.tries)
        while True:
            try:
                await self._queue.put(later, after_secs=pause)
            except Unavailable as error:
                log.warning("room_call_waits", error=str(error), **_which(place))
                await asyncio.sleep(RETRY_SECS)
            else:
                return


def workflow_id(place: Place) -> str:
    """What the workflow of a call is called at this attempt, and at this try of it."""
    attempt = f":{place.attempt}" if place.attempt else ""
    tries = f".{place.tries}" if place.tries else ""
    return f"room:{place.thread_id}{attempt}{tries}"


def _which(place: Place) -> dict[str, Any]:
    return {"workflow_thread_id": str(place.thread_id), "attempt": place.attempt}
