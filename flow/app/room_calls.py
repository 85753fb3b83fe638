"""Calls in rooms: opened here, and held by whichever process has room for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from flow.app.background import AfterCalls, until_left
from flow.app.clients import Outside
from flow.app.resources import Ground
from flow.ledger.recorder import Recorder

if TYPE_CHECKING:
    from flow.bot.calls.call_manager import Calls
    from flow.bot.calls.room_calls import RoomCalls
    from flow.bot.transports.room import Media


@asynccontextmanager
async def in_rooms(
    ground: Ground,
    outside: Outside,
    recorder: Recorder,
    calls: Calls,
    after: AfterCalls,
    media: Media | None,
) -> AsyncIterator[RoomCalls]:
    """Calls in rooms are taken from the queue for as long as the block lasts.

    Without the URL of a Postgres there is no queue: calls run where they are joined.
    """
    from flow.bot.calls.room_calls import RoomCalls
    from flow.bot.calls.room_leases import Held
    from flow.bot.transports.room import VendorMedia
    from flow.workflows.room_watch import RoomWatch

    media = media or VendorMedia()
    work = after.rooms
    if work is None:
        yield RoomCalls(outside.rooms, media, calls)
        return
    records = ground.database.room_calls
    held = Held(
        rooms=outside.rooms,
        media=media,
        runner=calls,
        records=records,
        threads=ground.database,
        queue=work.queue,
        finish=after.finish,
        stored=recorder.drain,
        rejoin_secs=ground.settings.rejoin_grace_secs,
    )
    async with AsyncExitStack() as stack:
        if ground.settings.workflows == "on":
            work.hold = held.hold
            watch = RoomWatch(records, work.queue.put, outside.rooms.close)
            until_left(stack, watch.forever(), "room-watch")
        try:
            yield RoomCalls(outside.rooms, media, calls, held)
        finally:
            # Calls that come now go back to the queue.
            work.hold = None
