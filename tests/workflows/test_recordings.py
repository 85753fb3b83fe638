"""From journals into a storage and out again, whatever fails on the way; on a real database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid4, uuid5

import psycopg
import pytest
from pipecat.frames.frames import OutputAudioRawFrame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pydantic import SecretStr

from flow.bot.recording import SoundRecorder
from flow.bot.transports.spec import SPEECH
from flow.db.database import Database
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.recording import CallRecording, RecordingStatus
from flow.domain.calls.thread import Status
from flow.errors import Unavailable
from flow.recordings.journal import BOT, JournalWriter, PartHeader, Sound
from flow.recordings.recordings import Recordings
from flow.recordings.timeline import Piece
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.storage import supabase
from flow.sandbox.storage.supabase import SupabaseStorageSandbox
from flow.vendors.recording_storage.supabase import SupabaseStorage

NOW = datetime.now(UTC)


@dataclass
class World:
    database: Database
    url: str
    storage: SupabaseStorageSandbox
    recordings: Recordings
    writer: JournalWriter
    thread_id: UUID

    def header(self, seconds_later: float = 0, days: int = 7) -> PartHeader:
        began = NOW + timedelta(seconds=seconds_later)
        return PartHeader(self.thread_id, uuid4(), began, days, 16_000, 24_000)

    async def record(self, seconds_later: float = 0, secs: int = 1) -> None:
        """A part of a call, recorded to its end and not stored yet."""
        header = self.header(seconds_later)
        await self.database.recordings.begin_part(
            header.thread_id, header.part_id, header.started_at, header.days
        )
        journal = self.writer.open(header)
        journal.append([Sound(BOT, Piece(0, bytes(range(240)) * 200 * secs))], secs)
        done = journal.close(secs)
        assert done is not None
        await asyncio.wrap_future(done)

    async def over(self) -> None:
        for status in (Status.CONNECTING, Status.IN_CALL, Status.ENDED):
            await self.database.save_workflow_thread_data(self.thread_id, status=status)

    async def found(self) -> CallRecording:
        found = await self.database.recordings.get(self.thread_id)
        assert found is not None
        return found

    def waiting_removals(self) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute("select count(*) from call_recording_removals").fetchone()
        assert row is not None
        return int(row[0])

    def change(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())


class Line(BaseOutputTransport):
    """A transport that takes sound."""

    def __init__(self) -> None:
        super().__init__(TransportParams())

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        return True

    def input(self) -> FrameProcessor:
        return FrameProcessor()

    def output(self) -> Line:
        return self


@pytest.fixture
async def world(database: Database, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    thread_id = await a_thread_to_record(database)
    stand_in = SupabaseStorageSandbox()
    async with Served(stand_in) as url:
        storage = SupabaseStorage(url, SecretStr(supabase.SERVICE_KEY), supabase.BUCKET, "")
        folder = tmp_path / "journals"
        yield World(
            database,
            postgres_url,
            stand_in,
            Recordings(database.recordings, storage, folder),
            JournalWriter(folder),
            thread_id,
        )
        await storage.aclose()


@pytest.fixture
async def second(world: World) -> World:
    """Another call in the same world."""
    return replace(world, thread_id=await a_thread_to_record(world.database))


async def a_thread_to_record(database: Database) -> UUID:
    key = await database.resolve_api_key("key_of_tests", "team", "tests")
    join = JoinRequest(recording=True)  # type: ignore[arg-type]
    joined = await database.join_thread(
        key, uuid4(), join, billable=True, idempotency_key=None, fingerprint="f"
    )
    return joined.thread.id


async def test_a_recording_is_ready_when_its_call_is_over_and_its_part_stored(
    world: World,
) -> None:
    await world.record()
    await world.recordings.store_parts()
    assert (await world.found()).status is RecordingStatus.RECORDING
    assert not await world.recordings.settle(world.thread_id)
    await world.over()
    assert (await world.found()).status is RecordingStatus.STORING
    assert await world.recordings.settled(world.thread_id, 5)
    found = await world.found()
    assert found.status is RecordingStatus.READY
    assert found.complete
    assert found.whole is not None
    assert [found.whole.path] == list(world.storage.objects)
    assert found.whole.size == len(world.storage.objects[found.whole.path or ""])
    assert found.whole.seconds == 1.0
    assert found.expires_at is not None
    assert timedelta(days=6.9) < found.expires_at - NOW < timedelta(days=7.1)


async def test_two_processes_parts_are_put_together_where_they_were(world: World) -> None:
    await world.record(secs=2)
    await world.record(seconds_later=10, secs=1)
    await world.over()
    await world.recordings.store_parts()
    found = await world.found()
    assert found.whole is not None
    assert (found.status, found.whole.seconds) == (RecordingStatus.READY, 11.0)
    assert len(world.storage.objects) == 3
    await world.recordings.look_after()
    assert list(world.storage.objects) == [found.whole.path]


async def test_a_part_that_comes_late_is_put_into_a_recording_that_was_ready(world: World) -> None:
    await world.record()
    await world.over()
    await world.recordings.store_parts()
    await world.record(seconds_later=4)
    assert (await world.found()).status is RecordingStatus.STORING
    await world.recordings.store_parts()
    whole = (await world.found()).whole
    assert whole is not None
    assert whole.seconds == 5.0


@pytest.mark.parametrize(
    "fault", [Fault(kind="status", times=1), Fault(kind="drop", times=1)], ids=lambda f: f.kind
)
async def test_a_storage_that_is_away_is_waited_for(fault: Fault, world: World) -> None:
    await world.record()
    await world.over()
    world.storage.faults.add(fault)
    with pytest.raises(Unavailable):
        await world.recordings.store_parts()
    assert not await world.recordings.settled(world.thread_id, 0.3)
    assert world.storage.objects == {}
    await world.recordings.store_parts()
    assert (await world.found()).status is RecordingStatus.READY
    assert [*world.writer.folder.iterdir()] == []


async def test_a_part_whose_disk_is_gone_is_given_up_after_a_day(world: World) -> None:
    await world.record()
    await world.record(seconds_later=5)
    next(world.writer.folder.iterdir()).unlink()
    await world.over()
    await world.recordings.store_parts()
    await world.recordings.look_after()
    assert (await world.found()).status is RecordingStatus.STORING
    world.change("update call_recording_parts set begun_at = begun_at - interval '25 hours'")
    world.change("update workflow_threads set ended_at = ended_at - interval '25 hours'")
    await world.recordings.look_after()
    found = await world.found()
    assert (found.status, found.complete) == (RecordingStatus.READY, False)


async def test_a_recording_of_which_nothing_is_left_has_failed(world: World) -> None:
    await world.record()
    next(world.writer.folder.iterdir()).unlink()
    await world.over()
    world.change("update call_recording_parts set begun_at = begun_at - interval '25 hours'")
    world.change("update workflow_threads set ended_at = ended_at - interval '25 hours'")
    await world.recordings.look_after()
    assert (await world.found()).status is RecordingStatus.FAILED


@pytest.mark.parametrize("away", [True, False])
async def test_a_recording_goes_when_its_time_is_over(away: bool, world: World) -> None:
    await world.record()
    await world.over()
    await world.recordings.store_parts()
    await world.recordings.look_after()
    assert (await world.found()).status is RecordingStatus.READY
    world.change("update call_recordings set expires_at = now()")
    if away:
        world.storage.faults.add(Fault(kind="status", route="DELETE *", times=1))
        with pytest.raises(Unavailable):
            await world.recordings.look_after()
        assert world.storage.objects
        # Others get on with what is due; this is not tried anew at once.
        await world.recordings.look_after()
        assert world.storage.objects
        world.change("update call_recording_removals set due_at = now()")
    await world.recordings.look_after()
    found = await world.found()
    assert (found.status, found.parts) == (RecordingStatus.DELETED, ())
    assert found.deleted_at is not None
    assert world.storage.objects == {}


@pytest.mark.parametrize("what", ["workflow_threads", "api_keys"])
@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_recording_goes_with_its_thread_and_its_key(
    what: str, is_stored: bool, world: World
) -> None:
    await world.record()
    await world.over()
    if is_stored:
        await world.recordings.store_parts()
    world.change(f"delete from {what}")
    await world.recordings.store_parts()
    await world.recordings.look_after()
    assert world.storage.objects == {}
    assert world.waiting_removals() == 0
    assert [*world.writer.folder.iterdir()] == []


async def test_what_a_storage_does_not_take_keeps_nothing_back(world: World) -> None:
    await world.record()
    first = next(world.writer.folder.iterdir()).name.split(".")[1]
    world.storage.faults.add(Fault(kind="status", status=413, route=f"POST *{first}.flac"))
    await world.over()
    with pytest.raises(Unavailable):
        await world.recordings.store_parts()
    for seconds in range(4):
        await world.record(seconds_later=seconds)
    with pytest.raises(Unavailable):
        await world.recordings.store_parts()
    assert len(world.storage.objects) == 4


async def test_a_stored_part_that_cannot_be_read_keeps_no_other_call_back(
    world: World, second: World
) -> None:
    for each in (world, second):
        for seconds in (0, 5):
            await each.record(seconds_later=seconds)
    await world.recordings.store_parts()
    for each in (world, second):
        await each.over()
    broken, other = await world.database.recordings.unsettled()
    for path in [path for path in world.storage.objects if path.startswith(str(broken))]:
        world.storage.objects[path] = b"fLaC" + bytes(100)
    with suppress(ValueError):
        await world.recordings.look_after()
    with pytest.raises(ValueError, match="Invalid data"):
        await world.recordings.look_after()
    found = await world.database.recordings.get(other)
    assert found is not None
    assert found.status is RecordingStatus.READY


async def test_a_call_does_not_wait_for_a_slow_disk_which_has_all_of_it_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.bot.recording.LAST_WRITE_SECS", 0.05)
    line: Any = Line()
    recorder = SoundRecorder(lambda _: world.writer.open(world.header()), SPEECH)
    recorder.tap(line, drops_when_interrupted=False)
    await line.write_audio_frame(OutputAudioRawFrame(bytes(range(240)) * 4, 24_000, 1))
    slow = Event()
    world.writer.submit(slow.wait, 0)
    await recorder.close()
    slow.set()
    await asyncio.to_thread(world.writer.close)
    await world.recordings.store_parts()
    [part] = (await world.found()).parts
    assert part.complete


@pytest.mark.parametrize("is_stored", [True, False], ids=["not-put-together", "not-stored"])
async def test_what_never_became_ready_goes_when_its_time_is_over(
    is_stored: bool, world: World
) -> None:
    """Two parts that cannot be put together, or cannot be brought into the storage."""
    await world.record()
    await world.record(seconds_later=5)
    if is_stored:
        await world.recordings.store_parts()
        world.storage.faults.add(Fault(kind="status", route="GET *"))
    await world.over()
    assert not await world.recordings.settled(world.thread_id, 0.3)
    world.change("update workflow_threads set ended_at = ended_at - interval '8 days'")
    with suppress(Unavailable):
        await world.recordings.look_after()
    await world.recordings.store_parts()
    await world.recordings.look_after()
    assert (await world.found()).status is RecordingStatus.DELETED
    assert world.storage.objects == {}
    assert [*world.writer.folder.iterdir()] == []


async def test_a_process_killed_when_it_had_put_parts_together_leaves_no_second_file(
    world: World,
) -> None:
    await world.record()
    await world.record(seconds_later=5)
    await world.over()
    await world.recordings.store_parts()
    (whole,) = (await world.found()).parts
    stored = dict(world.storage.objects)
    await world.recordings.look_after()
    assert [*world.storage.objects] == [whole.path]
    parts = [path for path in stored if path != whole.path]
    again = uuid5(world.thread_id, ".".join(sorted(Path(path).stem for path in parts)))
    assert whole.path == f"{world.thread_id}/{again}.flac"


async def test_what_killed_processes_had_under_way_is_removed(world: World) -> None:
    world.writer.folder.mkdir(parents=True)
    old, new = (world.writer.folder / f"{name}.draft" for name in ("old", "new"))
    old.mkdir()
    (old / "part.flac").write_bytes(b"sound")
    new.write_bytes(b"sound")
    os.utime(old, (1, 1))
    await world.recordings.look_after()
    assert [*world.writer.folder.iterdir()] == [new]


async def test_what_cannot_be_read_is_put_aside(world: World) -> None:
    world.writer.folder.mkdir(parents=True)
    (world.writer.folder / "broken.journal").write_bytes(b"no header")
    await world.record()
    await world.over()
    await world.recordings.store_parts()
    assert (await world.found()).status is RecordingStatus.READY
    assert [path.name for path in world.writer.folder.iterdir()] == ["broken.unreadable"]
